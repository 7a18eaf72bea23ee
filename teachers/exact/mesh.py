"""The head: static tables read from head.npz, and the blending of its shapes.

Lengths are decimetres; x points to the person's left (the right of the picture), y up, z to the front. Arrays over
vertices have the vertex first and the picture last, (V, n), so that gathering a vertex copies its numbers of all
pictures at once. Blending and the baked visibility are sums of whole numbers in double precision: they are exact, so a
person does not depend on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .masks import vertex_masks
from .person import ACTIONS, SHAPES, Person, action_weights, shape_weights

FILE = Path(__file__).with_name("head.npz")
BODY, EYE, TEETH, TONGUE, LASH = range(5)  # parts of the data file
THOUSANDTHS = 1000
WEIGHT_BITS, VISIBILITY_BITS, HARMONIC_BITS = 16, 12, 16  # such numbers are multiples of 2 ** -BITS
MOUTH_ENDS = ((0.252, 6.612, 1.36), (-0.252, 6.612, 1.36))  # inside the cheeks; the camera goes by them
MOUTH_CORNERS = ((0.253, 6.609, 1.42), (-0.253, 6.609, 1.42))  # where the lips meet on the skin
NOSE_TIP = (0.0, 6.91, 1.68)


@dataclass(frozen=True)
class Tables:
    """Static arrays of the head on one device. rest (V, 3); faces of each part (F, 3); shapes (3 * (V + 2), K) whole
    numbers of thousandths, of which the last two points are the centres of the eyes; fan (V, 8) faces around a vertex,
    padded by a face without area; visibility (V, 25) in 2 ** -12; occlusion, angle, turning (V,)."""

    rest: Tensor
    faces: dict[int, Tensor]
    smooth_faces: Tensor
    fan: Tensor
    shapes: Tensor
    actions: Tensor
    base: Tensor
    visibility: Tensor
    occlusion: Tensor
    angle: Tensor
    turning: Tensor
    mouth_ends: tuple[int, int]
    corners: tuple[int, int]
    nose: int
    eye_edge: tuple[int, int]
    lash_root: Tensor
    lashes: Tensor
    inner: dict[int, Tensor]
    is_body: Tensor
    masks: Tensor
    rest_rows: Tensor
    inner_face: Tensor
    eye_centres: Tensor


@lru_cache
def tables(device: torch.device) -> Tables:
    """The tables on `device`. Raises ValueError where the data file lacks a shape."""
    with np.load(FILE) as file:
        data = dict(file)  # reads each array once
    rest, faces, parts = data["vertices"], data["faces"].astype(np.int64), data["parts"]
    names = [str(name) for name in data["shape_names"]]
    dense = np.zeros((len(names), len(rest), 3))
    ends = np.cumsum(data["shape_counts"])
    for shape, count, end in zip(dense, data["shape_counts"], ends, strict=True):
        shape[data["shape_vertices"][end - count : end]] = data["shape_thousandths"][end - count : end]
    shapes = _driven(dict(zip(names, dense, strict=True)))

    balls = np.unique(faces[parts == EYE])
    eyes = [balls[side * rest[balls, 0] > 0] for side in (1, -1)]
    centres = [np.round(np.concatenate([s, *(s[e].mean(0, keepdims=True) for e in eyes)])) for s in shapes.values()]
    base = np.round(rest.astype(np.float64) * THOUSANDTHS)
    base = np.concatenate([base, *(np.round(base[e].mean(0, keepdims=True)) for e in eyes)])
    body = np.unique(faces[parts == BODY])

    def nearest(point) -> int:
        return int(body[np.square(rest[body] - np.array(point)).sum(1).argmin()])

    smooth = faces[np.isin(parts, (BODY, TEETH, TONGUE))]
    lash_faces = faces[parts == LASH]
    lash_faces = lash_faces[rest[lash_faces].mean(1)[:, 1] > 7.281]  # the lower ones would look like a thick line
    lashes = np.unique(lash_faces)
    root = body[np.square(rest[lashes][:, None] - rest[body][None]).sum(2).argmin(1)]
    turning = _smooth((rest[:, 1] + 0.45 * (rest[:, 2] - 0.3) - 5.35) / 1.0)
    turning[np.setdiff1d(np.arange(len(rest)), body)] = 1
    stack = np.stack(centres, -1).transpose(1, 0, 2).reshape(-1, len(shapes))  # (3 * (V + 2), K)

    def put(array, dtype=torch.float32) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), dtype=dtype, device=device)

    x, y, z = rest.T
    # Above 0 from above the brows to the chin; the ears and the sides of the head are behind it.
    inner = np.minimum(1 - np.abs(x / 0.64) ** 2.5 - np.abs((y - 6.93) / 0.655) ** 2.5, (z - 0.62) * 2)
    cavity = (np.abs(x) < 0.3) & (y > 6.35) & (y < 6.8) & (z > 0.2)  # of the mouth, not the nape
    inner = np.where(cavity, np.abs(inner), inner)

    return Tables(
        rest=put(rest),
        faces={part: put(faces[parts == part], torch.int64) for part in (BODY, TEETH, TONGUE)}
        | {LASH: put(lash_faces, torch.int64)},
        smooth_faces=put(smooth, torch.int64),
        fan=put(_fans(smooth, len(rest)), torch.int64),
        shapes=put(stack[:, : len(SHAPES)], torch.float64),
        actions=put(stack[:, len(SHAPES) :], torch.float64),
        base=put(base.T.reshape(-1), torch.float64),
        visibility=put(np.round(data["visibility"].astype(np.float64) * 2**VISIBILITY_BITS), torch.float64),
        occlusion=put(data["occlusion"]),
        angle=put(np.arctan2(rest[:, 0], rest[:, 2] + 0.15)),
        turning=put(turning),
        mouth_ends=tuple(nearest(p) for p in MOUTH_ENDS),
        corners=tuple(nearest(p) for p in MOUTH_CORNERS),
        nose=nearest(NOSE_TIP),
        eye_edge=tuple(int(e[rest[e, 2].argmax()]) for e in eyes),
        lash_root=put(root, torch.int64),
        lashes=put(lashes, torch.int64),
        inner={part: put(np.unique(faces[parts == part]), torch.int64) for part in (TEETH, TONGUE)},
        is_body=put(np.isin(np.arange(len(rest)), body)),
        rest_rows=put(rest.T),
        inner_face=put(inner),
        eye_centres=put(base[-2:] / THOUSANDTHS),
        masks=vertex_masks(torch.from_numpy(rest)).T.contiguous().to(device),
    )  # fmt: skip


def _smooth(t: np.ndarray) -> np.ndarray:
    t = t.clip(0, 1)
    return t * t * (3 - 2 * t)


def _driven(shapes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The shapes that the numbers of a face drive, by their names in person.py: both sides of a slider are one shape.

    Raises ValueError where the data file lacks one.
    """
    driven = {}
    for name in (*SHAPES, *(f"act:{action}" for action in ACTIONS)):
        kind, plain, *end = name.split(":")
        plain = plain if kind in ("macro", "race", "act") else plain.replace("_", "-")
        sides = {
            "loc": [f"loc:{side}{plain}:{end[0]}" for side in ("", "l-", "r-")] if end else [],
            "uns": [f"uns:{'-'.join((plain, *end))}"],
        }.get(kind, [f"{kind}:{plain}"])
        found = [shapes[side] for side in sides if side in shapes]
        if not found:
            raise ValueError(f"{FILE}: has no shape {name}; write it again by python -m teachers.exact.extract")
        driven[name] = sum(found)
    return driven


