"""What became of the pairs of pseudo-GT: counts by teacher and reason, of a shard and of all; told in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from distill.pseudo_gt.quality import REASONS, Swaps, Verdict

QUALITIES = ("id_similarity", "pose_error_deg")


class Tally:
    """Counts of one shard: every pair is kept or dropped for one reason, by the teacher whose swap was the best."""

    def __init__(self, labels: Sequence[str]):
        self.labels = labels
        self.sums = {label: Counter() for label in labels}
        self.similarity: list[float] = []  # of the kept, in the order of the shard

    def swaps(self, made: Iterable[Swaps]) -> None:
        """Count all swaps of a batch with their quality, whatever becomes of them."""
        for swaps in made:
            sums, finite = self.sums[self.labels[swaps.teacher]], swaps.finite
            sums["swapped"] += len(swaps.places)
            sums["judged"] += int(finite.sum())
            sums["all_id_similarity"] += round(float(swaps.similarity[finite].sum()), 6)
            if swaps.pose_error_deg is not None:
                sums["all_pose_error_deg"] += round(float(swaps.pose_error_deg[finite].sum()), 6)

    def pair(self, verdict: Verdict) -> None:
        """Count what becomes of one pair."""
        sums = self.sums[self.labels[verdict.teacher]]
        sums[verdict.reason or "kept"] += 1
        if verdict.reason is None:
            self.similarity.append(verdict.quality["id_similarity"])
            for name, value in verdict.quality.items():
                sums[f"kept_{name}"] = round(sums[f"kept_{name}"] + value, 6)

    def as_dict(self) -> dict[str, Any]:
        """For the sidecar of the shard: its counts, and sums by teacher."""
        total = summary(self.sums.values())
        counts = {key: total[key] for key in ("pairs", "kept", "dropped", "dropped_by")}
        return {**counts, "sums": {label: dict(sums) for label, sums in self.sums.items()}}


def summary(parts: Iterable[dict[str, float]]) -> dict[str, Any]:
    """Sums of several shards or teachers as counts and means: `quality` of the kept, `quality_of_all` before that."""
    total: Counter = Counter()
    for part in parts:
        total.update(part)
    by = {reason: total[reason] for reason in REASONS}

    def means(prefix: str, count: float) -> dict[str, float]:
        return {q: round(total[prefix + q] / count, 4) for q in QUALITIES if count and prefix + q in total}

    return {
        "pairs": total["kept"] + sum(by.values()),
        "swapped": total["swapped"],
        "kept": total["kept"],
        "dropped": sum(by.values()),
        "dropped_by": by,
        "quality": means("kept_", total["kept"]),
        "quality_of_all": means("all_", total["judged"]),
    }


def index(sidecars: dict[str, dict[str, Any]], teachers: dict[str, dict[str, str]]) -> dict[str, Any]:
    """`index.json` of sidecars by shard file: totals, those of each teacher (as described), of each shard."""
    by_teacher = {
        label: {**known, **summary(sidecar["sums"][label] for sidecar in sidecars.values())}
        for label, known in teachers.items()
    }
    shards = [
        {"file": file, **{key: sidecar[key] for key in ("pairs", "kept", "dropped", "dropped_by")}}
        for file, sidecar in sidecars.items()
    ]
    everything = summary(sums for sidecar in sidecars.values() for sums in sidecar["sums"].values())
    return {**everything, "teachers": by_teacher, "shards": shards}


def told(facts: dict[str, Any], best_of: bool) -> list[str]:
    """An index in words: a line for all, and one for each of several teachers and for whatever needs to be known."""
    lines = [f"  {_sentence(facts)}"]
    for label, own in facts["teachers"].items():
        if len(facts["teachers"]) > 1:
            lines.append(f"    {label}: {_sentence(own)}")
        if own["kept"]:
            continue
        if own["dropped"]:
            lines.append(
                f"  ! teacher '{label}': every swap was dropped ({_reasons(own)}); nothing of it is trained on"
            )
        elif best_of:
            lines.append(f"  ! teacher '{label}': none of its swaps was the best of its pair")
        else:
            lines.append(f"  ! teacher '{label}': its share gave it no pair")
    return lines


def metrics(facts: dict[str, Any]) -> dict[str, float]:
    """An index as numbers by name, for the tracker."""
    found = _numbers("pseudo_gt", facts)
    if len(facts["teachers"]) > 1:
        for label, own in facts["teachers"].items():
            found |= _numbers(f"pseudo_gt/{re.sub(r'[^A-Za-z0-9_. -]', '_', label)}", own)
    return found


def _numbers(prefix: str, facts: dict[str, Any]) -> dict[str, float]:
    dropped = {f"{prefix}/dropped/{reason}": float(count) for reason, count in facts["dropped_by"].items()}
    quality = {f"{prefix}/{name}": value for name, value in facts["quality"].items()}
    return {
        f"{prefix}/kept": float(facts["kept"]),
        f"{prefix}/dropped/total": float(facts["dropped"]),
        **dropped,
        **quality,
    }


def _sentence(facts: dict[str, Any]) -> str:
    dropped = f", {facts['dropped']} dropped ({_reasons(facts)})" if facts["dropped"] else ""
    quality = facts["quality"]
    cosine = f"; mean cosine to the source {quality['id_similarity']:.3f}" if "id_similarity" in quality else ""
    pose = f", pose error {quality['pose_error_deg']:.2f} degrees" if "pose_error_deg" in quality else ""
    return f"{facts['kept']} swaps kept{dropped}{cosine}{pose}"


def _reasons(facts: dict[str, Any]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in facts["dropped_by"].items() if count)
