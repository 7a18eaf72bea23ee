"""What is behind the head: five kinds of backgrounds, out of focus as behind a portrait.

Everything depends on attributes only. Pictures are drawn on a coarse grid and magnified: they hold no sharp edge. Only
exact arithmetic is used per point (see curves.py), so that a picture does not depend on its batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from .curves import bump, by_kind, constant, hue, hues, mix, rise, smooth, smooths
from .noise import noise

GRID = 64  # points in a row of the coarse grid; an edge in the background is at least as soft as two of them
KINDS = (0.26, 0.50, 0.62, 0.80)  # background_kind below: studio, room, landscape, foliage, else lights at night
USED = ("background_hue", "background_saturation", "background_value", "light_strength", "light_warmth")
CHANCES = 16
DRAWS = 1024  # entries of the table of random numbers that cells look up, a power of two
Chances = tuple[Tensor, ...]


def background(a: dict[str, Tensor], size: int) -> Tensor:
    """Linear colours (3, n, size * size), about 0 to 2, of the attributes a, name -> (n, 1) float32.

    Used: background_kind, _hue, _saturation, _value and _phase in [0, 1], light_strength and light_warmth.
    """
    device, count = a["background_kind"].device, len(a["background_kind"])
    side = min(size, GRID)
    axis = (torch.arange(side, device=device, dtype=torch.float32) + 0.5) / side - 0.5
    v, u = (w.reshape(1, -1) for w in torch.meshgrid(axis, axis, indexing="ij"))
    numbers = torch.cat([torch.stack([a[name] for name in USED]), _chances(a["background_phase"])])
    drawn = torch.empty(3, count, side * side, device=device)
    draws = _studio, _room, _landscape, _foliage, _lights
    for draw, rows in zip(draws, by_kind(a["background_kind"], KINDS), strict=True):
        if len(rows):
            some = numbers.index_select(1, rows)
            own = dict(zip(USED, some, strict=False))
            drawn[:, rows] = draw(u.expand(len(rows), -1), v.expand(len(rows), -1), own, some[len(USED) :].unbind(0))
    warm = 0.05 * a["light_warmth"].clamp(-2, 2)
    tint = torch.stack([1 + warm, torch.ones_like(warm), 1 - 1.3 * warm]) * (0.60 + 0.35 * a["light_strength"])
    drawn = (drawn * tint).clamp_(0, 4)
    return drawn if side == size else _magnified(drawn, side, size)


def _magnified(grid: Tensor, side: int, size: int) -> Tensor:
    """(3, n, side * side) to (3, n, size * size), bilinear."""
    low, high, share = _between(side, size, grid.device)
    share = share[:, None, None]

    def along_rows(image: Tensor) -> Tensor:  # (side, k, m): whole rows are copied, which is fast
        first = image.index_select(0, low)
        return image.index_select(0, high).sub_(first).mul_(share).add_(first)

    count = grid.shape[1]
    columns = grid.view(3 * count, side, side).permute(2, 0, 1).contiguous()
    wide = along_rows(_softened(columns))  # (size x, 3 n, side y)
    whole = along_rows(_softened(wide.permute(2, 1, 0).contiguous()))  # (size y, 3 n, size x)
    return whole.permute(1, 0, 2).reshape(3, count, size * size)


def _softened(rows: Tensor) -> Tensor:
    """Each of (side, k, m) rows half itself and a quarter each of its neighbours: hides the grid on slanted edges."""
    inner = rows[1:-1] * 0.5 + (rows[:-2] + rows[2:]) * 0.25
    return torch.cat([rows[:1], inner, rows[-1:]])


@lru_cache(maxsize=16)
def _between(side: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Of each of `size` points in a row: the two of `side` points beside it, and the share of the second."""
    place = ((torch.arange(size, dtype=torch.float64) + 0.5) * side / size - 0.5).clamp(0, side - 1)
    low = place.floor().clamp(max=side - 2).long()
    return low.to(device), (low + 1).to(device), (place - low).float().to(device)


def _chances(phase: Tensor) -> Tensor:
    """CHANCES numbers in [0, 1], (CHANCES, n, 1), that change continuously, but fast and apart, with phase (n, 1)."""
    fast, apart = zip(*((3.1 + 4.7 * k, 0.618 * k * k) for k in range(CHANCES)), strict=True)
    turns = phase * constant(fast, phase.device) + constant(apart, phase.device)
    return ((turns - turns.floor()) * 2 - 1).abs()


@lru_cache(maxsize=8)
def _draws(device: torch.device) -> Tensor:
    """(4, DRAWS) numbers in [0, 1]."""
    generator = torch.Generator().manual_seed(7)
    return torch.rand(4, DRAWS, generator=generator).to(device)


