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
    return torch.rsub(t, 3, alpha=2).mul_(t).mul_(t)  # twice a number is exact, so `alpha` rounds once


def rises(x: Sequence[Tensor], *bounds: tuple[int, float, float]) -> Tensor:
    """rise(a, b, x[k]) of several (k, a, b) at once: (K, ...)."""
    which, low, high = zip(*bounds, strict=True)
    values = torch.stack([x[k] for k in which])
    scale = tuple(1 / (b - a) for a, b in zip(low, high, strict=True))
    low, scale = (constant(numbers, values.device, values.ndim - 1) for numbers in (low, scale))
    return values.sub_(low).mul_(scale).clamp_(0, 1)


def smooths(x: Sequence[Tensor], *bounds: tuple[int, float, float]) -> Tensor:
    """smooth(a, b, x[k]) of several (k, a, b) at once: (K, ...)."""
    t = rises(x, *bounds)
    return torch.rsub(t, 3, alpha=2).mul_(t).mul_(t)


def bumps(x: Sequence[Tensor], *places: tuple[int, float, float]) -> Tensor:
    """bump(((x[k] - a) / b) ** 2) of several (k, a, b) at once: (K, ...)."""
    which, middle, wide = zip(*places, strict=True)
    values = torch.stack([x[k] for k in which])
    middle, wide = (constant(numbers, values.device, values.ndim - 1) for numbers in (middle, wide))
    return bump(values.sub_(middle).div_(wide).square_())


@lru_cache(maxsize=1024)
def constant(values: tuple[float, ...], device: torch.device, after: int = 2) -> Tensor:
    """Numbers as (K, 1, 1), or with other ones `after` K, on a device. They are shared: never write into them."""
    return torch.tensor(values, dtype=torch.float32, device=device).reshape(-1, *[1] * after)


def rgb(*channels: float, like: Tensor) -> Tensor:
    """Three numbers to a constant colour that fits points or pictures `like`, (3, 1, 1) for (n, P). It is shared: never
    write into it."""
    return constant(channels, like.device, like.ndim)


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
    """Of vectors (3, ...), component by component: the order of a sum() is that of the device."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        x, y, z = a * b
        return x + y + z
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """a where the share (n, P) is 0, b where it is 1; colours are (3, n, P), (3, n, 1) or (3, 1, 1)."""
    way = b - a
    return way.mul_(share).add_(a) if way.shape[1:] == share.shape else a + way * share


def hue(h: float | Tensor, s: float | Tensor, v: float | Tensor, like: Tensor | None = None) -> Tensor:
    """Hue (turns), saturation and value in [0, 1], (n, 1) each, to a linear colour (3, n, 1); gamma taken as 2.

    A number is the same for all n. like: any tensor, needed where all three are numbers; the colour is (3, 1, 1) then
    and shared: never write into it.
    """
    given = [c for c in (h, s, v) if isinstance(c, Tensor)]
    return _hue(h, s, v, given[0].device) if given else _shared_hue(h, s, v, like.device)


def hues(*colours: tuple[float | Tensor, float | Tensor, float | Tensor]) -> tuple[Tensor, ...]:
    """hue() of several colours at once, (3, n, 1) each. One of the first colour's three must be a tensor (n, 1)."""
    like = next(c for c in colours[0] if isinstance(c, Tensor))
    rows = zip(*colours, strict=True)
    return _hue(*(torch.stack([_number(c, like.device).expand_as(like) for c in row]) for row in rows)).unbind(1)


def _number(c: float | Tensor, device: torch.device) -> Tensor:
    return c if isinstance(c, Tensor) else constant((c,), device, 1)


def _hue(h: float | Tensor, s: float | Tensor, v: float | Tensor, device: torch.device | None = None) -> Tensor:
    """Tensors of any shape (...), or numbers, to (3, ...)."""
    h, s, v = (_number(c, device) for c in (h, s, v))
    k = constant((5.0, 3.0, 1.0), h.device, h.ndim) + h * 6
    k = k - (k * (1 / 6)).floor() * 6
    colour = v - v * s * torch.minimum(k, 4 - k).clamp_(0, 1)
    return colour * colour


@lru_cache(maxsize=256)
def _shared_hue(h: float, s: float, v: float, device: torch.device) -> Tensor:
    return _hue(h, s, v, device)


def by_kind(number: Tensor, edges: tuple[float, ...]) -> tuple[Tensor, ...]:
    """The rows of number (n, 1) below the first of the edges, then those below the second, and so on; all in one look
    of the host at the device."""
    kind = torch.bucketize(number[:, 0], constant(edges, number.device, 0), right=True)
    counts = (kind[:, None] == torch.arange(len(edges) + 1, device=number.device)).sum(0).tolist()
    return kind.argsort(stable=True).split(counts)
