"""The teacher that is exactly right: a parametric face and its renderer.

Who a synthetic person is (identity) and everything else about a picture (attributes) are two independent lists of
numbers. The exact swap of any pair is the source's identity drawn with the target's attributes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .face import ATTRIBUTES, EXPRESSION, IDENTITY, expression, pose_deg, sample_attributes, sample_identities
from .render import VERSION, Rendered, render

__all__ = [
    "ATTRIBUTES", "EXPRESSION", "IDENTITY", "VERSION", "ExactTeacher", "Rendered", "expression", "pose_deg", "render",
    "sample_attributes", "sample_identities",
]  # fmt: skip


class ExactTeacher:
    """Swaps synthetic people by drawing the truth. It looks at the rows of the manifest, not at the pictures."""

    name = "exact"
    needs_rows = True
    weight_hash = f"renderer-{VERSION}"

    def __call__(self, source: Tensor, target: Tensor, source_rows=None, target_rows=None) -> Tensor:
        """Rows are dicts with `identity` and `attributes`, one per picture; swaps come in the target's size.

        Raises ValueError without rows, or where a row is not that of a synthetic face.
        """
        if source_rows is None or target_rows is None:
            raise ValueError("teacher 'exact' needs the manifest rows of both pictures: it draws, it does not look")
        if not len(source_rows) == len(target_rows) == len(target):
            raise ValueError(f"{len(target)} targets, {len(source_rows)} source rows, {len(target_rows)} target rows")
        numbers = []
        for rows, key in ((source_rows, "identity"), (target_rows, "attributes")):
            lacking = next((row for row in rows if key not in row), None)
            if lacking is not None:
                raise ValueError(
                    f"teacher 'exact' swaps synthetic faces only; {lacking.get('file', 'a picture')} has no '{key}'"
                )
            numbers.append(torch.tensor([row[key] for row in rows], dtype=torch.float32, device=target.device))
        return render(*numbers, size=target.shape[-1]).image
