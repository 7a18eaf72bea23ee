"""The runtimes a student can be exported to, by name. Adding one: a module with `write` and `load`, and a line here."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import coreml, executorch, litert, mnn, ncnn, onnx, tnn, web
from .models import Model, Run


def _itself(path: Path) -> list[Path]:
    return [path]


@dataclass(frozen=True)
class Target:
    """How a model becomes a file, and how that file is run here.

    write(model, path, precision, metadata) -> path; load(path, names of outputs, threads) -> Run; files(path): all that
    has to be shipped. runs_in, feed: for the card, what ran it here and how its inputs are handed over. packages: what
    write and load import; extra: what installs them. timed: whether `load` runs it as a device would, so that its speed
    says something. batch: pictures at once when checked. Without write and load it is a page of all models, which
    page_proof.py writes and runs.
    """

    suffix: str
    write: Callable[[Model, Path, str, Mapping[str, str]], Path] | None
    load: Callable[[Path, Sequence[str], int], Run] | None
    precisions: tuple[str, ...]
    runs_in: str
    feed: str
    packages: tuple[str, ...] = ()
    extra: str | None = None
    files: Callable[[Path], list[Path]] = _itself
    timed: bool = True
    batch: int = 1


_ONNX = ("onnx", "onnxruntime", "onnxscript")
_NAMED = "float32 tensors by name, NCHW, batch of one"

TARGETS = {
    "onnx": Target(".onnx", onnx.write, onnx.load, onnx.PRECISIONS, "onnxruntime", _NAMED, _ONNX, "export-onnx"),
    "onnx-batch": Target(
        ".onnx", partial(onnx.write, dynamic_batch=True), onnx.load, ("fp32",), "onnxruntime, any batch",
        "float32 tensors by name, NCHW, any batch, the same for all inputs", _ONNX, "export-onnx", batch=4,
    ),
    "coreml": Target(
        ".mlpackage", coreml.write, coreml.load, coreml.PRECISIONS, coreml.how_run(),
        "MLMultiArrays of float32 by name, NCHW, batch of one", ("coremltools",), "export-coreml",
        files=coreml.files, timed=coreml.ON_MAC,
    ),
    "tnn": Target(
        ".tnnproto", tnn.write_model, tnn.load, tuple(tnn.PRECISIONS), "the interpreter of students/export/tnn",
        "Mats NCHW_FLOAT by name, batch of one", files=tnn.files, timed=False,
    ),
    "ncnn": Target(
        ".param", ncnn.write, ncnn.load, ncnn.PRECISIONS, "ncnn, float32 arithmetic",
        "Mats of float32 by blob name, without the axis of the batch; options use_fp16_* off for exact numbers",
        ("pnnx", "ncnn"), "export-ncnn", files=ncnn.files,
    ),
    "mnn": Target(
        ".mnn", mnn.write, mnn.load, tuple(mnn.PRECISIONS), "MNN, small Winograd tiles",
        f"{_NAMED}; setSessionHint(WINOGRAD_MEMORY_LEVEL, 1) for exact numbers", ("MNN", *_ONNX), "export-mnn",
    ),
    "litert": Target(
        ".tflite", litert.write, litert.load, litert.PRECISIONS, "LiteRT",
        "signature serving_default: inputs args_0, args_1, .. in order, outputs by name; NCHW, batch of one",
        ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"), "export-litert",
    ),
    "executorch": Target(
        ".pte", executorch.write, executorch.load, executorch.PRECISIONS, "ExecuTorch, XNNPACK",
        "method forward: float32 tensors in the order of the inputs, NCHW, batch of one", ("executorch",),
        "export-executorch",
    ),
    "web": Target(
        "", None, None, tuple(web.TOLERANCES), "Chromium, WebAssembly",
        "serve the folder page; it takes pictures", ("selenium", *_ONNX), "export-web",
    ),
}  # fmt: skip


def check(name: str, precision: str) -> Target:
    """A target that can write this precision here. Raises ValueError telling what is known, or what to install."""
    if name not in TARGETS:
        raise ValueError(f"unknown export target '{name}', known: {', '.join(TARGETS)}, or all")
    target = TARGETS[name]
    if precision not in target.precisions:
        raise ValueError(f"{name}: no precision '{precision}', known: {', '.join(target.precisions)}, or all")
    missing = [package for package in target.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(
            f'exporting to {name} needs the package {", ".join(missing)}: pip install -e ".[{target.extra}]"'
        )
    return target


def chosen(names: Sequence[str], precisions: Sequence[str]) -> list[tuple[str, str]]:
    """(target, precision) in order, each possible here. `all` alone stands for every target that has the precision, or
    for every precision that the target has. Errors as `check`, all of them in one."""
    made, wrong, every = [], {}, list(names) == ["all"]
    for name in TARGETS if every else names:
        known = TARGETS[name].precisions if name in TARGETS else ()
        for precision in known if list(precisions) == ["all"] else precisions:
            if not every or precision in known:
                try:
                    check(name, precision)
                except ValueError as error:
                    wrong[str(error)] = None
                made.append((name, precision))
    if wrong:
        raise ValueError("; ".join(wrong))
    if not made:
        raise ValueError(f"no target has the precision '{', '.join(precisions)}'; known: fp32, fp16, int8")
    return made


def size_bytes(target: Target, path: Path) -> int:
    """Bytes of all that has to be shipped of a model."""
    return sum(file.stat().st_size for file in target.files(path))
