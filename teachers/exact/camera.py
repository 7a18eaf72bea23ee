"""The camera: turns heads about the neck, keeps the inner face in place, and projects to samples of the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .mesh import Blended, Tables

EYES_PX, MOUTH_PX, FACE_PX = 63, 57, 67  # of 256: between the eyes, between the mouth's corners, from eyes to mouth
MIDDLE = (121 + 188) / 2 / 256  # height in the picture of the middle between eyes and mouth
INSIDE = -0.35  # dm: the point that stays in place as the head turns lies this far behind the eyes and the mouth


@dataclass
class Camera:
    """Of n pictures; vectors are (3, K, n), x, y, z.

    turn: (3, 3, 1, n), the rotation from the head to the view. pivot (3, 1, n): about which it turns. centre (3, 1, n):
    the point after turning that the picture keeps in place. per_dm: sides of the picture per decimetre at the centre,
    (1, n). distance: dm from the camera to the centre, (1, n). shift: of the picture, in sides, 2 x (1, n). side:
    samples in a row."""

    turn: Tensor
    pivot: Tensor
    centre: Tensor
    per_dm: Tensor
    distance: Tensor
    shift: tuple[Tensor, Tensor]
    side: int

    def rotate(self, v: Tensor) -> Tensor:
        """Directions of the head in the view."""
        return self.turn[:, 0] * v[0] + self.turn[:, 1] * v[1] + self.turn[:, 2] * v[2]

    def unrotate(self, v: Tensor) -> Tensor:
        """Directions of the view in the head."""
        return self.turn[0] * v[0] + self.turn[1] * v[1] + self.turn[2] * v[2]

    def pose(self, v: Tensor) -> Tensor:
        """Points of the head in the view, dm."""
        return self.rotate(v - self.pivot) + self.pivot

    def project(self, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points of the view to samples x and y in the picture, and to depth: dm towards the camera; (K, n) each."""
        x, y, z = v - self.centre
        near = self.distance / (self.distance - z) * self.per_dm
        return (0.5 + self.shift[0] + x * near) * self.side, (MIDDLE + self.shift[1] - y * near) * self.side, z


def place(tables: Tables, head: Blended, a: dict[str, Tensor], side: int) -> Camera:
    """The camera of heads and attributes, name -> (n, 1) float64. side: samples in a row of the picture.

    The neutral face's eyes and mouth fit the canonical crop (a least-squares scale), so expression does not move it.
    """
    zoom, distance, *shift = torch.stack([a[name].T for name in ("scale", "distance", "shift_x", "shift_y")]).float()
    left, right = head.eyes
    corners = [head.rest[:, k : k + 1] for k in tables.mouth_ends]
    eyes, mouth = (left + right) * 0.5, (corners[0] + corners[1]) * 0.5
    wide, lips, high = left[0] - right[0], corners[0][0] - corners[1][0], eyes[1] - mouth[1]
    scale = (EYES_PX * wide + MOUTH_PX * lips + 2 * FACE_PX * high) / (wide * wide + lips * lips + 2 * high * high)
    pivot = torch.stack([0 * wide, mouth[1] - 0.55, eyes[2] - 1.05])
    turn = rotation(a["yaw"].T, a["pitch"].T, a["roll"].T)
    camera = Camera(turn, pivot, pivot, scale / 256 * zoom, distance, tuple(shift), side)
    middle = (eyes + mouth) * 0.5
    middle[2] += INSIDE
    camera.centre = camera.pose(middle)
    return camera


def rotation(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """The matrix about_z @ about_x @ about_y of angles in degrees, float64: (3, 3, ...) float32.

    Positive yaw turns the face to the right of the picture, positive pitch up, positive roll clockwise in the picture.
    """
    angles = torch.stack([yaw, -pitch, -roll]) * (math.pi / 180)
    (cy, cp, cr), (sy, sp, sr) = angles.cos(), angles.sin()
    top = torch.stack([cy, 0 * cy, sy])
    middle, last = torch.stack([sp * sy, cp, -sp * cy]), torch.stack([-cp * sy, sp, cp * cy])
    return torch.stack([cr * top - sr * middle, sr * top + cr * middle, last]).float()


def direction(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Unit vectors (3, ...) float32 of the view towards a light, from its angles in degrees, float64."""
    a, e = azimuth * (math.pi / 180), elevation * (math.pi / 180)
    return torch.stack([a.sin() * e.cos(), e.sin() + 0 * a, a.cos() * e.cos()]).float()
