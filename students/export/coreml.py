"""Core ML: an .mlpackage of the kind ML program. Wants the extra `export-coreml`.

Converted from torch.export's graph by coremltools, for iOS 16 and newer; inputs and outputs are float32 whatever the
precision inside. On a Mac the package is also run by Core ML; elsewhere by `mil.py`, and `how_run` says which.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..whole import whole
from . import mil
from .mil import INSTALL
from .models import Model, program

PRECISIONS = ("fp32", "fp16")


def write(model: Model, path: str | Path, precision: str = "fp32", metadata: Mapping[str, str] = {}) -> Path:
    """Write a model as a package, whole or not at all, with `metadata` in it.

    Raises ValueError naming the missing package, an unknown precision, or the operation that cannot be converted.
    """
    path = Path(path)
    if precision not in PRECISIONS:
        raise ValueError(f"Core ML: precision '{precision}', known: {', '.join(PRECISIONS)}")
    try:
        import coremltools as ct
    except ImportError:
        raise ValueError(f"exporting to Core ML needs coremltools: {INSTALL}") from None
    logging.getLogger("coremltools").setLevel(logging.CRITICAL)
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # where its progress bars go
        warnings.simplefilter("ignore")
        graph = program(model)
        try:
            package = ct.convert(
                graph,
                inputs=[
                    ct.TensorType(name=name, shape=tuple(tensor.shape), dtype=np.float32)
                    for name, tensor in model.inputs.items()
                ],
                outputs=[ct.TensorType(name=name, dtype=np.float32) for name in model.outputs],
                convert_to="mlprogram",
                compute_precision=ct.precision.FLOAT16 if precision == "fp16" else ct.precision.FLOAT32,
                minimum_deployment_target=ct.target.iOS16,
                skip_model_load=True,
            )
        except (NotImplementedError, ValueError, RuntimeError, TypeError, KeyError) as error:
            reason = str(error).strip().splitlines()
            raise ValueError(
                f"{model.name}: cannot be converted to Core ML: {reason[0] if reason else error}"
            ) from error
    for key, value in metadata.items():
        package.user_defined_metadata[key] = value
    with whole(path) as temporary:
        package.save(str(temporary))
    return path


def run(path: str | Path, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs by name of a package for inputs by name: by Core ML on a Mac, else by `mil.py`."""
    if sys.platform != "darwin":
        return mil.run(path, inputs)
    import coremltools as ct

    made = ct.models.MLModel(str(path)).predict({name: tensor.numpy() for name, tensor in inputs.items()})
    return {name: torch.from_numpy(np.asarray(array)) for name, array in made.items()}


def how_run() -> str:
    """What `run` does here, for the card."""
    return "Core ML" if sys.platform == "darwin" else "its program read back by coremltools, run in torch"


def size_bytes(path: str | Path) -> int:
    """Bytes of all files of the package."""
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
