"""Renders the numbers of a face: picture, inner-face mask and landmarks, at any resolution, on CPU or GPU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import hair_shade, raster, shade, surface
from .face import ATTRIBUTES, IDENTITY
from .geometry import BODY, EYE_LEFT, EYE_RIGHT, HAIR, LASH, Geometry, build

VERSION = 2  # of the pictures: increase it when any pixel changes, and train the networks of the benchmark again
CHUNK_PIXELS, CHUNK_PIXELS_GPU = 160_000, 8_000_000  # drawn at once; the arrays of a chunk fit in a CPU's cache
NO_SHARING = (EYE_LEFT, EYE_RIGHT)


class Rendered(NamedTuple):
    image: Tensor
    mask: Tensor
    landmarks: Tensor


@torch.no_grad()
def render(identity: Tensor, attributes: Tensor, size: int = 256) -> Rendered:
    step = max(1, (CHUNK_PIXELS_GPU if identity.is_cuda else CHUNK_PIXELS) // size**2)
    parts = [_draw(i, a, size) for i, a in zip(identity.split(step), attributes.split(step), strict=True)]
    return Rendered(*(torch.cat(column) for column in zip(*parts, strict=True)))


def visible(g: Geometry, size: int) -> surface.Points:
    """The nearest triangle of every sample, as points to be coloured."""
    side, n, device = 2 * size, g.x.shape[1], g.x.device
    buffer = torch.full((n * side * side,), raster.EMPTY, dtype=torch.int64, device=device)
    faces, material = g.solid
    solid = raster.setup(g.x, g.y, g.depth, faces, material, material == LASH, None, side)
    raster.draw(solid, side, buffer)
    kind = torch.full((len(g.strand_faces),), HAIR, dtype=torch.int8, device=device)
    cards = raster.setup(g.x, g.y, g.depth, g.strand_faces, kind, kind == HAIR, g.strand_active, side)
    raster.draw(cards, side, buffer, len(solid.picture), _strands(g, cards))
    shared = torch.ones(9, dtype=torch.bool, device=device)
    shared[list(NO_SHARING)] = False
    return surface.points(raster.join(solid, cards), buffer, n, size, shared)


def _strands(g: Geometry, cards: raster.Triangles) -> raster.Strands:
    """Lower halves of a card's segment have the corners (-1, t), (1, t), (-1, t + 1), upper ones (1, t), (1, t + 1), (-1, t + 1)."""
    segments = g.cards.used.shape[2]
    half = len(g.strand_faces) // 2
    upper = cards.face >= half
    inside = torch.where(upper, cards.face - half, cards.face)
    card = torch.div(inside, segments, rounding_mode="floor")
    low = (inside - card * segments).float() / segments
    step = torch.full_like(low, 1 / segments)
    across = torch.where(upper, 1.0, -1.0), torch.where(upper, 0.0, 2.0), torch.where(upper, -2.0, 0.0)
    along = low, torch.where(upper, step, 0.0), step
    seed = g.cards.seed.reshape(-1).index_select(0, cards.picture * g.cards.seed.shape[1] + card)
    return raster.Strands(across, along, seed, hair_shade.opaque)


def _draw(identity, attributes, size):
    g = build(identity.float(), attributes.float(), size)
    n = len(identity)
    p = visible(g, size)
    lit = shade.light(g.exact, g.a)
    colours = tonemap(shade.colours(g, p, lit, min(2.0, size / 256)))
    back = torch.full((3, n, size * size), 0.3)
    image = surface.average(p, colours, tonemap(back))
    return image * 2 - 1, image[:, :1], torch.zeros(n, 5, 2)


def tonemap(colour: Tensor) -> Tensor:
    """Linear light to picture values in [0, 1]: a filmic curve (Narkowicz 2015), then a gamma of about 2.2 from roots."""
    x = colour.clamp(min=0) * 0.8
    x = (x * (2.51 * x + 0.03)) / (x * (2.43 * x + 0.59) + 0.14)
    two = x.clamp(0, 1).sqrt()
    four = two.sqrt()
    return (0.585122381 * two + 0.783140355 * four - 0.368262736 * four.sqrt()).clamp(0, 1)
