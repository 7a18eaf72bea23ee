"""Stage `export`: write the trained student for the runtimes of phones and browsers, each file compared with PyTorch.

`python -m distill.export` exports any student by the same function, `export`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import students
from distill import build, config
from distill.config import ConfigError, Experiment
from distill.data import faces, synthetic
from distill.evaluate import pairs as lists
from distill.evaluate import swappers
from distill.export.card import card, table
from distill.stage import Stage, open_stage, upstream
from eval import intervals
from eval.evaluation import Evaluation
from eval.pairs import Pairs
from students.export import equality, targets
from students.export.conversion import quiet
from students.export.models import Model, models
from swapcore import terminal, weights
from swapcore.files import digest, read_record, sha256, whole_folder, write_record, write_text
from swapcore.hardware import environment
from swapcore.images import to_float, to_uint8
from swapcore.locks import folder_lock

PAIRS = 32  # of the comparison
# Limits of int8, which is compared pair by pair: the lower ends of the 95 % intervals of the mean cosine between the
# embeddings of the exported swap and of PyTorch's, and of the mean PSNR of the swaps. Retrieval turns on single pairs.
MIN_COSINE, MIN_PSNR_DB = 0.9, 25.0


def run(exp: Experiment, accelerator, tracker) -> Stage:
    selected = targets.chosen(exp.export.to, exp.export.precisions)
    earlier = exp.stages[: exp.stages.index("export")]
    inputs = {
        "train": upstream(exp, "train"), "wanted": selected, "recogniser": exp.eval.recogniser, "pairs": exp.eval.pairs,
        "eval": upstream(exp, "eval") if "eval" in earlier else None,  # the card repeats its values
    }  # fmt: skip
    if "web" in dict(selected) and (detector := find_detector(exp, announce=False)):  # else the page takes crops alone
        inputs["detector"] = sha256(detector)
    stage = open_stage(exp, "export", inputs, accelerator, redo=True, outputs=("card.json",))
    if stage.done:
        accelerator.print(f"  finished before: {stage.folder}")
    elif accelerator.is_main_process:
        student = swappers.load_student(exp.folder / "train" / "student.safetensors", exp)
        pairs, metrics = first_pairs(lists.test_pairs(exp)[0]), exp.folder / "eval" / "metrics.json"
        with folder_lock(stage.folder):  # `python -m distill.export` writes there, too
            content = export(student, pairs, selected, stage.folder, exp, metrics, replace_others=True)
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
    selected: Sequence[tuple[str, str]],
    folder: Path,
    exp: Experiment | None = None,
    metrics: Path | None = None,
    replace_others: bool = False,
) -> dict[str, Any]:
    """Export a student to every selected (target, precision), run each file and compare it. Returns the content of
    card.json, which is written after each target.

    Finished exports of the same student, compared on the same pairs, are kept and stay in the card. `replace_others`
    deletes other exports. exp: names the recogniser that measures identity, and the folders of weights; without it, for
    a student with untrained weights, identity is not measured. metrics: a metrics.json; the card repeats its row of the
    student.

    Raises ValueError where a target cannot express the student or its file differs from PyTorch, but only after all
    targets are tried. Raises ConfigError where the folder holds other exports, or where the student and the pairs have
    different sizes.
    """
    side = student.generator.options["resolution"]
    if pairs.resolution != side:
        raise ConfigError(f"{student.name}: works on {side} pixels, the pairs '{pairs.name}' have {pairs.resolution}")
    reference = equality.Reference(student, to_float(pairs.source), to_float(pairs.target))
    identity = Identity(exp, pairs, reference.swaps) if exp else None
    detector = find_detector(exp) if exp and "web" in dict(selected) else None
    origin = digest([student.weight_hash, reference.hash, identity.key if identity else None])
    job = _Job(student, models(student), reference, identity, origin, detector)
    refused: dict[str, str] = {}
    pytorch = identity.pytorch if identity else {}
    facts = {"pytorch": pytorch, "folding": equality.folding(student, reference), "refused": refused}
    measured = read_record(metrics)["rows"].get(student.name) if metrics and metrics.is_file() else None
    rows = _finished(folder, origin, replace_others)
    known = [(name, precision) for name, target in targets.TARGETS.items() for precision in target.precisions]
    for choice in selected:
        try:
            rows[choice] = _export_one(*choice, job, folder)
        except (ValueError, ImportError) as error:
            reason = _lacking(choice[0], error) if isinstance(error, ImportError) else str(error)
            if reason not in refused.values():  # a missing package concerns every precision
                print(f"  refused: {reason}", flush=True)
            refused["-".join(choice)] = reason
        if rows:
            content = card(student, pairs, [rows[key] for key in known if key in rows], facts, measured)
            write_record(folder / "card.json", content)
            write_text(folder / "equality.md", table(content))
    if refused:
        raise ValueError("; ".join(dict.fromkeys(refused.values())))
    return content


def _lacking(name: str, error: ImportError) -> str:
    """What to do about a package that the converter of a target itself imports, and that is absent or does not load."""
    detail = str(error).partition("\n")[0]
    install = terminal.install(targets.TARGETS[name].extra)
    return f"exporting to {name}: one of its packages does not load ({detail}): {install}"


def first_pairs(pairs: Pairs) -> Pairs:
    """The pairs of the comparison."""
    return pairs.subset(list(range(min(PAIRS, len(pairs)))))


def synthetic_pairs(side: int, count: int = PAIRS) -> Pairs:
    """`count` pairs of synthetic people, drawn at `side` pixels."""
    with tempfile.TemporaryDirectory() as folder:
        people = [("data.test_people", PAIRS), ("data.resolution", side)]
        exp = config.default("export", [("runs", folder), ("eval.pairs", count), *people])
        synthetic.write(exp.folder / "data", {"test": (PAIRS, 2)}, side, exp.seed)
        return lists.test_pairs(exp)[0]


def find_detector(exp: Experiment, announce: bool = True) -> Path | None:
    """The file of the face detector for the web page; None, with a message, where it is in no folder of weights."""
    try:
        return weights.find(faces.YUNET, exp.weights)
    except weights.WeightsError as error:
        if announce:
            print(f"  web: the page will take aligned crops only: {error}")
        return None


class Identity:
    """Measures identity in swaps of some pairs, with a recogniser that did not train the student.

    expected: PyTorch's swaps (N, 3, R, R) in [-1, 1] of the pairs; `pytorch` holds their values. Raises ConfigError,
    WeightsError.
    """

    def __init__(self, exp: Experiment, pairs: Pairs, expected: Tensor) -> None:
        exp = replace(exp, eval=replace(exp.eval, metrics=("id_retrieval", "id_similarity")))
        self.evaluation = Evaluation(pairs, build.estimators(exp))
        self.recogniser = self.evaluation.estimators.need("recogniser")
        self.key = [pairs.hash, self.recogniser.as_dict()]
        self.expected, self.embeddings = expected, self.recogniser(expected)
        self.pytorch = self.measure(expected)

    def measure(self, swaps: Tensor) -> dict[str, float]:
        """The values of swaps (N, 3, R, R) in [-1, 1], by key."""
        values = self.evaluation.measure("export", ["id_retrieval", "id_similarity"], swaps=to_uint8(swaps))
        return {
            "id_top1_percent": values["id_retrieval_top1_pct"].value,
            "id_similarity": values["id_similarity_source"].value,
            "same_as_pytorch": float((self.recogniser(swaps) * self.embeddings).sum(1).mean()),
        }

    def closeness(self, swaps: Tensor) -> dict[str, tuple[float, float]]:
        """The 95 % intervals of means over pairs: "cosine" of swaps (N, 3, R, R) to PyTorch's, their "psnr_db"."""
        cosine = (self.recogniser(swaps) * self.embeddings).sum(1)
        square = (swaps - self.expected).double().square().mean((1, 2, 3)).clamp(min=1e-10)
        psnr_db = 10 * torch.log10(4 / square)  # from -1 to 1
        values = {"cosine": cosine, "psnr_db": psnr_db}
        return {key: intervals.bootstrap(value.double().numpy()) for key, value in values.items()}


