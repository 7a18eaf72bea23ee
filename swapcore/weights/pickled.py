"""Content of torch files that torch's own reader of weights refuses, read without executing anything of it.

Such a file names classes to import and build: a network saved whole, the settings of a trainer, numpy numbers. torch's
reader also cannot be configured for the older format, which stores the source of every class beside the class. Here
every name becomes an inert stand-in that keeps its attributes; nothing is imported. Only tensors and arrays are taken
from the tree. Both formats are read: the zip archive and the older one.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

# A file that names one of these was made to do harm. A stand-in would be inert too, but the user should know.
_HARMFUL = re.compile(
    r"(os|posix|nt|subprocess|shutil|socket|sys|runpy|importlib|ctypes|pty|webbrowser|pickle|torch\.hub)\..+"
    r"|builtins\.(eval|exec|compile|open|__import__|breakpoint|input)"
)
_DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch's older format
_DAMAGE = (
    ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError,
    pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class _Refused(Exception):
    """The file cannot be read; the message gives the reason, `read` adds the path."""


class _Node(dict):
    """Stand-in for any object of the tree: it keeps attributes and, of a dict, the entries; it builds nothing."""

    __hash__ = object.__hash__  # it may be a key

    def __init__(self, *_arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)

    def append(self, _entry: object) -> None: ...

    extend = add = append


def _rebuild_tensor(numbers: Tensor, offset: int, size: tuple, stride: tuple, *_: object) -> Tensor:
    return numbers.as_strided(tuple(size), tuple(stride), offset)


_BUILT = {
    "collections.defaultdict": lambda *_: {},
    "collections.OrderedDict": OrderedDict,
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.set": set,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "numpy.core.multiarray._reconstruct": lambda *_: np.empty(0),  # its state follows
    "numpy.dtype": np.dtype,
    "_codecs.encode": lambda text, *_: text.encode("latin1"),
}


class _Unpickler(pickle.Unpickler):
    """Builds containers, arrays, stand-ins, and tensors whose numbers are read later."""

    def __init__(self, file: BinaryIO, bytes_at_most: int) -> None:
        super().__init__(file, encoding="utf-8")
        self.bytes_at_most = bytes_at_most
        self.numbers: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{ {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}.get(module, module) }.{name}"
        full = full.replace("numpy._core.", "numpy.core.")
        if full in _BUILT:
            return _BUILT[full]
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        if _HARMFUL.fullmatch(full):
            raise _Refused(f"refused, nothing was executed: it names {full}, which no network needs")
        return _Node

    def persistent_load(self, reference: Any) -> Any:
        """A class stored with its source, which is ignored, or the numbers that tensors are views of."""
        if reference[0] == "module":
            return reference[1]
        _, dtype, key, _, count, *view = reference
        if key not in self.numbers:
            if not 0 <= count * dtype.itemsize <= self.bytes_at_most:
                raise _Refused(f"damaged: {count} numbers announced in {self.bytes_at_most} bytes")
            self.numbers[key] = torch.empty(count, dtype=dtype)  # uses no memory until it is filled
        if view and view[0] is not None:
            _, offset, size = view[0]
            return self.numbers[key][offset : offset + size]
        return self.numbers[key]


def read(path: str | Path, select: Callable[[object], Any]) -> Any:
    """What `select` takes from the content: state dicts, from which only their own numbers are read into memory.

    `select` gets the tree with state dicts in the places of networks. Raises ValueError if the file is damaged, or
    names a function that executes something; errors of `select` pass.
    """
    path, chosen = Path(path), []

    def choose(content: object) -> object:
        chosen.append(select(_without_modules(content)))
        return chosen[0]

    try:
        (_zipped if zipfile.is_zipfile(path) else _legacy)(path, choose)
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from None
    except _DAMAGE as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{path}: "):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: not a file that torch.save wrote, or damaged ({reason})") from None
    return chosen[0]


def _zipped(path: Path, choose: Callable[[object], object]) -> None:
    with zipfile.ZipFile(path) as archive:
        tree = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if tree is None:
            raise _Refused("a zip archive without data.pkl: torch.save did not write it")
        with archive.open(tree) as file:
            unpickler = _Unpickler(file, path.stat().st_size)
            content = choose(unpickler.load())
        for key in _needed(content, unpickler.numbers):
            with archive.open(f"{tree.removesuffix('data.pkl')}data/{key}") as file:
                _fill(unpickler.numbers[key], file)


def _legacy(path: Path, choose: Callable[[object], object]) -> None:
    """Five pickles (magic number, protocol, system, tree, keys of the numbers), then length and numbers of each key."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if _Unpickler(file, size).load() != _LEGACY_MAGIC:
            raise _Refused("not a file that torch.save wrote")
        for _ in ("protocol", "system"):
            _Unpickler(file, size).load()
        unpickler = _Unpickler(file, size)
        content = choose(unpickler.load())
        needed = _needed(content, unpickler.numbers)
        for key in _Unpickler(file, size).load():
            numbers = unpickler.numbers[key]
            (count,) = struct.unpack("<q", file.read(8))
            if count != len(numbers):
                raise _Refused(f"damaged: {count} numbers, expected {len(numbers)}")
            if key in needed:
                _fill(numbers, file)
                needed.remove(key)
            else:
                file.seek(numbers.nbytes, io.SEEK_CUR)
        if needed or file.tell() > size:
            raise _Refused("damaged: cut off")


def _without_modules(content: object, depth: int = 3) -> object:
    """The content with state dicts in the places of networks, `depth` mappings deep."""
    if isinstance(content, _Node) and "_modules" in vars(content):
        return dict(_tensors(content, ""))
    if isinstance(content, Mapping) and depth:
        return {key: _without_modules(value, depth - 1) for key, value in content.items()}
    return content


def _tensors(node: _Node, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers under the names of torch.nn.Module.state_dict."""
    attributes = vars(node)
    transient = attributes.get("_non_persistent_buffers_set", ())
    for kind in ("_parameters", "_buffers"):
        for name, tensor in attributes.get(kind, {}).items():
            if isinstance(tensor, Tensor) and not (kind == "_buffers" and name in transient):
                yield prefix + name, tensor
    for name, child in attributes.get("_modules", {}).items():
        if isinstance(child, _Node):
            yield from _tensors(child, f"{prefix}{name}.")


def _needed(chosen: object, numbers: Mapping[str, Tensor]) -> set[str]:
    """Keys of the numbers that the tensors in nested mappings are views of."""
    used = {tensor.untyped_storage().data_ptr() for tensor in _leaves(chosen)}
    return {key for key, tensor in numbers.items() if tensor.untyped_storage().data_ptr() in used}


def _leaves(content: object) -> Iterator[Tensor]:
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, Mapping):
        for value in content.values():
            yield from _leaves(value)


def _fill(numbers: Tensor, file: BinaryIO) -> None:
    if file.readinto(numbers.view(torch.uint8).numpy()) != numbers.nbytes:
        raise _Refused("damaged: cut off")
