"""LPIPS (Zhang et al., CVPR 2018, arXiv:1801.03924): the perceptual distance of whole frames, mean over pairs.

By the authors' package `lpips`, version 0.1 of its linear heads. The estimator's name gives the backbone (AlexNet,
VGG16, SqueezeNet 1.1), and values of two backbones are not comparable. Images are compared in [-1, 1], at the
resolution of the pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from swapcore.images import to_float

from .image_networks import LPIPS_VERSION
from .measured import Measured, mean_of
from .metric import Metric, Value, View

SMALLEST = 32  # pixels; AlexNet's last map would be empty below
BATCH = 8  # VGG16 keeps 100 MB for each pair of 256 x 256


def lpips_distance(view: View) -> dict[str, Measured]:
    """lpips_exact: from the swap to the exact swap, if known. lpips_target: from the swap to the target.

    Only a copy of the target has lpips_target 0. The best value is that of the exact swap; it is in the details if the
    exact swap is known. Raises ValueError for images below 32 pixels and for an estimator that gives no distances.
    """
    pairs = view.pairs
    if pairs.resolution < SMALLEST:
        raise ValueError(f"lpips needs images of {SMALLEST} pixels or more, got {pairs.resolution}")
    protocol = {**view.protocol("perceptual"), "lpips": f"version {LPIPS_VERSION}"}
    values, best = {}, {}
    if pairs.exact is not None:
        against = {**protocol, "against": "the exact swap, whole frame"}
        values["lpips_exact"] = mean_of(_distances(view, view.swaps, pairs.exact), against)
        best["exact_swap_to_target"] = float(_distances(view, pairs.exact, pairs.target).mean())
    against = {**protocol, "against": "the target, whole frame"}
    values["lpips_target"] = mean_of(_distances(view, view.swaps, pairs.target), against, best)
    return values


@torch.inference_mode()
def _distances(view: View, a: Tensor, b: Tensor) -> Tensor:
    """(N,) float64 of uint8 images."""
    estimator = view.estimators.need("perceptual")
    batches = [
        estimator(*(to_float(images.to(view.device)) for images in couple)).double().cpu()
        for couple in zip(a.split(BATCH), b.split(BATCH), strict=True)
    ]
    distances = torch.cat(batches) if all(one.ndim == 1 for one in batches) else torch.empty(0)
    if len(distances) != len(a):
        raise ValueError(f"perceptual '{estimator.name}': expected {len(a)} distances, one per pair, got other shapes")
    return distances


LPIPS_DISTANCE = Metric(
    lpips_distance,
    (
        Value("lpips_exact", "LPIPS to exact", "LPIPS", "{:.3f}", "lower", brief=False),
        Value("lpips_target", "LPIPS to target", "LPIPS", "{:.3f}", "target", brief=False),
    ),
    needs="perceptual",
)
