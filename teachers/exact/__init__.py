"""The exact teacher: a parametric face and its renderer.

Two independent lists of numbers describe a picture: the person's identity, and attributes for the rest of the picture.
The exact swap of any pair is the source's identity rendered with the target's attributes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..teacher import Teacher
from .face import (
    ATTRIBUTES,
    EXPRESSION,
    GEOMETRY,
    IDENTITY,
    PAINT,
    expression,
    pose_deg,
    sample_attributes,
    sample_identities,
)
from .motion import FRAMES_PER_SECOND, sample_sequence
from .outputs import SEGMENTS
from .render import LARGEST, OUTPUTS, SMALLEST, VERSION, Rendered, flow, held_objects, occluder_mask, render

__all__ = [
    "ATTRIBUTES", "EXPRESSION", "FRAMES_PER_SECOND", "IDENTITY", "GEOMETRY", "LARGEST", "OUTPUTS", "PAINT", "RENDERER",
    "SEGMENTS", "SMALLEST", "VERSION", "ExactTeacher", "Rendered", "expression", "flow", "held_objects",
    "occluder_mask", "pose_deg", "render", "sample_attributes", "sample_identities", "sample_sequence",
]  # fmt: skip

RENDERER = f"renderer-{VERSION}"  # in rows, records and results: numbers and pictures of another one are not used


class ExactTeacher(Teacher):
    """Swaps synthetic people exactly, by rendering. It reads the rows of the manifest, not the pictures."""

    name = "exact"
    needs_rows = True

    def __init__(self, weights: Mapping[str, str | Path] | None = None) -> None:
        super().__init__(weights)

    @property
    def weight_hash(self) -> str:
        return RENDERER

    def identity(self, source: Tensor, rows: list[dict] | None = None) -> tuple[Tensor, ...]:
        """The identity numbers (N, K) of the rows. Raises ValueError if the rows are not those of synthetic faces, or
        of another renderer."""
        return (_numbers(rows, "identity", IDENTITY, source),)

    def swap(self, identity: tuple[Tensor, ...], target: Tensor, rows: list[dict] | None = None) -> Tensor:
        """The identities rendered with the attributes of the targets' rows, in the targets' size."""
        return render(identity[0], _numbers(rows, "attributes", ATTRIBUTES, target), size=target.shape[-1]).image

    def drawn(
        self, source_rows: list[dict], target_rows: list[dict], size: int, extra: Collection[str] = ()
    ) -> Rendered:
        """The swaps of rows of the manifest at size x size pixels, with all that `render` returns; extra: as there.

        Raises ValueError as `identity`, `swap` and `render` do."""
        each = torch.empty(len(source_rows))
        identity = _numbers(source_rows, "identity", IDENTITY, each)
        return render(identity, _numbers(target_rows, "attributes", ATTRIBUTES, each), size, extra)


def _numbers(rows: list[dict] | None, key: str, names: tuple[str, ...], images: Tensor) -> Tensor:
    if rows is None:
        raise ValueError("teacher 'exact' needs the manifest rows of both pictures: it renders their numbers")
    if len(rows) != len(images):
        raise ValueError(f"teacher 'exact': {len(images)} pictures, {len(rows)} rows")
    for row in rows:
        file = row.get("file", "a picture")
        if key not in row:
            raise ValueError(f"teacher 'exact' swaps synthetic faces only; {file} has no '{key}'")
        if (before := row.get("renderer", RENDERER)) != RENDERER or len(row[key]) != len(names):
            drawn = f"drawn by {before}" if before != RENDERER else "drawn by another renderer"
            raise ValueError(
                f"teacher 'exact': {file}: {drawn}: '{key}' has {len(row[key])} numbers, those of {RENDERER} are "
                f"{len(names)}; draw the people again"
            )
    return torch.tensor([row[key] for row in rows], dtype=torch.float32, device=images.device)
