"""Core ML: an .mlpackage of the kind ML program. Wants the extra `export-coreml`.

Converted from torch.export's graph by coremltools, for iOS 16 and newer; inputs and outputs are float32 whatever the
precision inside. On a Mac the package is also run by Core ML; elsewhere by `mil.py`, and `how_run` says which.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swapcore.files import whole_folder

from . import mil
from .models import Model, Run, program

ON_MAC = sys.platform == "darwin"
PRECISIONS = ("fp32", "fp16", "int8")


def write(model: Model, path: str | Path, precision: str = "fp32", metadata: Mapping[str, str] = {}) -> Path:
    """Write a model as a package, whole or not at all, with `metadata` in it.

    Raises ValueError naming the missing package, an unknown precision, or the operation that cannot be converted.
    """
    path = Path(path)
    import coremltools as ct

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
                compute_precision=ct.precision.FLOAT32 if precision == "fp32" else ct.precision.FLOAT16,
                minimum_deployment_target=ct.target.iOS16,
                skip_model_load=True,
            )
        except (NotImplementedError, ValueError, RuntimeError, TypeError, KeyError) as error:
            reason = str(error).strip().splitlines()
            raise ValueError(
                f"{model.name}: cannot be converted to Core ML: {reason[0] if reason else error}"
            ) from error
        if precision == "int8":
            weights = ct.optimize.coreml.OpLinearQuantizerConfig(mode="linear_symmetric", weight_threshold=512)
            config = ct.optimize.coreml.OptimizationConfig(global_config=weights)
            package = ct.optimize.coreml.linear_quantize_weights(package, config)
    for key, value in metadata.items():
        package.user_defined_metadata[key] = value
    with whole_folder(path) as temporary:
        package.save(str(temporary))
        (temporary / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)  # names of the graph it came from
    return path


def load(path: str | Path, names: Sequence[str], threads: int = 1) -> Run:
    """Inputs by name -> outputs by name of a package: by Core ML on a Mac, else by `mil.py`. Raises ValueError naming a
    damaged file."""
    if not ON_MAC:
        return mil.load(path, names)
    import coremltools as ct

    package = ct.models.MLModel(str(path))

    def outputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        made = package.predict({name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(np.asarray(made[name])) for name in names}

    return outputs


def how_run() -> str:
    """What `run` does here, for the card."""
    return "Core ML" if ON_MAC else "its program read back by coremltools, run in torch"


def files(path: str | Path) -> list[Path]:
    """All files of a package."""
    return [file for file in Path(path).rglob("*") if file.is_file()]
