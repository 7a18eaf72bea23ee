"""Glasses as geometry: rims, bridge, temples and lenses, fitted to a head.

They are attributes: the same glasses sit on every face, scaled by the distance of its eyes. Lengths are decimetres;
x to the person's left, y up, z to the front. A vertex is a point on a path plus an offset from a fixed table, so only
exact arithmetic is needed (see curves.py).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .curves import bump, hue, hues, mix, smooth, smooths

AROUND, SECTION, BRIDGE, TEMPLE = 32, 8, 7, 12  # points: of a rim, around a tube, of the bridge, of a temple
EYES_APART = 0.616  # dm, of the mean face; everything scales with it
TILT, WRAP = 0.12, 0.26  # how much the top leans forward, and the sides back: z = TILT * y - WRAP * x * x
SUNGLASSES = 0.9  # glasses_dark from here on
Path = tuple[Tensor, Tensor, Tensor]  # x, y, z of points
Surface = tuple[Tensor, Tensor]  # points and unit normals (n, points, 3)


class Fit(NamedTuple):
    """Vertices of the head that glasses must stay outside: bridge (k,) of the nose, face (k,) around the eyes, temples
    (2, TEMPLE, k) left and right beside each point of a temple, padded by repetition; ears (2,) where they rest."""

    bridge: Tensor
    face: Tensor
    temples: Tensor
    ears: Tensor


class Seat(NamedTuple):
    """Where glasses sit, and their size. x (n, 2, 1), y (n, 1, 1): middles of the lenses; plane: z of their plane
    between the eyes; scale: over those of the mean face; thick: see thickness(); wide, deep: half sides of a rim's
    section, in the plane and across; all (n, 1, 1). side (1, 2, 1): 1 of the left, -1 of the right."""

    x: Tensor
    y: Tensor
    plane: Tensor
    scale: Tensor
    thick: Tensor
    wide: Tensor
    deep: Tensor
    side: Tensor

    def on_plane(self, x: Tensor, y: Tensor) -> Tensor:
        """z of the plane of the lenses, which leans forward and bends back at the sides."""
        return self.plane + TILT * (y - self.y) - WRAP * x * x


class Glasses(NamedTuple):
    """points (n, G, 3) and unit normals (n, G, 3). FRAME_FACES and LENS_FACES name them; HEIGHT (G,) is of lenses."""

    points: Tensor
    normals: Tensor


def fit(rest: Tensor) -> Fit:
    """The vertices to fit glasses to, from the rest head (V, 3). Vertices that are not of the body may be among them,
    but for eyes: give only the body's, or put the others at the origin."""
    p = rest.detach().cpu().double().numpy()
    x, y, z = np.abs(p[:, 0]), p[:, 1], p[:, 2]
    bridge = np.flatnonzero((x < 0.09) & (np.abs(y - 7.26) < 0.06) & (z > 1.3))
    around = (np.hypot(x - 0.31, y - 7.27) < 0.30) & (z > 1.0) & ((x > 0.15) | (y > 7.2))
    temples = []
    for side in (1, -1):
        for k in range(TEMPLE):
            beside = (side * p[:, 0] > 0.3) & (np.abs(y - 7.34) < 0.09) & (np.abs(z - _temple_z(k)) < 0.12)
            beside &= (x < 0.74) | (z > 0.62)  # the ears stand outside
            temples.append(np.flatnonzero(beside))
    most = max(len(t) for t in temples)
    padded = np.stack([np.resize(t, most) for t in temples]).reshape(2, TEMPLE, most)
    ears = [np.square(p - [side * 0.78, 7.30, 0.30]).sum(1).argmin() for side in (1, -1)]
    arrays = (bridge, np.flatnonzero(around), padded, np.array(ears))
    return Fit(*(torch.from_numpy(a.astype(np.int64)).to(rest.device) for a in arrays))


