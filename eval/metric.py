"""A metric, the values it measures, and its view of a swapper.

Metrics and values describe themselves: every table, page and check derives from these descriptions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from swapcore.images import to_float

from .estimators import Estimators
from .measured import Measured
from .pairs import Pairs

POSE_NUMBERS = (3, 198)  # yaw, pitch and roll in degrees, or Hopenet's logits of 66 bins for each


@dataclass(frozen=True)
class Value:
    """One value that a metric measures.

    key: its name in metrics.json and MLflow. title: its name in tables. better: whether higher or lower is better, or
    "target" if the best value lies in between. parts: tables show the share of each network of a swapper. brief: shown
    in the short table of variants. cost: the plot of variants shows ID retrieval against it. open_ended:
    `key` is a prefix, followed by the name of an estimator.
    """

    key: str
    title: str
    unit: str = ""
    format: str = "{:.2f}"
    better: Literal["higher", "lower", "target"] | None = None
    parts: bool = False
    brief: bool = True
    cost: bool = False
    open_ended: bool = False

    @property
    def digits(self) -> int:
        """Decimal places in tables."""
        return int(self.format[self.format.index(".") + 1])

    def named(self, key: str) -> Value | None:
        """The description of the measured `key`; None if it is not a key of this value."""
        if self.open_ended:
            return replace(self, key=key, title=key.replace("_", " ")) if key.startswith(self.key) else None
        return self if key == self.key else None


@dataclass(frozen=True, eq=False)
class View:
    """One swapper and its swaps (N, 3, H, H) uint8 on the CPU, 8-bit as a file would hold them.

    swapper: the callable, or just a name if only its swaps are known. readings: cache of the estimators' readings
    of sources, targets and gallery, keyed by (role, column) and shared by all swappers measured on these pairs.
    """

    swapper: Any
    name: str
    swaps: Tensor
    pairs: Pairs
    estimators: Estimators
    device: torch.device
    batch_size: int
    readings: dict[tuple[str, str], Tensor]
    own_readings: dict[tuple[str, str], Tensor] = field(default_factory=dict)

    def read(self, role: str, column: str) -> Tensor:
        """Readings of estimator `role` on column swap, source, target or gallery: (N or P, D) float32 on the CPU."""
        cache = self.own_readings if column == "swap" else self.readings
        if (role, column) not in cache:
            images = self.swaps if column == "swap" else getattr(self.pairs, column)
            # A swap has the target's landmarks: its own would depend on how well the swap shows a face.
            pictured = "target" if column == "swap" else column
            beside = {key: getattr(self.pairs, f"{pictured}_{key}") for key in ("landmarks", "parsing")}
            owner = f"{self.name}'s" if column == "swap" else column
            cache[role, column] = self._read(role, images, beside, owner)
        return cache[role, column]

    @torch.inference_mode()
    def _read(self, role: str, images: Tensor, beside: Mapping[str, Tensor | None], owner: str) -> Tensor:
        """beside: what is known of the images, where it is, as Estimator takes it.

        Raises ValueError unless the readings have their shape, are finite and, from a recogniser, of unit length."""
        estimator, outputs = self.estimators.need(role), []
        for start in range(0, len(images), self.batch_size):
            batch = slice(start, start + self.batch_size)
            known = {key: values[batch].to(self.device) for key, values in beside.items() if values is not None}
            outputs.append(estimator(to_float(images[batch].to(self.device)), **known).float().cpu())
        readings = torch.cat(outputs)
        problem = None
        if readings.ndim != 2 or len(readings) != len(images):
            problem = f"expected ({len(images)}, D), got {tuple(readings.shape)}"
        elif not torch.isfinite(readings).all():
            problem = f"NaN or infinite for image {int((~torch.isfinite(readings)).any(1).nonzero()[0])}"
        elif role == "pose" and readings.shape[1] not in POSE_NUMBERS:
            problem = f"expected yaw, pitch and roll, or logits of 66 bins of each, got {readings.shape[1]} numbers"
        elif role in ("recogniser", "trained_encoder") and (readings.norm(dim=1) - 1).abs().max() > 1e-3:
            problem = "embeddings are not of unit length"
        if problem:
            raise ValueError(f"{role} '{estimator.name}' on {owner} images: {problem}")
        return readings

    def protocol(self, role: str | None = None) -> dict[str, Any]:
        """The protocol of all values on these pairs, with that of estimator `role` if one is named.

        Raises ValueError if that estimator is absent.
        """
        shared: dict[str, Any] = {
            "pairs": self.pairs.name,
            "pairs_hash": self.pairs.hash,
            "pairs_count": len(self.pairs),
            "resolution": self.pairs.resolution,
            "swaps": "8-bit RGB: rounded, clipped",
        }
        if self.pairs.protocol:
            shared["data"] = dict(self.pairs.protocol)
        if role is None:
            return shared
        return {**shared, **self.estimators.need(role).protocol(role)}


@dataclass(frozen=True)
class Metric:
    """measure: view of a swapper -> measured values by key; a value that does not apply to the swapper or the
    pairs is absent. values: all possible values, in the order of tables. needs: the role of its estimator, or roles.
    lacks: (swapper, pairs, device) -> the reason why the metric has no value there; empty where it has one. machine:
    facts of this machine on which the values depend.
    """

    measure: Callable[[View], dict[str, Measured]]
    values: tuple[Value, ...]
    needs: str | tuple[str, ...] | None = None
    lacks: Callable[[Any, Pairs, torch.device], str] = lambda swapper, pairs, device: ""
    machine: Callable[[], Mapping[str, Any]] = dict

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of its estimators."""
        return (self.needs,) if isinstance(self.needs, str) else self.needs or ()

    def __call__(self, view: View) -> dict[str, Measured]:
        """Measure, with units, directions and the time it took. Raises ValueError on a key that no Value declares."""
        if self.lacks(view.swapper, view.pairs, view.device):
            return {}
        started = time.perf_counter()
        measured = described(self.measure(view), self.values)
        seconds = round(time.perf_counter() - started, 3)
        return {key: replace(one, seconds=seconds) for key, one in measured.items()}


def find(key: str, values: Iterable[Value]) -> Value | None:
    """The Value that describes `key`, or None."""
    return next(filter(None, (value.named(key) for value in values)), None)


def described(measured: Mapping[str, Measured], values: Iterable[Value]) -> dict[str, Measured]:
    """Measured values with unit and direction as described. Raises ValueError on a key that no Value declares."""
    result = {}
    for key, one in measured.items():
        value = find(key, values)
        if value is None:
            raise ValueError(f"a metric measured '{key}', which none of its Values declares")
        result[key] = replace(one, unit=value.unit, better=value.better)
    return result
