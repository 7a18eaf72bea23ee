"""The MobileFSGAN generator (2,517,781 parameters at its defaults).

Own implementation of the network of HoiM/MobileFSGAN @478175b. All layers have the same width. A head feeds two
encoders: the attribute encoder keeps the target's appearance as 12 maps at three scales; the identity encoder is a
U-Net whose blocks are all modulated by the source's embedding. The decoder starts from the identity features at quarter
resolution, mixes the attribute maps in, last to first, and emits an image at every scale.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from swapcore.weights import load_strictly, unwrap

from .contract import check_inputs, check_options

_SLOPE = 0.01
_ATTRIBUTE_BLOCKS = (2, 3, 4)  # residual blocks at full, half and quarter resolution
_IDENTITY_SCALES = 6  # full resolution down to 1/32
_IDENTITY_UPS = 3  # back up to quarter resolution


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE)


class AttributeBlock(nn.Module):
    """Normalise, 1x1, 3x3; the caller adds the result to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm2d(width)
        self.conv1x1 = nn.Conv2d(width, width, 1)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3x3(_lrelu(self.conv1x1(self.normalize(x))))


class IdentityBlock(nn.Module):
    """Residual block whose normalised input is scaled and shifted by the embedding. The gain is not 1 + gain."""

    def __init__(self, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm2d(width, affine=False)
        self.shift = nn.Linear(embedding_dim, width)
        self.gain = nn.Linear(embedding_dim, width)
        self.conv1x1 = nn.Conv2d(width, width, 1)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        gain, shift = self.gain(embedding)[:, :, None, None], self.shift(embedding)[:, :, None, None]
        y = _lrelu(self.normalize(x) * gain + shift)
        return x + self.conv3x3(_lrelu(self.conv1x1(y)))


class Down(nn.Module):
    """Half the resolution by a 4x4 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 4, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return _lrelu(self.conv(self.normalize(x)))


class Up(nn.Module):
    """Twice the resolution: bilinear with aligned corners, then a 3x3 convolution on reflected borders."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(self.normalize(x), scale_factor=2.0, mode="bilinear", align_corners=True)
        return _lrelu(self.conv(F.pad(x, (1, 1, 1, 1), mode="reflect")))


class DecoderBlock(nn.Module):
    """Residual block that mixes an attribute map in by a learned mask. The original's masks are unbounded."""

    def __init__(self, width: int, bounded: bool) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, 1, 1)
        self.block = AttributeBlock(width)
        self.bounded = bounded

    def forward(self, x: Tensor, attribute: Tensor) -> Tensor:
        mask = self.mix(x).sigmoid() if self.bounded else self.mix(x)
        return x + self.block(mask * x + (1 - mask) * attribute)


class Head(nn.Module):
    """The first convolutions; returns the inputs of the attribute encoder and of the identity encoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_image = nn.Conv2d(3, width, 3, padding=1)
        self.conv1x1 = nn.Conv2d(width, width, 1)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        attribute = _lrelu(self.conv_image(image))
        return attribute, self.conv3x3(_lrelu(self.conv1x1(attribute)))


class AttributeEncoder(nn.Module):
    """12 maps of the target: 3 at full, 4 at half and 5 at quarter resolution, in that order."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            nn.ModuleList(AttributeBlock(width) for _ in range(count)) for count in _ATTRIBUTE_BLOCKS
        )
        self.downs = nn.ModuleList(Down(width) for _ in _ATTRIBUTE_BLOCKS[1:])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for scale, blocks in enumerate(self.scales):
            if scale:
                x = self.downs[scale - 1](x)
            maps.append(x)
            for block in blocks:
                x = x + block(x)
                maps.append(x)
        return maps


class IdentityUNet(nn.Module):
    """Down to 1/32 and up to 1/4 of the resolution, a modulated block at every scale both ways."""

    def __init__(self, width: int, embedding_dim: int) -> None:
        super().__init__()
        self.down_blocks = nn.ModuleList(IdentityBlock(width, embedding_dim) for _ in range(_IDENTITY_SCALES))
        self.downs = nn.ModuleList(Down(width) for _ in range(_IDENTITY_SCALES - 1))
        self.ups = nn.ModuleList(Up(width) for _ in range(_IDENTITY_UPS))
        self.up_blocks = nn.ModuleList(IdentityBlock(width, embedding_dim) for _ in range(_IDENTITY_UPS))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        skips = []
        for scale, block in enumerate(self.down_blocks):
            if scale:
                x = self.downs[scale - 1](x)
            x = block(x, embedding)
            skips.append(x)
        for level, (up, block) in enumerate(zip(self.ups, self.up_blocks, strict=True)):
            x = block(up(x) + skips[-2 - level], embedding)
        return x


