"""Stage `pseudo_gt`: frozen teachers swap pairs of training people; the kept swaps are written as tar shards.

Pair i and its teacher depend on the seed and i alone. Shard k holds the pairs from k * shard_size on, and process r of
w makes the shards k with k % w == r, so any number of processes makes each pair once, in one run or in several.
Machines that do not communicate may share a `destination`: each takes the shards in random order and skips those that
another machine has written. The bytes of a shard depend on the experiment and on batch_size alone (networks round
differently in batches of another size).
"""

from __future__ import annotations

import random
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from typing import Any

import numpy as np
from tqdm import tqdm

from distill import build
from distill.config import Experiment, to_dict
from distill.data.cache import Cached, Room
from distill.data.photos import Photos, read_manifest
from distill.pseudo_gt import tally
from distill.pseudo_gt.cache import LruCache
from distill.pseudo_gt.pipeline import Waits, ahead, behind
from distill.pseudo_gt.quality import Batch, Candidates, Decision, Swapper, choose
from distill.pseudo_gt.shards import Encoded, Sample, append, contents
from distill.pseudo_gt.store import Store
from distill.stage import Stage, StageError, open_stage, stop_if_asked, time_is_over, upstream
from swapcore.hardware import available_cores
from swapcore.images import to_float

DEPTH = 4  # batches queued between two threads
ENCODED_MB = 512  # at most, of encoded sources and targets that are kept for later pairs


def run(exp: Experiment, accelerator, tracker) -> Stage:
    settings = exp.pseudo_gt
    frozen = [build.teacher(spec, exp) for spec in settings.teachers]
    estimators = build.quality_estimators(exp)
    stage = open_stage(exp, "pseudo_gt", _inputs(exp, frozen, estimators), accelerator)
    store = Store(settings.destination or stage.folder)
    missing = _missing(exp, store, stage.hash)
    if stage.done and not missing:
        accelerator.print(f"  finished before: {store}")
        return stage
    photos = read_manifest(exp.folder / "data", "train", exp.data.resolution)
    if len(photos.people) < 2:
        raise StageError(f"{photos.root}: swapping needs two people to train on, there are {len(photos.people)}")
    store.remove_leftovers()
    rank, world = accelerator.process_index, accelerator.num_processes
    shards = [k for k in missing if k % world == rank]  # by number: processes may see different missing shards
    if settings.destination:
        random.SystemRandom().shuffle(shards)
        if rank == 0:  # an unwritable destination fails here, before hours of work
            store.write_record("inputs.json", stage.inputs, indent=2)
    cache = LruCache(settings.identity_cache_mb * 2**20, accelerator.device, settings.batch_size)
    swapper = Swapper(frozen, estimators, photos.rows, cache, settings.precision)
    started = time.perf_counter()
    share = f" of process 1 of {world}, {_count(exp, missing)} in all" if world > 1 else ""
    in_time = (k for k in shards if not time_is_over(exp))  # asked before each shard: those that are begun are kept
    with tqdm(
        total=_count(exp, shards), desc=f"swap pairs{share}", unit="swap", disable=not accelerator.is_main_process
    ) as bar:
        generate(exp, store, stage.hash, in_time, photos, swapper, bar)
    accelerator.wait_for_everyone()
    stop_if_asked(exp, accelerator, f"in stage pseudo_gt of {exp.name}")
    seconds = time.perf_counter() - started
    if not accelerator.is_main_process:
        return stage
    if left := _missing(exp, store, stage.hash):
        accelerator.print(f"  other machines still write {len(left)} of {len(_shards(exp))} shards; run again later")
        return stage
    described = {
        build.label(spec): {"name": spec.name, "weight_hash": teacher.weight_hash}
        for spec, teacher in zip(settings.teachers, frozen, strict=True)
    }
    index = tally.index({_name(k, "tar"): _sidecar(store, k, stage.hash) for k in _shards(exp)}, described)
    store.write_record("index.json", index, indent=2)
    speed = {"pseudo_gt/swaps_per_second": round(_count(exp, missing) / seconds, 3)} if missing else {}
    tracker.metrics({**tally.metrics(index), **speed})
    for line in tally.as_text(index, settings.choose == "best_of"):
        accelerator.print(line)
    stage.finish(kept=index["kept"], dropped=index["dropped"], dropped_by=index["dropped_by"], **index["quality"])
    return stage


