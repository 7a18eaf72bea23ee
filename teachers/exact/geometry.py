"""Everything with a surface: head, eyes, hair and glasses as one list of triangles, in the picture and in the view."""

from __future__ import annotations

import itertools
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
BACK = {mesh.TEETH: 0.07, mesh.TONGUE: 0.08}  # dm; they are drawn farther away, so that closed lips hide them
CARDS = ((192, hair.CARDS, 7), (80, 280, 5), (0, 170, 4))  # pictures from this size on: cards of hair, segments of each
CAP_RINGS, CAP_AROUND, CAP_DEGREES = 8, 20, 88  # of the eyeballs, which are sphere caps around +z

Numbers = dict[str, Tensor]


@dataclass
class Geometry:
    """The surfaces of n pictures.

    x, y: samples; depth: dm towards the camera, at which they are drawn, see BACK; all (V, n). The vertices are those
    of the head, the left and the right eye, the hair cards and the glasses; `start` tells where those of a material
    begin. normal: of the head's vertices, unit, in the view, (3, V, n). exact: the attributes in float64, name
    -> (n, 1), a: in float32; traits: of the persons, float32; style: of hair_scalp.style().

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
    style: Numbers
    x: Tensor
    y: Tensor
    depth: Tensor
    normal: Tensor
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


def build(identity: Tensor, attributes: Tensor, size: int) -> Geometry:
    """The surfaces of pictures of identity (n, K) and attributes (n, A), for `size` pixels of 2 x 2 samples."""
    t, n = mesh.tables(identity.device), len(identity)
    exact, a = (
        dict(zip(ATTRIBUTES, numbers.T.contiguous()[..., None], strict=True))
        for numbers in (attributes.double(), attributes.float())
    )
    who = person(identity)
    traits = dict(zip(who.traits, torch.stack(list(who.traits.values())).float(), strict=True))
    head = mesh.blend(t, who, exact)
    normal = mesh.normals(t, head.face)
    view = camera.place(t, head, exact, 2 * size)

    style = hair_scalp.style(a)
    skin = _dressed(t, head.face, normal, traits, a, style)
    cards = _hair(head.face, a, style, size)
    edges = cards.points.permute(4, 1, 2, 3, 0).reshape(3, -1, n)
    wears = a["glasses"].T > 0.5
    worn = _glasses(t, head, a, view) if wears.any() else None
    parts = {BODY: _turned(t, view.pose(skin), skin), **_eyeballs(head, view), HAIR: view.pose(edges)}
    if worn is not None:
        parts[GLASSES] = view.pose(worn.points)
    start = dict(zip(parts, itertools.accumulate((v.shape[1] for v in parts.values()), initial=0), strict=False))
    x, y, depth = view.project(torch.cat(list(parts.values()), 1))
    depth[: len(t.rest)] -= _back(t.rest.device)

    solid, solid_active, lens_faces = _solid(t.rest.device), None, None
    if worn is not None:
        frame, lens_faces = (f.to(t.rest.device) + start[GLASSES] for f in (FRAME_FACES, LENS_FACES))
        solid_active = torch.cat([wears.new_ones(len(solid[0]), n), wears.expand(len(frame), -1)])
        solid = torch.cat([solid[0], frame]), torch.cat([solid[1], solid[1].new_full((len(frame),), GLASSES)])
    active = cards.used.permute(1, 2, 0).reshape(-1, n)
    return Geometry(
        tables=t, head=head, view=view, traits=traits, exact=exact, a=a, style=style, x=x, y=y, depth=depth,
        normal=_turned(t, view.rotate(normal), normal), cards=cards, start=start, glasses=worn,
        solid=solid, solid_active=solid_active,
        strand_faces=strand_faces(t.rest.device, *cards.used.shape[1:]) + start[HAIR],
        strand_active=torch.cat([active, active]),
        lens_faces=lens_faces, lens_active=None if worn is None else wears,
    )  # fmt: skip


@lru_cache
def _back(device: torch.device) -> Tensor:
    """BACK of the head's vertices, (V, 1)."""
    t = mesh.tables(device)
    back = torch.zeros(len(t.rest), 1, device=device)
    for part, distance in BACK.items():
        back[t.inner[part]] = distance
    return back


def _turned(t: mesh.Tables, moved: Tensor, still: Tensor) -> Tensor:
    """Vectors of the head's vertices: as in `moved` where they turn with the head, as in `still` on the shoulders."""
    share = t.turning[:, None]
    return moved * share + still * (1 - share)


def _eyeballs(head: mesh.Blended, view: camera.Camera) -> dict[int, Tensor]:
    """The vertices of both eyeballs in the view, by material."""
    directions = cap(head.radius.device)[0].T[None, ..., None]
    balls = (head.eyes + directions * head.radius[:, None]).transpose(0, 1)  # (3, 2, C, n)
    left, right = view.pose(balls.flatten(1, 2)).view(balls.shape).unbind(1)
    return {EYE_LEFT: left, EYE_RIGHT: right}


@lru_cache
def _fit(device: torch.device) -> Fit:
    t = mesh.tables(torch.device("cpu"))
    body = torch.zeros(len(t.rest), 1)
    body[t.faces[mesh.BODY].unique()] = 1
    return Fit(*(v.to(device) for v in fit(t.rest * body)))


def _glasses(t: mesh.Tables, head: mesh.Blended, a: Numbers, view: camera.Camera) -> Glasses:
    """The glasses: points in the head's frame, and normals in the view, (3, G, n)."""
    worn = glasses(head.rest.permute(2, 1, 0), head.eyes[:, :, 0].permute(2, 0, 1), a, _fit(t.rest.device))
    points, normals = (v.permute(2, 1, 0).contiguous() for v in worn)
    return Glasses(points, view.rotate(normals))


def _hair(face: Tensor, a: Numbers, style: Numbers, size: int) -> hair.Ribbons:
    detail = min(1.0, size / 256)
    count, segments = next(cards for smallest, *cards in CARDS if size >= smallest)
    return hair.grow(scalp(face.device), face.permute(2, 1, 0), a, style, count, segments, detail)


def _dressed(t: mesh.Tables, face: Tensor, normal: Tensor, z: Numbers, a: Numbers, style: Numbers) -> Tensor:
    """The head with its lashes shortened, and its scalp pushed out under the hair."""
    share = 0.08 + 0.32 * z["lashes"].T
    out = (hair_scalp.scalp_push(scalp(t.rest.device), a, style) + clothes.cloth_push(t.rest, a)).T
    beard, moustache = (t.masks[MASKS.index(name)][:, None] for name in ("beard", "moustache"))
    out = out * t.is_body[:, None] + torch.maximum(beard * z["beard"].T * 0.045, moustache * z["moustache"].T * 0.022)
    root = face.index_select(1, t.lash_root)
    return face.index_copy(1, t.lashes, root + (face.index_select(1, t.lashes) - root) * share) + normal * out
