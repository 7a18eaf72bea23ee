"""Renders the numbers of a face: picture, inner-face mask and landmarks, at any resolution, on CPU or GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from . import mesh, raster
from .face import ATTRIBUTES, IDENTITY
from .person import traits

VERSION = 2
CHUNK_SAMPLES = 600_000
EYES_PX, MOUTH_PX, FACE_PX = 63, 57, 67  # of 256: between the eyes, the mouth corners, from eyes to mouth
MIDDLE = (121 + 188) / 2 / 256  # height of the middle between eyes and mouth, in sides
BODY, EYE_LEFT, EYE_RIGHT, TEETH, TONGUE, LASH, HAIR, GLASSES, LENS = range(9)


class Rendered(NamedTuple):
    image: Tensor
    mask: Tensor
    landmarks: Tensor


@torch.no_grad()
def render(identity: Tensor, attributes: Tensor, size: int = 256) -> Rendered:
    step = max(1, CHUNK_SAMPLES // (2 * size) ** 2)
    parts = [_draw(i, a, size) for i, a in zip(identity.split(step), attributes.split(step), strict=True)]
    return Rendered(*(torch.cat(column) for column in zip(*parts, strict=True)))


@dataclass
class View:
    """turn: 9 numbers (n,) row by row; from the head's frame to the view, about `pivot`; then moved and projected."""

    turn: list[Tensor]
    pivot: tuple[Tensor, Tensor, Tensor]
    centre: tuple[Tensor, Tensor, Tensor]
    per_dm: Tensor
    a: dict
    side: int

    def rotate(self, x, y, z):
        r = self.turn
        return tuple(r[3 * i] * x + r[3 * i + 1] * y + r[3 * i + 2] * z for i in range(3))

    def pose(self, x, y, z):
        px, py, pz = self.pivot
        x, y, z = self.rotate(x - px, y - py, z - pz)
        return x + px, y + py, z + pz

    def project(self, x, y, z):
        x, y, z = x - self.centre[0], y - self.centre[1], z - self.centre[2]
        near = self.a["distance"] / (self.a["distance"] - z) * self.per_dm
        return (0.5 + self.a["shift_x"] + x * near) * self.side, (MIDDLE + self.a["shift_y"] - y * near) * self.side, z


def rotation(yaw, pitch, roll):
    """9 numbers, each shaped like the angles (degrees, float64): yaw, then pitch, then roll."""
    y, p, r = (v.double() * (math.pi / 180) for v in (yaw, -pitch, -roll))
    cy, sy, cp, sp, cr, sr = y.cos(), y.sin(), p.cos(), p.sin(), r.cos(), r.sin()
    # about z @ about x @ about y
    ax = [cy, 0 * cy, sy, sp * sy, cp, -sp * cy, -cp * sy, sp, cp * cy]
    top = [cr * ax[k] - sr * ax[3 + k] for k in range(3)]
    mid = [sr * ax[k] + cr * ax[3 + k] for k in range(3)]
    return [v.float() for v in (*top, *mid, *ax[6:])]


def _cap(rings: int = 8, around: int = 20):
    """A sphere cap around +z up to 88 degrees: points (C, 3) and faces."""
    polar = torch.linspace(0, math.radians(88), rings + 1, dtype=torch.float64)[1:, None]
    turn = torch.arange(around, dtype=torch.float64)[None] / around * 2 * math.pi
    ring = torch.stack([polar.sin() * turn.cos(), polar.sin() * turn.sin(), (polar.cos() + 0 * turn)], -1).reshape(-1, 3)
    points = torch.cat([torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64), ring]).float()
    faces = [[0, 1 + i, 1 + (i + 1) % around] for i in range(around)]
    for r in range(rings - 1):
        for i in range(around):
            a, b = 1 + r * around + i, 1 + r * around + (i + 1) % around
            faces += [[a, a + around, b + around], [a, b + around, b]]
    return points, torch.tensor(faces)


CAP, CAP_FACES = _cap()


def _draw(identity, attributes, size):
    side = 2 * size
    n = len(identity)
    t = mesh.tables(identity.device)
    a64 = {name: attributes[:, i : i + 1].double() for i, name in enumerate(ATTRIBUTES)}
    a = {name: v.float() for name, v in a64.items()}
    z = {name: v.float() for name, v in traits(identity).items()}
    row = {name: v.view(1, n) for name, v in a.items()}
    head = mesh.blend(t, identity, a64)
    N = mesh.normals(t, *head.face)
    x, y, zz = head.face
    # lashes
    share = 0.25 + 0.5 * z["lashes"].view(1, n)
    moved = []
    for v in (x, y, zz):
        root = v.index_select(0, t.lash_root)
        v = v.index_copy(0, t.lashes, root + (v.index_select(0, t.lashes) - root) * share)
        moved.append(v)
    x, y, zz = moved
    # frame
    el, er = head.eyes
    ml, mr = ([v[k : k + 1] for v in head.rest] for k in t.corners)
    eye = [(p + q) * 0.5 for p, q in zip(el, er, strict=True)]
    mouth = [(p + q) * 0.5 for p, q in zip(ml, mr, strict=True)]
    dx, dm, dy = el[0] - er[0], ml[0] - mr[0], eye[1] - mouth[1]
    scale = (EYES_PX * dx + MOUTH_PX * dm + 2 * FACE_PX * dy) / (dx * dx + dm * dm + 2 * dy * dy) / 256 * row["scale"]
    view = View(
        rotation(*(a64[k].view(1, n) for k in ("yaw", "pitch", "roll"))),
        (0 * eye[0], mouth[1] - 0.55, eye[2] - 1.05), (0, 0, 0), scale, row, side,
    )
    view.centre = view.pose(*((p + q) * 0.5 + o for p, q, o in zip(eye, mouth, (0, 0, -0.35), strict=True)))
    w = t.turning[:, None]
    still = 1 - w
    posed = [p * w + q * still for p, q in zip(view.pose(x, y, zz), (x, y, zz), strict=True)]
    NV = [p * w + q * still for p, q in zip(view.rotate(*N), N, strict=True)]
    balls = [[c + CAP[:, k : k + 1] * r for k, c in enumerate(centre)] for centre, r in zip(head.eyes, head.radius, strict=True)]
    balls = [view.pose(*b) for b in balls]
    every = [torch.cat([p, *(b[k] for b in balls)]) for k, p in enumerate(posed)]
    sx, sy, depth = view.project(*every)
    V, C = len(t.rest), len(CAP)
    blocks = [(BODY, t.faces[0]), (EYE_LEFT, CAP_FACES + V), (EYE_RIGHT, CAP_FACES + V + C), (TEETH, t.faces[2]), (TONGUE, t.faces[3]), (LASH, t.faces[4])]
    faces = torch.cat([f for _, f in blocks])
    material = torch.cat([torch.full((len(f),), m, dtype=torch.int8) for m, f in blocks])
    depth = depth.index_add(0, t.faces[2].unique(), torch.full((len(t.faces[2].unique()), n), -0.04))
    depth = depth.index_add(0, t.faces[3].unique(), torch.full((len(t.faces[3].unique()), n), -0.05))
    tri = raster.setup(sx, sy, depth, faces, material, material >= LASH, None, side)
    buffer = torch.full((n * side * side,), raster.EMPTY, dtype=torch.int64)
    raster.draw(tri, side, buffer, 0)
    return buffer, tri, dict(z=z, a=a, row=row, t=t, n=n, N=NV, view=view, side=side, size=size, V=V, C=C)