def generate(
    exp: Experiment, store: Store, inputs: str, shards: Iterable[int], photos: Photos, swapper: Swapper, bar
) -> dict[str, float]:
    """Write `shards`; `inputs` is the hash of the stage's inputs, for their sidecars.

    A thread decodes the next batches while the teachers swap one here, and another thread writes those before it.
    Returns the seconds of waiting for `pictures` and for the `writer`, without that of its end.
    """
    waits = Waits()
    with (
        ShardWriter(exp, store, inputs, photos, swapper.teachers, bar) as writer,
        behind(writer.add, DEPTH) as write,
        closing(ahead(decode_pairs(exp, store, shards, photos, bar), DEPTH)) as batches,
    ):
        for batch in waits.items("pictures", batches):
            source, target = to_float(batch.pictures.to(swapper.device, non_blocking=True)).unbind(1)
            swaps = swapper.swap(batch, source, target)
            waits.call("writer", write, batch, swapper.assess(batch, source, target, swaps))
    return waits.seconds


def decode_pairs(exp: Experiment, store: Store, shards: Iterable[int], photos: Photos, bar) -> Iterator[Batch]:
    """The decoded batches of all shards, in a fixed order. The pairs of one batch have the same teachers."""
    settings = exp.pseudo_gt
    everybody = list(range(len(settings.teachers)))
    room = Room("off" if exp.data.cache == "off" else "auto", exp.data.cache_gb)  # in memory: they are written, too
    decoded = Cached(photos.load, (len(photos), 3, *[photos.resolution] * 2), room)
    for shard in shards:
        numbers = list(_pairs_of(exp, shard))
        if settings.destination and _is_made(store, shard):  # by another machine
            bar.total -= len(numbers)
            continue
        groups = [(everybody, numbers)]
        if settings.choose == "share":
            shares = [spec.share for spec in settings.teachers]
            drawn = [draw_teacher(shares, exp.seed, n) for n in numbers]
            groups = [([t], [n for n, d in zip(numbers, drawn, strict=True) if d == t]) for t in everybody]
        size = settings.batch_size
        parts = [(who, own[i : i + size]) for who, own in groups for i in range(0, len(own), size)]
        for place, (who, part) in enumerate(parts):
            pairs = [draw_pair(photos, exp.seed, n) for n in part]
            pictures = decoded[[i for pair in pairs for i in pair]].unflatten(0, (len(pairs), 2))
            yield Batch(shard, part, pairs, pictures, who, last=place == len(parts) - 1)


def draw_pair(photos: Photos, seed: int, number: int) -> tuple[int, int]:
    """Indices of the source and the target of pair `number`: two pictures of two people."""
    rng = np.random.default_rng((seed, number, 7))
    source = int(rng.integers(len(photos)))
    while True:
        target = int(rng.integers(len(photos)))
        if photos.rows[target]["person"] != photos.rows[source]["person"]:
            return source, target


def draw_teacher(shares: Sequence[float], seed: int, number: int) -> int:
    """Position of the teacher that swaps pair `number`, drawn by `shares`."""
    weights = np.array(shares, np.float64)
    return int(np.random.default_rng((seed, number, 8)).choice(len(weights), p=weights / weights.sum()))


class _Discarded(Exception):
    """Another machine has written the shard."""


