"""ArcFace IR-SE-101, the identity encoder of SimSwap and MobileFaceSwap (Deng et al. 2019, arXiv:1801.07698).

Own implementation of the network in the checkpoint of neuralchen/SimSwap @bd7b768 (52,193,215 parameters).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swapcore.images import IMAGENET_MEAN, IMAGENET_STD
from swapcore.weights import build_with, read_state

STAGES = ((64, 3, 1), (128, 4, 2), (256, 23, 2), (512, 3, 2))  # channels, units, stride of the first unit


class SqueezeExcitation(nn.Module):
    """Scales every channel by a number in (0, 1) computed from all channel means (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 16), nn.PReLU(), nn.Linear(channels // 16, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3)))[:, :, None, None]


class Unit(nn.Module):
    """Pre-normalised residual unit. One PReLU with one parameter acts both inside the unit and after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.prelu = nn.PReLU()
        self.conv2 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.se = SqueezeExcitation(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(self.bn0(x))))))
        return self.prelu(self.se(y) + (x if self.downsample is None else self.downsample(x)))


class IRSE101(nn.Module):
    """Option: stages, each (channels, units, stride); tests use smaller ones."""

    def __init__(self, stages: tuple[tuple[int, int, int], ...] = STAGES) -> None:
        super().__init__()
        width = stages[0][0]
        self.conv1 = nn.Conv2d(3, width, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU()
        for number, (channels, units, stride) in enumerate(stages, 1):
            layers = [Unit(width, channels, stride), *(Unit(channels, channels, 1) for _ in range(units - 1))]
            self.add_module(f"layer{number}", nn.Sequential(*layers))
            width = channels
        self.stages = len(stages)
        self.bn2 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width * 49, 512)
        self.bn3 = nn.BatchNorm1d(512)

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Faces (N, 3, 112, 112), normalised by ImageNet's mean and deviation, to embeddings (N, 512), not of unit
        length, and the map (N, 512, 7, 7) that MobileFaceSwap uses. Raises ValueError on another shape."""
        if faces.ndim != 4 or faces.shape[1:] != (3, 112, 112):
            raise ValueError(f"faces: expected (N, 3, 112, 112), got {tuple(faces.shape)}")
        x = F.max_pool2d(self.prelu(self.bn1(self.conv1(faces))), 2, 2)
        for number in range(1, self.stages + 1):
            x = self.get_submodule(f"layer{number}")(x)
        x = self.bn2(x)
        return self.bn3(self.fc(x.flatten(1))), x


def prepare(images: Tensor, mode: str = "nearest") -> Tensor:
    """Crops (N, 3, H, H) in [0, 1] to the encoder's input (N, 3, 112, 112), normalised by ImageNet's mean and
    deviation. SimSwap resizes by the nearest neighbour; its training code since 2022 uses "bicubic"."""
    mean, std = (torch.tensor(v, dtype=images.dtype, device=images.device) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return F.interpolate((images - mean.view(3, 1, 1)) / std.view(3, 1, 1), (112, 112), mode=mode)


def load_irse101(path: str | Path) -> IRSE101:
    """The encoder of `arcface_checkpoint.tar`, a pickled network, or of a state dict. Raises ValueError."""
    return build_with(IRSE101, read_state(path), path).eval()
