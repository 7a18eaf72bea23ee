"""Estimate a training run before it starts: parameters, operations, memory, time. The operations and memory of one
step of two samples are counted at full resolution, and whole steps are timed on this device:

    python distill/run.py exp.yaml --estimate
    python distill/run.py exp.yaml --full-size --estimate
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distill import config
from distill.config import Experiment
from distill.data.triplet import Triplet
from distill.train.step import Networks, Step, build_networks
from swapcore.files import read_json, write_json
from swapcore.hardware import environment

COUNTED_SAMPLES = 2  # the fewest that batch normalisation accepts
TIMED_STEPS = 2  # after one warm-up step
TRIALS = 3  # of each precision, one warm-up step and one timed step each
LEAST_GAIN = 1.1  # times as fast: bf16 is less exact, so a tenth must be gained


def run(exp: Experiment, accelerator) -> list[str]:
    """The estimate of stage `train` of one experiment, as lines to print. Loading of data is not included."""
    device, batch_size, size = accelerator.device, exp.train.batch_size, exp.data.resolution
    networks = build_networks(exp, device)
    # Compiled code and a captured step hide their operations.
    eager = replace(exp, train=replace(exp.train, compile=False, capture="off", small_steps=0))
    step = Step(eager, networks, accelerator)
    with FlopCounterMode(display=False) as counter:
        step.learn(noise(COUNTED_SAMPLES, size))
    flop_per_sample = counter.get_total_flops() / COUNTED_SAMPLES
    activations = saved_bytes(lambda: step.learn(noise(COUNTED_SAMPLES, size))) / COUNTED_SAMPLES

    # In float32: weights, gradients and moments (two of Adam, one of Muon) of the trained networks, the EMA, and the
    # frozen networks.
    parameters, state = _parameters(networks), step.state
    frozen = sum(count for name, count in parameters.items() if name not in ("student", "discriminator"))
    learning, ema = sum(map(_count, (state.net, state.discriminator, state.adapters))), _count(state.ema)
    moments = 2 * learning - sum(p.numel() for group in state.optimiser.param_groups[1:] for p in group["params"])
    fixed, checkpoint = 4 * (2 * learning + moments + ema + frozen), 4 * (learning + moments + ema)

    if exp.train.compile or device.type == "cuda":  # as it will run, captured where that is possible
        step = Step(exp, build_networks(exp, device), accelerator)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    batch, small = noise(batch_size, size), min(exp.train.small_steps, exp.train.steps)
    step.state.step = small  # behind the small steps
    seconds = [_seconds(step, batch, device) for _ in range(1 + TIMED_STEPS)][1:]
    step_s, small_s, note = statistics.median(seconds), 0.0, ""
    if small:
        step = Step(exp, build_networks(exp, device), accelerator)
        small_s = statistics.median([_seconds(step, batch, device) for _ in range(1 + TIMED_STEPS)][1:])
        note = f"; {small:,} of them at {exp.train.small_resolution} px, {small_s:.3g} s each"
    facts = environment()
    where = facts["gpu"] if device.type == "cuda" else f"{facts['processor']}, {torch.get_num_threads()} threads"
    samples = batch_size * exp.train.accumulation * accelerator.num_processes
    whole_s = step_s * (exp.train.steps - small) + small_s * small
    minutes = whole_s * exp.train.accumulation / 60
    return [
        f"{exp.name}: {exp.student.name}, {size} px, batch {batch_size}, {exp.train.precision}; {where}, "
        f"torch {torch.__version__}",
        "  parameters   " + ", ".join(f"{name} {count:,}" for name, count in parameters.items()),
        f"  operations   {flop_per_sample * samples / 1e12:.4g} TFLOP a step of {samples} samples (2 a multiply-add), "
        f"{flop_per_sample * samples * exp.train.steps / 1e15:.4g} PFLOP in all",
        f"  memory       {fixed / 1e6:,.0f} MB for weights, gradients, optimisers and average + "
        f"{activations / 1e6:,.1f} MB a sample kept for the backward pass = "
        f"{(fixed + activations * batch_size) / 1e6:,.0f} MB; {_peak(device)}",
        f"  checkpoint   {checkpoint / 1e6:,.0f} MB; two of them while one is written",
        f"  time         {step_s:.3g} s a step ({min(seconds):.3g} to {max(seconds):.3g}), "
        f"{batch_size / step_s:.4g} samples/s on each process: {exp.train.steps:,} steps in {minutes:,.1f} minutes"
        f"{note}",
    ]


def of_all(exps: list[Experiment], accelerator_of: Callable) -> None:
    """Print the estimate of every experiment. Experiments that differ in name and seed alone are measured once."""
    measured: dict[str, str] = {}
    for exp in exps:
        if exp.train.precision == "auto":
            exp = _in(exp, _trial(exp, accelerator_of)["precision"])
        accelerator = accelerator_of(exp)
        key = repr(replace(exp, name="", runs="", train=replace(exp.train, seed=0)))
        lines = [f"{exp.name}: as {measured[key]}"] if key in measured else run(exp, accelerator)
        measured.setdefault(key, exp.name)
        accelerator.print("\n".join(lines), flush=True)


def with_faster_precision(exp: Experiment, accelerator_of: Callable) -> Experiment:
    """The experiment with `train.precision: auto` replaced by bf16 where steps of noise are faster with it here, else
    by fp32. All variants and later starts have the choice of the first start: it is kept in the run's folder.

    Raises ConfigError where a variant says auto: variants would differ by more than what they name.
    """
    children = config.children(_in(exp, "fp32"))
    if own := [child.variant for child in children if child.exp.train.precision == "auto"]:
        raise config.ConfigError(f"variants.{own[0]}: train.precision: auto is a choice for all variants; move it up")
    if exp.train.precision != "auto":
        return exp
    path, runs = exp.folder / "precision.json", [child.exp for child in children] or [exp]
    accelerator = accelerator_of(_in(exp, "fp32"))
    if not path.is_file() and any("train" in one.stages for one in runs):
        found = _trial(runs[0], accelerator_of)
        if accelerator.is_main_process:
            write_json(path, found)
            times = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in found["step_s"].items())
            print(f"{exp.name}: train.precision: {found['precision']} ({times} a step)", flush=True)
    accelerator.wait_for_everyone()
    return _in(exp, read_json(path)["precision"] if path.is_file() else "fp32")


def _trial(exp: Experiment, accelerator_of: Callable) -> dict[str, Any]:
    """Seconds of a step in each precision, the best of some trials, and the precision to take. Compiled or captured,
    steps would take minutes to start.

    The trials take turns: other work that runs beside them for a while must not slow all those of one precision.
    """
    trials: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for precision in TRIALS * list(trials):
        one = _in(replace(exp, train=replace(exp.train, compile=False, capture="off", small_steps=0)), precision)
        accelerator = accelerator_of(one)
        step = Step(one, build_networks(one, accelerator.device), accelerator)
        batch = noise(one.train.batch_size, one.data.resolution)
        _seconds(step, batch, accelerator.device)
        trials[precision].append(_seconds(step, batch, accelerator.device))
    seconds = {precision: min(each) for precision, each in trials.items()}
    faster = seconds["bf16"] * LEAST_GAIN < seconds["fp32"]
    return {"precision": "bf16" if faster else "fp32", "step_s": seconds, "environment": environment()}


def _in(exp: Experiment, precision: str) -> Experiment:
    return replace(exp, train=replace(exp.train, precision=precision))


def noise(count: int, size: int) -> Triplet:
    """A batch of `count` random samples, uint8 as from the loader."""
    images = torch.randint(0, 256, (3, count, 3, size, size), dtype=torch.uint8)
    return Triplet(*images, torch.ones(count), torch.ones(count, dtype=torch.bool), torch.ones(count))


def saved_bytes(work: Callable[[], object]) -> int:
    """The peak of the bytes that autograd saves for the backward pass in `work`; every storage counts once."""
    users: dict[int, int] = {}  # address of a storage -> tensors of the graph in it
    most = now = 0

    def pack(tensor: torch.Tensor) -> _Kept:
        nonlocal most, now
        kept = _Kept(tensor)
        if not (isinstance(tensor, nn.Parameter) or tensor.is_leaf and tensor.requires_grad):
            storage = tensor.untyped_storage()
            address, size = storage.data_ptr(), storage.nbytes()
            users[address] = users.get(address, 0) + 1
            now += size if users[address] == 1 else 0
            most = max(most, now)
            weakref.finalize(kept, release, address, size)
        return kept

    def release(address: int, size: int) -> None:
        nonlocal now
        users[address] -= 1
        now -= size if users[address] == 0 else 0

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        work()
    return most


class _Kept:
    """A tensor that autograd saved; it is deleted together with the graph."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def _seconds(step: Step, batch: Triplet, device: torch.device) -> float:
    started = time.perf_counter()
    step.learn(batch)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _parameters(networks: Networks) -> dict[str, int]:
    modules = {
        "student": networks.learner.net, "discriminator": networks.discriminator,
        "identity encoder": networks.encoder,
        "perceptual network": networks.perceptual and networks.perceptual.features,
        "teacher": networks.teacher and networks.teacher.network,
    }  # fmt: skip
    return {name: _count(module) for name, module in modules.items() if isinstance(module, nn.Module)}


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"peak measured on the device {torch.cuda.max_memory_allocated() / 1e6:,.0f} MB"
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"most that this process has held {most / 1e6:,.0f} MB, torch itself included"
