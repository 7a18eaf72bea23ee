"""Turns a module that torch.export can trace into TNN's layers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind, OutputKind

from ..conversion import halves, int8
from .format import write
from .layers import QUANTIZABLE, QUANTIZED, Graph, Layer, used
from .ops import RULES
from .values import Builder, Value


def export(
    module: nn.Module,
    example_inputs: Sequence[Tensor],
    proto_path: str | Path,
    model_path: str | Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
    precision: str = "fp32",
) -> Graph:
    """Write a module in evaluation mode as TNN's two files; returns their content.

    All sizes are those of the examples. precision: of the weights in the file, fp32, fp16 (convolutions, linear layers
    and batch normalisations) or int8 (convolutions and linear layers, with a scale for each output channel). Raises
    ValueError naming the operation without layers in TNN, and its submodule, and for what its runtime refuses.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision '{precision}', known: {', '.join(PRECISIONS)}")
    graph = with_precision(trace(module, example_inputs, input_names, output_names), precision)
    write(graph, proto_path, model_path)
    return graph


def trace(
    module: nn.Module, example_inputs: Sequence[Tensor], input_names: Sequence[str], output_names: Sequence[str]
) -> Graph:
    """The graph of a module with float32 weights. Raises the errors of `export`."""
    if module.training:
        raise ValueError("a module in training mode cannot be exported; call .eval()")
    if len({id(tensor) for tensor in example_inputs}) != len(example_inputs):
        raise ValueError("one tensor is given as two inputs, which would merge; give a clone")
    if len(set(input_names)) != len(example_inputs) or len(set(input_names)) != len(input_names):
        raise ValueError(f"{len(example_inputs)} inputs, but the names {', '.join(input_names)}")
    if any(tensor.dtype != torch.float32 for tensor in example_inputs):
        raise ValueError("inputs of other types than float32 cannot be exported")
    program = torch.export.export(module, tuple(example_inputs)).run_decompositions({})
    builder = Builder({*input_names, *output_names})
    values = _start_values(program, iter(input_names))
    inputs = {value.name: value.shape for value in values.values() if isinstance(value, Value)}
    program.graph.eliminate_dead_code()
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "call_function":
                values[node.name] = _lowered(builder, node, values)
    outputs = [values.get(name) for name in _returned(program)]
    return _named(builder, inputs, outputs, output_names)


def _start_values(program: torch.export.ExportedProgram, names) -> dict[str, Value | Tensor]:
    """The values of the placeholders: inputs under their names, weights and constants as tensors."""
    shapes = {node.name: tuple(node.meta["val"].shape) for node in program.graph.nodes if node.op == "placeholder"}
    values: dict[str, Value | Tensor] = {}
    for spec in program.graph_signature.input_specs:
        name, target = spec.arg.name, spec.target
        if spec.kind is InputKind.USER_INPUT:
            values[name] = Value(next(names), shapes[name])
        else:
            values[name] = (program.state_dict if target in program.state_dict else program.constants)[target].detach()
    return values


def _returned(program: torch.export.ExportedProgram) -> list[str | None]:
    specs = program.graph_signature.output_specs
    changed = [spec.target for spec in specs if spec.kind is not OutputKind.USER_OUTPUT]
    if changed:
        raise ValueError(f"the module changes its own '{changed[0]}' when it runs")
    return [getattr(spec.arg, "name", None) for spec in specs]


def _lowered(builder: Builder, node: fx.Node, values: dict):
    """The value of a node: computed if all its inputs are constant, else emitted as layers."""
    args, options = fx.map_arg((node.args, node.kwargs), lambda argument: values[argument.name])
    inputs = [values[argument.name] for argument in node.all_input_nodes]
    if node.target is operator.getitem:
        return args[0][args[1]]
    operation = str(node.target).removeprefix("aten.")
    random = torch.Tag.nondeterministic_seeded in node.target.tags
    if not random and all(isinstance(value, Tensor) for value in inputs):
        return node.target(*args, **options)
    rule = RULES.get(operation)
    if rule is None:
        raise ValueError(f"TNN has no layers for {operation}, {_place(node)}")
    builder.node = node
    try:
        result = rule(builder, *args, **options)
    except (ValueError, TypeError, AttributeError) as error:  # the latter two if a weight is not a constant
        raise ValueError(f"TNN has no layers for {operation}, {_place(node)}: {error}") from None
    expected = node.meta["val"] if isinstance(node.meta["val"], list | tuple) else [node.meta["val"]]
    for value, traced in zip(result if isinstance(result, list) else [result], expected, strict=False):
        if value.shape != tuple(traced.shape) and operation != "expand.default":
            raise ValueError(f"{operation}, {_place(node)}: gives {value.shape}, not {tuple(traced.shape)}")
    return result


