"""Which of several swappers is better: the paired differences of their rows to a reference row, on the same pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval import table_values
from eval.intervals import Difference, difference
from eval.measured import unpacked

Row = Mapping[str, Mapping[str, Any]]  # of metrics.json: Measured.as_dict() by key


def best(rows: Mapping[str, Mapping[str, float]]) -> str | None:
    """The row that is best by the first value, in the order of tables, that all rows have and that has a better
    direction; the first such row of equal ones. None where there is no such value."""
    common = set.intersection(*map(set, rows.values())) if rows else set()
    for value in table_values(common):
        if value.better in ("higher", "lower"):
            sign = 1 if value.better == "higher" else -1
            return max(rows, key=lambda name: sign * rows[name][value.key])
    return None


def people_of(pairs: Mapping[str, Any]) -> list[np.ndarray] | None:
    """The people of sources and of targets, (N,) each, of the `pairs` of a metrics.json; None where an older one lacks
    them."""
    people = pairs.get("people")
    return people and [unpacked(people[side], "<i4") for side in ("source", "target")]


def each_of(row: Row) -> dict[str, np.ndarray]:
    """The values of all pairs, (N,) by key, of a row of metrics.json; without values that are no means over pairs."""
    return {key: unpacked(value["each"]).astype(np.float64) for key, value in row.items() if value.get("each")}


def to_reference(
    rows: Mapping[str, Mapping[str, np.ndarray]], reference: str, people: Sequence[np.ndarray]
) -> dict[str, dict[str, Difference]]:
    """The difference of every other row to the reference row, by row and key. rows: (N,) values of all pairs by key.
    people: those of `people_of`. Values without pairs in common have no difference."""
    found: dict[str, dict[str, Difference]] = {}
    for name in (name for name in rows if name != reference):
        compared = {key: difference(rows[name][key], rows[reference][key], people) for key in rows[name]
                    if key in rows[reference]}  # fmt: skip
        found[name] = {key: one for key, one in compared.items() if one is not None}
    return found
