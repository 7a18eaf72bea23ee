"""The folder of a run, and in it the folder of a stage: `inputs.json` when it starts, then its files, and `done.json`
last. And how a command stops early: after `minutes`, by SIGTERM, by Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from distill.config import Experiment, dump
from distill.tracking import Tracker
from swapcore.files import digest, flatten, read_record, write_record, write_text
from swapcore.locks import folder_lock

STARTED = time.monotonic()  # approximate start of the command


class StageError(ValueError):
    """A stage cannot go on with the files on disk; the message says what to do."""


class OutOfTime(Exception):
    """The `minutes` of the experiment are over, or SIGTERM has come, by which a cluster announces the end. All finished
    work is on disk; the same command continues it."""


def stop_if_asked(exp: Experiment, accelerator, where: str, before: Callable[[], None] | None = None) -> None:
    """Raise OutOfTime on all processes once one of them has run for `minutes`, or SIGTERM has reached one;
    KeyboardInterrupt after Ctrl-C. Call `before` first. With several processes, all of them must call this together."""
    asked = [float(time_is_over(exp)), float(arrived(signal.SIGTERM)), float(arrived(signal.SIGINT))]
    if accelerator.num_processes > 1:
        asked = accelerator.reduce(torch.tensor(asked, device=accelerator.device), "sum").tolist()
    if not any(asked):
        return
    if before:
        before()
    if asked[2]:
        raise KeyboardInterrupt
    why = "by SIGTERM" if asked[1] else f"after {exp.minutes:g} minutes"
    raise OutOfTime(f"stopped {why} {where}; the same command continues the run")


def time_is_over(exp: Experiment) -> bool:
    """Whether the command has run for the `minutes` of the experiment."""
    return 0 < exp.minutes <= (time.monotonic() - STARTED) / 60


def arrived(number: int) -> bool:
    """Whether a signal has arrived since `signals_stop_the_command` began."""
    return number in _arrived


_arrived: dict[int, float] = {}  # signal -> time of its first arrival
_held = False


@contextmanager
def signals_stop_the_command() -> Iterator[None]:
    """SIGTERM raises OutOfTime in the block, Ctrl-C KeyboardInterrupt; inside `signals_held` they wait."""
    _arrived.clear()
    before = {number: signal.signal(number, _on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _arrived.clear()


@contextmanager
def signals_held() -> Iterator[None]:
    """Keep signals for the next `stop_if_asked`. A second Ctrl-C, a second later or more, is not kept: launchers repeat
    the first one."""
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False


def _on_signal(number: int, _frame: Any) -> None:
    now = time.monotonic()
    first = _arrived.setdefault(number, now)
    if number == signal.SIGINT and (not _held or now - first > 1):
        raise KeyboardInterrupt
    if number == signal.SIGINT and first == now and os.environ.get("RANK", "0") == "0":
        print("\nCtrl-C: stops after this step, with a checkpoint; once more: at once", file=sys.stderr)
    if number == signal.SIGTERM and not _held and first == now:  # later ones must not disturb the end of the command
        raise OutOfTime("stopped by SIGTERM; the same command continues the run")


@contextmanager
def open_run(exp: Experiment, main: bool, **options: Any) -> Iterator[Tracker]:
    """Lock the folder of a run during the block and track the run; `options` are those of Tracker. Only the `main`
    process does either.

    `experiment.yaml` has the settings of the files beside it: a command that is refused does not change it, one that
    ends well or begins a stage (`open_stage`) writes it anew.
    """
    record = exp.folder / "experiment.yaml"
    with folder_lock(exp.folder) if main else nullcontext():
        if main and not record.is_file():
            write_text(record, dump(exp))
        tracker, status = Tracker(exp, enabled=main, **options), "FAILED"
        try:
            yield tracker
            if main:
                write_text(record, dump(exp))
                tracker.artifact(record)
            status = "FINISHED"
        except (KeyboardInterrupt, OutOfTime):
            status = "KILLED"
            raise
        finally:
            tracker.end(status)


@dataclass(frozen=True)
class Stage:
    """The folder `runs/<experiment>/<stage>/`, everything that its files depend on, and the names of files without
    which the stage is not done."""

    folder: Path
    inputs: dict[str, Any]
    outputs: tuple[str, ...] = ()
    started: float = field(default_factory=time.time)

    @property
    def hash(self) -> str:
        return digest(self.inputs)

    @property
    def done(self) -> bool:
        path, outputs = self.folder / "done.json", [self.folder / name for name in self.outputs]
        return all(map(Path.is_file, (path, *outputs))) and read_record(path).get("hash") == self.hash

    def finish(self, **facts: Any) -> Path:
        """Write `done.json` with the hash of the inputs, the minutes since the stage was opened (unless `facts` has
        `minutes`) and the facts. The main process calls it when every other file is in place."""
        minutes = round((time.time() - self.started) / 60, 2)
        write_record(self.folder / "done.json", {"hash": self.hash, "minutes": minutes, **facts})
        return self.folder


def open_stage(
    exp: Experiment,
    name: str,
    inputs: dict[str, Any],
    accelerator,
    extendable: tuple[str, ...] = (),
    redo: bool = False,
    outputs: tuple[str, ...] = (),
) -> Stage:
    """Open or create the folder of a stage. Raises StageError where its files were made from other inputs; they are
    not changed. A stage without one of its `outputs` is not done, and makes it anew.

    `extendable` inputs may differ; where the stage is finished they may only grow (more training steps). With `redo`
    all may differ: evaluation and report are quick and are written again.
    """
    stage = Stage(exp.folder / name, json.loads(json.dumps(inputs)), outputs)
    record = stage.folder / "inputs.json"
    if accelerator.is_main_process:
        if record.is_file() and not redo:
            _refuse_other_inputs(stage, read_record(record), extendable)
        write_record(record, stage.inputs)
        if not stage.done and name != "refine":  # whose `exp` has the settings of refine in place of those of train
            write_text(exp.folder / "experiment.yaml", dump(exp))
    accelerator.wait_for_everyone()
    return stage


# Keys of inputs.json that hold the hash of an earlier stage, and that stage.
READ = {stage: stage for stage in ("data", "pseudo_gt", "train", "refine", "eval")} | {"first_stage": "train"}


def upstream(exp: Experiment, name: str) -> str:
    """The hash of an earlier stage, an input of later ones. Raises StageError where that stage is not finished, or has
    read other files than those that an earlier one has left."""
    folder = exp.folder / name
    own = _hash(folder / "done.json")
    inputs = read_record(folder / "inputs.json") if (folder / "inputs.json").is_file() else None
    if own is None or inputs is not None and digest(inputs) != own:
        raise StageError(f"{folder}: stage '{name}' is not finished; add it to `stages` and run again")
    for key, stage in READ.items():
        read = (inputs or {}).get(key)
        # Without done.json, somebody deleted that stage to save room.
        if isinstance(read, str) and _hash(exp.folder / stage / "done.json") not in (None, read):
            raise StageError(f"{folder}: was made before stage '{stage}' last was; add '{name}' to `stages`")
    return own


def _hash(done: Path) -> str | None:
    """The hash in a done.json; None without the file. Raises StageError where it is damaged."""
    if not done.is_file():
        return None
    if "hash" not in (record := read_record(done)):
        raise StageError(f"{done}: damaged (no hash); delete it and run again")
    return record["hash"]


def _refuse_other_inputs(stage: Stage, before: dict[str, Any], extendable: tuple[str, ...]) -> None:
    old, new = flatten(before), flatten(stage.inputs)
    finished = (stage.folder / "done.json").is_file()
    fixed = [k for k in old if k not in extendable or finished and new.get(k, old[k]) < old[k]]
    changed = sorted(k for k in {*fixed, *(new.keys() - old.keys())} if old.get(k) != new.get(k))
    if changed:
        examples = ", ".join(f"{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise StageError(
            f"{stage.folder}: made with other inputs ({examples}{more}); "
            f"give the experiment another name (name=...), or delete that folder to make it anew"
        )
