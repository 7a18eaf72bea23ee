"""Measure swappers on fixed pairs of people. Stage `eval` of an experiment, and a command of its own:

    python -m distill.evaluate SWAPPER [SWAPPER ...] --experiment exp.yaml
    python -m distill.evaluate SWAPPER [SWAPPER ...] --pairs LIST --metrics id_retrieval,pose_error

A SWAPPER is copy-target, copy-source, exact, the name of a teacher, a student's or teacher's .safetensors file, an
exported .onnx file, or a folder of finished swaps made elsewhere, a picture for each pair. The pairs are those of an
experiment whose stage `data` has run, or a list that `datasets/make_pairs.py` made.

OUT/metrics.json holds every value with what it depends on and is written anew after every swapper; OUT/swaps/SWAPPER/
holds the swaps. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import teachers
from distill import build, config
from distill.config import ConfigError, Experiment, to_dict
from distill.evaluate import pairs as lists
from distill.evaluate import swappers
from distill.evaluate.swappers import Finished
from distill.report.page import text_table
from distill.stage import Stage, open_stage, upstream
from eval import METRICS, sanity
from eval.estimators import Estimators
from eval.evaluation import Evaluation
from eval.measured import Measured
from eval.pairs import Pairs
from swapcore import images as pictures
from swapcore.files import check_folder, digest, read_json, write_json
from swapcore.hardware import environment
from swapcore.images import decode

# Estimators of photographs, for lists without an experiment: none of them trains a student by default.
PHOTO_ESTIMATORS = {"recogniser": "xiaoccer_128", "pose": "3ddfa_v2_mb05", "expression": "3ddfa_v2_mb05"}


def run(exp: Experiment, accelerator, tracker) -> Stage:
    estimators = build.estimators(exp)
    inputs = {
        **{stage: upstream(exp, stage) for stage in ("train", "refine") if stage in (*exp.stages, "train")},
        "eval": to_dict(exp.eval),
        "rulers": {role: estimator.weight_hash for role, estimator in estimators.items()},
        "renderer": teachers.build("exact").weight_hash,
    }
    stage = open_stage(exp, "eval", inputs, accelerator, redo=True)
    if stage.done:
        accelerator.print(f"  finished before: {stage.folder}")
        return stage
    if not accelerator.is_main_process:  # a few minutes of one process; the others wait at the end of the stage
        return stage
    pairs, skipped = lists.test_pairs(exp)
    rows = swappers.of_experiment(exp, pairs, accelerator.device)

    def tell(name: str, row: Mapping[str, Any]) -> None:
        tracker.metrics({f"eval/{name}/{k}": v["value"] for k, v in row.items()})

    content, swaps = measure(exp, rows, pairs, estimators, skipped, stage.folder, accelerator.device, tell)
    shown = {"source": pairs.source, "target": pairs.target} | {k: v for k, v in swaps.items() if _of_interest(k)}
    shown = {column: images[: exp.eval.pictures] for column, images in shown.items()}
    write_pictures(stage.folder / "pictures", shown, synthetic=exp.data.kind == "synthetic")
    sheet = pictures.grid(shown, cell=max(128, exp.data.resolution))
    pictures.save_png(sheet, stage.folder / "grid.png")
    for name in ("grid.png", "metrics.json"):
        tracker.artifact(stage.folder / name)
    for line in content["verdicts"]:
        accelerator.print(f"  ! {line}")
    shutil.rmtree(stage.folder / "swaps", ignore_errors=True)  # they were kept for a second start
    stage.finish()
    return stage


def write_pictures(folder: Path, columns: Mapping[str, torch.Tensor], synthetic: bool) -> None:
    """Faces (n, 3, H, H) uint8 as `<row>.<column>.png`; sources and targets are marked as generated if `synthetic`."""
    shutil.rmtree(folder, ignore_errors=True)  # perhaps of other columns, before the experiment changed
    for column, images in columns.items():
        for i, image in enumerate(images):
            generated = synthetic or column not in ("source", "target")
            pictures.save_png(image, folder / f"{i:02d}.{column}.png", generated)


def measure(
    exp: Experiment,
    rows: Mapping[str, Any],
    pairs: Pairs,
    estimators: Estimators,
    skipped: Sequence[Mapping[str, str]],
    folder: Path,
    device: Any,
    tell: Callable[[str, Mapping[str, Any]], None] | None = None,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Measure swappers, by the name of their row, with the metrics of `exp`; what metrics.json holds, and the swaps
    (N, 3, H, H) uint8 by row.

    metrics.json is written after every row; a row with the same swapper, pairs, metrics and estimators is not
    measured again. Raises ValueError where a swapper cannot be measured.
    """
    evaluation = Evaluation(pairs, estimators, device, exp.eval.batch_size)
    path = folder / "metrics.json"
    before = read_json(path) if path.is_file() else {}
    content: dict[str, Any] = {
        "experiment": exp.name,
        "seed": exp.seed,
        "pairs": {
            "name": pairs.name, "hash": pairs.hash, "count": len(pairs), "gallery": len(pairs.gallery),
            "protocol": dict(pairs.protocol), "skipped": list(skipped),
        },
        "rows": {}, "keys": {}, "verdicts": [], "environment": environment(),
    }  # fmt: skip
    facts = {role: estimator.as_dict() for role, estimator in estimators.items()}
    swaps = {}
    for name, swapper in rows.items():
        origin = [pairs.hash, swappers.fingerprint(swapper)]
        swaps[name], failed = _swaps(evaluation, swapper, name, folder / "swaps", origin)
        key = digest([origin, list(exp.eval.metrics), facts, str(device)])
        if before.get("keys", {}).get(name) == key:
            values = {metric: Measured(**value) for metric, value in before["rows"][name].items()}
        else:
            values = evaluation.measure(swapper, exp.eval.metrics, swaps=swaps[name])
        content["rows"][name] = {metric: value.as_dict() for metric, value in values.items()}
        content["keys"][name] = key
        content["verdicts"] += swappers.own_estimators(name, swapper, estimators)
        if failed:
            content["verdicts"].append(
                f"{name} gives NaN or infinite values for {len(failed)} of {len(pairs)} pairs ({', '.join(failed[:3])}"
                f"{', ...' if len(failed) > 3 else ''}), which count as grey pictures"
            )
        if _of_interest(name):
            content["verdicts"] += sanity.warnings(name, values, swaps[name], pairs)
            same = int((swaps[name] == pairs.target).flatten(1).all(1).sum())
            if same:
                content["verdicts"].append(f"{name} leaves {same} of {len(pairs)} targets as they are")
        write_json(path, content)
        if tell:
            tell(name, content["rows"][name])
    return content, swaps


