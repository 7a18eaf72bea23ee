"""AEI-Net, the first stage of FaceShifter (Li et al. 2019, arXiv:1912.13457).

Own implementation of the two public layouts: taotaonice/FaceShifter @376b09e (184,343,381 parameters) and
mindslab-ai/faceshifter @d232459 (439,313,606). A U-Net encodes the target as one attribute map per resolution. The
generator starts from the source's embedding and mixes the attribute maps in, level by level, weighted by learnt masks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SLOPE = 0.1
_MOST_DOWNS = 7


@dataclass(frozen=True)
class Layout:
    """The differences between the two public implementations."""

    affine_batch_norm: bool  # AAD normalises by batch statistics with learnt gain; otherwise per picture
    mask_per_channel: bool  # otherwise one mask for all channels
    kernel: int  # side of the convolutions that compute gains, shifts and mask
    bias: bool  # of all other convolutions
    zero_to_one: bool  # input and output in [0, 1], sigmoid at the end; otherwise [-1, 1] and tanh


LAYOUTS = {
    "taotaonice": Layout(affine_batch_norm=False, mask_per_channel=False, kernel=1, bias=False, zero_to_one=False),
    "mindslab": Layout(affine_batch_norm=True, mask_per_channel=True, kernel=3, bias=True, zero_to_one=True),
}


def initialise(module: nn.Module) -> None:
    """The reference's initial weights: Xavier normal convolutions, linear layers near zero (`network.apply`)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_normal_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.001)
        nn.init.zeros_(module.bias)


class Unit(nn.Module):
    """A 4x4 convolution to half (`up`: twice) the resolution, batch normalisation, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, bias: bool, up: bool = False) -> None:
        super().__init__()
        kind = nn.ConvTranspose2d if up else nn.Conv2d
        self.conv = kind(inputs, outputs, 4, stride=2, padding=1, bias=bias)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.bn(self.conv(x)), _SLOPE)


def double(x: Tensor) -> Tensor:
    """Twice the resolution, bilinear with aligned corners."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


class AttributeEncoder(nn.Module):
    """A target to its attribute maps, from the innermost to the full resolution."""

    def __init__(self, channels: list[int], bias: bool) -> None:
        """channels: of the maps from the full resolution down."""
        super().__init__()
        self.downs = nn.ModuleList(Unit(a, b, bias) for a, b in zip([3, *channels], channels, strict=False))
        inner = [channels[-1], *(2 * c for c in channels[-2:0:-1])]
        self.ups = nn.ModuleList(Unit(a, b, bias, up=True) for a, b in zip(inner, reversed(channels[:-1]), strict=True))

    def forward(self, x: Tensor) -> list[Tensor]:
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
        maps = [x]
        for up, skip in zip(self.ups, reversed(skips[:-1]), strict=True):
            maps.append(torch.cat([up(maps[-1]), skip], 1))
        return [*maps, double(maps[-1])]


class AAD(nn.Module):
    """Adaptive attentional denormalisation: the normalised features are scaled and shifted by the attribute map and,
    separately, by the embedding; a mask computed from the features blends the two results."""

    def __init__(self, channels: int, attributes: int, embedding_dim: int, layout: Layout) -> None:
        super().__init__()
        kernel, padding = layout.kernel, layout.kernel // 2
        self.norm = nn.BatchNorm2d(channels) if layout.affine_batch_norm else nn.InstanceNorm2d(channels)
        self.attribute_gain = nn.Conv2d(attributes, channels, kernel, padding=padding)
        self.attribute_shift = nn.Conv2d(attributes, channels, kernel, padding=padding)
        self.identity_gain = nn.Linear(embedding_dim, channels)
        self.identity_shift = nn.Linear(embedding_dim, channels)
        self.mask = nn.Conv2d(channels, channels if layout.mask_per_channel else 1, kernel, padding=padding)

    def forward(self, x: Tensor, attribute: Tensor, embedding: Tensor) -> Tensor:
        h = self.norm(x.float()).to(x.dtype) if x.dtype in (torch.float16, torch.bfloat16) else self.norm(x)
        by_attribute = self.attribute_gain(attribute) * h + self.attribute_shift(attribute)
        gain, shift = self.identity_gain(embedding), self.identity_shift(embedding)
        by_identity = gain[:, :, None, None] * h + shift[:, :, None, None]
        return torch.lerp(by_attribute, by_identity, self.mask(h).sigmoid().to(by_attribute.dtype))


