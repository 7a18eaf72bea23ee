"""The classical swap without a learned generator: the source's inner face is warped onto the target's landmarks, takes
the target's colours and is blended in with a soft edge.

FaceForensics++ (Roessler et al., ICCV 2019, arXiv:1901.08971) calls this kind FaceSwap, after MarekKowalski/FaceSwap.
That program fits a textured 3D model; here a piecewise-affine map between 68 landmarks warps the picture. Colours
follow Reinhard et al., "Color Transfer between Images" (IEEE CG&A 2001), in CIELAB.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .landmarks import MIRRORED, Landmarks
from .teacher import Teacher

JAW, BROWS, MOUTH_INSIDE = list(range(17)), list(range(17, 27)), list(range(60, 68))
# The symmetric mean of the landmarks of 3,679 photographs, in thousandths of the side. Its mouth is rounded open, so
# that no triangle spans a lip and the gap. All faces share its triangles.
MEAN_SHAPE = torch.tensor([
    223, 471, 230, 547, 245, 617, 260, 682, 280, 754, 315, 816, 358, 861, 416, 902, 500, 925, 585, 902, 642,
    861, 685, 816, 721, 754, 741, 682, 755, 617, 770, 547, 777, 471, 282, 413, 314, 392, 354, 388, 393, 393,
    427, 404, 573, 404, 608, 393, 646, 388, 687, 392, 718, 413, 500, 485, 500, 538, 500, 588, 500, 629, 453,
    653, 473, 659, 500, 665, 527, 659, 547, 653, 334, 474, 358, 460, 394, 460, 426, 478, 396, 487, 360, 487,
    574, 478, 607, 460, 642, 460, 667, 474, 641, 487, 604, 487, 385, 750, 425, 700, 470, 690, 500, 693, 530,
    690, 575, 700, 615, 750, 580, 805, 540, 825, 500, 830, 460, 825, 420, 805, 405, 750, 440, 728, 500, 720,
    560, 728, 595, 750, 560, 776, 500, 784, 440, 776,
]).view(68, 2) / 1000  # fmt: skip
FOREHEAD_SHAPE = (0.4, 0.75, 0.95, 1.0, 1.0, 1.0, 1.0, 0.95, 0.75, 0.4)  # relative height above each brow point
INSET = 0.1  # share of the way to the nose by which the jaw line is moved inwards
MIDDLE = 0.06  # half the width of the strip between the halves of a face, in sides
TURN = (0.2, 0.5)  # turns at which filling begins and ends: yaws of 10 and 27 degrees
OPEN = 0.12  # opening of a mouth that shows its inside, in widths of the mouth
COLOURS = ("lab", "rgb", "none")
CHUNK = 1 << 20  # numbers in one step of the search for triangles; they fit in a CPU's cache


class LandmarkWarpTeacher(Teacher):
    """Piecewise-affine warp, colour transfer and blending, from landmarks alone.

    feather: half the width of the soft edge, in sides; it lies within the face. colour: space of the colour transfer,
    "lab" or "rgb", or "none" for no transfer. forehead: height of the forehead that is swapped, in distances from nose
    to brows. Raises ValueError on wrong options, and NoFace for pictures without a face.
    """

    name = "landmark_warp"
    FILES = {"landmarks": "3ddfa_v2_mb05_120x120.pth of cleardusk/3DDFA_V2 (MIT)"}

    def __init__(
        self,
        weights: Mapping[str, str | Path] | None = None,
        feather: float = 0.025,
        colour: str = "lab",
        forehead: float = 0.3,
    ) -> None:
        super().__init__(weights, version=1, feather=feather, colour=colour, forehead=forehead)
        if colour not in COLOURS:
            raise ValueError(f"teacher '{self.name}': colour: expected {', '.join(COLOURS)}, got '{colour}'")
        if not 0 <= feather <= 0.2 or not 0 < forehead <= 1:
            raise ValueError(
                f"teacher '{self.name}': expected feather within 0 and 0.2 and forehead above 0 and at most 1, got "
                f"{feather} and {forehead}"
            )
        self.feather, self.colour, self.forehead = feather, colour, forehead
        self.landmarks = Landmarks(self.weights["landmarks"])
        mean = mesh_points(MEAN_SHAPE[None], forehead)[0]
        triangles = triangulate(mean)
        self.register_buffer("triangles", triangles, persistent=False)
        inside = torch.isin(triangles, torch.tensor(MOUTH_INSIDE)).all(1)
        self.register_buffer("mouth_inside", inside, persistent=False)
        # Per point: from -1 on the left of the picture to 1 on its right, gradual across the nose.
        side = ((mean[:, 0] - mean[8, 0]) / MIDDLE).clamp(-1, 1)
        self.register_buffer("side", side, persistent=False)

    @torch.no_grad()
    def identity(self, source: Tensor, rows: list[dict] | None = None) -> tuple[Tensor, ...]:
        """Source images (N, 3, H, H) and their landmarks (N, 68, 2) in fractions of the side. Raises NoFace."""
        return source, self.landmarks(source)

    @torch.no_grad()
    def swap(self, identity: tuple[Tensor, ...], target: Tensor, rows: list[dict] | None = None) -> Tensor:
        """Swaps (N, 3, H, H) in the target's size, equal to the target outside the inner face. Raises NoFace."""
        source, points = identity
        return self.lay(source, points, target, self.landmarks(target))

    def lay(self, source: Tensor, source_points: Tensor, target: Tensor, target_points: Tensor) -> Tensor:
        """The swap, given the landmarks (N, 68, 2) of both."""
        mirrored_points = torch.stack([1 - source_points[..., 0], source_points[..., 1]], 2)[:, MIRRORED]
        mesh, mirrored_mesh, target_mesh = (
            mesh_points(points, self.forehead) for points in (source_points, mirrored_points, target_points)
        )
        place = locate(target_mesh, self.triangles, target.shape[-1])
        radius = round(self.feather * target.shape[-1])
        warped = self._fetch(source, mesh, place)
        # The half that turns away from the camera is filled from the other half (Hassner et al., CVPR 2015).
        hidden = interpolate(self._hidden(mesh, target_mesh), place, self.triangles)
        warped = warped + hidden * (self._fetch(source.flip(3), mirrored_mesh, place) - warped)
        # If only the target's mouth is open, the target's mouth is kept: the source shows no mouth inside.
        parted = (mouth_opening(source_points) < OPEN) & (mouth_opening(target_points) > OPEN)
        kept = blur(per_pixel((self.mouth_inside & parted[:, None]).float(), place), max(1, radius // 4))
        mask = soft_inside(place.inside, radius) * (1 - kept)
        coloured = transfer_colour(warped, target.float(), mask, self.colour)
        return (target + mask * (coloured - target)).clamp(-1, 1).to(target.dtype)

    def _fetch(self, images: Tensor, mesh: Tensor, place: Place) -> Tensor:
        where = grid(place, mesh, self.triangles)
        return F.grid_sample(images.float(), where, padding_mode="border", align_corners=False)

    def _turn(self, mesh: Tensor) -> Tensor:
        """Visible area of the right half of meshes (N, 78, 2) minus that of the left, from -1 to 1: (N,)."""
        area = double_area(mesh[:, self.triangles]).clamp_min(0)
        return (area * self.side[self.triangles].mean(1)).sum(1) / area.sum(1).clamp_min(1e-6)

    def _hidden(self, source: Tensor, target: Tensor) -> Tensor:
        """How far each point of meshes (N, 78, 2) is turned away in the source but not in the target, (N, 78)."""
        turn = self._turn(source)
        more = (turn.sign() * (turn - self._turn(target))).minimum(turn.abs())
        amount = ((more - TURN[0]) / (TURN[1] - TURN[0])).clamp(0, 1)
        return amount[:, None] * (-turn.sign()[:, None] * self.side).clamp_min(0)


class Place(NamedTuple):
    """Positions of a picture's pixels in a mesh.

    triangle: (N, S, S) index of the triangle. weights: (N, S, S, 3) barycentric coordinates in it. inside: (N, S, S)
    bool, false outside the mesh (the other two are then arbitrary).
    """

    triangle: Tensor
    weights: Tensor
    inside: Tensor


def mesh_points(points: Tensor, forehead: float) -> Tensor:
    """The mesh's points (N, 78, 2) of landmarks (N, 68, 2).

    The jaw line is moved inwards, away from hair and background. Ten points are added above the brows, at `forehead`
    times the distance from nose to brows.
    """
    jaw, brows, nose = points[:, JAW], points[:, BROWS], points[:, 30:31]
    up = brows.mean(1) - points[:, 31:36].mean(1)
    shape = points.new_tensor(FOREHEAD_SHAPE)[:, None] * forehead
    return torch.cat([jaw + INSET * (nose - jaw), points[:, len(JAW) :], brows + shape * up[:, None]], 1)


def triangulate(points: Tensor) -> Tensor:
    """Delaunay triangles (T, 3) of points (K, 2), all of positive `double_area`."""
    from scipy.spatial import Delaunay  # imported here because it is slow

    triangles = torch.from_numpy(Delaunay(points.double().numpy()).simplices.astype(np.int64))
    turned = double_area(points[triangles]) < 0
    triangles[turned] = triangles[turned].flip(1)
    return triangles


def locate(points: Tensor, triangles: Tensor, size: int) -> Place:
    """The triangle (T, 3) of points (N, K, 2), fractions of the side, that contains each of size x size pixels.

    Triangles seen from behind, such as those behind the nose in a profile, are left out. If others overlap, a pixel
    belongs to the triangle in which its smallest barycentric coordinate is largest.
    """
    n, count = len(points), len(triangles)
    corners = points[:, triangles].double()  # (N, T, 3, 2)
    back = double_area(corners) < 1e-7
    square = torch.cat([corners, torch.ones_like(corners[..., :1])], 3)
    square[back] = torch.eye(3, dtype=square.dtype, device=square.device)
    matrix = torch.linalg.inv(square).float()  # (N, T, 3, 3): [x, y, 1] to barycentric coordinates
    columns = matrix.permute(0, 2, 3, 1).reshape(n, 3, 3 * count)
    axis = (torch.arange(size, device=points.device) + 0.5) / size
    pixels = torch.stack([axis.repeat(size), axis.repeat_interleave(size), torch.ones_like(axis).repeat(size)], 1)
    depth, triangle = [], []
    for some in pixels.split(max(1, CHUNK // max(1, n * count * 3))):
        first, second, third = (some @ columns).split(count, 2)
        best = first.minimum(second).minimum(third).masked_fill_(back[:, None], -torch.inf).max(2)
        depth.append(best.values)
        triangle.append(best.indices)
    depth, triangle = torch.cat(depth, 1), torch.cat(triangle, 1)
    chosen = matrix.flatten(2).gather(1, triangle[..., None].expand(-1, -1, 9)).unflatten(2, (3, 3))
    weights = (pixels[:, :, None] * chosen).sum(2)
    shape = (n, size, size)
    return Place(triangle.view(shape), weights.view(*shape, 3), (depth > -1e-5).view(shape))


def grid(place: Place, points: Tensor, triangles: Tensor) -> Tensor:
    """The grid (N, S, S, 2) for grid_sample that maps each pixel to its position in the same mesh at `points`."""
    n, size, _ = place.triangle.shape
    corners = points[:, triangles].flatten(2)  # (N, T, 6)
    index = place.triangle.view(n, size * size, 1).expand(-1, -1, 6)
    return (corners.gather(1, index).view(n, size, size, 3, 2) * place.weights[..., None]).sum(3) * 2 - 1


def interpolate(values: Tensor, place: Place, triangles: Tensor) -> Tensor:
    """Values of points (N, K) as a picture (N, 1, S, S), linear in each triangle, zero outside the mesh."""
    n, size, _ = place.triangle.shape
    index = place.triangle.view(n, size * size, 1).expand(-1, -1, 3)
    corners = values[:, triangles].gather(1, index).view(n, size, size, 3)
    return ((corners * place.weights).sum(3) * place.inside)[:, None]


def per_pixel(values: Tensor, place: Place) -> Tensor:
    """Values of triangles (N, T) as a picture (N, 1, S, S), zero outside the mesh."""
    n, size, _ = place.triangle.shape
    return (values.gather(1, place.triangle.view(n, size * size)).view(n, size, size) * place.inside)[:, None]


def double_area(corners: Tensor) -> Tensor:
    """Twice the signed area of triangles (..., 3, 2), positive if they turn from x to y."""
    a, b = corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :]
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def mouth_opening(points: Tensor) -> Tensor:
    """Distance between the inner lips in widths of the mouth, (N,), of landmarks (N, 68, 2)."""
    gap = (points[:, [61, 62, 63]] - points[:, [67, 66, 65]]).norm(dim=2).mean(1)
    return gap / (points[:, 54] - points[:, 48]).norm(dim=1).clamp_min(1e-6)


def blur(images: Tensor, radius: int) -> Tensor:
    """Gaussian blur of (N, C, H, W) with a radius of two standard deviations; edges are replicated outside."""
    if radius < 1:
        return images
    steps = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-2 * (steps / radius).square())
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    channels = images.shape[1]
    images = F.conv2d(F.pad(images, (radius, radius, 0, 0), mode="replicate"), kernel, groups=channels)
    return F.conv2d(F.pad(images, (0, 0, radius, radius), mode="replicate"), kernel.mT, groups=channels)


def soft_inside(inside: Tensor, radius: int) -> Tensor:
    """Masks (N, 1, H, W) in [0, 1] of (N, H, W) bool: zero outside, rising over 2 * radius pixels inside."""
    outside = (~inside[:, None]).float()
    if radius < 1:
        return 1 - outside
    wide = 2 * radius + 1
    outside = F.max_pool2d(F.max_pool2d(outside, (1, wide), 1, (0, radius)), (wide, 1), 1, (radius, 0))
    return blur(1 - outside, radius)


def transfer_colour(images: Tensor, target: Tensor, mask: Tensor, colour: str = "lab") -> Tensor:
    """Images (N, 3, H, W) with the target's mean and standard deviation under the mask (N, 1, H, W), per channel.

    The deviation is scaled by 1/2 to 2. colour is one of COLOURS.
    """
    if colour == "none":
        return images
    if colour == "lab":
        images, target = rgb_to_lab(images), rgb_to_lab(target)
    total = mask.sum((2, 3), keepdim=True).clamp_min(1e-6)

    def mean(x: Tensor) -> Tensor:
        return (x * mask).sum((2, 3), keepdim=True) / total

    here, there = mean(images), mean(target)
    spread = (mean((target - there).square()) + 1e-6).sqrt() / (mean((images - here).square()) + 1e-6).sqrt()
    images = (images - here) * spread.clamp(0.5, 2) + there
    return lab_to_rgb(images) if colour == "lab" else images


_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)  # D65, 2 degrees


def rgb_to_lab(images: Tensor) -> Tensor:
    """sRGB (N, 3, H, W) in [-1, 1] to CIELAB (D65): lightness 0 to 100, a and b."""
    rgb = ((images + 1) / 2).clamp(0, 1)
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = _mix(linear, images.new_tensor(_TO_XYZ) / images.new_tensor(_WHITE)[:, None])
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp_min(1e-8) ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Tensor) -> Tensor:
    """CIELAB (N, 3, H, W) to sRGB in [-1, 1]; colours outside sRGB are clipped."""
    y = (lab[:, 0] + 16) / 116
    f = torch.stack([lab[:, 1] / 500 + y, y, y - lab[:, 2] / 200], 1)
    xyz = torch.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787)
    inverse = torch.linalg.inv(lab.new_tensor(_TO_XYZ)) * lab.new_tensor(_WHITE)
    linear = _mix(xyz, inverse).clamp(0, 1)
    rgb = torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(1e-8) ** (1 / 2.4) - 0.055, 12.92 * linear)
    return rgb * 2 - 1


def _mix(images: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,njhw->nihw", matrix, images)
