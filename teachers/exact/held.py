"""Objects held before the lower face: a microphone, a cup, a book, or a scarf drawn up.

They are drawn in the plane of the picture and depend on attributes only, so that what they hide is known for every
face: what they hide must come from the target in a face swap. Only exact arithmetic is used per point (see curves.py).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .curves import bump, bumps, by_kind, constant, hue, hues, mix, smooth, smooths
from .noise import noise

KINDS = (0.26, 0.50, 0.74)  # occluder_kind below: microphone, cup, book, else scarf
PLATEAU = 0.118  # of a cup's lid: half its width
Share = Tensor
Thing = tuple[Tensor, Share]


def occluder(size: int, a: dict[str, Tensor]) -> Thing:
    """Linear colours (3, n, size, size) and shares (n, size, size) in [0, 1] of the objects of attributes a, name ->
    (n, 1). The share is 0 where a["occluder"] is at most 0.5.

    Used of a: occluder, occluder_kind, _x, _y, _hue in [0, 1]; light_azimuth, _elevation, _strength, _warmth, ambient.
    """
    n, device = len(a["occluder"]), a["occluder"].device
    colour, share = torch.zeros(3, n, size, size, device=device), torch.zeros(n, size, size, device=device)
    numbers = _light(a) | {name: a[name] for name in ("occluder_x", "occluder_y", "occluder_hue", "ambient")}
    packed = torch.stack(list(numbers.values()))
    kind = torch.where(a["occluder"] > 0.5, a["occluder_kind"], -1)
    things = (_microphone, 0.08, 0.35), (_cup, 0.0, 0.52), (_book, 0.0, 0.56), (_scarf, 0.0, 0.60)
    for (draw, top, wide), rows in zip(things, by_kind(kind, (0.0, *KINDS))[1:], strict=True):
        if len(rows):
            lines, columns = _reach(size, top, wide)
            axis = _axis(size, device)
            y, x = axis[lines, None].expand(len(rows), -1, columns.stop - columns.start), axis[columns]
            some = dict(zip(numbers, packed.index_select(1, rows), strict=True))
            drawn, covered = draw(x.expand_as(y).flatten(1), y.flatten(1), some, max(0.0025, 0.6 / size))
            share[rows, lines, columns] = covered.view(y.shape)
            colour[:, rows, lines, columns] = drawn.view(3, *y.shape)
    return colour, share * a["occluder"].clamp(0, 1)[..., None]


def _axis(size: int, device: torch.device) -> Tensor:
    return (torch.arange(size, device=device) + 0.5) / size - 0.5


@lru_cache
def _reach(size: int, top: float, wide: float) -> tuple[slice, slice]:
    """Lines below `top` and columns within `wide` of the middle: the part of the picture that an object can reach."""
    axis = _axis(size, torch.device("cpu"))
    first = int((axis.abs() >= wide).sum()) // 2
    return slice(int((axis <= top).sum()), size), slice(first, size - first)


def _light(a: dict[str, Tensor]) -> dict[str, Tensor]:
    """What _lit() needs of the lights: the direction to the key light and its colour; of the direction halfway to the
    viewer, which has the same x and y, z and the length before it is made a unit."""
    azimuth, elevation = (a[k].double() * (math.pi / 180) for k in ("light_azimuth", "light_elevation"))
    x = (azimuth.sin() * elevation.cos()).float()
    y, z = elevation.sin().float(), (azimuth.cos() * elevation.cos()).float()
    half = z + 1
    warm, strength = 0.10 * a["light_warmth"].clamp(-2, 2), 1.04 * a["light_strength"]
    return {
        "light_x": x, "light_y": y, "light_z": z, "half_z": half, "half": (x * x + y * y + half * half).sqrt(),
        "red": (1 + warm) * strength, "green": strength, "blue": (1 - 1.4 * warm) * strength,
    }  # fmt: skip


def _lit(albedo: Tensor, nx: Tensor, ny: Tensor, nz: Tensor, a: dict[str, Tensor], gloss: float = 0.0) -> Tensor:
    """Albedo (3, n, P) or (3, n, 1) under the key and the ambient light; unit normals (n, P) or constant, y up, z to
    the viewer. Or of k surfaces at once: (3, k, n, P) and (k, n, P)."""
    sideways = nx * a["light_x"] + ny * a["light_y"]
    facing = ((sideways + nz * a["light_z"] + 0.12) * (1 / 1.12)).clamp_(min=0)
    key = torch.stack([a["red"], a["green"], a["blue"]]).view(3, *[1] * (albedo.ndim - 3), -1, 1)
    ambient = a["ambient"] * (0.80 + 0.30 * ny)
    out = albedo * (key * facing + ambient)
    if not gloss:
        return out
    near = ((sideways + nz * a["half_z"]) / a["half"]).clamp_(min=0)
    for _ in range(5):
        near = near * near
    return out + key * (near * gloss)


def _lit_flat(
    albedo: Tensor, up: tuple[float, ...], front: tuple[float, ...], a: dict[str, Tensor], gloss: float
) -> Tensor:
    """_lit() of k flat surfaces (3, k, n, P), whose normals look up and to the viewer."""
    nil, up, front = (constant(v, albedo.device) for v in ((0.0,), up, front))
    return _lit(albedo, nil, up, front, a, gloss)


def _turned(x: Tensor, y: Tensor, cx: Tensor, cy: Tensor, degrees: Tensor) -> tuple[Tensor, Tensor]:
    """Coordinates in the frame of an object at (cx, cy) that leans to the right by degrees: right and down."""
    angle = degrees.double() * (math.pi / 180)
    c, s = angle.cos().float(), angle.sin().float()
    dx, dy = x - cx, y - cy
    return dx * c + dy * s, dy * c - dx * s


def _round(u: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """The normal of a cylinder of radius `half` at a distance u from its axis: across, and to the viewer."""
    across = (u / half).clamp(-0.995, 0.995)
    return across, (1 - across * across).sqrt()


def _ellipses(u: Tensor, v: Tensor, *shapes: tuple[float, float | Tensor, float, float]) -> Tensor:
    """How much a point is in ellipses, each (height of the middle, half axes wide and high, softness): (k, n, P). Their
    edges are equally soft all around."""
    below, wide, high, soft = zip(*shapes, strict=True)
    wide = torch.stack([w if isinstance(w, Tensor) else constant((w,), u.device, 1).expand(len(u), 1) for w in wide])
    high, below = constant(high, u.device), constant(below, u.device)
    p, q = u / wide, (v - below) / high
    squared = p * p + q * q
    p, q = p / wide, q / high
    away = (squared - 1) / (4 * (p * p + q * q)).clamp(min=1e-4).sqrt()
    return smooths(away, *((k, s, -s) for k, s in enumerate(soft)))


def _microphone(x: Tensor, y: Tensor, a: dict[str, Tensor], soft: float) -> Thing:
    """A ball of wire mesh or coloured foam on a tapered handle that leaves the picture."""
    lean = (a["occluder_x"] - 0.5) * 50
    cx, cy = (a["occluder_x"] - 0.5) * 0.24, 0.33 - 0.11 * a["occluder_y"]
    u, v = _turned(x, y, cx, cy, -lean)
    foam = (a["occluder_hue"] > 0.55).float()
    radius = 0.088 + 0.022 * foam
    high = radius * (1.06 + 0.10 * foam)
    bx, by = u / radius, v / high
    r2 = bx * bx + by * by
    bz = (1 - r2).clamp(min=0.0).sqrt()
    # Wires cross on the ball; longitude and latitude are close enough to its coordinates.
    stretch = 1 + 0.35 * r2
    p, q = (bx + by) * stretch * 11, (bx - by) * stretch * 11
    wire = ((p - p.floor() - 0.5).abs() - 0.22).clamp(min=0) + ((q - q.floor() - 0.5).abs() - 0.22).clamp(min=0)
    wire = 0.14 + (wire.clamp(max=0.4) - 0.14) * min(1.0, 0.003 / soft)  # fades where a pixel is wider than a wire
    grain, medium = noise(u * 5.0 + a["occluder_hue"], v * 5.0, "pore", "medium")
    grille = hue(0.6, 0.04, 0.62, like=cx) * (0.25 + 2.0 * wire)
    sponge = hue(a["occluder_hue"] * 2.2, 0.66, 0.42) * (1 + 0.14 * grain + 0.06 * medium)
    ball_colour = mix(grille, sponge, foam) * (1 - 0.45 * bump((1 - by) * (1 - by) * 6))
    ball = _lit(ball_colour, bx, -by, bz, a) + _lit(torch.zeros_like(grille), bx, -by, bz, a, 0.35) * (1 - foam) * (
        0.4 + wire
    )
    below = (v - high * 0.8).clamp(min=0)
    half = 0.056 - 0.05 * below.clamp(max=0.4)
    belt, ball_share, collar, shown, handle_share = smooths(
        ((v - 0.01 * bz).abs(), (r2.clamp(min=1e-12).sqrt() - 1) * radius, below, u.abs() - half),
        (0, 0.012 + soft, 0.012 - soft), (1, soft, -soft), (2, 0.035 + soft, 0.035 - soft), (2, -0.01, 0.05),
        (3, soft, -soft),
    )  # fmt: skip
    nx, nz = bx.clamp(-0.99, 0.99), (1 - bx.clamp(-0.99, 0.99) ** 2).sqrt()
    level = constant((0.0,), nx.device, 1)
    ball = mix(ball, _lit(hue(0.6, 0.03, 0.5, like=cx), nx, level, nz, a, 0.7), belt * (1 - foam))

    nx, nz = _round(u, half)
    groove = bump(((below - 0.040) / 0.004) ** 2)
    body = mix(hue(0.62, 0.10, 0.14, like=cx), hue(0.6, 0.04, 0.45, like=cx), collar)
    handle = _lit(body * (1 - 0.6 * groove), nx, level, nz, a, 0.35)
    handle = handle * (0.45 + 0.55 * shown)
    handle_share = handle_share * (v > 0)
    return mix(handle, ball, ball_share), torch.maximum(ball_share, handle_share)


class _Cup(NamedTuple):
    """Points (n, P) of a cup or mug. u, v: right and down from the middle of its mouth; down: v along the circles
    around it, which hang lower in the middle; half: half its width there; nx, nz: its normals; shares in
    ellipses: mouth, the same with a soft edge, gleam, that of the plateau of a lid, plate, inside and coffee of a mug;
    plateau: half its width. mug: 1 of a mug, 0 of a paper cup; rim: half the width of the mouth; both (n, 1).
    tint: (3, n, 1). soft: of edges."""

    u: Tensor
    v: Tensor
    down: Tensor
    half: Tensor
    nx: Tensor
    nz: Tensor
    mouth: Tensor
    gleam: Tensor
    plate: Tensor
    inside: Tensor
    coffee: Tensor
    mug: Tensor
    rim: Tensor
    tint: Tensor
    soft: float


def _cup(x: Tensor, y: Tensor, a: dict[str, Tensor], soft: float) -> Thing:
    """A paper cup with a lid and a sleeve, or a mug, that leaves the picture below."""
    cup = _cup_at(x, y, a, soft)
    medium, streak = noise(cup.nx * 0.3 + a["occluder_hue"], cup.v * 1.2, "medium", "streak")
    glaze = cup.tint * (1 + 0.02 * streak)
    outside = mix(_paper(cup, medium, a), glaze, cup.mug)
    body = _lit(outside, cup.nx, constant((0.12,), x.device, 1), cup.nz, a, 0.30)
    body = body * (1 - 0.30 * bump(((cup.down - 0.052) / 0.022) ** 2) * (1 - cup.mug))  # the lid's shadow
    share = _in_column(cup, cup.half) * smooth(-soft, soft, cup.v)
    closed, lid = _lid(cup, body, a)
    open_, more = _mug(cup, body, share, glaze, a)
    is_mug = cup.mug > 0
    return torch.where(is_mug, open_, closed), torch.maximum(share, torch.where(is_mug, more, lid))


def _cup_at(x: Tensor, y: Tensor, a: dict[str, Tensor], soft: float) -> _Cup:
    cx, cy = (a["occluder_x"] - 0.5) * 0.26, 0.27 - 0.13 * a["occluder_y"]
    u, v = _turned(x, y, cx, cy, (0.5 - a["occluder_x"]) * 22)
    mug = (a["occluder_hue"] * 3 - (a["occluder_hue"] * 3).floor() > 0.68).float()
    half = 0.150 + 0.012 * mug - 0.17 * v.clamp(min=0) * (1 - 0.85 * mug)
    nx, nz = _round(u, half)
    rim = 0.158 + 0.004 * mug
    ellipses = _ellipses(
        u, v, (0.002, rim, 0.034, soft), (0.002, rim, 0.034, 0.01), (-0.036, PLATEAU, 0.024, soft),
        (0.002, rim * 0.93, 0.0316, soft), (0.012, 0.140, 0.026, soft),
    )  # fmt: skip
    tint = hue(a["occluder_hue"], 0.50 - 0.15 * mug, 0.55 + 0.15 * mug)
    return _Cup(u, v, v - nz * 0.030, half, nx, nz, *ellipses, mug, rim, tint, soft)


def _in_column(cup: _Cup, half: float | Tensor) -> Tensor:
    """How much a point is within half of the axis of the cup."""
    return smooth(cup.soft, -cup.soft, cup.u.abs() - half)


def _paper(cup: _Cup, medium: Tensor, a: dict[str, Tensor]) -> Tensor:
    """Colour of white paper in a sleeve of ridged card with a round logo."""
    soft = cup.soft
    ridges = cup.nx * (1 + 0.3 * cup.nx * cup.nx) * 16
    ridges = 1 + 0.05 * ((ridges - ridges.floor()) * 2 - 1).abs()
    card = hue(0.075, 0.42, 0.60, like=cup.mug) * ridges * (1 + 0.03 * medium)
    sleeve = smooth(-soft, soft, cup.down - 0.115) * (1 - cup.mug)
    below = cup.down - 0.215
    logo = smooth(soft, -soft, (cup.nx * cup.nx * 0.030 + below * below).clamp(min=1e-12).sqrt() - 0.052)
    paper = mix(mix(_white(a), card, sleeve), cup.tint * 0.8, logo * sleeve * 0.9)
    return paper * (1 - 0.35 * bump(((cup.down - 0.112) / 0.008) ** 2) * (1 - cup.mug))  # the sleeve's upper edge


def _white(a: dict[str, Tensor]) -> Tensor:
    return hue(0.10, 0.05, 0.90, like=a["occluder_hue"])


def _lid(cup: _Cup, under: Tensor, a: dict[str, Tensor]) -> Thing:
    """Colours (3, n, P) with a white or black lid over those under it, and its share: a skirt wider than the cup, a
    disc, and a plateau on it."""
    soft = cup.soft
    plastic = mix(_white(a), hue(0.6, 0.05, 0.10, like=cup.mug), (a["occluder_hue"] > 0.5).float())
    flat = plastic[:, None] * constant((0.9, 0.95), plastic.device)
    disc, top = _lit_flat(flat, (0.75, 0.8), (0.55, 0.5), a, 0.1).unbind(1)
    disc = disc * (0.75 + 0.25 * cup.gleam)
    half = torch.stack([cup.rim, torch.full_like(cup.rim, PLATEAU)])
    nx, nz = _round(cup.u, half)
    skirt, wall = _lit(plastic[:, None], nx, constant((0.1,), nx.device), nz, a, 0.4).unbind(1)
    skirt = skirt * (1 - 0.30 * bump(((cup.down - 0.010) / 0.006) ** 2))
    column, inner = _in_column(cup, half)
    above, raised, below, lower, upper = smooths(
        (cup.v + 0.012, cup.v + 0.036, cup.down, cup.v - 0.034 * nz[0], cup.v - 0.024 * nz[1]),
        (0, -soft, soft), (1, -soft, soft), (2, 0.040 + soft, 0.040 - soft), (3, -soft, soft), (4, soft, -soft),
    )  # fmt: skip
    skirt_share = column * above * below
    colour = mix(mix(under, disc, cup.mouth), skirt, skirt_share * lower)
    wall_share = inner * raised * upper
    colour = mix(mix(colour, wall, wall_share), top, cup.plate)
    return colour, torch.maximum(torch.maximum(cup.mouth, cup.plate), torch.maximum(skirt_share, wall_share))


def _mug(cup: _Cup, under: Tensor, body: Tensor, glaze: Tensor, a: dict[str, Tensor]) -> Thing:
    """Colours (3, n, P) with the lip of a mug, coffee in it and a handle over those under it, and the share of lip and
    handle; body: share of the mug's body."""
    well = glaze * (0.35 + 0.3 * smooth(-0.03, 0.0, cup.v))
    well = mix(well, hue(0.06, 0.75, 0.24, like=cup.mug), cup.coffee)
    lip = _lit_flat((glaze * 1.05)[:, None], (0.6,), (0.75,), a, 0.2)[:, 0]
    well = _lit_flat(well[:, None], (0.8,), (0.4,), a, 0.0)[:, 0]
    colour = mix(mix(under, lip, cup.mouth), well, cup.inside)
    handle, ring = _handle(cup, body, a)
    return mix(colour, handle, ring * (1 - cup.mouth)), torch.maximum(cup.mouth, ring)


