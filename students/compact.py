"""Compact: a small generator of this project that learns fast on a CPU.

No layer runs at full resolution: the target enters by pixel-unshuffle, the swap leaves by sub-pixel convolution. The
source's embedding scales and shifts every normalisation (AdaIN, Huang and Belongie 2017). Two coordinate channels give
the position of a pixel in the aligned frame. A learned mask blends the generated face with the target, so the network
need not learn the background.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .contract import check_inputs, check_options

_GROUPS = 8
_LEAST_MASK = 0.15  # a mask that closes completely passes no gradient: the student would copy targets for ever


class ModulatedBlock(nn.Module):
    """Residual block, normalised per group of channels, then scaled by 1 + gain and shifted by the style."""

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, channels, affine=False)
        self.style = nn.Linear(style_dim, 2 * channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.normal_(self.style.weight, std=0.5 * style_dim**-0.5)
        nn.init.zeros_(self.style.bias)
        nn.init.normal_(self.conv2.weight, std=0.5 * (9 * channels) ** -0.5)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        gain, shift = self.style(style)[:, :, None, None].chunk(2, dim=1)
        y = self.conv1(F.silu(self.norm(x) * (1 + gain) + shift))
        return x + self.conv2(F.silu(y))


class BlendHead(nn.Module):
    """Features to a face (tanh) and a mask (sigmoid), by which it is blended with the target of the same scale."""

    def __init__(self, channels: int, upscale: int = 1) -> None:
        super().__init__()
        # Without it a few large steps close the mask so far that it passes no gradient.
        self.norm = nn.GroupNorm(1, channels, affine=False)
        self.conv = nn.Conv2d(channels, 4 * upscale**2, 3, padding=1)
        self.upscale = upscale
        nn.init.normal_(self.conv.weight, std=0.2 * (9 * channels) ** -0.5)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        face, mask = F.pixel_shuffle(self.conv(F.silu(self.norm(x))), self.upscale).split((3, 1), dim=1)
        # The face starts close to the target: if it started grey, closing the mask would lower the loss at once.
        face = torch.tanh(face + 1.5 * target)
        weight = _LEAST_MASK + (1 - _LEAST_MASK) * torch.sigmoid(mask + 1)
        if weight.dtype != target.dtype:  # under autocast only the mask is in half precision
            weight = weight.to(target.dtype)
        return torch.lerp(target, face, weight)


class Compact(nn.Module):
    """A modulated U-Net over 1/4, 1/8 and 1/16 of the resolution.

    Options: width, channels at 1/4 (doubled below; a multiple of 8), embedding_dim, resolution (a multiple of 32, at
    least 64). Wrong options raise ValueError.
    """

    name = "compact"

    def __init__(self, width: int = 48, embedding_dim: int = 512, resolution: int = 256) -> None:
        super().__init__()
        check_options(resolution, width=width, embedding_dim=embedding_dim)
        if width % _GROUPS:
            raise ValueError(f"width: expected a multiple of {_GROUPS}, got {width}")
        self.options = {"width": width, "embedding_dim": embedding_dim, "resolution": resolution}
        deep, style_dim = 2 * width, 2 * width
        self.style = nn.Sequential(nn.Linear(embedding_dim, style_dim), nn.SiLU(), nn.Linear(style_dim, style_dim))
        # The entries of a unit vector are of size 1 / sqrt(embedding_dim); the style should start with a size near 1.
        nn.init.normal_(self.style[0].weight, std=1.0)
        nn.init.normal_(self.style[2].weight, std=1.5 * style_dim**-0.5)

        self.stem = nn.Conv2d(3 * 16 + 2, width, 3, padding=1)
        self.encode4 = ModulatedBlock(width, style_dim)
        self.down8 = nn.Conv2d(width, deep, 3, stride=2, padding=1)
        self.encode8 = ModulatedBlock(deep, style_dim)
        self.down16 = nn.Conv2d(deep, deep, 3, stride=2, padding=1)
        self.bottleneck = nn.ModuleList(ModulatedBlock(deep, style_dim) for _ in range(2))
        self.up8 = nn.Conv2d(deep, deep, 1)
        self.decode8 = ModulatedBlock(deep, style_dim)
        self.up4 = nn.Conv2d(deep, width, 1)
        self.decode4 = nn.ModuleList(ModulatedBlock(width, style_dim) for _ in range(2))
        self.up2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.fine = nn.Conv2d(width // 2 + 12, width // 2, 3, padding=1)

        self.quarter_head = BlendHead(width)
        self.half_head = BlendHead(width // 2)
        self.full_head = BlendHead(width // 2, upscale=2)

        line = torch.linspace(-1, 1, resolution // 4)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"))[None]
        self.register_buffer("coordinates", grid, persistent=False)

    def forward(self, target: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Target (N, 3, R, R) in [-1, 1] and unit embedding (N, D) to swaps in [-1, 1] of R, R/2 and R/4 pixels.

        Raises ValueError on other shapes.
        """
        check_inputs(target, embedding, self.options["resolution"], self.options["embedding_dim"])
        half, quarter = F.avg_pool2d(target, 2), F.avg_pool2d(target, 4)
        style = self.style(embedding)

        coordinates = self.coordinates.expand(target.shape[0], -1, -1, -1)
        x = self.stem(torch.cat([F.pixel_unshuffle(target, 4), coordinates], dim=1))
        skip4 = self.encode4(x, style)
        skip8 = self.encode8(self.down8(skip4), style)
        x = self.down16(skip8)
        for block in self.bottleneck:
            x = block(x, style)

        x = self.decode8(F.interpolate(self.up8(x), scale_factor=2.0) + skip8, style)
        x = F.interpolate(self.up4(x), scale_factor=2.0) + skip4
        for block in self.decode4:
            x = block(x, style)
        fine = F.pixel_shuffle(self.up2(F.silu(x)), 2)
        fine = self.fine(torch.cat([F.silu(fine), F.pixel_unshuffle(target, 2)], dim=1))
        return self.full_head(fine, target), self.half_head(fine, half), self.quarter_head(x, quarter)
