"""MobileFaceNet (Chen et al. 2018, arXiv 1804.07573), one class for its three published variants.

Own implementation of the networks of HoiM/MobileFSGAN @478175b, foamliu/MobileFaceNet @a6cc903 and
Xiaoccer/MobileFaceNet_Pytorch @26bd8d2. Options cover their differences; one table renames their tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

_ACTIVATIONS = {
    "prelu": nn.PReLU,
    "relu": lambda channels: nn.ReLU(),
    "relu6": lambda channels: nn.ReLU6(),
    "none": lambda channels: nn.Identity(),
}


class Unit(nn.Module):
    """Convolution without bias, batch normalisation, activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        activation: str = "prelu",
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.act = _ACTIVATIONS[activation](outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


def fold(module: nn.Module) -> None:
    """Make the batch normalisation `bn` of a module in evaluation mode part of its layer `conv` or `linear`, in place.
    Without both it does nothing."""
    bn = getattr(module, "bn", None)
    if not isinstance(bn, nn.BatchNorm1d | nn.BatchNorm2d):
        return
    if isinstance(getattr(module, "conv", None), nn.Conv2d):
        module.conv, module.bn = fuse_conv_bn_eval(module.conv, bn), nn.Identity()
    elif isinstance(getattr(module, "linear", None), nn.Linear):
        module.linear, module.bn = fuse_linear_bn_eval(module.linear, bn), nn.Identity()


class Bottleneck(nn.Sequential):
    """Expand by 1x1, filter depthwise by 3x3, project by 1x1; residual if the shape stays."""

    def __init__(self, inputs: int, outputs: int, expanded: int, stride: int, activation: str) -> None:
        super().__init__(
            Unit(inputs, expanded, activation=activation),
            Unit(expanded, expanded, 3, stride, 1, groups=expanded, activation=activation),
            Unit(expanded, outputs, activation="none"),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return x + y if self.residual else y


# output channels, expanded channels, blocks, stride of the first block
_STAGES = ((64, 128, 5, 2), (128, 256, 1, 2), (128, 256, 6, 1), (128, 512, 1, 2), (128, 256, 2, 1))
_STAGE_ENDS = (4, 11, 14)  # blocks whose output is the last of its size


class MobileFaceNet(nn.Module):
    """1,200,512 parameters and 512 dimensions at its defaults.

    Options: embedding_dim; width, a multiplier whose channel counts are rounded to multiples of 8; input_size (height,
    width), which sets the size of the last depthwise kernel; activation "prelu" or "relu6"; stem_pointwise adds a 1x1
    after the first depthwise convolution, with ReLU in both, and embedding_bias a bias before the last normalisation
    (foamliu's variant has both).
    """

    def __init__(
        self,
        embedding_dim: int = 512,
        width: float = 1.0,
        input_size: tuple[int, int] = (112, 112),
        activation: str = "prelu",
        stem_pointwise: bool = False,
        embedding_bias: bool = False,
    ) -> None:
        super().__init__()

        def scaled(count: int) -> int:
            return max(8, round(count * width / 8) * 8)

        channels = scaled(64)
        stem = [Unit(3, channels, 3, 2, 1, activation=activation)]
        second = "relu" if stem_pointwise else activation
        stem.append(Unit(channels, channels, 3, 1, 1, groups=channels, activation=second))
        if stem_pointwise:
            stem.append(Unit(channels, channels, activation=second))
        self.stem = nn.Sequential(*stem)

        blocks = []
        for outputs, expanded, count, stride in _STAGES:
            for block in range(count):
                outputs_now = scaled(outputs)
                blocks.append(
                    Bottleneck(channels, outputs_now, scaled(expanded), 1 if block else stride, activation=activation)
                )
                channels = outputs_now
        self.blocks = nn.Sequential(*blocks)

        self.map_channels = last = scaled(512)
        final_map = tuple(math.ceil(pixels / 16) for pixels in input_size)
        self.head = nn.Sequential(
            Unit(channels, last, activation=activation),
            Unit(last, last, final_map, groups=last, activation="none"),
        )
        self.linear = nn.Linear(last, embedding_dim, bias=embedding_bias)
        self.bn = nn.BatchNorm1d(embedding_dim)

    def maps(self, faces: Tensor) -> list[Tensor]:
        """Feature maps after the stem and after each stage that halves the size: 1/2, 1/4, 1/8 and 1/16."""
        maps = [self.stem(faces)]
        x = maps[0]
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _STAGE_ENDS:
                maps.append(x)
        return maps

    def identity_map(self, faces: Tensor) -> Tensor:
        """The last feature map, which `embed` reduces to an embedding: (N, 512, h / 16, w / 16) at width 1."""
        return self.narrow(self.blocks(self.stem(faces)))

    def narrow(self, last_map: Tensor) -> Tensor:
        """The last of `maps` to the identity map."""
        return self.head[0](last_map)

    def embed(self, identity_map: Tensor) -> Tensor:
        """Identity maps to embeddings (N, embedding_dim), not yet of unit length."""
        return self.bn(self.linear(self.head[1](identity_map).flatten(1)))

    def forward(self, faces: Tensor) -> Tensor:
        """Prepared faces (N, 3, *input_size) to embeddings (N, embedding_dim), not yet of unit length."""
        return self.embed(self.identity_map(faces))


_PARTS = ("conv", "bn", "act")
_EXPANSION = {"conv": 0, "conv_dw": 1, "project": 2}
_STAGE_STARTS = {"23": 0, "3": 1, "34": 5, "4": 6, "45": 12, "5": 13}

# The three published layouts, first match wins: HoiM's conv_N names, foamliu's features, Xiaoccer's flat blocks.
_RENAMES = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (
            r"conv_(\d+)\.(?:model\.(\d+)\.)?(conv|conv_dw|project)\.",
            lambda m: f"blocks.{_STAGE_STARTS[m[1]] + int(m[2] or 0)}.{_EXPANSION[m[3]]}.",
        ),
        (r"features\.(\d+)\.conv\.([01])\.([01])\.", lambda m: f"blocks.{m[1]}.{m[2]}.{_PARTS[int(m[3])]}."),
        (r"features\.(\d+)\.conv\.([23])\.", lambda m: f"blocks.{m[1]}.2.{_PARTS[int(m[2]) - 2]}."),
        (r"blocks\.(\d+)\.conv\.(\d)\.", lambda m: f"blocks.{m[1]}.{int(m[2]) // 3}.{_PARTS[int(m[2]) % 3]}."),
        (r"dw_conv\.depthwise\.", "stem.1.conv."),
        (r"dw_conv\.pointwise\.", "stem.2.conv."),
        (r"dw_conv\.bn([12])\.", r"stem.\1.bn."),
        (r"conv1\.([01])\.", lambda m: f"stem.0.{_PARTS[int(m[1])]}."),
        (r"conv2\.([01])\.", lambda m: f"head.0.{_PARTS[int(m[1])]}."),
        (r"conv1\.", "stem.0."),
        (r"(?:conv2_dw|dw_conv1)\.", "stem.1."),
        (r"(?:conv_6_sep|conv2)\.", "head.0."),
        (r"gdconv\.depthwise\.", "head.1.conv."),
        (r"(?:conv_6_dw|linear7|gdconv)\.", "head.1."),
        (r"(?:linear1\.conv|conv3)\.", "linear."),
        (r"linear1\.bn\.", "bn."),
    )
)


def _our_key(key: str) -> str:
    key = key.removeprefix("module.")
    for pattern, new in _RENAMES:
        renamed, count = pattern.subn(new, key, count=1) if pattern.match(key) else (key, 0)
        if count:
            return renamed.replace(".prelu.", ".act.")
    return key


def original_to_ours(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of any of the three published layouts, or of ours, under our names and shapes."""
    state = {_our_key(key): tensor for key, tensor in checkpoint.items()}
    weight = state.get("linear.weight")
    return state if weight is None or weight.ndim == 2 else {**state, "linear.weight": weight.flatten(1)}
