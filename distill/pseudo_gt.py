"""Stage `pseudo_gt`: frozen teachers swap pairs of training people; what they make is written as tar shards.

Pair i is a function of the seed and i, shard k holds pairs k * shard_size onwards, and each process makes every
world-size-th shard: however many processes start or go on, no pair is made twice and none is left out.
"""

from __future__ import annotations

import numpy as np
import torch
from tqdm import tqdm

import teachers
from distill import evaluate
from distill.config import Experiment, to_dict
from distill.data.photos import Photos, read_manifest
from distill.data.shards import write_shard
from distill.stage import Stage, open_stage, read_json, upstream, write_json


def run(exp: Experiment, accelerator, tracker) -> Stage:
    settings = exp.pseudo_gt
    frozen = [teachers.build(name) for name in settings.teachers]
    encoder = evaluate.identity_encoder(exp).to(accelerator.device)
    inputs = {
        "data": upstream(exp, "data"),
        "pseudo_gt": {k: v for k, v in to_dict(settings).items() if k != "batch_size"},
        "resolution": exp.data.resolution,
        "seed": exp.seed,
        "teachers": {teacher.name: teacher.weight_hash for teacher in frozen},
        "identity_encoder": encoder.weight_hash,
    }
    stage = open_stage(exp, "pseudo_gt", inputs, accelerator)
    shards = range(-(-settings.pairs // settings.shard_size))
    missing = [k for k in shards if not (_shard(stage, k, "tar").is_file() and _shard(stage, k, "json").is_file())]
    if stage.done and not missing:
        accelerator.print(f"  finished before: {stage.folder}")
        return stage
    photos = read_manifest(exp.folder / "data", "train", exp.data.resolution)
    mine = missing[accelerator.process_index :: accelerator.num_processes]
    total = sum(len(_pairs_of(exp, k)) for k in mine)
    with tqdm(total=total, desc="swap pairs", unit="swap", disable=not accelerator.is_main_process) as bar:
        for number in mine:
            facts = _make_shard(exp, stage, number, photos, frozen, encoder, accelerator.device, bar)
            write_json(_shard(stage, number, "json"), facts)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        parts = [read_json(_shard(stage, k, "json")) for k in shards]
        kept, dropped = sum(p["kept"] for p in parts), sum(p["dropped"] for p in parts)
        similarity = float(np.average([p["id_similarity"] for p in parts], weights=[p["pairs"] for p in parts]))
        facts = {"kept": kept, "dropped": dropped, "id_similarity": round(similarity, 4)}
        index = [{"file": _shard(stage, k, "tar").name, **part} for k, part in zip(shards, parts, strict=True)]
        write_json(stage.folder / "index.json", {**facts, "teachers": inputs["teachers"], "shards": index})
        reason = f", {dropped} below min_id_similarity {settings.min_id_similarity} dropped" if dropped else ""
        accelerator.print(f"  {kept} swaps kept{reason}; mean cosine to the source {similarity:.3f}")
        tracker.metrics({f"pseudo_gt/{k}": float(v) for k, v in facts.items()})
        stage.finish(**facts)
    return stage


def draw_pair(photos: Photos, seed: int, number: int) -> tuple[int, int]:
    """Indices of the source and the target of pair `number`: two pictures of two people."""
    rng = np.random.default_rng((seed, number, 7))
    source = int(rng.integers(len(photos)))
    while True:
        target = int(rng.integers(len(photos)))
        if photos.rows[target]["person"] != photos.rows[source]["person"]:
            return source, target


def swap(teacher, photos: Photos, pairs: list[tuple[int, int]], device) -> tuple[torch.Tensor, ...]:
    """Sources, targets and the teacher's swaps of pairs of indices: three (n, 3, R, R) float32 in [-1, 1]."""
    columns = [list(column) for column in zip(*pairs, strict=True)]
    source, target = (photos.load(c).to(device).float().div_(127.5).sub_(1) for c in columns)
    rows = [[photos.rows[i] for i in column] for column in columns] if teacher.needs_rows else ()
    with torch.inference_mode():
        return source, target, teacher(source, target, *rows)


def _pairs_of(exp: Experiment, shard: int) -> range:
    size = exp.pseudo_gt.shard_size
    return range(shard * size, min((shard + 1) * size, exp.pseudo_gt.pairs))


def _shard(stage: Stage, number: int, suffix: str):
    return stage.folder / f"shard-{number:05d}.{suffix}"


def _make_shard(exp, stage, shard: int, photos: Photos, frozen, encoder, device, bar) -> dict:
    """Swap the pairs of one shard, write those good enough, and return the counts for its sidecar."""
    settings = exp.pseudo_gt
    similarities: list[float] = []

    def samples():
        numbers = _pairs_of(exp, shard)
        for place, teacher in enumerate(frozen):
            own = [n for n in numbers if n % len(frozen) == place]
            for start in range(0, len(own), settings.batch_size):
                batch = own[start : start + settings.batch_size]
                pairs = [draw_pair(photos, exp.seed, n) for n in batch]
                pictures = swap(teacher, photos, pairs, device)
                with torch.inference_mode():
                    similarity = (encoder(pictures[0]) * encoder(pictures[2])).sum(1).tolist()
                stacked = torch.stack(pictures, 1).add(1).mul(127.5).round().clamp(0, 255).byte()
                pixels = stacked.permute(0, 1, 3, 4, 2).cpu().numpy()
                for number, pair, triple, quality in zip(batch, pairs, pixels, similarity, strict=True):
                    similarities.append(quality)
                    bar.update()
                    if settings.min_id_similarity is not None and quality < settings.min_id_similarity:
                        continue
                    files = [photos.rows[i]["file"] for i in pair]
                    yield (
                        f"{number:08d}",
                        triple,
                        {
                            "teacher": teacher.name,
                            "weight_hash": teacher.weight_hash,
                            "source": files[0],
                            "target": files[1],
                            "seed": exp.seed,
                            "pair": number,
                            "quality": {"id_similarity": round(quality, 4)},
                        },
                    )

    kept = write_shard(_shard(stage, shard, "tar"), samples())
    return {
        "pairs": len(similarities),
        "kept": kept,
        "dropped": len(similarities) - kept,
        "id_similarity": round(float(np.mean(similarities)), 4),
    }
