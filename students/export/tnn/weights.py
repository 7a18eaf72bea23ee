"""Rules of `ops.py` for weights: convolutions, linear layers, normalisations, products with computed matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import shapes
from .values import Builder, Value, combine, pair, unsqueeze, want

_EPS = 1e-5  # fixed in TNN's instance normalisation


def conv2d(b: Builder, x: Value, weight, bias=None, stride=1, padding=0, dilation=1, groups: int = 1) -> Value:
    stride, padding, dilation = pair(stride), pair(padding), pair(dilation)
    if isinstance(weight, Value):
        want(bias is None and dilation == (1, 1), "a convolution with computed weights that has a bias or is dilated")
        return _computed_depthwise(b, x, weight, stride, padding, groups)
    outputs, inputs, kh, kw = weight.shape
    want(len(x.shape) == 4, f"a convolution of shape {x.shape}")
    want(dilation[0] == dilation[1], f"dilations {dilation}: some devices use one for both")
    size = [
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    ]
    params = [groups, inputs, outputs, kh, kw, *stride, *padding, int(bias is not None), -1, *dilation, 0]
    blobs = [weight] if bias is None else [weight, bias]
    return b.emit("Convolution", [x], (x.shape[0], outputs, *size), params, blobs)


def _computed_depthwise(b: Builder, x: Value, weight: Value, stride, padding, groups: int) -> Value:
    """TNN's convolutions need constant weights. This sums, over the kernel's taps, the tap times a slice of pixels."""
    channels, (kh, kw) = x.shape[1], weight.shape[2:]
    depthwise = x.shape[0] == 1 and weight.shape[:2] == (channels, 1) and groups == channels
    want(
        depthwise,
        f"computed weights {weight.shape} in {groups} groups; TNN has depthwise ones of batch 1",
    )
    weight = shapes.reshape(b, weight, (1, channels, kh, kw))
    x = shapes.pad(b, x, (padding[1], padding[1], padding[0], padding[0])) if any(padding) else x
    (sh, sw), height, width = stride, (x.shape[2] - kh) // stride[0] + 1, (x.shape[3] - kw) // stride[1] + 1
    total = None
    for i in range(kh):
        for j in range(kw):
            tap = shapes.cut(b, weight, {2: (i, i + 1, 1), 3: (j, j + 1, 1)})
            pixels = shapes.cut(b, x, {2: (i, i + sh * (height - 1) + 1, sh), 3: (j, j + sw * (width - 1) + 1, sw)})
            term = combine(b, "Mul", pixels, tap)
            total = term if total is None else combine(b, "Add", total, term)
    return total


def linear(b: Builder, x: Value, weight: Tensor, bias: Tensor | None = None) -> Value:
    want(isinstance(weight, Tensor) and len(x.shape) == 2, f"a linear layer on {x.shape}, or with computed weights")
    outputs = weight.shape[0]
    bias = torch.zeros(outputs) if bias is None else bias
    return b.emit("InnerProduct", [x], (x.shape[0], outputs), [outputs, 1, 0, 1], [weight, bias])


def flip(b: Builder, x: Value, axes: Sequence[int]) -> Value:
    want(tuple(axes) == (1,) and len(x.shape) == 4, f"a flip of axes {tuple(axes)}; only the channels can be flipped")
    return conv2d(b, x, torch.eye(x.shape[1]).flip(0)[:, :, None, None])


def pixel_unshuffle(b: Builder, x: Value, factor: int) -> Value:
    """A convolution that moves each pixel of a square into its own channel; exact, as it only adds zeros."""
    picks = torch.eye(factor**2).view(factor**2, 1, factor, factor).repeat(x.shape[1], 1, 1, 1)
    return conv2d(b, x, picks, stride=factor, groups=x.shape[1])


def _affine(b: Builder, x: Value, weight: Tensor | None, bias: Tensor | None) -> Value:
    if weight is None and bias is None:
        return x
    scale = torch.ones(x.shape[1]) if weight is None else weight
    return b.emit("BatchNormCxx", [x], x.shape, (), [scale, torch.zeros(x.shape[1]) if bias is None else bias])


def batch_norm(b: Builder, x: Value, weight, bias, mean: Tensor, variance: Tensor, momentum, eps: float) -> list[Value]:
    scale = (variance.double() + eps).rsqrt() * (1 if weight is None else weight.double())
    shift = (0 if bias is None else bias.double()) - scale * mean.double()
    return [b.emit("BatchNormCxx", [x], x.shape, (), [scale, shift])]


def group_norm(b: Builder, x: Value, groups: int, weight=None, bias=None, eps: float = _EPS, cudnn=True) -> Value:
    """TNN's instance normalisation, with each group as one channel."""
    want(eps == _EPS, f"a normalisation whose eps is {eps}; TNN's is {_EPS}")
    n, channels, *size = x.shape
    rows = shapes.reshape(b, x, (n, groups, channels // groups * size[0], *size[1:]))
    ones = [torch.ones(groups), torch.zeros(groups)]
    return _affine(
        b, shapes.reshape(b, b.emit("InstBatchNormCxx", [rows], rows.shape, (), ones), x.shape), weight, bias
    )


def instance_norm(b: Builder, x: Value, weight, bias, mean, var, use_input: bool, momentum, eps, cudnn) -> Value:
    want(use_input, "an instance normalisation with running statistics")
    return group_norm(b, x, x.shape[1], weight, bias, eps)


@dataclass(frozen=True)
class Modulated(Value):
    """A constant matrix (R, C) whose columns are scaled by `columns` (1, C) and whose rows by `rows` (1, R).

    The blob (1, R, C) exists as well, for rules that need it; if none does, its layers are dropped. A product with the
    matrix becomes a convolution by it between two scalings of channels: layers that every device has.
    """

    matrix: Tensor | None = None
    columns: Value | None = None
    rows: Value | None = None


def multiply(b: Builder, x, y) -> Value:
    product = combine(b, "Mul", x, y)
    for matrix, scale in ((x, y), (y, x)):
        numbers = scale.origin.shape if isinstance(scale, Value) and scale.axes else None
        if isinstance(matrix, Modulated) and matrix.rows is None:
            if numbers == (1, matrix.shape[1]) and scale.shape == (1, matrix.shape[1], 1):
                return Modulated(product.name, product.shape, None, (), matrix.matrix, matrix.columns, scale.origin)
        elif isinstance(matrix, Tensor) and matrix.ndim == 2:
            if numbers == (1, matrix.shape[1]) and scale.shape == (1, 1, matrix.shape[1]):
                return Modulated(product.name, product.shape, None, (), matrix, scale.origin)
    return product


def square(b: Builder, x: Value) -> Value:
    product = combine(b, "Mul", x, x)
    if isinstance(x, Modulated) and x.rows is None:
        return Modulated(product.name, product.shape, None, (), x.matrix**2, combine(b, "Mul", x.columns, x.columns))
    return product


def total(b: Builder, x: Value, axes: Sequence[int] | None, keep: bool = False, dtype=None) -> Value:
    if isinstance(x, Modulated) and x.rows is None and keep and tuple(axes or ()) in ((2,), (-1,)):
        return unsqueeze(b, linear(b, x.columns, x.matrix), 2)
    return shapes.reduce("ReduceSum")(b, x, axes, keep)


def matmul(b: Builder, x: Value, y: Value) -> Value:
    want(isinstance(x, Value) and isinstance(y, Value) and len(x.shape) == len(y.shape), "a product with a constant")
    if isinstance(x, Modulated) and y.origin and y.origin.shape[:2] == y.shape[:2] and len(y.origin.shape) == 4:
        pixels = combine(b, "Mul", y.origin, unsqueeze(b, x.columns, (2, 3)))
        pixels = conv2d(b, pixels, x.matrix[:, :, None, None])
        pixels = pixels if x.rows is None else combine(b, "Mul", pixels, unsqueeze(b, x.rows, (2, 3)))
        return shapes.reshape(b, pixels, (1, x.shape[1], y.shape[2]))
    return b.emit("MatMul", [x, y], (*x.shape[:-1], y.shape[-1]), [-1])
