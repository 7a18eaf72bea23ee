"""PaddlePaddle's .pdparams files, read without executing them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from swapcore.weights import kinds

_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"), ("numpy", "ndarray"),
    ("numpy", "dtype"), ("collections", "OrderedDict"), ("builtins", "tuple"), ("__builtin__", "tuple"),
    ("_codecs", "encode"),
}  # fmt: skip
_NAMES = "StructuredToParameterName@@"  # a table that Paddle stores beside the tensors
# Raised by the unpickler on a file that is cut off or holds other objects.
_UNPICKLING_ERRORS = (
    pickle.UnpicklingError, EOFError, AttributeError, ImportError, LookupError, MemoryError, OverflowError, TypeError,
)  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """Builds containers and numpy arrays; refuses every other class and function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise ValueError(f"refused: it would execute {module}.{name}, which no array needs")
        return super().find_class(module, name)


def _tensor(value: Any) -> Tensor:
    """An array as a tensor. Raises TypeError if value is not an array of numbers."""
    if isinstance(value, tuple) and len(value) == 2:  # (name, array): a tensor that was not saved in a state dict
        value = value[1]
    if not isinstance(value, np.ndarray):
        raise TypeError(type(value).__name__)
    if value.dtype == np.uint16:  # numpy has no bfloat16: Paddle saves its bits
        return torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))


def read_pdparams(path: str | Path) -> dict[str, Tensor]:
    """Names -> tensors, in Paddle's layouts, of a state dict, or {"state_dict": ...}, that `paddle.save` wrote.

    Raises ValueError naming the file if it holds anything else, FileNotFoundError if there is no such file.
    """
    path = Path(path)
    with open(path, "rb") as file:
        try:
            content = _Unpickler(file).load()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        except _UNPICKLING_ERRORS as error:
            if kinds.kind_of(path).name != kinds.PICKLE:
                raise ValueError(kinds.refusal(path, "a .pdparams file")) from None
            raise ValueError(f"{path}: not a .pdparams file ({error})") from None
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not content.keys() - {_NAMES}:
        raise ValueError(f"{path}: expected arrays by name, got {type(content).__name__}")
    state = {}
    for key, value in content.items():
        if key == _NAMES:
            continue
        try:
            state[str(key)] = _tensor(value)
        except TypeError as error:
            raise ValueError(f"{path}: {key}: expected an array of numbers, got {error}") from None
    return state
