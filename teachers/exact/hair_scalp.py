"""The scalp of the drawn people: the hairline, how far hair pushes it out, how it is combed, its shadow on the skin.

Lengths are decimetres. x points to the person's left, y up, z out of the face. Places are those of the head in its rest
shape, the same for everybody. A picture's numbers do not depend on the other pictures of the batch: per vertex and per
point only exactly rounded operations are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .curves import constant, dot, rise, rises

CARDS = 440  # cards in all; `count` takes the first of them
PANELS = 20  # of the cards: the first ones, broad, the closed curtain of long hair around the neck
CENTRE = (0.0, 7.45, 0.50)  # of the skull
HALF = (0.74, 1.06, 0.98)  # half axes of the ellipsoid that gives the soft normals
WHORL = (0.12, 8.50, 0.02)
KNOT = (0.0, 7.55, -0.62)  # where hair that is tied back comes together
TOP, FRONT = (7.55, 8.15), (0.5, 1.2)  # heights, and depths, between which the mass of hair grows to that of the crown
GRID, REACH = 40, 2.0  # the skull's map: cells along a side, half width of the stereographic plane
RADIUS = 0.85  # of the head, turns the angle of the hairline into a length

# The hairline, (degrees from the face's middle, height): forehead, temple, sideburn, ear, nape.
AROUND_EAR = (
    (58, 7.50), (61, 7.32), (63, 7.06), (69, 7.04), (71, 7.30), (80, 7.40), (96, 7.40), (106, 7.32), (115, 7.08),
    (126, 6.84), (145, 6.60), (180, 6.50),
)  # fmt: skip
LINE = ((0, 7.96), (12, 7.97), (22, 7.98), (30, 7.94), (37, 7.85), (44, 7.71), (52, 7.57), *AROUND_EAR)
RECEDED = ((0, 8.10), (10, 8.18), (20, 8.36), (29, 8.34), (37, 8.12), (45, 7.86), (52, 7.62), *AROUND_EAR)


@dataclass(eq=False)
class Scalp:
    """Tables of the rest head with V vertices and CARDS = R cards. Made once by `scalp`."""

    rest: Tensor  # (3, V)
    line: Tensor  # (V,) dm inside the hairline, negative outside
    receded: Tensor  # (V,) the same for a receded hairline
    crop: Tensor  # (2, V) noise tiles across and along hair that is combed from the whorl
    sweep: Tensor  # (2, V) the same for hair that is combed from a parting
    root: Tensor  # (3, R)
    root_line: Tensor  # (2, R) of the two hairlines
    chance: Tensor  # (6, R) in [0, 1]
    skull: Tensor  # (2, GRID, GRID) distance of the surface from CENTRE, without and with ears
    near: Tensor  # (4, GRID * GRID) vertices that carry a cell
    share: Tensor  # (4, GRID * GRID) their weights

    def to(self, device: torch.device) -> Scalp:
        return Scalp(*[getattr(self, f.name).to(device) for f in fields(self)])


def smooth(low: float, high: float, x: Tensor) -> Tensor:
    """0 below low, 1 above high (or the other way round), smooth between. curves.smooth() rounds in another way."""
    t = rise(low, high, x)
    return t * t * torch.rsub(t, 3, alpha=2)


def smooths(p: Sequence[Tensor], *bounds: tuple[int, float, float]) -> Tensor:
    """smooth(low, high, p[k]) of several (k, low, high) at once: (K, ...). curves.smooths() rounds in another way."""
    t = rises(p, *bounds)
    return t * t * torch.rsub(t, 3, alpha=2)


def size_of(v: Tensor) -> Tensor:
    """Lengths (...) of vectors (3, ...)."""
    return dot(v, v).clamp(min=1e-12).sqrt()


def unit(v: Tensor) -> Tensor:
    """The vectors (3, ...) at unit length."""
    return v / size_of(v)


def cross(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def column(values: tuple[float, ...], like: Tensor) -> Tensor:
    """A constant vector (3, 1, ...) for vectors `like` (3, ...). It is shared: never write into it."""
    return constant(values, like.device, like.ndim - 1)


# Static tables


def _hairline(rest: np.ndarray, line: tuple) -> np.ndarray:
    """Signed distance (V,) of the points (V, 3) from a hairline, measured on the unrolled head."""
    knots = np.array(line, np.float64)
    angle = np.degrees(np.arctan2(np.abs(rest[:, 0]), rest[:, 2] - 0.40))
    side = np.sign(rest[:, 1] - np.interp(angle, knots[:, 0], knots[:, 1]))
    scale = np.array([np.radians(1) * RADIUS, 1.0])
    a, b, p = knots[:-1] * scale, knots[1:] * scale, np.stack([angle, rest[:, 1]], 1)[:, None] * scale
    t = np.clip(((p - a) * (b - a)).sum(2) / ((b - a) ** 2).sum(1), 0, 1)
    return side * np.sqrt(((p - a - t[..., None] * (b - a)) ** 2).sum(2)).min(1)


def _skull(rest: np.ndarray, ear: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Map of the head about CENTRE: distances (2, GRID²), vertices (4, GRID²), weights (4, GRID²)."""
    w = rest - np.array(CENTRE)
    far = np.linalg.norm(w, axis=1)
    w = w / far[:, None]
    axis = (np.arange(GRID) + 0.5) / GRID * 2 * REACH - REACH
    u, v = np.meshgrid(axis, axis)
    square = u**2 + v**2
    d = np.stack([2 * u, 1 - square, 2 * v], -1).reshape(-1, 3) / (1 + square).reshape(-1, 1)
    cos = d @ w.T
    reach, carriers, weights = [], None, None
    for allowed, around in ((~ear, 11), (np.ones_like(ear), 7)):  # degrees
        c = np.where(allowed[None], cos, -1)
        close = (c > np.cos(np.radians(around))) | (c >= c.max(1, keepdims=True))
        outer = close & (far[None] > 0.9 * np.where(close, far[None], 0).max(1, keepdims=True))
        weight = np.where(outer, np.exp((c - 1) / (1 - np.cos(np.radians(5)))), 0) + 1e-9 * outer
        reach.append((weight * far).sum(1) / weight.sum(1))
        if carriers is None:
            carriers = np.argsort(-weight, 1)[:, :4]
            weights = np.take_along_axis(weight, carriers, 1)
            weights = weights / weights.sum(1, keepdims=True)
    return np.stack(reach), carriers.T, weights.T


