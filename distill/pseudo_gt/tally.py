"""Counts of kept and dropped pairs by teacher and reason: of a shard, of all shards, as text and as metrics."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from distill.pseudo_gt.quality import REASONS, Candidates, Decision

QUALITIES = ("id_similarity", "pose_error_deg")


class Tally:
    """Counts of one shard. A pair counts for the teacher whose swap was the best."""

    def __init__(self, labels: Sequence[str]):
        self.labels = labels
        self.sums = {label: Counter() for label in labels}
        self.similarity: list[float] = []  # of the kept swaps, in the order of the shard

    def add(self, candidates: Iterable[Candidates], decisions: Iterable[Decision]) -> None:
        """Count all candidates of a batch with their quality, and the decision for each pair."""
        for own in candidates:
            sums, finite = self.sums[self.labels[own.teacher]], own.finite
            sums["swapped"] += len(own.positions)
            sums["judged"] += int(finite.sum())  # the key is part of the sidecar's format
            sums["all_id_similarity"] += round(float(own.id_similarity[finite].sum()), 6)
            if own.pose_error_deg is not None:
                sums["all_pose_error_deg"] += round(float(own.pose_error_deg[finite].sum()), 6)
        for decision in decisions:
            sums = self.sums[self.labels[decision.teacher]]
            sums[decision.reason or "kept"] += 1
            if decision.reason is None:
                self.similarity.append(decision.quality["id_similarity"])
                for name, value in decision.quality.items():
                    sums[f"kept_{name}"] = round(sums[f"kept_{name}"] + value, 6)

    def as_dict(self) -> dict[str, Any]:
        """Counts, and sums by teacher, for the sidecar of the shard."""
        total = summary(self.sums.values())
        counts = {key: total[key] for key in ("pairs", "kept", "dropped", "dropped_by")}
        return {**counts, "sums": {label: dict(sums) for label, sums in self.sums.items()}}


def summary(parts: Iterable[dict[str, float]]) -> dict[str, Any]:
    """Counts and means of several shards or teachers: `quality` of the kept swaps, `quality_of_all` of all swaps."""
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
    """The content of `index.json`: counts in total, by teacher and by shard. `sidecars` are by shard file."""
    by_teacher = {
        label: {**described, **summary(sidecar["sums"][label] for sidecar in sidecars.values())}
        for label, described in teachers.items()
    }
    shards = [
        {"file": file, **{key: sidecar[key] for key in ("pairs", "kept", "dropped", "dropped_by")}}
        for file, sidecar in sidecars.items()
    ]
    total = summary(sums for sidecar in sidecars.values() for sums in sidecar["sums"].values())
    return {"generated": True, **total, "teachers": by_teacher, "shards": shards}


def as_text(facts: dict[str, Any], best_of: bool) -> list[str]:
    """An index as lines of text: one for all, one for each of several teachers, one for each warning."""
    lines = [f"  {_sentence(facts)}"]
    for label, own in facts["teachers"].items():
        if len(facts["teachers"]) > 1:
            lines.append(f"    {label}: {_sentence(own)}")
        if own["kept"]:
            continue
        if own["dropped"]:
            lines.append(
                f"  ! teacher '{label}': every swap was dropped ({_reasons(own)}); no swap of it is trained on"
            )
        elif best_of:
            lines.append(f"  ! teacher '{label}': none of its swaps was the best of its pair")
        else:
            lines.append(f"  ! teacher '{label}': no pair was drawn for it; raise its share")
    return lines


def metrics(facts: dict[str, Any]) -> dict[str, float]:
    """An index as numbers by name, for the tracker; also by teacher if there are several."""
    parts = {"pseudo_gt": facts}
    if len(facts["teachers"]) > 1:
        names = {label: re.sub(r"[^A-Za-z0-9_. -]", "_", label) for label in facts["teachers"]}
        parts |= {f"pseudo_gt/{names[label]}": own for label, own in facts["teachers"].items()}
    numbers = {}
    for prefix, own in parts.items():
        numbers |= {f"{prefix}/kept": float(own["kept"]), f"{prefix}/dropped/total": float(own["dropped"])}
        numbers |= {f"{prefix}/dropped/{reason}": float(count) for reason, count in own["dropped_by"].items()}
        numbers |= {f"{prefix}/{name}": value for name, value in own["quality"].items()}
    return numbers


def _sentence(facts: dict[str, Any]) -> str:
    dropped = f", {facts['dropped']} dropped ({_reasons(facts)})" if facts["dropped"] else ""
    quality = facts["quality"]
    cosine = f"; mean cosine to the source {quality['id_similarity']:.3f}" if "id_similarity" in quality else ""
    pose = f", pose error {quality['pose_error_deg']:.2f} degrees" if "pose_error_deg" in quality else ""
    return f"{facts['kept']} swaps kept{dropped}{cosine}{pose}"


def _reasons(facts: dict[str, Any]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in facts["dropped_by"].items() if count)
