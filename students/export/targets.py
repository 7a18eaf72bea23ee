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
    has to be shipped. packages: what write and load import; extra: what installs them. runs_in: for the card. timed:
    whether `load` runs it as a device would, so that its speed says something. batch: pictures at once when checked.
    Without write and load it is a page of all models, which page_proof.py writes and runs.
    """

    suffix: str
    write: Callable[[Model, Path, str, Mapping[str, str]], Path] | None
    load: Callable[[Path, Sequence[str], int], Run] | None
    precisions: tuple[str, ...]
    runs_in: str
    packages: tuple[str, ...] = ()
    extra: str | None = None
    files: Callable[[Path], list[Path]] = _itself
    timed: bool = True
    batch: int = 1


_ONNX = ("onnx", "onnxruntime", "onnxscript")

TARGETS = {
    "onnx": Target(".onnx", onnx.write, onnx.load, onnx.PRECISIONS, "onnxruntime", _ONNX, "export-onnx"),
    "onnx-batch": Target(
        ".onnx", partial(onnx.write, dynamic_batch=True), onnx.load, ("fp32",), "onnxruntime, any batch", _ONNX,
        "export-onnx", batch=4,
    ),
    "coreml": Target(
        ".mlpackage", coreml.write, coreml.load, coreml.PRECISIONS, coreml.how_run(), ("coremltools",), "export-coreml",
        files=coreml.files, timed=coreml.ON_MAC,
    ),
    "tnn": Target(
        ".tnnproto", tnn.write_model, tnn.load, tuple(tnn.PRECISIONS), "the interpreter of students/export/tnn",
        files=tnn.files, timed=False,
    ),
    "ncnn": Target(
        ".param", ncnn.write, ncnn.load, ncnn.PRECISIONS, "ncnn, float32 arithmetic", ("pnnx", "ncnn"), "export-ncnn",
        files=ncnn.files,
    ),
    "mnn": Target(
        ".mnn", mnn.write, mnn.load, tuple(mnn.PRECISIONS), "MNN, small Winograd tiles", ("MNN", *_ONNX), "export-mnn",
    ),
    "litert": Target(
        ".tflite", litert.write, litert.load, litert.PRECISIONS, "LiteRT",
        ("litert_torch", "ai_edge_litert", "ai_edge_quantizer"), "export-litert",
    ),
    "executorch": Target(
        ".pte", executorch.write, executorch.load, executorch.PRECISIONS, "ExecuTorch, XNNPACK", ("executorch",),
        "export-executorch",
    ),
    "web": Target(
        "", None, None, tuple(web.TOLERANCES), "Chromium, WebAssembly", ("selenium", *_ONNX), "export-web",
    ),
}  # fmt: skip


def check(name: str, precision: str) -> Target:
    """A target that can write this precision here. Raises ValueError telling what is known, or what to install."""
    if name not in TARGETS:
        raise ValueError(f"unknown export target '{name}', known: {', '.join(TARGETS)}")
    target = TARGETS[name]
    if precision not in target.precisions:
        raise ValueError(f"{name}: no precision '{precision}', known: {', '.join(target.precisions)}")
    missing = [package for package in target.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(
            f'exporting to {name} needs the package {", ".join(missing)}: pip install -e ".[{target.extra}]"'
        )
    return target


def chosen(names: Sequence[str], precisions: Sequence[str]) -> list[tuple[str, str]]:
    """(target, precision) in order, each possible here. `all` alone stands for every target that has the precision, or
    for every precision that the target has. Errors as `check`."""
    made, every = [], list(names) == ["all"]
    for name in TARGETS if every else names:
        known = TARGETS[name].precisions if name in TARGETS else ()
        for precision in known if list(precisions) == ["all"] else precisions:
            if not every or precision in known:
                check(name, precision)
                made.append((name, precision))
    if not made:
        raise ValueError(f"no target has the precision '{', '.join(precisions)}'; known: fp32, fp16, int8")
    return made


def size_bytes(target: Target, path: Path) -> int:
    """Bytes of all that has to be shipped of a model."""
    return sum(file.stat().st_size for file in target.files(path))