def _roots(rest: np.ndarray, line: np.ndarray, body: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Roots on the scalp, the first k of them spread evenly for any k: triangles, weights, chances."""
    rng = np.random.default_rng(20)
    corner = rest[body]
    area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1)
    inside = line[body].mean(1) > 0.0
    middle = corner.mean(1)
    wanted = area * inside * np.where(middle[:, 2] < 0.0, 0.45, 1.0)
    face = rng.choice(len(body), 5000, p=wanted / wanted.sum())
    weight = rng.dirichlet([1, 1, 1], 5000)
    point = (corner[face] * weight[..., None]).sum(1)
    depth = (line[body[face]] * weight).sum(1)
    # Denser at the front hairline, where single strands are seen against the skin.
    spread = np.where((depth < 0.25) & (point[:, 2] > 0.5), 1.6, 1.0) * np.where(point[:, 2] < -0.1, 0.75, 1.0)
    side = (np.abs(point[:, 0]) > 0.52) & (point[:, 2] > 0.35) & (point[:, 1] < 8.0)
    spread = np.where(side, 1.6, spread)
    angle = np.degrees(np.arctan2(point[:, 0], point[:, 2] - 0.40)) % 360
    ring = np.linspace(66, 294, PANELS)[:, None]
    chosen = list((np.abs(angle - ring) + 40 * np.abs(point[:, 1] - 7.72)).argmin(1))
    best, pick = np.full(5000, np.inf), 0
    for _ in range(CARDS - PANELS):
        chosen.append(pick)
        best = np.minimum(best, ((point - point[pick]) ** 2).sum(1) * spread**2)
        pick = int(best.argmax())
    chance = rng.random((6, CARDS))
    chance[:, :PANELS] = 0.45
    return body[face[chosen]], weight[chosen], chance


def scalp(rest: Tensor, body: Tensor) -> Scalp:
    """Tables from the rest positions (V, 3) and the triangles of skin (F, 3)."""
    place, triangles = rest.double().cpu().numpy(), body.cpu().numpy().astype(np.int64)
    x, y, z = np.abs(place[:, 0]), place[:, 1], place[:, 2]
    ears = (y > 6.6) & (y < 7.38) & (z > 0.1) & (z < 0.7) & ((x > 0.765) | ((x > 0.655) & (z > 0.18)))
    used = np.unique(triangles)
    used = used[(place[used, 1] > 5.9)]
    lines = []
    for knots in (LINE, RECEDED):
        inside = np.full(len(place), -1.0)
        inside[used] = _hairline(place[used], knots)
        inside[ears] = np.minimum(inside[ears], -0.05)
        lines.append(inside)
    skull, near, share = _skull(place[used], ears[used])
    corners, weight, chance = _roots(place, lines[0], triangles)
    root = (place[corners] * weight[..., None]).sum(1)
    root_line = np.stack([(line[corners] * weight).sum(1) for line in lines])
    off = place - np.array(WHORL)
    # Both sides alike, and on the sides of the head as `sweep`, so that the two can be mixed.
    turn = np.pi / 2 - np.abs(np.arctan2(off[:, 0], off[:, 2]))
    crop = np.stack([turn * 0.45 - 0.05, np.linalg.norm(off, axis=1) * 0.5])
    roll = np.arctan2(place[:, 0], place[:, 1] - CENTRE[1])
    sweep = np.stack([place[:, 2] * 0.5, np.abs(roll) * 0.45])

    def table(x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(rest.device, torch.float32)

    carriers = torch.from_numpy(used[near]).to(rest.device)
    maps = table(skull).view(2, GRID, GRID)
    flat = [table(v) for v in (place.T, lines[0], lines[1], crop, sweep, root.T, root_line, chance)]
    return Scalp(*flat, maps, carriers, table(share))


# Styles


def style(a: dict[str, Tensor]) -> dict[str, Tensor]:
    """Shares (n, 1) in [0, 1] of the ways to comb and cut, from the attributes, and thicknesses of the hair's mass."""
    length, curl, volume = a["hair_length"], a["hair_curl"], a["hair_volume"]
    long, swept, buzz, grown, afro, curly, wavy, fringe = smooths(
        (length, curl, a["hair_fringe"]), (0, 0.5, 0.75), (0, 0.24, 0.32), (0, 0.14, 0.08), (0, 0.1, 0.5),
        (1, 0.55, 0.8), (1, 0.4, 0.9), (1, 0.3, 0.75), (2, 0, 0.3),
    )  # fmt: skip
    afro = afro * (1 - long)
    back = a["hair_back"] * (1 - afro)
    swept = swept * (1 - back) * (1 - afro)
    flat = 0.022 + volume * 0.5 + 0.10 * grown * (0.4 + volume * 4)
    return {
        "long": long, "afro": afro, "back": back, "swept": swept, "buzz": buzz, "curly": curly, "wavy": wavy,
        "fringe": fringe, "parted": (long + swept).clamp(max=1), "recede": (a["hair_line"] * 0.55).clamp(-0.4, 1),
        "flat": flat, "sides": flat * (0.35 + 0.45 * long) + 0.01 + long * (0.02 + 0.25 * volume),
        "puffy": 0.10 + 0.62 * length, "smoothed": 1 - afro,
        "parting": 0.95 * a["hair_part"], "slant": 0.30 * a["hair_part"], "ball": 0.8 * afro,
        "raised": 0.35 * swept,
    }  # fmt: skip


def scalp_line(tables: Scalp, a: dict[str, Tensor]) -> Tensor:
    """(n, V) dm inside the pictures' own hairlines; -1 far outside and for the bald."""
    recede = (a["hair_line"] * 0.55).clamp(-0.4, 1)
    line = tables.line + (tables.receded - tables.line) * recede
    return torch.where(a["bald"] > 0.5, torch.full_like(line, -1), line)


def hair_mass(top: Tensor, front: Tensor, a: dict[str, Tensor], s: dict[str, Tensor]) -> Tensor:
    """Thickness (n, ...) dm of the hair's mass deep inside the hair, at points p of which top is smooth(*TOP, p[1]) and
    front is smooth(*FRONT, p[2])."""
    crown = s["flat"] * (1 + s["raised"] * front)
    full = s["sides"] + (crown - s["sides"]) * top
    full = full + (0.045 - full) * s["back"]
    puffy = s["puffy"] * (0.75 + 0.35 * top) + a["hair_volume"]
    full = full + (puffy - full) * s["afro"]
    return full + (0.018 - full) * s["buzz"]


def scalp_push(tables: Scalp, a: dict[str, Tensor], s: dict[str, Tensor]) -> Tensor:
    """(n, V) dm by which the vertices are moved out along their normals. s: style(a)."""
    inside = scalp_line(tables, a)
    edge = ((inside + 0.01) / (0.24 + 0.10 * s["afro"])).clamp(0, 1)
    return hair_mass(*_at_rest(tables).mass, a, s) * (edge * edge * (3 - 2 * edge))


def top(p: Tensor) -> Tensor:
    """1 on the top of the head, 0 on its sides, at points p (3, ...)."""
    return smooth(7.62, 8.05, p[1] + 0.30 * smooth(0.7, 1.2, p[2]))


class _AtRest(NamedTuple):
    """Of the vertices of the rest head: mass, what hair_mass() needs; top as of top(); normal, soft_normal()."""

    mass: Tensor
    top: Tensor
    normal: Tensor


@lru_cache
def _at_rest(t: Scalp) -> _AtRest:
    p = t.rest[:, None]
    return _AtRest(smooths(p, (1, *TOP), (2, *FRONT)), top(p), soft_normal(p))


def comb(p: Tensor, high: Tensor, s: dict[str, Tensor], front: Tensor | None = None) -> Tensor:
    """Directions (3, n, K), not of unit length, in which hair is combed at points p (3, n or 1, K). high: top(p).

    front: share (n, K) of the fringe, by default from the place."""
    x, y, z = p
    away = ((x - s["parting"]) * 9).clamp(-1, 1)
    aside = away * (0.25 + 0.75 * high) + 0.1 * x
    back = -0.10 - 0.35 * high + (0.42 - 0.26 * high) * s["long"]  # long hair on the sides falls before the ears
    sweep = torch.stack(torch.broadcast_tensors(aside, high - 0.95, back))
    parted = s["parted"]
    if front is None:
        parted = parted * (1 - s["fringe"] * high)
        front = smooth(0.86, 1.04, z + 0.5 * x * x) * smooth(0.68, 0.54, x.abs()) * s["fringe"]
    ways = torch.broadcast_tensors(p - column(WHORL, p), sweep, column(KNOT, p) - p)
    crop, sweep, tail = unit(torch.stack(ways, 1)).unbind(1)
    d = crop + (sweep - crop) * parted
    ahead = 0.25 * x + s["slant"]
    ahead = torch.stack([ahead, *constant((-0.35, 1.0), p.device).expand(2, *ahead.shape)])
    d = d + (ahead - d) * front
    d = d + (tail - d) * (s["back"] * (1 - front))
    return d + ((p - column(CENTRE, p)) * 1.2 - d) * s["ball"]


def scalp_tangent(tables: Scalp, a: dict[str, Tensor], s: dict[str, Tensor]) -> Tensor:
    """Combing direction (3, n, V) of unit length at the vertices, in the head's frame, along the rest head's skull. s:
    style(a)."""
    p = tables.rest[:, None]
    out = _at_rest(tables).normal
    d = comb(p, _at_rest(tables).top, s)
    return unit(d - out * dot(d, out))


def scalp_places(tables: Scalp, a: dict[str, Tensor], s: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Places (n, V) each, in noise tiles, across and along the combed hair at the vertices. s: style(a)."""
    parted = s["parted"] * (1 - s["back"]) * (1 - s["fringe"] * _at_rest(tables).top)
    across, along = tables.crop[:, None] + (tables.sweep - tables.crop)[:, None] * parted
    across = across + (tables.sweep[1] - across) * s["back"] + a["hair_phase"]
    along = along + (tables.sweep[0] - along) * s["back"] + 0.37 * a["hair_phase"]
    return across, along


def soft_normal(p: Tensor) -> Tensor:
    """Unit normals of the ellipsoid through the points (3, ...)."""
    return unit((p - column(CENTRE, p)) / _square(HALF, p.device, p.ndim - 1))


@lru_cache
def _square(values: tuple[float, ...], device: torch.device, after: int) -> Tensor:
    return constant(values, device, after) ** 2
