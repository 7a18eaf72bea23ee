"""LiteRT (TensorFlow Lite): a model as a .tflite file. Wants the extra `export-litert`.

Converted by litert-torch from torch.export's graph, run by ai-edge-litert. fp16 stores weights as halves, int8 as whole
numbers with a scale for each output channel, which the runtime multiplies with inputs it rounds as they come.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swapcore.files import whole_folder

from .fold import spelled_out
from .models import Model, Run

PRECISIONS = ("fp32", "fp16", "int8")


def write(model: Model, path: str | Path, precision: str = "fp32", metadata: Mapping[str, str] = {}) -> Path:
    """Write a model as a .tflite file, its outputs by the model's names, its inputs args_0, args_1, .. in the model's
    order. The file has no place for the metadata. Raises ValueError naming what cannot be converted."""
    import litert_torch

    class Named(torch.nn.Module):  # names of outputs come from the keys of a dictionary
        def __init__(self):
            super().__init__()
            self.inside = spelled_out(model.module)

        def forward(self, *given):
            made = self.inside(*given)
            return dict(zip(model.outputs, made if isinstance(made, tuple) else (made,), strict=True))

    path = Path(path)
    with whole_folder(path) as temporary:
        try:
            with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                logging.getLogger("absl").setLevel(logging.ERROR)
                converted = litert_torch.convert(Named().eval(), tuple(model.inputs.values()))
                converted.export(str(temporary))
        except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            reason = str(error).strip().splitlines()
            raise ValueError(
                f"{model.name}: cannot be converted to LiteRT: {reason[0] if reason else error}"
            ) from error
        if precision != "fp32":
            _quantize(temporary, precision)
    return path


def _quantize(path: Path, precision: str) -> None:
    from ai_edge_quantizer import quantizer, recipe

    made = quantizer.Quantizer(str(path))
    made.load_quantization_recipe(recipe.dynamic_wi8_afp32() if precision == "int8" else _HALVES)
    content = made.quantize().quantized_model
    path.write_bytes(bytes(content))


_HALVES = [
    {
        "regex": ".*", "operation": "*", "algorithm_key": "float_casting",
        "op_config": {
            "weight_tensor_config": {"num_bits": 16, "dtype": "FLOAT"}, "compute_precision": "FLOAT",
            "explicit_dequantize": True,
        },
    }
]  # fmt: skip


def load(path: str | Path, names: Sequence[str], threads: int = 1) -> Run:
    """Inputs by name -> outputs by name of a .tflite file. Raises ValueError naming a damaged file."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        runner = Interpreter(str(path), num_threads=threads).get_signature_runner()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: not a LiteRT file that can be run: {str(error).splitlines()[0]}") from error
    given = list(runner.get_input_details())  # args_0, args_1, .. in the model's order

    def outputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = (np.ascontiguousarray(tensor.numpy()) for tensor in inputs.values())
        made = runner(**dict(zip(given, arrays, strict=True)))
        return {name: torch.from_numpy(made[name]) for name in names}

    return outputs
