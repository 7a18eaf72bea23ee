"""Looks at people who are neither trained nor tested on, while training goes on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from PIL import Image

import eval as measuring
from distill import build
from distill.config import Experiment
from distill.data.photos import read_manifest
from distill.evaluate.pairs import exact_swaps
from students.identity_encoder import IdentityEncoder
from swapcore import images as pictures


@dataclass(frozen=True)
class Validation:
    """A few pairs of people kept for looks while training."""

    source: torch.Tensor
    target: torch.Tensor
    exact: torch.Tensor | None
    encoder: IdentityEncoder

    def to(self, device) -> Validation:
        moved = {k: v.to(device) for k, v in vars(self).items() if v is not None}
        return replace(self, **moved)

    @torch.inference_mode()
    def look(self, student, condition) -> tuple[dict[str, float], Image.Image]:
        """Measured values by name, and a grid to look at. `condition` (source, target) is what the student is given."""
        source, target = measuring.to_float(self.source), measuring.to_float(self.target)
        given = condition(source, target)
        swap = student(target, *given)[0]
        measured = {"val/id_similarity": float((self.encoder(swap) * given[0]).sum(1).mean())}
        columns = {"source": self.source, "target": self.target}
        if self.exact is not None:
            measured["val/l1_exact"] = float((swap - measuring.to_float(self.exact)).abs().mean())
            columns["exact"] = self.exact
        columns["student"] = measuring.to_uint8(swap.clamp(-1, 1))
        return measured, pictures.grid({k: v.cpu() for k, v in columns.items()})


def validation_pairs(exp: Experiment) -> Validation:
    """Everybody of the experiment's `val` people as source, onto the next one."""
    photos = read_manifest(exp.folder / "data", "val", exp.data.resolution)
    people = list(photos.people.values())
    source = [indices[0] for indices in people]
    target = [people[(i + 1) % len(people)][-1] for i in range(len(people))]
    exact = None
    if "identity" in photos.rows[0]:
        rows = ([photos.rows[i] for i in column] for column in (source, target))
        exact = exact_swaps(*rows, exp.data.resolution)
    return Validation(photos.load(source), photos.load(target), exact, build.identity_encoder(exp))
