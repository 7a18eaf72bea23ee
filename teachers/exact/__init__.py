"""The exact teacher: drawn people, and their renderer.

Two independent lists of numbers describe a picture: the person's identity, and attributes for the rest of the picture.
The exact swap of any pair is the source's identity rendered with the target's attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from .motion import sample_sequence
from .outputs import SEGMENTS
from .render import OUTPUTS, VERSION, Rendered, flow, occluder_mask, render

__all__ = [
    "ATTRIBUTES", "EXPRESSION", "GEOMETRY", "IDENTITY", "OUTPUTS", "PAINT", "SEGMENTS", "VERSION", "ExactTeacher",
    "Rendered", "expression", "flow", "occluder_mask", "pose_deg", "render", "sample_attributes", "sample_identities",
    "sample_sequence",
]  # fmt: skip


class ExactTeacher(Teacher):
    """Swaps synthetic people exactly, by rendering. It reads the rows of the manifest, not the pictures."""

    name = "exact"
    needs_rows = True

    def __init__(self, weights: Mapping[str, str | Path] | None = None) -> None:
        super().__init__(weights)

    @property
    def weight_hash(self) -> str:
        return f"renderer-{VERSION}"

    def identity(self, source: Tensor, rows: list[dict] | None = None) -> tuple[Tensor, ...]:
        """The numbers of IDENTITY (N, K) of the rows. Raises ValueError if these are not of synthetic faces."""
        return (_numbers(rows, "identity", source),)

    def swap(self, identity: tuple[Tensor, ...], target: Tensor, rows: list[dict] | None = None) -> Tensor:
        """The identities rendered with the attributes of the targets' rows, in the targets' size."""
        return render(identity[0], _numbers(rows, "attributes", target), size=target.shape[-1]).image


def _numbers(rows: list[dict] | None, key: str, images: Tensor) -> Tensor:
    if rows is None:
        raise ValueError("teacher 'exact' needs the manifest rows of both pictures: it renders their numbers")
    if len(rows) != len(images):
        raise ValueError(f"teacher 'exact': {len(images)} pictures, {len(rows)} rows")
    for row in rows:
        if key not in row:
            raise ValueError(
                f"teacher 'exact' swaps synthetic faces only; {row.get('file', 'a picture')} has no '{key}'"
            )
    return torch.tensor([row[key] for row in rows], dtype=torch.float32, device=images.device)