def _handle(cup: _Cup, body: Tensor, a: dict[str, Tensor]) -> Thing:
    """A ring beside a mug, where its body does not cover it."""
    side = torch.where(a["occluder_x"] > 0.5, 1.0, -1.0)
    beside = cup.u * side - cup.half
    du, dv = beside / 0.85, cup.v - 0.125
    far = (du * du + dv * dv).clamp(min=1e-12).sqrt()
    across = ((far - 0.082) / 0.019).clamp(-1, 1)
    outwards = across / far
    nz = (1 - across * across).clamp(min=0).sqrt()
    colour = _lit(cup.tint, side * du * outwards, -dv * outwards, nz, a, 0.3)
    ring = smooth(cup.soft, -cup.soft, (far - 0.082).abs() - 0.019) * (cup.u * side > 0) * (1 - body)
    return colour * (0.75 + 0.25 * smooth(0.0, 0.03, beside)), ring


def _book(x: Tensor, y: Tensor, a: dict[str, Tensor], soft: float) -> Thing:
    """An open hardback seen from its cover: two boards, the spine between them, the pages' edge above."""
    cx, cy = (a["occluder_x"] - 0.5) * 0.22, 0.29 - 0.09 * a["occluder_y"]
    u, v = _turned(x, y, cx, cy, (a["occluder_x"] - 0.5) * 26)
    half = 0.36 + 0.05 * a["occluder_y"]
    au = u.abs()
    open_ = 0.10  # the boards lean back from the spine, which makes their upper edge rise towards it
    edge = v - open_ * 0.28 * au
    cloth = hue(a["occluder_hue"], 0.52, 0.30 + 0.22 * (a["occluder_hue"] * 5 - (a["occluder_hue"] * 5).floor()))
    gold = hue(0.12, 0.45, 0.75, like=cx)
    grain, wide = noise(u * 3.0, v * 3.0 + a["occluder_hue"], "pore", "wide")
    board = cloth * (1 + 0.05 * grain + 0.04 * wide)
    spine = smooth(0.036 + soft, 0.036 - soft, au)
    # On the right board, which is the front: a frame, a title and a name.
    right, title, name = (u - 0.20).abs(), (edge - 0.105).abs(), (edge - 0.160).abs()
    hinge, upper, side, *bands, rim = bumps(
        (au, edge, right), (0, 0.050, 0.008), (1, 0.035, 0.0035), (2, 0.126, 0.0035), (1, 0.06, 0.004),
        (1, 0.13, 0.004), (1, 0.0, 0.006),
    )  # fmt: skip
    letters = noise(u * 2.3 + a["occluder_hue"] * 9, 0 * v + 0.4, "streak")
    across, below, title, wide_, thick, name, short, thin = smooths(
        (right, edge, title, letters, name), (0, 0.130, 0.126), (1, 0.033, 0.037), (2, 0.018 + soft, 0.018 - soft),
        (0, 0.092, 0.086), (3, -0.5, 0.1), (4, 0.007 + soft, 0.007 - soft), (0, 0.060, 0.055), (3, -0.4, 0.2),
    )  # fmt: skip
    frame = upper * across + side * below
    words = title * wide_ * thick, name * short * thin
    print_ = (frame + words[0] + words[1] + (bands[0] + bands[1]) * spine).clamp(max=1)
    albedo = mix(board, gold, print_ * 0.8) * (1 - 0.35 * hinge)
    side = torch.where(u > 0, 1.0, -1.0)
    sx, sz = _round(u, u.new_tensor(0.046))
    nx = torch.where(au < 0.040, sx, side * 0.20)
    nz = torch.where(au < 0.040, sz, torch.full_like(sz, 0.97))
    cover = _lit(albedo, nx, constant((0.05,), nx.device, 1), nz, a, 0.12)
    cover = cover * (1 - 0.25 * rim)
    inside = smooth(soft, -soft, au - half)
    cover_share = smooth(-soft, soft, edge) * inside
    # The pages: thin lines along their edge, behind the boards.
    lines = noise(u * 0.2, edge * 26, "pore")
    pages = hue(0.11, 0.14, 0.86, like=cx) * (0.90 + 0.06 * lines)
    block = _lit_flat(pages[:, None], (0.85,), (0.5,), a, 0.0)[:, 0] * (0.55 + 0.45 * smooth(0.0, 0.02, -edge))
    block_share = smooth(-soft, soft, edge + 0.016 * smooth(0.0, 0.06, au)) * smooth(soft, -soft, au - half + 0.012)
    return mix(block, cover, cover_share), torch.maximum(cover_share, block_share)


