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

from .masks import smooth, vertex_masks
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
    """Static arrays of the head's V vertices on one device.

    rest: (V, 3) dm, the neutral mean head; rest_rows: (3, V) the same. base (3 * (V + 2),), shapes and actions
    (3 * (V + 2), K) of SHAPES and ACTIONS: whole numbers of thousandths, float64, x before y before z; the last two
    points are the centres of the left and the right eye. faces: (F, 3) of a part. smooth_faces: (F, 3) of body, teeth
    and tongue; fan: (V, 8) their numbers around a vertex, padded by that of a face without area.

    visibility: (V, 25) whole numbers of 2 ** -VISIBILITY_BITS. occlusion, angle, turning: (V,) open share of the sky,
    angle around the head, and how much a vertex turns with the head, 0 to 1. masks: (len(MASKS), V). inner_face: (V,)
    above 0 on the inner face. is_body: (V,) 1 or 0. eye_centres: (2, 3) dm.

    Numbers of vertices: mouth_ends and corners, left and right of the person; nose, its tip; eye_edge, the front of the
    left and right eyeball; lashes, and lash_root, the vertex of the skin beside each; inner: those of teeth and tongue.
    """

    rest: Tensor
    rest_rows: Tensor
    base: Tensor
    shapes: Tensor
    actions: Tensor
    faces: dict[int, Tensor]
    smooth_faces: Tensor
    fan: Tensor
    visibility: Tensor
    occlusion: Tensor
    angle: Tensor
    turning: Tensor
    masks: Tensor
    inner_face: Tensor
    is_body: Tensor
    eye_centres: Tensor
    mouth_ends: tuple[int, int]
    corners: tuple[int, int]
    nose: int
    eye_edge: tuple[int, int]
    lashes: Tensor
    lash_root: Tensor
    inner: dict[int, Tensor]


@lru_cache
def tables(device: torch.device) -> Tables:
    """The tables on `device`. Raises ValueError where the data file lacks a shape."""
    with np.load(FILE) as file:
        data = dict(file)  # reads each array once
    rest, parts = data["vertices"], data["parts"]
    faces = {part: data["faces"][parts == part].astype(np.int64) for part in (BODY, EYE, TEETH, TONGUE, LASH)}
    faces[LASH] = _upper(rest, faces[LASH])
    smooth_faces = np.concatenate([faces[part] for part in (BODY, TEETH, TONGUE)])
    body, balls, lashes = (np.unique(faces[part]) for part in (BODY, EYE, LASH))
    eyes = [balls[side * rest[balls, 0] > 0] for side in (1, -1)]
    base = _with_centres(np.round(rest.astype(np.float64) * THOUSANDTHS), eyes)
    shapes = [_with_centres(shape, eyes) for shape in _driven(_moves(data)).values()]
    shapes = np.stack(shapes, -1).transpose(1, 0, 2).reshape(-1, len(shapes))

    def put(array, dtype=torch.float32) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(array), dtype=dtype, device=device)

    def nearest(*points) -> list[int]:
        """The vertices of the body that are the nearest to points (3,)."""
        return [int(body[np.square(rest[body] - np.array(point)).sum(1).argmin()]) for point in points]

    return Tables(
        rest=put(rest), rest_rows=put(rest.T),
        base=put(base.T.reshape(-1), torch.float64),
        shapes=put(shapes[:, : len(SHAPES)], torch.float64), actions=put(shapes[:, len(SHAPES) :], torch.float64),
        faces={part: put(faces[part], torch.int64) for part in (BODY, TEETH, TONGUE, LASH)},
        smooth_faces=put(smooth_faces, torch.int64), fan=put(_fans(smooth_faces, len(rest)), torch.int64),
        visibility=put(np.round(data["visibility"].astype(np.float64) * 2**VISIBILITY_BITS), torch.float64),
        occlusion=put(data["occlusion"]),
        angle=put(np.arctan2(rest[:, 0], rest[:, 2] + 0.15)),
        turning=put(_turning(rest, body)),
        masks=vertex_masks(torch.from_numpy(rest)).T.contiguous().to(device),
        inner_face=put(_inner_face(rest)),
        is_body=put(np.isin(np.arange(len(rest)), body)),
        eye_centres=put(base[-2:] / THOUSANDTHS),
        mouth_ends=tuple(nearest(*MOUTH_ENDS)), corners=tuple(nearest(*MOUTH_CORNERS)), nose=nearest(NOSE_TIP)[0],
        eye_edge=tuple(int(e[rest[e, 2].argmax()]) for e in eyes),
        lashes=put(lashes, torch.int64), lash_root=put(nearest(*rest[lashes]), torch.int64),
        inner={part: put(np.unique(faces[part]), torch.int64) for part in (TEETH, TONGUE)},
    )  # fmt: skip


