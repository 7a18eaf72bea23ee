"""PaddlePaddle's .pdparams files, read without executing anything of them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_BUILT = {
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"),
    ("numpy", "dtype"), ("collections", "OrderedDict"), ("_codecs", "encode"),
}  # fmt: skip
_NAMES = "StructuredToParameterName@@"  # Paddle's own table beside the tensors


class _Unpickler(pickle.Unpickler):
    """Builds containers and numpy arrays; refuses every other name."""

    def __init__(self, file, path: Path) -> None:
        super().__init__(file)
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _BUILT:
            raise ValueError(f"{self.path}: refused: it would execute {module}.{name}, which no array needs")
        return super().find_class(module, name)


def read_pdparams(path: str | Path) -> dict[str, Tensor]:
    """Names -> tensors, in Paddle's layouts. Raises ValueError where the file holds anything else."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            content = _Unpickler(file, path).load()
    except (pickle.UnpicklingError, EOFError, OSError, AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a .pdparams file ({error})") from None
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path}: expected names of arrays, got {type(content).__name__}")
    state = {}
    for key, value in content.items():
        if key == _NAMES:
            continue
        if isinstance(value, tuple):  # (name, array), as Paddle 2.0 has it
            value = value[-1]
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            raise ValueError(f"{path}: {key}: expected an array of numbers, got {type(value).__name__}")
        state[str(key)] = torch.from_numpy(value.copy())
    return state
