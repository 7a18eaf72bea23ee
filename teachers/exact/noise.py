"""Deterministic noise: look-ups in fixed tileable pictures, the same on every machine."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SIZE = 256
KINDS = ("pore", "pore_x", "pore_y", "spots", "medium", "wide", "streak", "crease", "slope", "iris", "grain")
"""What a tile holds. Zero mean and unit deviation: pore (height of fine skin grain), pore_x and pore_y (its slopes),
medium and wide (blotches of 1/12 and 1/4 tile), streak (strands along y), slope (of the crease, across it).
In [0, 1]: spots (sparse round dots) and crease (thin lines along x). iris is no tile: fibres about the centre."""


def _blurred(rng: np.random.Generator, sx: float, sy: float, inner: float = 0.0) -> np.ndarray:
    """White noise blurred by (sx, sy) texels, less the same blurred by `inner` times as much, if that is not 0."""
    fx, fy = np.fft.fftfreq(SIZE)[None], np.fft.fftfreq(SIZE)[:, None]
    weight = np.exp(-2 * np.pi**2 * ((fx * sx) ** 2 + (fy * sy) ** 2))
    if inner:
        weight = weight - np.exp(-2 * np.pi**2 * inner**2 * ((fx * sx) ** 2 + (fy * sy) ** 2))
    field = np.fft.ifft2(np.fft.fft2(rng.standard_normal((SIZE, SIZE))) * weight).real
    return (field - field.mean()) / field.std()


def _spots(rng: np.random.Generator) -> np.ndarray:
    """Round dots of 1 to 4 texels, in clusters, some faint."""
    field = np.zeros((SIZE, SIZE))
    near = np.arange(-20, 21)  # beyond five times its size a spot is 0 in single precision
    numbers = [rng.uniform(low, high, 260) for low, high in ((0, SIZE), (0, SIZE), (1.5, 4), (0.3, 1))]
    for cx, cy, size, depth in zip(*numbers, strict=True):
        column, row = int(cx) + near, int(cy) + near
        dx, dy = (column - cx)[None], (row - cy)[:, None]
        spot = depth * np.exp(-(((dx**2 + dy**2) / size**2) ** 1.5))
        place = np.ix_(row % SIZE, column % SIZE)
        field[place] = np.maximum(field[place], spot)
    return field


def _slope(height: np.ndarray, axis: int) -> np.ndarray:
    slope = np.roll(height, -1, axis) - np.roll(height, 1, axis)
    return slope / slope.std()


def _crease(rng: np.random.Generator) -> np.ndarray:
    """Wandering thin lines along x, where a long blur of noise crosses zero and another one lets them be."""
    height = _blurred(rng, 34, 5)
    lines = 0.75 * np.exp(-((height / 0.28) ** 2)) + 0.35 * np.exp(-((height / 0.8) ** 2))
    present = 1 / (1 + np.exp(-3 * (_blurred(rng, 26, 9) + 0.4)))
    return np.clip(lines * present, 0, 1)


def _iris(rng: np.random.Generator) -> np.ndarray:
    """Fibres that run out from the centre of the square; the rim of the iris touches its sides."""
    y, x = (np.mgrid[:SIZE, :SIZE] + 0.5) / SIZE * 2 - 1
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    field = np.zeros((SIZE, SIZE))
    for k, weight in ((9, 0.5), (17, 0.7), (31, 1.0), (47, 0.8)):
        bend = rng.uniform(-1, 1, 3)
        field += weight * np.sin(
            k * angle + rng.uniform(0, 6.28) + 2 * bend[0] * radius + 2 * np.sin(3 * angle + bend[1])
        )
    field = field * (0.4 + 0.6 * np.clip(radius * 1.5, 0, 1)) + 0.5 * _blurred(rng, 5, 5)
    return (field - field.mean()) / field.std()


@lru_cache(maxsize=8)
def _tiles(device: torch.device) -> Tensor:
    """(KINDS, 257, 257) float32: made in float64 once, the first row and column repeated at the end."""
    rng = np.random.default_rng(20260101)
    pore = _blurred(rng, 1.3, 1.3, 2.2)
    crease = _crease(rng)
    fields = {
        "pore": pore,
        "pore_x": _slope(pore, 1),
        "pore_y": _slope(pore, 0),
        "spots": _spots(rng),
        "medium": _blurred(rng, 4, 4),
        "wide": _blurred(rng, 16, 16),
        "streak": _blurred(rng, 1.1, 12),
        "crease": crease,
        "slope": _slope(crease, 0).clip(-3, 3),
        "iris": _iris(rng),
        "grain": _blurred(rng, 0.35, 0.35),
    }
    stack = np.pad(np.stack([fields[kind] for kind in KINDS]), ((0, 0), (0, 1), (0, 1)), mode="wrap")
    return torch.from_numpy(stack.astype(np.float32)).to(device)


@lru_cache(maxsize=64)
def _chosen(device: torch.device, kinds: tuple[str, ...]) -> Tensor:
    return _tiles(device)[[KINDS.index(kind) for kind in kinds]][None].contiguous()


def interleaved(x: Tensor, y: Tensor) -> Tensor:
    """The same as torch.stack([x, y], -1), six times as fast."""
    return torch.view_as_real(torch.complex(x, y))


def noise(x: Tensor, y: Tensor, *kinds: str) -> Tensor | tuple[Tensor, ...]:
    """The tiles of some kinds at coordinates x, y of shape (..., P), one tile per unit.

    Returns (..., P) for one kind, else a tuple of them. Exact: a point's value does not depend on its neighbours.
    """
    grid = interleaved(x, y)
    grid = (grid - grid.floor()).mul_(2).sub_(1)
    values = F.grid_sample(
        _chosen(x.device, kinds), grid.flatten(0, -3)[None], mode="bilinear", padding_mode="border", align_corners=True
    )[0].view(-1, *grid.shape[:-1])
    return values[0] if len(kinds) == 1 else values.unbind(0)
