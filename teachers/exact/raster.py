"""Draws triangles of many pictures at once: which triangle is the nearest at every sample of every picture.

A triangle is cut into rows of samples, a row into its exact span, and the spans into fragments; the nearest fragment of
a sample wins. All arithmetic is exact per triangle and sample, and the nearest is a minimum of whole numbers, so a
picture does not depend on the pictures beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

# A key is a fragment's depth in steps, its triangle's number and its material: the smallest key is the nearest
# fragment.
MATERIAL_BITS, NUMBER_BITS = 4, 27
ID_BITS = MATERIAL_BITS + NUMBER_BITS
NOTHING = 2**MATERIAL_BITS - 1  # material of a sample that sees no triangle
EMPTY = 2**62 + NOTHING
FLAT = 1e-12  # slopes below it bound nothing
OVERLAP = 1e-3  # samples: neighbouring triangles overlap by it, so that rounding leaves no gap between them
DEPTH_STEPS = 2**22  # per decimetre
FARTHEST = 32 * DEPTH_STEPS  # the depth of a key is FARTHEST less the steps towards the camera


@dataclass
class Triangles:
    """Drawn triangles of all pictures, T in all. corner: 3 x (T,) index into the flattened (V, n) vertex arrays; face:
    the number of the triangle in its list. b1, b2: slopes in x and y of the barycentric coordinates of the second and
    third corner, which are 0 at (x0, y0). depth: at the first corner, and its change to the other two. first, last:
    rows."""

    corner: tuple[Tensor, Tensor, Tensor]
    picture: Tensor
    x0: Tensor
    y0: Tensor
    b1: tuple[Tensor, Tensor]
    b2: tuple[Tensor, Tensor]
    depth: tuple[Tensor, Tensor, Tensor]
    first: Tensor
    last: Tensor
    face: Tensor
    material: Tensor

    def barycentric(self, triangle: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (P,) of the three corners at the samples (x, y) of triangles (P,)."""
        dx, dy = x - self.x0.index_select(0, triangle), y - self.y0.index_select(0, triangle)
        one = dx * self.b1[0].index_select(0, triangle) + dy * self.b1[1].index_select(0, triangle)
        two = dx * self.b2[0].index_select(0, triangle) + dy * self.b2[1].index_select(0, triangle)
        return 1 - one - two, one, two


@dataclass
class Strands:
    """What cards need beside their triangles: across and along, at the first corner and its change to the other two,
    (T,) each; seed (T,); opaque: tells of across, along and seed (P,) of fragments which of them show a strand."""

    across: tuple[Tensor, Tensor, Tensor]
    along: tuple[Tensor, Tensor, Tensor]
    seed: Tensor
    opaque: Callable[[Tensor, Tensor, Tensor], Tensor]


def setup(
    x: Tensor, y: Tensor, depth: Tensor, faces: Tensor, material: Tensor, two_sided: Tensor, active: Tensor | None,
    side: int,
) -> Triangles:  # fmt: skip
    """The triangles that can be seen. x, y, depth (V, n): samples, samples, decimetres towards the camera;
    faces (F, 3); material and two_sided (F,); active (F, n) bool or None: which are drawn at all; side: samples in a
    row."""
    n = x.shape[1]
    c = faces.unbind(1)
    (xa, xb, xc), (ya, yb, yc) = ([v.index_select(0, k) for k in c] for v in (x, y))
    area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
    first = torch.minimum(torch.minimum(ya, yb), yc).sub_(0.5).ceil_()
    last = torch.maximum(torch.maximum(ya, yb), yc).sub_(0.5).floor_()
    left, right = torch.minimum(torch.minimum(xa, xb), xc), torch.maximum(torch.maximum(xa, xb), xc)
    seen = (last >= first) & (last >= 0) & (first < side) & (left < side) & (right > 0)
    seen &= (area < -1e-9) | ((area > 1e-9) & two_sided[:, None])
    seen &= (right - 0.5).floor() >= (left - 0.5).ceil()  # covers the centre of a column
    if active is not None:
        seen &= active
    kept = seen.reshape(-1).nonzero()[:, 0]
    face = torch.div(kept, n, rounding_mode="floor")
    picture = kept - face * n
    corner = tuple(k.index_select(0, face) * n + picture for k in c)
    flat = [v.reshape(-1) for v in (x, y, depth)]
    (xa, xb, xc), (ya, yb, yc) = (
        [v.reshape(-1).index_select(0, kept) for v in vs] for vs in ((xa, xb, xc), (ya, yb, yc))
    )
    per = 1 / area.reshape(-1).index_select(0, kept)
    za, zb, zc = (flat[2].index_select(0, k) for k in corner)
    return Triangles(
        corner, picture, xa - 0.5, ya - 0.5,
        ((yc - ya) * per, (xa - xc) * per), ((ya - yb) * per, (xb - xa) * per),
        (za, zb - za, zc - za),
        *(row.reshape(-1).index_select(0, kept) for row in (first.clamp_(min=0), last.clamp_(max=side - 1))),
        face, material.index_select(0, face),
    )  # fmt: skip


