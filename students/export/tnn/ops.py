"""Operations of torch as layers of TNN, one rule each.

A rule takes the builder and the operation's arguments: a `Value` for a blob, a tensor for a constant. It emits layers
and returns their output blobs, or raises ValueError if TNN cannot express the operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import shapes, weights
from .values import Builder, Value, combine, layer_rule, pointwise, unsqueeze, want

_LARGEST = 3.4e38  # TNN's "no limit"


def _arithmetic(kind: str, swapped: bool = False) -> Callable:
    def rule(b: Builder, x, y, alpha=1) -> Value:
        want(alpha == 1, f"a factor of {alpha} inside a sum")
        return combine(b, kind, *((y, x) if swapped else (x, y)))

    return rule


def _silu(b: Builder, x: Value) -> Value:
    return combine(b, "Mul", x, pointwise(b, "Sigmoid", x))


def _rsqrt(b: Builder, x: Value) -> Value:
    return combine(b, "Div", 1.0, pointwise(b, "Sqrt", x))


def _lerp(b: Builder, start, end, weight) -> Value:
    return combine(b, "Add", start, combine(b, "Mul", weight, combine(b, "Sub", end, start)))


def _clamp(b: Builder, x: Value, least: float | None = None, most: float | None = None) -> Value:
    if (least, most) == (0, 6):
        return pointwise(b, "ReLU6", x)
    limits = [-_LARGEST if least is None else float(least), _LARGEST if most is None else float(most)]
    return pointwise(b, "Clip", x, limits)


def _hardtanh(b: Builder, x: Value, least: float = -1.0, most: float = 1.0) -> Value:
    return _clamp(b, x, least, most)


def _hardsigmoid(b: Builder, x: Value) -> Value:
    return combine(b, "Mul", pointwise(b, "ReLU6", combine(b, "Add", x, 3.0)), 1 / 6)


def _hardswish(b: Builder, x: Value) -> Value:
    return combine(b, "Mul", x, _hardsigmoid(b, x))


def _leaky_relu(b: Builder, x: Value, slope: float = 0.01) -> Value:
    return b.emit("PReLU", [x], x.shape, [1, 0], [torch.tensor([slope])])


def _prelu(b: Builder, x: Value, slope: Tensor) -> Value:
    return b.emit("PReLU", [x], x.shape, [int(slope.numel() == 1), 0], [slope.flatten()])


def _expand(b: Builder, x: Value, shape: Sequence[int], implicit: bool = False) -> Value:
    """Needs no layer: TNN's arithmetic broadcasts along axes of length one."""
    same = len(shape) == len(x.shape) and all(new in (-1, old) for new, old in zip(shape, x.shape, strict=True))
    want(same or set(b.users) <= set(ARITHMETIC), f"an expansion of {x.shape} that is not part of a sum or product")
    return x


def _same(b: Builder, x: Value, *args, **options) -> Value:
    return x


def _dropout(b: Builder, x: Value, share: float, train: bool) -> Value:
    want(not train, "dropout in training")
    return x


ARITHMETIC: dict[str, Callable] = {
    "add.Tensor": _arithmetic("Add"),
    "add.Scalar": _arithmetic("Add"),
    "sub.Tensor": _arithmetic("Sub"),
    "sub.Scalar": _arithmetic("Sub"),
    "rsub.Tensor": _arithmetic("Sub", swapped=True),
    "rsub.Scalar": _arithmetic("Sub", swapped=True),
    "mul.Tensor": weights.multiply,
    "mul.Scalar": _arithmetic("Mul"),
    "div.Tensor": _arithmetic("Div"),
    "div.Scalar": _arithmetic("Div"),
}

RULES: dict[str, Callable] = {
    **ARITHMETIC,
    "square.default": weights.square,
    "reciprocal.default": lambda b, x: combine(b, "Div", 1.0, x),
    "neg.default": lambda b, x: combine(b, "Mul", x, -1.0),
    "lerp.Tensor": _lerp,
    "lerp.Scalar": _lerp,
    "relu.default": layer_rule("ReLU"),
    "relu6.default": layer_rule("ReLU6"),
    "sigmoid.default": layer_rule("Sigmoid"),
    "tanh.default": layer_rule("Tanh"),
    "sqrt.default": layer_rule("Sqrt"),
    "silu.default": _silu,
    "hardsigmoid.default": _hardsigmoid,
    "hardswish.default": _hardswish,
    "rsqrt.default": _rsqrt,
    "clamp.default": _clamp,
    "clamp_min.default": _clamp,
    "clamp_max.default": lambda b, x, most: _clamp(b, x, None, most),
    "hardtanh.default": _hardtanh,
    "leaky_relu.default": _leaky_relu,
    "prelu.default": _prelu,
    "_prelu_kernel.default": _prelu,
    "conv2d.default": weights.conv2d,
    "linear.default": weights.linear,
    "bmm.default": weights.matmul,
    "matmul.default": weights.matmul,
    "_native_batch_norm_legit_no_training.default": weights.batch_norm,
    "group_norm.default": weights.group_norm,
    "instance_norm.default": weights.instance_norm,
    "view.default": shapes.reshape,
    "reshape.default": shapes.reshape,
    "_unsafe_view.default": shapes.reshape,
    "unsqueeze.default": unsqueeze,
    "squeeze.dim": shapes.squeeze,
    "squeeze.dims": shapes.squeeze,
    "select.int": shapes.select,
    "expand.default": _expand,
    "slice.Tensor": shapes.slice_,
    "split.Tensor": shapes.split,
    "split_with_sizes.default": shapes.split,
    "cat.default": shapes.cat,
    "flip.default": weights.flip,
    "sum.dim_IntList": weights.total,
    "mean.dim": shapes.reduce("ReduceMean"),
    "linalg_vector_norm.default": shapes.vector_norm,
    "pad.default": shapes.pad,
    "constant_pad_nd.default": lambda b, x, widths, value=0: shapes.pad(b, x, widths, "constant", value),
    "upsample_nearest2d.vec": shapes.upsample(1),
    "upsample_bilinear2d.vec": shapes.upsample(2),
    "pixel_shuffle.default": shapes.pixel_shuffle,
    "pixel_unshuffle.default": weights.pixel_unshuffle,
    "avg_pool2d.default": shapes.avg_pool,
    "max_pool2d.default": lambda b, *args: shapes.max_pool(b, *args)[0],
    "max_pool2d_with_indices.default": shapes.max_pool,
    "adaptive_avg_pool2d.default": shapes.adaptive_avg_pool,
    "_adaptive_avg_pool2d.default": shapes.adaptive_avg_pool,
    "grid_sampler.default": shapes.grid_sample,
    "grid_sampler_2d.default": shapes.grid_sample,
    "alias.default": _same,
    "clone.default": _same,
    "detach.default": _same,
    "dropout.default": _dropout,
}
