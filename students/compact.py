"""Compact: a small generator of this project that learns fast on a CPU.

No layer runs at full resolution: the target enters by pixel-unshuffle, the swap leaves by sub-pixel convolution. Two
coordinate channels give the position of a pixel in the aligned frame. A learned mask blends the generated face with the
target, so the network need not learn the background. The face starts as the target: the student keeps edges of the
target's eyes and mouth for long (see `unet`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .contract import check_inputs, check_options
from .masks import MaskLayer, opened
from .modulated import GROUPS, ModulatedBlock, Style, coordinates, style_dim_of

_LEAST_MASK = 0.15  # a mask that closes completely passes no gradient: the student would copy targets for ever


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
        weight = _LEAST_MASK + (1 - _LEAST_MASK) * opened(mask)
        if weight.dtype != target.dtype:  # under autocast only the mask is in half precision
            weight = weight.to(target.dtype)
        return torch.lerp(target, face, weight)

    def mask_layer(self) -> MaskLayer:
        """Where `masks.recorded` finds the mask."""
        return MaskLayer(self.conv, lambda drawn: opened(F.pixel_shuffle(drawn, self.upscale)[:, 3:]))


class Compact(nn.Module):
    """A modulated U-Net over 1/4, 1/8 and 1/16 of the resolution.

    Options: width, channels at 1/4 (doubled below; a multiple of 8), embedding_dim, resolution (a multiple of 32, at
    least 64), style_dim, numbers of the source that modulate every block (None: `style_dim_of`). Wrong options raise
    ValueError.
    """

    name = "compact"

    def __init__(
        self, width: int = 48, embedding_dim: int = 512, resolution: int = 256, style_dim: int | None = None
    ) -> None:
        super().__init__()
        style_dim = style_dim_of(width) if style_dim is None else style_dim
        check_options(resolution, width=width, embedding_dim=embedding_dim, style_dim=style_dim)
        if width % GROUPS:
            raise ValueError(f"width: expected a multiple of {GROUPS}, got {width}")
        self.options = {
            "width": width, "embedding_dim": embedding_dim, "resolution": resolution, "style_dim": style_dim,
        }  # fmt: skip
        deep = 2 * width
        self.style = Style(embedding_dim, style_dim)

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

        self.register_buffer("coordinates", coordinates(resolution // 4), persistent=False)

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

    def mask_layer(self) -> MaskLayer:
        """Where `masks.recorded` finds the mask of the swap of full resolution."""
        return self.full_head.mask_layer()
