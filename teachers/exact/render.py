"""Renders the numbers of a face: picture, masks and landmarks, and on request dense truth; at any size, on CPU or GPU.

The numbers become surfaces (geometry.py), these become triangles in the picture (raster.py), the nearest triangles
become points (surface.py), and these are coloured (shade.py). The same numbers give the same bytes on one device and
version of torch, whatever the batch: all arithmetic on points is exactly rounded.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from . import hair_shade, held, outputs, raster, scene, shade, surface
from .curves import constant
from .face import ATTRIBUTES, IDENTITY
from .geometry import HAIR, LASH, LENS, Geometry, build
from .noise import noise

VERSION = 2  # of the pictures: increase it when any pixel changes, and train the networks of the benchmark again
CHUNK_PIXELS, CHUNK_PIXELS_GPU = 160_000, 5_000_000  # drawn at once; the arrays of a chunk fit in a CPU's cache
OPAQUE = 0.999  # share of an object from which on it hides a pixel
SMALLEST, LARGEST = 16, 1024
OUTPUTS = ("depth", "normals", "correspondence", "segmentation")


class Rendered(NamedTuple):
    """image: (n, 3, S, S) float32 RGB in [-1, 1]. mask: (n, 1, S, S), 1 on the visible inner face from brows to chin,
    with eyes and mouth, also behind dark lenses, else 0. occluder: (n, 1, S, S), 1 on opaque pixels of an object held
    before the face, else 0. landmarks: (n, 5, 2) pixels x, y of left and right eye, nose tip, left and right mouth
    corner in the picture.

    On request, else None, each of the point that a pixel's upper left quarter sees: depth (n, 1, S, S) dm from the
    camera along its axis, inf where nothing is; normals (n, 3, S, S) of the head, unit, right, up and to the camera, 0
    elsewhere; correspondence (n, 3, S, S) dm on the neutral mean head, NaN elsewhere; segmentation (n, 1, S, S) uint8,
    see SEGMENTS. The object held before the face hides nothing of depth, normals and correspondence.
    """

    image: Tensor
    mask: Tensor
    occluder: Tensor
    landmarks: Tensor
    depth: Tensor | None = None
    normals: Tensor | None = None
    correspondence: Tensor | None = None
    segmentation: Tensor | None = None


@torch.no_grad()
def render(identity: Tensor, attributes: Tensor, size: int = 256, extra: Collection[str] = ()) -> Rendered:
    """Render n faces from identity (n, K) and attributes (n, A) at size x size, on the device of the numbers.

    extra: names of OUTPUTS to add. Raises ValueError on other shapes, on NaN, on a size outside 16 to 1024, and on
    other names.
    """
    _check(identity, attributes, size)
    if unknown := set(extra) - set(OUTPUTS):
        raise ValueError(f"extra: unknown {', '.join(sorted(unknown))}; known: {', '.join(OUTPUTS)}")
    parts = [_draw(i, a, size, extra) for i, a in _chunks(identity, attributes, size)]
    return Rendered(*(torch.cat(c) if c[0] is not None else None for c in zip(*parts, strict=True)))


@torch.no_grad()
def flow(identity: Tensor, attributes: Tensor, other: Tensor, size: int = 256) -> tuple[Tensor, Tensor]:
    """Optical flow of the head from the pictures with `attributes` to those with `other` (n, A), of the same persons.

    Returns motion (n, 2, S, S) in pixels, right and down, 0 where the first picture shows no head; and (n, 1, S, S)
    bool, where the second picture shows the same point. Both are of the point that a pixel's upper left quarter sees.
    Hair and glasses do not flow, but hide. Objects held before the face and lenses hide nothing here. Raises ValueError
    as render() does.
    """
    _check(identity, attributes, size)
    _check(identity, other, size)
    parts = []
    for i, a, b in _chunks(identity, attributes, size, other):
        first, second = build(i, a, size), build(i, b, size)
        parts.append(outputs.flow(first, second, visible(first, size)[0], visible(second, size)[0]))
    motion, seen = zip(*parts, strict=True)
    return torch.cat(motion), torch.cat(seen)


def occluder_mask(attributes: Tensor, size: int) -> Tensor:
    """The opaque pixels of objects held in front of the face, (n, 1, size, size) bool, of attributes (n, A).

    Glasses do not count: their lenses show the face. Raises ValueError on attributes of another shape.
    """
    _check_numbers("attributes", attributes, ATTRIBUTES)
    return _held(_named(attributes.float()), size)[1] > OPAQUE


def held_objects(attributes: Tensor, size: int) -> Tensor:
    """The objects of `occluder_mask` alone, (n, 4, size, size) in [0, 1]: red, green and blue as render() shows them,
    and the share of the pixel that they cover. Raises ValueError on attributes of another shape."""
    _check_numbers("attributes", attributes, ATTRIBUTES)
    colour, share = _held(_named(attributes.float()), size)
    return torch.cat([tonemap(colour), share], dim=1)


def _check_numbers(name: str, numbers: Tensor, names: tuple[str, ...]) -> None:
    if numbers.ndim != 2 or numbers.shape[1] != len(names):
        raise ValueError(f"{name}: expected (n, {len(names)}), got {tuple(numbers.shape)}")
    if not torch.isfinite(numbers).all():
        raise ValueError(f"{name}: holds numbers that are not finite")


def _check(identity: Tensor, attributes: Tensor, size: int) -> None:
    _check_numbers("identity", identity, IDENTITY)
    _check_numbers("attributes", attributes, ATTRIBUTES)
    if not len(identity):
        raise ValueError("identity: no rows, expected at least one person")
    if len(identity) != len(attributes):
        raise ValueError(f"{len(identity)} identities for {len(attributes)} sets of attributes")
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"size: expected {SMALLEST} to {LARGEST} pixels, got {size}")


def _chunks(identity: Tensor, attributes: Tensor, size: int, *more: Tensor):
    """The rows in parts that are drawn at once, as few and as even as they can be."""
    most = max(1, (CHUNK_PIXELS_GPU if identity.is_cuda else CHUNK_PIXELS) // size**2)
    step = math.ceil(len(identity) / math.ceil(len(identity) / most))
    return zip(*(v.float().split(step) for v in (identity, attributes, *more)), strict=True)


def _named(attributes: Tensor) -> dict[str, Tensor]:
    return {name: attributes[:, i : i + 1] for i, name in enumerate(ATTRIBUTES)}


def _draw(identity: Tensor, attributes: Tensor, size: int, extra: Collection[str]) -> tuple[Tensor | None, ...]:
    g = build(identity, attributes, size)
    p, lenses = visible(g, size)
    lit = shade.light(g.exact, g.a)
    colours = shade.colours(g, p, lit, min(2.0, size / 256))
    picture = surface.average(p, tonemap(colours), tonemap(scene.background(g.a, size)))
    if lenses is not None:
        colour, share = shade.lenses(g, lenses, lit)
        nothing = torch.zeros(1, p.n, size * size, device=picture.device)
        veil = surface.average(lenses, share, nothing)
        picture = picture * (1 - veil) + surface.average(lenses, tonemap(colour) * share, nothing.expand(3, -1, -1))
    share = surface.share_of(p, outputs.inner_face(g, p))
    colour, before = _held(g.a, size)
    picture = _sensor(picture + (tonemap(colour) - picture) * before, g.a)
    mask = ((share > 0.5) & (before < 0.5)).float()
    before = before > OPAQUE
    dense = {"depth": outputs.depth, "normals": outputs.normals, "correspondence": outputs.correspondence}
    wanted = [make(g, p) if name in extra else None for name, make in dense.items()]
    labels = outputs.segmentation(g, p, before) if "segmentation" in extra else None
    return picture * 2 - 1, mask, before.float(), outputs.landmarks(g), *wanted, labels


def _held(a: dict[str, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """Linear colour (n, 3, size, size) and share (n, 1, size, size) of the objects held before the faces."""
    colour, share = held.occluder(size, a)
    return colour.transpose(0, 1), share[:, None]


def visible(g: Geometry, size: int) -> tuple[surface.Points, surface.Points | None]:
    """The nearest triangle of every sample, as points to be coloured; and those of lenses before them, if there are
    any."""
    side, n, device = 2 * size, g.x.shape[1], g.x.device
    buffer = torch.full((n * side * side,), raster.EMPTY, dtype=torch.int64, device=device)
    faces, material = g.solid
    solid = raster.setup(g.x, g.y, g.depth, faces, material, material >= LASH, g.solid_active, side)
    raster.draw(solid, side, buffer)
    kind = torch.full((len(g.strand_faces),), HAIR, dtype=torch.int8, device=device)
    cards = raster.setup(g.x, g.y, g.depth, g.strand_faces, kind, kind == HAIR, g.strand_active, side)
    raster.draw(cards, side, buffer, len(solid.picture), _strands(g, cards))
    points = surface.points(raster.join(solid, cards), buffer, n, size)
    if g.lens_faces is None:
        return points, None
    kind = torch.full((len(g.lens_faces),), LENS, dtype=torch.int8, device=device)
    lenses = raster.setup(g.x, g.y, g.depth, g.lens_faces, kind, kind == LENS, g.lens_active, side)
    front = torch.full_like(buffer, raster.EMPTY)
    raster.draw(lenses, side, front)
    front = torch.where(raster.depth_of(front) < raster.depth_of(buffer), front, raster.EMPTY)
    return points, surface.points(lenses, front, n, size)


def _strands(g: Geometry, cards: raster.Triangles) -> raster.Strands:
    """The corners (across, along) of the lower half of a card's segment are (-1, t), (1, t) and (-1, t + 1), those of
    the upper half (1, t), (1, t + 1) and (-1, t + 1)."""
    segments = g.cards.used.shape[2]
    half = len(g.strand_faces) // 2
    upper = cards.face >= half
    inside = torch.where(upper, cards.face - half, cards.face)
    card = torch.div(inside, segments, rounding_mode="floor")
    low = (inside - card * segments).float() / segments
    step = torch.full_like(low, 1 / segments)
    at = (-1.0, 2.0, 0.0), (1.0, 0.0, -2.0)
    across = torch.where(upper, *(constant(v, low.device, 1) for v in at[::-1]))
    along = torch.stack([low, torch.where(upper, step, 0.0), step])
    seed = g.cards.seed.reshape(-1).index_select(0, cards.picture * g.cards.seed.shape[1] + card)
    return raster.Strands(across, along, seed, hair_shade.opaque)


def tonemap(colour: Tensor) -> Tensor:
    """Linear light to picture values in [0, 1]: a filmic curve (Narkowicz 2015), then a gamma of about 2.2 from
    roots."""
    x = colour.clamp(min=0) * 0.8
    x = (x * (2.51 * x + 0.03)) / (x * (2.43 * x + 0.59) + 0.14)
    two = x.clamp(0, 1).sqrt()
    four = two.sqrt()
    return (0.585122381 * two + 0.783140355 * four - 0.368262736 * four.sqrt()).clamp(0, 1)


def _sensor(picture: Tensor, a: dict[str, Tensor]) -> Tensor:
    """Slight blur and noise of a camera, where the attributes ask for them. blur 1: a 3 x 3 binomial; noise 1: a
    deviation of 0.025 to 0.04, as the places of its grain fall between those that are stored."""
    if a["blur"].any():
        blurred = _three(_three(picture, 2), 3)
        picture = picture + (blurred - picture) * a["blur"][..., None, None]
    if a["noise"].any():
        size = picture.shape[-1]
        axis = torch.arange(size, device=picture.device) / 256
        phase = a["noise_phase"][..., None] * 16
        y, x = (v.reshape(-1) for v in torch.meshgrid(axis, axis, indexing="ij"))
        x, y = (
            x + phase + constant((0.0, 0.37, 0.74), x.device, 1),
            y + phase * 3 + constant((0.0, 0.61, 1.22), x.device, 1),
        )
        grain = noise(x, y, "grain").view(picture.shape)
        picture = picture + grain * (0.04 * a["noise"])[..., None, None]
    return picture.clamp(0, 1)


def _three(picture: Tensor, axis: int) -> Tensor:
    """Weights 1, 2, 1 along an axis; edges are repeated."""
    size = picture.shape[axis]
    index = torch.arange(size, device=picture.device)
    before, after = (
        picture.index_select(axis, (index - 1).clamp(min=0)),
        picture.index_select(axis, (index + 1).clamp(max=size - 1)),
    )
    return (before + after) * 0.25 + picture * 0.5
