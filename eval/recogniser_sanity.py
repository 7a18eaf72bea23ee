"""Quality of a recogniser on a set of photographs, before it measures swaps: does it separate these people?

Same/different as on LFW (Huang et al., 2007), but over all pairs of photographs; closed-set identification by the
nearest neighbour and by one gallery photograph a person.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .intervals import SEED
from .measured import Measured, mean_of
from .metric import Value, described

GALLERIES = 200
VALUES = (
    Value("same_different_auc", "same/different AUC", "area under the ROC curve", "{:.4f}", "higher"),
    Value("nearest_neighbour_top1_pct", "nearest top-1 %", "%", "{:.1f}", "higher"),
    Value("one_shot_top1_pct", "one-shot top-1 %", "%", "{:.1f}", "higher"),
)


def recogniser_sanity(embeddings: Any, persons: Any, protocol: dict[str, Any] | None = None) -> dict[str, Measured]:
    """(N, D) unit embeddings of the photographs of (N,) persons, any labels, to three values.

    same_different_auc: the probability that a pair of one person is nearer than a pair of two, over all pairs; ties
    count half. It has no interval, since its pairs share photographs. nearest_neighbour_top1_pct: share of photographs
    whose nearest other one is of the same person; people with one photograph serve only as wrong answers.
    one_shot_top1_pct: share of photographs whose person is the nearest in a gallery of everybody's first photograph, in
    the order given; the gallery's own photographs are no queries. The choice of the gallery may matter more than the
    recogniser does, so the details have the mean over all choices, each person's photograph chosen independently, and
    the deviation of 200 seeded galleries from their mean. In both top-1, a tie with another person counts as a miss.

    `protocol` is added to that of the values. Takes about 60 bytes for every pair of photographs. Raises ValueError on
    other shapes, NaN, embeddings not of unit length, fewer than two people, and if nobody has two photographs.
    """
    embeddings, person = _checked(embeddings, persons)
    cosine = embeddings @ embeddings.T
    count = np.bincount(person)
    depends = {"people": len(count), "photographs": len(person), "distance": "cosine", **(protocol or {})}
    cosine_of_others = np.where(np.eye(len(person), dtype=bool), -np.inf, cosine)
    same = person[:, None] == person
    nearest_own = np.where(same, cosine_of_others, -np.inf).max(1)
    nearest_stranger = np.where(same, -np.inf, cosine).max(1)
    several = count[person] > 1
    first = np.unique(person, return_index=True)[1]
    recognised = _recognised(cosine, person, first)
    upper = np.triu_indices(len(person), 1)
    auc, pairs_same = _auc(cosine[upper], same[upper])
    pairs = len(upper[0])
    gallery_facts = {
        "gallery": "one photograph a person, the first",
        "size": len(first),
        "chance_pct": 100 / len(first),
    }
    rng = np.random.default_rng(SEED)
    groups = [np.flatnonzero(person == k) for k in range(len(count))]
    galleries = (np.array([rng.choice(group) for group in groups]) for _ in range(GALLERIES))
    drawn = [_recognised(cosine, person, gallery).mean() for gallery in galleries]
    details = {
        "mean_over_all_galleries": 100 * float(_over_galleries(cosine, person, groups)[several].mean()),
        "deviation_over_galleries": 100 * float(np.std(drawn)),
    }
    measured = {
        "same_different_auc": Measured(auc, pairs, None, depends, {"pairs_of_one_person": pairs_same}),
        "nearest_neighbour_top1_pct": mean_of(
            100.0 * (nearest_own > nearest_stranger)[several], {**depends, "gallery": "all others"}
        ),
        "one_shot_top1_pct": mean_of(100.0 * recognised, {**depends, **gallery_facts}, details),
    }
    over_photographs = {k: replace(v.with_interval("photographs"), each=None) for k, v in measured.items()}
    return described(over_photographs, VALUES)


def _checked(embeddings: Any, persons: Any) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings as (N, D) float64, persons as numbers 0 to P - 1."""
    embeddings = np.asarray(embeddings, dtype=np.float64)
    if embeddings.ndim != 2 or np.shape(persons) != (len(embeddings),):
        raise ValueError(f"expected embeddings (N, D) and persons (N,), got {embeddings.shape} and {np.shape(persons)}")
    if not np.isfinite(embeddings).all():
        row = int((~np.isfinite(embeddings)).any(1).nonzero()[0][0])
        raise ValueError(f"embeddings: NaN or infinite in row {row}")
    if len(embeddings) and np.abs(np.linalg.norm(embeddings, axis=1) - 1).max() > 1e-3:
        raise ValueError("embeddings are not of unit length")
    person = np.unique(np.asarray(persons), return_inverse=True)[1].reshape(-1)
    count = np.bincount(person)
    if len(count) < 2 or count.max() < 2:
        raise ValueError(
            f"expected two people or more, one of them with two photographs or more, got {len(count)} people "
            f"and {len(person)} photographs"
        )
    return embeddings, person


def _auc(cosine: np.ndarray, same: np.ndarray) -> tuple[float, int]:
    """The Mann-Whitney U statistic as a share of its maximum, and the number of pairs of one person."""
    ones = int(same.sum())
    others = len(same) - ones
    from scipy.stats import rankdata  # imported here because it is slow

    excess = rankdata(cosine)[same].sum() - ones * (ones + 1) / 2
    return float(excess / (ones * others)), ones


def _recognised(cosine: np.ndarray, person: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Whether each photograph outside the gallery, (P,) indices by person, is nearest to its own person there."""
    rest = np.setdiff1d(np.arange(len(person)), gallery)
    to_gallery = cosine[np.ix_(rest, gallery)]
    own = to_gallery[np.arange(len(rest)), person[rest]]
    return (to_gallery >= own[:, None]).sum(1) == 1


def _over_galleries(cosine: np.ndarray, person: np.ndarray, groups: list[np.ndarray]) -> np.ndarray:
    """(N,) share of all galleries of one photograph per person in which a photograph's own person is the nearest; NaN
    for people with one photograph.

    For a fixed gallery photograph of the own person, every other person is further away independently of the rest; the
    probability is the share of that person's photographs that are further away.
    """
    shares = np.full(len(person), np.nan)
    for i, row in enumerate(cosine):
        own = row[groups[person[i]][groups[person[i]] != i]]
        if len(own):
            share = np.ones(len(own))
            for k, group in enumerate(groups):
                if k != person[i]:
                    share *= np.searchsorted(np.sort(row[group]), own, side="left") / len(group)
            shares[i] = share.mean()
    return shares