def _moves(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How each shape of the data file moves the vertices, (V, 3) thousandths, by its name."""
    names, counts = data["shape_names"].tolist(), data["shape_counts"]
    moves = np.zeros((len(names), len(data["vertices"]), 3))
    for shape, count, end in zip(moves, counts, np.cumsum(counts), strict=True):
        shape[data["shape_vertices"][end - count : end]] = data["shape_thousandths"][end - count : end]
    return dict(zip(names, moves, strict=True))


def _with_centres(points: np.ndarray, eyes: list[np.ndarray]) -> np.ndarray:
    """Points or moves (V, 3) and the means of those of both eyes, (V + 2, 3), whole numbers."""
    return np.round(np.concatenate([points, *(points[eye].mean(0, keepdims=True) for eye in eyes)]))


def _upper(rest: np.ndarray, lashes: np.ndarray) -> np.ndarray:
    """The faces of the upper lashes: the lower ones would look like a thick line."""
    return lashes[rest[lashes].mean(1)[:, 1] > 7.281]


def _turning(rest: np.ndarray, body: np.ndarray) -> np.ndarray:
    """How much each vertex turns with the head, (V,): the shoulders stay, and the neck turns by and by."""
    turning = smooth(5.35, 6.35, rest[:, 1] + 0.45 * (rest[:, 2] - 0.3))
    turning[np.setdiff1d(np.arange(len(rest)), body)] = 1
    return turning


def _inner_face(rest: np.ndarray) -> np.ndarray:
    """(V,) above 0 from above the brows to the chin, and in the mouth; ears and sides of the head are behind it."""
    x, y, z = rest.T
    inner = np.minimum(1 - np.abs(x / 0.64) ** 2.5 - np.abs((y - 6.93) / 0.655) ** 2.5, (z - 0.62) * 2)
    cavity = (np.abs(x) < 0.3) & (y > 6.35) & (y < 6.8) & (z > 0.2)  # of the mouth, not the nape
    return np.where(cavity, np.abs(inner), inner)


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
    """Heads before they turn: rest and face (3, V, n) x, y, z of the neutral and of the acting face; of the left and
    right eye the centres, eyes (2, 3, 1, n), and radius (2, 1, n)."""

    rest: Tensor
    face: Tensor
    eyes: Tensor
    radius: Tensor


def blend(t: Tables, person: Person, attributes: dict[str, Tensor]) -> Blended:
    """Heads of n persons with the expression of attributes, name -> (n, 1) float64."""
    rest = t.base[:, None] + _sum(t.shapes, shape_weights(person))
    face = rest + _sum(t.actions, action_weights(attributes))
    count = len(t.rest)
    rest, face = ((v / THOUSANDTHS).float().view(3, count + 2, -1) for v in (rest, face))
    out = torch.stack([rest[:, k] for k in t.eye_edge], 1) - rest[:, count:]
    out = out * out
    eyes = rest[:, count:].transpose(0, 1)[:, :, None]
    return Blended(rest[:, :count], face[:, :count], eyes, (out[0] + out[1] + out[2]).sqrt()[:, None])


def _sum(shapes: Tensor, weights: Tensor) -> Tensor:
    """Shapes (3 * (V + 2), K) times their weights (n, K): (3 * (V + 2), n) float64, in thousandths. Both factors are
    whole numbers, so the sum is exact in any order."""
    return shapes @ (weights * 2.0**WEIGHT_BITS).round().T / 2.0**WEIGHT_BITS


def normals(t: Tables, points: Tensor) -> Tensor:
    """Unit normals of the vertices (3, V, n), weighted by the area of the faces around them."""
    a, b, c = (points.index_select(1, k) for k in t.smooth_faces.unbind(1))
    (ux, uy, uz), (vx, vy, vz) = b - a, c - a
    faces = torch.stack([uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx])
    faces = torch.cat([faces, torch.zeros_like(faces[:, :1])], 1)
    total = faces.index_select(1, t.fan[:, 0])
    for k in range(1, t.fan.shape[1]):
        total += faces.index_select(1, t.fan[:, k])
    return unit(total)


def unit(v: Tensor) -> Tensor:
    """The vectors (3, ...) at unit length."""
    x, y, z = v * v
    return v / (x + y + z).clamp(min=1e-20).sqrt()


def visibility(t: Tables, direction: Tensor) -> Tensor:
    """The visible share of the light from `direction` (3, n) float64, unit, in the head's frame: (V, n) float32.

    Of 400 directions, baked into 25 spherical harmonics per vertex on the neutral mean head.
    """
    wave = torch.stack(harmonics(*direction))  # (25, n)
    wave = (wave * 2.0**HARMONIC_BITS).round()
    return ((t.visibility @ wave) / 2.0 ** (VISIBILITY_BITS + HARMONIC_BITS)).float().clamp(0, 1)


def harmonics(x, y, z) -> list:
    """The first 25 spherical harmonics, unnormalised, of unit vectors: arrays or tensors of one shape.

    The visibility of head.npz is baked with them.
    """
    xx, yy, xy, yz, xz = x * x, y * y, x * y, y * z, x * z
    thrice_xx, across, five_zz, seven_zz = 3 * x * x, xx - yy, 5 * z * z, 7 * z * z
    odd, even, high, higher = thrice_xx - yy, xx - 3 * y * y, seven_zz - 1, seven_zz - 3
    return [
        0 * x + 1, y, z, x,
        xy, yz, 3 * z * z - 1, xz, across,
        y * odd, xy * z, y * (five_zz - 1), z * (five_zz - 3), x * (five_zz - 1), z * across, x * even,
        xy * across, yz * odd, xy * high, yz * higher, 35 * z * z * z * z - 30 * z * z + 3, xz * higher, across * high,
        xz * even, xx * x * x - 6 * x * x * y * y + yy * y * y,
    ]  # fmt: skip
