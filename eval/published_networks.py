"""Networks with which other people's papers measure, in their published layouts, each with its preparation.

Facts are taken from these repositories, code is not:

- Sphere20: SphereFace-20 (Liu et al., CVPR 2017, arXiv:1704.08063) trained as CosFace (Wang et al., CVPR 2018,
  arXiv:1801.09414). Layout: MuggleWang/CosFace_pytorch @191354b, net.py.
- Hopenet (Ruiz et al., CVPRW 2018, arXiv:1710.00925). Layout: natanielruiz/deep-head-pose @4b67b5c, code/hopenet.py.
- WhitenedParameters: the first 3DDFA (Zhu et al., TPAMI 2017, arXiv:1804.01005). Layout: cleardusk/3DDFA @f2b1e1e.
- IR-SE-50 of ArcFace is swapcore/irse50.py; its preparation, with masks, is here.
- Reconstruction: Deng et al., CVPRW 2019, arXiv:1903.08527. Layout: sicxu/Deep3DFaceRecon_pytorch, as copied to
  Sanoojan/REFace @2965289, eval_tool/Deep3DFaceRecon_pytorch_edit/models/networks.py.

The preparations are those of the evaluations that use them: CASIA-NLPRAI/face-swapping-survey @716cc94
(eval_faceswap), ygtxr1997/ReliableSwap @a9fdce6 (inference/ffplus/eval.py), Sanoojan/REFace @2965289 (eval_tool).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swapcore.frame import CANONICAL, similarity
from swapcore.images import IMAGENET_MEAN, IMAGENET_STD
from swapcore.three_ddfa import INPUT_SIZE, ThreeDDFA

BINS, BIN_DEG, FIRST_BIN_DEG = 66, 3, -99  # of Hopenet: bin k of an angle stands for 3 k - 99 degrees
# Left eye, right eye, nose tip, left mouth corner, right mouth corner as (x, y) in pixels of 112 rows x 96 columns.
SPHERE_POINTS = ((30.2946, 51.6963), (65.5318, 51.6963), (48.0252, 71.7366), (33.5493, 92.3655), (62.7299, 92.3655))
SPHERE_ROWS, SPHERE_COLUMNS = 112, 96


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.prelu1 = nn.PReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.prelu2 = nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.prelu2(self.conv2(self.prelu1(self.conv1(x))))


class Sphere20(nn.Module):
    """Twenty convolutions in four stages, each of one with stride 2 and 1, 2, 4 or 1 residual blocks; a linear layer.

    columns: width of the faces in pixels, a multiple of 16, which decides the size of the linear layer.
    """

    def __init__(self, columns: int = SPHERE_COLUMNS) -> None:
        super().__init__()
        before = 3
        for stage, (width, blocks) in enumerate(((64, 1), (128, 2), (256, 4), (512, 1)), 1):
            layers = [nn.Conv2d(before, width, 3, 2, 1), nn.PReLU(width), *(_Residual(width) for _ in range(blocks))]
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
            before = width
        self.fc = nn.Linear(before * (SPHERE_ROWS // 16) * (columns // 16), 512)

    def forward(self, faces: Tensor) -> Tensor:
        """Faces (N, 3, 112, columns) RGB in [-1, 1] to embeddings (N, 512), which are not of unit length."""
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            faces = stage(faces)
        return self.fc(faces.flatten(1))


class Hopenet(nn.Module):
    """ResNet-50 with three heads of 66 bins. fc_finetune is in the published file and in no use."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _resnet50()
        for name in ("yaw", "pitch", "roll"):
            self.add_module(f"fc_{name}", nn.Linear(2048, BINS))
        self.fc_finetune = nn.Linear(2051, 3)

    @staticmethod
    def renamed(key: str) -> str:
        """Our name of a tensor of the published file, in which the backbone has no name of its own."""
        return key if key.startswith("fc_") else f"backbone.{key}"

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (N, 3, 224 to 447, the same) to the logits (N, 198) of yaw, pitch and roll, 66 of each.

        Of more than 224 pixels, the last map is larger than the 7 x 7 that are averaged: the rest is not read.
        """
        x = F.avg_pool2d(_maps(self.backbone, images), 7)[:, :, 0, 0]
        return torch.cat([self.fc_yaw(x), self.fc_pitch(x), self.fc_roll(x)], 1)


def angles_of_bins_deg(logits: Tensor) -> Tensor:
    """Yaw, pitch and roll in degrees (N, 3), the expected values of the softmax of logits (N, 198)."""
    shares = logits.unflatten(1, (3, BINS)).softmax(2)
    return shares @ torch.arange(BINS, dtype=shares.dtype, device=shares.device) * BIN_DEG + FIRST_BIN_DEG


class WhitenedParameters(ThreeDDFA):
    """3DDFA's first network: 62 whitened numbers, 12 of pose, 40 of shape and 10 of expression."""

    def __init__(self) -> None:
        super().__init__(wider=2, heads={"fc": 62})

    def forward(self, faces: Tensor) -> Tensor:
        """Prepared faces (N, 3, 120, 120) to (N, 62)."""
        return self.fc(self.pooled(faces))


