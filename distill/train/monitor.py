"""Monitoring of a training run: means of loss terms, `log.jsonl` and previews of the EMA."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from distill.config import Experiment
from distill.data.photos import read_manifest
from distill.evaluate.pairs import exact_swaps
from students.identity_encoder import IdentityEncoder
from swapcore import images
from swapcore.files import disk_full_named, read_rows, write_text


class Sums:
    """Sums of loss terms between two lines of the log, on the device: the host does not wait in between."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        values = [term.detach().float() for term in terms.values()]
        for name, value in zip(terms, values, strict=True):
            if name not in self.totals:
                self.totals[name], self.counts[name] = torch.zeros_like(value), 0
            self.counts[name] += 1
        torch._foreach_add_([self.totals[name] for name in terms], values)

    def look(self, accelerator) -> dict[str, float]:
        """Means over steps and processes; one transfer from the device for all of them."""
        if not self.totals:
            return {}
        means = torch.stack([total / self.counts[name] for name, total in self.totals.items()])
        values = accelerator.reduce(means, "mean").tolist()
        return {name: round(value, 6) for name, value in zip(self.totals, values, strict=True)}

    def clear(self) -> None:
        self.totals, self.counts = {}, {}

    def state_dict(self) -> dict[str, tuple[Tensor, int]]:
        return {name: (total.cpu().clone(), self.counts[name]) for name, total in self.totals.items()}

    def load_state_dict(self, terms: dict[str, tuple[Tensor, int]], device: torch.device) -> None:
        self.totals = {name: total.to(device, copy=True) for name, (total, _) in terms.items()}
        self.counts = {name: count for name, (_, count) in terms.items()}


class Log:
    """Appends lines to `log.jsonl`; drops those after step `first`, which training makes again after a resume."""

    def __init__(self, path: Path, first: int, enabled: bool):
        self.path, self.enabled = path, enabled
        if enabled:
            lines = [json.dumps(row) + "\n" for row in read_log(path.parent) if row["step"] <= first]
            write_text(path, "".join(lines))

    def write(self, step: int, values: dict[str, float]) -> None:
        if self.enabled:
            with disk_full_named(self.path), open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")


def read_log(folder: Path) -> list[dict[str, float]]:
    """Rows of a training log, without a last line that is incomplete because the process was stopped. Raises
    FileError."""
    path = folder / "log.jsonl"
    return read_rows(path, {"step": int}, unfinished=True) if path.is_file() else []


class Preview:
    """Swaps every person of the `val` split onto the next one. Training and evaluation do not use these people."""

    def __init__(self, exp: Experiment, encoder: IdentityEncoder, device: torch.device) -> None:
        photos = read_manifest(exp.folder / "data", "val", exp.data.resolution)
        people = list(photos.people.values())
        source = [indices[0] for indices in people]
        target = [people[(i + 1) % len(people)][-1] for i in range(len(people))]
        self.encoder, self.exact = encoder, None
        self.source, self.target = photos.load(source).to(device), photos.load(target).to(device)
        if "identity" in photos.rows[0]:
            rows = ([photos.rows[i] for i in column] for column in (source, target))
            self.exact = exact_swaps(*rows, exp.data.resolution).to(device)

    @torch.inference_mode()
    def swap(self, ema, condition: Callable[[Tensor, Tensor], tuple]) -> tuple[dict[str, float], Image.Image]:
        """Metrics by name, and a grid of sources, targets and swaps. `condition` is that of the learner."""
        source, target = images.to_float(self.source), images.to_float(self.target)
        inputs = condition(source, target)
        swap = ema(target, *inputs)[0]
        metrics = {"val/id_similarity": float((self.encoder(swap) * inputs[0]).sum(1).mean())}
        columns = {"source": self.source, "target": self.target}
        if self.exact is not None:
            metrics["val/l1_exact"] = float((swap - images.to_float(self.exact)).abs().mean())
            columns["exact"] = self.exact
        columns["student"] = images.to_uint8(swap.clamp(-1, 1))
        return metrics, images.grid({title: column.cpu() for title, column in columns.items()})
