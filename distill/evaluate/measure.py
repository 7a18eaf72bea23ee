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

import eval as measuring
import teachers
from distill import build, config
from distill.config import ConfigError, Experiment, to_dict
from distill.evaluate import pairs as lists
from distill.evaluate import swappers
from distill.evaluate.swappers import Finished
from distill.report.page import text_table
from distill.stage import Stage, open_stage, upstream
from eval import sanity
from eval.subject import swap_batch
from swapcore import images as pictures
from swapcore.files import check_folder, digest, read_json, write_json
from swapcore.hardware import environment
from swapcore.images import decode

# Judges of photographs, for lists that no experiment goes with: none of them trains a student by default.
PHOTO_JUDGES = {"recogniser": "xiaoccer_128", "pose": "3ddfa_v2_mb05", "expression": "3ddfa_v2_mb05"}


def run(exp: Experiment, accelerator, tracker) -> Stage:
    rulers = build.rulers(exp)
    inputs = {
        **{stage: upstream(exp, stage) for stage in ("train", "refine") if stage in (*exp.stages, "train")},
        "eval": to_dict(exp.eval),
        "rulers": {k: r.weight_hash for k, r in vars(rulers).items() if r is not None},
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

    content, swaps = measure(exp, rows, pairs, rulers, skipped, stage.folder, accelerator.device, tell)
    shown = {"source": pairs.source, "target": pairs.target} | {k: v for k, v in swaps.items() if _of_interest(k)}
    count = exp.eval.pictures
    shutil.rmtree(stage.folder / "pictures", ignore_errors=True)  # perhaps of other rows, before the experiment changed
    for column, images in shown.items():
        for i, image in enumerate(images[:count]):
            pictures.save_png(image, stage.folder / "pictures" / f"{i:02d}.{column}.png")
    sheet = pictures.grid({k: v[:count] for k, v in shown.items()}, cell=max(128, exp.data.resolution))
    pictures.save_png(sheet, stage.folder / "grid.png")
    for name in ("grid.png", "metrics.json"):
        tracker.artifact(stage.folder / name)
    for line in content["verdicts"]:
        accelerator.print(f"  ! {line}")
    shutil.rmtree(stage.folder / "swaps", ignore_errors=True)  # they were kept for a second start
    stage.finish()
    return stage


def measure(
    exp: Experiment,
    rows: Mapping[str, Any],
    pairs: measuring.Pairs,
    rulers: measuring.Rulers,
    skipped: Sequence[Mapping[str, str]],
    folder: Path,
    device: Any,
    tell: Callable[[str, Mapping[str, Any]], None] | None = None,
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Measure swappers, by the name of their row, with the metrics of `exp`; what metrics.json holds, and the swaps
    (N, 3, H, H) uint8 by row.

    metrics.json is written after every row; a row whose swapper, pairs, metrics and rulers are the same is not measured
    again. Raises ValueError where a swapper cannot be measured.
    """
    bench = measuring.Bench(pairs, rulers, device=device, batch_size=exp.eval.batch_size)
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
    judges = {role: ruler.as_dict() for role, ruler in vars(rulers).items() if ruler is not None}
    made = {}
    for name, swapper in rows.items():
        origin = [pairs.hash, swappers.fingerprint(swapper)]
        made[name], failed = _swaps(swapper, name, pairs, folder / "swaps", origin, device, exp.eval.batch_size)
        key = digest([origin, list(exp.eval.metrics), judges, str(device)])
        if before.get("keys", {}).get(name) == key:
            values = {metric: measuring.Measured(**value) for metric, value in before["rows"][name].items()}
        else:
            values = bench.evaluate(swapper, list(exp.eval.metrics), swaps=made[name]).values
        content["rows"][name] = {metric: value.as_dict() for metric, value in values.items()}
        content["keys"][name] = key
        content["verdicts"] += swappers.own_judges(name, swapper, rulers)
        if failed:
            content["verdicts"].append(
                f"{name} gives NaN or infinite values for {len(failed)} of {len(pairs)} pairs ({', '.join(failed[:3])}"
                f"{', ...' if len(failed) > 3 else ''}), which count as grey pictures"
            )
        if _of_interest(name):
            content["verdicts"] += sanity.verdict(name, values, made[name], pairs)
            same = int((made[name] == pairs.target).flatten(1).all(1).sum())
            if same:
                content["verdicts"].append(f"{name} leaves {same} of {len(pairs)} targets as they are")
        write_json(path, content)
        if tell:
            tell(name, content["rows"][name])
    return content, made


def _of_interest(name: str) -> bool:
    return name not in ("copy-target", "copy-source")


def _swaps(
    swapper: Any, name: str, pairs: measuring.Pairs, folder: Path, made_from: list[str], device: Any, size: int
) -> tuple[torch.Tensor, list[str]]:
    """All swaps of a swapper, (N, 3, H, H) uint8, and the names of pairs for which it gave no numbers; those of
    networks are kept as pictures, batch by batch."""
    if isinstance(swapper, Finished):
        return swapper.swaps, []
    kept = folder / name if hasattr(swapper, "weight_hash") else None
    record = {"made_from": made_from, "failed": []}
    if kept is not None:
        record = _kept(kept, record)
    names, swaps = swappers.names_of(pairs), []
    with ThreadPoolExecutor(4) as pool, tqdm(total=len(pairs), desc=f"swap {name}", unit="pair") as bar:
        for start in range(0, len(pairs), size):
            files = [kept / f"{n}.png" for n in names[start : start + size]] if kept is not None else []
            if files and all(file.is_file() for file in files):
                batch = torch.from_numpy(np.stack(list(pool.map(decode, files))))
            else:
                part, failed = slice(start, start + size), []
                batch = swap_batch(swapper, pairs.source[part], pairs.target[part], device, start, failed)
                if failed:
                    record["failed"] = sorted({*record["failed"], *(names[i] for i in failed)})
                    if kept is not None:
                        write_json(kept / "made_from.json", record)
                list(pool.map(pictures.save_png, batch[: len(files)], files))
            swaps.append(batch)
            bar.update(len(batch))
    return torch.cat(swaps), record["failed"]


def _kept(folder: Path, record: dict[str, list[str]]) -> dict[str, list[str]]:
    """What is told of a folder of kept swaps; those of other weights or other pairs are removed."""
    path = folder / "made_from.json"
    if path.is_file() and (before := read_json(path))["made_from"] == record["made_from"]:
        return before
    shutil.rmtree(folder, ignore_errors=True)
    write_json(path, record)
    return record


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("swappers", nargs="+", metavar="SWAPPER")
    parser.add_argument("--experiment", help="YAML file whose metrics, rulers and, without --pairs, pairs are used")
    parser.add_argument("--pairs", type=Path, metavar="LIST", help="folder that `datasets/make_pairs.py` wrote")
    parser.add_argument("--metrics", help=f"of {','.join(measuring.METRICS)}; default: those of the experiment")
    for ruler in (*PHOTO_JUDGES, "perceptual", "features"):
        parser.add_argument(f"--{ruler}", metavar="NAME", help=f"the {ruler} ruler, by the name of its card")
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
            judges = [f"eval.{role}={name}" for role, name in PHOTO_JUDGES.items()]
            exp = config.default("evaluation", [*judges, *overrides])
        out = args.out or Path(exp.runs) / "evaluation" / args.pairs.name
    else:
        pairs, skipped = lists.test_pairs(exp)
        out = args.out or exp.folder / "evaluation"
    check_folder(out)
    rulers = build.rulers(exp)
    for line in skipped[:5]:
        print(f"skipped {line['what']}: {line['reason']}")
    if skipped:
        print(f"{len(skipped)} skipped in all, {len(pairs)} pairs left")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = _named(swappers.by_name(name, exp, pairs, device) for name in args.swappers)
    pairs, rows = _without_missing(pairs, rows, args.skip_missing)
    if (out / "metrics.json").is_file() and (gone := read_json(out / "metrics.json")["rows"].keys() - rows.keys()):
        print(f"{out / 'metrics.json'}: written anew, without {', '.join(sorted(gone))}; another --out keeps both")
    content, made = measure(exp, rows, pairs, rulers, skipped, out, device)
    count = exp.eval.pictures
    columns = {"source": pairs.source, "target": pairs.target, **made}
    pictures.save_png(
        pictures.grid({k: v[:count] for k, v in columns.items()}, cell=max(128, pairs.resolution)), out / "grid.png"
    )
    print(text_table(content["rows"]))
    for line in content["verdicts"]:
        print(f"! {line}")
    for name in ("metrics.json", "grid.png"):
        print(out / name)
    return 0


def _overrides(args: argparse.Namespace) -> list[str]:
    """The options as overrides of an experiment."""
    rulers = (*PHOTO_JUDGES, "perceptual", "features")
    given = [f"eval.{ruler}={getattr(args, ruler)}" for ruler in rulers if getattr(args, ruler) is not None]
    if args.metrics is not None:
        given.append(f"eval.metrics=[{args.metrics}]")
    if args.flip:
        given.append("eval.flip=true")
    if args.weights:
        given.append(f"weights=[{', '.join(args.weights)}]")
    return given


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


def _without_missing(pairs, rows: Mapping[str, Any], skip: bool) -> tuple[measuring.Pairs, dict[str, Any]]:
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
