"""Where on the face things are: smooth fields over the rest mesh, made once per vertex and interpolated like normals.

Lengths are decimetres in the rest pose: y up, z to the front, the middle of the face at x = 0. The left and the right
are alike, so most fields look at |x|.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MASKS = (
    "lip",
    "mouth",
    "blush",
    "socket",
    "bag",
    "rim",
    "beard",
    "moustache",
    "fold",
    "gloss",
    "crease",
    "crease_u",
    "crease_v",
)
"""lip: distance inside the edge of the lips, dm, < 0 outside. mouth: 1 in the mouth's cavity. blush: where blood shows.
socket: round the eye. bag: the crescent below it. rim: the edge of the lids. beard, moustache: where they grow, soft.
fold: distance from the line nose - mouth corner - chin, dm, > 0 on the side of the cheek. gloss: how oily.
crease: depth of age lines; crease_u along them and crease_v across them address the noise, in tiles."""

EYE = (0.308, 7.284, 1.245)
_FOLDS = (
    (0.0, ((0.165, 6.98), (0.225, 6.89), (0.295, 6.77), (0.340, 6.66), (0.352, 6.60))),
    (0.022, ((0.285, 6.575), (0.305, 6.50), (0.325, 6.43))),
)
"""How far each line stays away from full depth, dm, and its corners (|x|, y): beside the nose, below the mouth."""


def _bell(u: np.ndarray) -> np.ndarray:
    return np.exp(-u)


def smooth(a: float, b: float, x: np.ndarray) -> np.ndarray:
    t = np.clip((x - a) / (b - a), 0, 1)
    return t * t * (3 - 2 * t)


def _lip(ax: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    reach = np.clip(ax / 0.262, 0, 1) ** 2
    seam = 6.612 - 0.32 * ax**2
    bow = -0.016 * _bell((ax / 0.03) ** 2) + 0.005 * _bell(((ax - 0.055) / 0.03) ** 2)
    upper = seam + (0.077 + bow) * (1 - reach)
    lower = seam - 0.110 * (1 - reach * (0.9 + 0.1 * reach))
    inside = np.minimum(np.minimum(upper - y, y - lower), (0.262 - ax) * 0.5)
    return np.where(z > 1.2, np.clip(inside, -0.1, 0.1), -0.1)


def _fold(ax: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Signed distance from the lines _FOLDS; pushed away near their ends and off the front."""
    best, sign = np.full_like(ax, 9.0), np.ones_like(ax)
    for offset, line in _FOLDS:
        for (x0, y0), (x1, y1) in zip(line[:-1], line[1:], strict=True):
            dx, dy = x1 - x0, y1 - y0
            t = np.clip(((ax - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
            px, py = ax - x0 - t * dx, y - y0 - t * dy
            far = np.hypot(px, py) + offset
            side = np.where(px * -dy + py * dx > 0, 1.0, -1.0)
            sign, best = np.where(far < best, side, sign), np.minimum(far, best)
    beyond = np.maximum(y - 6.93, 0) + 0.5 * np.maximum(6.47 - y, 0) + np.maximum(1.0 - z, 0)
    return np.clip(sign * (best + beyond), -0.2, 0.2)


def _beard(ax: np.ndarray, y: np.ndarray, z: np.ndarray, lip: np.ndarray) -> np.ndarray:
    """A line from the ear to the corner of the mouth bounds it above, the neck below."""
    line = np.interp(
        ax, [0.0, 0.16, 0.24, 0.30, 0.45, 0.58, 0.66, 0.72], [6.46, 6.48, 6.58, 6.63, 6.62, 6.72, 6.98, 7.40]
    )
    above = smooth(0.09, -0.07, y - line) * smooth(6.02, 6.30, y + 0.25 * (z - 1) - 0.12 * ax)
    side = smooth(0.36, 0.55, z) * (1 - smooth(0.67, 0.72, ax) * smooth(0.72, 0.60, z) * smooth(6.68, 6.76, y))
    patch = _bell((ax / 0.05) ** 2) * smooth(6.40, 6.46, y) * smooth(6.53, 6.50, y) * 0.7
    return np.clip(np.maximum(above * side, patch), 0, 1) * smooth(-0.005, -0.035, lip)


def _moustache(ax: np.ndarray, y: np.ndarray, z: np.ndarray, lip: np.ndarray) -> np.ndarray:
    top = np.interp(ax, [0.0, 0.04, 0.12, 0.24, 0.32], [6.78, 6.81, 6.80, 6.735, 6.66])
    low = np.interp(ax, [0.0, 0.20, 0.27, 0.33], [6.60, 6.60, 6.56, 6.52])
    body = smooth(0.03, -0.03, y - top) * smooth(-0.03, 0.03, y - low) * smooth(0.36, 0.27, ax) * smooth(1.1, 1.3, z)
    return body * (1 - 0.35 * _bell((ax / 0.018) ** 2)) * smooth(0.0, -0.022, lip)


def _creases(ax: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth, and coordinates along and across, of the field of lines that rules at each vertex."""
    ex, ey = ax - EYE[0], y - EYE[1]
    angle = np.arctan2(x, z + 0.15)
    rx, ry = ax - 0.41, ey + 0.01
    turn, radius = np.arctan2(ry, rx), np.hypot(rx, ry)
    front = smooth(0.7, 1.0, z)
    below = np.hypot(ex, ey * 1.25)
    eye = (ey < 0.19) & (y > 6.95)
    # Each vertex follows one field, chosen by place alone; the depths vanish where two of them meet.
    places = {
        "neck": y < 6.33,
        "mouth": (y >= 6.33) & (y <= 6.95),
        "frown": (y > 7.28) & (y < 7.53) & (ax < 0.17),
        "crow": eye & (rx > 0) & (ax >= 0.17) & (np.abs(turn) < 1.15),
        "under": eye & (ey < 0.0) & (ax >= 0.17) & ((rx <= 0) | (np.abs(turn) >= 1.15)),
    }
    depths = {
        "forehead": smooth(7.56, 7.66, y) * smooth(7.99, 7.86, y) * smooth(0.68, 0.40, ax) * front,
        "neck": smooth(6.25, 6.05, y) * smooth(0.75, 0.5, ax) * smooth(0.2, 0.6, z) * 0.7,
        "mouth": smooth(6.655, 6.69, y) * smooth(6.80, 6.73, y) * smooth(0.24, 0.18, ax) * smooth(1.2, 1.35, z) * 0.45,
        "frown": smooth(0.14, 0.08, ax) * smooth(7.34, 7.40, y) * smooth(7.51, 7.45, y) * front * 0.55,
        "crow": smooth(0.06, 0.11, radius)
        * smooth(0.36, 0.18, radius)
        * smooth(1.0, 0.5, np.abs(turn))
        * smooth(0.17, 0.11, ey),
        "under": smooth(0.15, 0.19, below)
        * smooth(0.36, 0.24, below)
        * smooth(-0.05, -0.10, ey)
        * smooth(0.08, 0.0, ex)
        * smooth(-0.12, -0.05, ex)
        * 0.55,
    }
    along = {
        "forehead": angle * 0.55,
        "neck": angle * 0.3,
        "mouth": y * 0.7,
        "frown": y * 0.5,
        "crow": radius * 1.1 + 0.3,
        "under": ex * 0.7,
    }
    across = {
        "forehead": y * 0.62 + 0.10 * ax**2,
        "neck": y * 0.45,
        "mouth": ax * 1.6,
        "frown": x * 0.9 + 0.31,
        "crow": turn * 0.20 + 0.1,
        "under": below * 1.3,
    }
    rules = list(places.values())

    def choose(fields: dict[str, np.ndarray]) -> np.ndarray:
        return np.select(rules, [fields[name] for name in places], fields["forehead"])

    return choose(depths), choose(along), choose(across)


def vertex_masks(rest: Tensor) -> Tensor:
    """The fields of MASKS at the rest positions (V, 3), dm: (V, len(MASKS)) float32. Made once, in float64."""
    x, y, z = rest.detach().cpu().double().numpy().T
    ax = np.abs(x)
    ex, ey = ax - EYE[0], y - EYE[1]
    front = smooth(0.7, 1.0, z)
    lip = _lip(ax, y, z)
    cheek = _bell(((ax - 0.44) / 0.19) ** 2 + ((y - 6.97) / 0.17) ** 2)
    nose = _bell((ax / 0.13) ** 2 + ((y - 6.89) / 0.10) ** 2) * smooth(1.42, 1.62, z)
    wing = _bell(((ax - 0.165) / 0.05) ** 2 + ((y - 6.87) / 0.08) ** 2)
    ears = smooth(0.74, 0.86, ax) * smooth(0.9, 0.5, z) * smooth(6.6, 6.8, y) * smooth(7.7, 7.5, y)
    chin = _bell((ax / 0.15) ** 2 + ((y - 6.33) / 0.10) ** 2)
    lids = _bell((ex / 0.17) ** 2 + (ey / 0.07) ** 2)
    blush = (0.8 * cheek + 0.8 * nose + 0.6 * wing + 0.35 * chin + 0.35 * lids) * front + 0.8 * ears
    socket = _bell(((ex + 0.02) / 0.21) ** 2 + (ey / 0.12) ** 2) * front
    bag = _bell(((ex + 0.02) / 0.13) ** 2 + ((ey + 0.125 - 1.8 * ex * ex) / 0.035) ** 2) * front
    ball = np.sqrt(ex**2 + ey**2 + (z - EYE[2]) ** 2)
    rim = _bell(((ball - 0.150) / 0.010) ** 2) * (np.abs(ey) < 0.07) * (z > 1.27)
    ridge = _bell((ax / 0.07) ** 2) * smooth(6.80, 6.90, y) * smooth(7.5, 7.2, y)
    brow = _bell((ax / 0.35) ** 2 + ((y - 7.68) / 0.17) ** 2)
    bone = _bell(((ax - 0.45) / 0.14) ** 2 + ((y - 7.10 + 0.3 * (ax - 0.45)) / 0.09) ** 2)
    gloss = 0.45 + (0.45 * ridge + 0.30 * brow + 0.25 * bone + 0.2 * chin) * front - 0.25 * ears
    depth, along, across = _creases(ax, x, y, z)
    behind_lips = smooth(1.30, 1.05, z) * (z > 0.2)  # but not the nape
    mouth = smooth(6.30, 6.40, y) * smooth(6.85, 6.75, y) * smooth(0.30, 0.27, ax) * behind_lips
    fields = [
        lip,
        mouth,
        blush,
        socket,
        bag,
        rim,
        _beard(ax, y, z, lip),
        _moustache(ax, y, z, lip),
        _fold(ax, y, z),
        gloss,
        depth,
        along,
        across,
    ]
    return torch.from_numpy(np.stack(fields, 1).astype(np.float32))