@dataclass(frozen=True)
class _Job:
    """The inputs of every target. origin: their hash; exports with another hash have another student, other pairs or
    another recogniser."""

    student: students.StudentSwapper
    models: Mapping[str, Model]
    reference: equality.Reference
    identity: Identity | None
    origin: str
    detector: Path | None


def _finished(folder: Path, origin: str, replace_others: bool) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of finished exports of this origin by target and precision."""
    rows = {}
    for path in sorted(folder.glob("*/proof.json")):
        place, record = path.parent, read_record(path)
        row = record["row"]
        if record["of"] == origin and _intact(place, row):
            rows[row["target"], row["precision"]] = row
        elif record["of"] == origin:
            print(f"  {place}: left out, its files changed since they were compared; export it again")
        elif replace_others:
            shutil.rmtree(place)
        else:
            raise ConfigError(
                f"{folder}: holds exports of another student, or compared on other pairs or by another recogniser "
                f"({place.name} ...); name another folder with --out, or delete that one"
            )
    return rows


def _intact(place: Path, row: Mapping[str, Any]) -> bool:
    """Whether all files of an export are as they were written."""
    files = {place / name: digits for facts in row["models"].values() for name, digits in facts["files"].items()}
    return all(file.is_file() and sha256(file) == digits for file, digits in files.items())


def _export_one(name: str, precision: str, job: _Job, folder: Path) -> dict[str, Any]:
    """Export one target at one precision. Its folder appears when every file in it is compared."""
    target, place = targets.check(name, precision), folder / f"{name}-{precision}"
    targets.check_packages(name)
    versions = {k: v for k, v in environment().items() if k not in ("commit", "threads")}
    detector_hash = sha256(job.detector) if name == "web" and job.detector else None
    key = digest([job.origin, name, precision, versions, detector_hash])
    record = place / "proof.json"
    if record.is_file() and (before := read_record(record))["key"] == key and _intact(place, before["row"]):
        return before["row"]
    print(f"  {name} {precision}", flush=True)
    encoder = job.student.identity_encoder
    metadata = {
        "student": job.student.name,
        "identity_encoder": encoder.card.name,
        "identity_encoder_hash": encoder.weight_hash,
    }
    with whole_folder(place) as temporary, quiet():
        temporary.mkdir()
        compared = equality.compare(job.models, job.reference, target, precision, temporary, metadata, job.detector)
        identity = job.identity.measure(compared.swaps()) if job.identity else {}
        row = {
            "target": name, "precision": precision, "runs_in": target.runs_in, "folder": place.name,
            "feed": target.feed,
            "max_abs": max(facts.get("max_abs", 0) for facts in compared.facts.values()),
            "mb": {model: facts["bytes"] / 1e6 for model, facts in compared.facts.items()},
            "models": compared.facts, **identity,
        }  # fmt: skip
        if precision == "int8" and job.identity:
            row["int8"] = job.identity.closeness(compared.swaps())
            _check_int8(row, job.identity.pytorch, place)
            if compared.whole is not None:  # converted on its own
                _check_int8({**row, "int8": job.identity.closeness(compared.whole)}, job.identity.pytorch, place)
        write_record(temporary / "proof.json", {"of": job.origin, "key": key, "row": row})
    return row


def _check_int8(row: Mapping[str, Any], pytorch: Mapping[str, float], place: Path) -> None:
    """Raise Unequal where int8 changes identity or pictures too much. A list of one pair has no interval: refused."""
    lower = {key: interval[0] if interval else float("nan") for key, interval in row["int8"].items()}
    if not (lower["cosine"] >= MIN_COSINE and lower["psnr_db"] >= MIN_PSNR_DB):  # `not >=` also refuses NaN
        raise equality.Unequal(
            f"{place.name}: the cosine of its swaps to PyTorch's is {row['same_as_pytorch']:.3f}, at least "
            f"{lower['cosine']:.3f} (allowed: {MIN_COSINE:g}), their PSNR at least {lower['psnr_db']:.1f} dB (allowed: "
            f"{MIN_PSNR_DB:g}); ID retrieval is {row['id_top1_percent']:.1f} %, {pytorch['id_top1_percent']:.1f} % in "
            f"PyTorch: use fp16; no int8 file is kept"
        )
