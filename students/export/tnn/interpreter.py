"""Runs a TNN graph in torch, layer by layer, with the semantics of TNN's CPU kernels, to check written files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import Graph, Layer
from .values import want

_INFINITE = 2**31 - 1  # as the end of a slice: up to the end of the axis


def run(graph: Graph, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name for float32 inputs by name. Raises ValueError naming an input or a layer that does not fit."""
    if set(inputs) != set(graph.inputs):
        raise ValueError(f"expected the inputs {', '.join(graph.inputs)}, got {', '.join(inputs)}")
    blobs: dict[str, Tensor] = {}
    for name, shape in graph.inputs.items():
        array = np.asarray(inputs[name])
        if array.shape != shape or array.dtype != np.float32:
            raise ValueError(f"input {name}: expected {shape} float32, got {array.shape} {array.dtype}")
        blobs[name] = torch.from_numpy(np.ascontiguousarray(array))
    blobs |= {name: _float(array) for name, array in graph.constants.items()}
    uses_left = Counter(name for layer in graph.layers for name in layer.inputs) + Counter(graph.outputs)
    with torch.inference_mode():
        for layer in graph.layers:
            if layer.base == "GridSample" and layer.inputs[1] in graph.constants:
                raise ValueError(f"layer {layer.name}: a constant grid ends TNN's x86 device")
            operands = [blobs[name] for name in layer.inputs]
            try:
                blobs[layer.outputs[0]] = RULES[layer.base](layer, operands, _weights(layer))
            except (RuntimeError, ValueError, IndexError) as error:
                sizes = ", ".join(str(tuple(blob.shape)) for blob in operands)
                reason = str(error).splitlines()[0]
                raise ValueError(f"layer {layer.name} ({layer.type}) does not run on {sizes}: {reason}") from error
            for name in layer.inputs:
                uses_left[name] -= 1
                if uses_left[name] == 0:
                    blobs.pop(name, None)
        return {name: blobs[name].numpy().copy() for name in graph.outputs}


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def _weights(layer: Layer) -> list[Tensor]:
    """Weights as float32; integers are multiplied by the scale of their output channel, or all by the first scale in a
    linear layer, as the runtime does it."""
    if layer.type == layer.base:
        return [_float(blob) for blob in layer.blobs]
    weight, *rest, scale = (_float(blob) for blob in layer.blobs)
    if layer.base == "InnerProduct":
        return [weight * scale[0], *rest]
    return [weight * scale.view(-1, *[1] * (weight.ndim - 1)), *rest]


def _convolution(layer: Layer, x: list[Tensor], w: list[Tensor]) -> Tensor:
    group, _, _, _, _, sh, sw, ph, pw, _, pad_type, dh, dw, activation = layer.params
    want(pad_type == -1 and activation in (0, 1, 2), f"padding {pad_type} or activation {activation} is not known")
    want(dh == dw, f"dilations {dh} and {dw}: some devices use one for both")
    y = F.conv2d(x[0], w[0], w[1] if len(w) > 1 else None, (sh, sw), (ph, pw), (dh, dw), group)
    return (y, y.relu(), y.clamp(0, 6))[activation] if activation else y


def _inner_product(layer: Layer, x: list[Tensor], w: list[Tensor]) -> Tensor:
    want(layer.params[1:] == (1, 0, 1), "only an inner product along axis 1 with a bias is known")
    return x[0].flatten(1) @ w[0].T + w[1]


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable:
    def rule(layer: Layer, x: list[Tensor], w: list[Tensor]) -> Tensor:
        return function(*x, *w) if layer.params[0] != 0 else function(*w, *x)

    return rule


def _channels(values: Tensor, x: Tensor) -> Tensor:
    want(values.numel() in (1, x.shape[1]), f"{values.numel()} weights for {x.shape[1]} channels")
    return values.view(-1, *[1] * (x.ndim - 2))


def _batch_norm(layer: Layer, x: list[Tensor], w: list[Tensor]) -> Tensor:
    y = x[0] * _channels(w[0], x[0])
    return y + _channels(w[1], x[0]) if w[1].numel() else y


def _instance_norm(layer: Layer, x: list[Tensor], w: list[Tensor]) -> Tensor:
    flat = x[0].flatten(2)
    mean, variance = flat.mean(2, keepdim=True), flat.var(2, unbiased=False, keepdim=True)
    return _batch_norm(layer, [((flat - mean) / (variance + 1e-5).sqrt()).view_as(x[0])], w)


def _prelu(layer: Layer, x: list[Tensor], w: list[Tensor]) -> Tensor:
    return torch.where(x[0] < 0, x[0] * _channels(w[0], x[0]), x[0])


def _reduce(function: Callable) -> Callable:
    return lambda layer, x, w: function(x[0], layer.params[1:], bool(layer.params[0]))


