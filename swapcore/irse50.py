"""ArcFace's IR-SE-50: the identity encoder of FaceShifter's public implementation, 43,797,696 parameters.

Own implementation of the network in taotaonice/FaceShifter @376b09e (face_modules; from TreB1eN/InsightFace_Pytorch).
Deng et al., ArcFace, arXiv:1801.07698; the squeeze and excitation units are Hu et al., arXiv:1709.01507.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from swapcore.weights import build_with, read_state

_STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))  # channels, units; the first unit of a stage has stride 2


class SqueezeExcitation(nn.Module):
    """Scales every channel by a number in (0, 1) computed from all channel means."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.excite = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()


class Unit(nn.Module):
    """Improved residual unit. Where the width stays, the shortcut has no parameters: it subsamples by the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int, se: bool) -> None:
        super().__init__()
        self.stride = stride
        self.residual = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            *([SqueezeExcitation(outputs)] if se else []),
        )
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if inputs != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(x) if self.shortcut else x[:, :, :: self.stride, :: self.stride]
        return self.residual(x) + shortcut


class IRSE50(nn.Module):
    """Option: se, squeeze and excitation; without it this is IR-50, 43,574,976 parameters."""

    def __init__(self, se: bool = True) -> None:
        super().__init__()
        self.options = {"se": se}
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        units, inputs = [], 64
        for outputs, count in _STAGES:
            units += [Unit(outputs if i else inputs, outputs, 1 if i else 2, se) for i in range(count)]
            inputs = outputs
        self.units = nn.ModuleList(units)
        self.head = nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(0.6), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512)
        )

    def maps(self, faces: Tensor) -> list[Tensor]:
        """The outputs of the 24 units: 3 of (N, 64, 56, 56), 4 of 128x28x28, 14 of 256x14x14, 3 of 512x7x7."""
        if faces.ndim != 4 or tuple(faces.shape[1:]) != (3, 112, 112):
            raise ValueError(f"faces: expected (N, 3, 112, 112), got {tuple(faces.shape)}")
        x, maps = self.stem(faces), []
        for unit in self.units:
            x = unit(x)
            maps.append(x)
        return maps

    def forward(self, faces: Tensor) -> tuple[Tensor, list[Tensor]]:
        """ArcFace crops (N, 3, 112, 112) in [-1, 1] to unit embeddings (N, 512) and the outputs of the 24 units.

        The colour order is that of the weights, BGR for taotaonice/FaceShifter's. Raises ValueError on another shape.
        """
        maps = self.maps(faces)
        return F.normalize(self.head(maps[-1]).float()), maps


_NAMES = (
    ("input_layer.", "stem."), ("output_layer.", "head."), ("body.", "units."), (".res_layer.", ".residual."),
    (".shortcut_layer.", ".shortcut."), (".5.fc1.", ".5.squeeze."), (".5.fc2.", ".5.excite."),
)  # fmt: skip


def original_to_ours(key: str) -> str:
    """Our name of a tensor of the original: body.3.res_layer.5.fc1.weight -> units.3.residual.5.squeeze.weight."""
    for theirs, ours in _NAMES:
        key = re.sub(f"^{re.escape(theirs)}" if theirs[0] != "." else re.escape(theirs), ours, key)
    return key


def load_irse50(path: str | Path) -> IRSE50:
    """The frozen network of an original state dict, IR-SE-50 or IR-50. Raises ValueError naming file and tensor."""
    state = read_state(path)
    se = any(".res_layer.5.fc1." in key for key in state)
    return build_with(lambda: IRSE50(se), state, path, original_to_ours).eval().requires_grad_(False)
