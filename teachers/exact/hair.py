"""Hair of the drawn people: where it grows, how far it pushes out the scalp, and cards (ribbons several strands wide) that
are combed over the head and hang from it.

Lengths are decimetres. x points to the person's left, y up, z out of the face. Hair is grown on the head in its rest shape,
the same for everybody, and then carried along by the displacement of the person's own skull. So it fits any head.
A picture's numbers do not depend on the other pictures of the batch: only exactly rounded operations are used.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

CARDS = 420  # cards in all; `count` takes the first of them
SHEETS = 6  # kinds of strand patterns: tapering, blunt, wavy; first the fine ones, then the coarse ones
CENTRE = (0.0, 7.45, 0.50)  # of the skull
HALF = (0.74, 1.06, 0.98)  # half axes of the ellipsoid that gives the soft normals
WHORL = (0.12, 8.50, 0.02)
KNOT = (0.0, 7.55, -0.62)  # where hair that is tied back comes together
GRID, REACH = 40, 2.0  # the skull's map: cells along a side, half width of the stereographic plane
RADIUS = 0.85  # of the head, turns the angle of the hairline into a length

# The hairline, (degrees from the face's middle, height): forehead, temple, sideburn, ear, nape.
AROUND_EAR = (
    (58, 7.50), (61, 7.32), (63, 7.06), (69, 7.04), (71, 7.30), (80, 7.40), (96, 7.40), (106, 7.32), (115, 7.08),
    (126, 6.84), (145, 6.60), (180, 6.50),
)  # fmt: skip
LINE = ((0, 7.95), (12, 7.97), (24, 8.00), (33, 7.98), (40, 7.87), (46, 7.70), (52, 7.58), *AROUND_EAR)
RECEDED = ((0, 8.10), (10, 8.18), (20, 8.36), (29, 8.34), (37, 8.12), (45, 7.86), (52, 7.62), *AROUND_EAR)


@dataclass
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


@dataclass
class Ribbons:
    """R cards of s segments, of n pictures, in the head's frame before turning."""

    points: Tensor  # (n, R, s + 1, 2, 3) right and left edge
    normal: Tensor  # (n, R, s + 1, 3) of the hair's mass, not of the card
    tangent: Tensor  # (n, R, s + 1, 3) root to tip
    open: Tensor  # (n, R, s + 1) in [0, 1]: how much light reaches this depth of the hair
    seed: Tensor  # (n, R) in [0, 1): the strand pattern
    used: Tensor  # (n, R, s) bool: segments to draw


def smooth(low: float, high: float, x: Tensor) -> Tensor:
    """0 below low, 1 above high (or the other way round), smooth between."""
    t = ((x - low) * (1 / (high - low))).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _length(v: Tensor) -> Tensor:
    return (v[0] * v[0] + v[1] * v[1] + v[2] * v[2]).clamp(min=1e-12).sqrt()


