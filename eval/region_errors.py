"""Region errors: the mean absolute difference to the exact swap at the eyes, at the mouth, on the skin and outside.

A mean over the whole picture says little about eyes and mouth, which are few per cent of it. No paper measures this:
on photographs there is no exact swap. The regions are those that the exact swap shows, not those of the swap.
"""

from __future__ import annotations

from typing import Any

from .background_error import mean_where
from .exact_match import lacks_exact
from .measured import Measured
from .metric import Metric, Value, View
from .pairs import REGIONS, Pairs, inner_face, inner_face_source


def region_errors(view: View) -> dict[str, Measured]:
    """Mean |swap - exact|, of values in [-1, 1], so in [0, 2], 0 for the exact swap: region_error_eyes (with brows),
    region_error_mouth (lips, teeth, cavity), region_error_skin (in the inner face), region_error_outside (the inner
    face).

    Each is the mean over the pairs that have such pixels; the others are counted in the details. The inner face is that
    of the targets. Eyes and mouth of the exact swap may reach out of it, so a pixel can count twice. What is held
    before a face, and glasses, are neither eyes nor mouth nor skin.
    """
    pairs = view.pairs
    change = (view.swaps.short() - pairs.exact.short()).abs().float().mean(1, keepdim=True) / 127.5
    inner = inner_face(pairs).expand_as(change)
    shows = {name: pairs.regions == place for place, name in enumerate(REGIONS)}
    source = inner_face_source(pairs)
    where = {
        "eyes": (shows["eyes"], "eyes and brows of the exact swap"),
        "mouth": (shows["mouth"], "lips, mouth and teeth of the exact swap"),
        "skin": (shows["skin"] & inner, f"skin of the exact swap inside the inner face, {source}"),
        "outside": (~inner, f"outside the inner face, {source}"),
    }
    protocol = {**view.protocol(), "against": "the exact swap"}
    return {
        f"region_error_{name}": mean_where(change, pixels, {**protocol, "where": text})
        for name, (pixels, text) in where.items()
        if pixels.any()
    }


def lacks_regions(swapper: Any, pairs: Pairs, device: Any) -> str:
    """The reason why nothing can be compared by regions."""
    unknown = "the regions of the exact swaps are unknown, which only drawn people have"
    return lacks_exact(swapper, pairs, device) or ("" if pairs.regions is not None else unknown)


REGION_ERRORS = Metric(
    region_errors,
    (
        Value("region_error_eyes", "error at eyes", "of values in [-1, 1]", "{:.4f}", "lower"),
        Value("region_error_mouth", "error at mouth", "of values in [-1, 1]", "{:.4f}", "lower"),
        Value("region_error_skin", "error on skin", "of values in [-1, 1]", "{:.4f}", "lower", brief=False),
        Value("region_error_outside", "error outside", "of values in [-1, 1]", "{:.4f}", "lower", brief=False),
    ),
    lacks=lacks_regions,
)
