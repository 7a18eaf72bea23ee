"""Rules of `ops.py` for shapes and pixels: reshapes, slices, borders, resampling, sums along axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .values import Builder, Value, combine, pair, want


def reshape(b: Builder, x: Value, shape: Sequence[int]) -> Value:
    known = math.prod(size for size in shape if size != -1)
    shape = tuple(math.prod(x.shape) // known if size == -1 else size for size in shape)
    source = x.origin or x
    if shape in (x.shape, source.shape):
        return x if shape == x.shape else source
    blob = b.emit("Reshape", [source], shape, [0, len(shape), len(shape), *shape, 0])
    return Value(blob.name, shape, source)


def squeeze(b: Builder, x: Value, axes: int | Sequence[int]) -> Value:
    axes = {axis % len(x.shape) for axis in ([axes] if isinstance(axes, int) else axes)}
    axes = [axis for axis in sorted(axes) if x.shape[axis] == 1]
    shape = [size for axis, size in enumerate(x.shape) if axis not in axes]
    blob = b.emit("Squeeze", [x], shape, [len(axes), *axes]) if axes else x
    return Value(blob.name, tuple(shape), x.origin or x)


def select(b: Builder, x: Value, axis: int, index: int) -> Value:
    axis = axis % len(x.shape)
    index = index % x.shape[axis]
    return squeeze(b, cut(b, x, {axis: (index, index + 1, 1)}), axis)


def cut(b: Builder, x: Value, cuts: dict[int, tuple[int, int, int]]) -> Value:
    """A slice; `cuts` maps axes to (begin, end, stride)."""
    cuts = {axis: cut for axis, cut in cuts.items() if cut != (0, x.shape[axis], 1)}
    if not cuts:
        return x
    shape = [len(range(*cuts[axis])) if axis in cuts else size for axis, size in enumerate(x.shape)]
    columns = (*zip(*cuts.values(), strict=True),)
    lists = (columns[0], columns[1], tuple(cuts), columns[2])
    return b.emit("StridedSliceV2", [x], shape, [number for part in lists for number in (len(part), *part)])


def slice_(b: Builder, x: Value, axis: int = 0, start=None, end=None, step: int = 1) -> Value:
    axis = axis % len(x.shape)
    begin, end, step = slice(start, end, step).indices(x.shape[axis])
    return cut(b, x, {axis: (begin, end, step)})


def split(b: Builder, x: Value, sizes: int | Sequence[int], axis: int = 0) -> list[Value]:
    axis = axis % len(x.shape)
    length = x.shape[axis]
    if isinstance(sizes, int):
        sizes = [min(sizes, length - begin) for begin in range(0, length, sizes)]
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [cut(b, x, {axis: (end - size, end, 1)}) for size, end in zip(sizes, ends, strict=True)]


def cat(b: Builder, tensors: Sequence[Value | Tensor], axis: int = 0) -> Value:
    blobs = [b.constant(tensor) if isinstance(tensor, Tensor) else tensor for tensor in tensors]
    shape = list(blobs[0].shape)
    axis = axis % len(shape)
    shape[axis] = sum(blob.shape[axis] for blob in blobs)
    return b.emit("Concat", blobs, shape, [axis])


def reduce(kind: str) -> Callable:
    def rule(b: Builder, x: Value, axes: Sequence[int] | None, keep: bool = False, dtype=None) -> Value:
        rank = len(x.shape)
        axes = sorted(axis % rank for axis in axes) if axes else list(range(rank))
        sizes = [1 if i in axes else size for i, size in enumerate(x.shape)]
        shape = sizes if keep else [size for i, size in enumerate(sizes) if i not in axes]
        return b.emit(kind, [x], shape, [int(keep), *axes])

    return rule


def vector_norm(b: Builder, x: Value, order: float = 2, axes=None, keep: bool = False, dtype=None) -> Value:
    want(order == 2, f"a norm of order {order}")
    return reduce("ReduceL2")(b, x, [axes] if isinstance(axes, int) else axes, keep)


# Pixels.


def pad(b: Builder, x: Value, widths: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    modes = {"constant": 0, "reflect": 1}  # the file has `replicate` as well, but no device pads so
    want(len(widths) in (2, 4) and len(x.shape) == 4 and mode in modes, f"padding {x.shape} by {widths}, {mode}")
    left, right, top, bottom = (*widths, 0, 0)[:4]
    shape = (*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right)
    return b.emit("Pad", [x], shape, [0, 0, top, bottom, left, right, 0, 0, modes[mode], float(value or 0)])


def upsample(mode: int) -> Callable:
    def rule(b: Builder, x: Value, size, *rest) -> Value:
        align, scales = (bool(rest[0]), rest[1]) if mode == 2 else (False, rest[0])
        size = tuple(size or (int(old * scale) for old, scale in zip(x.shape[2:], scales, strict=True)))
        ratios = [new / old for new, old in zip(size, x.shape[2:], strict=True)]
        want(
            scales is None or align or list(scales) == ratios,
            f"a scale of {scales} without whole pixels",
        )
        want(mode == 2 or all(ratio == int(ratio) for ratio in ratios), f"the nearest pixels of {x.shape} as {size}")
        whole = all(ratio == int(ratio) for ratio in ratios)
        params = [mode, *ratios, int(align)] if whole else [mode, 0.0, 0.0, int(align), *size]
        return b.emit("Upsample", [x], (*x.shape[:2], *size), params)

    return rule


def pixel_shuffle(b: Builder, x: Value, factor: int) -> Value:
    n, channels, height, width = x.shape
    return b.emit("PixelShuffle", [x], (n, channels // factor**2, height * factor, width * factor), [factor])


def pool(b: Builder, x: Value, kind: int, kernel, stride, padding) -> Value:
    kernel, padding = pair(kernel), pair(padding)
    stride = pair(stride) if stride else kernel
    size = [(x.shape[2 + i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in (0, 1)]
    params = [kind, *kernel, *stride, *padding, -1, -1, -1, 0, 0, 0, 0]
    return b.emit("Pooling", [x], (*x.shape[:2], *size), params)


def avg_pool(b: Builder, x, kernel, stride=(), padding=0, ceil=False, include=True, divisor=None) -> Value:
    want(not ceil and divisor is None and not (include and any(pair(padding))), "a mean that counts padded pixels")
    return pool(b, x, 1, kernel, stride, padding)


def max_pool(b: Builder, x, kernel, stride=(), padding=0, dilation=1, ceil=False) -> list[Value]:
    want(not ceil and pair(dilation) == (1, 1), "a dilated maximum, or one with rounded-up size")
    return [pool(b, x, 0, kernel, stride, padding)]


def adaptive_avg_pool(b: Builder, x: Value, size: Sequence[int]) -> Value:
    want(all(x.shape[2 + i] % size[i] == 0 for i in (0, 1)), f"means of {x.shape} over parts of different sizes")
    return pool(b, x, 1, [x.shape[2 + i] // size[i] for i in (0, 1)], (), 0)


def grid_sample(b: Builder, x: Value, grid: Tensor, mode: int, padding: int, align: bool) -> Value:
    """TNN samples zeros outside. Where torch repeats the border, points outside are moved onto it. The x86 device reads
    a grid that a layer computes, not a constant one: a layer adds it to zeros that are made of the picture."""
    want(
        isinstance(grid, Tensor) and mode == 0 and padding in (0, 1) and not align, "a mode of sampling that TNN lacks"
    )
    if padding == 1:
        edge = 1 - 1 / torch.tensor([x.shape[3], x.shape[2]], dtype=grid.dtype)
        grid = grid.maximum(-edge).minimum(edge)
    corner = cut(b, x, {1: (0, 1, 1), 2: (0, 1, 1), 3: (0, 1, 1)})
    computed = combine(b, "Add", combine(b, "Mul", corner, 0.0), grid)
    return b.emit("GridSample", [x, computed], (*x.shape[:2], *grid.shape[1:3]), [2, 0, 0])
