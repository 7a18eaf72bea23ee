"""From the nearest triangles of a picture to the points that are coloured, and back to pixels.

A pixel has 2 x 2 samples. Samples of one pixel that see the same material at nearly the same depth share one coloured
point. The points of one material are laid out as (n, P), one row a picture, so that its numbers broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import raster

SAME_DEPTH = int(0.05 * raster.DEPTH_STEPS)  # dm


@dataclass
class Points:
    """The coloured points of a batch of pictures. triangle, picture, x, y (N,); slot (n * size * size, 4): the point of
    each sample, N where it sees no triangle; kinds, depth: of the samples, material (-1: none) and dm to the camera (-inf: none)."""

    triangles: raster.Triangles
    triangle: Tensor
    picture: Tensor
    x: Tensor
    y: Tensor
    material: Tensor
    slot: Tensor
    kinds: Tensor
    depth: Tensor
    n: int
    size: int

    def at(self, values: Tensor, x: Tensor, y: Tensor, outside: float) -> Tensor:
        """Values of the samples (n * size * size, 4) at whole sample coordinates x, y (n, P) of each picture."""
        side = 2 * self.size
        inside = (x >= 0) & (x < side) & (y >= 0) & (y < side)
        picture = torch.arange(self.n, device=x.device)[:, None]
        pixel = (picture * self.size + (y >> 1)) * self.size + (x >> 1)
        sample = torch.where(inside, pixel * 4 + (y & 1) * 2 + (x & 1), 0)
        found = values.reshape(-1).index_select(0, sample.view(-1)).view(x.shape)
        return torch.where(inside, found, outside)


def points(triangles: raster.Triangles, buffer: Tensor, n: int, size: int, shared: Tensor) -> Points:
    """The points of the nearest triangles. buffer: as raster.draw leaves it. shared: bool per material: whether the samples
    of a pixel may share a point."""
    keys = buffer.view(n, size, 2, size, 2).permute(0, 1, 3, 2, 4).reshape(-1, 4)
    seen = keys < raster.EMPTY
    material = torch.cat([triangles.material, triangles.material.new_full((1,), -1)])
    number = torch.where(seen, raster.triangle_of(keys), len(triangles.material))
    kinds = material.index_select(0, number.reshape(-1)).view(-1, 4)
    depth = raster.depth_of(keys)
    own = seen.clone()
    slot = torch.arange(4, device=keys.device).expand(len(keys), 4).clone()
    for later in (1, 2, 3):
        for earlier in range(later):
            same = (kinds[:, later] == kinds[:, earlier]) & ((depth[:, later] - depth[:, earlier]).abs() < SAME_DEPTH)
            same &= own[:, later] & own[:, earlier] & shared.index_select(0, kinds[:, later].clamp(min=0).long())
            own[:, later] &= ~same
            slot[:, later] = torch.where(same, earlier, slot[:, later])
    flat = own.reshape(-1).nonzero()[:, 0]
    place = torch.full((own.numel(),), len(flat), dtype=torch.int64, device=keys.device)
    place[flat] = torch.arange(len(flat), device=keys.device)
    slot = place.view(-1, 4).gather(1, slot)
    pixel = flat >> 2
    picture = torch.div(pixel, size * size, rounding_mode="floor")
    inside = pixel - picture * (size * size)
    row = torch.div(inside, size, rounding_mode="floor")
    column = inside - row * size
    return Points(
        triangles, number.reshape(-1).index_select(0, flat), picture,
        (2 * column + (flat & 1)).float(), (2 * row + ((flat >> 1) & 1)).float(),
        kinds.reshape(-1).index_select(0, flat), slot, kinds,
        torch.where(seen, (raster.FARTHEST - depth).float() / raster.DEPTH_STEPS, float("-inf")), n, size,
    )  # fmt: skip


@dataclass
class Hits:
    """Points of one material as (n, P); rows are padded by repeating points of the row. write (n, P): the number of the
    point, or N for padding. corner, weight: 3 x (n, P), of the flattened (V, n) vertex arrays; vertex: of (V,) arrays."""

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
        parts = [table.index_select(0, i.view(-1)).view(i.shape).mul_(w) for i, w in zip(index, self.weight, strict=True)]
        return parts[0].add_(parts[1]).add_(parts[2])


def hits(p: Points, *materials: int) -> Hits | None:
    """The points of some materials, or None where no picture shows them."""
    wanted = p.material == materials[0]
    for other in materials[1:]:
        wanted |= p.material == other
    flat = wanted.nonzero()[:, 0]
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
    """Values of the points (C, N + 1) to pixels (n, C, size, size). behind (C, n, size * size): of the samples that see no
    triangle; the last point counts as nothing."""
    total = torch.zeros(len(values), len(p.slot), device=values.device)
    empty = (p.slot == len(p.material)).float().sum(1)
    for channel, out in zip(values, total, strict=True):
        for sample in range(4):
            out.add_(channel.index_select(0, p.slot[:, sample]))
    total = (total + behind.reshape(len(values), -1) * empty) * 0.25
    return total.view(-1, p.n, p.size, p.size).transpose(0, 1)


def share_of(p: Points, chosen: Tensor) -> Tensor:
    """Share of each pixel's samples that see chosen points, (n, 1, size, size). chosen: (N + 1,) bool."""
    return average(p, chosen[None].float(), torch.zeros(1, p.n, p.size * p.size, device=chosen.device))
