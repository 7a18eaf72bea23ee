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
    """Drawn triangles of all pictures, T in all. corner: (3, T) index into the flattened (V, n) vertex arrays; face:
    the number of the triangle in its list. plane (9, T): a point (x0, y0); slopes in x and y of the barycentric
    coordinates of the second corner, and of the third, which are 0 there; depth at the first corner, and its change to
    the other two. first, last: rows."""

    corner: Tensor
    picture: Tensor
    plane: Tensor
    first: Tensor
    last: Tensor
    face: Tensor
    material: Tensor

    def barycentric(self, triangle: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (P,) of the three corners at the samples (x, y) of triangles (P,)."""
        x0, y0, one_x, one_y, two_x, two_y = self.plane[:6].index_select(1, triangle)
        dx, dy = x - x0, y - y0
        one, two = dx * one_x + dy * one_y, dx * two_x + dy * two_y
        return 1 - one - two, one, two


@dataclass
class Strands:
    """What cards need beside their triangles: across and along (3, T), at the first corner and its change to the other
    two; seed (T,). opaque: takes across, along and seed of fragments, (P,) each, and gives True where a strand is."""

    across: Tensor
    along: Tensor
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
    (xa, ya), (xb, yb), (xc, yc) = a, b, c = [torch.stack([x, y]).index_select(1, k) for k in faces.unbind(1)]
    area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
    least, most = torch.minimum(torch.minimum(a, b), c), torch.maximum(torch.maximum(a, b), c)
    left, right = least[0], most[0]
    (first_column, first), (last_column, last) = (least - 0.5).ceil_(), (most - 0.5).floor_()
    seen = (last >= first) & (last >= 0) & (first < side) & (left < side) & (right > 0)
    seen &= (area < -1e-9) | ((area > 1e-9) & two_sided[:, None])
    seen &= last_column >= first_column  # covers the centre of a column
    if active is not None:
        seen &= active
    kept = seen.view(-1).nonzero()[:, 0]
    face = torch.div(kept, n, rounding_mode="floor")
    picture = kept - face * n
    corner = faces.T.contiguous().index_select(1, face) * n + picture
    rows = torch.stack([first.clamp(min=0), last.clamp(max=side - 1), area])
    first, last, area = rows.flatten(1).index_select(1, kept)
    (xa, ya), (xb, yb), (xc, yc) = (v.flatten(1).index_select(1, kept) for v in (a, b, c))
    per = 1 / area
    za, zb, zc = depth.flatten().index_select(0, corner.view(-1)).view(3, -1)
    plane = torch.stack([
        xa - 0.5, ya - 0.5, (yc - ya) * per, (xa - xc) * per, (ya - yb) * per, (xb - xa) * per, za, zb - za, zc - za
    ])  # fmt: skip
    return Triangles(corner, picture, plane, first, last, face, material.index_select(0, face))


def draw(t: Triangles, side: int, buffer: Tensor, offset: int = 0, strands: Strands | None = None) -> None:
    """Keep the nearest fragments in buffer (n * side * side,) int64, which starts as EMPTY.

    offset: added to the number of a triangle. strands: of cards, whose fragments between the strands are left out.
    """
    device = t.first.device
    rows = (t.last - t.first + 1).long()
    owner = torch.repeat_interleave(rows)
    start = t.first - (rows.cumsum(0) - rows)
    row = torch.arange(len(owner), device=device) + start.index_select(0, owner)
    x0, y0, one_x, one_y, two_x, two_y, *depths = t.plane.index_select(1, owner)
    dy = row - y0
    one, two = dy * one_y - one_x * x0, dy * two_y - two_x * x0  # at the left end of the row
    # Inside is slope * x + value >= 0 for all edges. An edge that does not bound an end gives a bound far outside, or,
    # where all of the row is on its wrong side, one that empties the span.
    slope = torch.stack([one_x, two_x, -one_x - two_x])
    value = torch.stack([one, two, 1 - one - two])
    low = (-value / slope.clamp(min=FLAT)).amax(0)
    high = ((value + slope * (side - 1)) / (-slope).clamp_(min=FLAT) + (side - 1)).amin(0)
    low, high = (low - OVERLAP).ceil_(), (high + OVERLAP).floor_()
    low, high = low.clamp_(min=0), high.clamp_(max=side - 1)
    count = (high - low + 1).clamp_(min=0).long()

    def line(first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, Tensor]:
        """The slope along a row, and the value at its left end, of a number of the corners, as in Triangles.plane."""
        return second * one_x + third * two_x, first + second * one + third * two

    # Depth goes along a row in whole steps: the key of the n-th sample of all pictures is base + n * step.
    slope, depth = line(*depths)
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
            for slope, value in (line(*at.index_select(1, owner)) for at in (strands.across, strands.along))
        )
        kept = strands.opaque(u, along, strands.seed.index_select(0, owner).index_select(0, span)).nonzero()[:, 0]
        sample, key = sample.index_select(0, kept), key.index_select(0, kept)
    buffer.scatter_reduce_(0, sample, key, "amin")


def join(a: Triangles, b: Triangles) -> Triangles:
    """Both lists as one; the numbers of b start after those of a."""

    return Triangles(*(torch.cat([getattr(a, f.name), getattr(b, f.name)], -1) for f in fields(Triangles)))


def depth_of(key: Tensor) -> Tensor:
    """Depth of keys in steps, whole numbers; larger is farther."""
    return key >> ID_BITS


def triangle_of(key: Tensor) -> Tensor:
    """Number of the triangle of keys."""
    return (key & (2**ID_BITS - 1)) >> MATERIAL_BITS


def material_of(key: Tensor) -> Tensor:
    """Material of keys, NOTHING for EMPTY."""
    return key & NOTHING
