"""Colour and light of hair, the strand patterns of its cards and the painted hair of the scalp.

Points are flat: masks and coordinates (n, P), colours and directions (3, n, P), numbers of a picture (n, 1).
Colours are linear.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from .curves import dot, linear, ramp
from .hair import SHEETS
from .hair_scalp import smooth, smooths
from .noise import interleaved

PATTERNS, ACROSS, ALONG = 32, 40, 48  # of each kind of pattern; cells across and along a card
TILE = 256
COLOURS = linear([(202, 174, 132), (158, 124, 86), (112, 78, 51), (78, 53, 37), (52, 37, 29), (33, 28, 26)])
"""Blond to black."""


# Static tables


def _pattern(
    rng: np.random.Generator, strands: int, first: float, late: float, wavy: bool
) -> tuple[np.ndarray, np.ndarray]:
    """One card (ACROSS, ALONG): where there is hair, and its brightness about 1. Strands end at `first` at the soonest,
    and start at `late` at the latest."""
    u = ((np.arange(ACROSS) + 0.5) / ACROSS * 2 - 1)[:, None]
    t = ((np.arange(ALONG) + 0.5) / ALONG)[None]
    there, light, front = np.zeros((ACROSS, ALONG), bool), np.ones((ACROSS, ALONG)), np.zeros((ACROSS, ALONG))
    swing, phase = (0.28, rng.uniform(0, 6.3)) if wavy else (0.05, rng.uniform(0, 6.3))
    for k in range(strands):
        start = (k + 0.5 + rng.normal() * 0.3) / strands * 2 - 1
        end = rng.uniform(first, 1.0) * (1 - (0.25 if first < 0.7 else 0.08) * start**4)
        begin = rng.uniform(-0.05, late)
        bend = start * (0.92 - 0.25 * t**2) + rng.normal() * 0.16 * t**1.5
        bend = bend + swing * t**0.6 * np.sin(phase + rng.normal() * 0.35 + (11 if wavy else 3) * t)
        wide, point = (1.65, 1.7) if first < 0.7 else (2.0, 4) if first < 0.8 else (3.2, 8)
        half = (wide / strands) * np.clip(1 - (t / end) ** point, 0, 1) ** 0.7 * rng.uniform(0.7, 1.15)
        off = np.abs(u - bend) / np.maximum(half, 1e-6)
        shape = (1 - np.minimum(off, 1) ** 2) * rng.uniform(0.4, 1)
        hit = (off < 1) & (t < end) & (t > begin) & (shape >= front)
        front = np.where(hit, shape, front)
        tint = 1 + rng.normal() * 0.13
        light = np.where(hit, tint * (0.84 + 0.22 * (1 - np.minimum(off, 1) ** 2)), light)
        there |= hit
    return there, np.clip(light, 0.3, 1.7)


@lru_cache(maxsize=8)
def _patterns(device: torch.device) -> tuple[Tensor, Tensor]:
    """Flat tables over (kind, pattern, across, along): bool, float32."""
    rng = np.random.default_rng(21)
    ends = ((0.5, 0.42, False), (0.72, 0.26, False), (0.6, 0.26, True), (0.8, 0.0, False), (0.74, 0.5, False))
    counts = (12, 12, 9, 14, 12, 6, 6, 5, 8, 6)
    kinds = [(count, *ends[k % len(ends)]) for k, count in enumerate(counts)]
    cards = [_pattern(rng, *kind) for kind in kinds for _ in range(PATTERNS)]
    there, light = (np.stack(x).reshape(-1) for x in zip(*cards, strict=True))
    return torch.from_numpy(there).to(device), torch.from_numpy(light).to(device, torch.float32)


@lru_cache(maxsize=8)
def _tile(device: torch.device) -> Tensor:
    """(1, 4, TILE + 2, TILE + 2) noise that repeats, unit deviation: strands, locks, grain, curls."""
    rng = np.random.default_rng(22)
    fx, fy = np.fft.rfftfreq(TILE)[None], np.fft.fftfreq(TILE)[:, None]
    layers = []
    for sx, sy, band in ((0.8, 22.0, 0), (3.5, 40.0, 0), (0.9, 0.9, 0), (2.2, 2.2, 1)):
        soft = np.exp(-2 * np.pi**2 * ((fx * sx) ** 2 + (fy * sy) ** 2))
        if band:
            soft = soft - np.exp(-2 * np.pi**2 * ((fx * 2 * sx) ** 2 + (fy * 2 * sy) ** 2))
        x = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(TILE, TILE))) * soft, s=(TILE, TILE))
        layers.append(np.pad((x - x.mean()) / x.std(), 1, mode="wrap"))
    return torch.from_numpy(np.stack(layers)[None]).to(device, torch.float32)


def _noise(u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Strands, locks, grain, curls (n, P) at places in tiles (n, P)."""
    scale, shift = 2 * TILE / (TILE + 1), 2 / (TILE + 1) - 1
    place = interleaved((u - u.floor()) * scale + shift, (v - v.floor()) * scale + shift)
    return tuple(grid_sample(_tile(u.device), place[None], align_corners=True)[0])


