"""The page of `web` run in a headless Chromium and compared with PyTorch, as `proof.prove` does it with other files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median

import torch

from . import browser, web
from .models import Model
from .proof import Proved, Truth, difference, file_hash, refuse, times


def prove(
    short: Mapping[str, Model],
    truth: Truth,
    precision: str,
    folder: Path,
    metadata: Mapping[str, str],
    detector: Path | None = None,
) -> Proved:
    """Write the page as folder/page, swap every pair in it by WebAssembly on one thread, compare. Errors as there.

    The page's milliseconds are its own, of encoder and generator; PyTorch's are taken right after, not in turns.
    """
    path = web.write(short, folder / "page", precision, metadata, detector=detector)
    pairs = truth.inputs["whole"]
    with browser.opened(path) as page:
        made = [page.swap(*pair) for pair in zip(pairs["source"].split(1), pairs["target"].split(1), strict=True)]
    swaps = torch.cat([one.swap for one in made])
    size = {part: (path / f"{part}.onnx").stat().st_size for part in web.PARTS}
    files = {f.relative_to(folder).as_posix(): file_hash(f) for f in sorted(path.rglob("*")) if f.is_file()}
    whole = {"file": path.name, "files": files, "bytes": sum(size.values())}
    whole |= difference({"swap": swaps}, truth.outputs["whole"])
    refuse(whole, precision, f"{folder.name}: page")
    first = {name: tensor[:1] for name, tensor in pairs.items()}
    ms, pytorch_ms = median(one.encoder_ms + one.generator_ms for one in made), times([truth.call("whole", first)])[0]
    whole |= {"ms": ms, "pytorch_ms": pytorch_ms, "ratio": ms / pytorch_ms}
    parts = {}
    for part in web.PARTS:
        file = f"{path.name}/{part}.onnx"
        parts[part] = {"file": file, "files": {file: files[file]}, "bytes": size[part]}
    return Proved({**parts, "whole": whole}, lambda: swaps)
