"""Tensors of a pickled object tree: what `torch.save(model)` wrote, read without executing anything of it.

Such a file names classes, to be imported and built, and torch's own reader of weights refuses it. Here every name that
a tree of modules may hold is answered by an inert stand-in that keeps its attributes, any other name is refused, and
tensors are all that is taken from the tree. Both formats of torch are read: the zip archive, and the older one.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from . import checkpoint

# SimSwap's ArcFace file: a network and a margin head of a package `models`, an optimiser, and torch's own modules.
_HARMLESS = re.compile(
    r"torch\.nn\.modules\.[\w.]+|torch\.nn\.parallel\.data_parallel\.DataParallel|torch\.optim\.[\w.]+|torch\.device"
    r"|torch\.nn\.backends\.thnn\._get_thnn_function_backend|copyreg\._reconstructor"
    r"|models(\.\w+)*\.(ResNet|IRBlock|SEBlock|ArcMarginModel)"
)
_DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch's older format


class _Node:
    """Stands for any object of the tree."""

    def __init__(self, *_arguments: object) -> None:
        """Nothing is built."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update(state)


def _rebuild_tensor(numbers: Tensor, offset: int, size: tuple, stride: tuple, *_: object) -> Tensor:
    return numbers.as_strided(tuple(size), tuple(stride), offset)


def _rebuild_parameter(tensor: Tensor, *_: object) -> Tensor:
    return tensor


def _plain_dict(*_factory: object) -> dict:
    return {}


_BUILT = {
    "collections.defaultdict": _plain_dict,
    "collections.OrderedDict": OrderedDict,
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.set": set,
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
}


class _Unpickler(pickle.Unpickler):
    """Builds containers, tensors whose numbers are filled in later, and stand-ins; refuses every other name."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file, encoding="utf-8")
        self.path, self.bytes = path, path.stat().st_size
        self.numbers: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        full = f"{ {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}.get(module, module) }.{name}"
        if full in _BUILT:
            return _BUILT[full]
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        if _HARMLESS.fullmatch(full):
            return _Node
        raise ValueError(f"{self.path}: refused: it would execute {full}, which no network needs")

    def persistent_load(self, reference: Any) -> Any:
        """A class of a module with its source, which is not looked at, or the numbers that tensors are views of."""
        if reference[0] == "module":
            return reference[1]
        _, dtype, key, _, count, *view = reference
        if key not in self.numbers:
            if not 0 <= count * dtype.itemsize <= self.bytes:
                raise ValueError(f"{self.path}: damaged: {count} numbers announced in {self.bytes} bytes")
            self.numbers[key] = torch.empty(count, dtype=dtype)
        if view and view[0] is not None:
            _, offset, size = view[0]
            return self.numbers[key][offset : offset + size]
        return self.numbers[key]


def read_module(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a pickled module, alone or under "model" of a training state; of a state dict, itself.

    `module.` prefixes are off. Raises ValueError where the file holds neither, is damaged, or names what no module
    needs.
    """
    path = Path(path)
    try:
        content = _zipped(path) if zipfile.is_zipfile(path) else _legacy(path)
    except (
        pickle.UnpicklingError, EOFError, OSError, AttributeError, IndexError, KeyError, RuntimeError, TypeError,
        UnicodeDecodeError, struct.error, zipfile.BadZipFile,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: not a file that torch.save wrote, or damaged ({reason})") from None
    node = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(node, _Node):
        return checkpoint.unwrap(content, str(path))
    if "_modules" not in vars(node):
        raise ValueError(f"{path}: expected a pickled network, alone or under 'model'")
    return {key.removeprefix("module."): tensor for key, tensor in _tensors(node, "")}


def _zipped(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        tree = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if tree is None:
            raise ValueError(f"{path}: a zip archive without data.pkl: torch.save did not write it")
        with archive.open(tree) as file:
            unpickler = _Unpickler(file, path)
            content = unpickler.load()
        for key, numbers in unpickler.numbers.items():
            _fill(numbers, archive.read(f"{tree.removesuffix('data.pkl')}data/{key}"), path)
    return content


def _legacy(path: Path) -> Any:
    """A magic number, the protocol, the system, the tree, the keys of the numbers; then length and numbers of each."""
    with open(path, "rb") as file:
        if _Unpickler(file, path).load() != _LEGACY_MAGIC:
            raise ValueError(f"{path}: not a file that torch.save wrote")
        for _ in ("protocol", "system"):
            _Unpickler(file, path).load()
        unpickler = _Unpickler(file, path)
        content = unpickler.load()
        for key in _Unpickler(file, path).load():
            (count,) = struct.unpack("<q", file.read(8))
            numbers = unpickler.numbers[key]
            if count != len(numbers):
                raise ValueError(f"{path}: damaged: {count} numbers where {len(numbers)} were announced")
            _fill(numbers, file.read(count * numbers.element_size()), path)
    return content


def _fill(numbers: Tensor, content: bytes, path: Path) -> None:
    if len(content) != len(numbers) * numbers.element_size():
        raise ValueError(f"{path}: damaged: cut off")
    if content:
        numbers.copy_(torch.frombuffer(bytearray(content), dtype=numbers.dtype))


def _tensors(node: _Node, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """As torch.nn.Module.state_dict names them."""
    attributes = vars(node)
    transient = attributes.get("_non_persistent_buffers_set", ())
    for kind in ("_parameters", "_buffers"):
        for name, tensor in attributes.get(kind, {}).items():
            if isinstance(tensor, Tensor) and not (kind == "_buffers" and name in transient):
                yield prefix + name, tensor
    for name, child in attributes.get("_modules", {}).items():
        if isinstance(child, _Node):
            yield from _tensors(child, f"{prefix}{name}.")
