"""Stage `eval`: measure the teachers and students of an experiment on the fixed pairs of its test people.

`python -m distill.evaluate` measures any swapper by the same function, `measure`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import teachers
from distill import build
from distill.config import ConfigError, Experiment, to_dict
from distill.evaluate import pairs as lists
from distill.evaluate import swappers
from distill.evaluate.differences import best, each_of, to_reference
from distill.stage import Stage, open_stage, upstream
from eval import METRICS, sanity
from eval.estimators import Estimators
from eval.evaluation import Evaluation
from eval.measured import VERSION, Measured, packed
from eval.pairs import Pairs
from swapcore.files import digest, read_record, write_record
from swapcore.hardware import environment
from swapcore.images import decode, grid, save_png
from swapcore.terminal import nearest

# Estimators of photographs, for lists without an experiment: none of them trains a student by default.
PHOTO_ESTIMATORS = {
    "eval.recogniser": "xiaoccer_128", "eval.pose": "3ddfa_v2_mb05", "eval.expression": "3ddfa_v2_mb05"
}  # fmt: skip


def run(exp: Experiment, accelerator, tracker) -> Stage:
    estimators = build.estimators(exp)
    inputs = {
        **{stage: upstream(exp, stage) for stage in ("train", "refine") if stage in (*exp.stages, "train")},
        "eval": to_dict(exp.eval),
        "rulers": {role: estimator.weight_hash for role, estimator in estimators.items()},
        "teachers": [build.teacher_contents(spec, exp, key) for spec, key in swappers.measured_teachers(exp)],
        "renderer": teachers.build("exact").weight_hash,
        "version": VERSION,
    }
    stage = open_stage(exp, "eval", inputs, accelerator, redo=True, outputs=("metrics.json", "grid.png"))
    if stage.done:
        accelerator.print(f"  finished before: {stage.folder}")
        return stage
    if not accelerator.is_main_process:  # a few minutes of one process; the others wait at the end of the stage
        return stage
    pairs, skipped = lists.test_pairs(exp)
    rows = swappers.of_experiment(exp, pairs, accelerator.device)

    def track(name: str, row: Mapping[str, Any]) -> None:
        tracker.metrics({f"eval/{name}/{key}": value["value"] for key, value in row.items()})

    content, swaps = measure(exp, rows, pairs, estimators, skipped, stage.folder, accelerator.device, track)
    swaps = {name: images for name, images in swaps.items() if name not in swappers.COPIES}
    columns = write_grid(stage.folder / "grid.png", pairs, swaps, exp.eval.pictures)
    write_pictures(stage.folder / "pictures", columns, synthetic=exp.data.kind == "synthetic")
    for name in ("grid.png", "metrics.json"):
        tracker.artifact(stage.folder / name)
    for warning in content["verdicts"]:
        accelerator.print(f"  ! {warning}")
    shutil.rmtree(stage.folder / "swaps", ignore_errors=True)  # only needed to resume
    stage.finish()
    return stage


def write_grid(path: Path, pairs: Pairs, swaps: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Write the first `count` pairs and their swaps as one picture; returns its columns by title."""
    columns = {"source": pairs.source, "target": pairs.target, **swaps}
    columns = {title: images[:count] for title, images in columns.items()}
    save_png(grid(columns, cell=max(128, pairs.resolution)), path)
    return columns


def write_pictures(folder: Path, columns: Mapping[str, Tensor], synthetic: bool) -> None:
    """Faces (n, 3, H, H) uint8 as `<row>.<column>.png`; sources and targets are marked as generated if `synthetic`."""
    shutil.rmtree(folder, ignore_errors=True)  # an earlier version of the experiment may have had other columns
    for column, images in columns.items():
        for i, image in enumerate(images):
            generated = synthetic or column not in ("source", "target")
            save_png(image, folder / f"{i:02d}.{column}.png", generated)


