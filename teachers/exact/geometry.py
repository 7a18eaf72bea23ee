"""Everything with a surface: head, eyes, hair and glasses as one list of triangles, in the picture and in the view."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from . import camera, hair, hair_scalp, mesh
from . import worn as clothes
from .face import ATTRIBUTES
from .glasses import FRAME_FACES, LENS_FACES, Fit, Glasses, fit, glasses
from .masks import MASKS
from .person import person

# Materials. EYE_LEFT is the person's left eye, at the right of the picture.
BODY, EYE_LEFT, EYE_RIGHT, TEETH, TONGUE, LASH, HAIR, GLASSES, LENS = range(9)
BACK = {mesh.TEETH: 0.07, mesh.TONGUE: 0.08}  # dm; lips that close over them hide them
CARDS = ((192, hair.CARDS, 7), (80, 280, 5), (0, 170, 4))  # pictures from this size on: cards of hair, segments of each
CAP_RINGS, CAP_AROUND, CAP_DEGREES = 8, 20, 88  # of the eyeballs, which are sphere caps around +z

Numbers = dict[str, Tensor]
Vector = tuple[Tensor, Tensor, Tensor]


@dataclass
class Geometry:
    """The surfaces of n pictures.

    x, y: samples; depth: dm towards the camera; all (V, n). The vertices are those of the head, the left and the right
    eye, the hair cards and the glasses; `start` tells where those of a material begin. normal: of the head's vertices,
    unit, in the view, (V of the head, n). exact: the attributes in float64, name -> (n, 1), a: in float32; traits: of
    the persons, float32.

    solid: faces (F, 3) and materials (F,) of all but hair cards and lenses; solid_active (F, n): which are drawn in
    which picture, None for all. strand_faces, strand_active: of the hair cards; lens_faces, lens_active: of the lenses.
    Where no picture has glasses, glasses, lens_faces and lens_active are None.
    """

    tables: mesh.Tables
    head: mesh.Blended
    view: camera.Camera
    traits: Numbers
    exact: Numbers
    a: Numbers
    x: Tensor
    y: Tensor
    depth: Tensor
    normal: Vector
    cards: hair.Ribbons
    start: dict[int, int]
    glasses: Glasses | None
    solid: tuple[Tensor, Tensor]
    solid_active: Tensor | None
    strand_faces: Tensor
    strand_active: Tensor
    lens_faces: Tensor | None
    lens_active: Tensor | None


@lru_cache
def cap(device: torch.device) -> tuple[Tensor, Tensor]:
    """Points (C, 3) on the unit sphere and faces (F, 3) of an eyeball that looks along +z."""
    polar = torch.linspace(0, math.radians(CAP_DEGREES), CAP_RINGS + 1, dtype=torch.float64)[1:, None]
    turn = torch.arange(CAP_AROUND, dtype=torch.float64)[None] / CAP_AROUND * 2 * math.pi
    ring = torch.stack([polar.sin() * turn.cos(), polar.sin() * turn.sin(), polar.cos() + 0 * turn], -1)
    points = torch.cat([torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64), ring.reshape(-1, 3)])
    a = torch.arange(CAP_AROUND)
    b = (a + 1) % CAP_AROUND
    faces = [torch.stack([torch.zeros_like(a), 1 + a, 1 + b], 1)]
    for inner in range(1, 1 + CAP_AROUND * (CAP_RINGS - 1), CAP_AROUND):
        outer = inner + CAP_AROUND
        faces += [torch.stack([inner + a, outer + a, outer + b], 1), torch.stack([inner + a, outer + b, inner + b], 1)]
    return points.float().to(device), torch.cat(faces).to(device)


@lru_cache
def scalp(device: torch.device) -> hair_scalp.Scalp:
    """The tables of the hair."""
    t = mesh.tables(torch.device("cpu"))
    return hair_scalp.scalp(t.rest, t.faces[mesh.BODY]).to(device)


@lru_cache
def _solid(device: torch.device) -> tuple[Tensor, Tensor]:
    """Faces and materials of head and eyes."""
    t, ball = mesh.tables(device), cap(device)[1]
    count, points = len(t.rest), len(cap(device)[0])
    blocks = {
        BODY: t.faces[mesh.BODY], EYE_LEFT: ball + count, EYE_RIGHT: ball + count + points, TEETH: t.faces[mesh.TEETH],
        TONGUE: t.faces[mesh.TONGUE], LASH: t.faces[mesh.LASH],
    }  # fmt: skip
    material = [torch.full((len(f),), m, dtype=torch.int8, device=device) for m, f in blocks.items()]
    return torch.cat(list(blocks.values())), torch.cat(material)


@lru_cache
def strand_faces(device: torch.device, cards: int, segments: int) -> Tensor:
    """Faces (2 * cards * segments, 3) over vertices (cards, segments + 1, 2): all lower halves, then all
    upper ones."""
    first = 2 * (torch.arange(cards)[:, None] * (segments + 1) + torch.arange(segments)[None]).reshape(-1)
    lower = torch.stack([first, first + 1, first + 2], 1)
    upper = torch.stack([first + 1, first + 3, first + 2], 1)
    return torch.cat([lower, upper]).to(device)


def unit(v) -> Vector:
    """Vectors of unit length."""
    length = (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]).clamp(min=1e-20).sqrt()
    return v[0] / length, v[1] / length, v[2] / length


def build(identity: Tensor, attributes: Tensor, size: int) -> Geometry:
    """The surfaces of pictures of identity (n, K) and attributes (n, A), for `size` pixels of 2 x 2 samples."""
    device = identity.device
    t = mesh.tables(device)
    exact = {name: attributes[:, i : i + 1].double() for i, name in enumerate(ATTRIBUTES)}
    a = {name: v.float() for name, v in exact.items()}
    who = person(identity)
    z = {name: v.float() for name, v in who.traits.items()}
    head = mesh.blend(t, who, exact)
    normal = mesh.normals(t, *head.face)
    view = camera.place(t, head, exact, 2 * size)

    grown = _hair(head.face, a, size)
    skin = _dressed(t, head.face, normal, z, a)
    turning = t.turning[:, None]
    posed = [p * turning + q * (1 - turning) for p, q in zip(view.pose(skin), skin, strict=True)]
    turned = [p * turning + q * (1 - turning) for p, q in zip(view.rotate(normal), normal, strict=True)]
    directions = cap(device)[0]
    balls = [
        view.pose(tuple(c + directions[:, k : k + 1] * r for k, c in enumerate(middle)))
        for middle, r in zip(head.eyes, head.radius, strict=True)
    ]
    n = len(identity)
    ribbons = view.pose(tuple(grown.points[..., k].permute(1, 2, 3, 0).reshape(-1, n) for k in range(3)))
    worn, frames = None, ()
    if bool((a["glasses"] > 0.5).any()):
        worn, frames = _glasses(t, head, a, view)
    parts = [*zip(*balls, strict=True)]
    x, y, depth = view.project(
        tuple(torch.cat([posed[k], *parts[k], ribbons[k], *(f[k] for f in frames)]) for k in range(3))
    )
    for part, back in BACK.items():
        inner = t.inner[part]
        depth = depth.index_copy(0, inner, depth.index_select(0, inner) - back)
    start = {EYE_LEFT: len(t.rest), EYE_RIGHT: len(t.rest) + len(directions), HAIR: len(t.rest) + 2 * len(directions)}
    cards, segments = grown.used.shape[1:]
    start[GLASSES] = start[HAIR] + 2 * cards * (segments + 1)
    active = grown.used.permute(1, 2, 0).reshape(-1, n)
    (faces, material), wearing, lenses, lens_active = _solid(device), None, None, None
    if worn is not None:
        frame, lenses = (f.to(device) + start[GLASSES] for f in (FRAME_FACES, LENS_FACES))
        wearing = torch.ones(len(faces) + len(frame), n, dtype=torch.bool, device=device)
        wearing[len(faces) :] = lens_active = a["glasses"].T > 0.5
        faces = torch.cat([faces, frame])
        material = torch.cat([material, torch.full((len(frame),), GLASSES, dtype=torch.int8, device=device)])
    return Geometry(
        t, head, view, z, exact, a, x, y, depth, tuple(turned), grown, start, worn, (faces, material), wearing,
        strand_faces(device, cards, segments) + start[HAIR], torch.cat([active, active]), lenses, lens_active,
    )  # fmt: skip


@lru_cache
def _fit(device: torch.device) -> Fit:
    t = mesh.tables(torch.device("cpu"))
    body = torch.zeros(len(t.rest), 1)
    body[t.faces[mesh.BODY].unique()] = 1
    return Fit(*(v.to(device) for v in fit(t.rest * body)))


def _glasses(t: mesh.Tables, head: mesh.Blended, a: Numbers, view: camera.Camera) -> tuple[Glasses, tuple[Vector]]:
    """The glasses, with normals in the view, and their vertices in the view."""
    vertices = torch.stack(head.rest, -1).transpose(0, 1)
    eyes = torch.stack([torch.cat(e).T for e in head.eyes], 1)
    worn = glasses(vertices, eyes, a, _fit(t.rest.device))
    points, normals = (tuple(v[..., k].T.contiguous() for k in range(3)) for v in worn)
    return Glasses(points, view.rotate(normals)), (view.pose(points),)


def _hair(face: Vector, a: Numbers, size: int) -> hair.Ribbons:
    detail = min(1.0, size / 256)
    vertices = torch.stack(face, -1).transpose(0, 1)
    count, segments = next(cards for smallest, *cards in CARDS if size >= smallest)
    return hair.grow(scalp(vertices.device), vertices, a, count, segments, detail)


def _dressed(t: mesh.Tables, face: Vector, normal: Vector, z: Numbers, a: Numbers) -> Vector:
    """The head with its lashes shortened, and its scalp pushed out under the hair."""
    share = 0.08 + 0.32 * z["lashes"].T
    out = (hair_scalp.scalp_push(scalp(t.rest.device), a) + clothes.cloth_push(t.rest, a)).T
    beard, moustache = (t.masks[MASKS.index(name)][:, None] for name in ("beard", "moustache"))
    out = out * t.is_body[:, None] + torch.maximum(beard * z["beard"].T * 0.045, moustache * z["moustache"].T * 0.022)
    points = []
    for v, direction in zip(face, normal, strict=True):
        root = v.index_select(0, t.lash_root)
        v = v.index_copy(0, t.lashes, root + (v.index_select(0, t.lashes) - root) * share)
        points.append(v + direction * out)
    return tuple(points)
