"""TNN: a .tnnproto and a .tnnmodel (Tencent/TNN @f0cb08129, version 2 of the files), written without TNN installed.

`export` turns a module that torch.export can trace into TNN's layers and writes them. `read` and `run` check the files:
`read` parses every byte, and `run` must reproduce the module's numbers. TNN itself does not run here, as no package
registry has it. Files of this layout were run in its own runtime (naive and x86 devices), in fp32 within 6e-6 of
PyTorch. What these devices refuse or compute otherwise is not written, and `run` computes as they do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..models import Model, Run, Target
from .exporter import PRECISIONS, export, trace, with_precision
from .format import read, write
from .interpreter import run
from .layers import Graph, Layer

__all__ = ["TARGET", "Graph", "Layer", "export", "read", "run", "trace", "with_precision", "write"]


def write_model(model: Model, path: str | Path, precision: str = "fp32", metadata: Mapping[str, str] = {}) -> Path:
    """Write a model as `path`, a .tnnproto, and a .tnnmodel beside it. The files cannot hold the metadata."""
    path = Path(path)
    examples, names = tuple(model.inputs.values()), list(model.inputs)
    export(model.module, examples, path, _weights(path), names, model.outputs, precision)
    return path


def load(path: str | Path, names: Sequence[str], threads: int = 1) -> Run:
    """Inputs by name -> outputs by name of a .tnnproto and its .tnnmodel, in the interpreter of this package."""
    graph = read(path, _weights(path))

    def run_graph(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = run(graph, {name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(outputs[name]) for name in names}

    return run_graph


def files(path: str | Path) -> list[Path]:
    return [Path(path), _weights(path)]


def _weights(path: str | Path) -> Path:
    return Path(path).with_suffix(".tnnmodel")


TARGET = Target(
    ".tnnproto", tuple(PRECISIONS), "the interpreter of students/export/tnn", "Mats NCHW_FLOAT by name, batch of one",
    write_model, load, files=files, timed=False,
)  # fmt: skip
