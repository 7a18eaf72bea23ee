"""The MobileNet-v1 x 0.5 of cleardusk/3DDFA_V2 @1b6c676 (Guo et al., ECCV 2020, arXiv:2009.09960).

Teachers use its landmarks, the evaluation uses its face parameters; both load the same published weights.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

INPUT_SIZE = 120  # pixels, height = width
BLOCKS = {
    "dw2_1": (32, 1), "dw2_2": (64, 2), "dw3_1": (64, 1), "dw3_2": (128, 2), "dw4_1": (128, 1), "dw4_2": (256, 2),
    "dw5_1": (256, 1), "dw5_2": (256, 1), "dw5_3": (256, 1), "dw5_4": (256, 1), "dw5_5": (256, 1), "dw5_6": (512, 2),
    "dw6": (512, 1),
}  # fmt: skip


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
    """The backbone and both heads, under the names of the published weights. A subclass applies one head in `forward`.

    fc_param gives the 62 parameters of the face model, fc_lm the 68 landmarks that the original only trains with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        width = 16
        for name, (outputs, stride) in BLOCKS.items():
            self.add_module(name, _Separable(width, outputs, stride))
            width = outputs
        self.fc_param = nn.Linear(width, 62)
        self.fc_lm = nn.Linear(width, 136)

    def pooled(self, faces: Tensor) -> Tensor:
        """Faces (N, 3, 120, 120) BGR, (x - 127.5) / 128, to the features (N, 512) that both heads take."""
        x = F.relu(self.bn1(self.conv1(faces)))
        for name in BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))
