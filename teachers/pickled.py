"""Tensors of a pickled object tree, as `torch.save(model)` writes it, read without executing anything of it.

Such a file names classes to import and build. torch's own reader of weights refuses it, and cannot be configured for
the older format, which stores the source of every class beside the class. Here every name that a tree of modules may
contain becomes an inert stand-in that keeps its attributes, and any other name is refused. Only tensors are taken from
the tree. Both formats are read: the zip archive and the older one.
"""

from __future__ import annotations

import io
import pickle
import re
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from swapcore.weights import unwrap

# The names in SimSwap's ArcFace file: a network and a margin head of a package `models`, an optimiser, perhaps wrapped
# by the training code (foamliu/InsightFace-v2), torch's own modules, and an accuracy.
_HARMLESS = re.compile(
    r"torch\.nn\.modules\.[\w.]+|torch\.nn\.parallel\.data_parallel\.DataParallel|torch\.optim\.[\w.]+|torch\.device"
    r"|torch\.nn\.backends\.thnn\._get_thnn_function_backend|copyreg\._reconstructor"
    r"|models(\.\w+)*\.(ResNet|IRBlock|SEBlock|ArcMarginModel)|optimizer\.InsightFaceOptimizer"
    r"|numpy\._?core\.multiarray\.(scalar|_reconstruct)|numpy\.(dtype|ndarray)|_codecs\.encode"
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
    """The file cannot be read; the message gives the reason, `read_module` adds the path."""


class _Node:
    """Stand-in for any object of the tree: it keeps the attributes and builds nothing."""

    def __init__(self, *_arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)


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
}


class _Unpickler(pickle.Unpickler):
    """Builds containers, stand-ins, and tensors whose numbers are read later; refuses every other name."""

    def __init__(self, file: BinaryIO, bytes_at_most: int) -> None:
        super().__init__(file, encoding="utf-8")
        self.bytes_at_most = bytes_at_most
        self.numbers: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{ {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}.get(module, module) }.{name}"
        if full in _BUILT:
            return _BUILT[full]
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        if _HARMLESS.fullmatch(full):
            return _Node
        raise _Refused(f"refused, nothing was executed: it names {full}, which no network needs")

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


def read_module(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a pickled module, alone or under "model" of a training state; of a state dict, itself.

    `module.` prefixes are removed. Of a training state only the network's numbers are read into memory. Raises
    ValueError if the file holds neither, is damaged, or names a class or function that no module needs.
    """
    path = Path(path)
    try:
        content = _zipped(path) if zipfile.is_zipfile(path) else _legacy(path)
    except _Refused as error:
        raise ValueError(f"{path}: {error}") from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: not a file that torch.save wrote, or damaged ({reason})") from None
    return unwrap(content, str(path))


def _zipped(path: Path) -> object:
    with zipfile.ZipFile(path) as archive:
        tree = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if tree is None:
            raise _Refused("a zip archive without data.pkl: torch.save did not write it")
        with archive.open(tree) as file:
            unpickler = _Unpickler(file, path.stat().st_size)
            content = _network(unpickler.load())
        for key in _needed(content, unpickler.numbers):
            with archive.open(f"{tree.removesuffix('data.pkl')}data/{key}") as file:
                _fill(unpickler.numbers[key], file)
    return content


def _legacy(path: Path) -> object:
    """Five pickles (magic number, protocol, system, tree, keys of the numbers), then length and numbers of each key."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        if _Unpickler(file, size).load() != _LEGACY_MAGIC:
            raise _Refused("not a file that torch.save wrote")
        for _ in ("protocol", "system"):
            _Unpickler(file, size).load()
        unpickler = _Unpickler(file, size)
        content = _network(unpickler.load())
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
    return content


def _network(content: object) -> object:
    """The state dict of a module, alone or under "model"; content without a module unchanged."""
    node = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(node, _Node):
        return content
    if "_modules" not in vars(node):
        raise _Refused("expected a pickled network, alone or under 'model'")
    return dict(_tensors(node, ""))


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


def _needed(content: object, numbers: Mapping[str, Tensor]) -> set[str]:
    """Keys of the numbers that the tensors of a state dict are views of; all keys for other content."""
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        return set(numbers)
    used = {tensor.untyped_storage().data_ptr() for tensor in content.values()}
    return {key for key, tensor in numbers.items() if tensor.untyped_storage().data_ptr() in used}


def _fill(numbers: Tensor, file: BinaryIO) -> None:
    if file.readinto(numbers.view(torch.uint8).numpy()) != numbers.nbytes:
        raise _Refused("damaged: cut off")
