"""A penalty on the grid that upsampling by 2 and 4 leaves in a swap: the differentiable counterpart of the metric
`grid_artifact`, at its nine frequencies.

The metric compares mean powers with the trend of a whole spectrum. The penalty compares amplitudes window by window: a
grid on a smooth cheek costs, although hair elsewhere in the picture has as much power at its frequencies.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from eval.grid_artifact import GRID, WINDOW
from swapcore.images import REC_601

STEP = 8  # pixels between windows
FLOOR = 2e-3  # amplitudes below it hardly count: a step of 8-bit colours is 0.008 of [-1, 1]


def patterns(device: torch.device) -> Tensor:
    """The cosine and sine of every frequency in a Hann window, (18, 1, WINDOW, WINDOW) float32 on `device`.

    Their squares add up to the square of the amplitude. A window has no response to constant luminance, nor to the
    other eight frequencies.
    """
    hann = torch.hann_window(WINDOW, dtype=torch.float64)
    weight = torch.outer(hann, hann) / hann.sum() ** 2
    row, column = torch.meshgrid(*2 * [torch.arange(WINDOW, dtype=torch.float64)], indexing="ij")
    rows = []
    for u, v in GRID:
        phase = 2 * torch.pi * (u * row + v * column) / WINDOW
        factor = 1 if 2 * u % WINDOW == 2 * v % WINDOW == 0 else 2  # a frequency and its opposite share the amplitude
        rows += [factor * weight * phase.cos(), factor * weight * phase.sin()]
    return torch.stack(rows)[:, None].float().to(device)


def grid(images: Tensor, reference: Tensor, patterns: Tensor) -> Tensor:
    """How far the amplitudes of the grid's frequencies in swaps (N, 3, R, R) rise above those of a reference, in
    luminance of [-1, 1]: (N,), 0 or more, summed over frequencies and averaged over windows. R >= 16. A checkerboard of
    amplitude a on a smooth picture costs nearly a."""
    with torch.autocast(images.device.type, enabled=False):  # the pattern is a small part of the luminance
        own, expected = (_amplitudes(each, patterns) for each in (images, reference))
    return F.relu(own - expected).sum(1).mean((1, 2))


def _amplitudes(images: Tensor, patterns: Tensor) -> Tensor:
    """(N, 9, a, b): of each frequency, in each window."""
    red, green, blue = images.float().unbind(1)
    light = REC_601[0] * red + REC_601[1] * green + REC_601[2] * blue
    parts = F.conv2d(light[:, None], patterns, stride=STEP).unflatten(1, (len(GRID), 2))
    return (parts.square().sum(2) + FLOOR**2).sqrt()
