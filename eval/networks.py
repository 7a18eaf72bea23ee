"""Networks that read faces, each with its preprocessing: canonical crops (N, 3, S, S) in [-1, 1] to its own crop.

FaceRegressor is ours. FaceParameters is the network of 3DDFA_V2 (Guo et al., ECCV 2020, arXiv:2009.09960). FSA-Net
(Yang et al., CVPR 2019) is run from ONNX files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swapcore import frame
from swapcore.onnx import Session
from swapcore.three_ddfa import ThreeDDFA

POSE_UNIT_DEG = 15.0  # FaceRegressor gives angles in this unit, so that all its outputs have a deviation near one
FRAME = 256  # side in pixels of the frame to which the coordinates of all crops below refer


class FaceRegressor(nn.Module):
    """Plain convolutions that regress the known numbers of a synthetic face: identity, or pose and expression.

    Each stage is a stride-2 convolution with batch norm and ReLU, then `depth` - 1 more of stride 1. The last map is
    flattened, not averaged, since positions in the face matter. No residual or depthwise convolutions and no
    bottleneck: it shares no design with the encoders that train students. Raises ValueError if input_size is not a
    multiple of 2 to the number of stages.
    """

    def __init__(
        self, outputs: int, widths: Sequence[int] = (32, 64, 128, 192), depth: int = 1, input_size: int = 64
    ) -> None:
        super().__init__()
        if outputs < 1 or depth < 1 or not widths or input_size % 2 ** len(widths):
            raise ValueError(
                f"FaceRegressor: expected outputs and depth of at least 1 and an input_size that is a multiple of "
                f"{2 ** len(widths)}, got {outputs}, {depth} and {input_size}"
            )
        layers: list[nn.Module] = []
        before = 3
        for width in widths:
            for stride in (2, *[1] * (depth - 1)):
                layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
                before = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(before * (input_size // 2 ** len(widths)) ** 2, outputs)

    def forward(self, faces: Tensor) -> Tensor:
        """Prepared faces (N, 3, input_size, input_size) in [-1, 1] to (N, outputs), each with a deviation near one."""
        return self.head(self.features(faces).flatten(1))


def regressed_angles_deg(outputs: Tensor) -> Tensor:
    """Yaw, pitch, roll in degrees, (N, 3), of a FaceRegressor's outputs."""
    return outputs[:, :3] * POSE_UNIT_DEG


def inner_square(images: Tensor, size: int = 64) -> Tensor:
    """Rows and columns 26 to 229 of 256, antialiased bilinear: (N, 3, size, size) in [-1, 1]."""
    faces = frame.inner_square(images)
    return F.interpolate(faces, (size, size), mode="bilinear", align_corners=False, antialias=True)


class FaceParameters(ThreeDDFA):
    """3DDFA_V2's network: 62 numbers of the face model, 12 of a 3x4 matrix (row by row), 40 of shape, 10 of expression.

    mean, std: (62,), the published scale of the outputs; 0 and 1 until they are set.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(62), persistent=False)
        self.register_buffer("std", torch.ones(62), persistent=False)

    def forward(self, faces: Tensor) -> Tensor:
        """Prepared faces (N, 3, 120, 120) to (N, 62)."""
        return self.fc_param(self.pooled(faces)) * self.std + self.mean


def face_parameters_crop(images: Tensor) -> Tensor:
    """The square from (x 0.2, y 33.6) with side 258 of 256, black outside: (N, 3, 120, 120) BGR, (x - 127.5) / 128.

    Sampled at pixel centres 0.2 + 2.15 k without smoothing: this reproduces the published angles of known photographs
    within 0.2 degrees; OpenCV's pixel centres are up to 2 degrees off. Larger frames are first brought to 256.
    """
    if images.shape[-1] > FRAME:
        images = F.interpolate(images, (FRAME, FRAME), mode="bilinear", align_corners=False, antialias=True)
    step = torch.arange(120, device=images.device, dtype=images.dtype) * (258 / 120)
    x, y = (2 * (start + step + 0.5) / FRAME - 1 for start in (0.2, 33.6))
    grid = torch.stack([x.expand(120, 120), y[:, None].expand(120, 120)], dim=-1)
    # Shifted to [0, 2], so that the zeros outside are black.
    faces = F.grid_sample(images + 1, grid.expand(len(images), -1, -1, -1), align_corners=False)
    return (faces - 1).flip(1) * (127.5 / 128)


def euler_angles_deg(parameters: Tensor) -> Tensor:
    """Yaw, pitch, roll in degrees, (N, 3), of (N, 62) face parameters.

    As 3DDFA_V2's utils/pose.py, which counts all three in the other direction than this project, without its special
    case for yaw beyond 86 degrees, where pitch and roll are one angle.
    """
    matrix = parameters[:, :12].reshape(-1, 3, 4)
    right, down = F.normalize(matrix[:, 0, :3]), F.normalize(matrix[:, 1, :3])
    forward = torch.linalg.cross(right, down)
    yaw = torch.asin(forward[:, 0].clamp(-1, 1))
    pitch = torch.atan2(forward[:, 1], forward[:, 2])
    roll = torch.atan2(down[:, 0], right[:, 0])
    return torch.rad2deg(torch.stack([yaw, pitch, roll], dim=1))


class FSANet(nn.Module):
    """Two FSA-Nets in ONNX files, their angles averaged. Raises ValueError without onnxruntime or on other files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.sessions = [Session(path, providers=["CPU"], threads=torch.get_num_threads()) for path in paths]
        for session in self.sessions:
            session.fit({"": (3, 64, 64)}, (3,))

    def forward(self, faces: Tensor) -> Tensor:
        """Prepared faces (N, 3, 64, 64) to yaw, pitch, roll in degrees, (N, 3) on the faces' device."""
        return torch.stack([session(faces) for session in self.sessions]).mean(0)


def fsanet_crop(images: Tensor) -> Tensor:
    """Rows 45 to 234 and columns 60 to 197 of 256, bilinear: (N, 3, 64, 64) BGR, (x - 127.5) / 128."""
    side = images.shape[-1]
    top, bottom, left, right = (round(edge * side / FRAME) for edge in (45, 235, 60, 198))
    faces = F.interpolate(images[:, :, top:bottom, left:right], (64, 64), mode="bilinear", align_corners=False)
    return faces.flip(1) * (127.5 / 128)
