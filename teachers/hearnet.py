"""HEAR-Net, the second stage of FaceShifter (Li et al. 2019, arXiv:1912.13457).

Own implementation of the network of taotaonice/FaceShifter @376b09e (16,663,043 parameters). The difference between a
target and its first-stage swap with itself, the heuristic error, shows the occlusions that this stage restores.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from .aei_net import Unit, double, initialise


class HEARNet(nn.Module):
    """A U-Net of five levels. Options: width, the channels of the first level. Wrong options raise ValueError."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width: expected at least 1, got {width}")
        self.options = {"width": width}
        channels = [width << min(level, 3) for level in range(5)]
        self.downs = nn.ModuleList(Unit(a, b, bias=True) for a, b in zip([6, *channels], channels, strict=False))
        inner = [channels[-1], *(2 * c for c in channels[-2:0:-1])]
        self.ups = nn.ModuleList(
            Unit(a, b, bias=True, up=True) for a, b in zip(inner, reversed(channels[:-1]), strict=True)
        )
        self.image = nn.Conv2d(2 * width, 3, 3, padding=1)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """First-stage swap and heuristic error (target minus its swap with itself), concatenated (N, 6, R, R), to the
        refined swap (N, 3, R, R). Pictures are in [-1, 1]; R is a multiple of 32, otherwise ValueError."""
        if x.ndim != 4 or x.shape[1] != 6 or x.shape[2] % 32 or x.shape[3] % 32:
            raise ValueError(f"swap and error: expected (N, 6, R, R) with R a multiple of 32, got {tuple(x.shape)}")
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        for up, skip in zip(self.ups, reversed(skips[:-1]), strict=True):
            x = torch.cat([skip, up(x)], 1)
        return self.image(double(x)).tanh()


def original_to_ours(key: str) -> str:
    """Our name of a tensor of taotaonice's checkpoint (up2.1.weight -> ups.1.bn.weight); any other name unchanged."""
    if match := re.fullmatch(r"(down|up)(\d)\.([01])\.(\w+)", key):
        return f"{match[1]}s.{int(match[2]) - 1}.{('conv', 'bn')[int(match[3])]}.{match[4]}"
    return re.sub(r"^up5\.", "image.", key)
