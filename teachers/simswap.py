"""SimSwap as a teacher (Chen et al. 2020, arXiv:2106.06340), with the checkpoints of its authors.

Own implementation of the networks of neuralchen/SimSwap @bd7b768: generators of 224 pixels (55,051,779 parameters) and
of 512 (55,079,427), each also in a deep variant (4,721,664 more).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swapcore.frame import Crop
from swapcore.images import IMAGENET_MEAN, IMAGENET_STD
from swapcore.weights import build_with, read_state

from .irse101 import IRSE101, load_irse101, prepare
from .teacher import Teacher

BLOCKS = 9
EMBEDDING = 512
TEMPLATES = {224: "arcface_112_v1", 512: "ffhq_512"}  # the alignment of each generator's faces
_EPS = 1e-8  # of the original's own instance normalisation


class Styled(nn.Module):
    """A 3x3 convolution with reflected borders, instance normalisation, then gain and shift by the embedding."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3)
        self.style = nn.Linear(EMBEDDING, 2 * channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        x = self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect"))
        x = x.to(torch.promote_types(x.dtype, torch.float32))  # sums over a map overflow half precision
        x = x - x.mean((2, 3), keepdim=True)
        x = x * torch.rsqrt(x.square().mean((2, 3), keepdim=True) + _EPS)
        gain, shift = self.style(embedding)[:, :, None, None].chunk(2, dim=1)
        return x * (gain + 1) + shift


class Block(nn.Module):
    """Identity injection: a residual block of two styled convolutions, without activation after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = Styled(channels), Styled(channels)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return x + self.second(self.first(x, embedding).relu(), embedding)


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class SimSwapGenerator(nn.Module):
    """Options: size, 224 or 512 (one more level); deep, one more inner level; normalised, for weights trained with
    `fs_networks_fix`, which works on ImageNet-normalised pixels and has no tanh."""

    def __init__(self, size: int = 224, deep: bool = False, normalised: bool = False) -> None:
        super().__init__()
        if size not in TEMPLATES:
            raise ValueError(f"size: expected one of {', '.join(map(str, TEMPLATES))}, got {size}")
        self.options = {"size": size, "deep": deep, "normalised": normalised}
        channels = [*([32] if size == 512 else []), 64, 128, 256, 512, *([512] if deep else [])]
        steps = list(zip(channels, channels[1:], strict=False))
        self.first = Unit(3, channels[0], kernel=7, padding=0)
        self.downs = nn.ModuleList(Unit(a, b, stride=2) for a, b in steps)
        self.blocks = nn.ModuleList(Block(channels[-1]) for _ in range(BLOCKS))
        self.ups = nn.ModuleList(Unit(b, a) for a, b in reversed(steps))
        self.last = nn.Conv2d(channels[0], 3, 7)

    def forward(self, target: Tensor, embedding: Tensor) -> Tensor:
        """Target (N, 3, S, S) in [0, 1] (`normalised`: by ImageNet's mean and deviation) and unit embedding (N, 512) to
        the swap, like the target. S is a multiple of 2 ** levels, at least twice that. Raises ValueError on other
        shapes."""
        step, shape = 2 ** len(self.downs), target.shape
        if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or shape[2] % step or shape[2] < 2 * step:
            raise ValueError(
                f"target: expected (N, 3, S, S), S a multiple of {step} from {2 * step} on, got {tuple(shape)}"
            )
        if tuple(embedding.shape) != (len(target), EMBEDDING):
            raise ValueError(f"embedding: expected ({len(target)}, {EMBEDDING}), got {tuple(embedding.shape)}")
        x = self.first(_reflected(target))
        for down in self.downs:
            x = down(x)
        for block in self.blocks:
            x = block(x, embedding)
        for up in self.ups:
            x = up(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
        x = self.last(_reflected(x))
        return x if self.options["normalised"] else (x.tanh() + 1) / 2


class SimSwapTeacher(Teacher):
    """SimSwap with the authors' checkpoints.

    Options: size (224 or 512) and deep, which the tensors of the file must match if they are given; normalised, whether
    the weights come from the training code since 2022, which no tensor shows. Raises ValueError naming the file that
    does not match.
    """

    name = "simswap"
    FILES = {
        "generator": "latest_net_G.pth of checkpoints/people, or 550000_net_G.pth of the 512 model",
        "identity_encoder": "arcface_checkpoint.tar, or a state dict of its network",
    }
    autocast = True

    def __init__(
        self,
        weights: Mapping[str, str | Path] | None = None,
        size: int | None = None,
        deep: bool | None = None,
        normalised: bool = False,
    ) -> None:
        super().__init__(weights, normalised=normalised)
        self._assemble(
            load_generator(self.weights["generator"], size, deep, normalised),
            load_irse101(self.weights["identity_encoder"]),
        )

    def _assemble(self, generator: SimSwapGenerator, identity_encoder: IRSE101) -> None:
        self.generator, self.identity_encoder = generator, identity_encoder
        native = generator.options["size"]
        self.crop = Crop(TEMPLATES[native], native)
        for key, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(key, torch.tensor(values).view(3, 1, 1), persistent=False)

    def identity(self, source: Tensor, rows: list[dict] | None = None) -> tuple[Tensor, ...]:
        """The unit embeddings (N, 512) of sources (N, 3, H, H)."""
        mode = "bicubic" if self.generator.options["normalised"] else "nearest"
        faces = prepare((self.crop.take(source) + 1) / 2, mode)
        return (F.normalize(self.identity_encoder(faces)[0].float()),)

    def swap(self, identity: tuple[Tensor, ...], target: Tensor, rows: list[dict] | None = None) -> Tensor:
        """Swaps (N, 3, H, H) of those identities onto targets (N, 3, H, H)."""
        native = (self.crop.take(target) + 1) / 2
        if self.generator.options["normalised"]:
            swap = self.generator((native - self.mean) / self.std, identity[0]).float() * self.std + self.mean
        else:
            swap = self.generator(native, identity[0])
        return self.crop.paste((swap.to(target.dtype) * 2 - 1).clamp(-1, 1), target)


def load_generator(
    path: str | Path, size: int | None = None, deep: bool | None = None, normalised: bool = False
) -> SimSwapGenerator:
    """The generator of an original state dict, its size and depth those of the tensors.

    Raises ValueError naming the file and the first wrong tensor, or the option that the tensors contradict.
    """
    state = read_state(path)
    native, is_deep = 512 if "down0.0.weight" in state else 224, "down4.0.weight" in state
    network = build_with(lambda: SimSwapGenerator(native, is_deep, normalised), state, path, _renamer(state))
    for option, requested in (("size", size), ("deep", deep)):
        if requested not in (None, network.options[option]):
            raise ValueError(f"{path}: {option}: expected {requested}, the file has {network.options[option]}")
    return network.eval()


def _renamer(state: Mapping[str, Tensor]) -> Callable[[str], str]:
    """A function to our name of a tensor of the original: up3.1.weight -> ups.0.conv.weight; any other unchanged."""
    first = 0 if "down0.0.weight" in state else 1
    last = 4 if "down4.0.weight" in state else 3

    def rename(key: str) -> str:
        if match := re.fullmatch(r"(first_layer|down(\d)|up(\d))\.(\d)\.(\w+)", key):
            name, down, up, index, leaf = match.groups()
            part = "first" if not down and not up else f"downs.{int(down) - first}" if down else f"ups.{last - int(up)}"
            convolution = int(index) == (0 if down else 1)
            return f"{part}.{'conv' if convolution else 'bn'}.{leaf}"
        if match := re.fullmatch(r"BottleNeck\.(\d)\.(conv|style)([12])\.(?:1|linear)\.(\w+)", key):
            return f"blocks.{match[1]}.{('first', 'second')[int(match[3]) - 1]}.{match[2]}.{match[4]}"
        return re.sub(r"^last_layer\.1\.", "last.", key)

    return rename


def _reflected(x: Tensor) -> Tensor:
    return F.pad(x, (3, 3, 3, 3), mode="reflect")