def _unsqueeze(layer: Layer, x: list[Tensor], w: list[Tensor]) -> Tensor:
    for axis in layer.params[1:]:
        x = [x[0].unsqueeze(axis)]
    return x[0]


def _squeeze(layer: Layer, x: list[Tensor], w: list[Tensor]) -> Tensor:
    axes = layer.params[1:]
    want(all(x[0].shape[axis] == 1 for axis in axes), f"an axis of {axes} is longer than one")
    return x[0].squeeze(axes)


def _reshape(layer: Layer, x: list[Tensor], w: list[Tensor]) -> Tensor:
    start, end, rank, *dims, order = layer.params
    want((start, end, order) == (0, rank, 0), "only a reshape of all axes, in NCHW, is known")
    return x[0].reshape([x[0].shape[i] if size == 0 else size for i, size in enumerate(dims)])


def _slice(layer: Layer, x: list[Tensor], w: list[Tensor]) -> Tensor:
    n = layer.params[0]
    begins, ends, axes, strides = (layer.params[i * (n + 1) + 1 : (i + 1) * (n + 1)] for i in range(4))
    want(min(strides) > 0, f"strides {strides}")
    index = [slice(None)] * x[0].ndim
    for begin, end, axis, stride in zip(begins, ends, axes, strides, strict=True):
        index[axis] = slice(begin, None if end == _INFINITE else end, stride)
    return x[0][tuple(index)].contiguous()


def _pad(layer: Layer, x: list[Tensor], w: list[Tensor]) -> Tensor:
    top, bottom, left, right, first, last, mode, value = layer.params[2:]
    want(layer.params[:2] == (0, 0) and mode in (0, 1) and not (mode and (first or last)), f"padding {layer.params}")
    if mode == 0:
        return F.pad(x[0], (left, right, top, bottom, first, last), value=value)
    return F.pad(x[0], (left, right, top, bottom), mode="reflect")


def _upsample(layer: Layer, x: list[Tensor], w: list[Tensor]) -> Tensor:
    mode, scale_h, scale_w, align, *size = layer.params
    want(mode in (1, 2) and align in (0, 1), f"mode {mode} with align {align}")
    size = size or [int(x[0].shape[2] * scale_h), int(x[0].shape[3] * scale_w)]
    if mode == 1:
        return F.interpolate(x[0], size=size, mode="nearest")
    return F.interpolate(x[0], size=size, mode="bilinear", align_corners=bool(align))


def _pooling(layer: Layer, x: list[Tensor], w: list[Tensor]) -> Tensor:
    mode, kh, kw, sh, sw, ph, pw, ih, iw, pad_type, ceil, adaptive, _, _ = layer.params
    want((ih, iw, pad_type, adaptive) == (-1, -1, -1, 0) and mode in (0, 1), f"pooling {layer.params}")
    kernel, stride, padding = (kh or x[0].shape[2], kw or x[0].shape[3]), (sh, sw), (ph, pw)
    if mode == 0:
        return F.max_pool2d(x[0], kernel, stride, padding, ceil_mode=bool(ceil))
    return F.avg_pool2d(x[0], kernel, stride, padding, ceil_mode=bool(ceil), count_include_pad=False)


def _grid_sample(layer: Layer, x: list[Tensor], w: list[Tensor]) -> Tensor:
    want(layer.params == (2, 0, 0), f"sampling {layer.params}: TNN knows bilinear, zeros outside, no aligned corners")
    return F.grid_sample(x[0], x[1], padding_mode="zeros", align_corners=False)


RULES: dict[str, Callable[[Layer, list[Tensor], list[Tensor]], Tensor]] = {
    "Convolution": _convolution,
    "InnerProduct": _inner_product,
    "MatMul": _binary(torch.matmul),
    "BatchNormCxx": _batch_norm,
    "InstBatchNormCxx": _instance_norm,
    "PReLU": _prelu,
    "Add": _binary(torch.add),
    "Sub": _binary(torch.sub),
    "Mul": _binary(torch.mul),
    "Div": _binary(torch.div),
    "ReLU": lambda layer, x, w: x[0].relu(),
    "ReLU6": lambda layer, x, w: x[0].clamp(0, 6),
    "Sigmoid": lambda layer, x, w: x[0].sigmoid(),
    "Tanh": lambda layer, x, w: x[0].tanh(),
    "Sqrt": lambda layer, x, w: x[0].sqrt(),
    "Clip": lambda layer, x, w: x[0].clamp(*layer.params),
    "ReduceSum": _reduce(torch.sum),
    "ReduceMean": _reduce(torch.mean),
    "ReduceL2": _reduce(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Concat": lambda layer, x, w: torch.cat(x, layer.params[0]),
    "StridedSliceV2": _slice,
    "Pad": _pad,
    "Upsample": _upsample,
    "PixelShuffle": lambda layer, x, w: F.pixel_shuffle(x[0], layer.params[0]),
    "Pooling": _pooling,
    "GridSample": _grid_sample,
}
