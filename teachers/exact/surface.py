"""From the nearest triangles of a picture to the points that are coloured, and back to pixels.

A pixel has 2 x 2 samples. Samples of one pixel that see the same material at nearly the same depth share one coloured
point. The points of one material are laid out as (n, P), one row a picture, so that its numbers broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import raster
from .geometry import EYE_LEFT, EYE_RIGHT, LENS

SAME_DEPTH = int(0.05 * raster.DEPTH_STEPS)  # dm


@dataclass
class Points:
    """The coloured points of n pictures. triangle, picture, x, y, material (N,).

    Of the samples: slot (4, n, size * size), the point, N where a sample sees no triangle; (n, 4, size * size) kinds,
    the material, NOTHING where there is none, and nearest, the keys."""

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
    known: dict[int, Hits] | None = None

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


def points(triangles: raster.Triangles, buffer: Tensor, n: int, size: int) -> Points:
    """The points of the nearest triangles; every sample of an eye has its own. buffer: as raster.draw leaves it."""
    nearest = buffer.view(n, size, 2, size, 2).permute(0, 2, 4, 1, 3).reshape(n, 4, size * size)
    kinds = raster.material_of(nearest)
    depth = raster.depth_of(nearest)
    slot = torch.arange(n * 4 * size * size, device=buffer.device).view(n, 4, -1)  # first the sample whose point it is
    own = kinds != raster.NOTHING
    shares = own & ((kinds < EYE_LEFT) | (kinds > EYE_RIGHT))
    for later in (1, 2, 3):
        same = (kinds[:, :later] == kinds[:, later : later + 1]) & own[:, :later] & shares[:, :later]
        same &= (depth[:, :later] - depth[:, later : later + 1]).abs_() < SAME_DEPTH
        own[:, later] &= ~same.any(1)
        for earlier in range(later - 1, -1, -1):  # the first sample last: it wins
            slot[:, later] = torch.where(same[:, earlier], slot[:, earlier], slot[:, later])
    flat = own.view(-1).nonzero()[:, 0]
    place = torch.full((own.numel(),), len(flat), dtype=torch.int64, device=buffer.device)
    place[flat] = torch.arange(len(flat), device=buffer.device)
    slot = place.index_select(0, slot.transpose(0, 1).reshape(-1)).view(4, n, -1)
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


@dataclass
class Hits:
    """Points of one material as (n, P), of both eyes as (2, n, P); rows are padded by repeating points, of the row
    where it has any. write (..., P): the number of the point, or N for padding. corner, weight: 3 x (..., P), of the
    flattened (V, n) vertex arrays; vertex: of (V,) arrays."""

    corner: list[Tensor]
    vertex: list[Tensor]
    weight: list[Tensor]
    write: Tensor
    x: Tensor
    y: Tensor

    def static(self, table: Tensor) -> Tensor:
        """Interpolate numbers of the vertices, (V,) or (C, V): (n, P) or (C, n, P)."""
        return self.blend(table, self.vertex)

    def moving(self, table: Tensor) -> Tensor:
        """Interpolate numbers of the vertices of each picture, (V, n) or (C, V, n): (n, P) or (C, n, P)."""
        return self.blend(table.flatten(-2), self.corner)

    def weighted(self, corners: list[Tensor]) -> Tensor:
        """Interpolate numbers of the corners, 3 x (n, P)."""
        return corners[0] * self.weight[0] + corners[1] * self.weight[1] + corners[2] * self.weight[2]

    def blend(self, table: Tensor, index: list[Tensor]) -> Tensor:
        """Interpolate numbers of a table, (K,) or (C, K), at the corners index, 3 x (n, P): (n, P) or (C, n, P)."""
        channels = table.shape[:-1]
        a, b, c = (
            table.gather(-1, i.reshape(-1).expand(*channels, -1)).mul_(w.view(-1))
            for i, w in zip(index, self.weight, strict=True)
        )
        return a.add_(b).add_(c).view(*channels, *self.x.shape)


def hits(p: Points, material: int) -> Hits | None:
    """The points of a material, or None where no picture shows it. EYE_LEFT stands for both eyes."""
    if p.known is None:
        p.known = _hits(p)
    return p.known.get(material)


def _hits(p: Points) -> dict[int, Hits]:
    """Of all materials that are seen. The host looks at the device once, for the most points that a picture has."""
    n, device = p.n, p.slot.device
    row, order = (p.material * n + p.picture).int().sort(stable=True)  # the pictures of a material, then of the next
    start = torch.searchsorted(row, torch.arange((LENS + 1) * n + 1, dtype=row.dtype, device=device))
    count, start = start.diff().view(-1, n), start[:-1].view(-1, n)
    begin = start[:, :1].clone()
    begin[EYE_RIGHT] = begin[EYE_LEFT]
    # A row without points shows one of its material, or of the other eye, and does not write it.
    first, last = torch.where(count > 0, start, begin), (count - 1).clamp(min=0)
    widths = count.amax(1).tolist()
    step = torch.arange(max(widths), device=device)
    shapes, index, own = {}, [], []
    for material, width in enumerate(widths):
        rows = material
        if material == EYE_LEFT:
            rows, width = slice(EYE_LEFT, EYE_RIGHT + 1), max(width, widths[EYE_RIGHT])
        if width and material != EYE_RIGHT:
            own.append(step[:width] < count[rows, ..., None])
            index.append(first[rows, ..., None] + torch.minimum(step[:width], last[rows, ..., None]))
            shapes[material] = own[-1].shape
    if not shapes:
        return {}
    chosen = order.index_select(0, torch.cat([i.view(-1) for i in index]))
    write = torch.where(torch.cat([o.view(-1) for o in own]), chosen, len(p.material))
    triangle, x, y = (v.index_select(0, chosen) for v in (p.triangle, p.x, p.y))
    corner = p.triangles.corner.index_select(1, triangle)
    vertex = torch.div(corner, n, rounding_mode="floor")
    every = (*corner, *vertex, *p.triangles.barycentric(triangle, x, y), write, x, y)
    parts = zip(*(v.split([shape.numel() for shape in shapes.values()]) for v in every), strict=True)
    found = {}
    for (material, shape), part in zip(shapes.items(), parts, strict=True):
        part = [v.view(shape) for v in part]
        found[material] = Hits(part[:3], part[3:6], part[6:9], *part[9:])
    return found


def average(p: Points, values: Tensor, behind: Tensor) -> Tensor:
    """Values of the points (C, N + 1) to pixels (n, C, size, size). behind (C, n, size * size): of the samples that see
    no triangle; the last point counts as nothing."""
    found = [values.gather(1, sample.view(1, -1).expand(len(values), -1)) for sample in p.slot]
    total = found[0].add_(found[1]).add_(found[2]).add_(found[3]).view(behind.shape)
    total.add_(behind * (p.slot == len(p.material)).sum(0)).mul_(0.25)
    return total.transpose(0, 1).reshape(p.n, -1, p.size, p.size)


def share_of(p: Points, chosen: Tensor) -> Tensor:
    """Share of each pixel's samples that see chosen points, (n, 1, size, size). chosen: (N + 1,) bool."""
    return average(p, chosen[None].float(), torch.zeros(1, p.n, p.size * p.size, device=chosen.device))