def _of_interest(name: str) -> bool:
    return name not in ("copy-target", "copy-source")


def _swaps(
    evaluation: Evaluation, swapper: Any, name: str, folder: Path, made_from: list[str]
) -> tuple[torch.Tensor, list[str]]:
    """All swaps of a swapper, (N, 3, H, H) uint8, and the names of pairs whose swap is not finite.

    Those of networks are kept as pictures, batch by batch."""
    if isinstance(swapper, Finished):
        return swapper.swaps, []
    names, failed = swappers.names_of(evaluation.pairs), []
    with ThreadPoolExecutor(4) as pool, tqdm(total=len(names), desc=f"swap {name}", unit="pair") as bar:
        store = PictureFolder(folder / name, names, made_from, pool) if hasattr(swapper, "weight_hash") else None
        swaps = evaluation.swap(swapper, bar.update, store, failed)
    return swaps, store.record["failed"] if store else sorted(names[i] for i in failed)


class PictureFolder:
    """A store of swaps as pictures named as their pairs. Swaps of other weights or pairs are removed.

    record: content of made_from.json; its `failed` are the names of pairs whose swap was not finite.
    """

    def __init__(self, folder: Path, names: Sequence[str], made_from: list[str], pool: ThreadPoolExecutor) -> None:
        self.folder, self.names, self.pool = folder, names, pool
        path = folder / "made_from.json"
        self.record = read_json(path) if path.is_file() else {}
        if self.record.get("made_from") != made_from:
            shutil.rmtree(folder, ignore_errors=True)
            self.record = {"made_from": made_from, "failed": []}
            write_json(path, self.record)

    def _files(self, batch: slice) -> list[Path]:
        return [self.folder / f"{name}.png" for name in self.names[batch]]

    def load(self, batch: slice) -> torch.Tensor | None:
        files = self._files(batch)
        if not all(file.is_file() for file in files):
            return None
        return torch.from_numpy(np.stack(list(self.pool.map(decode, files))))

    def save(self, batch: slice, swaps: torch.Tensor, failed: Sequence[int]) -> None:
        if failed:
            self.record["failed"] = sorted({*self.record["failed"], *(self.names[i] for i in failed)})
            write_json(self.folder / "made_from.json", self.record)
        list(self.pool.map(pictures.save_png, swaps, self._files(batch)))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("swappers", nargs="+", metavar="SWAPPER")
    parser.add_argument("--experiment", help="YAML file whose metrics, estimators and, without --pairs, pairs are used")
    parser.add_argument("--pairs", type=Path, metavar="LIST", help="folder that `datasets/make_pairs.py` wrote")
    parser.add_argument("--metrics", help=f"of {','.join(METRICS)}; default: those of the experiment")
    for role in (*PHOTO_ESTIMATORS, "perceptual", "features"):
        parser.add_argument(f"--{role}", metavar="NAME", help=f"estimator of the role {role}, by the name of its card")
    parser.add_argument("--flip", action="store_true", help="embeddings of image and mirror image, concatenated")
    parser.add_argument("--weights", nargs="+", default=[], metavar="FOLDER", help="where weight files are looked for")
    parser.add_argument("--same-people", type=Path, metavar="FILE", help="lines of names that are one person")
    parser.add_argument("--resolution", type=int, help="side in pixels; default: the list's")
    parser.add_argument("--skip-missing", action="store_true", help="leave pairs out that a folder of swaps lacks")
    parser.add_argument("--out", type=Path, help="default: runs/evaluation/LIST or runs/EXPERIMENT/evaluation")
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value", help="keys of an experiment")
    args = parser.parse_args(arguments)
    try:
        return evaluate(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def evaluate(args: argparse.Namespace) -> int:
    if args.pairs is None and args.experiment is None:
        raise ConfigError("on which pairs? Give --pairs LIST, or --experiment FILE for those of its test people")
    overrides = [*args.set, *_overrides(args)]
    exp = config.load(args.experiment, overrides) if args.experiment else config.default("evaluation", overrides)
    if args.pairs is not None:
        pairs, skipped = lists.read(args.pairs, args.resolution, args.same_people)
        if args.experiment is None and pairs.exact is None:
            estimators = [(f"eval.{role}", name) for role, name in PHOTO_ESTIMATORS.items()]
            exp = config.default("evaluation", [*estimators, *overrides])
        out = args.out or Path(exp.runs) / "evaluation" / args.pairs.name
    else:
        pairs, skipped = lists.test_pairs(exp)
        out = args.out or exp.folder / "evaluation"
    check_folder(out)
    estimators = build.estimators(exp)
    for line in skipped[:5]:
        print(f"skipped {line['what']}: {line['reason']}")
    if skipped:
        print(f"{len(skipped)} skipped in all, {len(pairs)} pairs left")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = _named(swappers.by_name(name, exp, pairs, device) for name in args.swappers)
    pairs, rows = _without_missing(pairs, rows, args.skip_missing)
    if (out / "metrics.json").is_file() and (gone := read_json(out / "metrics.json")["rows"].keys() - rows.keys()):
        print(f"{out / 'metrics.json'}: written anew, without {', '.join(sorted(gone))}; another --out keeps both")
    content, swaps = measure(exp, rows, pairs, estimators, skipped, out, device)
    count = exp.eval.pictures
    columns = {"source": pairs.source, "target": pairs.target, **swaps}
    pictures.save_png(
        pictures.grid({k: v[:count] for k, v in columns.items()}, cell=max(128, pairs.resolution)), out / "grid.png"
    )
    print(text_table(content["rows"]))
    for line in content["verdicts"]:
        print(f"! {line}")
    for name in ("metrics.json", "grid.png"):
        print(out / name)
    return 0


def _overrides(args: argparse.Namespace) -> list[tuple[str, Any]]:
    """The options that were given, as overrides of an experiment."""
    options = {f"eval.{role}": getattr(args, role) for role in (*PHOTO_ESTIMATORS, "perceptual", "features")}
    options |= {"eval.flip": args.flip, "weights": args.weights}
    if args.metrics is not None:
        options["eval.metrics"] = [metric.strip() for metric in args.metrics.split(",")]
    return [(key, value) for key, value in options.items() if value not in (None, False, [])]


def _named(given: Iterable[Any]) -> dict[str, Any]:
    """Swappers by their names; the second of a name is called so."""
    rows: dict[str, Any] = {}
    for swapper in given:
        name = first = getattr(swapper, "name", type(swapper).__name__)
        number = 1
        while name in rows:
            number += 1
            name = f"{first}-{number}"
        rows[name] = swapper
    return rows


def _without_missing(pairs, rows: Mapping[str, Any], skip: bool) -> tuple[Pairs, dict[str, Any]]:
    """Pairs and rows without the pairs that some folder of swaps lacks. Raises ConfigError unless `skip`."""
    lacking = {name: row.missing for name, row in rows.items() if isinstance(row, Finished) and len(row.missing)}
    if not lacking:
        return pairs, dict(rows)
    names = swappers.names_of(pairs)
    told = "; ".join(
        f"{name} lacks {len(index)} of {len(pairs)} swaps ({', '.join(names[i] for i in index[:3])}"
        f"{', ...' if len(index) > 3 else ''})"
        for name, index in lacking.items()
    )
    if not skip:
        raise ConfigError(f"{told}; finish them, or give --skip-missing to leave these pairs out for every swapper")
    print(f"left out: {told}")
    gone = {i for index in lacking.values() for i in index}
    left = [i for i in range(len(pairs)) if i not in gone]
    kept = {
        name: Finished(row.name, row.swaps[left]) if isinstance(row, Finished) else row for name, row in rows.items()
    }
    return pairs.subset(left), kept
