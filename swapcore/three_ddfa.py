"""The MobileNet-v1 of cleardusk/3DDFA_V2 @1b6c676 (Guo et al., ECCV 2020, arXiv:2009.09960), half as wide as usual.

Teachers use its landmarks, the evaluation uses its face parameters; both load the same published weights. The network
of cleardusk/3DDFA @f2b1e1e, the version before it, has the same blocks at full width.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

INPUT_SIZE = 120  # pixels, height = width
BLOCKS = {
    "dw2_1": (32, 1), "dw2_2": (64, 2), "dw3_1": (64, 1), "dw3_2": (128, 2), "dw4_1": (128, 1), "dw4_2": (256, 2),
    "dw5_1": (256, 1), "dw5_2": (256, 1), "dw5_3": (256, 1), "dw5_4": (256, 1), "dw5_5": (256, 1), "dw5_6": (512, 2),
    "dw6": (512, 1),
}  # fmt: skip
HEADS = {"fc_param": 62, "fc_lm": 136}


class _Separable(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.bn_dw = nn.BatchNorm2d(inputs)
        self.conv_sep = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn_sep = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn_sep(self.conv_sep(F.relu(self.bn_dw(self.conv_dw(x))))))


class ThreeDDFA(nn.Module):
    """The backbone and its heads, under the names of the published weights. A subclass applies one head in `forward`.

    fc_param gives the 62 parameters of the face model, fc_lm the 68 landmarks that the original only trains with.
    wider: factor of all channels. heads: outputs by name.
    """

    def __init__(self, wider: int = 1, heads: Mapping[str, int] = HEADS) -> None:
        super().__init__()
        width = 16 * wider
        self.conv1 = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for name, (outputs, stride) in BLOCKS.items():
            self.add_module(name, _Separable(width, outputs * wider, stride))
            width = outputs * wider
        for name, outputs in heads.items():
            self.add_module(name, nn.Linear(width, outputs))

    def pooled(self, faces: Tensor) -> Tensor:
        """Faces (N, 3, 120, 120) BGR, (x - 127.5) / 128, to the features (N, 512 x wider) that the heads take."""
        x = F.relu(self.bn1(self.conv1(faces)))
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))
