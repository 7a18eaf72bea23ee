"""A folder with one static page that swaps faces in the browser, by onnxruntime-web. Wants the extra `onnx` to write.

    index.html, *.js, style.css   the page (students/export/page)
    about.json                    what the student is: files, sizes, inputs, resolution
    generator.onnx, identity_encoder.onnx [, detector.onnx]
    runtime/                      onnxruntime-web as its npm package has it: WebAssembly, and WebGPU where there is one
    NOTICE.txt                    whose work it is, and under which licences

Any static server will do: `python -m http.server --directory FOLDER`. Pictures stay in the browser, and the page's
Content-Security-Policy lets it speak to no host but its own. `browser.run` drives the folder, to prove its numbers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import torch

from swapcore.files import whole_folder
from swapcore.frame import CANONICAL

from . import onnx
from .models import Model

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INSTALL = f"npm install {PACKAGE}@{VERSION}"
# The page loads the first two, or the last two where the browser has WebGPU (from dist/, version 1.30.0).
RUNTIME = (
    "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
PAGE = Path(__file__).parent / "page"
PARTS = ("identity_encoder", "generator")
# By how much, of the range [-1, 1], a page's swap may be off: by the runtime's rounding, and that of the weights.
TOLERANCES = {"fp32": 0.002, "fp16": 0.05, "int8": 0.3}
CHECKED = 64  # numbers of the swap, about
ABOUT, DETECTOR = "about.json", "detector.onnx"
# What YuNet gives at each of its strides (ShiqiYu/libfacedetection.train, onnx/yunet_n_dynamic.onnx).
YUNET_OUTPUTS = {f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)}


def write(
    models: Mapping[str, Model],
    path: str | Path,
    precision: str,
    metadata: Mapping[str, str],
    runtime: str | Path | None = None,
    detector: str | Path | None = None,
) -> Path:
    """Write the page's folder, whole or not at all, and return it. A page that was there is replaced.

    models: those of `models.models`; generator and identity_encoder become a file each, so that a source is embedded
    once. precision: of the weights in the files, fp32, fp16 or int8 (computed in fp32 all the same). metadata: text
    about the student, shown by the page. runtime: the folder of the npm package, looked for in node_modules if None.
    detector: the file of YuNet; without it the page takes aligned crops only.
    Raises ValueError naming what is missing or does not fit, and what to do.
    """
    path = Path(path)
    if precision not in TOLERANCES:
        raise ValueError(f"unknown precision '{precision}' for web, known: {', '.join(TOLERANCES)}")
    ours = all((path / name).exists() for name in (ABOUT, "index.html", "generator.onnx", "runtime"))
    if path.exists() and not ours and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path}: exists and is no page of this command; delete it or take another path")
    package = _package(runtime)
    if detector is not None:
        _check_detector(Path(detector))
    with whole_folder(path) as made:
        shutil.copytree(PAGE, made)
        _copy_runtime(package, made / "runtime")
        for part in PARTS:
            file = onnx.write(models[part], made / f"{part}.onnx", metadata=metadata)
            if precision != "fp32":
                proto = _onnx().load(file)
                onnx.narrow(proto, precision)
                file.write_bytes(proto.SerializeToString())
        if detector is not None:
            shutil.copyfile(detector, made / DETECTOR)
        (made / ABOUT).write_text(json.dumps(_about(models, made, precision, metadata), indent=2) + "\n", "utf-8")
    return path


def _about(models: Mapping[str, Model], made: Path, precision: str, metadata: Mapping[str, str]) -> dict:
    def file(name: str) -> dict:
        return {"file": name, "bytes": (made / name).stat().st_size}

    def part(model: Model) -> dict:
        inputs = {name: list(tensor.shape) for name, tensor in model.inputs.items()}
        return file(f"{model.name}.onnx") | {"inputs": inputs, "outputs": list(model.outputs)}

    return {
        "resolution": models["generator"].inputs["target"].shape[-1],
        "precision": precision,
        "models": {name: part(models[name]) for name in PARTS},
        "detector": file(DETECTOR) if (made / DETECTOR).is_file() else None,
        "canonical": CANONICAL,
        "check": _check(models, TOLERANCES[precision]),
        "runtime": {"package": PACKAGE, "version": VERSION},
        "metadata": dict(metadata),
    }


def _check(models: Mapping[str, Model], tolerance: float) -> dict:
    """Some numbers of PyTorch's swap of a pattern, which the page swaps too before it takes pictures."""
    factors = {"source": 1, "target": 3}
    shape = models["generator"].inputs["target"].shape
    numbers = torch.arange(shape.numel())
    source, target = ((numbers * factor % 256 / 127.5 - 1).view(shape) for factor in factors.values())
    with torch.inference_mode():
        given = models["identity_encoder"].module(source)
        swap = models["generator"].module(target, *given)
    step = shape.numel() // CHECKED | 1  # odd: each number from another column
    return {"factors": factors, "step": step, "values": swap.flatten()[::step].tolist(), "tolerance": tolerance}


def _package(runtime: str | Path | None) -> Path:
    """The folder of the npm package, in the version that the page was written for."""
    here = Path.cwd()
    places = [p / "node_modules" / PACKAGE for p in (here, *here.parents)] if runtime is None else [Path(runtime)]
    folder = next((p for p in places if (p / "package.json").is_file()), None)
    if folder is None:
        where = f"in node_modules of {here} or above it" if runtime is None else f"in {runtime}"
        raise ValueError(f"no {PACKAGE} {where}: {INSTALL}")
    try:
        told = json.loads((folder / "package.json").read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / 'package.json'}: damaged ({error}): {INSTALL}") from None
    if (told.get("name"), told.get("version")) != (PACKAGE, VERSION):
        raise ValueError(
            f"{folder}: holds {told.get('name')} {told.get('version')}, the page wants {PACKAGE} {VERSION}: {INSTALL}"
        )
    missing = [name for name in RUNTIME if not (folder / "dist" / name).is_file()]
    if missing:
        raise ValueError(f"{folder / 'dist' / missing[0]}: missing: {INSTALL}")
    return folder


def _copy_runtime(package: Path, to: Path) -> None:
    """The runtime's files with its package.json. It ships no licence file; the page's folder has the text it names."""
    to.mkdir(exist_ok=True)
    for name in RUNTIME:
        shutil.copyfile(package / "dist" / name, to / name)
    for name in ("package.json", "LICENSE", "ThirdPartyNotices.txt"):
        if (package / name).is_file():
            shutil.copyfile(package / name, to / name)


def _onnx() -> ModuleType:
    """The package, not the module beside this one."""
    try:
        import onnx as package
    except ImportError:
        raise ValueError('the browser page needs the package onnx: pip install -e ".[export-web]"') from None
    return package


def _check_detector(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give the ONNX file of YuNet, or none for aligned crops only")
    package = _onnx()
    from google.protobuf.message import DecodeError  # comes with onnx

    try:
        outputs = {output.name for output in package.load(path).graph.output}
    except DecodeError as error:
        raise ValueError(f"{path}: not an ONNX file ({error})") from None
    if not outputs >= YUNET_OUTPUTS:
        raise ValueError(f"{path}: not YuNet: it has no output '{min(YUNET_OUTPUTS - outputs)}'")
