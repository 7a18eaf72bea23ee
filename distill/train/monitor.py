"""Monitoring of a training run: means of loss terms, `log.jsonl`, and previews of the EMA with their score."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from distill.config import Experiment
from distill.data.photos import read_manifest
from distill.evaluate.pairs import exact_swaps
from distill.losses.terms import shrink
from students.identity_encoder import IdentityEncoder
from swapcore import images
from swapcore.files import disk_full_named, read_rows, write_text

COARSE = 8  # pixels of a picture that are one of the picture seen from afar
COARSE_WEIGHT = 2.0


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


def score(metrics: Mapping[str, float]) -> float:
    """How good the swaps of a preview are; higher is better. Of drawn people: minus the difference to the exact swaps.

    Of photographs: the cosine to the source, by the encoder that trains, minus COARSE_WEIGHT times the change of the
    pictures as seen from afar, `val/l1_coarse`. There pose, light and background count and a face's identity hardly
    does. Photographs at 96 px: a copy of the source changes by 0.51, a copy of the target by 0, the teacher
    landmark_warp by 0.035 at a cosine of 0.50. So the weight 2 gives both copies about 0, and that teacher 0.43.
    """
    if "val/l1_exact" in metrics:
        return -metrics["val/l1_exact"]
    return metrics["val/id_similarity"] - COARSE_WEIGHT * metrics["val/l1_coarse"]


def copies_target(metrics: Mapping[str, float], step: int, steps: int) -> str:
    """A warning where the swaps of a preview in the last two thirds of the training are nearer to the target than to
    the source; empty otherwise."""
    if 3 * step <= steps or not metrics.get("val/copies_target"):
        return ""
    source, target = metrics["val/id_similarity"], metrics["val/id_similarity_target"]
    return (
        f"the swaps copy the target at step {step:,} of {steps:,}: by the encoder that trains, their mean cosine is "
        f"{target:.2f} to the target and {source:.2f} to the source; raise loss.identity, or give train.mix more "
        f"samples whose ground truth is not the target"
    )


def warnings_of(log: Sequence[Mapping[str, float]]) -> list[str]:
    """The warnings of a finished training's log: one, where the swaps of its last preview copy the target."""
    previews = [row for row in log if "val/id_similarity" in row]
    last = int(previews[-1]["step"]) if previews else 0
    copied = copies_target(previews[-1], last, last) if previews else ""
    return [f"training ended with a warning: {copied}"] if copied else []


class Preview:
    """Swaps every person of the `val` split onto the next one. Training and evaluation do not use these people."""

    def __init__(self, exp: Experiment, encoder: IdentityEncoder, device: torch.device) -> None:
        photos = read_manifest(exp.folder / "data", "val", exp.data.resolution)
        people = list(photos.people.values())
        source = [indices[0] for indices in people]
        target = [people[(i + 1) % len(people)][-1] for i in range(len(people))]
        self.encoder, self.exact, self.strangers = encoder, None, len(people) > 1
        self.source, self.target = photos.load(source).to(device), photos.load(target).to(device)
        if "identity" in photos.rows[0]:
            rows = ([photos.rows[i] for i in column] for column in (source, target))
            self.exact = exact_swaps(*rows, exp.data.resolution).to(device)

    @torch.inference_mode()
    def swap(
        self, ema, condition: Callable[[Tensor, Tensor], tuple], size: int | None = None
    ) -> tuple[dict[str, float], Image.Image]:
        """Metrics by name, and a grid of sources, targets and swaps. `condition` is that of the learner, `size` the
        side of its pictures (default: the experiment's resolution)."""
        columns = {"source": self.source, "target": self.target}
        columns |= {"exact": self.exact} if self.exact is not None else {}
        shown = {name: images.scaled(images.to_float(column), size) for name, column in columns.items()}
        source, target = shown["source"], shown["target"]
        inputs, metrics = condition(source, target), {}
        swap = ema(target, *inputs)[0]
        if broken := int((~swap.isfinite()).flatten(1).any(1).sum()):  # as of MobileFSGAN's unbounded masks
            metrics["val/not_finite"], swap = float(broken), swap.nan_to_num(0.0, 1.0, -1.0)
        embedding = self.encoder(swap)
        metrics["val/id_similarity"] = float((embedding * inputs[0]).sum(1).mean())
        if self.strangers:
            metrics["val/id_similarity_target"] = float((embedding * self.encoder(target)).sum(1).mean())
            metrics["val/copies_target"] = float(metrics["val/id_similarity_target"] > metrics["val/id_similarity"])
        if self.exact is not None:
            metrics["val/l1_exact"] = float((swap - shown["exact"]).abs().mean())
        else:
            coarse = [shrink(each, each.shape[-1] // COARSE) for each in (swap, target)]
            metrics["val/l1_coarse"] = float((coarse[0] - coarse[1]).abs().mean())
        shown["student"] = swap.clamp(-1, 1)
        return metrics, images.grid({title: images.to_uint8(column).cpu() for title, column in shown.items()})
