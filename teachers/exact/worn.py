"""Clothes: painted on neck and shoulders below a neckline, and pushed out a little.

They depend on attributes and on the place on the rest head, never on the identity. Lengths are decimetres; x to the
person's left, y up, z to the front. Only exact arithmetic is used per point (see curves.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .curves import bump, bumps, constant, hue, hues, mix, rise, smooth, smooths
from .noise import noise

V_NECK, SHIRT, ROLL = 0.34, 0.50, 0.76  # collar from here on; a round neck below


def _kind(a: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Round neck, V-neck, shirt and roll neck: 1 or 0 each, (n, 1)."""
    device = a["collar"].device
    kind = torch.bucketize(a["collar"], constant((V_NECK, SHIRT, ROLL), device, 0), right=True)
    return (kind == constant((0.0, 1.0, 2.0, 3.0), device)).float().unbind(0)


def _inside(x: Tensor, y: Tensor, z: Tensor, a: dict[str, Tensor]) -> Tensor:
    """How far below the neckline points of the rest head are, (n, P), about dm."""
    round_, vee, shirt, roll = _kind(a)
    ax = x.abs()
    ring = 5.90 - 0.27 * (z - 0.1)  # the plane in which a neck stands on its shoulders
    outwards = (ax - 0.42).clamp(min=0) * 0.30
    front = smooth(0.35, 0.75, z)
    loose = 0.10 * a["collar"]
    cut = vee * (0.55 - ax).clamp(min=0) * 1.1 + round_ * bump(ax * ax * 3.0) * (0.06 + loose)
    gap = shirt * (0.20 - ax).clamp(min=0) * 2.6
    line = ring + 0.02 * round_ - 0.02 * vee + 0.18 * shirt + 0.40 * roll - (cut + gap) * front
    return line + outwards - y


def _leaf(ax: Tensor, z: Tensor) -> Tensor:
    """How far below the neckline the leaves of a shirt's collar end, (n, P): lower in front, in two points."""
    return 0.16 + 0.24 * smooth(0.3, 0.7, z) * rise(0.62, 0.30, ax) * rise(0.02, 0.12, ax)


def cloth_push(rest: Tensor, a: dict[str, Tensor]) -> Tensor:
    """How far each vertex of rest (V, 3) is pushed outwards for the clothes to have thickness: (n, V), dm."""
    x, y, z = (v[None] for v in rest.unbind(1))
    inside = _inside(x, y, z, a)
    _, _, shirt, roll = _kind(a)
    leaf = smooth(0.03, -0.03, inside - _leaf(x.abs(), z)) * shirt
    thick = 0.025 + 0.040 * leaf + 0.045 * roll
    bulge = bump(((inside - 0.10) / 0.09) ** 2) * roll * 0.03
    neck = smooth(6.6, 6.4, y) * smooth(1.25, 1.05, z + 1.0 * (y - 6.2).clamp(min=0))
    return (smooth(-0.05, 0.05, inside) * thick + bulge) * neck


def cloth(x: Tensor, y: Tensor, z: Tensor, a: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Clothes at points of the rest head (n, P): their share (n, P) over the skin, and their colour (3, n, P), unlit.

    Above the neckline the share is a faint dark band: the shadow that the edge of the cloth throws on the skin.
    """
    inside = _inside(x, y, z, a)
    round_, vee, shirt, roll = _kind(a)
    ax = x.abs()
    value = 0.10 + 0.78 * a["clothes_value"]
    which = a["clothes_hue"] * 11
    which = which - which.floor()
    plain, other = hues(
        (a["clothes_hue"], (0.05 + 0.55 * a["clothes_saturation"]) * (1.1 - 0.4 * a["clothes_value"]), value),
        (a["clothes_hue"] + 0.5 * which, 0.3 * a["clothes_saturation"], (1.15 - value).clamp(0.1, 0.95)),
    )
    wide, medium, pore = noise(x * 0.55 + a["clothes_hue"] * 7, y * 0.55 + z * 0.3, "wide", "medium", "pore")
    folds = 1 + 0.05 * wide + 0.03 * medium + 0.02 * pore

    # Ribs run up a roll neck and the rim of a round neck, whose seam runs along its lower edge.
    around = (x / (ax + z.abs() + 0.3)) * 22
    rib = ((around - around.floor()) * 2 - 1).abs()
    rim, below, shadow, worn = smooths((inside,), (0, 0.115, 0.10), (0, 0.0, 0.05), (0, -0.10, 0.0), (0, -0.007, 0.007))
    leaf = inside - _leaf(ax, z)
    seam, fold, edge, placket = bumps(
        (inside, leaf, x), (0, 0.112, 0.012), (0, 0.22, 0.03), (1, -0.022, 0.006), (2, 0.055, 0.006)
    )
    fold = fold * roll
    shade = folds * (1 - 0.16 * rib * (rim * round_ + roll)) * (1 - 0.30 * seam * (round_ + vee))
    shade = shade * (1 - 0.35 * fold) * (0.86 + 0.14 * below)
    # The leaves of a shirt's collar throw a shadow; a line of stitches runs along their edge, and a placket below.
    thrown = leaf.clamp(min=0) / 0.07
    shade = shade * (1 - shirt * (leaf > 0) * (0.50 * bump(thrown * thrown) + 0.15 * placket * (z > 0.5)))
    shade = shade * (1 + shirt * (0.05 * (leaf < 0) - 0.14 * edge))

    # A third of the shirts and a few other clothes are striped.
    lines = x * 9.0 + 0.25
    stripe = smooth(0.30, 0.42, (lines - lines.floor() - 0.5).abs())
    bars = (0.8 * (x * x + (z - 0.2) * (z - 0.2)).sqrt() - y) * 6.5
    bar = smooth(0.20, 0.28, (bars - bars.floor() - 0.5).abs())
    striped = (which > 0.62) * shirt * stripe + (which > 0.82) * (round_ + vee) * bar * (1 - rim * round_)
    colour = mix(plain, other, striped * 0.8) * shade
    shadow = shadow * 0.38
    return torch.maximum(shadow, worn), colour * worn + hue(0.02, 0.6, 0.18, like=value) * (1 - worn)
