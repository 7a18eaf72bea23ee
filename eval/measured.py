"""A measured value with its protocol (everything it depends on) and its interval."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

RESAMPLES = 1000
BOOTSTRAP_SEED = 0
# Keys of a protocol that do not decide whether two values are comparable: how the swapper is saved, and the name of the
# pair list, whose hash does.
INFORMATIVE = ("bytes_of", "pairs")


@dataclass(frozen=True)
class Measured:
    """One value. Two values whose protocols differ do not belong in one column.

    n: pairs (or runs) behind it. interval: 95 % bootstrap over pairs, None if not meaningful. protocol:
    everything the value depends on. details: further results, such as those of parts. unit and better are those of the
    metric's Value; seconds is the time of the metric, with the estimator readings that it computed first.
    """

    value: float
    n: int
    interval: tuple[float, float] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    unit: str = ""
    better: str | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a measured value must be finite, got {self.value}")

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {**asdict(self), "interval": None if self.interval is None else list(self.interval)}


def _depends_on(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"unit": value["unit"]} | {k: v for k, v in value["protocol"].items() if k not in INFORMATIVE}


def check_column(metric: str, values: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError unless all values, by row and as plain types, have one protocol; the message names two rows and
    the difference."""
    facts = {row: json.loads(json.dumps(_depends_on(value))) for row, value in values.items()}  # tuples become lists
    for row in facts:
        first = next(iter(facts))
        for key in sorted(facts[first].keys() | facts[row].keys()):
            a, b = facts[first].get(key), facts[row].get(key)
            if a != b:
                raise ValueError(
                    f"{metric}: {first} and {row} were measured by different protocols and cannot share a column: "
                    f"{key} is {a!r} and {b!r}"
                )


def bootstrap_interval(values: np.ndarray, seed: int = BOOTSTRAP_SEED) -> tuple[float, float] | None:
    """95 % percentile interval of the mean of (N,) values, over 1000 resamples of pairs; None for fewer than two.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. It reflects the draw of pairs, not the
    seed that trained the swapper; pairs that share a person are treated as independent.
    """
    n = len(values)
    if n < 2:
        return None
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(n, size=(50, n))].mean(axis=1) for _ in range(RESAMPLES // 50)]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def mean_of(values: Any, protocol: dict, details: dict | None = None) -> Measured:
    """Mean of (N,) values, one per pair, with its bootstrap interval. Raises ValueError on NaN or infinity."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"a measured value must be finite, got {values[~np.isfinite(values)][0]} for some pair")
    return Measured(float(values.mean()), len(values), bootstrap_interval(values), protocol, details or {})
