"""The view that a metric has of one swapper: its swaps, the pairs, and the readings of estimators."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from swapcore.images import to_float

from .estimators import Estimators
from .pairs import Pairs


@dataclass(frozen=True, eq=False)
class View:
    """One swapper and its swaps (N, 3, H, H) uint8 on the CPU, 8-bit as a file would hold them.

    swapper: the callable, or a name alone where only its swaps are known. readings: cache of the estimators' readings
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
            cache[role, column] = self._read(role, images, f"{self.name}'s" if column == "swap" else column)
        return cache[role, column]

    @torch.inference_mode()
    def _read(self, role: str, images: Tensor, whose: str) -> Tensor:
        """Raises ValueError where the readings break their contract: shape, finite, unit length, three angles."""
        estimator = self.estimators.need(role)
        batches = images.split(self.batch_size)
        readings = torch.cat([estimator(to_float(batch.to(self.device))).float().cpu() for batch in batches])
        problem = None
        if readings.ndim != 2 or len(readings) != len(images):
            problem = f"expected ({len(images)}, D), got {tuple(readings.shape)}"
        elif not torch.isfinite(readings).all():
            problem = f"NaN or infinite for image {int((~torch.isfinite(readings)).any(1).nonzero()[0])}"
        elif role == "pose" and readings.shape[1] != 3:
            problem = f"expected yaw, pitch and roll, got {readings.shape[1]} numbers"
        elif role == "recogniser" and (readings.norm(dim=1) - 1).abs().max() > 1e-3:
            problem = "embeddings are not of unit length"
        if problem:
            raise ValueError(f"{role} '{estimator.name}' on {whose} images: {problem}")
        return readings

    def protocol(self, role: str | None = None) -> dict[str, Any]:
        """Everything that all values on these pairs depend on, with estimator `role` where one is named.

        Raises ValueError where that estimator was not given.
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
        estimator = self.estimators.need(role)
        return {**shared, role: estimator.as_dict(), "flip": estimator.flip}
