"""The teacher that is exactly right: a parametric face and its renderer.

Who a synthetic person is (identity) and everything else about a picture (attributes) are two independent lists of
numbers. The exact swap of any pair is the source's identity drawn with the target's attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..teacher import Teacher
from .face import ATTRIBUTES, EXPRESSION, IDENTITY, expression, pose_deg, sample_attributes, sample_identities
from .render import VERSION, Rendered, occluder_mask, render

__all__ = [
    "ATTRIBUTES", "EXPRESSION", "IDENTITY", "VERSION", "ExactTeacher", "Rendered", "expression", "occluder_mask",
    "pose_deg", "render", "sample_attributes", "sample_identities",
]  # fmt: skip


class ExactTeacher(Teacher):
    """Swaps synthetic people by drawing the truth. It looks at the rows of the manifest, not at the pictures."""

    name = "exact"
    needs_rows = True

    def __init__(self, weights: Mapping[str, str | Path] | None = None) -> None:
        super().__init__(weights)

    @property
    def weight_hash(self) -> str:
        return f"renderer-{VERSION}"

    def identity(self, source: Tensor, rows: list[dict] | None = None) -> tuple[Tensor, ...]:
        """The identity numbers (N, 56) of the rows. Raises ValueError without rows of synthetic faces."""
        return (_numbers(rows, "identity", source),)

    def swap(self, identity: tuple[Tensor, ...], target: Tensor, rows: list[dict] | None = None) -> Tensor:
        """The identities drawn with the attributes of the targets' rows, in the targets' size."""
        return render(identity[0], _numbers(rows, "attributes", target), size=target.shape[-1]).image


def _numbers(rows: list[dict] | None, key: str, images: Tensor) -> Tensor:
    if rows is None:
        raise ValueError("teacher 'exact' needs the manifest rows of both pictures: it draws, it does not look")
    if len(rows) != len(images):
        raise ValueError(f"teacher 'exact': {len(images)} pictures, {len(rows)} rows")
    lacking = next((row for row in rows if key not in row), None)
    if lacking is not None:
        raise ValueError(
            f"teacher 'exact' swaps synthetic faces only; {lacking.get('file', 'a picture')} has no '{key}'"
        )
    return torch.tensor([row[key] for row in rows], dtype=torch.float32, device=images.device)
