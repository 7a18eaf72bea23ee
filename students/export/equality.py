"""Export a student's models to a runtime, run the files there, and compare them with PyTorch.

The reference is the student before any folding, on the caller's pictures. For each model it reports the largest and the
mean difference, and the times of the file and of PyTorch, measured alternately on one core. A file that differs by more
than its precision allows raises Unequal.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swapcore.files import sha256

from .. import StudentSwapper
from .models import Model, Run, Target, models

# Largest allowed difference of a swap in [-1, 1]. For int8 it only catches gross errors.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.5}
TIMED_RUNS = 7


class Unequal(ValueError):
    """An exported file differs from PyTorch; the message says which, by how much, and how much is allowed."""


class Reference:
    """PyTorch's inputs and outputs, by model, for sources and targets (N, 3, R, R) in [-1, 1], pair by pair."""

    def __init__(self, swapper: StudentSwapper, source: Tensor, target: Tensor) -> None:
        if source.shape != target.shape or not len(source):
            raise ValueError(f"sources {tuple(source.shape)} and targets {tuple(target.shape)}: expected pairs")
        self.models = models(swapper, fold=False)
        encoder, generator = self.models["identity_encoder"], self.models["generator"]
        identity = outputs(_in_pytorch(encoder), {"source": source}, 1)
        inputs = {"target": target, **identity}
        swaps = outputs(_in_pytorch(generator), inputs, 1)
        self.inputs = {
            "generator": inputs, "identity_encoder": {"source": source}, "whole": {"source": source, "target": target},
        }  # fmt: skip
        self.outputs = {"generator": swaps, "identity_encoder": identity, "whole": swaps}
        self.swaps = swaps["swap"]
        self.hash = hashlib.sha256(b"".join(images.numpy().tobytes() for images in (source, target))).hexdigest()

    def call(self, name: str, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
        """A function without arguments that runs a model of the student in PyTorch, to be timed."""
        run = _in_pytorch(self.models[name])
        return lambda: run(inputs)


@dataclass(frozen=True)
class Compared:
    """facts: the card's entries of the files, by model. swaps: computes the swaps (N, 3, R, R) of the exported identity
    encoder and generator together. whole: those of the file `whole`, where it is another network than these two."""

    facts: dict[str, dict[str, Any]]
    swaps: Callable[[], Tensor]
    whole: Tensor | None = None


def compare(
    folded: Mapping[str, Model],
    reference: Reference,
    target: Target,
    precision: str,
    folder: Path,
    metadata: Mapping[str, str],
    detector: Path | None = None,
) -> Compared:
    """Write every model into `folder`, run it and compare it.

    detector: a face detector's file, for targets that find faces in photographs themselves. Raises ValueError if a
    model cannot be written, Unequal if its file differs from PyTorch.
    """
    if target.compare is not None:
        return target.compare(folded, reference, precision, folder, metadata, detector)
    facts, runs, whole = {}, {}, None
    with one_core():
        for name, model in folded.items():
            path = target.write(model, folder / f"{name}{target.suffix}", precision, metadata)
            runs[name] = target.load(path, model.outputs, 1)
            exported = outputs(runs[name], reference.inputs[name], target.batch)
            facts[name] = {
                "file": path.name,
                "files": {file.relative_to(folder).as_posix(): sha256(file) for file in target.files(path)},
                "bytes": target.size_bytes(path),
                **difference(exported, reference.outputs[name]),
            }
            check_difference(facts[name], precision, f"{path.parent.name}: {name}")
            whole = exported["swap"] if name == "whole" else whole
            if target.timed:
                facts[name] |= timing(reference, name, runs[name], target.batch)

    def swaps() -> Tensor:
        identity = outputs(runs["identity_encoder"], reference.inputs["identity_encoder"], target.batch)
        inputs = {"target": reference.inputs["generator"]["target"], **identity}
        return outputs(runs["generator"], inputs, target.batch)["swap"]

    return Compared(facts, swaps, whole)


def outputs(run: Run, inputs: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
    """The outputs of a loaded file for N inputs, `batch` at once."""
    count = len(next(iter(inputs.values())))
    rows = [run({name: tensor[i : i + batch] for name, tensor in inputs.items()}) for i in range(0, count, batch)]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def difference(exported: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """max_abs and mean_abs over all outputs, psnr_db of the swap (peak to peak 2). Raises Unequal for other shapes."""
    for name, tensor in expected.items():
        if exported[name].shape != tensor.shape:
            raise Unequal(f"{name}: shape {tuple(exported[name].shape)}, PyTorch gives {tuple(tensor.shape)}")
    gaps = {name: (exported[name] - tensor).abs() for name, tensor in expected.items()}
    facts = {
        "max_abs": float(torch.stack([gap.max() for gap in gaps.values()]).max()),  # which keeps a NaN of any output
        "mean_abs": float(torch.cat([gap.flatten() for gap in gaps.values()]).mean()),
    }
    if "swap" in gaps:
        rms = float(gaps["swap"].double().square().mean().sqrt())
        facts["psnr_db"] = 20 * math.log10(2 / max(rms, 1e-9))
    return facts


def check_difference(facts: Mapping[str, float], precision: str, where: str) -> None:
    """Raise Unequal if the difference is NaN or larger than the precision allows."""
    allowed = TOLERANCE[precision]
    if not facts["max_abs"] <= allowed:  # NaN fails every comparison
        raise Unequal(
            f"{where} differs from PyTorch by up to {facts['max_abs']:.3g} (mean {facts['mean_abs']:.3g}), {precision} "
            f"allows {allowed:g}: the converter computes something else; none of its files was kept"
        )


def timing(reference: Reference, name: str, run: Run, batch: int) -> dict[str, float]:
    """Median milliseconds of the file and of PyTorch for one call, measured in alternation, and their ratio."""
    inputs = {key: tensor[:batch] for key, tensor in reference.inputs[name].items()}
    exported_ms, pytorch_ms = median_ms([lambda: run(inputs), reference.call(name, inputs)])
    return {"ms": exported_ms, "pytorch_ms": pytorch_ms, "ratio": exported_ms / pytorch_ms}


def median_ms(calls: list[Callable[[], Any]]) -> list[float]:
    """Median milliseconds of functions that are called in alternation, after one warm-up call of each."""
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(TIMED_RUNS + 1):
        for call, durations in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()
            if turn:
                durations.append(time.perf_counter() - started)
    return [1000 * sorted(durations)[len(durations) // 2] for durations in seconds]


def folding(swapper: StudentSwapper, reference: Reference) -> dict[str, dict[str, float]]:
    """The effect of folding the normalisations, in PyTorch: by model, the difference and both times."""
    facts = {}
    with one_core():
        for name, model in models(swapper).items():
            run = _in_pytorch(model)
            facts[name] = difference(outputs(run, reference.inputs[name], 1), reference.outputs[name])
            facts[name] |= timing(reference, name, run, 1)
    return facts


@contextmanager
def one_core():
    """Limit PyTorch to one thread; if the system allows it, keep all threads of the process on one core."""
    threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    torch.set_num_threads(1)
    if cores:
        os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if cores:
            os.sched_setaffinity(0, cores)


def _in_pytorch(model: Model) -> Run:
    @torch.inference_mode()
    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors = model.module(*inputs.values())
        return dict(zip(model.outputs, tensors if isinstance(tensors, tuple) else (tensors,), strict=True))

    return run