def _discs(
    u: Tensor, v: Tensor, seed: Sequence[Tensor], layers: Sequence[tuple[float, float, float]]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Round spots in layers, each one spot in every cell of a turned grid. How much each point is in its spot, and
    three numbers in [0, 1] of the spot: (layers, n, P) each.

    seed: of each layer any number (n, 1), moves the grid. layers: of each the cells per picture, the angle of the grid,
    and how soft the edge is, in radii; it is never finer than the coarse grid.
    """
    cells, angle, soft = zip(*layers, strict=True)
    turns = [(math.cos(a) * k, math.sin(a) * k) for k, a in zip(cells, angle, strict=True)]
    c, s = (constant(numbers, u.device) for numbers in zip(*turns, strict=True))
    seed = torch.stack(tuple(seed))
    x, y = u * c - v * s + seed * 61.0, u * s + v * c + seed * 37.0
    column, row = x.floor(), y.floor()
    index = (column.long() * 131 + row.long() * 57) & (DRAWS - 1)
    radius, one, two, three = (t.take(index) for t in _draws(u.device))
    radius = 0.20 + 0.22 * radius
    room = 0.96 - 2 * radius
    dx, dy = x - column - 0.5 - (one - 0.5) * room, y - row - 0.5 - (two - 0.5) * room
    distance = (dx * dx + dy * dy).sqrt() / radius
    rim = distance * distance
    finest = radius.reciprocal() * constant(tuple(1.15 / GRID * k for k in cells), u.device)
    edge = torch.maximum(finest, constant(soft, u.device))
    inside = rise(1 + edge, 1 - edge, distance)
    inside = (3 - 2 * inside) * inside * inside * (0.82 + 0.22 * rim * rim).clamp(max=1.1)
    return inside, one, two, three


def _boxes(u: Tensor, v: Tensor, *boxes: tuple[Tensor, float | Tensor, Tensor, float | Tensor]) -> list[Tensor]:
    """How much a point is in rectangles, each (x, y, wide, high): about (x, y), of half sides wide and high, with soft
    edges."""
    inside = [side for x, y, wide, high in boxes for side in (wide - (u - x).abs(), high - (v - y).abs())]
    soft = smooths(inside, *((k, -0.030, 0.030) for k in range(len(inside))))
    return [soft[k] * soft[k + 1] for k in range(0, len(inside), 2)]


def _studio(u: Tensor, v: Tensor, a: dict[str, Tensor], c: Chances) -> Tensor:
    """Paper or painted canvas with a soft light on it."""
    saturation, value = 0.04 + 0.42 * a["background_saturation"] ** 2, 0.22 + 0.66 * a["background_value"]
    base, second = hues(
        (a["background_hue"], saturation, value),
        (a["background_hue"] + 0.10 * (c[7] - 0.5), saturation * 0.8, (value * 1.18).clamp(max=1)),
    )
    du, dv = u - (c[0] - 0.5) * 0.9, v + 0.12 - (c[1] - 0.5) * 0.5
    glow = bump((du * du + dv * dv) * (2.0 + 4.5 * c[2]))
    wide, medium = noise(u * 0.45 + c[3] * 5, v * 0.45 + c[4] * 5, "wide", "medium")
    paint = 1 + (0.09 * wide + 0.035 * medium) * (c[5] * 1.6 - 0.5).clamp(min=0)
    fall = 1 - (0.25 * c[6]) * smooth(-0.1, 0.6, v)
    return mix(base * (0.42 + 0.30 * c[8]), second * 1.05, glow) * (paint * fall)


class _Room(NamedTuple):
    """u, v: points (n, P); x: as u, but grows towards the window; lit: how close to the window, 0 to 1; rough: slow
    noise. wall, accent, dark: colours (3, n, 1) of wall, of things, and of wood. c: see _chances()."""

    u: Tensor
    v: Tensor
    x: Tensor
    lit: Tensor
    rough: Tensor
    wall: Tensor
    accent: Tensor
    dark: Tensor
    c: Chances


def _room(u: Tensor, v: Tensor, a: dict[str, Tensor], c: Chances) -> Tensor:
    """A wall lit from a window, with a curtain, shelves or a picture, a lamp and dark furniture."""
    x = u * (1 - 2 * (c[0] > 0.5).float())  # the window is at the right or, mirrored, at the left
    value = 0.42 + 0.46 * a["background_value"]
    wall, accent, dark = hues(
        (0.09 + 0.10 * (c[1] - 0.5) + 0.04, 0.06 + 0.20 * a["background_saturation"] * c[2], value),
        (a["background_hue"], 0.12 + 0.34 * a["background_saturation"], 0.22 + 0.42 * c[3]),
        (0.06 + 0.03 * c[4], 0.35 + 0.2 * c[5], 0.16 + 0.22 * c[6]),
    )
    rough = noise(u * 0.3 + c[7] * 5, v * 0.3 + c[8], "wide")
    room = _Room(u, v, x, smooth(-0.9, 0.5, x), rough, wall, accent, dark, c)
    colour = _wall(room)
    for add in (_picture, _shelves, _window, _lamp, _seat):
        colour = add(colour, room)
    return colour


def _wall(r: _Room) -> Tensor:
    """Brighter towards the window and upwards; some have a corner of the room far from the window."""
    colour = r.wall * ((0.38 + 0.75 * r.lit * r.lit) * (1 + 0.05 * r.rough) * (1 - 0.22 * smooth(-0.2, 0.6, r.v)))
    corner = smooth(-0.012, 0.012, -0.36 + 0.30 * r.c[9] - r.x) * (r.c[10] > 0.4)
    return colour * (1 - 0.30 * corner)


def _away(r: _Room) -> tuple[Tensor, Tensor]:
    """x (n, 1) of what is on the wall away from the window; and whether that is shelves, 1, or a picture, 0."""
    return -0.40 - 0.06 * r.c[12], (r.c[11] > 0.45).float()


def _picture(colour: Tensor, r: _Room) -> Tensor:
    """A framed picture on the wall."""
    x, shelf = _away(r)
    y, wide, high = -0.16 + 0.10 * r.c[13], 0.06 * r.c[14], 0.05 * r.c[15]
    frame, inner = _boxes(r.x, r.v, (x, y, 0.12 + wide, 0.14 + high), (x, y, 0.09 + wide, 0.11 + high))
    frame, inner = frame * (1 - shelf), inner * (1 - shelf)
    return mix(mix(colour, r.dark * 0.7, frame), r.accent * (0.9 + 0.25 * r.rough), inner)


def _shelves(colour: Tensor, r: _Room) -> Tensor:
    """Shelves of books, each in a cell of a grid with its height, colour and brightness."""
    x, shelf = _away(r)
    column, row = r.x * 20 + r.c[7] * 40, r.v * 5.2 + r.c[8] * 9
    index = (column.floor().long() * 29 + row.floor().long() * 83) & (DRAWS - 1)
    tall, which, bright = (t.take(index) for t in _draws(r.u.device)[:3])
    inside = row - row.floor()
    lower, upper, middle, which = smooths(
        (inside - 0.42 * tall, 1 - inside, (column - column.floor() - 0.5).abs(), which),
        (0, -0.06, 0.22), (1, 0.0, 0.16), (2, 0.62, 0.30), (3, 0.35, 0.65),
    )  # fmt: skip
    book = lower * upper * middle
    books = mix(r.accent, r.wall * 0.8, which) * (0.25 + 0.9 * bright)
    (shelves,) = _boxes(r.x, r.v, (x - 0.08, -0.05, 0.26 + 0.06 * r.c[14], 0.8))
    return mix(colour, mix(r.dark * 0.5, books, book * 0.85), shelves * shelf)


def _window(colour: Tensor, r: _Room) -> Tensor:
    """In some rooms: a window with bars, a curtain, and a glow about it."""
    there = (r.c[5] > 0.22).float()
    at, half = 0.40 + 0.10 * (r.c[6] - 0.5), 0.13 + 0.05 * r.c[9]
    dx, dy = r.x - at, r.v + 0.15
    upright, across, cloth, end = smooths(
        (dx.abs(), (r.v + 0.20 - 0.1 * r.c[4]).abs(), 0.075 - (dx + half + 0.03).abs(), r.v),
        (0, 0.032, 0.0), (1, 0.030, 0.0), (2, -0.03, 0.03), (3, 0.45, 0.35),
    )  # fmt: skip
    panes = mix(_outside(r), r.wall * 0.75, (upright + across).clamp(max=1) * 0.75)
    (hole,) = _boxes(r.x, r.v, (at, -0.17, half, 0.36))
    colour = mix(mix(colour, panes, hole * there), _cloth(r), cloth * end * there * 0.92)
    return colour + hue(0.10, 0.2, 0.6, like=at) * (bump((dx * dx + dy * dy) * 16) * 0.35 * there)


def _outside(r: _Room) -> Tensor:
    """Sky above trees, seen through the window."""
    sky = hue(0.58, 0.10 + 0.10 * r.c[10], 1) * (1.2 + 0.8 * r.c[12])
    return mix(sky, hue(0.27, 0.30, 0.75, like=r.c[0]), smooth(-0.10, 0.12, r.v + 0.06 * r.rough))


def _cloth(r: _Room) -> Tensor:
    """Colour of a curtain in folds."""
    folds = 0.62 + 0.22 * noise(r.u * 0.55 + r.c[1] * 3, r.v * 0.02 + r.c[2], "streak")
    return mix(r.wall, r.accent, 0.55 * (r.c[13] > 0.5)) * (folds.clamp(0.2, 1.2) * 1.05)


def _lamp(colour: Tensor, r: _Room) -> Tensor:
    """In some rooms: a lamp that is on, and its glow on the wall."""
    dx, dy = r.x - (-0.30 - 0.12 * r.c[3]), r.v - (-0.06 - 0.16 * r.c[2])
    squared = dx * dx + dy * dy
    there = (r.c[15] > 0.62).float()
    glow = bump(squared * 30) * 0.30 + smooth(0.07, 0.035, squared.sqrt()) * 1.5
    return colour + hue(0.095, 0.42, 1, like=there) * glow * there


def _seat(colour: Tensor, r: _Room) -> Tensor:
    """In some rooms: low furniture, a little lower at one place."""
    seat = smooth(-0.03, 0.03, r.v - 0.20 - 0.12 * r.c[1] - 0.03 * bump(((r.x + 0.2) / 0.2) ** 2))
    material = mix(r.dark, r.accent, 0.5 * (r.c[8] > 0.5)) * (0.45 + 0.4 * r.lit)
    return mix(colour, material, seat * (r.c[9] > 0.35) * 0.95)


def _landscape(u: Tensor, v: Tensor, a: dict[str, Tensor], c: Chances) -> Tensor:
    """Sky over hills, trees or houses far away."""
    dusk = smooth(0.62, 0.95, c[0])
    high, clear, late, land, town = hues(
        (0.59 + 0.03 * (c[1] - 0.5), 0.20 + 0.35 * a["background_saturation"], 0.62 + 0.30 * c[2]),
        (0.58, 0.08 + 0.08 * c[3], 0.95),
        (0.07 + 0.03 * c[4], 0.45, 0.95),
        (0.24 + 0.10 * c[11], 0.14 + 0.30 * c[12], 0.20 + 0.26 * c[14] + 0.1 * a["background_value"]),
        (0.07 + 0.05 * c[11], 0.10 + 0.12 * c[12], 0.32 + 0.3 * c[14]),
    )
    high, low = mix(high, hue(0.66, 0.30, 0.45, like=dusk), dusk), mix(clear, late, dusk)
    level = 0.02 + 0.22 * c[5]
    wide, medium = noise(u * 0.40 + c[6] * 5, v * 0.9 + c[7] * 5, "wide", "medium")
    sky = mix(high, low, smooth(-0.55, 0.05, v - level))
    cloud = smooth(0.1, 1.6, wide) * (0.55 * c[8])
    colour = mix(sky, low * 1.08, cloud) * (0.85 + 0.35 * a["background_value"])
    city = (c[13] > 0.55).float()
    land = mix(land, town, city)
    # Three ranges of hills or houses, the farthest first.
    device, count = u.device, range(3)
    place = torch.stack(c[9:12]) * 7, torch.stack(c[6:9]) + constant(tuple(0.3 * k for k in count), device)
    x = u * constant(tuple(0.10 + 0.05 * k for k in count), device) + place[0]
    ridge, rough = noise(x, place[1].expand_as(x), "wide", "medium")
    column = u * constant((9.0, 7.0, 5.0), device) + torch.stack(c[10:13]) * 50
    steps = _draws(device)[:3].gather(1, ((column.floor().long() * 37) & (DRAWS - 1)).flatten(1)).view(column.shape)
    edge = smooth(0.62, 0.46, (column - column.floor() - 0.5).abs())
    tower = v - level + (steps * 0.30 - 0.10)
    top = level + constant((0.0, 0.05, 0.10), device) - 0.045 * ridge - 0.012 * rough
    soft = [(k, -s, s) for k, s in enumerate((0.02, 0.028, 0.036) * 2)]
    tower, top = smooths((*tower, *(v - top)), *soft).split(3)
    cover = torch.maximum(tower * edge * (city * constant((0.0, 1.0, 1.0), device)), top)
    shade = (1 - 0.35 * dusk) * (1 + 0.07 * medium + 0.12 * (steps - 0.5) * city)
    for k, distance in enumerate((0.75, 0.40, 0.05)):
        colour = mix(colour, mix(land, low * 0.85, constant((distance,), device, 1)) * shade[k], cover[k])
    return colour


def _foliage(u: Tensor, v: Tensor, a: dict[str, Tensor], c: Chances) -> Tensor:
    """Leaves before gaps of sky: soft discs of greens in layers, some with the sun in them."""
    tone = 0.22 + 0.12 * (a["background_hue"] - 0.5) + 0.02 * c[0]
    saturation, value = 0.28 + 0.30 * a["background_saturation"], 0.28 + 0.34 * a["background_value"]
    deep, leaf, sunny, bright = hues(
        (tone + 0.06, saturation, value * 0.48),
        (tone, saturation, value),
        (tone - 0.06, saturation * 0.80, (value * 1.65).clamp(max=0.95)),
        (0.17, 0.10 + 0.1 * c[1], 1),
    )
    bright = bright * (1.0 + 0.5 * c[2])
    wide, medium = noise(u * 0.42 + c[3] * 5, v * 0.42 + c[4] * 5, "wide", "medium")
    height = v + 0.5 + 0.10 * wide
    gap = smooth(0.6, 2.0, wide + 0.35 * medium + 0.9 * c[5] - 1.6 * height)
    colour = mix(mix(deep, leaf, smooth(-1.6, 1.6, wide + 0.4 * medium)), bright, gap * 0.8)
    low = smooth(0.9, 0.2, height)
    spots, one, two, three = _discs(
        u, v, (*c[6:9], c[11]), ((3.6, 0.4, 0.30), (5.5, 1.1, 0.30), (8.0, 2.0, 0.30), (8.5, 0.8, 0.14))
    )
    leafy, lit, seen = smooths((one[:3], three[:3]), (0, 0.0, 0.5), (0, 0.55, 1.0), (1, 0.2, 0.5))
    green = mix(mix(deep[:, None], leaf[:, None], leafy), sunny[:, None], lit * low)
    cover = spots[:3].clamp(max=1) * (constant((0.75, 0.6, 0.45), u.device) * (0.15 + 0.85 * two[:3]))
    cover = cover * ((1 - 0.8 * gap) * seen)
    for k in range(3):
        colour = mix(colour, green[:, k], cover[k])
    shining, free = smooths((three[3], wide - 1.5 * (height - 0.4)), (0, 0.62, 0.95), (1, -0.6, 0.9))
    sun = spots[3] * shining * free * (0.25 + 0.75 * one[3])
    colour = mix(colour, bright * 0.9, (sun * 0.75).clamp(max=1))
    return colour * (1.12 - 0.45 * smooth(0.1, 1.0, height))


def _lights(u: Tensor, v: Tensor, a: dict[str, Tensor], c: Chances) -> Tensor:
    """A street at dusk: lamps, windows and cars out of focus."""
    value = 0.10 + 0.22 * a["background_value"]
    sky, ground = hues(
        (0.60 + 0.14 * (a["background_hue"] - 0.5), 0.25 + 0.30 * a["background_saturation"], value * 1.5),
        (0.06 + 0.06 * a["background_hue"], 0.25 + 0.2 * c[0], value),
    )
    wide, medium = noise(u * 0.35 + c[1] * 5, v * 0.35 + c[2] * 5, "wide", "medium")
    colour = mix(sky, ground, smooth(-0.35, 0.25, v + 0.05 * wide)) * (1 + 0.22 * wide + 0.06 * medium).clamp(min=0.3)
    street = bump((v - 0.02 - 0.1 * c[3]) ** 2 * 18)
    colour = colour + hue(0.08, 0.45, 0.5, like=value) * (street * 0.30)
    lamp = [hue(h, s, 1, like=value)[:, None] for h, s in ((0.09, 0.55), (0.12, 0.22), (0.0, 0.75), (0.52, 0.5))]
    spots, one, two, three = _discs(u, v, c[4:7], ((2.6, 0.5, 0.09), (4.2, 1.3, 0.12), (6.5, 2.2, 0.16)))
    on, pale, red, green = smooths((three, one), (0, 0.50, 0.60), (1, 0.35, 0.5), (1, 0.70, 0.74), (1, 0.88, 0.92))
    lit = spots * on * (0.10 + 0.90 * two * two) * (0.12 + 0.88 * street)
    lit = lit * constant((0.45, 0.75, 1.05), u.device)
    tint = mix(mix(mix(lamp[0], lamp[1], pale), lamp[2], red), lamp[3], green) * lit
    for k in range(3):
        colour = colour + tint[:, k]
    return colour
