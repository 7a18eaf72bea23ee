"""ONNX files: run by onnxruntime, checked against the shapes that a caller expects; and their hash.

A file may keep its tensors in other files (external data). The hash of a network covers them too.
"""

from __future__ import annotations

import hashlib
import mmap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from swapcore import terminal
from swapcore.files import sha256
from swapcore.weights import kinds

PROVIDERS = ("CUDAExecutionProvider", "CoreMLExecutionProvider", "CPUExecutionProvider")
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_ANY = 512  # length of a free axis in the trial run; most embeddings have it

# Messages of onnx.proto in which a tensor may lie: message -> {number of a field: message of that field}.
_MESSAGES = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_EXTERNAL_ENTRY, _DATA_LOCATION, _EXTERNAL = 13, 14, 1  # fields of a tensor, and the location of external data

Shape = tuple[int | None, ...]  # without the batch; None is any size


class Session:
    """An ONNX file opened by onnxruntime.

    `run` takes and returns arrays by name, as the file declares them. After `fit` has checked the file, calling the
    session takes tensors and returns the first output, in whole batches if the file accepts them.
    """

    def __init__(self, path: str | Path, providers: Sequence[str] | str | None = None, threads: int = 0) -> None:
        """Open a file. providers: of onnxruntime, best first, with or without "ExecutionProvider"; None takes those of
        CUDA, CoreML and CPU that are available. threads: of a CPU, 0 for onnxruntime's choice.

        Raises ValueError if onnxruntime, the provider or the file is missing, if the file is not ONNX, and if a
        provider that the caller names does not start. If a default provider does not start, it warns and uses the next.
        """
        runtime = _onnxruntime()
        chosen = _choose(runtime, providers)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # fatal only: errors are raised as exceptions too
        device = torch.cuda.current_device() if torch.cuda.is_available() else 0
        settings = [{"device_id": str(device)} if name.startswith("CUDA") else {} for name in chosen]
        self.path, self.failures = Path(path), _failures()
        kind = kinds.kind_of(path)
        try:
            self.session = runtime.InferenceSession(str(path), options, chosen, settings)
        except self.failures as error:
            if kind.name != kinds.ONNX:
                raise ValueError(kinds.refusal(path, kinds.ONNX)) from None
            raise ValueError(f"{path}: not an ONNX file that onnxruntime can run: {_short(error)}") from None
        running = self.session.get_providers()
        if chosen[0] not in running:
            message = f"{path}: {chosen[0]} does not start; onnxruntime would use {', '.join(running)}"
            if providers is not None:
                raise ValueError(f"{message}; install the libraries of that provider, or take it out of providers")
            warnings.warn(message, stacklevel=2)

    @property
    def inputs(self) -> dict[str, list[int | str | None]]:
        """Declared shapes, batch first, by name; the size of a free axis is a name or None."""
        return {node.name: node.shape for node in self.session.get_inputs()}

    @property
    def metadata(self) -> dict[str, str]:
        """The texts that the exporter stored in the file."""
        return self.session.get_modelmeta().custom_metadata_map

    def run(self, arrays: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> list[np.ndarray]:
        """The named outputs, or all in the file's order. Raises ValueError if onnxruntime fails."""
        try:
            return self.session.run(outputs, {key: np.ascontiguousarray(array) for key, array in arrays.items()})
        except self.failures as error:
            raise ValueError(f"{self.path}: onnxruntime cannot run it: {_short(error)}") from None

    def fit(self, inputs: Mapping[str, Shape], output: Shape) -> Shape:
        """Check that the file takes `inputs` and that its first output has the shape `output`; returns the real shape.

        An input called "" may have any name. Declared output and batch sizes are often wrong, so both are measured by
        running noise. Raises ValueError that states the shapes of the file.
        """
        nodes = {node.name: node for node in self.session.get_inputs()}
        if list(inputs) == [""] and len(nodes) == 1:
            inputs = {name: inputs[""] for name in nodes}
        declared = ", ".join(f"{node.name} {_text(node.shape)} of {node.type}" for node in nodes.values()) or "none"
        expected = ", ".join(f"{name or 'one'} {_text((None, *shape))}" for name, shape in inputs.items())
        refusal = f"{self.path}: its inputs are {declared}; expected {expected}"
        if set(nodes) != set(inputs):
            hint = "" if "" in inputs else ", or set target_input and source_input of the card to its names"
            raise ValueError(f"{refusal}: give the file that belongs here{hint}")
        self.types, self.shapes, batches = {}, {}, set()
        for name, shape in inputs.items():
            batch, *own = [size if isinstance(size, int) else None for size in nodes[name].shape] or [None]
            if not _fits(own, shape):
                raise ValueError(f"{refusal}: give the file that belongs here, or change the card to match '{name}'")
            if nodes[name].type not in _TYPES:
                raise ValueError(f"{refusal} of {' or '.join(_TYPES)}: export it with floating-point inputs")
            self.types[name] = _TYPES[nodes[name].type]
            self.shapes[name] = tuple(a if b is None else b for a, b in zip(own, shape, strict=True))
            batches |= {batch} - {None}
        if len(batches) > 1:
            raise ValueError(f"{refusal}: export it with one batch size for all inputs")
        return self._measure(next(iter(batches), None), output)

    def _measure(self, fixed: int | None, output: Shape) -> Shape:
        """Run noise once or twice to learn the real output shape and the batch size that works."""
        rng, rows = np.random.default_rng(0), fixed or 1
        noise = {
            name: rng.uniform(-1, 1, (rows + 1, *(size or _ANY for size in shape)))
            for name, shape in self.shapes.items()
        }
        first = self._first_output({name: array[1:] for name, array in noise.items()})
        if first.shape[:1] != (rows,) or not _fits(first.shape[1:], output):
            raise ValueError(
                f"{self.path}: its first output is {_text(first.shape)}; expected {_text((rows, *output))}: give the "
                f"file that belongs here, or change the card"
            )
        self.batch: int | None = rows if fixed or not self._takes_two_rows(noise, first) else None
        self.output = first.shape[1:]
        return self.output

    def _takes_two_rows(self, noise: Mapping[str, np.ndarray], second: np.ndarray) -> bool:
        """Whether the second row of a batch of two has the same result as alone: traced graphs may fail or mix rows."""
        try:
            both = self._first_output(noise)
        except ValueError:
            return False
        if both.shape != (2, *second.shape[1:]):
            return False
        return bool(np.abs(both[1:] - second).max() <= 0.05 * np.abs(second).max())

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Inputs (N, ...) in the order of `fit` to the first output, float32 on the device of the first input.

        Raises ValueError on other shapes.
        """
        count = len(inputs[0])
        arrays = {}
        for (name, shape), tensor in zip(self.shapes.items(), inputs, strict=True):
            if len(tensor) != count or not _fits(tensor.shape[1:], shape):
                raise ValueError(f"{self.path}: {name}: expected {_text((count, *shape))}, got {tuple(tensor.shape)}")
            arrays[name] = tensor.detach().float().cpu().numpy()
        results = [np.empty((0, *self.output), np.float32)]
        step = self.batch or count
        for start in range(0, count, max(step, 1)):
            rows = {name: array[start : start + step] for name, array in arrays.items()}
            missing = step - len(next(iter(rows.values())))
            if missing:
                rows = {name: np.concatenate([r, np.repeat(r[-1:], missing, 0)]) for name, r in rows.items()}
            results.append(self._first_output(rows)[: step - missing])
        return torch.from_numpy(np.concatenate(results)).to(inputs[0].device)

    def _first_output(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        typed = {name: np.asarray(array, self.types[name]) for name, array in rows.items()}
        return self.run(typed)[0].astype(np.float32)


def content_sha256(path: str | Path) -> str:
    """The sha256 of everything that an ONNX file is read from: 64 hexadecimal digits.

    Without external data it is the sha256 of the file itself. Raises ValueError as `external_data`.
    """
    first, *others = files_by_name(path, "").items()
    if not others:
        return sha256(path)
    total = hashlib.sha256(bytes.fromhex(sha256(path)))
    for name, file in others:
        total.update(name.encode() + bytes.fromhex(sha256(file)))
    return total.hexdigest()


def files_by_name(path: str | Path, name: str) -> dict[str, Path]:
    """An ONNX file as `name`, and each file of its external data as `name/LOCATION`. Raises ValueError."""
    return {name: Path(path)} | {f"{name}/{where}": file for where, file in external_data(path).items()}


def external_data(path: str | Path) -> dict[str, Path]:
    """The files in which the tensors of an ONNX file lie, by their location relative to its folder, sorted.

    Most files have none. Only the structure of the file is read, not its tensors; the package onnx is not needed.
    Raises ValueError if the file is not ONNX, and if it names a file that is missing.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            locations = sorted(set(_locations(content, 0, len(content), "model")))
    except (IndexError, ValueError) as error:  # mmap refuses an empty file by a ValueError
        raise ValueError(f"{path}: not an ONNX file ({error})") from None
    files = {location: path.parent / location for location in locations}
    for file in files.values():
        if not file.is_file():
            raise ValueError(f"{path}: keeps tensors in {file}, which is missing; put that file there")
    return files


def _locations(content: mmap.mmap, start: int, stop: int, message: str) -> Iterator[str]:
    """The locations of external data in a message, which takes the bytes start .. stop."""
    fields = _fields(content, start, stop)
    if message == "tensor":
        fields = list(fields)
        if (_DATA_LOCATION, _EXTERNAL) in fields:
            entries = [dict(_fields(content, *span)) for number, span in fields if number == _EXTERNAL_ENTRY]
            texts = [[content[slice(*entry[part])].decode() for part in (1, 2)] for entry in entries if 2 in entry]
            yield from (value for key, value in texts if key == "location")
        return
    inner = _MESSAGES[message]
    for number, span in fields:
        if number in inner and isinstance(span, tuple):
            yield from _locations(content, *span, inner[number])


def _fields(content: mmap.mmap, start: int, stop: int) -> Iterator[tuple[int, int | tuple[int, int] | None]]:
    """The fields of a protobuf message: (number, value), which is a whole number, or the start and stop of bytes."""
    while start < stop:
        key, start = _varint(content, start)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, start = _varint(content, start)
            yield number, value
        elif kind == 2:
            length, start = _varint(content, start)
            yield number, (start, start + length)
            start += length
        elif kind in (1, 5):  # 8 or 4 bytes
            start += 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
    if start != stop:
        raise ValueError("cut off")


def _varint(content: mmap.mmap, start: int) -> tuple[int, int]:
    """A whole number in groups of seven bits, the lowest first, and the place behind it."""
    value = shift = 0
    while content[start] & 0x80:
        value |= (content[start] & 0x7F) << shift
        start, shift = start + 1, shift + 7
    return value | content[start] << shift, start + 1


def last_initializer(path: str | Path, size: int) -> Tensor:
    """The last initializer (size, size) of a file, float32. Raises ValueError if it has another shape, or if the
    package onnx is absent."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise ValueError(
            f"{path}: reading the matrix of its last initializer needs onnx: {terminal.install('onnx')}"
        ) from None
    try:
        initializers = onnx.load(path, load_external_data=False).graph.initializer
    except DecodeError as error:
        raise ValueError(f"{path}: not an ONNX file ({_short(error)})") from None
    shape = tuple(initializers[-1].dims) if initializers else None
    if shape != (size, size):
        raise ValueError(
            f"{path}: its last initializer is {shape and _text(shape)}; the card needs a matrix {(size, size)}: give "
            f"the original file (a simplified one is in another order), or set embedding of the card to l2 or raw"
        )
    matrix = onnx.numpy_helper.to_array(initializers[-1], base_dir=str(Path(path).parent))
    return torch.from_numpy(matrix.astype(np.float32))


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(f"an ONNX file needs onnxruntime: {terminal.install('onnx')} (or onnxruntime-gpu)") from None
    return onnxruntime


def _failures() -> tuple[type[Exception], ...]:
    """The exceptions of onnxruntime, which have no common base class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile",
        "NotImplemented", "RuntimeException",
    )  # fmt: skip
    return (RuntimeError, *(getattr(state, name) for name in names))


def _choose(runtime: ModuleType, names: Sequence[str] | str | None) -> list[str]:
    """The full names of the providers."""
    available = runtime.get_available_providers()
    if names is None:
        return [name for name in PROVIDERS if name in available]
    short = {name.lower().removesuffix("executionprovider"): name for name in available}
    chosen = []
    for name in [names] if isinstance(names, str) else names:
        known = short.get(str(name).lower().removesuffix("executionprovider"))
        if known is None:
            raise ValueError(
                f"providers: this onnxruntime has no '{name}', it has {', '.join(available)}; CUDA comes with "
                f"onnxruntime-gpu"
            )
        chosen.append(known)
    if not chosen:
        raise ValueError(f"providers: expected at least one of {', '.join(available)}")
    return chosen


def _fits(shape: Sequence[int | None], required: Sequence[int | None]) -> bool:
    return len(shape) == len(required) and all(
        a is None or b is None or a == b for a, b in zip(shape, required, strict=True)
    )


def _text(shape: Sequence[object]) -> str:
    return f"({', '.join('N' if size is None else str(size) for size in shape)})"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
