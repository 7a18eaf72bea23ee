"""Compare the loss curves of two training steps: (b) should lie within the spread of (a) over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

Curves = Mapping[int, Mapping[str, Sequence[float]]]  # seed -> term -> value of every step
WINDOWS = 20
DEVIATIONS = 3.0


def windows(values: Sequence[float], count: int = WINDOWS) -> list[float]:
    """Means over `count` equal pieces of a curve; the remainder at the end is dropped."""
    length = max(1, len(values) // count)
    return [statistics.fmean(values[i : i + length]) for i in range(0, len(values) - length + 1, length)]


def compare(a: Curves, b: Curves) -> dict:
    """The share of windows in which a seed of (b) lies within DEVIATIONS standard deviations of the seeds of (a), by
    loss term, and the same share for every seed of (a) against its others. (b) is within the spread of (a) if its mean
    share is at most 5 % lower.

    Raises ValueError with fewer than three seeds of (a), too few for a spread.
    """
    if len(a) < 3:
        raise ValueError(f"curves: expected at least 3 seeds of (a), got {len(a)}; give --seeds 3")
    terms, own = {}, {}
    for term in next(iter(a.values())):
        first = {seed: windows(curves[term]) for seed, curves in a.items()}
        second = {seed: windows(curves[term]) for seed, curves in b.items()}
        terms[term] = _share([(values, [v for v in first.values()]) for values in second.values()])
        own[term] = _share(
            [(values, [v for other, v in first.items() if other != seed]) for seed, values in first.items()]
        )
    within = statistics.fmean(terms.values()) >= statistics.fmean(own.values()) - 0.05
    shares = ", ".join(f"{term} {share:.0%} (a against itself {own[term]:.0%})" for term, share in terms.items())
    words = f"{'within' if within else 'NOT within'} the spread over {len(a)} seeds: {shares}"
    return {"within": within, "share_b": terms, "share_a_left_out": own, "deviations": DEVIATIONS, "words": words}


def _share(cases: Sequence[tuple[Sequence[float], Sequence[Sequence[float]]]]) -> float:
    """The share of windows within the deviations, over all cases (a curve, the curves it is compared with)."""
    hits = total = 0
    for values, others in cases:
        for place, value in enumerate(values):
            known = [other[place] for other in others]
            middle, spread = statistics.fmean(known), statistics.stdev(known)
            # A mean of few seeds is itself uncertain: its own variance is added.
            allowed = DEVIATIONS * spread * (1 + 1 / len(known)) ** 0.5
            hits, total = hits + (abs(value - middle) <= allowed), total + 1
    return hits / total
