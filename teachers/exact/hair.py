"""Cards of hair: ribbons several strands wide that are combed over the head and hang from it.

Hair is grown on the head in its rest shape, the same for everybody, and then carried along by the displacement of the
person's own skull. So it fits any head. Lengths are decimetres; x points to the person's left, y up, z out of the face.
A picture's numbers do not depend on the other pictures of the batch: only exactly rounded operations are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from .curves import dot
from .hair_scalp import (
    CARDS,
    CENTRE,
    FRONT,
    GRID,
    PANELS,
    REACH,
    TOP,
    Scalp,
    column,
    comb,
    cross,
    hair_mass,
    size_of,
    smooth,
    smooths,
    soft_normal,
    top,
    unit,
)

FREE = 7.15, 6.55  # heights between which long hair leaves the head and hangs
SHEETS = 10  # kinds of strand patterns: tapering, blunt, wavy, closed, fringe; first fine ones, then coarse ones


@dataclass
class Ribbons:
    """R cards of s segments, of n pictures, in the head's frame before turning."""

    points: Tensor  # (n, R, s + 1, 2, 3) right and left edge
    normal: Tensor  # (n, R, s + 1, 3) of the hair's mass, not of the card
    tangent: Tensor  # (n, R, s + 1, 3) root to tip
    open: Tensor  # (n, R, s + 1) in [0, 1]: how much light reaches this depth of the hair
    seed: Tensor  # (n, R) in [0, 1): the strand pattern
    used: Tensor  # (n, R, s) bool: segments to draw


class _Roots(NamedTuple):
    """What the roots' places tell, (R,) each. edge: 1 at the hairline, 0 deep inside; fine, cropped: factors of the
    length at the forehead, and on sides and nape; drop: the way over the head and down to height 0, dm; inside: dm
    inside the hairline; within: 0 outside of it, 1 inside; loose: True of all but the PANELS."""

    edge: Tensor
    fine: Tensor
    cropped: Tensor
    drop: Tensor
    inside: Tensor
    within: Tensor
    loose: Tensor


@lru_cache
def _roots(t: Scalp, count: int) -> _Roots:
    x, y, z = t.root[:, :count]
    inside = t.root_line[0, :count]
    edge = smooth(0.22, 0.0, inside)
    fine = 1 - 0.62 * edge * smooth(0.7, 0.95, z)
    sides = smooth(0.45, 0.66, x.abs()) * smooth(8.1, 7.8, y)
    nape = smooth(0.2, -0.2, z) * smooth(7.9, 7.2, y)
    cropped = 1 - (0.6 * sides + 0.7 * nape).clamp(0, 0.75)
    over = ((x.abs() - 0.72) * (x.abs() - 0.72) + (y - 7.4) * (y - 7.4)).sqrt() * 1.15 * smooth(7.35, 7.55, y)
    loose = torch.arange(count, device=x.device) >= PANELS
    return _Roots(edge, fine, cropped, over + y.clamp(max=7.4), inside, smooth(-0.02, 0.12, inside), loose)


def _lengths(t: Scalp, keep: int, a: dict[str, Tensor], s: dict[str, Tensor], front: Tensor) -> Tensor:
    """(n, R) dm."""
    roots, chance = _roots(t, keep), t.chance[0, :keep]
    full = (0.16 + 0.75 * a["hair_length"]) * (0.75 + 0.4 * chance)
    full = full * roots.fine * roots.cropped
    # Long hair is cut at one height: over the head to its side, then down.
    tip = (7.55 - a["hair_length"]).clamp(min=5.6)
    cut = (roots.drop - tip) * (0.80 + 0.23 * chance)
    full = full + (cut - full) * s["long"]
    fringe = roots.inside.clamp(min=0) + (0.22 + 0.25 * a["hair_fringe"]) * (0.91 + 0.11 * chance)
    full = full + (fringe - full) * front
    back = 0.42 + 0.2 * chance
    full = full + (back - full) * (s["back"] * (1 - front))
    return full + ((0.10 + 0.25 * full) - full) * s["afro"]


def _fringed(t: Scalp, a: dict[str, Tensor], count: int) -> Tensor:
    """(n, R) bool: cards of the fringe."""
    x, _, z = t.root[:, None, :count]
    return (z > 0.94 + 0.20 * t.chance[4, :count] - 0.5 * x * x) & (x.abs() < 0.60) & (a["hair_fringe"] > 0)


