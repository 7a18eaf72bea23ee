"""A folder with one static page that swaps faces in the browser, by onnxruntime-web. Needs the extra `export-web`.

    index.html, *.js, style.css   the page (students/export/page)
    about.json                    the student: files, sizes, inputs, resolution
    generator.onnx, identity_encoder.onnx [, detector.onnx]
    runtime/                      files of the npm package onnxruntime-web: WebAssembly, and WebGPU for browsers with it
    NOTICE.txt                    authors and licences

Any static server can serve it: `python -m http.server --directory FOLDER`. Pictures stay in the browser, and the page's
Content-Security-Policy allows it no host but its own. `browser.py` opens the folder to compare its swaps with PyTorch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from types import ModuleType

import torch

from swapcore import terminal
from swapcore.files import sha256, whole_folder
from swapcore.frame import CANONICAL

from . import browser, onnx
from .equality import Compared, Reference, check_difference, difference, median_ms
from .models import Model, Target

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INSTALL = f"npm install {PACKAGE}@{VERSION}"
# The page loads the first two, or the last two if the browser has WebGPU (from dist/, version 1.30.0).
RUNTIME = (
    "ort.wasm.bundle.min.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.bundle.min.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
PAGE = Path(__file__).parent / "page"
PARTS = ("identity_encoder", "generator")
# Largest difference, in the range [-1, 1], that the page accepts in its own check: the runtime and the weights round.
TOLERANCES = {"fp32": 0.002, "fp16": 0.05, "int8": 0.3}
CHECKED = 64  # approximate number of values of the swap in that check
ABOUT, DETECTOR = "about.json", "detector.onnx"
# YuNet's outputs at each of its strides (ShiqiYu/libfacedetection.train, onnx/yunet_n_dynamic.onnx).
YUNET_OUTPUTS = {f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)}


def write(
    models: Mapping[str, Model],
    path: str | Path,
    precision: str,
    metadata: Mapping[str, str],
    runtime: str | Path | None = None,
    detector: str | Path | None = None,
) -> Path:
    """Write the page's folder and return it; an earlier page there is replaced.

    models: those of `models.models`; generator and identity_encoder become a file each, so that a source is embedded
    once. precision: of the weights in the files, fp32, fp16 or int8; arithmetic is float32 in all. metadata: texts
    about the student, which the page shows. runtime: the folder of the npm package; None searches node_modules.
    detector: YuNet's file; without it the page takes aligned crops only.
    Raises ValueError naming the missing or wrong file and the remedy.
    """
    path = Path(path)
    if precision not in TOLERANCES:
        raise ValueError(f"unknown precision '{precision}' for web, known: {', '.join(TOLERANCES)}")
    ours = all((path / name).exists() for name in (ABOUT, "index.html", "generator.onnx", "runtime"))
    if path.exists() and not ours and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path}: exists and is not a page of this command; delete it or choose another path")
    package = _package(runtime)
    if detector is not None:
        _check_detector(Path(detector))
    with whole_folder(path) as folder:
        shutil.copytree(PAGE, folder)
        _copy_runtime(package, folder / "runtime")
        for part in PARTS:
            file = onnx.write(models[part], folder / f"{part}.onnx", metadata=metadata)
            if precision != "fp32":
                proto = _onnx().load(file)
                onnx.narrow(proto, precision)
                file.write_bytes(proto.SerializeToString())
        if detector is not None:
            shutil.copyfile(detector, folder / DETECTOR)
        (folder / ABOUT).write_text(json.dumps(_about(models, folder, precision, metadata), indent=2) + "\n", "utf-8")
    return path


def _about(models: Mapping[str, Model], folder: Path, precision: str, metadata: Mapping[str, str]) -> dict:
    def file(name: str) -> dict:
        return {"file": name, "bytes": (folder / name).stat().st_size}

    def part(model: Model) -> dict:
        inputs = {name: list(tensor.shape) for name, tensor in model.inputs.items()}
        return file(f"{model.name}.onnx") | {"inputs": inputs, "outputs": list(model.outputs)}

    return {
        "resolution": models["generator"].inputs["target"].shape[-1],
        "precision": precision,
        "models": {name: part(models[name]) for name in PARTS},
        "detector": file(DETECTOR) if (folder / DETECTOR).is_file() else None,
        "canonical": CANONICAL,
        "check": _check(models, TOLERANCES[precision]),
        "runtime": {"package": PACKAGE, "version": VERSION},
        "metadata": dict(metadata),
    }


def _check(models: Mapping[str, Model], tolerance: float) -> dict:
    """Some values of PyTorch's swap of a pattern; the page swaps the same pattern before it accepts pictures."""
    factors = {"source": 1, "target": 3}
    shape = models["generator"].inputs["target"].shape
    numbers = torch.arange(shape.numel())
    source, target = ((numbers * factor % 256 / 127.5 - 1).view(shape) for factor in factors.values())
    with torch.inference_mode():
        identity = models["identity_encoder"].module(source)
        swap = models["generator"].module(target, *identity)
    step = shape.numel() // CHECKED | 1  # odd, so that the values lie in different columns
    return {"factors": factors, "step": step, "values": swap.flatten()[::step].tolist(), "tolerance": tolerance}


