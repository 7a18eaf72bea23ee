"""Objects held before the lower face: a microphone, a cup, a book, or a scarf drawn up.

They are drawn in the plane of the picture and depend on attributes only, so that what they hide is known for every
face: what they hide must come from the target in a face swap. Only exact arithmetic is used per point (see curves.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .curves import bump, hue, mix, smooth
from .noise import noise

KINDS = (0.26, 0.50, 0.74)  # occluder_kind below: microphone, cup, book, else scarf
Share = Tensor
Thing = tuple[Tensor, Share]


def occluder(x: Tensor, y: Tensor, a: dict[str, Tensor]) -> Thing:
    """Linear colours (3, n, S, S) and shares (n, S, S) in [0, 1] of the objects at x (to the right) and y (down).

    x, y: (n, S, S), sides of the picture from its middle, in [-.5, .5]. The share is 0 where a["occluder"] is 0.

    Used of a, name -> (n, 1): occluder, _kind, _x, _y, _hue in [0, 1]; light_azimuth, _elevation, _strength, _warmth,
    ambient.
    """
    side = x.shape[-1]
    colour, share = torch.zeros(3, *x.shape, device=x.device), torch.zeros(x.shape, device=x.device)
    number = sum((a["occluder_kind"][:, 0] >= edge).long() for edge in KINDS)
    number = torch.where(a["occluder"][:, 0] > 0, number, -1)
    soft = max(0.0025, 0.6 / side)
    low, high = y.amax((0, 2)), x.abs().amin((0, 1))
    for k, (draw, top, wide) in enumerate(
        ((_microphone, 0.08, 0.35), (_cup, 0.0, 0.52), (_book, 0.0, 0.56), (_scarf, 0.0, 0.60))
    ):
        rows = (number == k).nonzero()[:, 0]
        if len(rows):
            # Only the part of the picture that such an object can reach.
            lines, columns = (low > top).nonzero()[:, 0], (high < wide).nonzero()[:, 0]
            near = rows[:, None, None], lines[None, :, None], columns[None, None]
            some = {name: a[name][rows] for name in a if name.startswith(("occluder", "light", "ambient"))}
            drawn, covered = draw(x[near].flatten(1), y[near].flatten(1), some, soft)
            place = len(rows), len(lines), len(columns)
            share[near] = covered.view(place)
            for channel, values in zip(colour, drawn, strict=True):
                channel[near] = values.view(place)
    return colour, share * a["occluder"].clamp(0, 1)[..., None]


def _lit(albedo: Tensor, nx: Tensor, ny: Tensor, nz: Tensor, a: dict[str, Tensor], gloss: float = 0.0) -> Tensor:
    """Albedo (3, n, P) or (3, n, 1) under the key and the ambient light; unit normals (n, P), y up, z to the viewer."""
    azimuth, elevation = (a[k].double() * (math.pi / 180) for k in ("light_azimuth", "light_elevation"))
    lx = (azimuth.sin() * elevation.cos()).float()
    ly, lz = elevation.sin().float(), (azimuth.cos() * elevation.cos()).float()
    facing = ((nx * lx + ny * ly + nz * lz + 0.12) * (1 / 1.12)).clamp(min=0)
    warm = 0.10 * a["light_warmth"].clamp(-2, 2)
    key = torch.stack([1 + warm, torch.ones_like(warm), 1 - 1.4 * warm]) * (1.04 * a["light_strength"])
    ambient = a["ambient"] * (0.80 + 0.30 * ny)
    out = albedo * (key * facing + ambient)
    if not gloss:
        return out
    hx, hy, hz = lx, ly, lz + 1
    length = (hx * hx + hy * hy + hz * hz).sqrt()
    near = ((nx * hx + ny * hy + nz * hz) / length).clamp(min=0)
    near = near * near
    near = near * near
    near = near * near
    near = near * near
    return out + key * (near * near * gloss)


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


def _ellipse(u: Tensor, v: Tensor, wide: float | Tensor, high: float, soft: float) -> Tensor:
    """How much a point is in the ellipse of half axes wide and high about 0; its edge is equally soft all around."""
    p, q = u / wide, v / high
    squared = p * p + q * q
    p, q = p / wide, q / high
    return smooth(soft, -soft, (squared - 1) / (4 * (p * p + q * q)).clamp(min=1e-4).sqrt())


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
    grille = hue(0.6 + 0 * cx, 0.04 + 0 * cx, 0.62 + 0 * cx) * (0.25 + 2.0 * wire)
    sponge = hue(a["occluder_hue"] * 2.2, 0.66 + 0 * cx, 0.42 + 0 * cx) * (1 + 0.14 * grain + 0.06 * medium)
    ball_colour = mix(grille, sponge, foam) * (1 - 0.45 * bump((1 - by) * (1 - by) * 6))
    ball = _lit(ball_colour, bx, -by, bz, a) + _lit(torch.zeros_like(grille), bx, -by, bz, a, 0.35) * (1 - foam) * (
        0.4 + wire
    )
    belt = smooth(0.012 + soft, 0.012 - soft, (v - 0.01 * bz).abs()) * (1 - foam)
    nx, nz = bx.clamp(-0.99, 0.99), (1 - bx.clamp(-0.99, 0.99) ** 2).sqrt()
    ball = mix(ball, _lit(hue(0.6 + 0 * cx, 0.03 + 0 * cx, 0.5 + 0 * cx), nx, 0 * nx, nz, a, 0.7), belt)
    ball_share = smooth(soft, -soft, (r2.clamp(min=1e-12).sqrt() - 1) * radius)

    below = (v - high * 0.8).clamp(min=0)
    half = 0.056 - 0.05 * below.clamp(max=0.4)
    nx, nz = _round(u, half)
    collar = smooth(0.035 + soft, 0.035 - soft, below)
    groove = bump(((below - 0.040) / 0.004) ** 2)
    body = mix(
        hue(0.62 + 0 * cx, 0.10 + 0 * cx, 0.14 + 0 * cx), hue(0.6 + 0 * cx, 0.04 + 0 * cx, 0.45 + 0 * cx), collar
    )
    handle = _lit(body * (1 - 0.6 * groove), nx, 0 * nx, nz, a, 0.35)
    handle = handle * (0.45 + 0.55 * smooth(-0.01, 0.05, below))
    handle_share = smooth(soft, -soft, u.abs() - half) * (v > 0)
    return mix(handle, ball, ball_share), torch.maximum(ball_share, handle_share)


def _cup(x: Tensor, y: Tensor, a: dict[str, Tensor], soft: float) -> Thing:
    """A paper cup with a lid and a sleeve, or a mug, that leaves the picture below."""
    cx, cy = (a["occluder_x"] - 0.5) * 0.26, 0.27 - 0.13 * a["occluder_y"]
    u, v = _turned(x, y, cx, cy, (0.5 - a["occluder_x"]) * 22)
    mug = (a["occluder_hue"] * 3 - (a["occluder_hue"] * 3).floor() > 0.68).float()
    half = 0.150 + 0.012 * mug - 0.17 * v.clamp(min=0) * (1 - 0.85 * mug)
    nx, nz = _round(u, half)
    curve = nz * 0.030  # circles around the cup, seen from above, hang lower in the middle
    down = v - curve
    tint = hue(a["occluder_hue"], 0.50 - 0.15 * mug, 0.55 + 0.15 * mug)
    white = hue(0.10 + 0 * cx, 0.05 + 0 * cx, 0.90 + 0 * cx)
    card = hue(0.075 + 0 * cx, 0.42 + 0 * cx, 0.60 + 0 * cx)
    medium, streak = noise(nx * 0.3 + a["occluder_hue"], v * 1.2, "medium", "streak")
    sleeve = smooth(-soft, soft, down - 0.115) * (1 - mug)
    ridges = nx * (1 + 0.3 * nx * nx) * 16
    ridges = 1 + 0.05 * ((ridges - ridges.floor()) * 2 - 1).abs()
    logo = smooth(soft, -soft, (nx * nx * 0.030 + (down - 0.215) * (down - 0.215)).clamp(min=1e-12).sqrt() - 0.052)
    paper = mix(white, card * ridges * (1 + 0.03 * medium), sleeve)
    paper = mix(paper, tint * 0.8, logo * sleeve * 0.9)
    paper = paper * (1 - 0.35 * bump(((down - 0.112) / 0.008) ** 2) * (1 - mug))
    glaze = tint * (1 + 0.02 * streak)
    body = _lit(mix(paper, glaze, mug), nx, 0.12 + 0 * nx, nz, a, 0.30)
    body = body * (1 - 0.30 * bump(((down - 0.052) / 0.022) ** 2) * (1 - mug))
    body_share = smooth(soft, -soft, u.abs() - half) * smooth(-soft, soft, v + curve * 0 + 0.0)

    # The lid: a rim wider than the cup, and a plateau with a hole; a mug has its lip and the dark inside.
    rim_half = half.new_tensor(0.158) + 0.004 * mug
    top = -0.036 * (1 - mug)
    lx, lz = _round(u, rim_half)
    skirt = (
        smooth(soft, -soft, u.abs() - rim_half)
        * smooth(-soft, soft, v + 0.012)
        * smooth(0.040 + soft, 0.040 - soft, down)
    )
    lid = mix(white, hue(0.6 + 0 * cx, 0.05 + 0 * cx, 0.10 + 0 * cx), (a["occluder_hue"] > 0.5).float())
    skirt_lit = _lit(lid, lx, 0.1 + 0 * lx, lz, a, 0.4) * (1 - 0.30 * bump(((down - 0.010) / 0.006) ** 2))
    disc = _ellipse(u, v - 0.002, rim_half, 0.034, soft)
    disc_lit = _lit(lid * 0.9, 0 * lx, 0.75 + 0 * lx, 0.55 + 0 * lx, a, 0.1) * (
        0.75 + 0.25 * _ellipse(u, v - 0.002, rim_half, 0.034, 0.01)
    )
    plateau_half = 0.118
    px, pz = _round(u, half.new_tensor(plateau_half))
    wall = (
        smooth(soft, -soft, u.abs() - plateau_half) * smooth(-soft, soft, v - top) * smooth(soft, -soft, v - 0.024 * pz)
    )
    wall_lit = _lit(lid, px, 0.1 + 0 * px, pz, a, 0.4)
    plate = _ellipse(u, v - top, plateau_half, 0.024, soft)
    plate_lit = _lit(lid * 0.95, 0 * px, 0.8 + 0 * px, 0.5 + 0 * px, a, 0.1)
    paper_lid = 1 - mug
    colour = mix(body, disc_lit, disc * paper_lid)
    colour = mix(colour, skirt_lit, skirt * (1 - disc * 0.0) * paper_lid * smooth(-soft, soft, v - 0.034 * lz))
    colour = mix(mix(colour, wall_lit, wall * paper_lid), plate_lit, plate * paper_lid)
    lip = disc * mug
    inside = _ellipse(u, v - 0.002, rim_half * 0.93, 0.0316, soft) * mug
    colour = mix(colour, _lit(glaze * 1.05, 0 * lx, 0.6 + 0 * lx, 0.75 + 0 * lx, a, 0.2), lip)
    coffee = _ellipse(u, v - 0.012, 0.140, 0.026, soft)
    well = mix(glaze * (0.35 + 0.3 * smooth(-0.03, 0.0, v)), hue(0.06 + 0 * cx, 0.75 + 0 * cx, 0.24 + 0 * cx), coffee)
    colour = mix(colour, _lit(well, 0 * lx, 0.8 + 0 * lx, 0.4 + 0 * lx, a), inside)
    # The handle of a mug: a ring beside it.
    aside = u * torch.where(a["occluder_x"] > 0.5, 1.0, -1.0)
    du, dv = (aside - half) / 0.85, v - 0.125
    far = (du * du + dv * dv).clamp(min=1e-12).sqrt()
    across = ((far - 0.082) / 0.019).clamp(-1, 1)
    ring = smooth(soft, -soft, (far - 0.082).abs() - 0.019) * (aside > 0) * (1 - body_share) * mug
    outwards = across / far
    to_side = torch.where(a["occluder_x"] > 0.5, du, -du) * outwards
    bent = _lit(tint, to_side, -dv * outwards, (1 - across * across).clamp(min=0).sqrt(), a, 0.3)
    colour = mix(colour, bent * (0.75 + 0.25 * smooth(0.0, 0.03, aside - half)), ring * (1 - lip))
    cover = torch.maximum(torch.maximum(disc, plate), torch.maximum(skirt, wall)) * paper_lid
    return colour, torch.maximum(torch.maximum(body_share, cover), torch.maximum(lip, ring))


def _book(x: Tensor, y: Tensor, a: dict[str, Tensor], soft: float) -> Thing:
    """An open hardback seen from its cover: two boards, the spine between them, the pages' edge above."""
    cx, cy = (a["occluder_x"] - 0.5) * 0.22, 0.25 - 0.13 * a["occluder_y"]
    u, v = _turned(x, y, cx, cy, (a["occluder_x"] - 0.5) * 26)
    half = 0.36 + 0.05 * a["occluder_y"]
    au = u.abs()
    open_ = 0.10  # the boards lean back from the spine, which makes their upper edge rise towards it
    edge = v - open_ * 0.28 * au
    cloth = hue(
        a["occluder_hue"], 0.52 + 0 * cx, 0.30 + 0.22 * (a["occluder_hue"] * 5 - (a["occluder_hue"] * 5).floor())
    )
    gold = hue(0.12 + 0 * cx, 0.45 + 0 * cx, 0.75 + 0 * cx)
    grain, wide = noise(u * 3.0, v * 3.0 + a["occluder_hue"], "pore", "wide")
    board = cloth * (1 + 0.05 * grain + 0.04 * wide)
    spine = smooth(0.036 + soft, 0.036 - soft, au)
    hinge = bump(((au - 0.050) / 0.008) ** 2)
    # On the right board, which is the front: a frame, a title and a name.
    fu, fv = u - 0.20, edge
    frame = bump(((fv - 0.035) / 0.0035) ** 2) * smooth(0.130, 0.126, fu.abs()) + bump(
        ((fu.abs() - 0.126) / 0.0035) ** 2
    ) * smooth(0.033, 0.037, fv)
    letters = noise(u * 2.3 + a["occluder_hue"] * 9, 0 * v + 0.4, "streak")
    title = (
        smooth(0.018 + soft, 0.018 - soft, (fv - 0.105).abs())
        * smooth(0.092, 0.086, fu.abs())
        * smooth(-0.5, 0.1, letters)
    )
    name = (
        smooth(0.007 + soft, 0.007 - soft, (fv - 0.160).abs())
        * smooth(0.060, 0.055, fu.abs())
        * smooth(-0.4, 0.2, letters)
    )
    bands = (bump(((edge - 0.06) / 0.004) ** 2) + bump(((edge - 0.13) / 0.004) ** 2)) * spine
    print_ = (frame + title + name + bands).clamp(max=1)
    albedo = mix(board, gold, print_ * 0.8) * (1 - 0.35 * hinge)
    side = torch.where(u > 0, 1.0, -1.0)
    sx, sz = _round(u, u.new_tensor(0.046))
    nx = torch.where(au < 0.040, sx, side * 0.20)
    nz = torch.where(au < 0.040, sz, torch.full_like(sz, 0.97))
    cover = _lit(albedo, nx, 0.05 + 0 * nx, nz, a, 0.12)
    cover = cover * (1 - 0.25 * bump((edge / 0.006) ** 2))
    inside = smooth(soft, -soft, au - half)
    cover_share = smooth(-soft, soft, edge) * inside
    # The pages: thin lines along their edge, behind the boards.
    lines = noise(u * 0.2, edge * 26, "pore")
    pages = hue(0.11 + 0 * cx, 0.14 + 0 * cx, 0.86 + 0 * cx) * (0.90 + 0.06 * lines)
    block = _lit(pages, 0 * u, 0.85 + 0 * u, 0.5 + 0 * u, a) * (0.55 + 0.45 * smooth(0.0, 0.02, -edge))
    block_share = smooth(-soft, soft, edge + 0.016 * smooth(0.0, 0.06, au)) * smooth(soft, -soft, au - half + 0.012)
    return mix(block, cover, cover_share), torch.maximum(cover_share, block_share)