def _place(flat: Tensor) -> Tensor:
    """Directions (3, n, K) to places in the skull's map (n, 1, K, 2) of grid_sample."""
    down = (1 + flat[1]).clamp(min=0.25) * REACH
    return torch.stack([flat[0] / down, flat[2] / down], -1)[:, None]


def _look(table: Tensor, flat: Tensor) -> Tensor:
    """Read maps (n, c, GRID, GRID) at directions (3, n, K): (c, n, K)."""
    return grid_sample(table, _place(flat), padding_mode="border", align_corners=False)[:, :, 0].transpose(0, 1)


def _walk(
    t: Scalp, a: dict[str, Tensor], s: dict[str, Tensor], fringed: Tensor, segments: int
) -> tuple[Tensor, Tensor]:
    """Centre lines (s + 1, 3, n, R) on the rest head, and the lengths (n, R). fringed: 1 or 0, (n, R)."""
    n, keep = fringed.shape
    p = t.root[:, None, :keep].expand(3, n, keep)
    roots, chance = _roots(t, keep), t.chance[:, :keep]
    centre, length = column(CENTRE, p), _lengths(t, keep, a, s, fringed)
    long, hangs = s["long"], s["long"] * (1 - fringed)
    tied = 1 - s["back"]
    skull = (t.skull[:1] + (t.skull[1:] - t.skull[:1]) * (0.5 * long * tied)[..., None])[:, None]
    room = 0.60 + 0.14 * chance[5], 0.92 + 0.15 * chance[1], 0.56 + 0.20 * chance[1]
    loft = long * (0.02 + 0.3 * a["hair_volume"]) * tied
    inner = (0.65 * long) * (1 - chance[1])  # hair on the sides fills the way from the mass to the skin
    layer = 0.010 + (0.012 + 0.25 * a["hair_volume"] * tied + 0.02 * long) * chance[1]
    mess = (0.16 + 0.5 * a["hair_curl"] + 1.5 * a["hair_volume"]) * (1 - 0.6 * s["back"]) * (1 - 0.5 * long)
    jitter = (chance[2:5, None] - 0.5) * mess * roots.loose
    step = length / segments
    jitter = jitter * ((1 - 0.5 * fringed) * (1 - 0.4 * s["swept"] * (1 - long)))
    line = [p]
    for i in range(segments):
        share = (i + 1) / segments
        out = soft_normal(p)
        d = comb(p, top(p), s, fringed)
        hug = 1 - long * smooth(*FREE, p[1])
        d = unit(d)
        d = d - out * (dot(d, out) * (hug * s["smoothed"]))
        fall = (p * column((-0.36, 0.0, -1.0), p) + column((0.0, -1.0, 0.72), p)) * column((1.0, 1.0, 0.22), p)
        d = unit(unit(d) + jitter)
        d = unit(d + (fall - d) * ((1 - hug) * long))
        p = p + d * step
        w = p - centre
        r = size_of(w)
        w = w / r
        crown, ahead, low, lower, free = smooths(p, (1, *TOP), (2, *FRONT), (1, 8.1, 7.75), (1, 7.35, 6.75), (1, *FREE))
        rise = hair_mass(crown, ahead, a, s) * (roots.within * min(1.0, 0.35 + 1.4 * share))
        rise = rise * (1 - low * inner)
        rise = rise + layer * min(1.0, 1.5 * share) + loft * (low * (1 - 0.8 * lower))
        surface = _look(skull, w)[0] + rise
        held = torch.where(w[1] > -0.75, torch.maximum(r, surface), r)
        p = centre + w * (held + (surface - held) * ((1 - long * free) * s["smoothed"]))
        p = _clear_face(p, hangs, room)
        line.append(p)
    return torch.stack(line), length