def measure(
    exp: Experiment,
    rows: Mapping[str, Any],
    pairs: Pairs,
    estimators: Estimators,
    skipped: Sequence[Mapping[str, str]],
    folder: Path,
    device: Any,
    track: Callable[[str, Mapping[str, Any]], None] | None = None,
    values: Collection[str] | None = None,
    swaps_folder: Path | None = None,
    missing: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Measure swappers, given by the name of their row, with the metrics of `exp`. Returns the content of metrics.json,
    and the swaps (N, 3, H, H) uint8 by row.

    metrics.json is written after every row. A row is taken over, with its environment, if the file has it under the
    same key: the hash of everything that its values depend on. `track` gets each row. values: the keys to keep, None
    for all. swaps_folder: where swaps are kept, by default `swaps` in `folder`. missing: further metrics that are not
    measured, with the reason. Raises ConfigError where no metric has a value for any swapper and where the reference is
    no row, ValueError if a swapper cannot be measured.
    """
    not_measured = unmeasurable(exp.eval.metrics, rows, pairs, device)
    if len(not_measured) == len(set(exp.eval.metrics)):
        raise ConfigError(f"eval.metrics: nothing can be measured: {listed(not_measured)}; choose other metrics")
    not_measured |= missing or {}
    swaps_folder = swaps_folder or folder / "swaps"
    if exp.eval.reference not in (None, *rows):
        missing = f"no swapper '{exp.eval.reference}' is measured here{nearest(exp.eval.reference, rows)}"
        raise ConfigError(f"eval.reference: {missing}")
    evaluation = Evaluation(pairs, estimators, device, exp.eval.batch_size, exp.eval.interval)
    path, now = folder / "metrics.json", environment()
    before = read_record(path) if path.is_file() else {}
    content: dict[str, Any] = {
        "experiment": exp.name,
        "seed": exp.seed,
        "pairs": {
            "name": pairs.name, "hash": pairs.hash, "count": len(pairs), "gallery": len(pairs.gallery),
            "protocol": dict(pairs.protocol), "skipped": list(skipped),
            "people": dict(zip(("source", "target"), map(packed, pairs.people), strict=True)),
        },
        "rows": {}, "keys": {}, "environments": {}, "verdicts": [], "not_measured": not_measured, "differences": None,
        "environment": now,
    }  # fmt: skip
    swaps = {}
    for name, swapper in rows.items():
        names = digest(list(swappers.names_of(pairs)))
        origin = [pairs.hash, names, swappers.fingerprint(swapper), exp.eval.batch_size, str(device)]
        swaps[name], failed = _swap(evaluation, swapper, name, swaps_folder / name, origin)
        key = _key(exp, pairs, estimators, origin if values is None else [*origin, *sorted(values)])
        if before.get("keys", {}).get(name) == key:
            kept = {metric: Measured.from_dict(value) for metric, value in before["rows"][name].items()}
            measured, where = evaluation.with_intervals(kept), before["environments"][name]
        else:
            measured, where = evaluation.measure(swapper, exp.eval.metrics, swaps=swaps[name]), now
        if values is not None:
            measured = {metric: value for metric, value in measured.items() if metric in values}
        content["rows"][name] = {metric: value.as_dict() for metric, value in measured.items()}
        content["keys"][name], content["environments"][name] = key, where
        content["verdicts"] += swappers.own_estimators(name, swapper, estimators)
        content["verdicts"] += _warnings(name, measured, swaps[name], failed, pairs)
        write_record(path, content)
        if track:
            track(name, content["rows"][name])
    content["differences"] = _differences(content["rows"], exp.eval.reference, pairs)
    write_record(path, content)
    return content, swaps


def _key(exp: Experiment, pairs: Pairs, estimators: Estimators, origin: Sequence[Any]) -> str:
    """The hash of everything that the values of a row depend on. Intervals are left out: they are computed again from
    the values of the pairs."""
    facts = {role: estimator.as_dict() for role, estimator in estimators.items()}
    machine = [dict(METRICS[metric].machine()) for metric in exp.eval.metrics]
    of_pairs = [pairs.name, dict(pairs.protocol), pairs.gallery_holds_sources]
    return digest([VERSION, origin, list(exp.eval.metrics), facts, machine, of_pairs, exp.threads])


def unmeasurable(metrics: Iterable[str], rows: Mapping[str, Any], pairs: Pairs, device: Any) -> dict[str, str]:
    """The metrics that have a value for none of the swappers on these pairs, with the reason."""
    reasons = {}
    for metric in metrics:
        lacks = [METRICS[metric].lacks(swapper, pairs, torch.device(device)) for swapper in rows.values()]
        if all(lacks):
            reasons[metric] = lacks[0]
    return reasons


def listed(reasons: Mapping[str, str]) -> str:
    """The result of `unmeasurable` as text."""
    return "; ".join(f"{metric} ({reason})" for metric, reason in reasons.items())


def _differences(rows: Mapping[str, Any], reference: str | None, pairs: Pairs) -> dict[str, Any] | None:
    """The differences of all rows to a reference row, as plain types: by default the best row that is neither a copy
    nor the exact swap. None where there is nothing to compare."""
    candidates = {name: row for name, row in rows.items() if name not in (*swappers.COPIES, "exact")} or rows
    values = {name: {key: value["value"] for key, value in row.items()} for name, row in candidates.items()}
    reference = reference or best(values)
    each = {name: each_of(row) for name, row in rows.items()}
    if reference is None:
        return None
    found = to_reference(each, reference, pairs.people)
    plain = {name: {key: one.as_dict() for key, one in row.items()} for name, row in found.items()}
    return {"reference": reference, "rows": plain} if any(plain.values()) else None


def _warnings(name: str, values: Mapping[str, Measured], swaps: Tensor, failed: list[str], pairs: Pairs) -> list[str]:
    warnings = []
    if failed:
        warnings.append(
            f"{name} gives NaN or infinite values for {len(failed)} of {len(pairs)} pairs ({shortened(failed)}), which "
            f"count as grey pictures"
        )
    if name not in swappers.COPIES:
        warnings += sanity.warnings(name, values, swaps, pairs)
        same = int((swaps == pairs.target).flatten(1).all(1).sum())
        if same:
            warnings.append(f"{name} leaves {same} of {len(pairs)} targets as they are")
    return warnings


def shortened(names: Sequence[str]) -> str:
    """The first three of some names, separated by commas."""
    return ", ".join([*names[:3], *(["..."] if len(names) > 3 else [])])


def _swap(evaluation: Evaluation, swapper: Any, name: str, folder: Path, origin: list[str]) -> tuple[Tensor, list[str]]:
    """The swaps of all pairs (N, 3, H, H) uint8, and the names of pairs whose swap is not finite.

    Swaps of networks are kept in `folder`, batch by batch."""
    if isinstance(swapper, swappers.FinishedSwaps):
        return swapper.swaps, []
    names, failed = swappers.names_of(evaluation.pairs), []
    with ThreadPoolExecutor(4) as pool, tqdm(total=len(names), desc=f"swap {name}", unit="pair") as bar:
        store = PictureFolder(folder, names, origin, pool) if hasattr(swapper, "weight_hash") else None
        swaps = evaluation.swap(swapper, bar.update, store, failed)
    return swaps, store.record["failed"] if store else sorted(names[i] for i in failed)


class PictureFolder:
    """A Store of swaps as PNG files that have the names of the pairs. Swaps of other weights or pairs are deleted.

    record: the content of made_from.json; `failed` lists the names of pairs whose swap is not finite.
    """

    def __init__(self, folder: Path, names: Sequence[str], origin: list[str], pool: ThreadPoolExecutor) -> None:
        self.folder, self.names, self.pool = folder, names, pool
        path = folder / "made_from.json"
        self.record = read_record(path) if path.is_file() else {}
        if self.record.get("made_from") != origin:
            shutil.rmtree(folder, ignore_errors=True)
            self.record = {"made_from": origin, "failed": []}
            write_record(path, self.record)

    def _files(self, batch: slice) -> list[Path]:
        return [self.folder / f"{name}.png" for name in self.names[batch]]

    def load(self, batch: slice) -> Tensor | None:
        files = self._files(batch)
        if not all(file.is_file() for file in files):
            return None
        return torch.from_numpy(np.stack(list(self.pool.map(decode, files))))

    def save(self, batch: slice, swaps: Tensor, failed: Sequence[int]) -> None:
        if failed:
            self.record["failed"] = sorted({*self.record["failed"], *(self.names[i] for i in failed)})
            write_record(self.folder / "made_from.json", self.record)
        list(self.pool.map(save_png, swaps, self._files(batch)))
