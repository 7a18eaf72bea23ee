"""Renders the numbers of a face: picture, inner-face mask and landmarks, at any resolution, on CPU or GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from . import camera, eyes, mesh, paint, raster, surface
from .curves import hue
from .face import ATTRIBUTES, IDENTITY
from .masks import MASKS, vertex_masks
from .person import traits

VERSION = 2  # of the pictures: increase it when any pixel changes, and train the networks of the benchmark again
CHUNK_SAMPLES = 600_000
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
class Skin:
    x: Tensor
    y: Tensor
    z: Tensor
    nx: Tensor
    ny: Tensor
    nz: Tensor
    visible: Tensor
    occlusion: Tensor
    angle: Tensor
    scalp: Tensor
    masks: Tensor


_MASKS = {}


def unit(v):
    length = (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]).clamp(min=1e-12).sqrt()
    return [c / length for c in v]


def _draw(identity, attributes, size):
    side, n = 2 * size, len(identity)
    device = identity.device
    t = mesh.tables(device)
    exact = {name: attributes[:, i : i + 1].double() for i, name in enumerate(ATTRIBUTES)}
    a = {name: v.float() for name, v in exact.items()}
    z = {name: v.float() for name, v in traits(identity).items()}
    head = mesh.blend(t, identity, exact)
    normal = mesh.normals(t, *head.face)
    share = 0.25 + 0.5 * z["lashes"].T
    points = []
    for v in head.face:
        root = v.index_select(0, t.lash_root)
        points.append(v.index_copy(0, t.lashes, root + (v.index_select(0, t.lashes) - root) * share))
    view = camera.place(t, head, exact, side)
    w, still = t.turning[:, None], 1 - t.turning[:, None]
    posed = [p * w + q * still for p, q in zip(view.pose(points), points, strict=True)]
    seen_normal = [p * w + q * still for p, q in zip(view.rotate(normal), normal, strict=True)]
    cap, cap_faces = eyes.cap(device) if hasattr(eyes, "cap") else _CAP
    balls = [view.pose([c + cap[:, k : k + 1] * r for k, c in enumerate(m)]) for m, r in zip(head.eyes, head.radius, strict=True)]
    V, C = len(t.rest), len(cap)
    sx, sy, depth = view.project([torch.cat([p, balls[0][k], balls[1][k]]) for k, p in enumerate(posed)])
    blocks = [(BODY, t.faces[0]), (EYE_LEFT, cap_faces + V), (EYE_RIGHT, cap_faces + V + C), (TEETH, t.faces[2]), (TONGUE, t.faces[3]), (LASH, t.faces[4])]
    faces = torch.cat([f for _, f in blocks])
    material = torch.cat([torch.full((len(f),), m, dtype=torch.int8) for m, f in blocks])
    for part, back in ((2, 0.04), (3, 0.05)):
        k = t.faces[part].unique()
        depth = depth.index_copy(0, k, depth.index_select(0, k) - back)
    tri = raster.setup(sx, sy, depth, faces, material, material >= LASH, None, side)
    buffer = torch.full((n * side * side,), raster.EMPTY, dtype=torch.int64)
    raster.draw(tri, side, buffer, 0)
    shared = torch.tensor([True, False, False, True, True, True, True, True, True])
    p = surface.points(tri, buffer, n, size, shared)
    light = _light(exact, a)
    toward = view.unrotate([c[None] if c.ndim == 1 else c for c in light["key"].unbind(0)] if False else tuple(c.T for c in light["key"].unbind(0)))
    visible = mesh.visibility(t, torch.cat([c.T for c in toward], 1).double())
    colour = torch.zeros(3, len(p.material) + 1)

    def put(h, value):
        for c, v in zip(colour, value, strict=True):
            c.index_copy_(0, h.write.view(-1), v.expand(h.write.shape).reshape(-1))

    h = surface.hits(p, BODY)
    if device not in _MASKS:
        _MASKS[device] = vertex_masks(t.rest)
    vm = _MASKS[device]
    nx, ny, nz = unit([h.moving(c) for c in seen_normal])
    s = Skin(*(h.static(t.rest[:, k].contiguous()) for k in range(3)), nx, ny, nz, h.moving(visible), h.static(t.occlusion).clamp_(0, 1), h.static(t.angle), torch.full_like(nx, -1), torch.stack([h.static(vm[:, k].contiguous()) for k in range(len(MASKS))]))
    put(h, paint.skin(s, z, a, light, min(2.0, size / 256)))
    turn = torch.stack([v[0] for v in view.turn], 1).view(n, 3, 3)
    for m, sgn, base in ((EYE_LEFT, 1, V), (EYE_RIGHT, -1, V + C)):
        h = surface.hits(p, m)
        if h is None:
            continue
        local = torch.stack(unit([h._blend(cap[:, k].contiguous(), [v - base for v in h.vertex]) for k in range(3)]))
        gaze = torch.stack(unit([a["gaze_x"] * 0.45 - sgn * 0.03, a["gaze_y"] * 0.3, 1 + 0 * a["gaze_x"]]))
        put(h, eyes.eye(local, gaze, turn, sgn, z, a, light))
    for m, f in ((TEETH, eyes.teeth), (TONGUE, eyes.tongue)):
        h = surface.hits(p, m)
        if h is not None:
            nrm = torch.stack(unit([h.moving(c) for c in seen_normal]))
            put(h, f(*(h.static(t.rest[:, k].contiguous()) for k in range(3)), nrm, z, a, light))
    h = surface.hits(p, LASH)
    if h is not None:
        put(h, eyes.lash_colour(z))
    back = torch.full((3, n, size * size), 0.3)
    image = surface.average(p, tonemap(colour), tonemap(back))
    return image * 2 - 1, image[:, :1], torch.zeros(n, 5, 2)


def tonemap(x):
    x = x.clamp(min=0) * 0.8
    x = (x * (2.51 * x + 0.03)) / (x * (2.43 * x + 0.59) + 0.14)
    x = x.clamp(0, 1)
    s1 = x.sqrt()
    s2 = s1.sqrt()
    s3 = s2.sqrt()
    return (0.585122381 * s1 + 0.783140355 * s2 - 0.368262736 * s3).clamp(0, 1)


def _light(exact, a):
    key = camera.direction(exact["light_azimuth"], exact["light_elevation"])
    key = torch.stack(key)
    half = torch.stack(unit([key[0], key[1], key[2] + 1]))
    warm = a["light_warmth"]
    tint = torch.stack([1 + 0.10 * warm, 1 + 0 * warm, 1 - 0.14 * warm]).clamp(0.6, 1.4)
    back = hue(a["background_hue"], 0.05 + 0.22 * a["background_saturation"] * a["background_saturation"], 0.28 + 0.55 * a["background_value"])
    col = lambda *v: torch.tensor(v).view(3, 1, 1)
    rim = torch.stack(camera.direction(exact["light_azimuth"] + 165, 0 * exact["light_azimuth"] + 17))
    return dict(
        key=key, half=half, key_colour=tint * a["light_strength"] * 2.6, rim=rim, rim_colour=col(1.1, 1.1, 1.2) * a["rim"],
        sky=(col(0.96, 1, 1.06) * 0.8 + 0.35 * back) * a["ambient"] * 1.5, ground=(col(0.55, 0.45, 0.40) * 0.5 + 0.3 * back) * a["ambient"] * 1.1,
    )


def _cap(rings: int = 8, around: int = 20):
    import math
    polar = torch.linspace(0, math.radians(88), rings + 1, dtype=torch.float64)[1:, None]
    turn = torch.arange(around, dtype=torch.float64)[None] / around * 2 * math.pi
    ring = torch.stack([polar.sin() * turn.cos(), polar.sin() * turn.sin(), (polar.cos() + 0 * turn)], -1).reshape(-1, 3)
    points = torch.cat([torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64), ring]).float()
    faces = [[0, 1 + i, 1 + (i + 1) % around] for i in range(around)]
    for r in range(rings - 1):
        for i in range(around):
            b, c = 1 + r * around + i, 1 + r * around + (i + 1) % around
            faces += [[b, b + around, c + around], [b, c + around, c]]
    return points, torch.tensor(faces)


_CAP = _cap()