class ImageHead(nn.Module):
    """Features to an image in [-1, 1]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).tanh()


class Decoder(nn.Module):
    """Identity features at quarter resolution and the attribute maps to images at quarter, half and full resolution."""

    def __init__(self, width: int, bounded_masks: bool) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.ModuleList(DecoderBlock(width, bounded_masks) for _ in range(count + 1))
            for count in reversed(_ATTRIBUTE_BLOCKS)
        )
        self.ups = nn.ModuleList(Up(width) for _ in _ATTRIBUTE_BLOCKS[1:])
        self.images = nn.ModuleList(ImageHead(width) for _ in _ATTRIBUTE_BLOCKS)

    def forward(self, x: Tensor, attributes: list[Tensor]) -> list[Tensor]:
        remaining = list(attributes)
        images = []
        for scale, blocks in enumerate(self.stages):
            if scale:
                x = self.ups[scale - 1](x)
            for block in blocks:
                x = block(x, remaining.pop())
            images.append(self.images[scale](x))
        return images


class MobileFSGAN(nn.Module):
    """The generator of HoiM/MobileFSGAN @478175b.

    Options: width (channels everywhere), embedding_dim, resolution (a multiple of 32, at least 64; it only fixes the
    accepted input size), bounded_masks. Wrong options raise ValueError.

    A mask of the original multiplies the features that it was computed from, so features that are somewhat too large
    are squared in every block of the decoder. Batch statistics prevent that in training; in evaluation some pictures
    come out as NaN (docs/students.md). bounded_masks passes the masks through a sigmoid, unlike the
    original.
    """

    name = "mobilefsgan"

    def __init__(
        self, width: int = 64, embedding_dim: int = 512, resolution: int = 256, bounded_masks: bool = False
    ) -> None:
        super().__init__()
        check_options(resolution, width=width, embedding_dim=embedding_dim)
        self.options = {
            "width": width, "embedding_dim": embedding_dim, "resolution": resolution, "bounded_masks": bounded_masks,
        }  # fmt: skip
        self.head = Head(width)
        self.identity = IdentityUNet(width, embedding_dim)
        self.attribute = AttributeEncoder(width)
        self.decoder = Decoder(width, bounded_masks)

    def forward(self, target: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Target (N, 3, R, R) in [-1, 1] and unit embedding (N, D) to swaps in [-1, 1] of R, R/2 and R/4 pixels.

        Raises ValueError on other shapes.
        """
        check_inputs(target, embedding, self.options["resolution"], self.options["embedding_dim"])
        attribute_input, identity_input = self.head(target)
        maps = self.attribute(attribute_input)
        quarter, half, full = self.decoder(self.identity(identity_input, embedding), maps)
        return full, half, quarter

    def attribute_maps(self, target: Tensor) -> list[Tensor]:
        """The 12 attribute maps (N, width, r, r) of a target: r = R three times, R/2 four times, R/4 five times."""
        return self.attribute(self.head(target)[0])


def _original_prefixes() -> dict[str, str]:
    """Module prefix of the original checkpoint -> ours. The original names its modules by pixels at resolution 256."""
    prefixes = {"encoder_head": "head"}
    for scale in range(_IDENTITY_SCALES):
        pixels = 256 >> scale
        prefixes[f"identity_encoder.b{pixels}_down"] = f"identity.down_blocks.{scale}"
        if scale:
            prefixes[f"identity_encoder.down{pixels}"] = f"identity.downs.{scale - 1}"
    for level in range(_IDENTITY_UPS):
        pixels = 16 << level
        prefixes[f"identity_encoder.up{pixels}"] = f"identity.ups.{level}"
        prefixes[f"identity_encoder.b{pixels}_up"] = f"identity.up_blocks.{level}"
    for scale, count in enumerate(_ATTRIBUTE_BLOCKS):
        pixels, stage = 256 >> scale, len(_ATTRIBUTE_BLOCKS) - 1 - scale
        for block in range(count):
            prefixes[f"attribute_encoder.b{pixels}_{block + 1}"] = f"attribute.scales.{scale}.{block}"
        if scale:
            prefixes[f"attribute_encoder.downsample{pixels}"] = f"attribute.downs.{scale - 1}"
        # The original numbers a decoder block by its attribute map; the maps are consumed last to first.
        for attribute in range(count + 1):
            prefixes[f"decoder.b{pixels}_{attribute}"] = f"decoder.stages.{stage}.{count - attribute}"
        prefixes[f"decoder.image{pixels}_output"] = f"decoder.images.{stage}"
        if stage:
            prefixes[f"decoder.up{pixels}"] = f"decoder.ups.{stage - 1}"
    return prefixes


_ORIGINAL_LEAVES = {"fc_mean": "shift", "fc_var": "gain", "conv_attention": "mix", "basic_block": "block"}


def original_to_ours(key: str) -> str:
    """Our name of a tensor of the original checkpoint: decoder.up128.conv.weight -> decoder.ups.0.conv.weight.

    Raises ValueError for a key that the original does not have.
    """
    match = re.match(r"(?:module\.)?(encoder_head|\w+\.\w+)\.(.+)", key)
    prefix = _original_prefixes().get(match[1]) if match else None
    if match is None or prefix is None:
        raise ValueError(f"not a tensor of a MobileFSGAN checkpoint: {key}")
    return ".".join([prefix, *(_ORIGINAL_LEAVES.get(part, part) for part in match[2].split("."))])


def load_original(checkpoint: Mapping, resolution: int = 256) -> MobileFSGAN:
    """A generator from a state dict in the layout of HoiM/MobileFSGAN @478175b, every tensor used exactly once.

    `module.` prefixes of data-parallel training and wrappers {"state_dict": ...} or {"generator": ...} are accepted.
    Width and embedding size are read from the tensors. Raises ValueError naming the first key that does not fit.
    """
    where = "MobileFSGAN checkpoint"
    tensors = unwrap(checkpoint, where)
    state = {original_to_ours(key): tensor for key, tensor in tensors.items()}
    image, gain = state.get("head.conv_image.weight"), state.get("identity.down_blocks.0.gain.weight")
    if image is None or gain is None:
        raise ValueError(
            f"{where}: it lacks encoder_head.conv_image.weight or identity_encoder.b256_down.fc_var.weight"
        )
    generator = MobileFSGAN(width=image.shape[0], embedding_dim=gain.shape[1], resolution=resolution)
    load_strictly(generator, state, where)
    return generator
