"""Measures any swapper on a fixed list of pairs with the metrics of METRICS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from swapcore.images import to_float, to_uint8

from . import METRICS
from .estimators import UNTRAINED, Estimators
from .measured import Measured
from .metric import View
from .pairs import Pairs

Swapper = Callable[[Tensor, Tensor], Tensor]


class Store(Protocol):
    """Stores finished batches of swaps, so that an interrupted evaluation does not repeat them."""

    def load(self, batch: slice) -> Tensor | None:
        """The swaps (n, 3, H, H) uint8 of these pairs, or None."""

    def save(self, batch: slice, swaps: Tensor, failed: Sequence[int]) -> None:
        """Store the swaps of these pairs. failed: indices of the pairs whose swaps were not finite."""


class Evaluation:
    """Fixed pairs and estimators. Readings of sources, targets and gallery are computed once for all swappers.

    The estimators' networks are moved to `device`, and swappers get their images there. interval: the unit of 95 %
    intervals, pairs or people (eval.intervals). Raises ValueError on a batch size below 1 and on an estimator with
    untrained weights.
    """

    def __init__(
        self, pairs: Pairs, estimators: Estimators | None = None, device: Any = "cpu", batch_size: int = 32,
        interval: str = "pairs",
    ) -> None:  # fmt: skip
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        estimators = estimators or Estimators()
        for role, estimator in estimators.items():
            if estimator.weight_hash == UNTRAINED:
                raise ValueError(f"{role} '{estimator.name}' has untrained weights; load trained ones")
            estimator.to(device)
        self.pairs, self.estimators = pairs, estimators
        self.device, self.batch_size, self.interval = torch.device(device), batch_size, interval
        self._readings: dict[tuple[str, str], Tensor] = {}

    def measure(
        self,
        swapper: Swapper | str,
        metrics: Sequence[str],
        swaps: Tensor | None = None,
        progress: Callable[[int], Any] | None = None,
    ) -> dict[str, Measured]:
        """Measured values by key. `swaps`, the finished swaps (N, 3, H, H) uint8 of all pairs, are not computed again;
        the swapper may then be just a name, and values that need its networks are absent.

        progress: called with the number of pairs after each batch. Raises ValueError on an unknown metric, on one
        whose estimator is missing, and as `swap` and `view` do.
        """
        for metric in metrics:
            if metric not in METRICS:
                raise ValueError(f"unknown metric '{metric}', known: {', '.join(METRICS)}")
            for role in METRICS[metric].roles:
                self.estimators.need(role)
        view = self.view(swapper, self.swap(swapper, progress) if swaps is None else swaps)
        return self.with_intervals({k: value for name in metrics for k, value in METRICS[name](view).items()})

    def with_intervals(self, values: Mapping[str, Measured]) -> dict[str, Measured]:
        """Values measured on these pairs, with the intervals of this evaluation's unit."""
        groups = self.pairs.people if self.interval == "people" else ()
        return {key: value.with_interval(self.interval, groups) for key, value in values.items()}

    def view(self, swapper: Swapper | str, swaps: Tensor) -> View:
        """The input of the metrics for a swapper. Raises ValueError on swaps of another size or type."""
        name, target = _name(swapper), self.pairs.target
        if swaps.shape != target.shape or swaps.dtype != torch.uint8:
            got = f"{tuple(swaps.shape)} {swaps.dtype}"
            raise ValueError(f"swapper '{name}': swaps: expected {tuple(target.shape)} uint8, got {got}")
        return View(
            swapper, name, swaps, self.pairs, self.estimators, self.device, self.batch_size, self._readings
        )  # fmt: skip

    def swap(
        self,
        swapper: Swapper,
        progress: Callable[[int], Any] | None = None,
        store: Store | None = None,
        failed: list[int] | None = None,
    ) -> Tensor:
        """Swap all pairs, batch by batch: (N, 3, H, H) uint8 on the CPU. Batches that `store` has are not swapped.

        Raises ValueError naming swapper and pairs on swaps of another size, on NaN or infinite values, and on a module
        in training mode; with `failed`, a swap that is not finite becomes a grey image, and its pair is added there.
        """
        name, swaps = _name(swapper), []
        for first in range(0, len(self.pairs), self.batch_size):
            batch = slice(first, first + self.batch_size)
            swap = store.load(batch) if store is not None else None
            if swap is None:
                broken = None if failed is None else []
                swap = self._swap_batch(swapper, name, batch, broken)
                if store is not None:
                    store.save(batch, swap, broken or ())
                if failed is not None:
                    failed += broken
            swaps.append(swap)
            if progress:
                progress(len(swap))
        return torch.cat(swaps)

    @torch.inference_mode()
    def _swap_batch(self, swapper: Swapper, name: str, batch: slice, broken: list[int] | None) -> Tensor:
        source, target = self.pairs.source[batch], self.pairs.target[batch]
        swap = swapper(to_float(source.to(self.device)), to_float(target.to(self.device)))
        if swap.shape != target.shape:
            sizes = f"{tuple(swap.shape)} for targets {tuple(target.shape)}"
            raise ValueError(f"swapper '{name}': swaps of another size, {sizes} (from pair {batch.start})")
        if broken is not None:
            rows = (~torch.isfinite(swap)).flatten(1).any(1)
            broken += [batch.start + i for i in rows.nonzero().flatten().tolist()]
            swap = torch.where(rows[:, None, None, None], torch.zeros_like(swap), swap)
        try:
            return to_uint8(swap).cpu()
        except ValueError as error:
            last = batch.start + len(swap) - 1
            raise ValueError(f"swapper '{name}', pairs {batch.start} to {last}: {error}") from error


def _name(swapper: Swapper | str) -> str:
    """The name of a swapper. Raises ValueError on a module in training mode."""
    name = swapper if isinstance(swapper, str) else getattr(swapper, "name", None) or type(swapper).__name__
    if isinstance(swapper, nn.Module) and swapper.training:
        raise ValueError(f"swapper '{name}' is in training mode, so its swaps depend on the batch; call .eval()")
    return name