def _scarf(x: Tensor, y: Tensor, a: dict[str, Tensor], soft: float) -> Thing:
    """A knitted scarf wound around neck and chin."""
    cx, cy = (a["occluder_x"] - 0.5) * 0.10, 0.24 - 0.10 * a["occluder_y"]
    u, v = x - cx, y - cy
    wide, medium, grain = noise(u * 0.5 + a["occluder_hue"] * 7, v * 0.5 + a["occluder_x"], "wide", "medium", "pore")
    slant = (a["occluder_x"] - 0.5) * 0.5
    edge = v - 0.50 * u * u * (1 - 0.5 * u * u) - slant * u + 0.012 * wide
    half = 0.285 + 0.055 * smooth(-0.02, 0.10, edge) + 0.42 * edge.clamp(0, 0.35) + 0.010 * medium
    nx, nz = _round(u, half)
    # Folds run around the neck, bent by noise; each is a soft roll with a shadow where the next one lies on it.
    along = edge * 9.5 + 0.22 * wide + 0.5 * slant * u * 6 + 0.8 * nx * nx
    roll = along - along.floor()
    slope = (0.45 - roll) * 1.3 * smooth(1.0, 0.85, roll)
    crease = smooth(0.80, 1.0, roll) + 0.45 * smooth(0.10, 0.0, roll)
    stitches = u * 62 + 3 * medium
    knit = edge * 70 + ((stitches - stitches.floor()) * 2 - 1).abs() * 1.2
    knit = ((knit - knit.floor()) * 2 - 1).abs()
    fade = min(1.0, 0.0022 / soft)
    tone = hue(a["occluder_hue"], 0.20 + 0.35 * a["occluder_x"], 0.35 + 0.35 * a["occluder_y"])
    second = hue(a["occluder_hue"] + 0.08, 0.25 + 0 * cx, 0.75 + 0 * cx)
    bands = edge * 3.1 + a["occluder_hue"] * 3
    banded = smooth(0.36, 0.40, (bands - bands.floor() - 0.5).abs()) * (a["occluder_x"] * 7 % 1 > 0.55)
    wool = mix(tone, second, banded) * (1 + fade * (0.22 * knit - 0.14) + 0.05 * grain)
    length = (1 + slope * slope).sqrt()
    lit = _lit(wool, nx * 0.9 / length, slope / length, nz / length, a)
    lit = lit * (1 - 0.55 * crease) * (0.70 + 0.30 * smooth(-0.01, 0.05, edge))
    share = smooth(-soft * 1.5, soft * 1.5, edge) * smooth(soft * 1.5, -soft * 1.5, u.abs() - half)
    return lit, share
