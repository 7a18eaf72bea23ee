"""Stage `pseudo_gt`: frozen teachers swap pairs of training people; what they make is written as tar shards.

Pair i and its teacher are functions of the seed and i, shard k holds pairs k * shard_size onwards, and each process
makes every world-size-th shard: however many processes start or go on, no pair is made twice and none is left out.
Machines that know nothing of each other may share a `destination`: each takes its shards in an order of its own and
leaves out what has appeared meanwhile. A shard's bytes depend on the experiment and on batch_size alone (networks
round differently in batches of another size), not on who makes it, nor on what was made before.

Decoding runs in one thread, the teachers in the main one, PNG encoding, writing and uploading in two more.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
from tqdm import tqdm

from distill import build
from distill.config import Experiment, to_dict
from distill.data.photos import Photos, read_manifest
from distill.pseudo_gt import tally
from distill.pseudo_gt.pipeline import ahead, behind
from distill.pseudo_gt.quality import Batch, Memory, Swapper, Swaps, judge
from distill.pseudo_gt.shards import contents, write_tar
from distill.pseudo_gt.store import Store
from distill.stage import Stage, StageError, open_stage, upstream

DEPTH = 4  # batches between two threads


def run(exp: Experiment, accelerator, tracker) -> Stage:
    settings = exp.pseudo_gt
    frozen = [build.teacher(spec, exp) for spec in settings.teachers]
    rulers = build.quality_rulers(exp)
    stage = open_stage(exp, "pseudo_gt", _inputs(exp, frozen, rulers), accelerator)
    store = Store(settings.destination or stage.folder)
    missing = _missing(exp, store, stage.hash)
    if stage.done and not missing:
        accelerator.print(f"  finished before: {store}")
        return stage
    photos = read_manifest(exp.folder / "data", "train", exp.data.resolution)
    if len(photos.people) < 2:
        raise StageError(f"{photos.root}: swapping needs two people to train on, there are {len(photos.people)}")
    rank, world = accelerator.process_index, accelerator.num_processes
    mine = [k for k in missing if k % world == rank]  # by number: processes need not see the same shards missing
    if settings.destination:
        random.SystemRandom().shuffle(mine)
        if rank == 0:  # also tells before hours of work whether the place can be written to
            store.write_json("inputs.json", stage.inputs, indent=2)
    memory = Memory(settings.identity_cache_mb * 2**20, accelerator.device, settings.batch_size)
    swapper = Swapper(frozen, rulers, settings.quality, photos.rows, memory, settings.precision)
    started = time.perf_counter()
    among = f" of process 1 of {world}, {_count(exp, missing)} in all" if world > 1 else ""
    with tqdm(
        total=_count(exp, mine), desc=f"swap pairs{among}", unit="swap", disable=not accelerator.is_main_process
    ) as bar:
        make(exp, store, stage.hash, mine, photos, swapper, bar)
    accelerator.wait_for_everyone()
    seconds = time.perf_counter() - started
    if accelerator.is_main_process:
        left = _missing(exp, store, stage.hash)
        if left:
            accelerator.print(
                f"  {len(left)} of {len(_shards(exp))} shards are still with others; run again after them"
            )
            return stage
        described = {
            build.label(spec): {"name": spec.name, "weight_hash": teacher.weight_hash}
            for spec, teacher in zip(settings.teachers, frozen, strict=True)
        }
        sidecars = {_name(k, "tar"): store.read_json(_name(k, "json")) for k in _shards(exp)}
        facts = tally.index(sidecars, described)
        store.write_json("index.json", facts, indent=2)
        speed = {"pseudo_gt/swaps_per_second": round(made / seconds, 3)} if (made := _count(exp, missing)) else {}
        tracker.metrics({**tally.metrics(facts), **speed})
        for line in tally.told(facts, settings.choose == "best_of"):
            accelerator.print(line)
        stage.finish(kept=facts["kept"], dropped=facts["dropped"], dropped_by=facts["dropped_by"], **facts["quality"])
    return stage


def make(
    exp: Experiment, store: Store, inputs: str, shards: Sequence[int], photos: Photos, swapper: Swapper, bar
) -> None:
    """Make `shards`: decoding, teachers and writing side by side. `inputs` is the hash that their sidecars bear."""

    def write(swapped: Iterator[tuple[Batch, list[Swaps]]]) -> None:
        _write(exp, store, inputs, photos, swapper.teachers, swapped, bar)

    with behind(write, DEPTH) as put, closing(ahead(_decode(exp, store, shards, photos, bar), DEPTH)) as batches:
        for batch in batches:
            put((batch, swapper(batch)))


def draw_pair(photos: Photos, seed: int, number: int) -> tuple[int, int]:
    """Indices of the source and the target of pair `number`: two pictures of two people."""
    rng = np.random.default_rng((seed, number, 7))
    source = int(rng.integers(len(photos)))
    while True:
        target = int(rng.integers(len(photos)))
        if photos.rows[target]["person"] != photos.rows[source]["person"]:
            return source, target


def draw_teacher(shares: Sequence[float], seed: int, number: int) -> int:
    """The place of the teacher that swaps pair `number`, each as often as its share says."""
    weights = np.array(shares, np.float64)
    return int(np.random.default_rng((seed, number, 8)).choice(len(weights), p=weights / weights.sum()))


def _inputs(exp: Experiment, frozen, rulers) -> dict[str, Any]:
    """Everything that the shards depend on. Weights go in by their hash, not by where they lie."""
    settings = to_dict(exp.pseudo_gt)
    for key in ("batch_size", "destination", "identity_cache_mb"):
        del settings[key]
    described = settings.pop("teachers")
    labels = [build.label(spec) for spec in exp.pseudo_gt.teachers]
    return {
        "data": upstream(exp, "data"),
        "pseudo_gt": settings,
        "resolution": exp.data.resolution,
        "seed": exp.seed,
        "teachers": {
            label: {"weight_hash": teacher.weight_hash, **{k: spec[k] for k in ("name", "share", "options")}}
            for label, teacher, spec in zip(labels, frozen, described, strict=True)
        },
        "rulers": {ruler.name: ruler.weight_hash for ruler in rulers if ruler is not None},
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


def _missing(exp: Experiment, store: Store, inputs: str) -> list[int]:
    """Shards that are not there with their sidecars. Raises StageError where others' lie in their place."""
    there = store.sizes()
    missing = [k for k in _shards(exp) if not {_name(k, "tar"), _name(k, "json")} <= there.keys()]
    known = set(_shards(exp)) - set(missing)
    expected = {_name(k, "tar") for k in _shards(exp)}
    strange = [name for name in there if name.endswith(".tar") and name not in expected]
    if strange:
        raise StageError(f"{store}: {strange[0]} is not of this experiment; move it away, or set another destination")
    if known:
        first = store.read_json(_name(min(known), "json"))
        if first.get("inputs") != inputs:
            raise StageError(
                f"{store}: its shards were made with other inputs; set pseudo_gt.destination to another place, "
                f"or delete them to make them anew"
            )
    return missing