class ShardWriter:
    """Chooses among the candidates of each batch and writes the kept swaps, shard after shard.

    While a shard is written, the one before is published (renamed or uploaded). An error leaves no unfinished shard.
    """

    def __init__(self, exp: Experiment, store: Store, inputs: str, photos: Photos, frozen, bar):
        self.exp, self.store, self.inputs, self.photos, self.frozen, self.bar = exp, store, inputs, photos, frozen, bar
        self.labels = [build.label(spec) for spec in exp.pseudo_gt.teachers]
        self.tar: tarfile.TarFile | None = None

    def __enter__(self) -> ShardWriter:
        self.stack = ExitStack()
        self.encoders = self.stack.enter_context(ThreadPoolExecutor(max(4, available_cores())))  # leave Python's lock
        self.encoded = Encoded(self.encoders, ENCODED_MB * 2**20 // (3 * self.photos.resolution**2))
        self.publish = self.stack.enter_context(behind(self._publish, 1))
        self.open_shard = self.stack.enter_context(ExitStack())
        return self

    def __exit__(self, *error) -> None:
        self.stack.__exit__(*error)

    def add(self, batch: Batch, candidates: list[Candidates]) -> None:
        """Write the kept swaps of a batch, and count all; the last batch of a shard finishes it."""
        if self.tar is None:
            self.path = self.open_shard.enter_context(self.store.whole(_name(batch.shard, "tar")))
            file = self.open_shard.enter_context(open(self.path, "wb"))
            self.tar, self.tally = tarfile.open(fileobj=file, mode="w"), tally.Tally(self.labels)
        decisions = choose(batch, candidates, self.exp.pseudo_gt.quality)
        self.tally.add(candidates, decisions)
        append(self.tar, self._kept(batch, candidates, decisions), self.encoders)
        self.bar.update(len(decisions))
        if batch.last:
            self.tar.close()
            self.tar.fileobj.close()
            counts, similarity = self.tally.as_dict(), self.tally.similarity
            sidecar = {"inputs": self.inputs, **counts, **contents(self.path), "id_similarity": similarity}
            self.publish(batch.shard, self.open_shard.pop_all(), sidecar)
            self.tar = None

    def _publish(self, shard: int, files: ExitStack, sidecar: dict[str, Any]) -> None:
        if self.exp.pseudo_gt.destination and _is_made(self.store, shard):  # meanwhile; somebody may read it already
            with suppress(_Discarded), files:
                raise _Discarded
            return
        files.close()
        self.store.write_record(_name(shard, "json"), sidecar)

    def _kept(self, batch: Batch, candidates: list[Candidates], decisions: list[Decision]) -> Iterator[Sample]:
        swaps = {own.teacher: own.pixels.permute(0, 2, 3, 1).cpu().numpy() for own in candidates}
        pictures = batch.pictures.permute(0, 1, 3, 4, 2).numpy()
        for position, decision in enumerate(decisions):
            if decision.reason is not None:
                continue
            source, target = (self.photos.rows[i]["file"] for i in batch.pairs[position])
            facts = {
                "teacher": self.labels[decision.teacher],
                "weight_hash": self.frozen[decision.teacher].weight_hash,
                "source": source,
                "target": target,
                "seed": self.exp.seed,
                "pair": batch.numbers[position],
                "quality": decision.quality,
            }
            if len(batch.teachers) > 1:
                facts["scores"] = {self.labels[t]: decision.scores.get(t) for t in batch.teachers}
            swap = swaps[decision.teacher][decision.row]
            files = [self.encoded.get(*one) for one in zip(batch.pairs[position], pictures[position], strict=True)]
            yield f"{batch.numbers[position]:08d}", (*files, swap), facts


def _inputs(exp: Experiment, frozen, estimators) -> dict[str, Any]:
    """Everything that the shards depend on; weights by their hash, not by their path."""
    settings = to_dict(exp.pseudo_gt)
    for key in ("batch_size", "destination", "identity_cache_mb"):
        del settings[key]
    described = settings.pop("teachers")
    labels = [build.label(spec) for spec in exp.pseudo_gt.teachers]
    # `draw_teacher` draws a position. Records without an order are those of labels in order.
    order = {} if labels == sorted(labels) else {"order": labels}
    return {
        "data": upstream(exp, "data"),
        "pseudo_gt": settings,
        "resolution": exp.data.resolution,
        "seed": exp.seed,
        "teachers": {
            label: {"weight_hash": teacher.weight_hash, **{k: spec[k] for k in ("name", "share", "options")}}
            for label, teacher, spec in zip(labels, frozen, described, strict=True)
        },
        **order,
        "rulers": {e.name: e.weight_hash for e in estimators if e is not None},  # the key of older folders
    }


def _shards(exp: Experiment) -> range:
    return range(-(-exp.pseudo_gt.pairs // exp.pseudo_gt.shard_size))


def _pairs_of(exp: Experiment, shard: int) -> range:
    size = exp.pseudo_gt.shard_size
    return range(shard * size, min((shard + 1) * size, exp.pseudo_gt.pairs))


def _count(exp: Experiment, shards: Sequence[int]) -> int:
    return sum(len(_pairs_of(exp, k)) for k in shards)


def _name(shard: int, suffix: str) -> str:
    return f"shard-{shard:05d}.{suffix}"


def _is_made(store: Store, shard: int) -> bool:
    return all(store.exists(_name(shard, suffix)) for suffix in ("json", "tar"))


def _missing(exp: Experiment, store: Store, inputs: str) -> list[int]:
    """Shards that are absent or lack their sidecar. Raises StageError where shards of another experiment lie."""
    present = store.sizes()
    shards = {k: (_name(k, "tar"), _name(k, "json")) for k in _shards(exp)}
    expected = {tar for tar, _ in shards.values()}
    foreign = [name for name in present if name.endswith(".tar") and name not in expected]
    if foreign:
        raise StageError(f"{store}: {foreign[0]} is not of this experiment; move it away, or set another destination")
    missing = [k for k, names in shards.items() if not set(names) <= present.keys()]
    finished = [k for k in shards if k not in set(missing)]
    for k in finished[:1]:  # those of all shards are read where the index is written
        _sidecar(store, k, inputs)
    return missing


def _sidecar(store: Store, shard: int, inputs: str) -> dict[str, Any]:
    """The sidecar of a shard. Raises StageError where it was made with other inputs, perhaps by another machine."""
    sidecar = store.read_record(_name(shard, "json"))
    if sidecar.get("inputs") != inputs:
        raise StageError(
            f"{store}: its shards were made with other inputs; set pseudo_gt.destination to another place, "
            f"or delete them to make them anew; one of them is {_name(shard, 'tar')}"
        )
    return sidecar
