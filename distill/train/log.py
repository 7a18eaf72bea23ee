"""The training log: means of loss terms, one line of `log.jsonl` for every `log_steps`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from swapcore.files import write_text


class Sums:
    """Sums of loss terms on the device between two lines of the log: nothing waits for the device in between."""

    def __init__(self) -> None:
        self.terms: dict[str, list] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, term in terms.items():
            total, count = self.terms.get(name, (0, 0))
            self.terms[name] = (total + term.detach().float(), count + 1)

    def look(self, accelerator) -> dict[str, float]:
        """Means over steps and processes; one transfer from the device for all of them."""
        if not self.terms:
            return {}
        means = torch.stack([total / count for total, count in self.terms.values()])
        values = accelerator.reduce(means, "mean").tolist()
        return {name: round(value, 6) for name, value in zip(self.terms, values, strict=True)}

    def take(self, accelerator) -> dict[str, float]:
        """The means; the next ones start anew."""
        means = self.look(accelerator)
        self.terms = {}
        return means


class Log:
    """Appends lines to `log.jsonl`; drops those after step `first`, the checkpoint that training resumes from."""

    def __init__(self, path: Path, first: int, enabled: bool):
        self.path, self.enabled = path, enabled
        if enabled:
            lines = [json.dumps(row) + "\n" for row in read_log(path.parent) if row["step"] <= first]
            write_text(path, "".join(lines))

    def write(self, step: int, values: dict[str, float]) -> None:
        if self.enabled:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")


def read_log(folder: Path) -> list[dict[str, float]]:
    """Rows of a training log, without a last line that is incomplete because the process was stopped."""
    path = folder / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
