"""A measured value with its protocol (everything it depends on) and its interval."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from . import intervals

# Raise it with every change to a metric that changes its values: results of an older version are measured again.
VERSION = 2
# Keys of a protocol that do not decide whether two values are comparable: how the swapper is saved, and the name of the
# pair list, whose hash does.
INFORMATIVE = ("bytes_of", "pairs")


@dataclass(frozen=True)
class Measured:
    """One value. Two values whose protocols differ do not belong in one column.

    n: pairs (or runs) behind it. interval: 95 % bootstrap, None if not meaningful. protocol: everything the value
    depends on. details: further results, such as those of parts. unit and better are those of the metric's Value;
    seconds is the time of the metric, with the estimator readings that it computed first. each: (N,) float32, the value
    of every pair, NaN where it does not apply; None if the value is no mean over pairs. caution: a reason not to rely
    on the value, which tables show.
    """

    value: float
    n: int
    interval: tuple[float, float] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    unit: str = ""
    better: str | None = None
    seconds: float = 0.0
    each: np.ndarray | None = field(default=None, compare=False, repr=False)
    caution: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a measured value must be finite, got {self.value}")

    def as_dict(self) -> dict[str, Any]:
        """Plain types for JSON; `each` as the text of `packed`."""
        plain = {"interval": self.interval and list(self.interval), "each": packed(self.each)}
        return {**asdict(replace(self, each=None)), **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Measured:
        """The inverse of `as_dict`."""
        return cls(**{**plain, "each": unpacked(plain["each"])})

    def with_interval(self, unit: str, groups: Sequence[np.ndarray] = ()) -> Measured:
        """The value with the 95 % interval of its mean, and how that is made in the protocol. groups: labels (N,) of
        the units to draw, as in `intervals.bootstrap`. Unchanged without `each`."""
        if self.each is None:
            return self
        has = np.isfinite(self.each)
        ends = intervals.bootstrap(self.each[has].astype(np.float64), [labels[has] for labels in groups])
        return replace(self, interval=ends, protocol={**self.protocol, "interval": intervals.protocol(unit)})


def packed(array: np.ndarray | None) -> str | None:
    """An array (N,) as base64 text of its little-endian 4-byte numbers: float32, or int32 for whole numbers."""
    if array is None:
        return None
    kind = "<i4" if np.issubdtype(array.dtype, np.integer) else "<f4"
    return base64.b64encode(array.astype(kind).tobytes()).decode()


def unpacked(text: str | None, kind: str = "<f4") -> np.ndarray | None:
    """The inverse of `packed`; kind is "<i4" for whole numbers."""
    return None if text is None else np.frombuffer(base64.b64decode(text), kind)


def depends_on(value: Mapping[str, Any]) -> dict[str, Any]:
    """The unit, and the protocol without what does not decide whether two values (plain types) are comparable."""
    facts = {"unit": value["unit"]} | {k: v for k, v in value["protocol"].items() if k not in INFORMATIVE}
    if value.get("interval"):  # results that do not say so drew pairs
        facts.setdefault("interval", intervals.protocol("pairs"))
    return facts


def check_column(metric: str, values: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError unless all values, by row and as plain types, have one protocol; the message names two rows and
    the difference."""
    facts = {row: json.loads(json.dumps(depends_on(value))) for row, value in values.items()}  # tuples become lists
    for row in facts:
        first = next(iter(facts))
        for key in sorted(facts[first].keys() | facts[row].keys()):
            a, b = facts[first].get(key), facts[row].get(key)
            if a != b:
                raise ValueError(
                    f"{metric}: {first} and {row} were measured by different protocols and cannot share a column: "
                    f"{key} is {a!r} and {b!r}"
                )


def mean_of(values: Any, protocol: dict, details: dict | None = None, where: Any = None) -> Measured:
    """Mean of (M,) values, one per pair. where: (N,) bool, the M of all N pairs to which they belong; None for all.

    Raises ValueError on NaN or infinity."""
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"a measured value must be finite, got {values[~np.isfinite(values)][0]} for some pair")
    where = np.ones(len(values), dtype=bool) if where is None else np.asarray(where)
    each = np.full(len(where), np.nan, dtype=np.float32)
    each[where] = values
    return Measured(float(values.mean()), len(values), None, protocol, details or {}, each=each)