class AADBlock(nn.Module):
    """Two denormalised 3x3 convolutions and a shortcut, which has a third one where the width changes."""

    def __init__(self, inputs: int, outputs: int, attributes: int, embedding_dim: int, layout: Layout) -> None:
        super().__init__()
        widths = [(inputs, inputs), (inputs, outputs)] + [(inputs, outputs)] * (inputs != outputs)
        self.aads = nn.ModuleList(AAD(inputs, attributes, embedding_dim, layout) for _ in widths)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1, bias=layout.bias) for a, b in widths)

    def forward(self, x: Tensor, attribute: Tensor, embedding: Tensor) -> Tensor:
        def step(number: int, y: Tensor) -> Tensor:
            return self.convs[number](F.relu(self.aads[number](y, attribute, embedding)))

        return step(1, step(0, x)) + (step(2, x) if len(self.convs) == 3 else x)


class AEINet(nn.Module):
    """Options: layout, a key of LAYOUTS; width, the channels of the last attribute map, to which all others are in
    proportion (even; the paper has 64); embedding_dim; resolution, a multiple of 32, at least 64.

    The encoder halves the resolution at most seven times, while at least 2 pixels remain: to 2x2 from 64, 128 and 256,
    to 3x3 from 96 and 192, where the 2x2 map computed from the embedding is enlarged. Each missing level drops
    one attribute map and the widest remaining block of the generator. Wrong options raise ValueError. `self.options`
    rebuild the network.
    """

    def __init__(
        self, layout: str = "taotaonice", width: int = 64, embedding_dim: int = 512, resolution: int = 256
    ) -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise ValueError(f"unknown layout '{layout}', known: {', '.join(LAYOUTS)}")
        if width < 2 or width % 2:
            raise ValueError(f"width: expected an even number, at least 2, got {width}")
        if embedding_dim < 1:
            raise ValueError(f"embedding_dim: expected at least 1, got {embedding_dim}")
        if resolution < 64 or resolution % 32:
            raise ValueError(f"resolution: expected a multiple of 32, at least 64, got {resolution}")
        self.options = {
            "layout": layout, "width": width, "embedding_dim": embedding_dim, "resolution": resolution
        }  # fmt: skip
        self.layout = LAYOUTS[layout]
        downs = max(n for n in range(1, _MOST_DOWNS + 1) if resolution % 2**n == 0 and resolution >> n >= 2)
        self.innermost = resolution >> downs
        channels = [width // 2 << min(level, 5) for level in range(downs)]
        attributes = [channels[-1], *(2 * c for c in reversed(channels[:-1])), width]
        features = [width << min(level, 4) for level in range(downs, -1, -1)] + [3]
        self.encoder = AttributeEncoder(channels, self.layout.bias)
        self.start = nn.ConvTranspose2d(embedding_dim, features[0], 2)
        self.blocks = nn.ModuleList(
            AADBlock(a, b, attribute, embedding_dim, self.layout)
            for a, b, attribute in zip(features, features[1:], attributes, strict=False)
        )
        self.apply(initialise)

    def attribute_maps(self, target: Tensor) -> list[Tensor]:
        """Targets (N, 3, R, R) in [-1, 1] to their attribute maps, smallest first. At resolution 256 and width 64 these
        are eight maps of 1024, 2048, 1024, 512, 256, 128, 64, 64 channels and 2, 4, ..., 256 pixels.

        Raises ValueError on another shape.
        """
        size = self.options["resolution"]
        if target.ndim != 4 or tuple(target.shape[1:]) != (3, size, size):
            raise ValueError(f"target: expected (N, 3, {size}, {size}), got {tuple(target.shape)}")
        return self.encoder((target + 1) / 2 if self.layout.zero_to_one else target)

    def generate(self, maps: list[Tensor], embedding: Tensor) -> Tensor:
        """Attribute maps of N targets and embeddings (N, D) to swaps (N, 3, R, R) in [-1, 1]. Raises ValueError."""
        if embedding.ndim != 2 or embedding.shape[1] != self.options["embedding_dim"]:
            raise ValueError(f"embedding: expected (N, {self.options['embedding_dim']}), got {tuple(embedding.shape)}")
        if len(embedding) != len(maps[0]):
            raise ValueError(f"batch sizes differ: {len(maps[0])} targets, {len(embedding)} embeddings")
        x = self.start(embedding[:, :, None, None])
        if self.innermost != 2:
            x = F.interpolate(x, (self.innermost, self.innermost), mode="bilinear", align_corners=True)
        for level, (block, attribute) in enumerate(zip(self.blocks, maps, strict=True)):
            x = block(double(x) if level else x, attribute, embedding)
        return x.sigmoid() * 2 - 1 if self.layout.zero_to_one else x.tanh()

    def forward(self, target: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Target (N, 3, R, R) in [-1, 1] and unit embedding (N, D) to the swap, like the target, and the target's
        attribute maps. The colour order is that of the weights. Raises ValueError on other shapes.
        """
        maps = self.attribute_maps(target)
        return self.generate(maps, embedding), maps


_LEAVES = {  # of an AAD layer, taotaonice and mindslab
    "conv1": "attribute_gain", "conv2": "attribute_shift", "fc1": "identity_gain", "fc2": "identity_shift",
    "conv_h": "mask", "fc_1": "identity_gain", "fc_2": "identity_shift", "conv_f": "mask", "BNorm": "norm",
}  # fmt: skip


def original_to_ours(key: str) -> str:
    """Our name of a tensor of either original checkpoint; any other name unchanged.

    encoder.deconv2.bn.weight (taotaonice) and E.Decoder.layer_1.1.weight (mindslab) -> encoder.ups.1.bn.weight.
    """
    if match := re.fullmatch(r"encoder\.conv(\d)\.([01])\.(\w+)|E\.Encoder\.layer_(\d)\.([01])\.(\w+)", key):
        level = int(match[1]) - 1 if match[1] else int(match[4])
        return f"encoder.downs.{level}.{('conv', 'bn')[int(match[2] or match[5])]}.{match[3] or match[6]}"
    if match := re.fullmatch(r"encoder\.deconv(\d)\.(deconv|bn)\.(\w+)", key):
        return f"encoder.ups.{int(match[1]) - 1}.{'bn' if match[2] == 'bn' else 'conv'}.{match[3]}"
    if match := re.fullmatch(r"E\.Decoder\.layer_(\d)\.([01])\.(\w+)", key):
        return f"encoder.ups.{match[1]}.{('conv', 'bn')[int(match[2])]}.{match[3]}"
    if match := re.fullmatch(r"(?:generator\.up1|G\.convt)\.(\w+)", key):
        return f"start.{match[1]}"
    if match := re.fullmatch(r"(?:generator\.AADBlk(\d)|G\.model\.layer_(\d))\.(.+)", key):
        block = f"blocks.{int(match[1]) - 1 if match[1] else match[2]}"
        if conv := re.fullmatch(r"conv([123])\.(\w+)", match[3]):
            return f"{block}.convs.{int(conv[1]) - 1}.{conv[2]}"
        if aad := re.fullmatch(r"(?:AAD|add)([123])\.(\w+)\.(\w+)", match[3]):
            return f"{block}.aads.{int(aad[1]) - 1}.{_LEAVES.get(aad[2], aad[2])}.{aad[3]}"
    return key
