"""A metric and its values describe themselves: every table, page and check derives from these descriptions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from .measured import Measured
from .view import View


@dataclass(frozen=True)
class Value:
    """One value that a metric measures.

    key: its name in metrics.json and MLflow. title: its name in tables. better: whether higher or lower is better, or
    "target" where the best value lies in between. parts: tables show the share of each network of a swapper. brief: the
    short table that compares variants has it. open_ended: `key` is a prefix, followed by the name of an estimator.
    """

    key: str
    title: str
    unit: str = ""
    format: str = "{:.2f}"
    better: Literal["higher", "lower", "target"] | None = None
    parts: bool = False
    brief: bool = True
    open_ended: bool = False

    @property
    def digits(self) -> int:
        """Decimal places in tables."""
        return int(self.format[self.format.index(".") + 1])

    def named(self, key: str) -> Value | None:
        """The description of the measured `key`; None where it is not a key of this value."""
        if self.open_ended:
            return replace(self, key=key, title=key.replace("_", " ")) if key.startswith(self.key) else None
        return self if key == self.key else None


@dataclass(frozen=True)
class Metric:
    """measure: view of a swapper -> measured values by key; a value that the swapper or the pairs cannot have is
    absent. values: all values it may give, in the order of tables. needs: the role of the estimator it depends on."""

    measure: Callable[[View], dict[str, Measured]]
    values: tuple[Value, ...]
    needs: str | None = None

    def __call__(self, view: View) -> dict[str, Measured]:
        """Measure, with units, directions and the time it took. Raises ValueError on a key that no Value declares."""
        started = time.perf_counter()
        measured = described(self.measure(view), self.values)
        seconds = round(time.perf_counter() - started, 3)
        return {key: replace(one, seconds=seconds) for key, one in measured.items()}


def find(key: str, values: Iterable[Value]) -> Value | None:
    """The Value that describes `key`; None where there is none."""
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