def _package(runtime: str | Path | None) -> Path:
    """The folder of the npm package, checked to be of the page's version."""
    here = Path.cwd()
    places = [p / "node_modules" / PACKAGE for p in (here, *here.parents)] if runtime is None else [Path(runtime)]
    folder = next((p for p in places if (p / "package.json").is_file()), None)
    if folder is None:
        where = f"in node_modules of {here} or above it" if runtime is None else f"in {runtime}"
        raise ValueError(f"no {PACKAGE} {where}: {INSTALL}")
    try:
        package = json.loads((folder / "package.json").read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / 'package.json'}: damaged ({error}): {INSTALL}") from None
    name, version = package.get("name"), package.get("version")
    if (name, version) != (PACKAGE, VERSION):
        raise ValueError(f"{folder}: holds {name} {version}, the page needs {PACKAGE} {VERSION}: {INSTALL}")
    missing = [name for name in RUNTIME if not (folder / "dist" / name).is_file()]
    if missing:
        raise ValueError(f"{folder / 'dist' / missing[0]}: missing: {INSTALL}")
    return folder


def _copy_runtime(package: Path, to: Path) -> None:
    """Copy the runtime's files and its package.json. The package has no licence file; NOTICE.txt holds its licence."""
    to.mkdir(exist_ok=True)
    for name in RUNTIME:
        shutil.copyfile(package / "dist" / name, to / name)
    for name in ("package.json", "LICENSE", "ThirdPartyNotices.txt"):
        if (package / name).is_file():
            shutil.copyfile(package / name, to / name)


def _onnx() -> ModuleType:
    """The package onnx, not the module beside this one."""
    try:
        import onnx as package
    except ImportError:
        raise ValueError(f"the browser page needs the package onnx: {terminal.install('export-web')}") from None
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


def compare(
    models: Mapping[str, Model],
    reference: Reference,
    precision: str,
    folder: Path,
    metadata: Mapping[str, str],
    detector: Path | None = None,
) -> Compared:
    """`equality.compare` for the page: write it as folder/page and swap every pair in it, in WebAssembly on one thread.

    The page measures the milliseconds of its two networks; PyTorch's are measured afterwards, not in alternation.
    """
    path = write(models, folder / "page", precision, metadata, detector=detector)
    pairs = reference.inputs["whole"]
    with browser.opened(path) as page:
        results = [page.swap(*pair) for pair in zip(pairs["source"].split(1), pairs["target"].split(1), strict=True)]
    swaps = torch.cat([result.swap for result in results])
    size = {part: (path / f"{part}.onnx").stat().st_size for part in PARTS}
    files = {f.relative_to(folder).as_posix(): sha256(f) for f in sorted(path.rglob("*")) if f.is_file()}
    whole = {"file": path.name, "files": files, "bytes": sum(size.values())}
    whole |= difference({"swap": swaps}, reference.outputs["whole"])
    check_difference(whole, precision, f"{folder.name}: page")
    first_pair = {name: tensor[:1] for name, tensor in pairs.items()}
    page_ms = median(result.encoder_ms + result.generator_ms for result in results)
    (pytorch_ms,) = median_ms([reference.call("whole", first_pair)])
    whole |= {"ms": page_ms, "pytorch_ms": pytorch_ms, "ratio": page_ms / pytorch_ms}
    facts = {}
    for part in PARTS:
        file = f"{path.name}/{part}.onnx"
        facts[part] = {"file": file, "files": {file: files[file]}, "bytes": size[part]}
    return Compared({**facts, "whole": whole}, lambda: swaps)


TARGET = Target(
    "", tuple(TOLERANCES), "Chromium, WebAssembly", "serve the folder page; it takes pictures",
    packages=("selenium", *onnx.PACKAGES), extra="export-web", compare=compare,
)  # fmt: skip
