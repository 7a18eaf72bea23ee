"""StyleGAN2's synthesis and mapping networks (Karras et al. 2020, arXiv:1912.04958), config-f.

Own implementation in the checkpoint layout of rosinality/stylegan2-pytorch, as used by MegaFS
(zyainfal/One-Shot-Face-Swapping-on-Megapixels @f01b195): the caller gives the latents of all layers, the noise is
fixed, and a feature map may replace the learned 4x4 start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swapcore.weights import load_strictly, read_state, tensor_of

_SLOPE = 0.2
_MAPPING_LAYERS = 8
_MAPPING_RATE = 0.01  # learning rate of the mapping network; its weights are stored divided by it


def config_f(resolution: int) -> dict[int, int]:
    """Channels by resolution, from 4 up: 512 up to 64 pixels, then halved at every step."""
    return {2**k: min(512, 2**15 // 2**k) for k in range(2, int(math.log2(resolution)) + 1)}


def blur_kernel() -> Tensor:
    """The binomial kernel (4, 4) of sum 4, which keeps the brightness when upsampling by two."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(row, row) / 16


class EqualLinear(nn.Module):
    """A linear layer whose weights are scaled when it is applied (equalised learning rate)."""

    def __init__(self, dim: int, out_dim: int, rate: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, dim) / rate)
        self.bias = nn.Parameter(torch.full((out_dim,), bias))
        self.rate, self.scale = rate, rate / math.sqrt(dim)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.rate)


class MappingLayer(EqualLinear):
    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), _SLOPE) * math.sqrt(2)


class PixelNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


class Blur(nn.Module):
    """Smooths (N, C, H, W) to (N, C, H - 1, W - 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel())

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.to(x.dtype).expand(channels, 1, -1, -1), padding=1, groups=channels)


class Upsample(nn.Module):
    """Doubles the resolution: inserts zeros between the pixels, then smooths."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel())

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1)
        with torch.autocast(x.device.type, enabled=False):  # the image keeps full precision from level to level
            return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


class ModulatedConv(nn.Module):
    """A convolution whose weights are scaled per sample and input channel by a latent's style, then normalised per
    output channel.

    Scaling the weights by the style s equals scaling the input by s, so one convolution serves the whole batch. The
    normalisation depends on the output channel alone and is applied to the result.
    """

    def __init__(
        self, channels: int, out_channels: int, size: int, latent_dim: int, demodulate: bool = True, up: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out_channels, channels, size, size))
        self.modulation = EqualLinear(latent_dim, channels, bias=1.0)
        self.scale, self.demodulate = 1 / math.sqrt(channels * size**2), demodulate
        self.blur = Blur() if up else None

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        weight, style = self.weight[0] * self.scale, self.modulation(latent).float()
        if self.demodulate:  # the style's magnitude cancels out: dividing by it prevents overflow in half precision
            size = style.abs().amax(1, keepdim=True).clamp_min(1e-8)
            style = style / size
            # Not a matrix product: autocast would round it.
            energy = (style.square()[:, None] * weight.square().sum((2, 3))).sum(2)
            gain = torch.rsqrt(energy + 1e-8 / size.square())[:, :, None, None]
        x = x * style[:, :, None, None].to(x.dtype)
        if self.blur is None:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        else:
            x = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        return x * gain.to(x.dtype) if self.demodulate else x


class NoiseInjection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + (self.weight * noise).to(x.dtype)


