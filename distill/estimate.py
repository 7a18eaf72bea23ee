"""What a training run will need, before it is begun: parameters, operations, memory, time. Nothing is guessed: a step
of two samples at the real size is counted, and whole steps on this device are timed.

    python distill/run.py exp.yaml --estimate
    python distill/run.py exp.yaml --full-size --estimate
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distill.config import Experiment
from distill.data.triplet import Triplet
from distill.train.step import Networks, Step, networks
from swapcore.hardware import environment

COUNTED = 2  # samples of the step that is counted: the least that batch normalisation takes
TIMED = 2  # steps that are timed, after a first one


def run(exp: Experiment, accelerator) -> list[str]:
    """Lines to print about the stage `train` of one experiment; loading of data is not in them."""
    device, batch_size = accelerator.device, exp.train.batch_size
    per_update = batch_size * exp.train.accumulation * accelerator.num_processes
    parts = networks(exp, device)
    eager = replace(exp, train=replace(exp.train, compile=False))  # compiled code hides its operations
    step = Step(eager, parts, accelerator)
    with FlopCounterMode(display=False) as counter:
        step.learn(noise(COUNTED, exp.data.resolution))
    flops = counter.get_total_flops() / COUNTED
    activations = saved_bytes(lambda: step.learn(noise(COUNTED, exp.data.resolution))) / COUNTED
    fixed = _fixed_bytes(step, parts)

    if exp.train.compile:
        step = Step(exp, networks(exp, device), accelerator)
    whole = noise(batch_size, exp.data.resolution)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = [_seconds(step, whole, device) for _ in range(1 + TIMED)][1:]
    second = statistics.median(seconds)
    facts = environment()
    where = facts["gpu"] if device.type == "cuda" else f"{facts['processor']}, {torch.get_num_threads()} threads"
    kept = _checkpoint_bytes(step)
    name = f"{exp.name}: {exp.student.name}, {exp.data.resolution} px, batch {batch_size}, {exp.train.precision}"
    minutes = second * exp.train.accumulation * exp.train.steps / 60
    return [
        f"{name}; {where}, torch {torch.__version__}",
        "  parameters   " + ", ".join(f"{part} {count:,}" for part, count in _parameters(parts).items()),
        f"  operations   {flops * per_update / 1e12:.4g} TFLOP a step of {per_update} samples (2 a multiply-add), "
        f"{flops * per_update * exp.train.steps / 1e15:.4g} PFLOP in all",
        f"  memory       {fixed / 1e6:,.0f} MB for weights, gradients, optimisers and average + "
        f"{activations / 1e6:,.1f} MB a sample kept for the backward pass = "
        f"{(fixed + activations * batch_size) / 1e6:,.0f} MB; {_peak(device)}",
        f"  checkpoint   {kept / 1e6:,.0f} MB; two of them while one is written",
        f"  time         {second:.3g} s a step ({min(seconds):.3g} to {max(seconds):.3g}), "
        f"{batch_size / second:.4g} samples/s on each process: {exp.train.steps:,} steps in {minutes:,.1f} minutes",
    ]


def of_all(exps: list[Experiment], accelerator_of: Callable) -> None:
    """Print the lines of every experiment; steps of a size that was measured already are not measured again."""
    seen: dict = {}
    for exp in exps:
        accelerator = accelerator_of(exp)
        key = repr(replace(exp, name="", runs="", train=replace(exp.train, seed=0)))
        if key not in seen:
            seen[key] = exp.name
            lines = run(exp, accelerator)
        else:
            lines = [f"{exp.name}: as {seen[key]}"]
        accelerator.print("\n".join(lines), flush=True)


def noise(count: int, size: int) -> Triplet:
    """A batch as the loader hands it over."""
    images = torch.randint(0, 256, (3, count, 3, size, size), dtype=torch.uint8)
    return Triplet(*images, torch.ones(count), torch.ones(count, dtype=torch.bool), torch.ones(count))


def saved_bytes(work: Callable[[], object]) -> int:
    """Most bytes that autograd kept at one time for backward passes of `work`, every piece of memory counted once."""
    alive: dict[int, list[int]] = {}  # address -> [times kept, bytes]
    most = now = 0

    def pack(tensor: torch.Tensor):
        nonlocal most, now
        memory = tensor.untyped_storage()
        if isinstance(tensor, nn.Parameter) or tensor.is_leaf and tensor.requires_grad:
            return _Kept(tensor, None)
        place = memory.data_ptr()
        times = alive.setdefault(place, [0, memory.nbytes()])
        if times[0] == 0:
            now += times[1]
            most = max(most, now)
        times[0] += 1
        return _Kept(tensor, lambda: forget(place))

    def forget(place: int) -> None:
        nonlocal now
        times = alive[place]
        times[0] -= 1
        if times[0] == 0:
            now -= times[1]
            del alive[place]

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        work()
    return most


class _Kept:
    """A tensor that the graph keeps; when the graph lets go of it, that is told."""

    def __init__(self, tensor: torch.Tensor, gone: Callable[[], None] | None) -> None:
        self.tensor, self.gone = tensor, gone

    def __del__(self) -> None:
        if self.gone:
            self.gone()


def _seconds(step: Step, batch: Triplet, device: torch.device) -> float:
    started = time.perf_counter()
    step.learn(batch)
    step.state.step += 1
    step.state.update_average()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _parameters(parts: Networks) -> dict[str, int]:
    found = {
        "student": parts.learner.network, "discriminator": parts.critic, "identity encoder": parts.encoder,
        "perceptual network": parts.distance and parts.distance.features,
        "teacher": parts.teacher and parts.teacher.teacher,
    }  # fmt: skip
    return {part: _count(network) for part, network in found.items() if isinstance(network, nn.Module)}


def _count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _fixed_bytes(step: Step, parts: Networks) -> int:
    """Weights, gradients and both moments of what learns, the average, and what is frozen; all float32."""
    learning = sum(map(_count, (step.state.student, step.state.discriminator, step.state.adapters)))
    frozen = sum(_parameters(parts).values()) - _count(parts.learner.network) - _count(parts.critic)
    return 4 * (4 * learning + _count(step.state.average) + frozen)


def _checkpoint_bytes(step: Step) -> int:
    """Weights and both moments of what learns, and the average."""
    learning = sum(map(_count, (step.state.student, step.state.discriminator, step.state.adapters)))
    return 4 * (3 * learning + _count(step.state.average))


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"peak measured on the device {torch.cuda.max_memory_allocated() / 1e6:,.0f} MB"
    unit = 1 if sys.platform == "darwin" else 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"most that this process has held {most / 1e6:,.0f} MB, torch itself included"
