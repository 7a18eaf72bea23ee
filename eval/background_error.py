"""Background error: how much the swapper changes outside the face, and on objects held in front of the face.

No paper measures the second. The original handles neither: its loss ignores occluders.
"""

from __future__ import annotations

from torch import Tensor

from .measured import Measured, mean_of
from .metric import Metric, Value, View
from .pairs import inner_face, inner_face_source


def background_error(view: View) -> dict[str, Measured]:
    """background_error: mean |swap - target|, of values in [-1, 1], outside the targets' inner faces.

    occluder_error: the same on objects in front of the targets' faces, over the pairs that have one.
    """
    pairs = view.pairs
    inner, region = inner_face(pairs), inner_face_source(pairs)
    change = (view.swaps.short() - pairs.target.short()).abs().float().mean(1, keepdim=True) / 127.5
    protocol = {**view.protocol(), "against": "the target", "where": f"outside the inner face, {region}"}
    values = {"background_error": mean_where(change, ~inner.expand_as(change), protocol)}
    if pairs.occluder is not None and pairs.occluder.any():
        values["occluder_error"] = mean_where(
            change, pairs.occluder, {**protocol, "where": "what is held before the face"}
        )
    return values


def mean_where(change: Tensor, where: Tensor, protocol: dict) -> Measured:
    """Mean change (N, 1, H, H) of the pixels in `where` (the same shape, bool), over the pairs that have such pixels.

    Raises ValueError where no pair has one."""
    pixels = where.flatten(1).sum(1)
    has = pixels > 0
    each = (change * where).flatten(1).sum(1)[has] / pixels[has]
    return mean_of(each, protocol, {"pairs_without": int((~has).sum())}, has)


BACKGROUND_ERROR = Metric(
    background_error,
    (
        Value("background_error", "background error", "of values in [-1, 1]", "{:.4f}", "lower"),
        Value("occluder_error", "occluder error", "of values in [-1, 1]", "{:.4f}", "lower"),
    ),
)
