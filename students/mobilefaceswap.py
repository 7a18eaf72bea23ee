"""MobileFaceSwap: an identity-aware dynamic network (Xu et al., AAAI 2022, arXiv:2201.03808).

Own implementation of the networks of Seanseattle/MobileFaceSwap @2955247. A weight generator (20,699,710 parameters
with the heads) computes, once per source, the kernels of a small network, the IDN (499,825 parameters). Depthwise
kernels are predicted from the source's identity map, pointwise kernels modulated by its embedding. Only the IDN runs on
every frame.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swapcore.weights import load_strictly, unwrap

from .contract import check_embedding, check_inputs, check_map, check_options
from .masks import MaskLayer
from .paddle import read_pdparams

_SLOPE = 0.1
_DOWNS, _UPS = 5, 4


def _double() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)


def _depthwise(x: Tensor, kernels: Tensor, stride: int) -> Tensor:
    """A convolution with its own kernels (N, C, k, k) per sample: the batch becomes groups of one convolution."""
    n, c, h, w = x.shape
    kernels = kernels.reshape(n * c, 1, *kernels.shape[2:])
    y = F.conv2d(x.reshape(1, n * c, h, w), kernels, stride=stride, padding=1, groups=n * c)
    return y.view(n, c, *y.shape[2:])


def _pointwise(x: Tensor, weights: Tensor) -> Tensor:
    """A 1x1 convolution with its own weights (N, C_out, C_in) per sample."""
    return torch.bmm(weights, x.flatten(2)).unflatten(2, x.shape[2:])


class Modulation(nn.Module):
    """Pointwise weights, scaled per input channel by the embedding, then of unit length per output channel."""

    def __init__(self, inputs: int, outputs: int, embedding_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1) * inputs**-0.5)
        self.style = nn.Linear(embedding_dim, inputs)

    def forward(self, embedding: Tensor) -> Tensor:
        """(N, D) to (N, C_out, C_in)."""
        weights = self.weight.flatten(1) * (self.style(embedding) + 1)[:, None]
        return weights * torch.rsqrt(weights.square().sum(2, keepdim=True) + 1e-16)


class Predictor(nn.Module):
    """A 3x3 convolution of the map; a second one turns the result into a kernel for each channel of a layer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs)
        self.weight = nn.Conv2d(outputs, outputs, 3, padding=1)
        # Kernels start with a norm of about one: with smaller ones in nine layers the source has no effect.
        nn.init.normal_(self.weight.weight, std=0.3 * (9 * outputs) ** -0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.leaky_relu(self.norm(self.conv(x)), _SLOPE)
        return x, self.weight(x)


class KernelPredictor(nn.Module):
    """Identity maps to the depthwise kernels in the order of the layers, 4x4 on the way down and 3x3 on the way up."""

    def __init__(self, map_shape: Sequence[int], downs: Sequence[int], ups: Sequence[int]) -> None:
        """`downs`, `ups`: input channels of the layers. The inner map is twice as wide as the last of `downs`."""
        super().__init__()
        channels, height, width = map_shape
        inside = 2 * downs[-1]
        self.first = nn.Conv2d(channels, inside, (height - 3, width - 3))
        self.norm = nn.BatchNorm2d(inside)
        self.first_decoder = nn.Conv2d(inside, inside, 2)
        self.decoder_norm = nn.BatchNorm2d(inside)
        widths = list(reversed(downs))
        self.encoder = nn.ModuleList(Predictor(a, b) for a, b in zip([inside, *widths], widths, strict=False))
        self.decoder = nn.ModuleList(Predictor(a, b) for a, b in zip([inside, *ups], ups, strict=False))

    def forward(self, identity_map: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        start = F.leaky_relu(self.norm(self.first(identity_map)), _SLOPE)
        x, downs, ups = start, [], []
        for block in self.encoder:
            x, kernel = block(x)
            downs.append(kernel)
        x = F.leaky_relu(self.decoder_norm(self.first_decoder(start)), _SLOPE)
        for block in self.decoder:
            x, kernel = block(x)
            ups.append(kernel)
        return downs[::-1], ups


class Kernels(tuple):
    """The IDN's kernels for N sources, four lists: depthwise down (N, C, 4, 4), pointwise down (N, C_out, C), depthwise
    up (N, C, 3, 3), pointwise up (N, C_out, C)."""

    @property
    def count(self) -> int:
        """Numbers per source."""
        return sum(kernel[0].numel() for part in self for kernel in part)


class MobileFaceSwap(nn.Module):
    """Weight generator and IDN as one student.

    Options: width, the channels after the first layer (a multiple of 4; the paper has 32), doubled by each further
    layer; embedding_dim; map_shape, (C, h, w) of the identity encoder's map, h and w at least 4; resolution, a multiple
    of 32, at least 64. Wrong options raise ValueError. It `needs_map`: the identity encoder's map beside its embedding.
    On a phone, keep the source's `kernels` and run `swap` on every frame.
    """

    name = "mobilefaceswap"
    needs_map = True

    def __init__(
        self, width: int = 32, embedding_dim: int = 512, map_shape: Sequence[int] = (512, 7, 7), resolution: int = 256
    ) -> None:
        super().__init__()
        check_options(resolution, width=width, embedding_dim=embedding_dim)
        if width % 4:
            raise ValueError(f"width: expected a multiple of 4, got {width}")
        if len(map_shape) != 3 or map_shape[0] < 1 or min(map_shape[1:]) < 4:
            raise ValueError(f"map_shape: expected (C, h, w) with h and w at least 4, got {tuple(map_shape)}")
        self.options = {
            "width": width, "embedding_dim": embedding_dim, "map_shape": list(map_shape), "resolution": resolution
        }  # fmt: skip
        channels = [3, *(width << level for level in range(_DOWNS))]
        ups = [channels[-1], *(2 * c for c in reversed(channels[2:-1]))]
        outs = [*reversed(channels[1:-1])]
        self.predictor = KernelPredictor(map_shape, channels[:-1], ups)
        self.encoder_modulation = nn.ModuleList(
            Modulation(a, b, embedding_dim) for a, b in zip(channels, channels[1:], strict=False)
        )
        self.decoder_modulation = nn.ModuleList(Modulation(a, b, embedding_dim) for a, b in zip(ups, outs, strict=True))
        self.rgb = nn.Sequential(
            _double(), nn.Conv2d(width, width // 4, 1), nn.BatchNorm2d(width // 4), nn.LeakyReLU(_SLOPE),
            nn.Conv2d(width // 4, 3, 3, padding=1), nn.BatchNorm2d(3), nn.LeakyReLU(_SLOPE),
            nn.Conv2d(3, 3, 3, padding=1), nn.Tanh(),
        )  # fmt: skip
        masks = [16 * width, 4 * width, 2 * width, width, width // 4, 2]
        self.mask = nn.Sequential(
            *(_mask_layer(a, b) for a, b in zip(masks, masks[1:], strict=False)), nn.Conv2d(2, 1, 3, padding=1)
        )

    def kernels(self, embedding: Tensor, identity_map: Tensor) -> Kernels:
        """Unit embeddings (N, D) and identity maps (N, C, h, w) to the kernels of N sources. Raises ValueError on other
        shapes."""
        check_embedding(embedding, self.options["embedding_dim"])
        check_map(identity_map, len(embedding), self.options["map_shape"])
        downs, ups = self.predictor(identity_map)
        return Kernels(
            (
                downs, [modulation(embedding) for modulation in self.encoder_modulation],
                ups, [modulation(embedding) for modulation in self.decoder_modulation],
            )
        )  # fmt: skip

    def swap(self, target: Tensor, kernels: Kernels) -> tuple[Tensor, Tensor, Tensor]:
        """The IDN: targets (N, 3, R, R) in [0, 1] and kernels of N sources to swaps in [0, 1], masks (N, 1, R, R) and
        faces before blending by the mask. R is any multiple of 32. Raises ValueError on other shapes."""
        depth_down, point_down, depth_up, point_up = kernels
        sources = len(depth_down[0])
        if target.ndim != 4 or target.shape[:2] != (sources, 3) or any(pixels % 32 for pixels in target.shape[2:]):
            raise ValueError(
                f"target: expected ({sources}, 3, R, R), R a multiple of 32, one for each source's kernels, "
                f"got {tuple(target.shape)}"
            )
        x, skips = (target - 0.5) / 0.5, []
        for depthwise, pointwise in zip(depth_down, point_down, strict=True):
            x = F.leaky_relu(_pointwise(_depthwise(x, depthwise, 2), pointwise), _SLOPE)
            skips.append(x)
        # The mask's loss must not change the features that it reads.
        mask = self.mask(skips.pop().detach()).sigmoid()
        for level, (depthwise, pointwise) in enumerate(zip(depth_up, point_up, strict=True)):
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
            x = F.leaky_relu(_pointwise(_depthwise(x, depthwise, 1), pointwise), _SLOPE)
            if level < _UPS - 1:
                x = torch.cat([x, skips.pop()], 1)
        face = (self.rgb(x) + 1) / 2
        return face * mask + (1 - mask) * target, mask, face

    def forward(self, target: Tensor, embedding: Tensor, identity_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Target (N, 3, R, R) in [-1, 1], unit embedding (N, D) and identity map (N, C, h, w) to swaps in [-1, 1] of R
        pixels and, reduced by area, of R/2 and R/4. Raises ValueError on other shapes."""
        check_inputs(target, embedding, self.options["resolution"], self.options["embedding_dim"])
        image = self.swap((target + 1) / 2, self.kernels(embedding, identity_map))[0] * 2 - 1
        size = image.shape[-1]
        half, quarter = (F.interpolate(image, size=(size // k, size // k), mode="area") for k in (2, 4))
        return image, half, quarter

    def mask_layer(self) -> MaskLayer:
        """Where `masks.recorded` finds the mask of the swap of full resolution."""
        return MaskLayer(self.mask, torch.sigmoid)


def _mask_layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _double(), nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs), nn.Conv2d(inputs, outputs, 1),
        nn.BatchNorm2d(outputs), nn.LeakyReLU(_SLOPE),
    )  # fmt: skip


def original_to_ours(key: str) -> str:
    """Our name of a tensor of the Paddle checkpoint: mask.0.3._mean -> mask.0.3.running_mean."""
    key = key.removeprefix("module.")
    key = re.sub(r"^(Encoder|Decoder)Modulation", lambda match: f"{match[1].lower()}_modulation", key)
    key = re.sub(r"^final\.", "rgb.", key)
    return key.replace("._mean", ".running_mean").replace("._variance", ".running_var")


def load_original(checkpoint: str | Path | Mapping[str, Tensor], resolution: int = 224) -> MobileFaceSwap:
    """The student of a checkpoint of Seanseattle/MobileFaceSwap @2955247: a .pdparams file, or its tensors by name.

    Every tensor is used exactly once; the student is in evaluation mode.

    It was trained with ArcFace IR-SE-101 (SimSwap's), which is not among the identity encoders here: the caller passes
    that network's unit embedding and its (512, 7, 7) map after the last normalisation, of the source at 112 x 112
    pixels, RGB, ImageNet mean and deviation. Released at 224 (SimSwap as teacher) and 256 pixels (FaceShifter).
    `module.` prefixes and one wrapper {"state_dict": ...} are accepted. Raises ValueError naming the first tensor that
    does not fit.
    """
    where, state = "MobileFaceSwap checkpoint", {}
    if not isinstance(checkpoint, Mapping):
        where, checkpoint = str(checkpoint), read_pdparams(checkpoint)
    for key, tensor in unwrap(checkpoint, where).items():
        ours = original_to_ours(key)
        if ours in state or not tensor.is_floating_point():
            raise ValueError(f"{where}: {key}: expected one floating-point tensor of this name")
        # Paddle keeps the weights of linear layers as (in, out).
        state[ours] = tensor.T if key.endswith("style.weight") and tensor.ndim == 2 else tensor
    first, style = state.get("predictor.first.weight"), state.get("encoder_modulation.0.style.weight")
    if first is None or first.ndim != 4 or style is None or style.ndim != 2:
        raise ValueError(f"{where}: it lacks predictor.first.weight or EncoderModulation.0.style.weight")
    shape = [first.shape[1], first.shape[2] + 3, first.shape[3] + 3]
    student = MobileFaceSwap(first.shape[0] // 16, style.shape[1], shape, resolution)
    load_strictly(student, state, where)
    return student.eval()
