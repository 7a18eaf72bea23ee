"""One swapper on the bench: its swaps, and what the rulers read off them, each made once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from swapcore.images import to_float, to_uint8

from .pairs import Pairs
from .rulers import Rulers

Swapper = Callable[[Tensor, Tensor], Tensor]


class Readings:
    """What the rulers read off the images of a list of pairs, in batches, kept for every swapper measured on them."""

    def __init__(self, pairs: Pairs, rulers: Rulers, device: Any, batch_size: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        self.pairs, self.rulers = pairs, rulers.to(device)
        self.device, self.batch_size = torch.device(device), batch_size
        self._kept: dict[tuple[str, str], Tensor] = {}

    def __call__(self, role: str, column: str) -> Tensor:
        """Readings of ruler `role` off the pairs' source, target or gallery: (N or P, D) float32 on the CPU."""
        if (role, column) not in self._kept:
            self._kept[role, column] = self.read(role, getattr(self.pairs, column), column)
        return self._kept[role, column]

    @torch.inference_mode()
    def read(self, role: str, images: Tensor, what: str) -> Tensor:
        """Readings of ruler `role` ("recogniser", "pose", "expression") off uint8 images, (N, D) float32 on the CPU.

        Raises ValueError where the ruler breaks its contract: shape, finite values, unit length, three angles.
        """
        ruler = self.rulers.need(role)
        batches = [ruler(to_float(batch.to(self.device))).float().cpu() for batch in images.split(self.batch_size)]
        readings = torch.cat(batches)
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
            raise ValueError(f"{role} '{ruler.name}' on {what} images: {problem}")
        return readings


@torch.inference_mode()
def swap_batch(
    swapper: Swapper, source: Tensor, target: Tensor, device: Any, first: int = 0, failed: list[int] | None = None
) -> Tensor:
    """The swaps of uint8 sources and targets (n, 3, H, H), which are pairs `first` and on: the same, on the CPU.

    Raises ValueError naming swapper and pairs on swaps of another size and on NaN or infinite values; with `failed`,
    such a swap becomes a grey picture, and the number of its pair is added there.
    """
    name = getattr(swapper, "name", None) or type(swapper).__name__
    swap = swapper(to_float(source.to(device)), to_float(target.to(device)))
    if tuple(swap.shape) != tuple(target.shape):
        found = f"{tuple(swap.shape)} for targets {tuple(target.shape)}"
        raise ValueError(f"swapper '{name}': swaps of another size, {found} (pair {first} on)")
    broken = (~torch.isfinite(swap)).flatten(1).any(1).nonzero().flatten().tolist() if failed is not None else []
    if broken:
        swap = swap.clone()
        swap[broken] = 0
        failed += [first + i for i in broken]
    try:
        return to_uint8(swap).cpu()
    except ValueError as error:
        raise ValueError(f"swapper '{name}', pairs {first} to {first + len(swap) - 1}: {error}") from error


class Subject:
    """What a metric is given. swaps: (N, 3, H, H) uint8 on the CPU, 8-bit as a file would hold them; made by the
    swapper unless they are there already."""

    def __init__(
        self,
        swapper: Swapper,
        readings: Readings,
        progress: Callable[[int], Any] | None = None,
        swaps: Tensor | None = None,
    ) -> None:
        self.swapper = swapper
        self.name = getattr(swapper, "name", None) or type(swapper).__name__
        if isinstance(swapper, nn.Module) and swapper.training:
            raise ValueError(f"swapper '{self.name}' is in training mode, where a batch changes the swap; call .eval()")
        self.pairs, self.rulers, self.device = readings.pairs, readings.rulers, readings.device
        self._readings = readings
        self._own: dict[str, Tensor] = {}
        self.swaps = self._swap(progress) if swaps is None else swaps
        wanted = self.pairs.target
        if self.swaps.shape != wanted.shape or self.swaps.dtype != torch.uint8:
            found = f"{tuple(self.swaps.shape)} {self.swaps.dtype}"
            raise ValueError(f"swapper '{self.name}': swaps: expected {tuple(wanted.shape)} uint8, got {found}")

    def _swap(self, progress: Callable[[int], Any] | None) -> Tensor:
        swaps, size = [], self._readings.batch_size
        for first in range(0, len(self.pairs), size):
            batch = slice(first, first + size)
            swap = swap_batch(self.swapper, self.pairs.source[batch], self.pairs.target[batch], self.device, first)
            swaps.append(swap)
            if progress:
                progress(len(swap))
        return torch.cat(swaps)

    def read(self, role: str, column: str) -> Tensor:
        """Readings of ruler `role` off column swap, source, target or gallery: (N or P, D) float32 on the CPU."""
        if column != "swap":
            return self._readings(role, column)
        if role not in self._own:
            self._own[role] = self._readings.read(role, self.swaps, f"{self.name}'s")
        return self._own[role]

    def protocol(self, role: str | None = None) -> dict[str, Any]:
        """What every value on these pairs depends on, the ruler `role` included.

        Raises ValueError where that ruler was not given.
        """
        shared = {
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
        ruler = self.rulers.need(role)
        return {**shared, role: ruler.as_dict(), "flip": ruler.flip}
