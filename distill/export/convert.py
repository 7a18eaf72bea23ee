"""Export a student to the runtimes of phones, each file run and compared with PyTorch. Stage `export`, and a command:

    python -m distill.export STUDENT.safetensors --to onnx,coreml,tnn [--precision fp32,fp16] [--out DIR]
    python -m distill.export STUDENT.safetensors --to all --precision all

--to names targets of students/export/targets.py, or all of them; --precision fp32 (default), fp16, int8, or all that
a target has. Compared is on 32 pairs: of synthetic people drawn for it, or of --pairs LIST (`datasets/make_pairs.py`),
or, in an experiment, of its test people. DIR gets a folder for each target and precision with generator, identity
encoder and both as one model, a card.json, and the table equality.md. A file that differs from PyTorch by more than its
precision allows is an error, and is not kept; what else was asked for is made all the same. The same command goes on
where it was stopped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

import students
from distill import build, config
from distill.config import ConfigError, Experiment
from distill.data import faces
from distill.data import prepare as data
from distill.evaluate import pairs as lists
from distill.evaluate import swappers
from distill.evaluate.measure import PHOTO_ESTIMATORS
from distill.export.card import card, table
from distill.stage import Stage, open_stage, upstream
from distill.tracking import Tracker
from eval.evaluation import Evaluation
from eval.pairs import Pairs
from students.export import equality, targets
from students.export.conversion import quiet
from students.export.models import Model, models
from swapcore import weights
from swapcore.files import check_folder, digest, read_json, whole_folder, write_json, write_text
from swapcore.hardware import environment
from swapcore.images import to_float, to_uint8

PAIRS = 32
MOST_LOST_POINTS = 5.0  # of ID retrieval, int8 against PyTorch: one pair of 32, not two
LEAST_SAME = 0.9  # mean cosine of what the recogniser sees in the exported swap and in PyTorch's, int8


def run(exp: Experiment, accelerator, tracker) -> Stage:
    """Stage `export`: the trained student for the targets that `export.to` names."""
    wanted = targets.chosen(exp.export.to, exp.export.precisions)
    stage = open_stage(exp, "export", {"train": upstream(exp, "train"), "wanted": wanted}, accelerator, redo=True)
    if stage.done:
        accelerator.print(f"  finished before: {stage.folder}")
    elif accelerator.is_main_process:
        pairs = first(lists.test_pairs(exp)[0])
        student = swappers.load_student(exp.folder / "train" / "student.safetensors", exp)
        record = exp.folder / "eval" / "metrics.json"
        metrics = read_json(record)["rows"].get(student.name) if record.is_file() else None
        detector = _detector(exp) if "web" in dict(wanted) else None
        content = export(student, pairs, wanted, stage.folder, Judge(exp, pairs), detector, metrics, anew=True)
        for row in content["targets"]:
            name = f"export/{row['target']}-{row['precision']}"
            tracker.metrics({f"{name}/max_abs": row["max_abs"], f"{name}/mb": row["mb"]["whole"]})
        for name in ("card.json", "equality.md"):
            tracker.artifact(stage.folder / name)
        stage.finish()
    accelerator.wait_for_everyone()
    return stage


def export(
    student: students.StudentSwapper,
    pairs: Pairs,
    wanted: Sequence[tuple[str, str]],
    folder: Path,
    judge: Judge | None,
    detector: Path | None = None,
    metrics: Mapping[str, Any] | None = None,
    anew: bool = False,
) -> dict[str, Any]:
    """Write, run and compare a student's file for every (target, precision); what card.json holds, written anew after
    each. What was made of the same student on the same pairs before is not made again, and stays in the card. Without a
    judge, for fresh weights, nothing is said of identities. detector: what finds faces in the page of web. metrics:
    what was measured of the student, for the card. anew: exports of other students or pairs give way.

    Raises ValueError where a target cannot express the student or its file gives other numbers: after the last of
    them, so that the others are there. ConfigError where the folder holds other exports.
    """
    side = student.generator.options["resolution"]
    if pairs.resolution != side:
        raise ConfigError(f"{student.name}: works on {side} pixels, the pairs '{pairs.name}' have {pairs.resolution}")
    truth = equality.Reference(student, to_float(pairs.source), to_float(pairs.target))
    facts = {"pytorch": judge(truth.swaps, truth) if judge else {}, "folding": equality.folding(student, truth)}
    of = digest([student.weight_hash, truth.hash, judge.key if judge else None])
    work = _Work(student, models(student), truth, judge, facts["pytorch"], of, detector)
    rows, refused = _before(folder, of, anew), {}
    for one in wanted:
        try:
            rows[one] = _one(*one, work, folder)
        except ValueError as error:
            print(f"  refused: {error}", flush=True)
            refused["-".join(one)] = str(error)
        known = [(name, p) for name, target in targets.TARGETS.items() for p in target.precisions]
        facts["refused"] = refused
        content = card(student, pairs, [rows[one] for one in known if one in rows], facts, metrics)
        write_json(folder / "card.json", content)
        write_text(folder / "equality.md", table(content))
    if refused:
        raise ValueError("; ".join(refused.values()))
    return content


def first(pairs: Pairs) -> Pairs:
    """The pairs that files are compared on."""
    return pairs.subset(list(range(min(PAIRS, len(pairs)))))


def _detector(exp: Experiment) -> Path | None:
    """The file that finds faces in the page's photographs, where it is here."""
    try:
        return weights.find(faces.YUNET, exp.weights)
    except weights.WeightsError as error:
        print(f"  web: the page will take aligned crops only: {error}")
        return None