def _fans(faces: np.ndarray, count: int) -> np.ndarray:
    """The faces around each vertex, (count, most), padded by len(faces)."""
    order = np.argsort(faces.reshape(-1), kind="stable")
    vertex, face = faces.reshape(-1)[order], order // 3
    place = np.arange(len(vertex)) - np.searchsorted(vertex, vertex)
    fan = np.full((count, place.max() + 1), len(faces))
    fan[vertex, place] = face
    return fan


@dataclass
class Blended:
    """Heads before they turn: rest and face (V, n) x, y, z of the neutral and of the acting face; eyes, the centres of
    the left and right eye, 2 x (1, n) x, y, z; radius, 2 x (1, n)."""

    rest: tuple[Tensor, Tensor, Tensor]
    face: tuple[Tensor, Tensor, Tensor]
    eyes: tuple[tuple[Tensor, ...], ...]
    radius: tuple[Tensor, Tensor]


def blend(t: Tables, person: Person, attributes: dict[str, Tensor]) -> Blended:
    """Heads of n persons with the expression of attributes, name -> (n, 1) float64."""
    rest = t.base[:, None] + _sum(t.shapes, shape_weights(person))
    face = rest + _sum(t.actions, action_weights(attributes))
    count = len(t.rest)
    x, y, z = (rest / THOUSANDTHS).float().view(3, count + 2, -1).unbind(0)
    eyes = tuple((x[i : i + 1], y[i : i + 1], z[i : i + 1]) for i in (count, count + 1))
    radius = tuple(
        ((x[k] - e[0]) ** 2 + (y[k] - e[1]) ** 2 + (z[k] - e[2]) ** 2).sqrt()
        for k, e in zip(t.eye_edge, eyes, strict=True)
    )
    moved = (face / THOUSANDTHS).float().view(3, count + 2, -1)[:, :count]
    return Blended((x[:count], y[:count], z[:count]), tuple(moved.unbind(0)), eyes, radius)


