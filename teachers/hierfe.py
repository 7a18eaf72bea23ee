"""HieRFE, MegaFS's hierarchical region feature encoder: faces to StyleGAN2 latents (Zhu et al. 2021, arXiv:2105.04932).

Own implementation of the network of zyainfal/One-Shot-Face-Swapping-on-Megapixels @f01b195.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE = 256  # pixels of its input, height = width


class Bottleneck(nn.Module):
    """ResNet's residual block in version 1.5, whose 3x3 convolution has the stride."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != 4 * width:
            shortcut = nn.Conv2d(channels, 4 * width, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Backbone(nn.Module):
    """ResNet-50 with a fifth stage. Returns the maps of stages 2 to 5, at 1/8 to 1/64 of the resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False), nn.BatchNorm2d(width)
        channels = width
        for stage, (blocks, times) in enumerate(zip((3, 4, 6, 3, 2), (1, 2, 4, 8, 8), strict=True), 1):
            layers = []
            for block in range(blocks):
                layers.append(Bottleneck(channels, times * width, 2 if stage > 1 and block == 0 else 1))
                channels = 4 * times * width
            self.add_module(f"layer{stage}", nn.Sequential(*layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.layer1(F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1))
        maps = []
        for layer in (self.layer2, self.layer3, self.layer4, self.layer5):
            x = layer(x)
            maps.append(x)
        return maps


class HieRFE(nn.Module):
    """The hierarchical region feature encoder: faces to StyleGAN2 latents and the 4x4 map that synthesis starts from.

    Options: heads (numbers of latents from the coarse, middle and fine map), dim (of a latent), width (of the
    backbone's first stage). 242,013,248 parameters with the defaults.
    """

    def __init__(self, heads: tuple[int, int, int] = (4, 6, 8), dim: int = 512, width: int = 64) -> None:
        super().__init__()
        self.options = {"heads": heads, "dim": dim, "width": width}
        self.backbone = Backbone(width)
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(4 * times * width, dim, 3, padding=1), nn.BatchNorm2d(dim))
            for times in (2, 4, 8, 8)
        )
        self.heads = nn.ModuleList(
            nn.ModuleList(_head(dim, halvings) for _ in range(count))
            for count, halvings in zip(heads, (3, 4, 5), strict=True)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Faces (N, 3, 256, 256) in [-1, 1] to latents (N, L, dim) in (-1, 1) and structure (N, dim, 4, 4).

        Raises ValueError on other shapes.
        """
        if images.ndim != 4 or images.shape[1:] != (3, SIZE, SIZE):
            raise ValueError(f"HieRFE: images: expected (N, 3, {SIZE}, {SIZE}), got {tuple(images.shape)}")
        *maps, last = self.backbone(images)
        *laterals, structure = self.laterals
        latents: list[Tensor] = []
        x = None
        for lateral, features, heads in zip(reversed(laterals), reversed(maps), self.heads, strict=True):
            features = F.relu(lateral(features))
            if x is not None:
                features = features + F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
            x = features
            latents += [head(x).flatten(1) for head in heads]
        return torch.stack(latents, 1).tanh(), structure(last)


def _head(dim: int, halvings: int) -> nn.Sequential:
    """Convolutions that reduce a map of 2 ** halvings pixels to one latent."""
    layers: list[nn.Module] = []
    for _ in range(halvings):
        layers += [nn.Conv2d(dim, dim, 3, 2, padding=1), nn.BatchNorm2d(dim), nn.LeakyReLU(0.01)]
    return nn.Sequential(*layers)
