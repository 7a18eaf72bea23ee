"""The layers of TNN that students need, with checks of their parameters and weights.

As in Tencent/TNN @f0cb08129: parameters have the order of its text, weights the shapes of its files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

QUANTIZED = "DynamicRangeQuantized"  # prefix of a type: int8 weights with a scale for each output channel
QUANTIZABLE = ("Convolution", "InnerProduct")
ANY = None  # in place of a shape or a size

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Layer:
    """One step of a graph. `blobs`: its weights, in the order of the file."""

    type: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    params: tuple[int | float, ...] = ()
    blobs: tuple[np.ndarray, ...] = ()

    @property
    def base(self) -> str:
        """The type without the prefix of int8 weights."""
        return self.type.removeprefix(QUANTIZED)


@dataclass(frozen=True)
class Graph:
    """Layers in running order. inputs: shapes of the float32 inputs. constants: blobs that no layer computes."""

    inputs: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    layers: tuple[Layer, ...]
    constants: dict[str, np.ndarray]

    @property
    def blobs(self) -> list[str]:
        """The names of all inputs, and of all blobs that layers read or write, sorted."""
        names = {name for layer in self.layers for name in (*layer.inputs, *layer.outputs)}
        return sorted(names | set(self.inputs))


@dataclass(frozen=True)
class Kind:
    """A layer type: the allowed numbers of inputs, the number of parameters (as a function of them), the indices of
    fractional parameters, the shapes of the weights. payload: fields before the weights in the file: "name" (of the
    layer), "bias" (whether it has one).
    """

    inputs: Callable[[int], bool] = lambda n: n == 1
    count: Callable[[Sequence], int] = lambda p: 0
    fractions: tuple[int, ...] = ()
    shapes: Callable[[Layer], Sequence[Shape]] = lambda layer: ()
    payload: tuple[str, ...] = ()


def _convolution(layer: Layer) -> list[Shape]:
    group, inputs, outputs, kh, kw = layer.params[:5]
    return [(outputs, inputs, kh, kw), *([(outputs,)] if layer.params[9] else [])]


def _operand(layer: Layer) -> list[Shape | None]:
    """A constant operand of any shape replaces one input; the parameter gives its position, 0 or 1, or -1 for none."""
    constant = layer.params[0] in (0, 1)
    if constant == (len(layer.inputs) == 2) or not -1 <= layer.params[0] <= 1:
        raise ValueError(f"position {layer.params[0]} of a constant does not fit {len(layer.inputs)} inputs")
    return [ANY] if constant else []


def _sizes(params: Sequence) -> int:
    """Four lists, each preceded by its length, all of the same length."""
    length = 1 + params[0]
    if any(params[i * length : i * length + 1] not in ((), params[:1]) for i in range(4)):
        raise ValueError("begins, ends, axes and strides differ in number")
    return 4 * length


_PER_CHANNEL = Kind(shapes=lambda layer: [(ANY,), (ANY,)])
_BINARY = Kind(inputs=lambda n: n in (1, 2), count=lambda p: 1, shapes=_operand)
_REDUCE = Kind(count=lambda p: max(2, len(p)))
_AXES = Kind(count=lambda p: 1 + p[0])

KINDS: dict[str, Kind] = {
    "Convolution": Kind(count=lambda p: 14, shapes=_convolution, payload=("name", "bias")),
    "InnerProduct": Kind(
        count=lambda p: 4, shapes=lambda layer: [(layer.params[0], ANY), (layer.params[0],)], payload=("name",)
    ),
    "MatMul": _BINARY,
    "BatchNormCxx": _PER_CHANNEL,
    "InstBatchNormCxx": _PER_CHANNEL,
    "PReLU": Kind(count=lambda p: 2, shapes=lambda layer: [(1,) if layer.params[0] else (ANY,)], payload=("name",)),
    "Add": _BINARY,
    "Sub": _BINARY,
    "Mul": _BINARY,
    "Div": _BINARY,
    "ReLU": Kind(),
    "ReLU6": Kind(),
    "Sigmoid": Kind(),
    "Tanh": Kind(),
    "Sqrt": Kind(),
    "Clip": Kind(count=lambda p: 2, fractions=(0, 1)),
    "ReduceSum": _REDUCE,
    "ReduceMean": _REDUCE,
    "ReduceL2": _REDUCE,
    "Unsqueeze": _AXES,
    "Squeeze": _AXES,
    "Reshape": Kind(count=lambda p: 4 + p[2] if len(p) > 2 else 4),
    "Concat": Kind(inputs=lambda n: n >= 1, count=lambda p: 1),
    "StridedSliceV2": Kind(count=_sizes),
    "Pad": Kind(count=lambda p: 10, fractions=(9,)),
    "Upsample": Kind(count=lambda p: 6 if len(p) > 1 and p[1] == 0 else 4, fractions=(1, 2)),
    "PixelShuffle": Kind(count=lambda p: 1),
    "Pooling": Kind(count=lambda p: 14),
    "GridSample": Kind(inputs=lambda n: n == 2, count=lambda p: 3),
}


def kind(type_name: str) -> Kind:
    """The kind of a type, with or without int8 weights. Raises ValueError on an unknown type."""
    base = type_name.removeprefix(QUANTIZED)
    if base not in KINDS or (base != type_name and base not in QUANTIZABLE):
        raise ValueError(f"unknown layer type '{type_name}', known: {', '.join(KINDS)}")
    return KINDS[base]


def numbers(type_name: str, words: Sequence[str]) -> tuple[int | float, ...]:
    """The parameters of a layer from its words. Raises ValueError on a word that is not a (whole) number."""
    fractions = kind(type_name).fractions
    values: list[int | float] = []
    for index, word in enumerate(words):
        try:
            value = float(word) if index in fractions else int(word)
        except ValueError:
            sort = "number" if index in fractions else "whole number"
            raise ValueError(f"parameter {index + 1} is not a {sort}: '{word}'") from None
        if not math.isfinite(value):
            raise ValueError(f"parameter {index + 1} is not finite: '{word}'")
        values.append(value)
    return tuple(values)


def shapes(layer: Layer) -> list[Shape | None]:
    """The required shapes of a layer's weights, None for any shape. Raises ValueError if the number of its inputs,
    outputs or parameters is wrong."""
    known = kind(layer.type)
    if not known.inputs(len(layer.inputs)) or len(layer.outputs) != 1:
        raise ValueError(f"{len(layer.inputs)} inputs and {len(layer.outputs)} outputs do not fit a {layer.base}")
    try:
        expected = known.count(layer.params)
    except IndexError:  # the parameter that holds their number is missing
        expected = 1
    if len(layer.params) != expected:
        raise ValueError(f"expected {expected} parameters of a {layer.base}, got {len(layer.params)}")
    required = list(known.shapes(layer))
    return [*required, (required[0][0],)] if layer.type != layer.base else required


def check(graph: Graph, place: Callable[[Layer | None], str] = lambda layer: f"layer {layer.name}: " if layer else ""):
    """Raise ValueError, beginning with `place` of the layer, unless a graph is valid: names that the text can hold,
    blobs written once and before they are read, known types, correct parameters and weights."""
    for name in (*graph.inputs, *graph.constants):
        _name(name, place(None))
    for name in (name for name in graph.inputs if ":" in name):
        raise ValueError(f"{place(None)}the name of an input must not contain a colon: '{name}'")
    if not graph.inputs or not graph.outputs or not graph.layers:
        raise ValueError(f"{place(None)}no inputs, no outputs or no layers")
    known, seen = {*graph.inputs, *graph.constants}, set()
    for layer in graph.layers:
        where = place(layer)
        for name in (layer.name, *layer.outputs):
            _name(name, where)
        if layer.name in seen or known & set(layer.outputs):
            raise ValueError(f"{where}its name or one of its outputs occurred before")
        missing = [name for name in layer.inputs if name not in known]
        if missing:
            raise ValueError(f"{where}no layer before it computes '{missing[0]}'")
        known |= set(layer.outputs)
        seen.add(layer.name)
        try:
            required = shapes(layer)
        except ValueError as error:
            raise ValueError(f"{where}{error}") from None
        if len(layer.blobs) != len(required) or not all(map(_fits, layer.blobs, required)):
            actual = [tuple(blob.shape) for blob in layer.blobs]
            raise ValueError(f"{where}expected weights of shapes {required}, got {actual}")
        if layer.blobs and (layer.blobs[0].dtype == np.int8) != (layer.type != layer.base):
            raise ValueError(f"{where}weights of type {layer.blobs[0].dtype} in a {layer.type}")
    missing = [name for name in graph.outputs if name not in known]
    if missing:
        raise ValueError(f"{place(None)}no layer computes the output '{missing[0]}'")


def _fits(blob: np.ndarray, required: Shape | None) -> bool:
    if required is ANY:
        return True
    return len(blob.shape) == len(required) and all(w in (None, s) for s, w in zip(blob.shape, required, strict=True))


def _name(name: str, where: str) -> None:
    if not name or any(c in ',"' or c.isspace() or not c.isprintable() for c in name):
        raise ValueError(f"{where}a name must not contain blanks, commas or quotes: '{name}'")


def used(layers: Iterable[Layer], outputs: Iterable[str]) -> list[Layer]:
    """The layers that the outputs depend on, in their order."""
    needed, kept = set(outputs), []
    for layer in reversed(list(layers)):
        if needed & set(layer.outputs):
            kept.append(layer)
            needed |= set(layer.inputs)
    return kept[::-1]