def draw(t: Triangles, side: int, buffer: Tensor, offset: int = 0, strands: Strands | None = None) -> None:
    """Keep the nearest fragments in buffer (n * side * side,) int64, which starts as EMPTY.

    offset: added to the number of a triangle. strands: of cards, whose fragments between the strands are left out.
    """
    device = t.first.device
    rows = (t.last - t.first + 1).long()
    owner = torch.repeat_interleave(rows)
    start = t.first - (rows.cumsum(0) - rows)
    row = torch.arange(len(owner), device=device) + start.index_select(0, owner)
    dy = row - t.y0.index_select(0, owner)
    x0 = t.x0.index_select(0, owner)
    one_x, two_x = t.b1[0].index_select(0, owner), t.b2[0].index_select(0, owner)
    one, two = dy * t.b1[1].index_select(0, owner), dy * t.b2[1].index_select(0, owner)
    one, two = one - one_x * x0, two - two_x * x0  # at the left end of the row
    low, high = torch.zeros_like(one), torch.full_like(one, side - 1.0)
    for slope, value in ((one_x, one), (two_x, two), (-one_x - two_x, 1 - one - two)):
        # Inside is slope * x + value >= 0. An edge that does not bound an end gives a bound far outside, or, where all
        # of the row is on its wrong side, one that empties the span.
        low = torch.maximum(low, -value / slope.clamp(min=FLAT))
        high = torch.minimum(high, (value + slope * (side - 1)) / (-slope).clamp(min=FLAT) + (side - 1))
    low, high = (low - OVERLAP).ceil_(), (high + OVERLAP).floor_()
    low, high = low.clamp_(min=0), high.clamp_(max=side - 1)
    count = (high - low + 1).clamp_(min=0).long()

    def line(at: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The slope along a row, and the value at its left end, of numbers of the corners."""
        first, second, third = (v.index_select(0, owner) for v in at)
        return second * one_x + third * two_x, first + second * one + third * two

    # Depth goes along a row in whole steps: the key of the n-th sample of all pictures is base + n * step.
    slope, depth = line(t.depth)
    step = -((slope * DEPTH_STEPS).round().long() << ID_BITS)
    origin = t.picture.index_select(0, owner) * (side * side) + row.long() * side
    base = (FARTHEST - (depth * DEPTH_STEPS).round().long()) << ID_BITS
    number = ((owner + offset) << MATERIAL_BITS) | t.material.index_select(0, owner).long()
    base = (base | number) - origin * step
    span = torch.repeat_interleave(count)
    before = count.cumsum(0) - count
    sample = torch.arange(len(span), device=device).add_((origin + low.long() - before).index_select(0, span))
    key = base.index_select(0, span).add_(step.index_select(0, span).mul_(sample))
    if strands is not None:
        nearer = (key < buffer.index_select(0, sample)).nonzero()[:, 0]
        span, sample, key = (v.index_select(0, nearer) for v in (span, sample, key))
        x = (sample - origin.index_select(0, span)).float()
        u, along = (
            value.index_select(0, span).add_(slope.index_select(0, span).mul_(x))
            for slope, value in (line(strands.across), line(strands.along))
        )
        kept = strands.opaque(u, along, strands.seed.index_select(0, owner).index_select(0, span)).nonzero()[:, 0]
        sample, key = sample.index_select(0, kept), key.index_select(0, kept)
    buffer.scatter_reduce_(0, sample, key, "amin")


def join(a: Triangles, b: Triangles) -> Triangles:
    """Both lists as one; the numbers of b start after those of a."""

    def both(one, two):
        if isinstance(one, tuple):
            return tuple(torch.cat(pair) for pair in zip(one, two, strict=True))
        return torch.cat([one, two])

    return Triangles(*(both(getattr(a, f.name), getattr(b, f.name)) for f in fields(Triangles)))


def depth_of(key: Tensor) -> Tensor:
    """Depth of keys in steps, whole numbers; larger is farther."""
    return key >> ID_BITS


def triangle_of(key: Tensor) -> Tensor:
    """Number of the triangle of keys."""
    return (key & (2**ID_BITS - 1)) >> MATERIAL_BITS


def material_of(key: Tensor) -> Tensor:
    """Material of keys, NOTHING for EMPTY."""
    return key & NOTHING
