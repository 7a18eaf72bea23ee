"""TNN: a model as a .tnnproto and a .tnnmodel (Tencent/TNN @f0cb08129, version 2 of the files), without TNN installed.

`export` turns a module that torch.export can trace into TNN's layers and writes them; `read` and `run` prove the files:
what was written is read back whole, and gives the module's numbers. TNN itself does not run here: it is in no package
registry. Files of this layout were run once in its own x86 runtime, where they gave PyTorch's numbers within 1.2e-6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..models import Model, Run
from .exporter import PRECISIONS, export, trace
from .format import read, write
from .interpreter import run
from .layers import Graph, Layer

__all__ = [
    "PRECISIONS", "Graph", "Layer", "export", "files", "load", "read", "run", "trace", "write", "write_model",
]  # fmt: skip


def write_model(model: Model, path: str | Path, precision: str = "fp32", metadata: Mapping[str, str] = {}) -> Path:
    """Write a model as `path`, a .tnnproto, and a .tnnmodel beside it. TNN's files have no place for the metadata."""
    path = Path(path)
    export(
        model.module, tuple(model.inputs.values()), path, _weights(path), list(model.inputs), model.outputs, precision
    )
    return path


def load(path: str | Path, names: Sequence[str], threads: int = 1) -> Run:
    """Inputs by name -> outputs by name of a .tnnproto and its .tnnmodel, in the interpreter of this package."""
    graph = read(path, _weights(path))

    def outputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        made = run(graph, {name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(made[name]) for name in names}

    return outputs


def files(path: str | Path) -> list[Path]:
    return [Path(path), _weights(path)]


def _weights(path: str | Path) -> Path:
    return Path(path).with_suffix(".tnnmodel")
