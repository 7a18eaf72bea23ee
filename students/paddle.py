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
    ("numpy", "dtype"), ("collections", "OrderedDict"), ("builtins", "tuple"), ("__builtin__", "tuple"),
    ("_codecs", "encode"),
}  # fmt: skip
_NAMES = "StructuredToParameterName@@"  # Paddle's own table beside the tensors
# What a file that is not a whole pickle of arrays can make the unpickler raise.
_BROKEN = (
    pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError, MemoryError, OverflowError, TypeError,
)  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Builds containers and numpy arrays; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _BUILT:
            raise ValueError(f"refused: it would execute {module}.{name}, which no array needs")
        return super().find_class(module, name)


def _tensor(value: Any) -> Tensor:
    """Raises TypeError where value is no array of numbers."""
    if isinstance(value, tuple) and len(value) == 2:  # (name, array): a tensor that was not saved in a state dict
        value = value[1]
    if not isinstance(value, np.ndarray):
        raise TypeError(type(value).__name__)
    if value.dtype == np.uint16:  # numpy has no bfloat16: Paddle saves its bits
        return torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))


def read_pdparams(path: str | Path) -> dict[str, Tensor]:
    """Names -> tensors, in Paddle's layouts, of what `paddle.save` wrote of a state dict, or of {"state_dict": ...}.

    Raises ValueError naming the file where it holds anything else, FileNotFoundError where there is none.
    """
    path = Path(path)
    with open(path, "rb") as file:
        try:
            content = _Unpickler(file).load()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        except _BROKEN as error:
            raise ValueError(f"{path}: not a .pdparams file ({error})") from None
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not content.keys() - {_NAMES}:
        raise ValueError(f"{path}: expected names of arrays, got {type(content).__name__}")
    state = {}
    for key, value in content.items():
        if key == _NAMES:
            continue
        try:
            state[str(key)] = _tensor(value)
        except TypeError as error:
            raise ValueError(f"{path}: {key}: expected an array of numbers, got {error}") from None
    return state