def _sum(shapes: Tensor, weights: Tensor) -> Tensor:
    """Shapes (3 * (V + 2), K) times their weights (n, K): (3 * (V + 2), n) float64, in thousandths. Both factors are
    whole numbers, so the sum is exact in any order."""
    return shapes @ (weights * 2.0**WEIGHT_BITS).round().T / 2.0**WEIGHT_BITS


def normals(t: Tables, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit normals of the vertices, (V, n) each, weighted by the area of the faces around them."""
    a, b, c = t.smooth_faces.unbind(1)
    ux, uy, uz = (v.index_select(0, b) - v.index_select(0, a) for v in (x, y, z))
    vx, vy, vz = (v.index_select(0, c) - v.index_select(0, a) for v in (x, y, z))
    faces = (uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx)
    sums = []
    for component in faces:
        padded = torch.cat([component, torch.zeros_like(component[:1])])
        total = padded.index_select(0, t.fan[:, 0])
        for k in range(1, t.fan.shape[1]):
            total = total + padded.index_select(0, t.fan[:, k])
        sums.append(total)
    length = (sums[0] * sums[0] + sums[1] * sums[1] + sums[2] * sums[2]).clamp(min=1e-20).sqrt()
    return sums[0] / length, sums[1] / length, sums[2] / length


def visibility(t: Tables, direction: Tensor) -> Tensor:
    """The visible share of the light from `direction` (n, 3) float64, unit, in the head's frame: (V, n) float32.

    Of 400 directions, baked into 25 spherical harmonics per vertex on the neutral mean head.
    """
    wave = torch.stack(harmonics(*direction.unbind(1)))  # (25, n)
    wave = (wave * 2.0**HARMONIC_BITS).round()
    return ((t.visibility @ wave) / 2.0 ** (VISIBILITY_BITS + HARMONIC_BITS)).float().clamp(0, 1)


def harmonics(x, y, z) -> list:
    """The first 25 spherical harmonics, unnormalised, of unit vectors: arrays or tensors of one shape.

    The visibility of head.npz is baked with them.
    """
    return [
        0 * x + 1, y, z, x,
        x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y,
        y * (3 * x * x - y * y), x * y * z, y * (5 * z * z - 1), z * (5 * z * z - 3), x * (5 * z * z - 1),
        z * (x * x - y * y), x * (x * x - 3 * y * y),
        x * y * (x * x - y * y), y * z * (3 * x * x - y * y), x * y * (7 * z * z - 1), y * z * (7 * z * z - 3),
        35 * z * z * z * z - 30 * z * z + 3, x * z * (7 * z * z - 3), (x * x - y * y) * (7 * z * z - 1),
        x * z * (x * x - 3 * y * y), x * x * x * x - 6 * x * x * y * y + y * y * y * y,
    ]  # fmt: skip
