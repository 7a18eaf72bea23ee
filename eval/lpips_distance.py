"""LPIPS (Zhang et al., CVPR 2018, arXiv:1801.03924): the perceptual distance of whole frames, mean over pairs.

By the authors' package `lpips`, version 0.1 of its linear heads; which backbone (AlexNet, VGG16, SqueezeNet 1.1) is the
ruler's name, and their values are not comparable. Images go in as they are, in [-1, 1], at the resolution of the pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swapcore.images import to_float

from .image_networks import LPIPS_VERSION
from .measured import Measured, mean_of
from .subject import Subject

SMALLEST = 32  # pixels; AlexNet's last map would be empty below
BATCH = 8  # VGG16 keeps 100 MB for each pair of 256 x 256


def lpips_distance(subject: Subject) -> dict[str, Measured]:
    """lpips_exact: of the swap to the exact one, where that is known. lpips_target: to the target.

    Only copies have 0 to the target, so the best value there is what the exact swap has, which is in the details where
    it is known. Raises ValueError for images below 32 pixels and for a ruler that gives no distances.
    """
    pairs = subject.pairs
    if pairs.resolution < SMALLEST:
        raise ValueError(f"lpips needs images of {SMALLEST} pixels or more, got {pairs.resolution}")
    protocol = {**subject.protocol("perceptual"), "lpips": f"version {LPIPS_VERSION}"}
    values = {}
    details = {}
    if pairs.exact is not None:
        against = {**protocol, "against": "the exact swap, whole frame"}
        values["lpips_exact"] = mean_of(_distances(subject, subject.swaps, pairs.exact), "LPIPS", "lower", against)
        details["exact_swap_to_target"] = float(_distances(subject, pairs.exact, pairs.target).mean())
    values["lpips_target"] = mean_of(
        _distances(subject, subject.swaps, pairs.target),
        "LPIPS",
        "target" if details else None,
        {**protocol, "against": "the target, whole frame"},
        details,
    )
    return values


@torch.inference_mode()
def _distances(subject: Subject, a: Tensor, b: Tensor) -> Tensor:
    """(N,) float64 of uint8 images."""
    ruler = subject.rulers.need("perceptual")
    distances = [
        ruler(*(to_float(images.to(subject.device)) for images in couple)).double().cpu()
        for couple in zip(a.split(BATCH), b.split(BATCH), strict=True)
    ]
    found = torch.cat(distances) if all(one.ndim == 1 for one in distances) else torch.empty(0)
    if len(found) != len(a):
        raise ValueError(f"perceptual '{ruler.name}': expected {len(a)} distances, one a pair, got other shapes")
    return found