def _before(folder: Path, of: str, anew: bool) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of what lies there, of the same student, compared on the same pairs, by target and precision."""
    records = {path.parent: read_json(path) for path in sorted(folder.glob("*/proof.json"))}
    others = [place for place, record in records.items() if record["of"] != of]
    if others and not anew:
        raise ConfigError(
            f"{folder}: holds exports of another student, or compared on other pairs ({others[0].name} ...); name "
            f"another folder with --out, or delete that one"
        )
    for place in others:
        shutil.rmtree(place)
        del records[place]
    changed = [place for place, record in records.items() if not _intact(place, record["row"])]
    for place in changed:
        print(f"  {place}: not as it was when it was compared, and left out; export it again")
    rows = [record["row"] for place, record in records.items() if place not in changed]
    return {(row["target"], row["precision"]): row for row in rows}


def _intact(place: Path, row: Mapping[str, Any]) -> bool:
    """Whether all files are there as they were written."""
    files = {place / name: sha256 for facts in row["models"].values() for name, sha256 in facts["files"].items()}
    return all(file.is_file() and weights.sha256(file) == sha256 for file, sha256 in files.items())


@dataclass(frozen=True)
class _Work:
    """What every target starts from; `of` tells it from other work."""

    student: students.StudentSwapper
    short: Mapping[str, Model]
    truth: equality.Reference
    judge: Judge | None
    pytorch: Mapping[str, float]
    of: str
    detector: Path | None


def _one(name: str, precision: str, work: _Work, folder: Path) -> dict[str, Any]:
    """One target at one precision, in a folder of its own, which appears when all of it is proved."""
    target, place = targets.check(name, precision), folder / f"{name}-{precision}"
    versions = {k: v for k, v in environment().items() if k not in ("commit", "threads")}
    finds = weights.sha256(work.detector) if target.write is None and work.detector else None
    key = digest([work.of, name, precision, versions, finds])
    record = place / "proof.json"
    if record.is_file() and (before := read_json(record))["key"] == key and _intact(place, before["row"]):
        return before["row"]
    print(f"  {name} {precision}", flush=True)
    for killed in folder.glob(f".{place.name}.*"):  # what a command left that was killed
        shutil.rmtree(killed)
    metadata = {"student": work.student.name, "identity_encoder": work.student.identity_encoder.card.name}
    with whole_folder(place) as temporary, quiet():
        temporary.mkdir()
        made = equality.compare(work.short, work.truth, target, precision, temporary, metadata, work.detector)
        row = {
            "target": name, "precision": precision, "runs_in": target.runs_in, "folder": place.name,
            "feed": target.feed,
            "max_abs": max(facts.get("max_abs", 0) for facts in made.facts.values()),
            "mb": {model: facts["bytes"] / 1e6 for model, facts in made.facts.items()},
            "models": made.facts, **(work.judge(made.swaps(), work.truth) if work.judge else {}),
        }  # fmt: skip
        if precision == "int8" and work.judge:
            _refuse_loss(row, work.pytorch, place)
        write_json(temporary / "proof.json", {"of": work.of, "key": key, "row": row})
    return row


def _refuse_loss(row: Mapping[str, Any], pytorch: Mapping[str, float], place: Path) -> None:
    lost = pytorch["id_top1_percent"] - row["id_top1_percent"]
    if lost > MOST_LOST_POINTS or not row["same_as_pytorch"] >= LEAST_SAME:
        raise equality.Unequal(
            f"{place.name}: ID retrieval is {row['id_top1_percent']:.1f} %, {pytorch['id_top1_percent']:.1f} % in "
            f"PyTorch, and its swaps look like PyTorch's by a cosine of {row['same_as_pytorch']:.3f}; allowed are "
            f"{MOST_LOST_POINTS:g} points and {LEAST_SAME:g}: take fp16 for this student; nothing of it was kept"
        )


class Judge:
    """Identity in swaps (N, 3, R, R) of the pairs, read by a recogniser that trained none of it."""

    def __init__(self, exp: Experiment, pairs: Pairs) -> None:
        exp = replace(exp, eval=replace(exp.eval, metrics=("id_retrieval", "id_similarity")))
        self.evaluation = Evaluation(pairs, build.estimators(exp))
        self.recogniser = self.evaluation.estimators.need("recogniser")
        self.key = [pairs.hash, self.recogniser.as_dict()]

    def __call__(self, swaps, truth: equality.Reference) -> dict[str, float]:
        values = self.evaluation.measure("export", ["id_retrieval", "id_similarity"], swaps=to_uint8(swaps))
        seen, before = (self.recogniser(images) for images in (swaps, truth.swaps))
        return {
            "id_top1_percent": values["id_retrieval_top1_pct"].value,
            "id_similarity": values["id_similarity_source"].value,
            "same_as_pytorch": float((seen * before).sum(1).mean()),
        }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m distill.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("student", type=Path, metavar="STUDENT", help="student.safetensors")
    parser.add_argument("--to", required=True, help=f"all, or of {','.join(targets.TARGETS)}")
    parser.add_argument("--precision", default="fp32", help="all, or of fp32,fp16,int8; default: fp32")
    parser.add_argument("--out", type=Path, help="default: the folder `export` beside the student")
    parser.add_argument("--pairs", type=Path, metavar="LIST", help="compare on these pairs instead of synthetic people")
    parser.add_argument("--recogniser", metavar="NAME", help="who judges identities, by the name of its card")
    parser.add_argument("--weights", nargs="+", default=[], metavar="FOLDER", help="where weight files are looked for")
    args = parser.parse_args(arguments)
    try:
        wanted = targets.chosen(args.to.split(","), args.precision.split(","))
        out = args.out or args.student.parent / "export"
        check_folder(out)
        side = students.load(args.student).options["resolution"]
        with tempfile.TemporaryDirectory() as folder:
            exp, pairs = _pairs(args, side, folder)
            student, pairs = swappers.load_student(args.student, exp), first(pairs)
            record = args.student.parent / "metrics.json"
            metrics = read_json(record)["rows"].get(student.name) if record.is_file() else None
            detector = _detector(exp) if "web" in dict(wanted) else None
            export(student, pairs, wanted, out, Judge(exp, pairs), detector, metrics)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((out / "equality.md").read_text(encoding="utf-8"))
    print(out / "card.json")
    return 0


def _pairs(args: argparse.Namespace, side: int, folder: str) -> tuple[Experiment, Pairs]:
    """The pairs to compare on, and an experiment that names the judge of their identities."""
    given: list[tuple[str, Any]] = [("weights", args.weights)]
    if args.recogniser:
        given.append(("eval.recogniser", args.recogniser))
    if args.pairs is None:
        people = {"train_people": 2, "val_people": 2, "test_people": PAIRS, "test_images": 2, "resolution": side}
        drawn = {"runs": folder, "eval.pairs": PAIRS, "data": {**people, "workers": 0}}
        exp = config.default("export", [*drawn.items(), *given])
        data.run(exp, Accelerator(cpu=True), Tracker(exp, enabled=False))
        return exp, lists.test_pairs(exp)[0]
    pairs, _ = lists.read(args.pairs, side)
    estimators = [("eval.recogniser", PHOTO_ESTIMATORS["recogniser"])] if pairs.exact is None else []
    return config.default("export", [*estimators, *given]), pairs