def _clear_face(p: Tensor, share: Tensor, room: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Push hanging hair off the face and away from the neck. room: where it may hang, dm, (R,) each: beside the face,
    in front of the ears, and around the neck."""
    x, y, z = p
    before, level, low = smooths(p, (2, 0.80, 0.98), (1, 7.85, 7.6), (1, 6.9, 6.5))
    ahead, low = before * level * share, low * share
    side = torch.where(x >= 0, 1.0, -1.0)
    wide = x.abs()
    x = side * (wide + (torch.maximum(wide, room[0]) - wide) * ahead)
    z = z + (torch.minimum(z, room[1]) - z) * ahead
    gap = (x * x + (z - 0.35) * (z - 0.35)).clamp(min=1e-4).sqrt()
    grow = 1 + (torch.maximum(gap, room[2]) / gap - 1) * low
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
    w = unit(flat - column(CENTRE, flat))
    w = torch.stack([w[0], w[1].clamp(min=-0.15), w[2]])
    return line + _look(table, unit(w)).view(3, n, steps, cards).permute(2, 0, 1, 3)


def grow(
    t: Scalp, vertices: Tensor, a: dict[str, Tensor], s: dict[str, Tensor], count: int = CARDS, segments: int = 6,
    detail: float = 1.0,
) -> Ribbons:  # fmt: skip
    """Cards for n pictures.

    vertices: (n, V, 3) of the heads in their own frame, with expression, before turning and before `scalp_push`.
    a: attributes (n, 1). s: style(a). count: cards to use, PANELS + 1 to CARDS; they get wider as they get fewer.
    segments: per card, at least 3. detail: size of the picture / 256, at most 1; chooses finer or coarser strands.
    Raises ValueError for another count or fewer segments.
    """
    if not PANELS < count <= CARDS or segments < 3:
        raise ValueError(f"count must be in {PANELS + 1}..{CARDS} and segments at least 3; got {count} and {segments}")
    front, roots = _fringed(t, a, count), _roots(t, count)
    fringed = front.to(vertices.dtype)
    rest, length = _walk(t, a, s, fringed, segments)
    normal = soft_normal(rest.transpose(0, 1).flatten(2)).view(3, segments + 1, -1, count)
    line = _carry(t, rest, vertices)
    chance = t.chance[:, :count]
    line = line + _wave(line, chance, length, a, s)
    along = torch.cat([line[1:2] - line[:1], line[2:] - line[:-2], line[-1:] - line[-2:-1]])
    tangent = unit(along.transpose(0, 1))
    across = unit(cross(tangent, normal))
    height = rest[:, 1]
    loose = smooth(7.2, 6.8, height) * s["long"]
    # Light as on the smooth mass: the rise of a card over the scalp must not tilt its highlight.
    flat = 0.9 * (1 - loose) * (1 - s["afro"])
    tangent = unit(tangent - normal * (dot(tangent, normal) * flat))
    twist = (chance[3] - 0.5) * 2.1 * (smooth(7.75, 7.25, height) * s["long"])
    across = unit(across + normal * twist)
    share = torch.linspace(0, 1, segments + 1, device=line.device)[:, None, None]
    half = (0.022 + 0.014 * chance[4] + 0.026 * s["long"]) * (CARDS / count) ** 0.5
    half[:, :PANELS] = 0.10
    wider = 1 + 0.5 * loose * roots.loose
    half = half * wider * (1 + 0.1 * fringed) * (1 - 0.35 * roots.edge * (1 - s["long"]))
    taper = torch.where(roots.loose, 0.65, 0.4)
    used = _used(t, a, s, rest, normal, front)
    half = half * (0.75 + 0.5 * share - taper * share * share) * (1 - 0.6 * _starts(used))
    edge = across * half
    points = torch.stack([line.transpose(0, 1) - edge, line.transpose(0, 1) + edge])
    inner = (0.10 + 0.35 * loose) * (1 - chance[1])
    depth = (1 - inner).expand(segments + 1, len(length), count)
    seed = _seeds(t, a, front, detail)
    return Ribbons(
        points.permute(3, 4, 2, 0, 1), normal.permute(2, 3, 1, 0), tangent.permute(2, 3, 1, 0),
        depth.permute(1, 2, 0), seed, used,
    )  # fmt: skip


def _starts(used: Tensor) -> Tensor:
    """(s + 1, n, R) 1 where the drawn part of a card starts within the card: there it is a point, not an edge."""
    u = used.permute(2, 0, 1)
    start = torch.zeros_like(u[:1])
    return torch.cat([start, u[1:] & ~u[:-1], start]).to(torch.float32)


def _wave(line: Tensor, chance: Tensor, length: Tensor, a: dict[str, Tensor], s: dict[str, Tensor]) -> Tensor:
    """Offsets (s + 1, 3, n, R) of wavy hair."""
    share = torch.linspace(0, 1, len(line), device=line.device)[:, None, None]
    size = 0.075 * a["hair_curl"] * (1 - s["afro"]) * (share * 3).clamp(max=1)
    turn = share * (length * 1.5).clamp(max=2.2) + (chance[0] * 0.3 + line[0, 2] * 0.8 + a["hair_phase"])

    def swing(x: Tensor) -> Tensor:  # a sine made of parabolas
        f = x - x.round()
        return 8 * f * (1 - 2 * f.abs())

    return torch.stack([swing(turn) * size, 0 * size * turn, swing(turn + 0.25) * size], 1)


def _seeds(t: Scalp, a: dict[str, Tensor], fringed: Tensor, detail: float) -> Tensor:
    """(n, R) in [0, 1): kind of pattern and pattern."""
    own = t.chance[5, : fringed.shape[1]] + a["hair_phase"]
    own = (own - own.floor()).clamp(0, 0.999)
    wavy, blunt = a["hair_curl"] > 0.3, a["hair_length"] > 0.6
    kind = torch.where(wavy, 2.0, torch.where(blunt, 1.0, 0.0)).to(own.dtype)
    kind = torch.where(fringed, 4.0, kind)
    kind[:, :PANELS] = 3
    kind = kind + (SHEETS // 2 if detail < 0.45 else 0)
    return (kind + own) / SHEETS


def _used(t: Scalp, a: dict, s: dict, line: Tensor, normal: Tensor, fringed: Tensor) -> Tensor:
    """(n, R, s) bool: grown, and not behind the head."""
    yaw, pitch = (a[k].double() * (np.pi / 180) for k in ("yaw", "pitch"))
    sine, cosine, tilt = (v.to(line.dtype) for v in (yaw.sin(), yaw.cos(), pitch.sin()))
    facing = normal[2] * cosine - normal[0] * sine - normal[1] * tilt
    x, y, z = line[:, 0], line[:, 1], line[:, 2] - CENTRE[2]
    x, z = x * cosine + z * sine, z * cosine - x * sine
    # Behind the head or the neck, as the viewer sees them.
    neck, crown = smooths((y,), (0, 6.5, 6.9), (0, 7.8, 8.3))
    wide = 0.36 + 0.18 * neck - 0.14 * crown
    hidden = (z < -0.10) & (x.abs() < wide)
    seen = ~hidden & ((facing > -0.12) | (y < 7.3))
    seen = seen[:-1] | seen[1:]

    count = fringed.shape[1]
    lines, root = t.root_line[:, :count], t.root[:, :count]
    rank = torch.arange(count, device=line.device)
    long, hairy = s["long"] > 0.5, a["bald"] < 0.5
    grown = hairy & (s["buzz"] < 0.5) & (lines[0] + (lines[1] - lines[0]) * s["recede"] > 0.03)
    # Long hair needs fewer cards. It starts behind the temple, so that it does not cross the forehead.
    share = torch.where(root[2] < 0.15, 0.10, 0.54 - 0.17 * a["hair_length"])
    temple = (root[0].abs() > 0.5) & (root[2] > 0.35) & (root[1] < 7.95)
    share = torch.where(temple, 0.70, share)
    forehead = ((root[2] > 0.95) & (root[1] < 7.93)) | (lines[0] < 0.03)
    falls = torch.where(long, (rank < count * share) & ~forehead, root[1] > 7.45)
    grown = torch.where(rank < PANELS, hairy & long & (s["back"] < 0.5), grown & (fringed | falls))
    # On the head the pushed scalp shows the mass of long hair; there some cards are enough.
    bare = (line[1:, 1] > 7.6) & (facing[1:] > 0.35) & long & (t.chance[4, :count] > 0.35) & ~fringed
    buried = (torch.arange(len(seen), device=line.device)[:, None, None] == 0) & (lines[0] > 0.12) & ~fringed
    return (seen & grown & ~bare & ~buried).permute(1, 2, 0)
