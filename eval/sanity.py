"""The trivial swappers copy-target and copy-source, and warnings about a collapsed swapper.

copy-target has pose error 0 and is recognised as the target's person, who is never the source: its top-1 is 0, below
the chance of 1 / P with P people, and its top-k is (k - 1) / (P - 1). copy-source has retrieval near 100 % and the
source's pose.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .measured import Measured
from .pairs import Pairs, inner_face

# Change of the inner face, as a share of the change by the exact swap (or, if unknown, by the source's pixels).
# Photographs downscaled by 2, 4 and 8 change by 7, 13 and 22 %. A change of less than 5 % is a copy. A change of
# up to 15 % is a blurred copy if retrieval is at chance.
COPY_SHARE = 0.05
BLURRED_COPY_SHARE = 0.15
# Cosine to the target above which a recogniser sees the same picture. The photographs above have .99, .92 and .57 to
# their originals, two photographs of one person .58 (MobileFaceNet). Used if retrieval is no better than chance.
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
    """One sentence for each kind of collapse of a swapper; none for a sound one.

    swaps: (N, 3, H, H) uint8, of `pairs`. values: measured on them; those of ID retrieval and similarity are used if
    present. copy_target_values: those of copy-target on the same pairs, used instead of chance. Raises
    ValueError for swaps of another shape.
    """
    if swaps.shape != pairs.target.shape or swaps.dtype != torch.uint8:
        raise ValueError(
            f"{name}: expected swaps {tuple(pairs.target.shape)} uint8, got {tuple(swaps.shape)} {swaps.dtype}"
        )
    sentences = []
    spread, target_spread = _spread(swaps), _spread(pairs.target)
    if len(pairs) > 1 and target_spread > 0 and spread < CONSTANT_SHARE * target_spread:
        sentences.append(
            f"{name} gives nearly the same picture for every pair: its swaps have {spread / target_spread:.1%} of the "
            "targets' variation"
        )
    inner = inner_face(pairs)
    change = _difference(swaps, pairs.target, inner)
    possible = _difference(pairs.source if pairs.exact is None else pairs.exact, pairs.target, inner)
    at_chance = _no_better_than_chance(values, copy_target_values)
    similarity = values.get("id_similarity_target")
    if possible > 0 and change < (BLURRED_COPY_SHARE if at_chance else COPY_SHARE) * possible:
        reference = "source" if pairs.exact is None else "exact swap"
        sentences.append(
            f"{name} has collapsed to copying the target: it changes the inner face by {change / possible:.1%} of the "
            f"target's difference to the {reference}"
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
            f"{name} copies the source: its swaps differ from it by {distance / apart:.1%} of the targets' difference"
        )
    return sentences


def _no_better_than_chance(values: Mapping[str, Measured], copied: Mapping[str, Measured] | None) -> str:
    """A clause on retrieval that is no better than chance; empty if it is better or was not measured."""
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
