"""Random disturbance of swaps before the identity encoder.

An identity loss is won most easily by patterns that no person sees as identity: a fine grid of light and dark lines
raises the cosine of most encoders. Such a pattern must sit at certain pixels of the encoder's input, and small moves,
blur and noise take it away; a face survives them (compare Athalye et al., ICML 2018, arXiv:1707.07397, who need
expectation over such changes to fool a classifier that sees them). Patches of colour survive moves and blur: taking
colour away at random leaves them without worth.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from swapcore.images import REC_601

# The largest change at strength 1.
TURN = 0.1  # radians
SCALE = 0.08
SHIFT = 0.08  # of half the width, across and down
NOISE = 0.06  # standard deviation; images are in [-1, 1]


def disturbed(batches: Sequence[Tensor], strength: float, fading: float = 0.0) -> list[Tensor]:
    """Batches of images (N, 3, S, S) in [-1, 1], each of its own size S, every picture shifted, scaled, turned, blurred
    and made noisy at random; float32, noise may leave the range. fading: the largest share of its colour, 0 to 1, that
    a picture loses before that; 1 makes some of them nearly grey.

    Differentiable. All random numbers are torch's own, on the device: a captured step draws others in every replay, and
    a checkpoint, which has the generators' states, continues them. The host waits for nothing. On a GPU the gradient of
    grid_sample is summed in any order, as that of the encoders' own crops.
    """
    with torch.autocast(batches[0].device.type, enabled=False):
        batches = [images.to(torch.promote_types(images.dtype, torch.float32)) for images in batches]
        if fading:
            batches = [_faded(images, fading) for images in batches]
        return [_disturbed(images, strength) for images in batches] if strength else batches


def _faded(images: Tensor, fading: float) -> Tensor:
    red, green, blue = images.split(1, dim=1)
    grey = REC_601[0] * red + REC_601[1] * green + REC_601[2] * blue
    return torch.lerp(images, grey, fading * torch.rand(len(images), 1, 1, 1, device=images.device, dtype=images.dtype))


def _disturbed(images: Tensor, strength: float) -> Tensor:
    like = {"device": images.device, "dtype": images.dtype}
    turn, scale, right, down = (strength * (2 * torch.rand(4, len(images), **like) - 1)).unbind()
    scale = 1 + SCALE * scale
    cos, sin = scale * (TURN * turn).cos(), scale * (TURN * turn).sin()
    moves = torch.stack([cos, -sin, SHIFT * right, sin, cos, SHIFT * down], 1).view(-1, 2, 3)
    grid = F.affine_grid(moves, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    blur, noise = torch.rand(2, len(images), 1, 1, 1, **like).unbind()
    moved = torch.lerp(moved, _blurred(moved), blur * min(1.0, strength))
    return moved + torch.randn_like(moved) * noise * (NOISE * strength)


def _blurred(images: Tensor) -> Tensor:
    """Two means of 3 x 3 pixels: a ninth of a pattern of period 2 or 4 remains across, and a ninth down."""
    for _ in range(2):
        images = F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    return images