class BiasedLeakyReLU(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias[:, None, None].to(x.dtype), _SLOPE) * math.sqrt(2)


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias, activation."""

    def __init__(self, channels: int, out_channels: int, latent_dim: int, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(channels, out_channels, 3, latent_dim, up=up)
        self.noise = NoiseInjection()
        self.activate = BiasedLeakyReLU(out_channels)

    def forward(self, x: Tensor, latent: Tensor, noise: Tensor) -> Tensor:
        return self.activate(self.noise(self.conv(x, latent), noise))


class ToRGB(nn.Module):
    """Converts features to colours and adds them to the upsampled image of half the resolution."""

    def __init__(self, channels: int, latent_dim: int, up: bool = True) -> None:
        super().__init__()
        self.upsample = Upsample() if up else None
        self.conv = ModulatedConv(channels, 3, 1, latent_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, latent: Tensor, image: Tensor | None = None) -> Tensor:
        rgb = self.conv(x, latent).float() + self.bias
        return rgb if image is None else rgb + self.upsample(image)


class ConstantInput(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class StyleGAN2(nn.Module):
    """The generator: 2 log2(resolution) - 2 latents of `latent_dim` numbers to an image of `resolution` pixels.

    Options: resolution (a power of two, at least 8), channels (by resolution, from 4 up; default: config-f),
    latent_dim. Wrong options raise ValueError. Config-f at 1024 has 30,370,060 parameters.
    """

    def __init__(
        self, resolution: int = 1024, channels: Mapping[int, int] | None = None, latent_dim: int = 512
    ) -> None:
        super().__init__()
        if resolution < 8 or resolution & (resolution - 1):
            raise ValueError(f"StyleGAN2: resolution: expected a power of two from 8 on, got {resolution}")
        sizes = list(config_f(resolution))
        channels = config_f(resolution) if channels is None else dict(channels)
        if sorted(channels) != sizes or min(channels.values()) < 1:
            raise ValueError(f"StyleGAN2: channels: expected a positive number for each of {sizes}, got {channels}")
        self.options = {"resolution": resolution, "channels": channels, "latent_dim": latent_dim}
        self.latents = 2 * len(sizes)
        mapping = (MappingLayer(latent_dim, latent_dim, _MAPPING_RATE) for _ in range(_MAPPING_LAYERS))
        self.style = nn.Sequential(PixelNorm(), *mapping)
        self.input = ConstantInput(channels[4])
        self.conv1 = StyledConv(channels[4], channels[4], latent_dim)
        self.to_rgb1 = ToRGB(channels[4], latent_dim, up=False)
        self.convs, self.to_rgbs, self.noises = nn.ModuleList(), nn.ModuleList(), nn.Module()
        for size in sizes[1:]:
            self.convs.append(StyledConv(channels[size // 2], channels[size], latent_dim, up=True))
            self.convs.append(StyledConv(channels[size], channels[size], latent_dim))
            self.to_rgbs.append(ToRGB(channels[size], latent_dim))
        for layer in range(self.latents - 1):
            size = 2 ** ((layer + 5) // 2)
            self.noises.register_buffer(f"noise_{layer}", torch.randn(1, 1, size, size))

    def mapping(self, z: Tensor) -> Tensor:
        """Normally distributed numbers (N, D) to latents (N, D)."""
        return self.style(z)

    def forward(self, latents: Tensor, start: Tensor | None = None) -> Tensor:
        """Latents (N, L, D) to images (N, 3, R, R) float32, approximately in [-1, 1], with the fixed noise.

        `start` (N, C, 4, 4) replaces the learned constant. Raises ValueError on other shapes.
        """
        shape = (self.latents, self.options["latent_dim"])
        if latents.ndim != 3 or latents.shape[1:] != shape:
            raise ValueError(f"StyleGAN2: latents: expected (N, {shape[0]}, {shape[1]}), got {tuple(latents.shape)}")
        constant = self.input.input
        x = constant.expand(len(latents), -1, -1, -1) if start is None else start
        shape = (len(latents), *constant.shape[1:])
        if x.shape != shape:
            raise ValueError(f"StyleGAN2: start: expected {shape}, got {tuple(x.shape)}")
        styles, noises = latents.unbind(1), list(self.noises.buffers())
        x = self.conv1(x, styles[0], noises[0])
        image = self.to_rgb1(x, styles[1])
        for step, to_rgb in enumerate(self.to_rgbs):
            first = 2 * step + 1  # to_rgb shares its latent with the first layer of the next resolution
            for layer in (first, first + 1):
                x = self.convs[layer - 1](x, styles[layer], noises[layer])
            image = to_rgb(x, styles[first + 2], image)
        return image


def load_stylegan2(path: str | Path) -> StyleGAN2:
    """The generator of a rosinality file, {"g_ema": ...} or its state dict alone, of any resolution and width.

    Only the blur kernels may be absent; if present, they must equal ours. Raises ValueError naming the file and the
    first wrong tensor.
    """
    state = read_state(path)
    where = f"{path}: not a StyleGAN2 generator"
    steps = max(1, sum(key.startswith("to_rgbs.") and key.endswith(".conv.weight") for key in state))
    start = tensor_of(state, "input.input", 4, where)
    modulation = tensor_of(state, "conv1.conv.modulation.weight", 2, where)
    biases = [tensor_of(state, f"convs.{2 * step}.activate.bias", 1, where) for step in range(steps)]
    channels = {4: start.shape[1]} | {2 ** (step + 3): len(bias) for step, bias in enumerate(biases)}
    with torch.device("meta"):
        network = StyleGAN2(2 ** (steps + 2), channels, modulation.shape[1])
    for key in network.state_dict():
        if key.endswith(".kernel"):  # a buffer that every network here computes by itself
            kernel = state.setdefault(key, blur_kernel())
            if kernel.shape != (4, 4) or not torch.allclose(kernel.float(), blur_kernel(), atol=1e-6):
                raise ValueError(f"{path}: {key}: expected the blur [1, 3, 3, 1] of sum 4, found another kernel")
    load_strictly(network, state, path, assign=True)
    return network