class Reconstruction(nn.Module):
    """ResNet-50 with seven heads: identity 80, expression 64, texture 80, angles 3, light 27, place 2 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = _resnet50()
        self.final_layers = nn.ModuleList(nn.Conv2d(2048, size, 1) for size in (80, 64, 80, 3, 27, 2, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) RGB in [0, 1] to the 64 coefficients of expression (N, 64)."""
        pooled = _maps(self.backbone, images).mean((2, 3), keepdim=True)
        return self.final_layers[1](pooled).flatten(1)


def _resnet50() -> nn.Module:
    from torchvision.models import resnet50  # imported here because it is slow

    network = resnet50()
    del network.fc, network.avgpool
    return network


def _maps(network: nn.Module, x: Tensor) -> Tensor:
    """The last maps (N, 2048, H / 32, W / 32) of a ResNet-50 of torchvision."""
    x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
    return x


def sphere_faces(images: Tensor, landmarks: Tensor | None = None) -> Tensor:
    """Pictures (N, 3, S, S) to faces (N, 3, 112, 96), the five points of each at SPHERE_POINTS, black outside.

    landmarks: (N, 5, 2) as fractions of the side; None for canonical crops, whose points are all the same. As
    face_align.py of CASIA-NLPRAI/face-swapping-survey @716cc94: rotated by least squares, scaled by the spread of the
    points, bilinear without smoothing. Raises ValueError on landmarks that form no face.
    """
    target = torch.tensor(SPHERE_POINTS) + 0.5  # coordinates of pixels' corners, as landmarks are
    if landmarks is None:
        landmarks = torch.tensor(CANONICAL)[None]
    if not torch.isfinite(landmarks).all() or (landmarks.flatten(0, -3).std(1) < 1e-3).any():
        raise ValueError("landmarks: expected five points of a face for each picture; detect them again")
    to_image = torch.stack([_by_spread(target, points.cpu()) for points in landmarks]).to(images)
    row = torch.arange(SPHERE_ROWS, device=images.device, dtype=images.dtype) + 0.5
    column = torch.arange(SPHERE_COLUMNS, device=images.device, dtype=images.dtype) + 0.5
    pixels = torch.stack([column.expand(SPHERE_ROWS, -1), row[:, None].expand(-1, SPHERE_COLUMNS)], -1)
    places = torch.einsum("nij,hwj->nhwi", to_image[:, :, :2], pixels) + to_image[:, None, None, :, 2]
    grid = (2 * places - 1).expand(len(images), -1, -1, -1)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # shifted, so that the zeros outside are black


def _by_spread(source: Tensor, target: Tensor) -> Tensor:
    """The transform (2, 3) from points (K, 2) to points (K, 2) that rotates as `similarity` does, but scales by the
    ratio of their standard deviations: more than least squares, unless both have the same form."""
    source, target = source.double(), target.double()
    (a, b), linear = ((points - points.mean(0) for points in (source, target)), similarity(source, target)[:, :2])
    linear = linear / torch.linalg.det(linear).sqrt() * (b.square().mean() / a.square().mean()).sqrt()
    return torch.cat([linear, (target.mean(0) - linear @ source.mean(0))[:, None]], 1)


def whole_frame(images: Tensor, size: int, corners: bool = False) -> Tensor:
    """The whole picture, bilinear without smoothing: (N, 3, size, size). corners: the grid's corners are kept."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=corners)


def masked_faces(images: Tensor, parsing: Tensor, kept: Sequence[int]) -> Tensor:
    """Pictures (N, 3, S, S) to faces (N, 3, 112, 112), as REFace prepares them for IR-SE-50: grey where the parsing map
    (N, 1, M, M) uint8 has none of the classes `kept`, then an inner part, by averages without interpolation."""
    mask = torch.isin(parsing, torch.tensor(kept, dtype=parsing.dtype, device=parsing.device)).to(images)
    faces = whole_frame(images, 112) * whole_frame(mask, 112)
    return F.adaptive_avg_pool2d(F.adaptive_avg_pool2d(faces, 256)[:, :, 35:223, 32:220], 112)


def imagenet_scaled(images: Tensor, unit: bool = True) -> Tensor:
    """Normalised by ImageNet's mean and deviation. unit: from [-1, 1] to [0, 1] first, as ImageNet's numbers expect."""
    mean, std = (images.new_tensor(each).view(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return ((images + 1) / 2 - mean) / std if unit else (images - mean) / std


def whitened_faces(images: Tensor) -> Tensor:
    """The whole picture at 120 x 120 in BGR, (x - 127.5) / 128."""
    return whole_frame(images, INPUT_SIZE).flip(1) * (127.5 / 128)
