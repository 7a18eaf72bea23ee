"""A stage's folder: whole files, the inputs it was made from, and `done.json` last of all."""

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

STARTED = time.monotonic()  # about when the command was given


class StageError(ValueError):
    """A stage cannot go on with what is on disk; the message says what to do."""


class OutOfTime(Exception):
    """The minutes of this command are over; what was made is on disk, and the same command goes on."""


def stop_if_out_of_time(exp: Experiment, accelerator, where: str, before: Callable[[], None] | None = None) -> None:
    """Raise OutOfTime on all processes once the main one has spent `minutes`; `before` is called first."""
    if not exp.minutes:
        return
    spent = (time.monotonic() - STARTED) / 60
    over = torch.tensor(float(accelerator.is_main_process and spent >= exp.minutes), device=accelerator.device)
    if accelerator.reduce(over, "sum").item():
        if before:
            before()
        raise OutOfTime(f"stopped after {exp.minutes:g} minutes {where}; the same command goes on")


@dataclass(frozen=True)
class Stage:
    """`runs/<experiment>/<stage>/`, its inputs, and whether it is finished."""

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
        """Write `done.json`; call it on the main process when every other file is in place. `minutes` among the
        facts stand for those since the stage was opened."""
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
    """The folder of a stage, made if need be. Work on disk that came from other inputs is never touched: StageError.

    `extendable` inputs may differ from those on disk (more training steps); with `redo` all may, because the stage
    is quick and only derives files (evaluation, report).
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
    """Hash of a finished earlier stage, an input of later ones."""
    path = exp.folder / name / "done.json"
    if not path.is_file():
        raise StageError(f"{path.parent}: stage '{name}' is not finished; add it to `stages` and run again")
    return read_json(path)["hash"]


def _refuse_other_inputs(stage: Stage, before: dict[str, Any], extendable: tuple[str, ...]) -> None:
    old, new = flatten(before), flatten(stage.inputs)
    changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k) and k not in extendable]
    if changed:
        shown = ", ".join(f"{k} was {old.get(k)!r}, now {new.get(k)!r}" for k in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise StageError(
            f"{stage.folder}: made with other inputs ({shown}{more}); "
            f"give the experiment another name (name=...), or delete that folder to make it anew"
        )
