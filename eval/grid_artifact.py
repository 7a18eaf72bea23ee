"""Grid artefact: power at the frequencies of an upsampling grid, beyond what a smooth spectrum has there.

Sub-pixel and transposed convolutions by 2 and 4 leave patterns of period 2 and 4 (Odena et al., Distill 2016; such
peaks betray generated pictures: Frank et al., ICML 2020). They lie at nine frequencies: u and v are multiples of 1/4
cycle per pixel, without 0, 0; opposite ones are the same. A pattern whose sign or strength varies over the face widens
the peak.

The power there is divided by the reference's, and that ratio compared with its own trend at the frequencies between:
blur, noise and sharpening change the ratio smoothly over frequencies, a grid does not. Comparing the power itself with
that of the neighbouring frequencies does not work: spectra of faces are steep, so blur by one pixel (sigma) lowered
that value to 0.2, and hid a checkerboard of 2 levels behind it.

Exact swaps of 96 drawn faces at 96 pixels, changed: blur by 0.5 to 4 pixels gives 0.86 to 1.09, white noise 1.00, a
checkerboard of 1, 2 and 4 of 255 levels 1.19, 1.37 and 1.59. At 64 pixels the face holds a third of the windows, and
blur by one pixel gives 1.24. So read a value below 1.1 (1.25 at 64 pixels) of a blurred swap as none.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from swapcore.images import REC_601

from .measured import Measured, mean_of
from .metric import Metric, Value, View
from .pairs import Pairs, inner_face, inner_face_source
from .sharpness import luminance, reference

WINDOW, STEP = 16, 4  # pixels
INSIDE = 0.95  # share of a window's weight that must lie in the inner face; its corners weigh nearly nothing
GRID = ((4, 0), (8, 0), (0, 4), (0, 8), (4, 4), (4, 12), (8, 4), (4, 8), (8, 8))  # of 16: periods 2 and 4
# Variance of rounding 8-bit colours, in luminance. Added to all power: what is weaker cannot be seen, and none is 0.
ROUNDING = sum(weight**2 for weight in REC_601) / 12 / 255**2


def windows(inner: Tensor) -> Tensor:
    """Which windows of (n, 1, H, W) bool lie in the inner face: (n, A, B) bool, by their first row and column."""
    if min(inner.shape[2:]) < WINDOW:
        return torch.zeros(len(inner), 0, 0, dtype=torch.bool)
    hann = torch.hann_window(WINDOW, dtype=torch.float64)
    share = conv2d(inner.double(), (hann / hann.sum()).view(1, 1, -1, 1), stride=(STEP, 1))
    return conv2d(share, (hann / hann.sum()).view(1, 1, 1, -1), stride=(1, STEP))[:, 0] >= INSIDE


def spectrum(light: Tensor, chosen: Tensor) -> Tensor:
    """Mean power of the chosen windows (A, B) of a luminance (H, W): (WINDOW, WINDOW) float64, rounding added.

    A window is weighted by Hann, which spreads a frequency over its two neighbours and no further, and has no mean.
    """
    hann = torch.hann_window(WINDOW, dtype=torch.float64)
    weight = torch.outer(hann, hann)
    cut = light.unfold(0, WINDOW, STEP).unfold(1, WINDOW, STEP)[chosen]
    cut = cut - ((cut * weight).sum((1, 2)) / weight.sum()).view(-1, 1, 1)
    return torch.fft.fft2(cut * weight).abs().square().mean(0) + ROUNDING * weight.square().sum()


@cache
def _trend() -> tuple[Tensor, Tensor]:
    """The frequencies that the trend is fitted to, (W, W) bool: two or more from any of the grid and from 0, 0. And the
    map (9, M) from their M values to the trend at GRID: a quadratic in cos 2 pi u and cos 2 pi v by least squares."""
    number = torch.arange(WINDOW)
    away = torch.minimum(number % 4, -number % 4)
    between = torch.maximum(away[:, None], away[None]) >= 2
    cosine = torch.cos(2 * torch.pi * number.double() / WINDOW)
    u, v = torch.meshgrid(cosine, cosine, indexing="ij")
    terms = torch.stack([torch.ones_like(u), u, v, u * u, u * v, v * v], -1)
    at_grid = torch.stack([terms[place] for place in GRID])
    return between, at_grid @ torch.linalg.pinv(terms[between])


def excess(swap: Tensor, other: Tensor) -> float:
    """How far the power (W, W) of a swap rises above that of its reference at the grid, beyond the trend of their ratio
    at other frequencies: a factor, the geometric mean over GRID. 1 for equal spectra."""
    ratio = (swap / other).log()
    between, trend = _trend()
    at_grid = torch.stack([ratio[place] for place in GRID])
    return float((at_grid - trend @ ratio[between]).mean().exp())


def grid_artifact(view: View) -> dict[str, Measured]:
    """grid_artifact: the factor of `excess` of each pair, then the mean over pairs; above 0. 1: no grid beyond the
    reference's own; above 1: a pattern of period 2 or 4; below 1: gaps there, as enlarging by a whole factor leaves.

    The reference is the exact swap, or the target where that is unknown. Pairs whose inner face holds no window are
    left out and counted. Of one pair the factor varies by a fifth (96 pixels, two sharp pictures): read the mean.
    """
    pairs = view.pairs
    compared, against = reference(pairs)
    chosen = windows(inner_face(pairs)).expand(len(pairs), -1, -1)
    has = chosen.flatten(1).any(1)
    each = []
    for i in has.nonzero().flatten().tolist():
        light = luminance(torch.stack([view.swaps[i], compared[i]]))
        each.append(excess(*(spectrum(picture, chosen[i]) for picture in light)))
    protocol = {
        **view.protocol(),
        "against": against,
        "where": f"the inner face, {inner_face_source(pairs)}",
        "luminance": "Rec. 601",
        "windows": f"Hann, {WINDOW} pixels, step {STEP}, {INSIDE:.0%} of their weight in the inner face",
        "frequencies": "multiples of 1/4 cycle per pixel, against the quadratic trend of the others",
    }
    return {"grid_artifact": mean_of(each, protocol, {"pairs_without": int((~has).sum())}, has)}


def lacks_windows(swapper: Any, pairs: Pairs, device: Any) -> str:
    """The reason why no spectrum can be taken."""
    return "" if windows(inner_face(pairs)).any() else f"no inner face holds a window of {WINDOW} pixels"


GRID_ARTIFACT = Metric(
    grid_artifact,
    (Value("grid_artifact", "grid artefact", "of the reference's", "{:.3f}", "target"),),
    lacks=lacks_windows,
)
