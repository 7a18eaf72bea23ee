"""Files of a student written for a runtime, run there, and compared with PyTorch: nothing is kept that differs.

Compared is with the student as it is, before anything was folded, on the pictures given, model by model: the largest
and the mean difference, and the time beside PyTorch's, both on one core, run in turns.
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

from .. import StudentSwapper
from .models import Model, Run, models
from .targets import Target, size_bytes

# Largest difference of a swap in [-1, 1]. That of int8 finds gross errors only: it is judged by identity.
TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "int8": 0.5}
RUNS = 7


class Unequal(ValueError):
    """An exported file does not give PyTorch's numbers; the message says which, by how much, and what was allowed."""


class Truth:
    """What PyTorch gives for sources and targets (N, 3, R, R) in [-1, 1], pair by pair: inputs and outputs by model."""

    def __init__(self, swapper: StudentSwapper, source: Tensor, target: Tensor) -> None:
        if source.shape != target.shape or not len(source):
            raise ValueError(f"sources {tuple(source.shape)} and targets {tuple(target.shape)}: expected pairs")
        self.models = models(swapper, fold=False)
        encoder, generator = self.models["identity_encoder"], self.models["generator"]
        rows = [_run(encoder, {"source": picture}) for picture in source.split(1)]
        given = {name: torch.cat([row[name] for row in rows]) for name in encoder.outputs}
        inputs = {"target": target, **given}
        rows = [_run(generator, {k: v[i : i + 1] for k, v in inputs.items()}) for i in range(len(source))]
        swaps = {"swap": torch.cat([row["swap"] for row in rows])}
        self.inputs = {
            "generator": inputs, "identity_encoder": {"source": source}, "whole": {"source": source, "target": target},
        }  # fmt: skip
        self.outputs = {"generator": swaps, "identity_encoder": given, "whole": swaps}
        self.swaps = swaps["swap"]
        self.hash = hashlib.sha256(b"".join(images.numpy().tobytes() for images in (source, target))).hexdigest()

    def call(self, name: str, inputs: Mapping[str, Tensor]) -> Callable[[], Any]:
        """What runs a model of the student in PyTorch, for the clock."""
        return lambda: _run(self.models[name], inputs)


@dataclass(frozen=True)
class Proved:
    """facts: by model, what the card says of its file. swaps: makes those of exported encoder and generator together,
    (N, 3, R, R)."""

    facts: dict[str, dict[str, Any]]
    swaps: Callable[[], Tensor]


def prove(
    short: Mapping[str, Model], truth: Truth, target: Target, precision: str, folder: Path, metadata: Mapping[str, str]
) -> Proved:
    """Write every model into `folder`, run it, compare it. Raises ValueError where one cannot be written, Unequal where
    one gives other numbers than PyTorch."""
    facts, runs = {}, {}
    with one_core():
        for name, model in short.items():
            path = target.write(model, folder / f"{name}{target.suffix}", precision, metadata)
            runs[name] = target.load(path, model.outputs, 1)
            made = outputs(runs[name], truth.inputs[name], target.batch)
            facts[name] = {
                "file": path.name,
                "files": {file.relative_to(folder).as_posix(): file_hash(file) for file in target.files(path)},
                "bytes": size_bytes(target, path),
                **difference(made, truth.outputs[name]),
            }
            refuse(facts[name], precision, f"{path.parent.name}: {name}")
            if target.timed:
                facts[name] |= in_turns(truth, name, runs[name], target.batch)

    def swaps() -> Tensor:
        given = outputs(runs["identity_encoder"], truth.inputs["identity_encoder"], target.batch)
        inputs = {"target": truth.inputs["generator"]["target"], **given}
        return outputs(runs["generator"], inputs, target.batch)["swap"]

    return Proved(facts, swaps)


def outputs(run: Run, inputs: Mapping[str, Tensor], batch: int) -> dict[str, Tensor]:
    """What a loaded file gives for N inputs, `batch` at once."""
    count = len(next(iter(inputs.values())))
    rows = [run({name: tensor[i : i + batch] for name, tensor in inputs.items()}) for i in range(0, count, batch)]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def difference(made: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, float]:
    """max_abs and mean_abs over all outputs, psnr_db of the swap (peak to peak 2). Raises Unequal for other shapes."""
    for name, tensor in wanted.items():
        if made[name].shape != tensor.shape:
            raise Unequal(f"{name}: shape {tuple(made[name].shape)}, PyTorch gives {tuple(tensor.shape)}")
    gaps = {name: (made[name] - tensor).abs() for name, tensor in wanted.items()}
    facts = {
        "max_abs": max(float(gap.max()) for gap in gaps.values()),
        "mean_abs": float(torch.cat([gap.flatten() for gap in gaps.values()]).mean()),
    }
    if "swap" in gaps:
        rms = float(gaps["swap"].double().square().mean().sqrt())
        facts["psnr_db"] = 20 * math.log10(2 / max(rms, 1e-9))
    return facts


def refuse(facts: Mapping[str, float], precision: str, what: str) -> None:
    """Raise Unequal where the difference is larger than the precision allows, or no number."""
    allowed = TOLERANCE[precision]
    if not facts["max_abs"] <= allowed:  # nor is NaN
        raise Unequal(
            f"{what} differs from PyTorch by up to {facts['max_abs']:.3g} (mean {facts['mean_abs']:.3g}), {precision} "
            f"allows {allowed:g}: the converter computes something else; nothing of it was kept"
        )


def in_turns(truth: Truth, name: str, run: Run, batch: int) -> dict[str, float]:
    """Medians of the file's milliseconds and PyTorch's for one call, measured in turns, and their ratio."""
    given = {key: tensor[:batch] for key, tensor in truth.inputs[name].items()}
    mine, theirs = times([lambda: run(given), truth.call(name, given)])
    return {"ms": mine, "pytorch_ms": theirs, "ratio": mine / theirs}


def times(calls: list[Callable[[], Any]], runs: int = RUNS) -> list[float]:
    """Median milliseconds of calls that are made in turns, after one of each that does not count."""
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(runs + 1):
        for call, taken in zip(calls, seconds, strict=True):
            started = time.perf_counter()
            call()
            if turn:
                taken.append(time.perf_counter() - started)
    return [1000 * sorted(taken)[len(taken) // 2] for taken in seconds]


def folding(swapper: StudentSwapper, truth: Truth) -> dict[str, dict[str, float]]:
    """What folding the normalisations changes in PyTorch itself: by model, difference and milliseconds of both."""
    facts = {}
    with one_core():
        for name, model in models(swapper).items():
            run = _of(model)
            facts[name] = difference(outputs(run, truth.inputs[name], 1), truth.outputs[name])
            facts[name] |= in_turns(truth, name, run, 1)
    return facts


@contextmanager
def one_core():
    """One thread of PyTorch, and for it and all threads begun inside one core, where the system can say so."""
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


def _of(model: Model) -> Run:
    return lambda inputs: _run(model, inputs)


@torch.inference_mode()
def _run(model: Model, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    made = model.module(*inputs.values())
    return dict(zip(model.outputs, made if isinstance(made, tuple) else (made,), strict=True))


def file_hash(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
