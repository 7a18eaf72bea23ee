"""The folder of a stage: `inputs.json` when it starts, then its files, and `done.json` last."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from distill.config import Experiment
from swapcore.files import digest, flatten, read_json, write_json

STARTED = time.monotonic()  # approximate start of the command


class StageError(ValueError):
    """A stage cannot go on with the files on disk; the message says what to do."""


class OutOfTime(Exception):
    """The `minutes` of the experiment are over. All finished work is on disk; the same command continues it."""


def stop_if_out_of_time(exp: Experiment, accelerator, where: str, before: Callable[[], None] | None = None) -> None:
    """Raise OutOfTime on all processes once the main process has run for `minutes`; call `before` first."""
    if not exp.minutes:
        return
    spent = (time.monotonic() - STARTED) / 60
    over = torch.tensor(float(accelerator.is_main_process and spent >= exp.minutes), device=accelerator.device)
    if accelerator.reduce(over, "sum").item():
        if before:
            before()
        raise OutOfTime(f"stopped after {exp.minutes:g} minutes {where}; the same command continues the run")


@dataclass(frozen=True)
class Stage:
    """The folder `runs/<experiment>/<stage>/` and everything that its files depend on."""

    folder: Path
    inputs: dict[str, Any]
    started: float = field(default_factory=time.time)

    @property
    def hash(self) -> str:
        return digest(self.inputs)

    @property
    def done(self) -> bool:
        path = self.folder / "done.json"
        return path.is_file() and read_json(path)["hash"] == self.hash

    def finish(self, **facts: Any) -> Path:
        """Write `done.json` with the hash of the inputs, the minutes since the stage was opened (unless `facts` has
        `minutes`) and the facts. The main process calls it when every other file is in place."""
        minutes = round((time.time() - self.started) / 60, 2)
        write_json(self.folder / "done.json", {"hash": self.hash, "minutes": minutes, **facts})
        return self.folder


def open_stage(
    exp: Experiment,
    name: str,
    inputs: dict[str, Any],
    accelerator,
    extendable: tuple[str, ...] = (),
    redo: bool = False,
) -> Stage:
    """Open or create the folder of a stage. Raises StageError where its files were made from other inputs; they are
    not changed.

    `extendable` inputs may differ (more training steps). With `redo` all may differ: evaluation and report are quick
    and are written again.
    """
    stage = Stage(exp.folder / name, json.loads(json.dumps(inputs)))
    record = stage.folder / "inputs.json"
    if accelerator.is_main_process:
        if record.is_file() and not redo:
            _refuse_other_inputs(stage, read_json(record), extendable)
        write_json(record, stage.inputs)
    accelerator.wait_for_everyone()
    return stage


def upstream(exp: Experiment, name: str) -> str:
    """The hash of an earlier stage, an input of later ones. Raises StageError where that stage is not finished."""
    path = exp.folder / name / "done.json"
    if not path.is_file():
        raise StageError(f"{path.parent}: stage '{name}' is not finished; add it to `stages` and run again")
    return read_json(path)["hash"]


def _refuse_other_inputs(stage: Stage, before: dict[str, Any], extendable: tuple[str, ...]) -> None:
    old, new = flatten(before), flatten(stage.inputs)
    changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k) and k not in extendable]
    if changed:
        examples = ", ".join(f"{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise StageError(
            f"{stage.folder}: made with other inputs ({examples}{more}); "
            f"give the experiment another name (name=...), or delete that folder to make it anew"
        )
