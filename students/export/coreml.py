"""Core ML: an .mlpackage with an ML program. Needs the extra `export-coreml`.

Converted by coremltools from torch.export's graph, for iOS 16 and newer. Inputs and outputs are float32 in every
precision. Core ML runs the package on a Mac; elsewhere `mil.py` does. RUNS_IN names the one in use.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swapcore.files import whole_folder

from . import mil
from .conversion import converting
from .models import Model, Run, Target, program

ON_MAC = sys.platform == "darwin"
RUNS_IN = "Core ML" if ON_MAC else "its program read back by coremltools, run in torch"
ERRORS = (NotImplementedError, ValueError, RuntimeError, TypeError, KeyError)


def write(model: Model, path: str | Path, precision: str = "fp32", metadata: Mapping[str, str] = {}) -> Path:
    """Write a model as a package with `metadata` in it. Raises ValueError naming the operation without a conversion."""
    import coremltools as ct

    path = Path(path)
    with converting(model.name, "Core ML", ERRORS, "coremltools"):
        package = ct.convert(
            program(model),
            inputs=[
                ct.TensorType(name=name, shape=tuple(tensor.shape), dtype=np.float32)
                for name, tensor in model.inputs.items()
            ],
            outputs=[ct.TensorType(name=name, dtype=np.float32) for name in model.outputs],
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16,
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        )
        if precision == "int8":
            weights = ct.optimize.coreml.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=512)
            places = dict.fromkeys(("resample", "concat"))  # constants that are no weights: where something lies
            config = ct.optimize.coreml.OptimizationConfig(global_config=weights, op_type_configs=places)
            package = ct.optimize.coreml.linear_quantize_weights(package, config)
    for key, value in metadata.items():
        package.user_defined_metadata[key] = value
    with whole_folder(path) as temporary:
        package.save(str(temporary))
        (temporary / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)  # names of torch's graph
    return path


def load(path: str | Path, names: Sequence[str], threads: int = 1) -> Run:
    """Inputs by name -> outputs by name of a package, in Core ML on a Mac, else in `mil.py`.

    Raises ValueError naming a damaged file.
    """
    if not ON_MAC:
        return mil.load(path, names)
    import coremltools as ct

    package = ct.models.MLModel(str(path))

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = package.predict({name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in names}

    return run


def files(path: str | Path) -> list[Path]:
    """All files of a package."""
    return [file for file in Path(path).rglob("*") if file.is_file()]


TARGET = Target(
    ".mlpackage", ("fp32", "fp16", "int8"), RUNS_IN, "MLMultiArrays of float32 by name, NCHW, batch of one",
    write, load, packages=("coremltools",), extra="export-coreml", files=files, timed=ON_MAC,
)  # fmt: skip