def _place(node: fx.Node) -> str:
    """The submodule of a node, as `in NAME (CLASS)`."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack:
        return "in no submodule"
    return f"in {stack[-1][0] or 'the module itself'} ({str(stack[-1][1]).rpartition('.')[2]})"


def _named(builder: Builder, inputs: dict, outputs: list, names: Sequence[str]) -> Graph:
    """The graph of the layers that the outputs need, with the outputs under their own names."""
    if len(outputs) != len(names) or len(set(names) - set(inputs)) != len(names):
        raise ValueError(f"{len(outputs)} outputs, but the names {', '.join(names)}")
    for name, value in zip(names, outputs, strict=True):
        computed = isinstance(value, Value) and value.name not in inputs
        if not computed or [other.name for other in outputs if isinstance(other, Value)].count(value.name) > 1:
            raise ValueError(f"the output '{name}' is an input, a constant, or another output")
    new = {value.name: name for name, value in zip(names, outputs, strict=True)}
    layers = [
        replace(
            layer,
            inputs=tuple(new.get(name, name) for name in layer.inputs),
            outputs=tuple(new.get(name, name) for name in layer.outputs),
        )
        for layer in used(builder.layers, new)
    ]
    needed = {name for layer in layers for name in layer.inputs}
    constants = {name: array for name, array in builder.constants.items() if name in needed}
    return Graph(inputs, tuple(names), tuple(layers), constants)


def with_precision(graph: Graph, precision: str) -> Graph:
    """A graph of float32 weights with its weights in another precision. Raises ValueError for weights beyond fp16, and
    for int8 in a graph of one layer, which TNN reads without its scales."""
    layers = tuple(layer for before in graph.layers for layer in PRECISIONS[precision](before))
    if precision == "int8" and len(layers) == 1 and layers[0].type != layers[0].base:
        raise ValueError(f"layer {layers[0].name} is alone: TNN does not apply the scales of int8 in such a file")
    return replace(graph, layers=layers)


def _fp16(layer: Layer) -> list[Layer]:
    """Slopes and constants of arithmetic stay float32: they are small and must be exact."""
    if layer.type not in (*QUANTIZABLE, "BatchNormCxx"):
        return [layer]
    return [replace(layer, blobs=tuple(halves(blob, f"layer {layer.name}") for blob in layer.blobs))]


def _int8(layer: Layer) -> list[Layer]:
    """TNN multiplies the whole matrix of a linear layer by the first scale (DequantInnerProduct of @f0cb08129). So its
    rows are written with scale 1, and a layer behind it has the scales and the bias."""
    if layer.type not in QUANTIZABLE:
        return [layer]
    weight, *rest = layer.blobs
    integers, scale = int8(weight)
    scale = scale.reshape(-1)
    if layer.type == "Convolution":
        return [replace(layer, type=QUANTIZED + layer.type, blobs=(integers, *rest, scale))]
    rows, bias = f"{layer.outputs[0]}_rows", rest[0]
    blobs = (integers, np.zeros_like(bias), np.ones_like(scale))
    product = replace(layer, type=QUANTIZED + layer.type, outputs=(rows,), blobs=blobs)
    return [product, Layer("BatchNormCxx", f"{layer.name}_scales", (rows,), layer.outputs, (), (scale, bias))]


PRECISIONS: dict[str, Callable[[Layer], list[Layer]]] = {"fp32": lambda layer: [layer], "fp16": _fp16, "int8": _int8}
