"""One batch of pairs: the teachers' swaps, their quality by frozen estimators, and the choice among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import teachers
from distill.pseudo_gt.cache import LruCache
from distill.schema import Quality
from eval.pose_error import angle_distance_deg
from swapcore.images import to_uint8

REASONS = ("id_similarity", "pose_error", "no_face", "not_finite")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Batch:
    """Decoded pairs of one shard, and the teachers (by position in the experiment) that swap them."""

    shard: int
    numbers: list[int]
    pairs: list[tuple[int, int]]  # indices of source and target
    pictures: Tensor  # (n, 2, 3, R, R) uint8: source and target
    teachers: list[int]
    last: bool  # of its shard


@dataclass(frozen=True)
class Swaps:
    """Swaps of a batch by one teacher, on the device."""

    teacher: int
    positions: list[int]  # of the m pairs in which the teacher finds both faces
    images: Tensor  # (m, 3, R, R) float32


@dataclass(frozen=True)
class Candidates:
    """Swaps of a batch by one teacher with their quality, on the device."""

    teacher: int
    positions: list[int]  # of m pairs in the batch
    pixels: Tensor  # (m, 3, R, R) uint8
    finite: Tensor  # (m,) bool
    id_similarity: Tensor  # (m,) cosine to the source
    pose_error_deg: Tensor | None  # (m,) to the target


@dataclass(frozen=True)
class Decision:
    """The kept swap of a pair; or its best swap, with the reason why it is dropped."""

    teacher: int
    row: int | None  # of the teacher's Candidates; None: no teacher found a face
    quality: dict[str, float]
    score: float
    reason: str | None  # one of REASONS; None: kept
    scores: dict[int, float] = field(default_factory=dict)  # by teacher


class Swapper:
    """Frozen teachers and quality estimators (recogniser, pose or None) on one device; every call takes one batch.

    Sources and targets are (n, 3, R, R) float32 in [-1, 1] on the device. The cache keeps the teachers' identities of
    sources, and the estimators' embeddings of sources and poses of targets.
    """

    def __init__(self, frozen: Sequence[teachers.Teacher], estimators, rows: list[dict[str, Any]], cache: LruCache,
                 precision: str):  # fmt: skip
        self.teachers = [teacher.to(cache.device) for teacher in frozen]
        self.recogniser, self.pose = (estimator and estimator.to(cache.device) for estimator in estimators)
        self.rows, self.cache, self.device, self.dtype = rows, cache, cache.device, DTYPES[precision]

    @torch.inference_mode()
    def swap(self, batch: Batch, source: Tensor, target: Tensor) -> list[Swaps]:
        """The swaps by each teacher of the batch; a teacher that finds no face in any pair is left out."""
        swaps = (self._swap(number, batch, source, target) for number in batch.teachers)
        return [own for own in swaps if own is not None]

    @torch.inference_mode()
    def assess(self, batch: Batch, source: Tensor, target: Tensor, swaps: Sequence[Swaps]) -> list[Candidates]:
        """The swaps as uint8 with their cosine to the source and pose error to the target; the host does not wait."""
        get, stack = self.cache.get, self.cache.stack
        sources, targets = (list(column) for column in zip(*batch.pairs, strict=True))
        both = lambda p: torch.cat([source, target])[p]  # noqa: E731  # a target is a later pair's source
        embedding = stack(get("embedding", sources, lambda p: (self.recogniser(both(p)),), targets))[0]
        pose = self.pose and stack(get("pose", targets, lambda p: (self.pose(target[p]),)))[0]
        candidates = []
        for own in swaps:
            similarity = (self.recogniser(own.images) * embedding[own.positions]).sum(1)
            error = None if pose is None else angle_distance_deg(self.pose(own.images), pose[own.positions])
            finite = own.images.isfinite().flatten(1).all(1)
            pixels = to_uint8(own.images, check=False)
            candidates.append(Candidates(own.teacher, own.positions, pixels, finite, similarity, error))
        return candidates

    def _swap(self, number: int, batch: Batch, source: Tensor, target: Tensor) -> Swaps | None:
        teacher = self.teachers[number]
        sources, targets = (list(column) for column in zip(*batch.pairs, strict=True))

        def rows(images: list[int], positions: list[int]) -> list[dict[str, Any]] | None:
            return [self.rows[images[p]] for p in positions] if teacher.needs_rows else None

        mixed = teacher.autocast and self.dtype is not torch.float32
        with torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed):
            identity = self.cache.get(
                f"teacher {number}", sources,
                lambda p: teacher.identity(torch.cat([source, target])[p], rows(sources + targets, p)), targets,
            )  # fmt: skip
            positions = [position for position, row in enumerate(identity) if row is not None]
            while positions:
                identities = self.cache.stack([identity[p] for p in positions])
                try:
                    images = teacher.swap(identities, target[positions], rows(targets, positions)).float()
                except teachers.NoFace as error:
                    faceless = {positions[i] for i in error.index}
                    if not faceless:
                        raise
                    positions = [p for p in positions if p not in faceless]
                    continue
                if images.shape != target[positions].shape:
                    raise ValueError(
                        f"teacher '{teacher.name}': {len(positions)} targets of {tuple(target.shape[1:])}, "
                        f"but its swaps are {tuple(images.shape)}"
                    )
                return Swaps(number, positions, images)
        return None


def choose(batch: Batch, candidates: Sequence[Candidates], quality: Quality) -> list[Decision]:
    """A decision for each pair: the candidate with the best score of those that pass the thresholds, else of all.

    The score is the cosine to the source - cosine_per_degree * pose error.
    """
    options: list[list[Decision]] = [[] for _ in batch.numbers]
    for own in candidates:
        errors = [None] * len(own.positions) if own.pose_error_deg is None else own.pose_error_deg.tolist()
        columns = zip(own.positions, own.finite.tolist(), own.id_similarity.tolist(), errors, strict=True)
        for row, (position, finite, cosine, error) in enumerate(columns):
            if not finite:
                options[position].append(Decision(own.teacher, row, {}, float("-inf"), "not_finite"))
                continue
            measured = {"id_similarity": round(cosine, 4)}
            if error is not None:
                measured["pose_error_deg"] = round(error, 3)
            score = measured["id_similarity"] - quality.cosine_per_degree * measured.get("pose_error_deg", 0.0)
            reason = _reason(measured, quality)
            options[position].append(Decision(own.teacher, row, measured, round(score, 4), reason))
    return [_best(pair) if pair else Decision(batch.teachers[0], None, {}, 0.0, "no_face") for pair in options]


def _reason(measured: dict[str, float], quality: Quality) -> str | None:
    if quality.min_id_similarity is not None and measured["id_similarity"] < quality.min_id_similarity:
        return "id_similarity"
    limit = quality.max_pose_error_deg
    return "pose_error" if limit is not None and measured.get("pose_error_deg", 0.0) > limit else None


def _best(options: Sequence[Decision]) -> Decision:
    best = max(options, key=lambda option: (option.reason is None, option.score))
    return replace(best, scores={option.teacher: option.score for option in options if option.quality})