def _temple_z(k: int) -> float:
    """Where the k-th point of a temple is on the mean head."""
    return 1.30 + (0.26 - 1.30) * max(0, k - 1) / (TEMPLE - 2)


def _outlines() -> tuple[Tensor, Tensor]:
    """Outlines (4, AROUND, 2) of the left lens, x outwards, and their normals: round, panto, rectangular, square."""
    turn = np.arange(AROUND) / AROUND * 2 * np.pi
    c, s = np.cos(turn), np.sin(turn)

    def super_(wide: float, high: float, power: float) -> np.ndarray:
        return np.stack([wide * np.sign(c) * np.abs(c) ** (2 / power), high * np.sign(s) * np.abs(s) ** (2 / power)], 1)

    round_ = super_(0.220, 0.212, 2.0)
    panto = super_(0.238, 0.205, 2.5) * np.stack([1 + 0.07 * s, np.ones(AROUND)], 1)
    rectangular = super_(0.258, 0.155, 4.2)
    square = super_(0.262, 0.198, 3.4) * np.stack([1 + 0.06 * s, np.ones(AROUND)], 1)
    square[:, 1] += 0.02 * np.clip(c, 0, 1) * np.clip(s, 0, 1) * 2
    shapes = np.stack([round_, panto, square, rectangular])
    along = np.roll(shapes, -1, 1) - np.roll(shapes, 1, 1)
    normals = np.stack([along[..., 1], -along[..., 0]], -1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return torch.from_numpy(shapes).float(), torch.from_numpy(normals).float()


def _section() -> Tensor:
    """A tube's section (SECTION, 2), a square with round corners of half side 1."""
    turn = (np.arange(SECTION) + 0.5) / SECTION * 2 * np.pi
    c, s = np.cos(turn), np.sin(turn)
    return torch.from_numpy(np.stack([np.sign(c) * np.abs(c) ** 0.7, np.sign(s) * np.abs(s) ** 0.7], 1)).float()


def _tube(first: int, count: int, closed: bool, flip: bool) -> list[list[int]]:
    """Triangles of a tube of `count` rings of SECTION vertices, of which the first is `first`."""
    faces = []
    for i in range(count if closed else count - 1):
        for k in range(SECTION):
            a, b = first + i * SECTION + k, first + i * SECTION + (k + 1) % SECTION
            c, d = (first + ((i + 1) % count) * SECTION + j % SECTION for j in (k, k + 1))
            faces += [[a, c, d], [a, d, b]] if flip else [[a, d, c], [a, b, d]]
    return faces


def _faces() -> tuple[Tensor, Tensor]:
    """Triangles of frame and lenses, counter-clockwise from outside, over: left and right rim, bridge, left and right
    temple, left and right lens (its centre, then its edge)."""
    rim, bridge, temple = AROUND * SECTION, BRIDGE * SECTION, TEMPLE * SECTION
    frame = _tube(0, AROUND, True, True) + _tube(rim, AROUND, True, False) + _tube(2 * rim, BRIDGE, False, False)
    start = 2 * rim + bridge
    frame += _tube(start, TEMPLE, False, True) + _tube(start + temple, TEMPLE, False, False)
    lenses = []
    for k in range(2):
        centre = start + 2 * temple + k * (AROUND + 1)
        for i in range(AROUND):
            a, b = centre + 1 + i, centre + 1 + (i + 1) % AROUND
            lenses.append([centre, a, b] if k == 0 else [centre, b, a])
    return torch.tensor(frame), torch.tensor(lenses)


OUTLINES, OUTLINE_NORMALS = _outlines()
SECTIONS = _section()
FRAME_FACES, LENS_FACES = _faces()
INNER = OUTLINES[:, AROUND // 2, 0].abs().min().item()  # half the width of the narrowest lens, towards the nose
COUNT = 2 * AROUND * SECTION + BRIDGE * SECTION + 2 * TEMPLE * SECTION + 2 * (AROUND + 1)
HEIGHT = torch.cat([
    torch.zeros(COUNT - 2 * (AROUND + 1)),
    torch.cat([torch.zeros(1), torch.sin(torch.arange(AROUND) / AROUND * 2 * math.pi)]).repeat(2),
])  # fmt: skip
"""Of lenses: -1 at the lower edge, 1 at the upper edge."""


def thickness(a: dict[str, Tensor]) -> Tensor:
    """0 of wire, 1 of thick acetate, (n, 1)."""
    wave = a["glasses_shape"] * 3.7 + 0.3
    return smooth(0.38, 0.62, 0.55 * ((wave - wave.floor()) * 2 - 1).abs() + 0.45 * a["glasses_dark"])


def glasses(vertices: Tensor, eyes: Tensor, a: dict[str, Tensor], where: Fit) -> Glasses:
    """Glasses on heads of vertices (n, V, 3) and centres of the left and right eye (n, 2, 3), before the head turns.

    Give the vertices without expression, so that glasses do not move with the brows. Used of a: glasses_shape, _dark.
    """
    seat = _seat(vertices, eyes, a, where)
    outline, outward = _shape(a["glasses_shape"])
    rim = _rim(seat, outline)
    parts = [
        _rim_tubes(seat, rim, outward),
        _bridge(seat, vertices, where),
        _temples(seat, rim[0][..., :1], vertices, where),
        *_lenses(seat, rim, outline),
    ]
    points, normals = zip(*parts, strict=True)
    return Glasses(torch.cat(points, 1), torch.cat(normals, 1))


def _seat(vertices: Tensor, eyes: Tensor, a: dict[str, Tensor], where: Fit) -> Seat:
    """The plane of the lenses stands before the face around the eyes, and far enough before the eyes."""
    ex, ey, ez = eyes.unbind(2)  # (n, 2)
    scale = ((ex[:, :1] - ex[:, 1:]) / EYES_APART)[..., None]
    x = ex[..., None] * 1.02
    y = ((ey[:, :1] + ey[:, 1:]) * 0.5 - 0.035)[..., None]
    thick = thickness(a)[..., None]
    wide, deep = (0.0090 + 0.0180 * thick) * scale, (0.0085 + 0.0135 * thick) * scale
    near = vertices.index_select(1, where.face)
    depth = near[..., 2] - TILT * (near[..., 1] - y[..., 0]) + WRAP * near[..., 0] * near[..., 0]
    plane = depth.amax(1)[:, None, None] + deep + 0.012
    plane = torch.maximum(plane, ez.amax(1)[:, None, None] + 0.245 * scale)
    side = torch.tensor([1.0, -1.0], device=eyes.device).view(1, 2, 1)
    return Seat(x, y, plane, scale, thick, wide, deep, side)


def _shape(shape: Tensor) -> tuple[Tensor, Tensor]:
    """Outline (n, AROUND, 2) of the left lens and its normals, between two of OUTLINES; shape: (n, 1) in [0, 1]."""
    place = shape * (len(OUTLINES) - 1)
    low = place.floor().clamp(max=len(OUTLINES) - 2)
    share = (place - low)[..., None]
    index = low[:, 0].long()
    outlines, normals = OUTLINES.to(shape.device), OUTLINE_NORMALS.to(shape.device)
    outline = outlines[index] * (1 - share) + outlines[index + 1] * share
    return outline, normals[index] * (1 - share) + normals[index + 1] * share


def _rim(seat: Seat, outline: Tensor) -> Path:
    """The middle lines of both rims, (n, 2, AROUND)."""
    x = seat.x + seat.side * outline[:, None, :, 0] * seat.scale
    y = (seat.y + outline[:, None, :, 1] * seat.scale).expand_as(x)
    return x, y, seat.on_plane(x, y)


def _rim_tubes(seat: Seat, rim: Path, outward: Tensor) -> Surface:
    nil, one = torch.zeros_like(rim[0]), torch.ones_like(rim[0])
    across = seat.side * outward[:, None, :, 0], outward[:, None, :, 1], nil
    return _tubes(rim, across, (nil, nil, one), seat.wide, seat.deep)


def _bridge(seat: Seat, vertices: Tensor, where: Fit) -> Surface:
    """An arch from rim to rim, before the nose."""
    t = torch.linspace(-1, 1, BRIDGE, device=vertices.device).view(1, 1, -1)
    arch = 1 - t * t
    x = (seat.x[:, :1] - INNER * 0.985 * seat.scale) * t
    y = seat.y + (0.065 + 0.028 * arch) * seat.scale
    z = seat.on_plane(x, y)
    nose = vertices.index_select(1, where.bridge)[..., 2].amax(1)[:, None, None] + seat.deep + 0.004
    z = torch.maximum(z, nose * arch + z * (1 - arch))
    nil, one = torch.zeros_like(x), torch.ones_like(x)
    return _tubes((x, y, z), (nil, one, nil), (nil, nil, one), seat.wide * 1.1, seat.deep)


def _temples(seat: Seat, hinge: Tensor, vertices: Tensor, where: Fit) -> Surface:
    """From the rim outwards, round the corner and straight back to the ear; hinge: x of the rims' ends, (n, 2, 1)."""
    steps = torch.arange(TEMPLE, device=vertices.device)
    back = ((steps - 1).clamp(min=0) / (TEMPLE - 2)).view(1, 1, -1)  # 0 at the corner, 1 at the ear
    first = (steps == 0).float().view(1, 1, -1)  # the point at the rim, before the corner
    ears = vertices.index_select(1, where.ears)  # (n, 2, 3)
    x = _outside(seat, hinge, ears[..., :1] * 0.93, back, vertices, where) * (1 - first) + hinge * first
    y = seat.y + 0.075 * seat.scale
    start = seat.on_plane(hinge, y)
    corner, end = start - 0.05 * seat.scale, ears[..., 2:] - 0.04
    z = (corner + (end - corner) * back) * (1 - first) + start * first
    y = y + 0.03 * (1 - back) * back  # a slight bow
    high = (0.010 + 0.026 * seat.thick) * (1.15 - 0.4 * back) * seat.scale
    flat = (0.0075 + 0.0075 * seat.thick) * seat.scale
    nil, one = torch.zeros_like(x), torch.ones_like(x)
    return _tubes((x, y, z), (seat.side * (1 - first), nil, first), (nil, one, nil), flat, high)


def _outside(seat: Seat, hinge: Tensor, end: Tensor, back: Tensor, vertices: Tensor, where: Fit) -> Tensor:
    """x of temples (n, 2, TEMPLE) on a line from the corner to the end, pushed outside the head."""
    corner = hinge + seat.side * (0.035 * seat.scale + seat.wide)
    line = corner + (end - corner) * back
    beside = vertices[..., 0].abs().index_select(1, where.temples.flatten())
    beside = beside.view(len(vertices), *where.temples.shape).amax(3) + 0.022
    return seat.side * torch.maximum(line.abs(), beside)


def _lenses(seat: Seat, rim: Path, outline: Tensor) -> list[Surface]:
    """The left and the right lens, (n, 1 + AROUND, 3): a flat fan about its middle that bulges by its normals only."""
    middle = seat.x, seat.y.expand_as(seat.x), seat.on_plane(seat.x, seat.y)
    points = torch.stack([torch.cat(both, 2) for both in zip(middle, rim, strict=True)], 3)
    bulge_x, bulge_y = (torch.cat([torch.zeros_like(outline[:, :1]), outline], 1) * 0.75).unbind(2)
    forward = torch.ones_like(bulge_x)
    return [
        (points[:, k], _unit(torch.stack([side * bulge_x, bulge_y + TILT * -0.5, forward], 2)))
        for k, side in enumerate((1, -1))
    ]


def _tubes(path: Path, across: Path, upright: Path, wide: Tensor, deep: Tensor) -> Surface:
    """Surfaces (n, tubes * rings * SECTION, 3) of tubes about paths (n, tubes, rings).

    across, upright: the axes of their sections at each ring; wide, deep: half sides along these. All of them broadcast.
    """
    su, sv = SECTIONS.to(path[0].device).unbind(1)
    every = torch.broadcast_tensors(*path, *across, *upright)
    p, a, u = (torch.stack(every[k : k + 3], -1)[..., None, :] for k in (0, 3, 6))
    su, sv, wide, deep = su[:, None], sv[:, None], wide[..., None, None], deep[..., None, None]
    points = p + a * (su * wide) + u * (sv * deep)
    return points.flatten(1, 3), _unit((a * su + u * sv).flatten(1, 3))


def _unit(v: Tensor) -> Tensor:
    x, y, z = v.unbind(2)
    return v / (x * x + y * y + z * z).clamp(min=1e-12).sqrt()[..., None]


def frame_colour(a: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Colour (3, n, 1) of the frame and how metallic it is, (n, 1): gold, silver or black wire, or acetate."""
    thick = thickness(a)
    pick = a["glasses_shape"] * 7.3
    pick = pick - pick.floor()
    dark = a["glasses_dark"]
    gold, silver = (hue(h, s, 0.79, like=pick) for h, s in ((0.11, 0.42), (0.60, 0.03)))
    coloured, faint = hues((pick * 0.9, 0.55, 0.42), (pick, 0.08, 0.13))
    black, grey = smooths((dark,), (0, 0.35, 0.65), (0, 0.35, 0.55))
    wire = mix(gold, silver, (pick > 0.5).float())
    wire = mix(wire, wire * 0.06, black)
    brown = hue(0.06, 0.65, 0.30, like=pick)
    acetate = mix(coloured, brown, (pick > 0.35).float())
    acetate = mix(acetate, faint, grey)
    return mix(wire, acetate, thick), (1 - thick) * (1 - 0.6 * black)


def lens(
    nx: Tensor, ny: Tensor, nz: Tensor, height: Tensor, light: Tensor, a: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Colour (3, n, P) of lenses and its share (n, P) over what is behind. nx, ny, nz: unit normals of the view (n, P);
    height: of HEIGHT, (n, P); light: (3, n, 1), towards the key light, of the view.

    A faint film, a soft window mirrored where the lens faces between the light and the viewer, and dark glass from
    glasses_dark of SUNGLASSES on.
    """
    dark = (a["glasses_dark"] > SUNGLASSES).float()
    mx, my = 2 * nz * nx, 2 * nz * ny  # the direction that the mirrored ray comes from
    dx, dy = mx - 0.75 * light[0], my - (0.20 + 0.5 * light[1])
    pane = smooth(0.20, 0.12, (dx - 0.3 * dy).abs()) * smooth(0.26, 0.14, dy.abs())
    bar = 1 - 0.8 * bump((dx - 0.3 * dy) * (dx - 0.3 * dy) * 2500)
    grazing = 1 - nz.abs()
    mirrored = pane * bar * (0.16 + 0.14 * dark) + (0.04 + 0.5 * grazing * grazing) * (1 + dark) * smooth(-0.4, 0.5, my)
    mirrored = mirrored.clamp(max=0.8)
    pick = a["glasses_shape"] * 5.1
    pick = pick - pick.floor()
    tint = hue(mix(0.07 + 0 * pick, 0.30 + 0.35 * pick, (pick > 0.4).float()), 0.45, 0.15) * dark
    tint = tint + hue(0.55, 0.06, 0.55, like=pick) * (1 - dark)
    film = dark * (0.93 - 0.22 * smooth(0.3, -0.9, height) * (pick > 0.3)) + (1 - dark) * 0.05
    share = (film + mirrored).clamp(max=0.97)
    sky = hue(0.58, 0.08, 1, like=pick) * (0.5 + 0.6 * a["light_strength"])
    return (tint * film + sky * mirrored) / (film + mirrored), share
