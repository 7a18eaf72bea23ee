"""ONNX: one file a model, run by onnxruntime. Wants the extra `onnx`.

Exported by torch.onnx with torch.export, opset 18 unless told otherwise; onnxruntime 1.20 and newer runs it. The graph
keeps no notes on where in the Python code a node comes from, which would make up a twentieth of the file.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..whole import whole
from .models import Model

INSTALL = "pip install swapdistill[onnx]"
OPSET = 18


def write(
    model: Model, path: str | Path, dynamic_batch: bool = False, opset: int = OPSET, metadata: Mapping[str, str] = {}
) -> Path:
    """Write a model, whole or not at all; any batch where dynamic_batch, else one. `metadata` goes into the file.

    Raises ValueError naming the missing package, or the operator that cannot be expressed.
    """
    path = Path(path)
    try:
        import onnx
        import onnxscript  # noqa: F401  torch's exporter is built on it
    except ImportError as error:
        raise ValueError(f"exporting to ONNX needs the package {error.name}: {INSTALL}") from None
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
    with whole(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
    return path


def run(path: str | Path, inputs: Mapping[str, Tensor], threads: int = 1) -> dict[str, Tensor]:
    """Outputs by name of a file for inputs by name, in onnxruntime on the CPU. Raises ValueError naming the file."""
    session = _session(path, threads)
    names = [node.name for node in session.get_outputs()]
    feeds = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in inputs.items()}
    return {name: torch.from_numpy(array) for name, array in zip(names, session.run(None, feeds), strict=True)}


def _session(path: str | Path, threads: int):
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(f"running an ONNX file needs the package onnxruntime: {INSTALL}") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    try:
        return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own errors have no base class of their own
        raise ValueError(f"{path}: not an ONNX file that onnxruntime can run: {str(error).splitlines()[0]}") from error
