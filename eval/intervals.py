"""Intervals of means over pairs, and paired differences of two swappers on the same pairs.

Percentile bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16. Pairs that share
a person are not independent, so the unit to draw is a choice:

pairs   every pair by itself.
people  every person with all their pairs (cluster bootstrap: Davison and Hinkley, Bootstrap Methods and their
        Application, 1997, section 3.8; Cameron, Gelbach and Miller, Review of Economics and Statistics 90, 2008). A
        pair has two people, so it is done twice: source people are drawn, then target people; the wider interval
        counts. To draw both at once and to multiply the counts (Owen, Annals of Applied Statistics 1, 2007) would
        triple the variance that belongs to single pairs, which is too much for lists with few pairs a person.
seeds   the seeds of the training, by Student's t: Welch, Biometrika 34, 1947. A bootstrap of three seeds would be far
        too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit  # the inverse of Student's t; scipy.stats takes a third of a second to import

RESAMPLES, SEED, LEVEL_PCT = 1000, 0, 95
# Units that a user may choose, and what is drawn of each.
UNITS = {
    "pairs": "every pair by itself",
    "people": "people with all their pairs: source people, then target people; the wider interval",
}
# Of fewer units no two-sided sign test reaches 95 %: 2 x 0.5^5 > 5 %. No difference over so few is called sure.
FEWEST = 6
Interval = tuple[float, float]


def protocol(unit: str) -> dict[str, Any]:
    """How the interval of a unit ("pairs", "people" or another noun) is made, as an entry of a protocol."""
    facts = {"unit": unit, "drawn": UNITS.get(unit, f"every one of the {unit} by itself")}
    return {
        "method": "percentile bootstrap of the mean", "level_pct": LEVEL_PCT, "resamples": RESAMPLES, "seed": SEED,
        **facts,
    }  # fmt: skip


def bootstrap(values: np.ndarray, groups: Sequence[np.ndarray] = (), fewest: int = 2) -> Interval | None:
    """95 % interval of the mean of (N,) values over 1000 resamples.

    groups: labels (N,) of the units that are drawn, each with all its values; of several labellings the widest interval
    is returned. Without groups every value is a unit. None where a labelling has fewer than `fewest` units.
    """
    intervals = []
    for labels in groups or (np.arange(len(values)),):
        codes = np.unique(labels, return_inverse=True)[1]
        sums, counts = np.bincount(codes, values), np.bincount(codes)
        if len(counts) < fewest:
            return None
        rng = np.random.default_rng(SEED)
        draws = (rng.integers(len(counts), size=(50, len(counts))) for _ in range(RESAMPLES // 50))
        means = np.concatenate([sums[drawn].sum(1) / counts[drawn].sum(1) for drawn in draws])
        low, high = np.percentile(means, [50 - LEVEL_PCT / 2, 50 + LEVEL_PCT / 2])
        intervals.append((float(low), float(high)))
    return max(intervals, key=lambda ends: ends[1] - ends[0])


def student(values: Sequence[float]) -> Interval | None:
    """95 % interval of the mean of some seeds' values by Student's t; None for one seed."""
    return None if len(values) < 2 else _by_t(np.mean(values), np.var(values, ddof=1) / len(values), len(values) - 1)


def welch(a: Sequence[float], b: Sequence[float]) -> Interval | None:
    """95 % interval of the difference of the means of two lists of seeds' values; None where one has a single seed."""
    if min(len(a), len(b)) < 2:
        return None
    first, second = (np.var(values, ddof=1) / len(values) for values in (a, b))
    spread = first**2 / (len(a) - 1) + second**2 / (len(b) - 1)
    freedom = (first + second) ** 2 / spread if spread else len(a) + len(b) - 2
    return _by_t(np.mean(a) - np.mean(b), first + second, freedom)


def _by_t(mean: float, variance: float, freedom: float) -> Interval:
    half = float(stdtrit(freedom, 0.5 + LEVEL_PCT / 200)) * math.sqrt(variance)
    return float(mean) - half, float(mean) + half


@dataclass(frozen=True)
class Difference:
    """The mean of a swapper less that of a reference, over the pairs that both have, and its 95 % intervals by unit;
    None for a unit of which there are too few."""

    value: float
    intervals: Mapping[str, Interval | None]

    @property
    def sure(self) -> bool:
        """Whether the intervals of all units exclude 0."""
        return all(ends is not None and not ends[0] <= 0 <= ends[1] for ends in self.intervals.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        intervals = {unit: None if ends is None else list(ends) for unit, ends in self.intervals.items()}
        return {"value": self.value, "intervals": intervals, "sure": self.sure}


def difference(a: np.ndarray, b: np.ndarray, people: Sequence[np.ndarray]) -> Difference | None:
    """The paired difference a - b of (N,) values of two swappers on the same pairs, NaN where a pair has none; None
    where no pair has both. people: labels (N,) of the source's and of the target's person. Raises ValueError where a
    and b are values of different pairs."""
    if a.shape != b.shape:
        raise ValueError(f"paired values need the same pairs, got {len(a)} and {len(b)}")
    both = np.isfinite(a) & np.isfinite(b)
    if not both.any():
        return None
    paired = (a - b)[both]
    by_people = bootstrap(paired, [labels[both] for labels in people], FEWEST)
    return Difference(float(paired.mean()), {"pairs": bootstrap(paired, (), FEWEST), "people": by_people})
