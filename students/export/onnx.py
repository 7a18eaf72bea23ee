"""ONNX: one file a model, run by onnxruntime. Wants the extra `export-onnx`.

Exported by torch.onnx with torch.export, opset 18 unless told otherwise; onnxruntime 1.20 and newer runs it. The graph
keeps no notes on where in the Python code a node comes from, which would make up a twentieth of the file. fp16 computes
in halves; int8 has small weights and computes in float32. (Rounding the inputs of layers as well, as onnxruntime's
dynamic quantization does, was no faster and thrice as far off.)
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swapcore.files import whole_file
from swapcore.onnx import Session

from .models import Model, Run

PRECISIONS = ("fp32", "fp16", "int8")
OPSET = 18
LEAST_WEIGHTS = 512  # fewer numbers stay float32 in int8


def write(
    model: Model,
    path: str | Path,
    precision: str = "fp32",
    metadata: Mapping[str, str] = {},
    dynamic_batch: bool = False,
    opset: int = OPSET,
) -> Path:
    """Write a model, whole or not at all; any batch where dynamic_batch, else one. `metadata` goes into the file.

    Raises ValueError naming the missing package, or the operator that cannot be expressed.
    """
    import onnx

    path = Path(path)
    examples, shapes = dict(model.inputs), None
    if dynamic_batch:  # an example of one would be taken for a batch that is always one
        examples = {name: torch.cat([tensor] * 2) for name, tensor in examples.items()}
        axes = [{0: torch.export.Dim("batch")} for _ in examples]
        shapes = tuple(axes) if model.name != "generator" else (axes[0], tuple(axes[1:]))
    quiet = logging.getLogger("torch.onnx")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model.module, tuple(examples.values()), dynamo=True, external_data=False, opset_version=opset,
                input_names=list(examples), output_names=list(model.outputs), dynamic_shapes=shapes, verbose=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()
        raise ValueError(f"{model.name}: cannot be exported to ONNX: {reason[0] if reason else error}") from error
    finally:
        quiet.setLevel(level)
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(proto)
    if precision == "fp16":
        proto = _halved(proto)
    elif precision == "int8":
        narrow(proto, "int8")
    with whole_file(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return path


def _halved(proto):
    """Weights and arithmetic in halves; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    del proto.graph.value_info[:]  # with the old types noted, onnxruntime would refuse the file
    return convert_float_to_float16(proto, keep_io_types=True, disable_shape_infer=True)


def narrow(proto, precision: str) -> None:
    """Store weights as halves (fp16), or as whole numbers with a scale for each output channel (int8), made float32
    again by nodes that a runtime computes as it loads the file: only the file is smaller, arithmetic is float32.

    Raises ValueError where a weight is beyond fp16. Scalars, and in int8 vectors and what is small, stay as they are.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    widening = []
    for tensor in list(proto.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or not tensor.dims:
            continue
        name, weights = tensor.name, numpy_helper.to_array(tensor)
        if precision == "fp16":
            small = halves(weights, name)
            widening.append(helper.make_node("Cast", [f"{name}.fp16"], [name], to=TensorProto.FLOAT))
        elif weights.ndim > 1 and weights.size >= LEAST_WEIGHTS:
            scale = np.abs(weights).max(tuple(range(1, weights.ndim)), keepdims=True) / np.float32(127)
            scale[scale == 0] = 1
            small = np.rint(weights / scale).astype(np.int8)
            proto.graph.initializer.append(numpy_helper.from_array(scale, f"{name}.scale"))
            widening += [
                helper.make_node("Cast", [f"{name}.int8"], [f"{name}.whole"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{name}.whole", f"{name}.scale"], [name]),
            ]
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(small, f"{name}.{precision}"))
    nodes = [*widening, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    checker.check_model(proto)


def halves(weights: np.ndarray, name: str) -> np.ndarray:
    """Weights rounded to float16. Raises ValueError naming those that are beyond it."""
    with np.errstate(over="ignore"):
        small = weights.astype(np.float16)
    if not np.isfinite(small).all():
        raise ValueError(f"the weight '{name}' is beyond fp16; take precision fp32")
    return small


def load(path: str | Path, names: Sequence[str], threads: int = 1) -> Run:
    """Inputs by name -> outputs by name of a file, in onnxruntime on the CPU. Raises ValueError on a damaged file."""
    session = Session(path, "CPU", threads)

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = session.run({name: tensor.numpy() for name, tensor in inputs.items()}, names)
        return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}

    return run
