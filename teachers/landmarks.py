"""68 facial landmarks (the iBUG / 300-W scheme) of canonical crops, and whether a picture shows a face.

The network is the MobileNet-v1 x 0.5 of cleardusk/3DDFA_V2 @1b6c676 (Guo et al., ECCV 2020, arXiv:2009.09960). Its head
`fc_lm`, which the original uses only in training, gives all x and then all y in half sides from the centre of its crop.
Fitted to five detected points of 240 photographs, the best slopes are 1.02 and 1.00 half sides and the best offsets
1.00 and 1.00; the plain map 60 (1 + p) of 120 pixels is therefore used.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swapcore.frame import CANONICAL
from swapcore.three_ddfa import ThreeDDFA
from swapcore.weights import load_strictly, read_state

from .teacher import NoFace

FRAME = 256  # side in pixels of the frame in which VIEWS are given
# First pixel in x and y, and side, of the two squares that the network reads. The first is the one 3DDFA_V2 expects.
# The second, for the mirrored picture, is smaller and shifted by 25 pixels: a face gives the same landmarks in both.
VIEWS = ((0.2, 33.6, 258.0), (42.6, 52.6, 220.0))
# All of 3,679 aligned photographs are within both limits, none of 239 pictures without a face is.
MOST_DISAGREEMENT = 16 / 256  # mean distance between the points of both views, in sides
MOST_DISPLACEMENT = 32 / 256  # mean distance of the five points from those of the canonical crop, in sides
# Weights of the five canonical points in the correction: eyes, nose (which moves with yaw), mouth corners.
TRUST = (1.0, 1.0, 0.1, 0.5, 0.5)
STIFFNESS = 0.008  # weight of the ridge that keeps the correction small, in squared sides

# For each landmark, the index of the landmark at its position in a mirrored picture.
MIRRORED = [
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1), 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
    41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65,
]  # fmt: skip


class LandmarkNetwork(ThreeDDFA):
    """3DDFA_V2's network with its landmark head; fc_param (the face model) is loaded but not used."""

    def forward(self, faces: Tensor) -> Tensor:
        """Faces (N, 3, 120, 120) BGR, (x - 127.5) / 128, to (N, 68, 2): x, y in half sides from the centre."""
        return self.fc_lm(self.pooled(faces)).unflatten(1, (2, 68)).transpose(1, 2)


class Landmarks(nn.Module):
    """Estimates the 68 landmarks of canonical crops, with the weights of `path`. Raises ValueError on another file.

    The network's five points are off by 5 px of 256 from a detector's, mostly by a common shift. The positions of eyes
    and mouth corners in a canonical crop are known, so all landmarks are moved by the affine map that brings the five
    closest to them. On 3,679 photographs this leaves 2.6 px (rms: eyes 1.5, mouth corners 3.3, nose tip 6.0, which
    detectors define differently).
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.network = LandmarkNetwork()
        load_strictly(self.network, read_state(path), path)
        # CANONICAL counts from the middle of the first pixel, fractions from its edge.
        self.register_buffer("five", torch.tensor(CANONICAL) + 0.5 / FRAME, persistent=False)
        self.register_buffer("trust", torch.tensor(TRUST), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Canonical crops (N, 3, H, H) in [-1, 1] to landmarks (N, 68, 2): x, y in fractions of the side, float32.

        Raises NoFace with the indices of pictures without a face.
        """
        points, is_face = self.find(images)
        if not is_face.all():
            index = (~is_face).nonzero()[:, 0].tolist()
            raise NoFace(f"no face in {len(index)} of {len(images)} pictures: {', '.join(map(str, index))}", index)
        return points

    def find(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Landmarks (N, 68, 2) and whether a picture shows a face, (N,) bool; without one the points are arbitrary."""
        points, is_face = self.seen(images)
        return self._aligned(points), is_face

    def seen(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `find`, without moving the points to the canonical five: as a face moves in its crop, so do these."""
        images = images.float()
        if images.shape[-1] > FRAME:
            images = F.interpolate(images, (FRAME, FRAME), mode="bilinear", align_corners=False, antialias=True)
        first, second = self._see(images, VIEWS[0]), self._see(images.flip(3), VIEWS[1])[:, MIRRORED]
        second = torch.stack([1 - second[..., 0], second[..., 1]], -1)
        points = (first + second) / 2
        # Comparisons with NaN are false: no face.
        is_face = (first - second).norm(dim=2).mean(1) < MOST_DISAGREEMENT
        is_face &= (five_points(points) - self.five).norm(dim=2).mean(1) < MOST_DISPLACEMENT
        return points, is_face

    def _see(self, images: Tensor, view: tuple[float, float, float]) -> Tensor:
        """Landmarks (N, 68, 2), in fractions of the side, read in one of VIEWS; outside a picture the view is black."""
        left, top, side = view
        # Bilinear samples without antialiasing, as in the network's training.
        step = torch.arange(120, device=images.device) * (side / 120) + 0.5
        x, y = (2 * (start + step) / FRAME - 1 for start in (left, top))
        grid = torch.stack([x.expand(120, 120), y[:, None].expand(120, 120)], -1)
        faces = F.grid_sample(images + 1, grid.expand(len(images), -1, -1, -1), align_corners=False) - 1
        points = self.network(faces.flip(1) * (127.5 / 128))
        return ((points + 1) * (side / 2) + points.new_tensor([left, top]) + 0.5) / FRAME

    def _aligned(self, points: Tensor) -> Tensor:
        """Points (N, 68, 2) moved by the affine map, from ridge regression, of their five onto the canonical points."""
        five = five_points(points)
        centre = five.mean(1, keepdim=True)
        ones = torch.ones_like(five[..., :1])
        known = torch.cat([five - centre, ones], 2)
        weighted = (known * self.trust[:, None]).transpose(1, 2)
        ridge = STIFFNESS * torch.diag(known.new_tensor([1.0, 1.0, 0.0]))
        affine = torch.linalg.solve(weighted @ known + ridge, weighted @ (self.five - centre) + ridge[:, :2])
        return torch.cat([points - centre, ones[:, :1].expand(-1, points.shape[1], 1)], 2) @ affine + centre


def five_points(points: Tensor) -> Tensor:
    """Left eye, right eye, nose tip, left and right mouth corner (N, 5, 2) of landmarks (N, 68, 2)."""
    eyes = [points[:, 36:42].mean(1), points[:, 42:48].mean(1)]
    return torch.stack([*eyes, points[:, 30], points[:, 48], points[:, 54]], 1)
