"""ONNX: one file per model, run by onnxruntime. Needs the extra `export-onnx`.

Exported by torch.onnx from torch.export's graph, by default for opset 18; onnxruntime 1.20 and newer runs it. Debug
data (a twentieth of the file) is removed from the nodes. fp16 computes in half precision. int8 stores int8
weights and computes in float32. (onnxruntime's dynamic quantization, which also rounds the inputs of layers, was no
faster, and its error three times as large.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from swapcore.files import whole_file
from swapcore.onnx import Session

from .conversion import converting, halves, int8
from .models import Model, Run, Target

OPSET = 18
LEAST_WEIGHTS = 512  # smaller tensors stay float32 in int8
# What int8 narrows is read by these, perhaps by way of the last two: never the places at which a crop is sampled.
WEIGHS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Transpose", "Reshape")


def write(
    model: Model,
    path: str | Path,
    precision: str = "fp32",
    metadata: Mapping[str, str] = {},
    dynamic_batch: bool = False,
    opset: int = OPSET,
) -> Path:
    """Write a model with `metadata` in the file. The batch is one, or of any size with `dynamic_batch`.

    Raises ValueError naming the operator that cannot be exported.
    """
    import onnx

    path = Path(path)
    examples, shapes = dict(model.inputs), None
    if dynamic_batch:  # torch.export takes a size of one as fixed
        examples = {name: torch.cat([tensor] * 2) for name, tensor in examples.items()}
        axes = [{0: torch.export.Dim("batch")} for _ in examples]
        shapes = tuple(axes) if model.name != "generator" else (axes[0], tuple(axes[1:]))
    with converting(model.name, "ONNX", torch.onnx.OnnxExporterError, "torch.onnx"):
        program = torch.onnx.export(
            model.module, tuple(examples.values()), dynamo=True, external_data=False, opset_version=opset,
            input_names=list(examples), output_names=list(model.outputs), dynamic_shapes=shapes, verbose=False,
        )  # fmt: skip
    proto = program.model_proto
    fixed = [v.name for v in (*proto.graph.input, *proto.graph.output) if not v.type.tensor_type.shape.dim[0].dim_param]
    if dynamic_batch and fixed:
        raise ValueError(f"{model.name}: torch.onnx fixes the batch of {', '.join(fixed)}: use the target onnx")
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
    """Weights and arithmetic in half precision; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    del proto.graph.value_info[:]  # it holds the old types, and onnxruntime would refuse the file
    return convert_float_to_float16(proto, keep_io_types=True, disable_shape_infer=True)


def narrow(proto, precision: str) -> None:
    """Store weights as fp16, or as int8 with a scale for each output channel; arithmetic stays float32.

    Added nodes convert the weights to float32, which a runtime computes once, when it loads the file. Scalars stay
    float32, with int8 also vectors, small tensors and what is no weight. Raises ValueError if one is beyond fp16.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    weighs = {name for node in proto.graph.node if node.op_type in WEIGHS for name in node.input}
    widening = []
    for tensor in list(proto.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT or not tensor.dims:
            continue
        name, weights = tensor.name, numpy_helper.to_array(tensor)
        if precision == "fp16":
            small = halves(weights, name)
            widening.append(helper.make_node("Cast", [f"{name}.fp16"], [name], to=TensorProto.FLOAT))
        elif name in weighs and weights.ndim > 1 and weights.size >= LEAST_WEIGHTS:
            small, scale = int8(weights)
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


def load(path: str | Path, names: Sequence[str], threads: int = 1) -> Run:
    """Inputs by name -> outputs by name of a file, in onnxruntime on the CPU. Raises ValueError on a damaged file."""
    session = Session(path, "CPU", threads)

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = session.run({name: tensor.numpy() for name, tensor in inputs.items()}, names)
        return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}

    return run


PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TENSORS = "float32 tensors by name, NCHW, batch of one"
TARGET = Target(
    ".onnx", ("fp32", "fp16", "int8"), "onnxruntime", TENSORS, write, load, packages=PACKAGES, extra="export-onnx"
)
BATCH_TARGET = Target(
    ".onnx", ("fp32",), "onnxruntime, any batch",
    "float32 tensors by name, NCHW, any batch, the same for all inputs", partial(write, dynamic_batch=True), load,
    packages=PACKAGES, extra="export-onnx", batch=4,
)  # fmt: skip
