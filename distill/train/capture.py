"""Fewer launches: the whole training step as one CUDA graph, and torch.compile by regions.

The host launches a captured step once instead of some thousand operations. `reason_against` decides where it can be.
`Snapshot` undoes the steps of the warm-up. `Captured` is the step. The first two run on every device and are tested on
CPU; `Captured` needs a GPU.

`compile_regions` compiles each distinct block of a network once, not the network as a whole: a network of 57 blocks in
25 shapes takes 25 small compilations instead of one that is as large as all of them. Code between the blocks is not
compiled.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from distill.data.triplet import Triplet
from distill.train.checkpoint import State

WARM_UP = 3  # steps before the capture: cuDNN chooses algorithms, the compiler compiles, optimisers make their state
SHAPES = 64  # compiled forms of one block: torch gives up silently after 8, and a block may have more sizes


def reason_against(
    mode: str, device: torch.device, processes: int, accumulation: int, scaler: object | None, teacher: object | None
) -> str | None:
    """Why the step is not captured, or None: it is. `mode` is train.capture; with "on" the reason is an error of the
    caller's experiment."""
    if mode == "off":
        return "train.capture is off"
    if device.type != "cuda":
        return f"the device is {device.type}, and only CUDA has graphs"
    if processes > 1:
        return f"{processes} processes exchange gradients, which is not proved in a graph"
    if accumulation > 1:
        return f"train.accumulation is {accumulation}, and a graph is one whole step"
    if scaler is not None:
        return "train.precision is fp16, whose scaler skips steps by the values of gradients"
    if teacher is not None:
        return "distil.online swaps a number of samples that differs from batch to batch"
    return None


class Snapshot:
    """The values of all that a step changes: weights, buffers, average, optimisers and the state of random numbers.
    `restore` puts them back in place, so that the addresses that a graph has recorded stay."""

    def __init__(self, state: State, device: torch.device) -> None:
        self.state, self.device = state, device
        self.tensors = [(tensor, tensor.detach().clone()) for tensor in _of_modules(state)]
        self.of_optimisers = {id(tensor): tensor.detach().clone() for tensor in _of_optimisers(state)}
        self.random = torch.get_rng_state()
        self.random_of_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, value in self.tensors:
            tensor.copy_(value)
        for tensor in _of_optimisers(self.state):
            before = self.of_optimisers.get(id(tensor))
            if before is None:  # made since then; all of Adam's state starts at 0
                tensor.zero_()
            else:
                tensor.copy_(before)
        torch.set_rng_state(self.random)
        if self.random_of_device is not None:
            torch.cuda.set_rng_state(self.random_of_device, self.device)


def _of_modules(state: State) -> list[Tensor]:
    modules = (state.net, state.ema, state.discriminator, state.adapters)
    return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]


def _of_optimisers(state: State) -> list[Tensor]:
    optimisers = [optimiser for optimiser in (state.optimiser, state.optimiser_d) if optimiser is not None]
    values = [value for optimiser in optimisers for entry in optimiser.state.values() for value in entry.values()]
    return [value for value in values if isinstance(value, Tensor)]


@dataclass
class _Slot:
    """A batch on its way: memory on the device, and the event after which that memory may be filled again."""

    batch: Triplet
    taken: torch.cuda.Event = field(default_factory=lambda: torch.cuda.Event())


class Captured:
    """`compute`, a function from a batch on the device to losses by name, as a CUDA graph.

    The batch of the next call is copied to the device on a stream of its own while the graph still computes the last
    one. What differs from step to step beside the batch is in tensors of `state` (State.make_capturable).
    """

    def __init__(self, compute: Callable[[Triplet], dict[str, Tensor]], state: State, batch: Triplet) -> None:
        device = next(state.net.parameters()).device
        self.batch = _on(device, batch)
        self.copies = torch.cuda.Stream(device)
        self.slots = [_Slot(_on(device, batch)) for _ in range(2)]
        self.calls = 0

        # Warm up on another stream, as captures need it; then the graph records without computing.
        snapshot = Snapshot(state, device)
        current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                compute(self.batch)
        current.wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):  # loaders pin memory in threads
            terms = compute(self.batch)
            self.names = tuple(terms)
            self.values = torch.stack([term.detach().float() for term in terms.values()])
        snapshot.restore()

    def fits(self, batch: Triplet) -> bool:
        """Whether the graph can take the batch: shapes and types are those of its first one."""
        return all(a.shape == b.shape and a.dtype == b.dtype for a, b in zip(self.batch, batch, strict=True))

    def __call__(self, batch: Triplet) -> dict[str, Tensor]:
        """The losses of one step on a batch of the loader, in pinned memory or on the device."""
        current = torch.cuda.current_stream(self.batch.source.device)
        if any(tensor.is_cuda for tensor in batch):  # made by work of the current stream: copy in its order
            _copy(self.batch, batch)
        else:
            slot = self.slots[self.calls % len(self.slots)]
            self.copies.wait_event(slot.taken)
            with torch.cuda.stream(self.copies):
                _copy(slot.batch, batch)
            current.wait_stream(self.copies)
            _copy(self.batch, slot.batch)
            slot.taken.record(current)
        self.calls += 1
        self.graph.replay()
        return dict(zip(self.names, self.values.clone().unbind(), strict=True))


def _on(device: torch.device, batch: Triplet) -> Triplet:
    return Triplet(*(tensor.to(device, copy=True) for tensor in batch))


def _copy(to: Triplet, batch: Triplet) -> None:
    for place, tensor in zip(to, batch, strict=True):
        place.copy_(tensor, non_blocking=True)


def regions(network: nn.Module) -> list[nn.Module]:
    """The outermost modules of classes that are not torch's own and occur more than once; without any, the network."""
    counts = Counter(type(module) for module in network.modules() if not _of_torch(module))
    return _regions(network, {kind for kind, count in counts.items() if count > 1}) or [network]


def _regions(module: nn.Module, repeated: set[type]) -> list[nn.Module]:
    if type(module) in repeated:
        return [module]
    return [region for child in module.children() for region in _regions(child, repeated)]


def _of_torch(module: nn.Module) -> bool:
    return type(module).__module__.split(".")[0] == "torch"


def compile_regions(network: nn.Module) -> None:
    """Compile the regions of a network in place: names, parameters and checkpoints do not change."""
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    for region in regions(network):
        region.compile(dynamic=False)


def keep_compiled_in(folder: str | None) -> None:
    """Keep compiled code in `folder` (train.compile_cache), so that the next start compiles nothing; None: where torch
    keeps it, which is a temporary folder. Call it before anything is compiled."""
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder).resolve())
        os.environ.pop("TRITON_CACHE_DIR", None)  # inductor then puts Triton's files into the folder, too
