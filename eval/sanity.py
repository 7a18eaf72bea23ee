"""Swappers that bound every table, and warnings of a swapper that has collapsed.

copy-target has pose error 0 and is recognised as the target's person, who is never the source: its top-1 is 0, below
the chance of 1 in P people, its top-k the chance of k - 1 in P - 1. copy-source has retrieval near 100 % and the
source's pose.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .measured import Measured
from .pairs import Pairs, inner_face

# Change of the inner face, as a share of the change by the exact swap (or, where unknown, by the source's pixels).
# Photographs that lose half, three quarters and seven eighths of their resolution change by 7, 13 and 22 %, so
# less than 5 % is a copy whatever a recogniser says, and up to 15 % a blurred one where retrieval is at chance.
COPY_SHARE = 0.05
BLURRED_COPY_SHARE = 0.15
# Cosine to the target above which a recogniser sees the same picture. The photographs above have .99, .92 and .57 to
# their originals, two photographs of one person .58 (MobileFaceNet). Used where retrieval is no better than chance.
COPY_SIMILARITY = 0.9
# Difference between swap and source as a share of that between target and source. A sound swap has the target's pose,
# light and background, and stays near 1.
COPY_SOURCE_SHARE = 0.15
# Spread of the swaps over pairs, as a share of the targets' spread. Good swaps keep the target's pose, light and
# background, so nearly all of its spread.
CONSTANT_SHARE = 0.05


def copy_target(source: Tensor, target: Tensor) -> Tensor:
    """The target unchanged: the result of a swapper that does nothing."""
    return target.clone()


def copy_source(source: Tensor, target: Tensor) -> Tensor:
    """The source unchanged: identity kept, everything else of the target lost."""
    return source.clone()


copy_target.name = "copy-target"
copy_source.name = "copy-source"


def warnings(
    name: str,
    values: Mapping[str, Measured],
    swaps: Tensor,
    pairs: Pairs,
    copy_target_values: Mapping[str, Measured] | None = None,
) -> list[str]:
    """One sentence for each way in which a swapper fails as a whole; none for a sound one.

    swaps: (N, 3, H, H) uint8, of `pairs`. values: measured on them; those of ID retrieval and similarity are used where
    they are present. copy_target_values: those of copy-target on the same pairs, used instead of chance. Raises
    ValueError for swaps of another shape.
    """
    if swaps.shape != pairs.target.shape or swaps.dtype != torch.uint8:
        raise ValueError(
            f"{name}: expected swaps {tuple(pairs.target.shape)} uint8, got {tuple(swaps.shape)} {swaps.dtype}"
        )
    sentences = []
    spread, wanted = _spread(swaps), _spread(pairs.target)
    if len(pairs) > 1 and wanted > 0 and spread < CONSTANT_SHARE * wanted:
        sentences.append(
            f"{name} gives nearly the same picture for every pair: its swaps vary by {spread / wanted:.1%} of what the "
            "targets vary by"
        )
    inner = inner_face(pairs)
    change = _difference(swaps, pairs.target, inner)
    possible = _difference(pairs.source if pairs.exact is None else pairs.exact, pairs.target, inner)
    at_chance = _no_better_than_chance(values, copy_target_values)
    similarity = values.get("id_similarity_target")
    if possible > 0 and change < (BLURRED_COPY_SHARE if at_chance else COPY_SHARE) * possible:
        against = "the source would" if pairs.exact is None else "the exact swap does"
        sentences.append(
            f"{name} has collapsed to copying the target: it changes the inner face by {change / possible:.1%} of what "
            f"{against}"
        )
    elif at_chance and similarity is not None and similarity.value > COPY_SIMILARITY:
        sentences.append(
            f"{name} has collapsed to copying the target: {at_chance}, and its similarity to the target is "
            f"{similarity.value:.2f}"
        )
    elif at_chance and not sentences:
        sentences.append(f"{name} does not carry over the source's identity: {at_chance}")
    apart = _difference(pairs.source, pairs.target)
    distance = _difference(swaps, pairs.source)
    if apart > 0 and distance < COPY_SOURCE_SHARE * apart:
        sentences.append(
            f"{name} copies the source: its swaps differ from it by {distance / apart:.1%} of what the targets do"
        )
    return sentences


def _no_better_than_chance(values: Mapping[str, Measured], copied: Mapping[str, Measured] | None) -> str:
    """A clause on retrieval that is no better than chance; empty where it is better or was not measured."""
    top1 = values.get("id_retrieval_top1_pct")
    if top1 is None:
        return ""
    chance, source = top1.protocol["chance_pct"], "chance"
    if copied is not None and copied["id_retrieval_top1_pct"].value > chance:
        chance, source = copied["id_retrieval_top1_pct"].value, "copy-target"
    low = top1.value if top1.interval is None else top1.interval[0]
    return f"retrieval of {top1.value:.1f} % is no better than {source} ({chance:.1f} %)" if low <= chance else ""


def _difference(a: Tensor, b: Tensor, where: Tensor | None = None) -> float:
    """Mean absolute difference of 8-bit images, 0 to 255, inside `where`."""
    difference = (a.short() - b.short()).abs().float().mean(1, keepdim=True)
    return float((difference if where is None else difference[where.expand_as(difference)]).mean())


def _spread(images: Tensor) -> float:
    """Standard deviation over the images, mean over pixels."""
    return float(images.float().std(0, correction=0).mean())