def _unit(v: Tensor) -> Tensor:
    return v / _length(v)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _column(values, like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


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
    for allowed in (~ear, np.ones_like(ear)):
        c = np.where(allowed[None], cos, -1)
        close = (c > np.cos(np.radians(11))) | (c >= c.max(1, keepdims=True))
        outer = close & (far[None] > 0.9 * np.where(close, far[None], 0).max(1, keepdims=True))
        weight = np.where(outer, np.exp((c - 1) / (1 - np.cos(np.radians(5)))), 0) + 1e-9 * outer
        reach.append((weight * far).sum(1) / weight.sum(1))
        if carriers is None:
            carriers = np.argsort(-weight, 1)[:, :4]
            weights = np.take_along_axis(weight, carriers, 1)
            weights = weights / weights.sum(1, keepdims=True)
    return np.stack(reach), carriers.T, weights.T


def _roots(rest: np.ndarray, line: np.ndarray, body: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Roots spread over the scalp so that the first k of them are spread evenly for any k: triangles, weights, chances."""
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
    best, chosen = np.full(5000, np.inf), []
    pick = 0
    for _ in range(CARDS):
        chosen.append(pick)
        best = np.minimum(best, ((point - point[pick]) ** 2).sum(1) * spread**2)
        pick = int(best.argmax())
    return body[face[chosen]], weight[chosen], rng.random((6, CARDS))


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
    crop = np.stack([np.arctan2(off[:, 0], off[:, 2]) * 0.45, np.linalg.norm(off, axis=1) * 0.5])
    roll = np.arctan2(place[:, 0], place[:, 1] - CENTRE[1])
    sweep = np.stack([place[:, 2] * 0.5, np.abs(roll) * 0.45])

    def table(x: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(x)).to(rest.device, torch.float32)

    carriers = torch.from_numpy(used[near]).to(rest.device)
    maps = table(skull).view(2, GRID, GRID)
    flat = (table(place.T), table(lines[0]), table(lines[1]), table(crop), table(sweep), table(root.T), table(root_line), table(chance))
    return Scalp(*flat, maps, carriers, table(share))


# Styles


def style(a: dict[str, Tensor]) -> dict[str, Tensor]:
    """Shares (n, 1) in [0, 1] of the ways to comb and cut, from the attributes."""
    length, curl = a["hair_length"], a["hair_curl"]
    long = smooth(0.5, 0.75, length)
    afro = smooth(0.55, 0.8, curl) * (1 - long)
    back = a["hair_back"] * (1 - afro)
    swept = smooth(0.24, 0.32, length) * (1 - back) * (1 - afro)
    recede = (a["hair_line"] * 0.55).clamp(-0.4, 1)
    buzz = smooth(0.14, 0.08, length)
    return {"long": long, "afro": afro, "back": back, "swept": swept, "recede": recede, "buzz": buzz}


def scalp_line(tables: Scalp, a: dict[str, Tensor]) -> Tensor:
    """(n, V) dm inside the pictures' own hairlines; -1 far outside and for the bald."""
    recede = (a["hair_line"] * 0.55).clamp(-0.4, 1)
    line = tables.line + (tables.receded - tables.line) * recede
    return torch.where(a["bald"] > 0.5, torch.full_like(line, -1), line)


def _body(p: Tensor, a: dict[str, Tensor], s: dict[str, Tensor]) -> Tensor:
    """Thickness (n, ...) dm of the hair's mass over points p (3, ..., K) deep inside the hair."""
    top = smooth(7.55, 8.15, p[1])
    volume = a["hair_volume"]
    flat = 0.022 + volume * 0.5 + 0.10 * smooth(0.1, 0.5, a["hair_length"]) * (0.4 + volume * 4)
    crown = flat * (1 + 0.35 * s["swept"] * smooth(0.5, 1.2, p[2]))
    sides = flat * (0.35 + 0.45 * s["long"]) + 0.01
    full = sides + (crown - sides) * top
    full = full + (0.045 - full) * s["back"]
    puffy = (0.10 + 0.62 * a["hair_length"]) * (0.75 + 0.35 * top) + volume
    full = full + (puffy - full) * s["afro"]
    return full + (0.018 - full) * s["buzz"]


def scalp_push(tables: Scalp, a: dict[str, Tensor]) -> Tensor:
    """(n, V) dm by which the vertices are moved out along their normals."""
    s, inside = style(a), scalp_line(tables, a)
    wide = 0.20 + 0.12 * s["afro"]
    edge = ((inside + 0.01) / wide).clamp(0, 1)
    return _body(tables.rest[:, None], a, s) * (edge * (2 - edge))


def hair_shadow(tables: Scalp, a: dict[str, Tensor]) -> Tensor:
    """(n, V) in [0.3, 1]: share of the light that the hair leaves to the skin: under its edge, under a fringe, at the neck."""
    x, y, z = tables.rest[:, None]
    s, inside = style(a), scalp_line(tables, a)
    thick = smooth(0.05, 0.2, a["hair_length"])
    edge = 0.30 * smooth(-0.20, -0.02, inside) * thick * (1 - 0.5 * s["back"])
    reach = 0.15 + 0.30 * a["hair_fringe"]
    depth = smooth(-1.25, -0.75, inside / reach) * smooth(0.75, 1.0, z) * smooth(0.68, 0.55, x.abs())
    fringe = 0.40 * depth * (a["hair_fringe"] > 0)
    hanging = s["long"] * (1 - s["back"])
    tip = (7.55 - a["hair_length"]).clamp(min=5.6)
    low = smooth(6.75, 6.35, y + 0.5 * smooth(0.9, 0.2, z)) * ((y - tip) * 4 + 1.5).clamp(0, 1)
    neck = 0.55 * hanging * low * smooth(1.25, 0.6, z)
    cheek = 0.35 * hanging * smooth(0.48, 0.66, x.abs()) * smooth(7.9, 7.6, y) * ((y - tip) * 4 + 1).clamp(0, 1)
    shade = (1 - torch.maximum(edge, fringe)) * (1 - torch.maximum(neck, cheek))
    return torch.where(a["bald"] > 0.5, torch.ones_like(shade), shade)


def comb(p: Tensor, a: dict[str, Tensor], s: dict[str, Tensor], front: Tensor | None = None) -> Tensor:
    """Directions (3, n, K), not of unit length, in which hair is combed at points p (3, n or 1, K). front: share (n, K) of
    the fringe, by default from the place."""
    x, y, z = p
    whorl, knot, centre = (_column(v, p) for v in (WHORL, KNOT, CENTRE))
    crop = _unit(p - whorl)
    top = smooth(7.62, 8.05, y + 0.30 * smooth(0.7, 1.2, z))
    away = ((x - 0.95 * a["hair_part"]) * 9).clamp(-1, 1)
    sweep = torch.stack([away * (0.25 + 0.75 * top) + 0.1 * x, 0.05 - (1 - top) + 0 * away, -0.10 - 0.35 * top + 0 * away])
    tail = _unit(knot - p)
    parted = (s["long"] + s["swept"]).clamp(max=1)
    d = crop + (_unit(sweep) - crop) * parted
    if front is None:
        front = smooth(0.80, 1.15, z) * smooth(0.62, 0.45, x.abs()) * smooth(0, 0.3, a["hair_fringe"])
    ahead = 0.25 * x + 0.30 * a["hair_part"]
    ahead = torch.stack([ahead, -0.35 + 0 * ahead, 1 + 0 * ahead])
    d = d + (ahead - d) * front
    d = d + (tail - d) * (s["back"] * (1 - front))
    return d + ((p - centre) * 1.2 - d) * (0.8 * s["afro"])


def scalp_tangent(tables: Scalp, a: dict[str, Tensor]) -> Tensor:
    """Combing direction (3, n, V) of unit length at the vertices, in the head's frame, along the rest head's skull."""
    p, s = tables.rest[:, None], style(a)
    out = _soft_normal(p)
    d = comb(p, a, s)
    return _unit(d - out * _dot(d, out))


def scalp_places(tables: Scalp, a: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Places (n, V) each, in noise tiles, across and along the combed hair at the vertices."""
    s = style(a)
    parted = (s["long"] + s["swept"]).clamp(max=1) * (1 - s["back"])
    across, along = tables.crop[:, None] + (tables.sweep - tables.crop)[:, None] * parted
    across = across + (tables.sweep[1] - across) * s["back"] + a["hair_phase"]
    along = along + (tables.sweep[0] - along) * s["back"] + 0.37 * a["hair_phase"]
    return across, along


def _soft_normal(p: Tensor) -> Tensor:
    """Unit normals of the ellipsoid through the points (3, ...)."""
    half = _column(HALF, p)
    return _unit((p - _column(CENTRE, p)) / (half * half))


# Cards


def _lengths(t: Scalp, keep: int, a: dict[str, Tensor], s: dict[str, Tensor]) -> Tensor:
    """(n, R) dm."""
    x, y, z = t.root[:, None, :keep]
    chance = t.chance[:, :keep]
    inside = t.root_line[0, :keep].clamp(min=0)
    full = (0.16 + 0.75 * a["hair_length"]) * (0.75 + 0.4 * chance[0])
    sides = smooth(0.45, 0.66, x.abs()) * smooth(8.1, 7.8, y)
    nape = smooth(0.2, -0.2, z) * smooth(7.9, 7.2, y)
    full = full * (1 - (0.6 * sides + 0.7 * nape).clamp(0, 0.75))
    # Long hair is cut at one height: over the head to its side, then down.
    over = ((x.abs() - 0.72) * (x.abs() - 0.72) + (y - 7.4) * (y - 7.4)).sqrt() * 1.15 * smooth(7.35, 7.55, y)
    tip = (7.55 - a["hair_length"]).clamp(min=5.6)
    cut = (over + torch.minimum(y, torch.full_like(y, 7.4)) - tip) * (0.86 + 0.16 * chance[0])
    full = full + (cut - full) * s["long"]
    front = _fringed(t, a, keep).to(x.dtype)
    fringe = inside + (0.18 + 0.25 * a["hair_fringe"]) * (0.84 + 0.2 * chance[0])
    full = full + (fringe - full) * front
    back = 0.42 + 0.2 * chance[0]
    full = full + (back - full) * (s["back"] * (1 - front))
    return full + ((0.10 + 0.25 * full) - full) * s["afro"]


def _fringed(t: Scalp, a: dict[str, Tensor], count: int) -> Tensor:
    """(n, R) bool: cards of the fringe."""
    x, _, z = t.root[:, None, :count]
    return (z > 0.98) & (x.abs() < 0.55) & (a["hair_fringe"] > 0)


def _place(flat: Tensor) -> Tensor:
    """Directions (3, n, K) to places in the skull's map (n, 1, K, 2) of grid_sample."""
    down = (1 + flat[1]).clamp(min=0.25) * REACH
    return torch.stack([flat[0] / down, flat[2] / down], -1)[:, None]


def _look(table: Tensor, flat: Tensor) -> Tensor:
    """Read maps (n, c, GRID, GRID) at directions (3, n, K): (c, n, K)."""
    return grid_sample(table, _place(flat), padding_mode="border", align_corners=False)[:, :, 0].transpose(0, 1)


def _walk(t: Scalp, a: dict[str, Tensor], s: dict[str, Tensor], keep: int, segments: int) -> tuple[Tensor, Tensor]:
    """Centre lines (s + 1, 3, n, R) on the rest head, and the lengths (n, R)."""
    n = len(a["hair_length"])
    p = t.root[:, None, :keep].expand(3, n, keep)
    chance = t.chance[:, :keep]
    centre, length = _column(CENTRE, p), _lengths(t, keep, a, s)
    skull = t.skull[:1] + (t.skull[1:] - t.skull[:1]) * (0.35 * s["long"] * (1 - s["back"]))[..., None]
    inside = t.root_line[0, :keep]
    mass = _body(p, a, s) * smooth(-0.02, 0.12, inside)
    layer = 0.010 + (0.012 + 0.06 * s["long"] + 0.25 * a["hair_volume"] * (1 - s["back"])) * chance[1]
    mess = (0.16 + 0.5 * a["hair_curl"] + 1.5 * a["hair_volume"]) * (1 - 0.6 * s["back"]) * (1 - 0.5 * s["long"])
    jitter = (chance[2:5, None] - 0.5) * mess
    step = length / segments
    fringed = _fringed(t, a, keep).to(p.dtype)
    line = [p]
    for i in range(segments):
        share = (i + 1) / segments
        out = _soft_normal(p)
        d = _unit(comb(p, a, s, fringed))
        hug = 1 - s["long"] * smooth(7.15, 6.55, p[1])
        d = d - out * (_dot(d, out) * (hug * (1 - s["afro"])))
        fall = torch.stack([-0.24 * p[0], -1 + 0 * p[0], -0.12 * (p[2] - 0.45)])
        d = _unit(_unit(d) + jitter)
        d = _unit(d + (fall - d) * ((1 - hug) * s["long"]))
        p = p + d * step
        w = p - centre
        r = _length(w)
        w = w / r
        rise = mass * min(1.0, 0.35 + 1.4 * share) + layer * share
        surface = _look(skull.expand(n, -1, -1)[:, None], w)[0] + rise
        hug = 1 - s["long"] * smooth(7.15, 6.55, p[1])
        held = torch.where(w[1] > -0.75, torch.maximum(r, surface), r)
        p = centre + w * (held + (surface - held) * (hug * (1 - s["afro"])))
        p = _clear_face(p, chance, s["long"] * (1 - fringed))
        line.append(p)
    return torch.stack(line), length


def _clear_face(p: Tensor, chance: Tensor, share: Tensor) -> Tensor:
    """Push hanging hair off the face and away from the neck."""
    x, y, z = p
    side = torch.where(x >= 0, 1.0, -1.0)
    ahead = smooth(0.72, 0.9, z) * smooth(7.85, 7.6, y) * share
    wide = x.abs()
    x = side * (wide + (torch.maximum(wide, 0.68 + 0.14 * chance[5]) - wide) * ahead)
    z = z + (torch.minimum(z, 0.85 + 0.15 * chance[1]) - z) * ahead
    low = smooth(6.9, 6.5, y) * share
    gap = (x * x + (z - 0.35) * (z - 0.35)).clamp(min=1e-4).sqrt()
    grow = 1 + (torch.maximum(gap, 0.60 + 0.22 * chance[1]) / gap - 1) * low
    return torch.stack([x * grow, y, 0.35 + (z - 0.35) * grow])


def _carry(t: Scalp, line: Tensor, vertices: Tensor) -> Tensor:
    """Move centre lines (s + 1, 3, n, R) of the rest head to the persons' heads, vertices (n, V, 3)."""
    n = len(vertices)
    moved = vertices - t.rest.t()
    table = moved[:, t.near[0]] * t.share[0, :, None]
    for k in (1, 2, 3):
        table = table + moved[:, t.near[k]] * t.share[k, :, None]
    table = table.transpose(1, 2).reshape(n, 3, GRID, GRID)
    steps, _, _, cards = line.shape
    flat = line.permute(1, 2, 0, 3).reshape(3, n, -1)
    w = _unit(flat - _column(CENTRE, flat))
    w = torch.stack([w[0], w[1].clamp(min=-0.15), w[2]])
    return line + _look(table, _unit(w)).view(3, n, steps, cards).permute(2, 0, 1, 3)


def grow(
    t: Scalp, vertices: Tensor, a: dict[str, Tensor], count: int = CARDS, segments: int = 6, detail: float = 1.0
) -> Ribbons:
    """Cards for n pictures.

    vertices: (n, V, 3) of the heads in their own frame, with expression, before turning and before `scalp_push`.
    a: attributes (n, 1). count: cards to use, 1 to CARDS; they get wider as they get fewer. segments: per card, at least 3.
    detail: size of the picture / 256, at most 1; chooses finer or coarser strands.
    """
    if not 1 <= count <= CARDS or segments < 3:
        raise ValueError(f"count must be in 1..{CARDS} and segments at least 3; got {count} and {segments}")
    s = style(a)
    rest, length = _walk(t, a, s, count, segments)
    normal = _soft_normal(rest.transpose(0, 1).flatten(2)).view(3, segments + 1, -1, count)
    line = _carry(t, rest, vertices)
    chance = t.chance[:, :count]
    line = line + _wave(line, chance, length, a, s)
    along = torch.cat([line[1:2] - line[:1], line[2:] - line[:-2], line[-1:] - line[-2:-1]])
    tangent = _unit(along.transpose(0, 1))
    across = _unit(_cross(tangent, normal))
    height = rest[:, 1]
    loose = smooth(7.2, 6.8, height) * s["long"]
    # Light as on the smooth mass: the rise of a card over the scalp must not tilt its highlight.
    flat = 0.9 * (1 - loose) * (1 - s["afro"])
    tangent = _unit(tangent - normal * (_dot(tangent, normal) * flat))
    twist = (chance[3] - 0.5) * 1.7 * loose
    across = _unit(across + normal * twist)
    share = torch.linspace(0, 1, segments + 1, device=line.device)[:, None, None]
    half = (0.022 + 0.014 * chance[4] + 0.026 * s["long"]) * (CARDS / count) ** 0.5
    half = half * (1 + 0.75 * loose) * (1 + 0.4 * _fringed(t, a, count)) * (0.75 + 0.5 * share - 0.45 * share * share)
    edge = across * half
    points = torch.stack([line.transpose(0, 1) - edge, line.transpose(0, 1) + edge])
    inner = (0.10 + 0.35 * loose) * (1 - chance[1])
    depth = (1 - inner).expand(segments + 1, len(length), count)
    seed = _seeds(t, a, count, detail)
    used = _used(t, a, s, rest, normal, length, count)
    return Ribbons(
        points.permute(3, 4, 2, 0, 1), normal.permute(2, 3, 1, 0), tangent.permute(2, 3, 1, 0),
        depth.permute(1, 2, 0), seed, used,
    )  # fmt: skip


def _wave(line: Tensor, chance: Tensor, length: Tensor, a: dict[str, Tensor], s: dict[str, Tensor]) -> Tensor:
    """Offsets (s + 1, 3, n, R) of wavy hair."""
    share = torch.linspace(0, 1, len(line), device=line.device)[:, None, None]
    size = 0.075 * a["hair_curl"] * (1 - s["afro"]) * (share * 3).clamp(max=1)
    turn = share * (length * 1.5).clamp(max=2.2) + (chance[0] * 0.3 + line[0, 2] * 0.8 + a["hair_phase"])

    def swing(x: Tensor) -> Tensor:  # a sine made of parabolas
        f = x - x.round()
        return 8 * f * (1 - 2 * f.abs())

    return torch.stack([swing(turn) * size, 0 * size * turn, swing(turn + 0.25) * size], 1)


def _seeds(t: Scalp, a: dict[str, Tensor], count: int, detail: float) -> Tensor:
    """(n, R) in [0, 1): kind of pattern and pattern."""
    own = t.chance[5, :count] + a["hair_phase"]
    own = (own - own.floor()).clamp(0, 0.999)
    wavy, blunt = a["hair_curl"] > 0.3, a["hair_length"] > 0.6
    blunt = blunt | _fringed(t, a, count)
    kind = torch.where(wavy, 2.0, torch.where(blunt, 1.0, 0.0)).to(own.dtype) + (3 if detail < 0.45 else 0)
    return (kind + own) / SHEETS


def _used(t: Scalp, a, s, line: Tensor, normal: Tensor, length: Tensor, count: int) -> Tensor:
    """(n, R, s) bool: grown, and not behind the head."""
    yaw, pitch = a["yaw"] * 0.0174533, a["pitch"] * 0.0174533
    # The direction to the viewer in the head's frame; second order is enough to drop what is far behind.
    viewer = torch.stack([-yaw * (1 - yaw * yaw / 6), -pitch, 1 - 0.5 * yaw * yaw - 0.5 * pitch * pitch])
    facing = _dot(normal, viewer[:, None])
    lines = t.root_line[:, :count]
    grown = (lines[0] + (lines[1] - lines[0]) * s["recede"] > 0.01) & (a["bald"] < 0.5) & (s["buzz"] < 0.5)
    # Long hair starts behind the temple, so that it does not cross the forehead.
    temple = (t.root[2, :count] > 0.95) & (t.root[1, :count] < 7.93) & ~_fringed(t, a, count) & (s["long"] > 0.5)
    few = torch.arange(count, device=line.device) * 1.0 / count
    low = (t.root[1, :count] < 7.2) & (s["long"] < 0.5)
    grown = grown & ~low & (few < 1 - 0.08 * s["long"])
    hidden = (line[:, 0].abs() < 0.5) & (line[:, 1] > 6.45)
    seen = (facing > -0.12) | ((facing > -0.75) & (normal[1] < -0.2) & ~hidden)
    seen = seen[:-1] | seen[1:]
    # On the head the pushed scalp shows the mass of long hair; there some cards are enough.
    bare = (line[1:, 1] > 7.6) & (s["long"] > 0.5) & (t.chance[4, :count] > 0.45) & ~_fringed(t, a, count)
    return (seen & grown & ~bare & ~temple).permute(1, 2, 0)
