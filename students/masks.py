"""The mask by which a student blends its face with the target, read while the student swaps.

Generators return swaps alone, and so do their exported files. A generator that blends names, by `mask_layer`, the layer
inside it that draws the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn


class MaskLayer(NamedTuple):
    """A layer of a generator, and the function from its output to the mask (N, 1, R, R) in [0, 1]: 1 where the swap is
    the student's face, 0 where it is the target, as far as the student can close its mask."""

    layer: nn.Module
    mask: Callable[[Tensor], Tensor]


def opened(logits: Tensor) -> Tensor:
    """What a head draws for its mask to the mask in [0, 1], which starts mostly open."""
    return torch.sigmoid(logits + 1)


@contextmanager
def recorded(generator: nn.Module) -> Iterator[list[Tensor]]:
    """The masks of all forward passes inside the context, in order; none from a generator that blends by no mask."""
    masks: list[Tensor] = []
    if not hasattr(generator, "mask_layer"):
        yield masks
        return
    layer, mask = generator.mask_layer()
    handle = layer.register_forward_hook(lambda _layer, _inputs, output: masks.append(mask(output)))
    try:
        yield masks
    finally:
        handle.remove()
