"""Parts of students whose features the source's embedding modulates: it scales and shifts every normalisation (AdaIN,
Huang and Belongie, ICCV 2017, arXiv:1703.06868).

`Decoder` draws the swap from maps of the target. Any network that gives maps of 1/2, 1/4, 1/8 and 1/16 of the
resolution can stand before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .masks import MaskLayer, opened

GROUPS = 8


def style_dim_of(width: int) -> int:
    """Numbers in a style by default. Narrow blocks need as many: with 32 they see too little of the embedding
    (experiments/ablation_style.yaml)."""
    return max(128, 2 * width)


class Style(nn.Sequential):
    """Unit embeddings (N, embedding_dim) to styles (N, style_dim)."""

    def __init__(self, embedding_dim: int, style_dim: int) -> None:
        first, second = nn.Linear(embedding_dim, style_dim), nn.Linear(style_dim, style_dim)
        nn.init.normal_(first.weight, std=embedding_dim**-0.5)
        nn.init.normal_(second.weight, std=1.5 * style_dim**-0.5)
        super().__init__(first, nn.SiLU(), second)
        # The entries of a unit vector are of size 1 / sqrt(embedding_dim). Taken as they are they would need weights of
        # size 1, and an optimiser whose steps are as large for every matrix would hardly move those.
        self.gain = embedding_dim**0.5

    def forward(self, embedding: Tensor) -> Tensor:
        return super().forward(embedding * self.gain)


class ModulatedBlock(nn.Module):
    """Residual block, normalised per group of channels, then scaled by 1 + gain and shifted by the style."""

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, affine=False)
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


def coordinates(size: int) -> Tensor:
    """(1, 2, size, size): row and column of each pixel in [-1, 1], the position in the aligned frame."""
    with torch.device("cpu"):  # arithmetic on `meta` imports torch._dynamo, two seconds of every command
        line = torch.linspace(-1, 1, size)
        grid = torch.stack(torch.meshgrid(line, line, indexing="ij"))[None]
    return grid.to(torch.get_default_device())


class Stem(nn.Conv2d):
    """Pictures (N, 3, R, R) and the position of their pixels to features (N, channels, R / 2, R / 2)."""

    def __init__(self, channels: int, resolution: int) -> None:
        super().__init__(3 * 4 + 2, channels, 3, padding=1)
        self.register_buffer("coordinates", coordinates(resolution // 2), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        positions = self.coordinates.expand(images.shape[0], -1, -1, -1)
        return super().forward(torch.cat([F.pixel_unshuffle(images, 2), positions], dim=1))


def double(x: Tensor) -> Tensor:
    """Twice the size, bilinear. With the convolution behind it, it leaves no grid, as sub-pixel convolution does (Odena
    et al., Distill 2016)."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class FaceHead(nn.Module):
    """Features to a face and a mask, by which the face is blended with the target.

    The face is drawn from the features alone. If the target's pixels were added to it, copying them would lower the
    loss at once, and the edges of the target's eyes and mouth would stay below the source's.
    """

    LEAST = 0.02  # a mask that closes completely passes no gradient

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Without it a few large steps close the mask so far that it passes no gradient.
        self.norm = nn.GroupNorm(1, channels, affine=False)
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        nn.init.normal_(self.conv.weight, std=0.5 * (9 * channels) ** -0.5)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        face, mask = self.conv(F.silu(self.norm(x))).split((3, 1), dim=1)
        weight = self.LEAST + (1 - self.LEAST) * opened(mask)
        face = torch.tanh(face)
        if face.dtype != target.dtype:  # under autocast only face and mask are in half precision
            face, weight = face.to(target.dtype), weight.to(target.dtype)
        return torch.lerp(target, face, weight)

    def mask_layer(self) -> MaskLayer:
        """Where `masks.recorded` finds the mask."""
        return MaskLayer(self.conv, lambda drawn: opened(drawn[:, 3:]))


class Decoder(nn.Module):
    """Maps of the target at 1/2, 1/4, 1/8 and 1/16 of its resolution, and the source's style, to the swap.

    width: channels at 1/4, a multiple of 16. At 1/2 there are half as many, at 1/8 and 1/16 twice as many; the maps
    have as many. heads: the swaps of half and quarter resolution have heads of their own, as in MobileFSGAN, instead of
    being the full swap, reduced by area. blocks: modulated blocks at full resolution, 1/2, 1/4, 1/8 and 1/16.
    """

    def __init__(
        self, width: int, style_dim: int, heads: bool = False, blocks: Sequence[int] = (1, 1, 2, 1, 2)
    ) -> None:
        super().__init__()
        channels = (8 * max(1, round(width / 24)), width // 2, width, 2 * width, 2 * width)
        self.narrow = nn.ModuleList(nn.Conv2d(deep, c, 1) for c, deep in zip(channels, channels[1:], strict=False))
        self.levels = nn.ModuleList(
            nn.ModuleList(ModulatedBlock(c, style_dim) for _ in range(count))
            for c, count in zip(channels, blocks, strict=True)
        )
        self.heads = nn.ModuleList(FaceHead(c) for c in (channels[:3] if heads else channels[:1]))

    def forward(self, maps: Sequence[Tensor], style: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """maps: (N, width / 2, R / 2, R / 2) and so on. style: (N, style_dim). Returns swaps in [-1, 1] of R, R / 2 and
        R / 4 pixels."""
        x, swaps = maps[-1], []
        for level in reversed(range(len(self.levels))):
            for block in self.levels[level]:
                x = block(x, style)
            if level < len(self.heads):
                swaps.append(self.heads[level](x, F.avg_pool2d(target, 1 << level) if level else target))
            if level:
                x = double(self.narrow[level - 1](x))
            if level > 1:
                x = x + maps[level - 2]
        if len(swaps) == 1:
            return swaps[0], F.avg_pool2d(swaps[0], 2), F.avg_pool2d(swaps[0], 4)
        quarter, half, full = swaps
        return full, half, quarter
