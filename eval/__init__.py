"""How any swapper is measured. A swapper is any callable (source, target) -> swap on canonical crops in [-1, 1].

    bench = Bench(pairs, Rulers(recogniser=..., pose=..., expression=...))
    bench.evaluate(swapper, ["id_retrieval", "pose_error"]).values["id_retrieval_top1_pct"].value

A swapper may say more of itself: `name`; `parts`, its networks by name, which are then measured apart; `files`, the
saved files of those parts. Rulers are loaded by `eval.rulers`; the networks that train are not among them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from swapcore.images import to_float, to_uint8

from .background_error import background_error
from .exact_match import exact_match
from .expression_error import expression_error
from .frechet_distance import frechet_distance
from .id_retrieval import id_retrieval
from .id_similarity import id_similarity
from .latency_ms import latency_ms
from .lpips_distance import lpips_distance
from .measured import Measured
from .pairs import Pairs
from .peak_memory_mb import peak_memory_mb
from .pose_error import pose_error
from .rulers import Ruler, Rulers
from .size_mb import size_mb
from .subject import Readings, Subject, Swapper

__all__ = ["METRICS", "Bench", "Evaluation", "Measured", "Pairs", "Ruler", "Rulers", "evaluate", "to_float", "to_uint8"]

# Each gives one or more values by name; a value that a swapper or a list of pairs cannot have is absent.
METRICS: dict[str, Callable[[Subject], dict[str, Measured]]] = {
    "id_retrieval": id_retrieval,
    "id_similarity": id_similarity,
    "pose_error": pose_error,
    "expression_error": expression_error,
    "exact_match": exact_match,
    "background_error": background_error,
    "lpips": lpips_distance,
    "fid": frechet_distance,
    "size_mb": size_mb,
    "latency_ms": latency_ms,
    "peak_memory_mb": peak_memory_mb,
}

# The ruler a metric cannot do without: asked for before anything is swapped.
NEEDS = {
    "id_retrieval": "recogniser",
    "id_similarity": "recogniser",
    "pose_error": "pose",
    "expression_error": "expression",
    "lpips": "perceptual",
    "fid": "features",
}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """values: by name. swaps: (N, 3, H, H) uint8. swap_seconds: the time all swaps took."""

    values: dict[str, Measured]
    swaps: Tensor
    swap_seconds: float


class Bench:
    """Fixed pairs and rulers; what the rulers read off sources, targets and gallery is kept for all swappers.

    The rulers' networks are moved to `device`; swappers are expected to take images there.
    """

    def __init__(self, pairs: Pairs, rulers: Rulers, device: Any = "cpu", batch_size: int = 32) -> None:
        self.pairs = pairs
        self._readings = Readings(pairs, rulers, device, batch_size)

    def evaluate(
        self,
        swapper: Swapper,
        metrics: Sequence[str],
        progress: Callable[[int], Any] | None = None,
        swaps: Tensor | None = None,
    ) -> Evaluation:
        """Measure one swapper by metrics of METRICS; progress is told the number of pairs swapped, batch by batch.

        With `swaps`, its swaps of all pairs (N, 3, H, H) uint8, none is made, and the swapper is only asked for its
        networks. Raises ValueError on an unknown metric, on one whose ruler is missing, on a swapper in training mode,
        and on swaps of another size or with NaN.
        """
        for metric in metrics:
            if metric not in METRICS:
                raise ValueError(f"unknown metric '{metric}', known: {', '.join(METRICS)}")
            if metric in NEEDS:
                self._readings.rulers.need(NEEDS[metric])
        started = time.perf_counter()
        subject = Subject(swapper, self._readings, progress, swaps)
        swap_seconds = time.perf_counter() - started
        values = {}
        for metric in metrics:
            started = time.perf_counter()
            measured = METRICS[metric](subject)
            seconds = round(time.perf_counter() - started, 3)
            values |= {name: replace(value, seconds=seconds) for name, value in measured.items()}
        return Evaluation(values, subject.swaps, swap_seconds)


def evaluate(
    swapper: Swapper,
    pairs: Pairs,
    metrics: Sequence[str],
    rulers: Rulers,
    batch_size: int = 32,
    device: Any = "cpu",
    progress: Callable[[int], Any] | None = None,
) -> Evaluation:
    """Measure one swapper; to measure several on the same pairs, make one Bench."""
    return Bench(pairs, rulers, device, batch_size).evaluate(swapper, metrics, progress)