def _decode(exp: Experiment, store: Store, shards: Sequence[int], photos: Photos, bar) -> Iterator[Batch]:
    """Batches of all shards, decoded. Pairs of one batch have the same teachers, and their order is fixed."""
    settings = exp.pseudo_gt
    everybody = list(range(len(settings.teachers)))
    for shard in shards:
        numbers = list(_pairs_of(exp, shard))
        if settings.destination and all(store.exists(_name(shard, s)) for s in ("json", "tar")):  # others were faster
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
            pictures = photos.load([i for pair in pairs for i in pair]).unflatten(0, (len(pairs), 2))
            yield Batch(shard, part, pairs, pictures, who, last=place == len(parts) - 1)


def _write(exp, store: Store, inputs: str, photos: Photos, frozen, swapped: Iterator, bar) -> None:
    """Judge, encode and write what arrives, shard after shard; the last one is uploaded while the next is written."""
    labels = [build.label(spec) for spec in exp.pseudo_gt.teachers]
    with ThreadPoolExecutor(1) as uploader:
        before = None
        for first in swapped:
            shard, counts = first[0].shard, tally.Tally(labels)
            with ExitStack() as stack:
                temporary = stack.enter_context(store.whole(_name(shard, "tar")))
                write_tar(temporary, _samples(exp, photos, frozen, labels, _of_one_shard(first, swapped), counts, bar))
                places = contents(temporary)
                if before:
                    before.result()
                finish = stack.pop_all()
            sidecar = {"inputs": inputs, **counts.as_dict(), **places, "id_similarity": counts.similarity}
            before = uploader.submit(_publish, finish, store, _name(shard, "json"), sidecar)
        if before:
            before.result()


def _publish(finish: ExitStack, store: Store, name: str, sidecar: dict[str, Any]) -> None:
    finish.close()
    store.write_json(name, sidecar)


def _of_one_shard(first, swapped: Iterator) -> Iterator[tuple[Batch, list[Swaps]]]:
    item = first
    yield item
    while not item[0].last:
        item = next(swapped)
        yield item


def _samples(exp, photos: Photos, frozen, labels: list[str], swapped: Iterator, counts: tally.Tally, bar) -> Iterator:
    """The samples of one shard that are good enough, as write_tar takes them; all are counted."""
    for batch, made in swapped:
        gt = {swaps.teacher: swaps.swap.permute(0, 2, 3, 1).cpu().numpy() for swaps in made}
        pixels = batch.pictures.permute(0, 1, 3, 4, 2).numpy()
        counts.swaps(made)
        verdicts = judge(batch, made, exp.pseudo_gt.quality)
        bar.update(len(verdicts))
        for place, verdict in enumerate(verdicts):
            counts.pair(verdict)
            if verdict.reason is not None:
                continue
            source, target = (photos.rows[i]["file"] for i in batch.pairs[place])
            facts = {
                "teacher": labels[verdict.teacher],
                "weight_hash": frozen[verdict.teacher].weight_hash,
                "source": source,
                "target": target,
                "seed": exp.seed,
                "pair": batch.numbers[place],
                "quality": verdict.quality,
            }
            if len(batch.teachers) > 1:
                facts["scores"] = {labels[t]: verdict.scores.get(t) for t in batch.teachers}
            yield f"{batch.numbers[place]:08d}", (*pixels[place], gt[verdict.teacher][verdict.row]), facts