def _scarf(x: Tensor, y: Tensor, a: dict[str, Tensor], soft: float) -> Thing:
    """A knitted scarf wound around neck and chin."""
    cx, cy = (a["occluder_x"] - 0.5) * 0.10, 0.30 - 0.08 * a["occluder_y"]
    u, v = x - cx, y - cy
    wide, medium, grain = noise(u * 0.5 + a["occluder_hue"] * 7, v * 0.5 + a["occluder_x"], "wide", "medium", "pore")
    slant = (a["occluder_x"] - 0.5) * 0.5
    edge = v - 0.50 * u * u * (1 - 0.5 * u * u) - slant * u + 0.012 * wide
    half = 0.285 + 0.055 * smooth(-0.02, 0.10, edge) + 0.42 * edge.clamp(0, 0.35) + 0.010 * medium
    nx, nz = _round(u, half)
    # Folds run around the neck, bent by noise; each is a soft roll with a shadow where the next one lies on it.
    along = edge * 9.5 + 0.22 * wide + 0.5 * slant * u * 6 + 0.8 * nx * nx
    roll = along - along.floor()
    bands = edge * 3.1 + a["occluder_hue"] * 3
    thick, end, start, banded, lower, upper, sides = smooths(
        (roll, (bands - bands.floor() - 0.5).abs(), edge, u.abs() - half), (0, 1.0, 0.85), (0, 0.80, 1.0),
        (0, 0.10, 0.0), (1, 0.36, 0.40), (2, -0.01, 0.05), (2, -soft * 1.5, soft * 1.5), (3, soft * 1.5, -soft * 1.5),
    )  # fmt: skip
    slope = (0.45 - roll) * 1.3 * thick
    crease = end + 0.45 * start
    stitches = u * 62 + 3 * medium
    knit = edge * 70 + ((stitches - stitches.floor()) * 2 - 1).abs() * 1.2
    knit = ((knit - knit.floor()) * 2 - 1).abs()
    fade = min(1.0, 0.0022 / soft)
    tone, second = hues(
        (a["occluder_hue"], 0.20 + 0.35 * a["occluder_x"], 0.35 + 0.35 * a["occluder_y"]),
        (a["occluder_hue"] + 0.08, 0.25, 0.75),
    )
    banded = banded * (a["occluder_x"] * 7 % 1 > 0.55)
    wool = mix(tone, second, banded) * (1 + fade * (0.22 * knit - 0.14) + 0.05 * grain)
    length = (1 + slope * slope).sqrt()
    lit = _lit(wool, nx * 0.9 / length, slope / length, nz / length, a)
    lit = lit * (1 - 0.55 * crease) * (0.70 + 0.30 * lower)
    return lit, upper * sides
