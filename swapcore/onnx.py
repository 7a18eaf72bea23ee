"""ONNX files in onnxruntime: checked against what is expected of them, and run in batches."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

INSTALL = "pip install swapdistill[onnx]"
PROVIDERS = ("CUDAExecutionProvider", "CoreMLExecutionProvider", "CPUExecutionProvider")
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_ANY = 512  # numbers of an embedding where nobody says how many

Shape = tuple[int | None, ...]  # without the batch; None is any size


class Graph:
    """An ONNX file in a session of onnxruntime: tensors in, its first output out, in whole batches where it takes them.

    `fit` it before the first call.
    """

    def __init__(self, path: str | Path, providers: Sequence[str] | None = None, threads: int = 0) -> None:
        """Open the file; options as of OnnxTeacher. Raises ValueError: no onnxruntime, no such provider, no such file.

        A provider that was asked for must work; one that was not may give way to the next, with a warning.
        """
        runtime = _onnxruntime()
        chosen = _choose(runtime, providers)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # what goes wrong is raised as well
        device = torch.cuda.current_device() if torch.cuda.is_available() else 0
        settings = [{"device_id": str(device)} if name.startswith("CUDA") else {} for name in chosen]
        self.path, self.failures = Path(path), _failures()
        if not self.path.is_file():
            raise ValueError(f"{path}: no such file")
        try:
            self.session = runtime.InferenceSession(str(path), options, chosen, settings)
        except self.failures as error:
            raise ValueError(f"{path}: not an ONNX file that onnxruntime can run: {_short(error)}") from None
        running = self.session.get_providers()
        if chosen[0] not in running:
            told = f"{path}: {chosen[0]} could not be started, which leaves {', '.join(running)}"
            if providers is not None:
                raise ValueError(f"{told}; see what onnxruntime needs for it, or take it out of providers")
            warnings.warn(told, stacklevel=2)

    def fit(self, inputs: Mapping[str, Shape], output: Shape) -> Shape:
        """Check that it takes `inputs` and gives `output`; the output's shape. An input called "" has any name.

        Forwards of noise tell the output and whether two rows can go at once: what files declare of either is often
        wrong. Raises ValueError that says what the file has.
        """
        found = {node.name: node for node in self.session.get_inputs()}
        if list(inputs) == [""] and len(found) == 1:
            inputs = {name: inputs[""] for name in found}
        told = ", ".join(f"{node.name} {_told(node.shape)} of {node.type}" for node in found.values()) or "none"
        expected = ", ".join(f"{name or 'one'} {_told((None, *shape))}" for name, shape in inputs.items())
        refusal = f"{self.path}: its inputs are {told}; expected {expected}"
        if set(found) != set(inputs):
            hint = "" if "" in inputs else ", or set target_input and source_input of the card to its names"
            raise ValueError(f"{refusal}: give the file that belongs here{hint}")
        self.types, self.shapes, batches = {}, {}, set()
        for name, shape in inputs.items():
            batch, *own = [size if isinstance(size, int) else None for size in found[name].shape] or [None]
            if not _fits(own, shape):
                raise ValueError(f"{refusal}: give the file that belongs here, or change the card as '{name}' wants it")
            if found[name].type not in _TYPES:
                raise ValueError(f"{refusal} of {' or '.join(_TYPES)}: export it with floating-point inputs")
            self.types[name] = _TYPES[found[name].type]
            self.shapes[name] = tuple(a if b is None else b for a, b in zip(own, shape, strict=True))
            batches |= {batch} - {None}
        if len(batches) > 1:
            raise ValueError(f"{refusal}: export it with one batch size for all inputs")
        return self._probe(next(iter(batches), None), output)

    def _probe(self, fixed: int | None, output: Shape) -> Shape:
        """Run it once or twice: its real output, and the batch that works."""
        rng, rows = np.random.default_rng(0), fixed or 1
        noise = {
            name: rng.uniform(-1, 1, (rows + 1, *(size or _ANY for size in shape)))
            for name, shape in self.shapes.items()
        }
        made = self._run({name: array[1:] for name, array in noise.items()})
        if made.shape[:1] != (rows,) or not _fits(made.shape[1:], output):
            raise ValueError(
                f"{self.path}: its first output is {_told(made.shape)}; expected {_told((rows, *output))}: give the "
                f"file that belongs here, or change the card"
            )
        self.batch: int | None = rows if fixed or not self._takes_both(noise, made) else None
        self.output = made.shape[1:]
        return self.output

    def _takes_both(self, noise: Mapping[str, np.ndarray], second: np.ndarray) -> bool:
        """Whether two rows at once give for the second what it gives alone: traced graphs may fail, or mix them."""
        try:
            both = self._run(noise)
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
                raise ValueError(f"{self.path}: {name}: expected {_told((count, *shape))}, got {tuple(tensor.shape)}")
            arrays[name] = tensor.detach().float().cpu().numpy()
        made = [np.empty((0, *self.output), np.float32)]
        step = self.batch or count
        for start in range(0, count, max(step, 1)):
            rows = {name: array[start : start + step] for name, array in arrays.items()}
            short = step - len(next(iter(rows.values())))
            if short:
                rows = {name: np.concatenate([r, np.repeat(r[-1:], short, 0)]) for name, r in rows.items()}
            made.append(self._run(rows)[: step - short])
        return torch.from_numpy(np.concatenate(made)).to(inputs[0].device)

    def _run(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        feeds = {name: np.ascontiguousarray(array, self.types[name]) for name, array in rows.items()}
        try:
            return self.session.run(None, feeds)[0].astype(np.float32)
        except self.failures as error:
            raise ValueError(f"{self.path}: onnxruntime cannot run it: {_short(error)}") from None


def last_initializer(path: str | Path, size: int) -> Tensor:
    """The last initializer (size, size) of a graph, float32. Raises ValueError: no such, or no package to read it."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise ValueError(f"{path}: reading the matrix of its last initializer needs onnx: {INSTALL}") from None
    try:
        initializers = onnx.load(path, load_external_data=False).graph.initializer
    except DecodeError as error:
        raise ValueError(f"{path}: not an ONNX file ({_short(error)})") from None
    shape = tuple(initializers[-1].dims) if initializers else None
    if shape != (size, size):
        raise ValueError(
            f"{path}: its last initializer is {shape and _told(shape)}; the card says a matrix {(size, size)}: give "
            f"the original file (a simplified one is in another order), or set embedding of the card to l2 or raw"
        )
    matrix = onnx.numpy_helper.to_array(initializers[-1], base_dir=str(Path(path).parent))
    return torch.from_numpy(matrix.astype(np.float32))


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError:
        raise ValueError(f"an ONNX file needs onnxruntime: {INSTALL} (or onnxruntime-gpu)") from None
    return onnxruntime


def _failures() -> tuple[type[Exception], ...]:
    """What onnxruntime raises, which has no common class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile",
        "NotImplemented", "RuntimeException",
    )  # fmt: skip
    return (RuntimeError, *(getattr(state, name) for name in names))


def _choose(runtime: ModuleType, asked: Sequence[str] | str | None) -> list[str]:
    """The names of providers as onnxruntime has them."""
    available = runtime.get_available_providers()
    if asked is None:
        return [name for name in PROVIDERS if name in available]
    short = {name.lower().removesuffix("executionprovider"): name for name in available}
    chosen = []
    for name in [asked] if isinstance(asked, str) else asked:
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


def _fits(shape: Sequence[int | None], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(shape, wanted, strict=True)
    )


def _told(shape: Sequence[object]) -> str:
    return f"({', '.join('N' if size is None else str(size) for size in shape)})"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
