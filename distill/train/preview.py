"""Previews: while a network trains, its average swaps people who are neither trained nor tested on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from distill.config import Experiment
from distill.data.photos import read_manifest
from distill.evaluate.pairs import exact_swaps
from students.identity_encoder import IdentityEncoder
from swapcore import images


class Preview:
    """Every person of an experiment's `val` split as source, onto the next one."""

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