# Cards


def _cell(u: Tensor, t: Tensor, seed: Tensor) -> Tensor:
    row = (seed * (SHEETS * PATTERNS)).to(torch.int32)
    column = (u * (0.4999 * ACROSS) + 0.5 * ACROSS).to(torch.int32)
    return (row * ACROSS + column) * ALONG + (t * (0.9999 * ALONG)).to(torch.int32)


def opaque(u: Tensor, t: Tensor, seed: Tensor) -> Tensor:
    """Is there a strand? bool (P,) for fragments of cards: u across in [-1, 1], t along in [0, 1], the card's seed."""
    cell = _cell(u.clamp(-1, 1), t.clamp(0, 1), seed)
    return _patterns(u.device)[0].index_select(0, cell)


# Colour and light


def hair_colour(a: dict[str, Tensor]) -> Tensor:
    """(3, n, 1) linear reflectance from hair_dark, hair_warm and hair_grey."""
    warm = a["hair_warm"].clamp(-2, 2)
    tone = ramp(COLOURS, a["hair_dark"]) * torch.stack([1 + 0.11 * warm, 1 - 0.01 * warm, 1 - 0.10 * warm])
    grey = torch.stack([0.40 + 0 * warm, 0.39 + 0 * warm, 0.375 + 0 * warm]) * (1.15 - 0.5 * a["hair_dark"])
    return tone + (grey - tone) * (0.92 * a["hair_grey"])


def _lit(
    normal: Tensor, tangent: Tensor, tone: Tensor, open_: Tensor, shift: Tensor, light: dict[str, Tensor]
) -> Tensor:
    """Kajiya-Kay light with two highlights. tone: of the strand, about 1. open_: share of light that gets in."""
    key, half = light["key"], light["half"]
    colour, base = light["colour"], light["hair"]
    along = dot(tangent, key)
    facing = dot(normal, key)
    wrap = ((facing + 0.35) * (1 / 1.35)).clamp(0, 1)
    sine = (1 - along * along).clamp(min=0).sqrt()
    direct = wrap * (0.30 + 0.70 * sine) * open_
    th, nh = dot(tangent, half), dot(normal, half)
    first = th + (shift - 0.10) * nh
    second = th + (shift + 0.14) * nh
    first = (1 - first * first).clamp(min=0)
    second = (1 - second * second).clamp(min=0)
    sheen = first * (tone * tone)
    for _ in range(3):
        first, second = first * first, second * second
    shine = wrap * open_
    second = second * shine
    twice = first * first
    first = twice * twice * first * shine
    up = 0.5 + 0.5 * normal[1]
    ambient = light["ground"] + (light["sky"] - light["ground"]) * up
    diffuse = base * tone
    out = diffuse * (colour * (0.62 * direct + (0.45 * light["gloss"]) * second) + ambient * (1.0 * open_))
    out = out + ambient * (sheen * (0.014 * light["gloss"]))  # the sky, without which black hair has no strands
    return out + colour * (first * (tone * tone) * (0.030 * light["gloss"]))


