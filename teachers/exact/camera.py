"""The camera: turns heads about the neck, keeps the inner face in place, and projects to samples of the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .mesh import Blended, Tables

Vector = tuple[Tensor, Tensor, Tensor]
EYES_PX, MOUTH_PX, FACE_PX = 63, 57, 67  # of 256: between the eyes, between the mouth's corners, from eyes to mouth
MIDDLE = (121 + 188) / 2 / 256  # height in the picture of the middle between eyes and mouth
INSIDE = -0.35  # dm: the point that stays in place as the head turns lies this far behind the eyes and the mouth


@dataclass
class Camera:
    """turn: the rotation from the head to the view, nine (1, n), row by row. pivot: about which it turns. centre: the
    point after turning that the picture keeps in place. per_dm: sides of the picture per decimetre at the centre,
    (1, n). distance: dm from the camera to the centre, (1, n). shift: of the picture, in sides, 2 x (1, n). side:
    samples in a row."""

    turn: list[Tensor]
    pivot: Vector
    centre: Vector
    per_dm: Tensor
    distance: Tensor
    shift: tuple[Tensor, Tensor]
    side: int

    def rotate(self, v: Vector) -> Vector:
        """Directions (K, n) of the head in the view."""
        r = self.turn
        return tuple(r[i] * v[0] + r[i + 1] * v[1] + r[i + 2] * v[2] for i in (0, 3, 6))

    def unrotate(self, v: Vector) -> Vector:
        """Directions (K, n) of the view in the head."""
        r = self.turn
        return tuple(r[i] * v[0] + r[i + 3] * v[1] + r[i + 6] * v[2] for i in (0, 1, 2))

    def pose(self, v: Vector) -> Vector:
        """Points (K, n) of the head in the view, dm."""
        moved = self.rotate(tuple(a - b for a, b in zip(v, self.pivot, strict=True)))
        return tuple(a + b for a, b in zip(moved, self.pivot, strict=True))

    def project(self, v: Vector) -> Vector:
        """Points (K, n) of the view to samples x and y in the picture, and to depth: dm towards the camera."""
        x, y, z = (a - b for a, b in zip(v, self.centre, strict=True))
        near = self.distance / (self.distance - z) * self.per_dm
        return (0.5 + self.shift[0] + x * near) * self.side, (MIDDLE + self.shift[1] - y * near) * self.side, z


def place(tables: Tables, head: Blended, a: dict[str, Tensor], side: int) -> Camera:
    """The camera of heads and attributes, name -> (n, 1) float64. side: samples in a row of the picture.

    The neutral face's eyes and mouth fit the canonical crop (a least-squares scale), so expression does not move it.
    """
    row = {name: a[name].T.float() for name in ("scale", "distance", "shift_x", "shift_y")}
    left, right = head.eyes
    corners = [[v[k : k + 1] for v in head.rest] for k in tables.mouth_ends]
    eyes = [(p + q) * 0.5 for p, q in zip(left, right, strict=True)]
    mouth = [(p + q) * 0.5 for p, q in zip(*corners, strict=True)]
    wide, lips, high = left[0] - right[0], corners[0][0] - corners[1][0], eyes[1] - mouth[1]
    scale = (EYES_PX * wide + MOUTH_PX * lips + 2 * FACE_PX * high) / (wide * wide + lips * lips + 2 * high * high)
    pivot = (0 * eyes[0], mouth[1] - 0.55, eyes[2] - 1.05)
    turn = rotation(a["yaw"].T, a["pitch"].T, a["roll"].T)
    camera = Camera(
        turn, pivot, pivot, scale / 256 * row["scale"], row["distance"], (row["shift_x"], row["shift_y"]), side
    )
    middle = tuple((p + q) * 0.5 for p, q in zip(eyes, mouth, strict=True))
    camera.centre = camera.pose((middle[0], middle[1], middle[2] + INSIDE))
    return camera


def rotation(yaw: Tensor, pitch: Tensor, roll: Tensor) -> list[Tensor]:
    """The matrix about_z @ about_x @ about_y of angles in degrees, float64: nine float32, each shaped like the angles.

    Positive yaw turns the face to the right of the picture, positive pitch up, positive roll clockwise in the picture.
    """
    y, p, r = (v * (math.pi / 180) for v in (yaw, -pitch, -roll))
    cy, sy, cp, sp, cr, sr = y.cos(), y.sin(), p.cos(), p.sin(), r.cos(), r.sin()
    tilted = [cy, 0 * cy, sy, sp * sy, cp, -sp * cy, -cp * sy, sp, cp * cy]
    top = [cr * tilted[k] - sr * tilted[3 + k] for k in range(3)]
    middle = [sr * tilted[k] + cr * tilted[3 + k] for k in range(3)]
    return [v.float() for v in (*top, *middle, *tilted[6:])]


def direction(azimuth: Tensor, elevation: Tensor) -> Vector:
    """Unit vectors of the view towards a light, from its angles in degrees, float64."""
    a, e = azimuth * (math.pi / 180), elevation * (math.pi / 180)
    return tuple(v.float() for v in (a.sin() * e.cos(), e.sin() + 0 * a, a.cos() * e.cos()))
