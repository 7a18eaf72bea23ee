"""LiteRT (TensorFlow Lite): a .tflite file. Needs the extra `export-litert`.

Converted by litert-torch from torch.export's graph, run by ai-edge-litert. fp16 stores weights in half precision. int8
stores int8 weights with a scale for each output channel; the runtime also rounds the inputs of those layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swapcore.files import whole_file

from .conversion import converting
from .fold import explicit_norms
from .models import Model, Run, Target

ERRORS = (RuntimeError, ValueError, TypeError, NotImplementedError)
FP16_RECIPE = [
    {
        "regex": ".*", "operation": "*", "algorithm_key": "float_casting",
        "op_config": {
            "weight_tensor_config": {"num_bits": 16, "dtype": "FLOAT"}, "compute_precision": "FLOAT",
            "explicit_dequantize": True,
        },
    }
]  # fmt: skip


def write(model: Model, path: str | Path, precision: str = "fp32", metadata: Mapping[str, str] = {}) -> Path:
    """Write a model as a .tflite file, which cannot hold the metadata.

    Outputs have the model's names; inputs are args_0, args_1, .. in the model's order. Raises ValueError naming the
    operation without a conversion.
    """
    import litert_torch

    class Named(torch.nn.Module):  # the names of outputs are the keys of a dictionary
        def __init__(self):
            super().__init__()
            self.module = explicit_norms(model.module)

        def forward(self, *inputs):
            tensors = self.module(*inputs)
            return dict(zip(model.outputs, tensors if isinstance(tensors, tuple) else (tensors,), strict=True))

    path = Path(path)
    with whole_file(path) as temporary:
        with converting(model.name, "LiteRT", ERRORS, "absl"):
            litert_torch.convert(Named().eval(), tuple(model.inputs.values())).export(str(temporary))
        if precision != "fp32":
            _quantize(temporary, precision)
    return path


def _quantize(path: Path, precision: str) -> None:
    from ai_edge_quantizer import quantizer, recipe

    quantizing = quantizer.Quantizer(str(path))
    quantizing.load_quantization_recipe(recipe.dynamic_wi8_afp32() if precision == "int8" else FP16_RECIPE)
    path.write_bytes(bytes(quantizing.quantize().quantized_model))


def load(path: str | Path, names: Sequence[str], threads: int = 1) -> Run:
    """Inputs by name -> outputs by name of a .tflite file. Raises ValueError naming a damaged file."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        runner = Interpreter(str(path), num_threads=threads).get_signature_runner()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: not a LiteRT file that can be run: {str(error).splitlines()[0]}") from error
    arguments = list(runner.get_input_details())  # args_0, args_1, .. in the model's order

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        arrays = (np.ascontiguousarray(tensor.numpy()) for tensor in inputs.values())
        outputs = runner(**dict(zip(arguments, arrays, strict=True)))
        return {name: torch.from_numpy(outputs[name]) for name in names}

    return run


TARGET = Target(
    ".tflite", ("fp32", "fp16", "int8"), "LiteRT",
    "signature serving_default: inputs args_0, args_1, .. in order, outputs by name; NCHW, batch of one",
    write, load, packages=("litert_torch", "ai_edge_litert", "ai_edge_quantizer"), extra="export-litert",
)  # fmt: skip
