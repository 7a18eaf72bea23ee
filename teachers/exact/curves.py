"""Small exact functions of points: the same numbers give the same bytes whatever the batch.

torch computes the tail of an array by other code than its body. Only operations that IEEE arithmetic defines exactly
(+ - * / sqrt, clamp, floor, compare, look-up) give the same bytes in both, so exp, pow and their like stay out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def bump(u: Tensor) -> Tensor:
    """A bell that stands in for exp(-u), u >= 0: (1 - u/4)^4, zero from u = 4 on."""
    t = (u * -0.25).add_(1).clamp_(min=0)
    t = t.mul_(t)
    return t.mul_(t)


def rise(a: float | Tensor, b: float | Tensor, x: Tensor) -> Tensor:
    """0 at a, 1 at b, straight between them; a > b falls instead."""
    return ((x - a) * (1 / (b - a))).clamp_(0, 1)


def smooth(a: float | Tensor, b: float | Tensor, x: Tensor) -> Tensor:
    """0 at a, 1 at b, with level ends; a > b falls instead."""
    t = rise(a, b, x)
    return (t * -2).add_(3).mul_(t).mul_(t)


@lru_cache(maxsize=256)
def _constant(channels: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(channels, dtype=torch.float32, device=device).reshape(3, 1, 1)


def rgb(*channels: float, like: Tensor) -> Tensor:
    """Three numbers to a constant colour (3, 1, 1) on the device of `like`. It is shared: never write into it."""
    return _constant(channels, like.device)


def linear(colours: Sequence[tuple[float, float, float]]) -> Tensor:
    """sRGB colours in 0..255 to linear ones, (K, 3) float32: for tables that are made once."""
    return (torch.tensor(colours, dtype=torch.float64) / 255).pow(2.2).float()


def ramp(stops: Tensor, t: Tensor) -> Tensor:
    """The colour (3, n, 1) at t (n, 1) in [0, 1] of evenly spaced stops (K, 3)."""
    stops = stops.to(t.device)
    place = t.clamp(0, 1) * (len(stops) - 1)
    low = place.floor().clamp_(max=len(stops) - 2)
    share = (place - low)[..., None]
    index = low.long()
    return (stops[index] * (1 - share) + stops[index + 1] * share).permute(2, 0, 1).contiguous()


def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Of vectors (3, ...), component by component."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """a where the share (n, P) is 0, b where it is 1; colours are (3, n, P) or (3, n, 1)."""
    return (b - a).mul_(share).add_(a) if b.shape[-1] == share.shape[-1] else a + (b - a) * share


def hue(h: float | Tensor, s: float | Tensor, v: float | Tensor, like: Tensor | None = None) -> Tensor:
    """Hue (turns), saturation and value in [0, 1], (n, 1) each, to a linear colour (3, n, 1); gamma taken as 2.

    A number is the same for all n. like: any (n, 1), needed where all three are numbers.
    """
    like = next(c for c in (h, s, v, like) if isinstance(c, Tensor))
    h, s, v = (c if isinstance(c, Tensor) else torch.full_like(like, c) for c in (h, s, v))
    k = rgb(5.0, 3.0, 1.0, like=h) + h * 6
    k = k - (k * (1 / 6)).floor() * 6
    colour = v - v * s * torch.minimum(k, 4 - k).clamp(0, 1)
    return colour * colour
