"""From the nearest triangles of a picture to the points that are coloured, and back to pixels.

A pixel has 2 x 2 samples. Samples of one pixel that see the same material at nearly the same depth share one coloured
point. The points of one material are laid out as (n, P), one row a picture, so that its numbers broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from . import raster

SAME_DEPTH = int(0.05 * raster.DEPTH_STEPS)  # dm


@dataclass
class Points:
    """The coloured points of n pictures. triangle, picture, x, y, material (N,).

    Of the samples, (n, 4, size * size): slot, the point, N where a sample sees no triangle; kinds, the material,
    NOTHING where there is none; nearest, the keys."""

    triangles: raster.Triangles
    triangle: Tensor
    picture: Tensor
    x: Tensor
    y: Tensor
    material: Tensor
    slot: Tensor
    kinds: Tensor
    nearest: Tensor
    n: int
    size: int
    known: dict[int, Hits | None] = field(default_factory=dict)

    def depth(self) -> Tensor:
        """dm towards the camera of the samples, (n, 4, size * size); far behind where they see nothing."""
        return (raster.FARTHEST - raster.depth_of(self.nearest)).float() / raster.DEPTH_STEPS

    def at(self, values: Tensor, x: Tensor, y: Tensor, outside: float) -> Tensor:
        """Values of the samples (n, 4, size * size) at whole sample coordinates x, y (n, P) of each picture."""
        side = 2 * self.size
        inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
        picture = torch.arange(self.n, device=x.device)[:, None]
        place = ((picture * 4 + (y & 1) * 2 + (x & 1)) * self.size + (y >> 1)) * self.size + (x >> 1)
        sample = torch.where(inside, place, 0)
        found = values.reshape(-1).index_select(0, sample.view(-1)).view(x.shape)
        return torch.where(inside, found, outside)


def points(triangles: raster.Triangles, buffer: Tensor, n: int, size: int, alone: tuple[int, ...]) -> Points:
    """The points of the nearest triangles. buffer: as raster.draw leaves it. alone: materials of which each sample has
    its own point."""
    nearest = buffer.view(n, size, 2, size, 2).permute(0, 2, 4, 1, 3).reshape(n, 4, size * size)
    kinds = raster.material_of(nearest)
    depth = raster.depth_of(nearest)
    single = torch.zeros_like(kinds[:, 0], dtype=torch.bool)
    for material in alone:
        single |= kinds[:, 0] == material
    slot = torch.arange(n * 4 * size * size, device=buffer.device).view(n, 4, -1)  # first the sample whose point it is
    own = kinds != raster.NOTHING
    for later in (1, 2, 3):
        for earlier in range(later - 1, -1, -1):  # the first sample last: it wins
            same = kinds[:, later] == kinds[:, earlier]
            same &= (depth[:, later] - depth[:, earlier]).abs_() < SAME_DEPTH
            same &= ~single if earlier == 0 else own[:, earlier] & _shares(kinds[:, earlier], alone)
            own[:, later] &= ~same
            slot[:, later] = torch.where(same, slot[:, earlier], slot[:, later])
    flat = own.view(-1).nonzero()[:, 0]
    place = torch.full((own.numel(),), len(flat), dtype=torch.int64, device=buffer.device)
    place[flat] = torch.arange(len(flat), device=buffer.device)
    slot = place.index_select(0, slot.view(-1)).view(slot.shape)
    picture = torch.div(flat, 4 * size * size, rounding_mode="floor")
    inside = flat - picture * (4 * size * size)
    sample = torch.div(inside, size * size, rounding_mode="floor")
    inside = inside - sample * (size * size)
    row = torch.div(inside, size, rounding_mode="floor")
    column = inside - row * size
    key = nearest.view(-1).index_select(0, flat)
    return Points(
        triangles, raster.triangle_of(key), picture, (2 * column + (sample & 1)).float(),
        (2 * row + (sample >> 1)).float(), raster.material_of(key), slot, kinds, nearest, n, size,
    )  # fmt: skip


def _shares(kinds: Tensor, alone: tuple[int, ...]) -> Tensor:
    shares = kinds != raster.NOTHING
    for material in alone:
        shares &= kinds != material
    return shares


@dataclass
class Hits:
    """Points of one material as (n, P); rows are padded by repeating points of the row. write (n, P): the number of the
    point, or N for padding. corner, weight: 3 x (n, P), of the flattened (V, n) vertex arrays; vertex: of (V,)
    arrays."""

    corner: list[Tensor]
    vertex: list[Tensor]
    weight: list[Tensor]
    write: Tensor
    x: Tensor
    y: Tensor

    def static(self, table: Tensor) -> Tensor:
        """Interpolate numbers of the vertices (V,): (n, P)."""
        return self.blend(table, self.vertex)

    def moving(self, table: Tensor) -> Tensor:
        """Interpolate numbers of the vertices of each picture (V, n): (n, P)."""
        return self.blend(table.reshape(-1), self.corner)

    def weighted(self, corners: list[Tensor]) -> Tensor:
        """Interpolate numbers of the corners, 3 x (n, P)."""
        return corners[0] * self.weight[0] + corners[1] * self.weight[1] + corners[2] * self.weight[2]

    def blend(self, table: Tensor, index: list[Tensor]) -> Tensor:
        """Interpolate numbers of a table (K,) at the corners index, 3 x (n, P)."""
        parts = [
            table.index_select(0, i.view(-1)).view(i.shape).mul_(w) for i, w in zip(index, self.weight, strict=True)
        ]
        return parts[0].add_(parts[1]).add_(parts[2])


def hits(p: Points, material: int) -> Hits | None:
    """The points of a material, or None where no picture shows it."""
    if material not in p.known:
        p.known[material] = _hits(p, material)
    return p.known[material]


def _hits(p: Points, material: int) -> Hits | None:
    flat = (p.material == material).nonzero()[:, 0]
    if not len(flat):
        return None
    picture = p.picture.index_select(0, flat)
    count = torch.bincount(picture, minlength=p.n)
    start = count.cumsum(0) - count
    step = torch.arange(int(count.max()), device=flat.device)
    index = start[:, None] + torch.minimum(step[None], (count[:, None] - 1).clamp(min=0))
    chosen = flat.index_select(0, index.clamp(max=len(flat) - 1).view(-1)).view(index.shape)
    # A row without points of its own shows those of another picture, and does not write them.
    triangle = p.triangle.index_select(0, chosen.view(-1))
    x, y = (v.index_select(0, chosen.view(-1)) for v in (p.x, p.y))
    weight = [w.view(index.shape) for w in p.triangles.barycentric(triangle, x, y)]
    corner = [c.index_select(0, triangle).view(index.shape) for c in p.triangles.corner]
    row = torch.arange(p.n, device=flat.device)[:, None]
    vertex = [torch.div(c, p.n, rounding_mode="floor") for c in corner]
    write = torch.where(step[None] < count[:, None], chosen, len(p.material))
    return Hits([v * p.n + row for v in vertex], vertex, weight, write, x.view(index.shape), y.view(index.shape))


def average(p: Points, values: Tensor, behind: Tensor) -> Tensor:
    """Values of the points (C, N + 1) to pixels (n, C, size, size). behind (C, n, size * size): of the samples that see
    no triangle; the last point counts as nothing."""
    n, pixels = p.n, p.size * p.size
    total = torch.empty(n, len(values), pixels, device=values.device)
    empty = (p.slot == len(p.material)).sum(1).float()
    index = [p.slot[:, sample].reshape(-1) for sample in range(4)]
    for k, channel in enumerate(values):
        found = [channel.index_select(0, i) for i in index]
        total[:, k] = (
            found[0].add_(found[1]).add_(found[2]).add_(found[3]).view(n, pixels).add_(behind[k] * empty).mul_(0.25)
        )
    return total.view(n, -1, p.size, p.size)


def share_of(p: Points, chosen: Tensor) -> Tensor:
    """Share of each pixel's samples that see chosen points, (n, 1, size, size). chosen: (N + 1,) bool."""
    return average(p, chosen[None].float(), torch.zeros(1, p.n, p.size * p.size, device=chosen.device))
