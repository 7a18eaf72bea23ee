"""Teachers at work on one batch of pairs, what their swaps are worth, and which are good enough.

What is read from a picture alone (a teacher's identity of a source, embedding, pose) is computed once and remembered.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import teachers
from distill.schema import Quality
from eval.pose_error import angle_distance_deg

REASONS = ("id_similarity", "pose_error", "no_face", "not_finite")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

Row = tuple[Tensor, ...]


class Memory:
    """Rows of tensors by what they are and of which picture, at most `limit` bytes; the longest unused go first.

    They are kept on the device while it has four times as much free, else in main memory.
    """

    def __init__(self, limit: int, device: torch.device, batch_size: int):
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        self.device = device
        self.place = device if free > 4 * limit or device.type != "cuda" else torch.device("cpu")
        self.limit, self.batch_size = limit, batch_size
        self.rows: OrderedDict[tuple[str, int], Row | None] = OrderedDict()
        self.bytes = self.hits = self.misses = 0

    def read(self, kind: str, pictures: Sequence[int], compute: Callable[[list[int]], Row]) -> list[Row | None]:
        """A row for each of `pictures` (their numbers): what `compute` gives for places in that list, or None where it
        raises teachers.NoFace.

        All that is not remembered is computed in one call, filled up to the batch size: convolutions round differently
        in batches of another size (on CPU they do; in one size a row depends neither on its place nor on its
        neighbours), and what is remembered must not depend on the pairs made before.
        """
        found = {p: self.rows[kind, p] for p in pictures if (kind, p) in self.rows}
        for picture in found:
            self.rows.move_to_end((kind, picture))
        todo = [place for place, p in enumerate(pictures) if p not in found and p not in pictures[:place]]
        self.hits, self.misses = self.hits + len(pictures) - len(todo), self.misses + len(todo)
        while todo:
            filled = todo + todo[-1:] * (self.batch_size - len(todo))
            try:
                columns = compute(filled)
            except teachers.NoFace as error:
                faceless = {filled[i] for i in error.index}
                if not faceless:
                    raise
                found |= {pictures[place]: self._keep(kind, pictures[place], None) for place in sorted(faceless)}
                todo = [place for place in todo if place not in faceless]
                continue
            for place, *row in zip(todo, *columns, strict=False):  # without the filling
                found[pictures[place]] = self._keep(kind, pictures[place], tuple(row))
            break
        return [found[p] for p in pictures]

    def _keep(self, kind: str, picture: int, row: Row | None) -> Row | None:
        kept = row and tuple(part.to(self.place, copy=True) for part in row)
        self.rows[kind, picture] = kept
        self.bytes += _bytes(kept)
        while self.bytes > self.limit and self.rows:
            self.bytes -= _bytes(self.rows.popitem(last=False)[1])
        return kept

    def stack(self, rows: Sequence[Row]) -> Row:
        """Rows one below the other, on the device."""
        return tuple(torch.stack(column).to(self.device, non_blocking=True) for column in zip(*rows, strict=True))


def _bytes(row: Row | None) -> int:
    return 128 + sum(part.numel() * part.element_size() for part in row or ())


@dataclass(frozen=True)
class Batch:
    """Decoded pairs of one shard, and the teachers (by place in the experiment) that are to swap them."""

    shard: int
    numbers: list[int]
    pairs: list[tuple[int, int]]
    pictures: Tensor  # (n, 2, 3, R, R) uint8: source and target
    teachers: list[int]
    last: bool  # of its shard


@dataclass(frozen=True)
class Swaps:
    """What one teacher made of a batch, on the device: the places it could swap, and a row for each."""

    teacher: int
    places: list[int]
    swap: Tensor  # (m, 3, R, R) uint8
    finite: Tensor  # (m,) bool
    similarity: Tensor  # (m,) cosine to the source
    pose_error_deg: Tensor | None  # (m,) to the target


@dataclass(frozen=True)
class Verdict:
    """What becomes of a pair: the swap that is kept (or the best that was not), its quality, why it is dropped."""

    teacher: int
    row: int | None  # of the teacher's Swaps; None: no teacher found a face
    quality: dict[str, float]
    scores: dict[int, float]  # by teacher
    reason: str | None


class Swapper:
    """Teachers and quality rulers on one device. Every call is one batch, under inference_mode."""

    def __init__(self, frozen: Sequence[teachers.Teacher], rulers, quality: Quality, rows: list[dict[str, Any]],
                 memory: Memory, precision: str):  # fmt: skip
        self.teachers = [teacher.to(memory.device) for teacher in frozen]
        self.recogniser, self.pose = (ruler and ruler.to(memory.device) for ruler in rulers)
        self.quality, self.rows, self.memory = quality, rows, memory
        self.device, self.dtype = memory.device, DTYPES[precision]

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> list[Swaps]:
        images = batch.pictures.to(self.device, non_blocking=True).float().div_(127.5).sub_(1)
        source, target = images.unbind(1)
        read = self.memory.read
        sources, targets = (list(column) for column in zip(*batch.pairs, strict=True))
        embedding = self.memory.stack(read("embedding", sources, lambda p: (self.recogniser(source[p]),)))[0]
        pose = self.pose and self.memory.stack(read("pose", targets, lambda p: (self.pose(target[p]),)))[0]
        made = []
        for number in batch.teachers:
            places, swap = self._swap(number, source, target, sources, targets)
            if not places:
                made.append(Swaps(number, [], batch.pictures[:0, 0], *torch.zeros(2, 0), None))
                continue
            similarity = (self.recogniser(swap) * embedding[places]).sum(1)
            error = None if pose is None else angle_distance_deg(self.pose(swap), pose[places])
            pixels = swap.add(1).mul(127.5).round().clamp(0, 255).byte()
            made.append(Swaps(number, places, pixels, swap.isfinite().flatten(1).all(1), similarity, error))
        return made

    def _swap(self, number: int, source: Tensor, target: Tensor, sources: list[int], targets: list[int]):
        """The places of the pairs in which the teacher finds faces, and their swaps."""
        teacher = self.teachers[number]

        def rows(pictures: list[int], places: list[int]) -> list[dict[str, Any]] | None:
            return [self.rows[pictures[p]] for p in places] if teacher.needs_rows else None

        mixed = teacher.autocast and self.dtype is not torch.float32
        with torch.autocast(self.device.type, self.dtype if mixed else None, enabled=mixed):
            identity = self.memory.read(
                f"teacher {number}", sources, lambda p: teacher.identity(source[p], rows(sources, p))
            )
            places = [place for place, row in enumerate(identity) if row is not None]
            while places:
                given = self.memory.stack([identity[place] for place in places])
                try:
                    swap = teacher.swap(given, target[places], rows(targets, places)).float()
                except teachers.NoFace as error:
                    faceless = {places[i] for i in error.index}
                    if not faceless:
                        raise
                    places = [place for place in places if place not in faceless]
                    continue
                if swap.shape != target[places].shape:
                    raise ValueError(
                        f"teacher '{teacher.name}': {len(places)} targets of {tuple(target.shape[1:])}, "
                        f"but its swaps are {tuple(swap.shape)}"
                    )
                return places, swap
        return [], None


def judge(batch: Batch, made: Sequence[Swaps], quality: Quality) -> list[Verdict]:
    """A verdict for each pair: of the swaps that pass the thresholds the one with the best score, cosine to the source
    - cosine_per_degree * pose error; if none passes, the best one's reason."""
    candidates: list[list[tuple[bool, float, int, int, dict[str, float], str | None]]] = [[] for _ in batch.numbers]
    for swaps in made:
        errors = [None] * len(swaps.places) if swaps.pose_error_deg is None else swaps.pose_error_deg.tolist()
        columns = zip(swaps.places, swaps.finite.tolist(), swaps.similarity.tolist(), errors, strict=True)
        for row, (place, finite, cosine, error) in enumerate(columns):
            if not finite:
                candidates[place].append((False, float("-inf"), swaps.teacher, row, {}, "not_finite"))
                continue
            measured = {"id_similarity": round(cosine, 4)}
            if error is not None:
                measured["pose_error_deg"] = round(error, 3)
            score = measured["id_similarity"] - quality.cosine_per_degree * measured.get("pose_error_deg", 0.0)
            reason = _reason(measured, quality)
            candidates[place].append((reason is None, round(score, 4), swaps.teacher, row, measured, reason))
    return [_verdict(found, batch.teachers) for found in candidates]


def _reason(measured: dict[str, float], quality: Quality) -> str | None:
    if quality.min_id_similarity is not None and measured["id_similarity"] < quality.min_id_similarity:
        return "id_similarity"
    limit = quality.max_pose_error_deg
    return "pose_error" if limit is not None and measured.get("pose_error_deg", 0.0) > limit else None


def _verdict(found: list, asked: Sequence[int]) -> Verdict:
    if not found:
        return Verdict(asked[0], None, {}, {}, "no_face")
    _, _, teacher, row, measured, reason = max(found, key=lambda c: c[:2])
    return Verdict(teacher, row, measured, {c[2]: c[1] for c in found if c[4]}, reason)
