"""SSIM, PSNR and L1 to the exact swap, on pairs for which it is known.

SSIM: Wang et al., IEEE TIP 2004, by skimage.metrics.structural_similarity with the paper's settings: Gaussian window,
sigma 1.5, no sample covariance, 8-bit data, each colour separately. PSNR of 8-bit data, in decibels, mean over pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .measured import Measured, mean_of
from .metric import Metric, Value, View
from .pairs import Pairs

# Identical images have infinite PSNR, and one such pair would make the mean infinite. At 256 x 256
# a single value off by one gives 101 dB, so the cap hides no visible difference.
PSNR_CAP_DB = 99.0
SSIM_WINDOW = 11  # pixels, from sigma 1.5 cut off at 3.5 sigma


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM of two (3, H, W) uint8 images, in [-1, 1]."""
    from skimage.metrics import structural_similarity  # imported here because it is slow

    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(a, b, channel_axis=0, data_range=255, **settings))


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR of two uint8 images in decibels, at most 99."""
    error = float(np.square(a.astype(np.int32) - b).mean())
    return PSNR_CAP_DB if error == 0 else min(PSNR_CAP_DB, float(10 * np.log10(255**2 / error)))


def exact_match(view: View) -> dict[str, Measured]:
    """ssim, psnr_db, l1 (mean absolute difference of values in [-1, 1])."""
    if view.pairs.resolution < SSIM_WINDOW:
        raise ValueError(f"exact_match needs images of {SSIM_WINDOW} pixels or more, got {view.pairs.resolution}")
    protocol = {**view.protocol(), "against": "the exact swap, whole frame"}
    couples = list(zip(view.swaps.numpy(), view.pairs.exact.numpy(), strict=True))
    l1 = [float(np.abs(a.astype(np.int16) - b).mean()) / 127.5 for a, b in couples]
    window = {
        "window": "Gaussian, sigma 1.5, 11 x 11",
        "border": "outer 5 pixels left out",
        "colours": "apart, then the mean",
    }
    identical = {"identical_pairs": sum(value == 0 for value in l1)}
    return {
        "ssim": mean_of([ssim(a, b) for a, b in couples], {**protocol, **window}),
        "psnr_db": mean_of([psnr_db(a, b) for a, b in couples], {**protocol, "cap_db": PSNR_CAP_DB}, identical),
        "l1": mean_of(l1, protocol),
    }


def lacks_exact(swapper: Any, pairs: Pairs, device: Any) -> str:
    """The reason why nothing can be compared with exact swaps."""
    return "" if pairs.exact is not None else "the exact swaps are unknown, as for all photographs"


EXACT_MATCH = Metric(
    exact_match,
    (
        Value("ssim", "SSIM", "", "{:.3f}", "higher"),
        Value("psnr_db", "PSNR dB", "dB", "{:.2f}", "higher"),
        Value("l1", "L1", "of values in [-1, 1]", "{:.4f}", "lower", brief=False),
    ),
    lacks=lacks_exact,
)
