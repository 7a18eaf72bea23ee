"""A measured value together with all that it depends on, and its interval."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

RESAMPLES = 1000
BOOTSTRAP_SEED = 0
# What a protocol tells beside what the value depends on: how the swapper is saved; the list's name, which has a hash.
TOLD_BESIDE = ("bytes_of", "pairs")


@dataclass(frozen=True)
class Measured:
    """One value. Two values whose protocols differ do not belong in one column.

    better: whether higher or lower values are better, "target" where the best value is a known one between, or None.
    interval: 95 % bootstrap over pairs, None where that means nothing. protocol: what the value depends on. details:
    further outcomes, as shares of parts. seconds: the time the metric took, its share of the rulers' work included.
    """

    value: float
    unit: str
    better: Literal["higher", "lower", "target"] | None
    n: int
    interval: tuple[float, float] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a measured value must be finite, got {self.value} {self.unit}")

    def as_dict(self) -> dict[str, Any]:
        """Plain types, fit for JSON."""
        plain = asdict(self)
        plain["interval"] = None if self.interval is None else list(self.interval)
        return plain

    def protocol_key(self) -> str:
        """16 hexadecimal digits: equal for values that belong in one column."""
        return hashlib.sha256(_depends_on(self.as_dict()).encode()).hexdigest()[:16]


def _depends_on(value: Mapping[str, Any]) -> str:
    protocol = {key: entry for key, entry in value["protocol"].items() if key not in TOLD_BESIDE}
    return json.dumps({"unit": value["unit"], **protocol}, sort_keys=True)


def check_column(metric: str, values: Mapping[str, Mapping[str, Any] | Measured]) -> None:
    """Raise ValueError unless all values, by row, were measured by one protocol; it names two rows and what differs.

    Values are Measured or what `as_dict` gave.
    """
    told = {row: json.loads(_depends_on(v.as_dict() if isinstance(v, Measured) else v)) for row, v in values.items()}
    rows = iter(told)
    first = next(rows, None)
    for row in rows:
        for key in sorted(told[first].keys() | told[row].keys()):
            a, b = told[first].get(key), told[row].get(key)
            if a != b:
                raise ValueError(
                    f"{metric}: {first} and {row} were measured by different protocols and belong in no common column: "
                    f"{key} is {a!r} and {b!r}"
                )


def bootstrap_interval(values: np.ndarray, seed: int = BOOTSTRAP_SEED) -> tuple[float, float] | None:
    """95 % percentile interval of the mean of (N,) values, pairs drawn again 1000 times; None for fewer than two.

    Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13. It reflects which pairs were drawn, not
    which seed trained the swapper; pairs that share a person are treated as independent.
    """
    n = len(values)
    if n < 2:
        return None
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(n, size=(50, n))].mean(axis=1) for _ in range(RESAMPLES // 50)]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def mean_of(values: Any, unit: str, better: str | None, protocol: dict, details: dict | None = None) -> Measured:
    """Measured mean of (N,) values, one a pair, with its bootstrap interval. Raises ValueError on NaN or infinity."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"a measured value must be finite, got {values[~np.isfinite(values)][0]} {unit} for some pair")
    return Measured(
        float(values.mean()), unit, better, len(values), bootstrap_interval(values), protocol, details or {}
    )