def light_of_hair(light: dict[str, Tensor], a: dict[str, Tensor], s: dict[str, Tensor]) -> dict[str, Tensor]:
    """The light with the hair's own colour and gloss, for `shade` and `shade_scalp`.

    light: key and half (unit directions to the light and halfway to the viewer), colour, sky, ground (3, n, 1). s: of
    hair_scalp.style()."""
    return {**light, "hair": hair_colour(a) * (1 - 0.25 * s["curly"]), "gloss": 1 - 0.75 * s["curly"]}


def shade(
    normal: Tensor, tangent: Tensor, u: Tensor, t: Tensor, seed: Tensor, open_: Tensor, light: dict[str, Tensor]
) -> Tensor:
    """Linear colour (3, n, P) of cards. normal and tangent (3, n, P) of unit length, turned with the head; u, t, seed,
    open_ (n, P) as in Ribbons; light from `light_of_hair`."""
    cell = _cell(u.clamp(-1, 1), t.clamp(0, 1), seed)
    tone = _patterns(u.device)[1].index_select(0, cell.reshape(-1)).view(cell.shape)
    own = seed * 613.0
    own = own - own.floor()
    tone = tone * (0.92 + 0.16 * own)
    return _lit(normal, tangent, tone, open_, (own - 0.5) * 0.16 + (tone - 1) * 0.12, light)


# The scalp


def scalp_mask(
    line: Tensor,
    across: Tensor,
    along: Tensor,
    x: Tensor,
    y: Tensor,
    a: dict[str, Tensor],
    s: dict[str, Tensor],
    detail: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Share of hair over skin (n, P) in [0, 1] and the noise that `shade_scalp` needs, strands and locks (n, P).

    line: `scalp_line` at the points (n, P). across, along: `scalp_places`. x, y: of the rest head, dm. detail: size of
    the picture / 256, at most 1."""
    strands, locks, grain, curls = _noise(across, along)
    front, crown = smooths(
        (y,), (0, 7.5, 7.7), (0, 7.95, 8.15)
    )  # roots fade over the forehead and the temples, less around the ears
    ragged = (0.007 * strands + (0.008 + 0.010 * front) * grain) * detail + 0.005 * locks
    curly = (0.9 - 0.6 * s["long"]) * s["wavy"]
    strands = strands + (0.4 * grain + 1.3 * (0.6 - curls.abs()) - strands) * curly
    soft = 0.045 + 0.035 * s["buzz"] + 0.03 * (1 - detail) + 0.03 * front
    t = ((line + ragged - 0.05 * front * soft) / (2 * soft) + 0.5).clamp(0, 1)
    mask = t * t * (3 - 2 * t)
    combed = s["parted"] * (1 - s["back"]) * (a["hair_fringe"] == 0)
    apart = ((x - 0.95 * a["hair_part"]).abs() * 55 + 0.15 * strands).clamp(0, 1)
    mask = mask * (1 - (0.42 * combed) * (1 - apart) * crown)
    thin = (0.90 + 0.07 * grain * detail).clamp(0, 1)
    return mask * (1 - s["buzz"] * (1 - thin * (0.72 + 0.2 * a["hair_dark"]))), strands * detail, locks


def shade_scalp(
    normal: Tensor, tangent: Tensor, line: Tensor, strands: Tensor, locks: Tensor, s: dict[str, Tensor], light: dict
) -> Tensor:
    """Linear colour (3, n, P) of the scalp's hair, lit. line, strands and locks (n, P) as in `scalp_mask`."""
    tone = (1 + (0.19 + 0.11 * s["curly"]) * strands + 0.08 * locks).clamp(0.3, 1.7)
    open_ = 0.74 + 0.26 * smooth(0.02, 0.28, line)
    open_ = open_ + (0.95 - open_) * s["buzz"]
    return _lit(normal, tangent, tone, open_, 0.05 * locks + 0.05 * strands, light)
