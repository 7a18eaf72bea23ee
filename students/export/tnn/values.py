"""Shared by the rules: blobs, the builder that they emit layers to, and arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, fx

from .layers import Layer


@dataclass(frozen=True)
class Value:
    """A blob. `origin`: the blob that it reshapes; `axes`: the axes of length one that were inserted into `origin`."""

    name: str
    shape: tuple[int, ...]
    origin: Value | None = field(default=None, compare=False)
    axes: tuple[int, ...] = ()


class Builder:
    """Collects the layers that rules emit, each named after the current node, and constants as blobs."""

    def __init__(self, reserved: set[str]) -> None:
        self.reserved = reserved
        self.layers: list[Layer] = []
        self.constants: dict[str, np.ndarray] = {}
        self.names: set[str] = set()
        self.node: fx.Node

    def _name(self) -> str:
        base = self.node.name + ("_" if self.node.name in self.reserved else "")
        name, count = base, 0
        while name in self.names:
            name, count = f"{base}.{count + 1}", count + 1
        self.names.add(name)
        return name

    @property
    def users(self) -> list[str]:
        """The operations that use the result of the node."""
        return [str(user.target).removeprefix("aten.") for user in self.node.users]

    def emit(
        self, kind: str, inputs: Sequence[Value], shape: Sequence[int], params: Sequence = (), blobs: Sequence = ()
    ) -> Value:
        """Add a layer; returns its output blob."""
        name = self._name()
        weights = tuple(np.ascontiguousarray(blob.float().numpy()) for blob in blobs)
        names = tuple(value.name for value in inputs)
        self.layers.append(Layer(kind, name, names, (name,), tuple(params), weights))
        return Value(name, tuple(shape))

    def constant(self, tensor: Tensor) -> Value:
        name = self._name()
        self.constants[name] = np.ascontiguousarray(tensor.float().numpy())
        return Value(name, tuple(tensor.shape))


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def want(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def combine(b: Builder, kind: str, x: Value | Tensor | float, y: Value | Tensor | float) -> Value:
    """Add, Sub, Mul or Div of two blobs, or of a blob and a constant on either side."""
    if isinstance(x, Value) and isinstance(y, Value):
        return b.emit(kind, [x, y], torch.broadcast_shapes(x.shape, y.shape), [-1])
    blob, constant, position = (x, y, 1) if isinstance(x, Value) else (y, x, 0)
    want(isinstance(blob, Value), "arithmetic of constants alone")
    constant = torch.as_tensor(constant, dtype=torch.float32)
    if constant.numel() == 1 and constant.ndim <= len(blob.shape):
        return pointwise(b, kind, blob, [position], [constant.reshape(1)])
    rank = max(len(blob.shape), constant.ndim)
    full = constant.reshape((1,) * (rank - constant.ndim) + tuple(constant.shape))
    return b.emit(kind, [blob], torch.broadcast_shapes(blob.shape, constant.shape), [position], [full])


def pointwise(b: Builder, kind: str, x: Value, params: Sequence = (), blobs: Sequence[Tensor] = ()) -> Value:
    """An elementwise layer. It goes before inserted axes: devices handle two and four axes best."""
    if x.axes:
        return unsqueeze(b, pointwise(b, kind, x.origin, params, blobs), x.axes)
    return b.emit(kind, [x], x.shape, params, blobs)


def unsqueeze(b: Builder, x: Value, axes: int | Sequence[int]) -> Value:
    """Insert axes of length one, in rising order; after another Unsqueeze, both become one layer."""
    axes = [axes % (len(x.shape) + 1)] if isinstance(axes, int) else list(axes)
    shape = list(x.shape)
    for axis in axes:
        shape.insert(axis, 1)
    joined = bool(x.axes) and x.axes[-1] < axes[0]
    source, axes = (x.origin, [*x.axes, *axes]) if joined else (x, axes)
    blob = b.emit("Unsqueeze", [source], shape, [len(axes), *axes])
    return Value(blob.name, tuple(shape), source, tuple(axes))


def layer_rule(kind: str) -> Callable:
    """The rule of an elementwise operation that has its own layer type."""
    return lambda b, x: pointwise(b, kind, x)
