"""Experiment -> networks by name, with verified weights: what rooms do not know of each other meets here.

Errors name the key of the experiment and list what is known.
"""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

import eval as measuring
import students
import teachers
from distill import weights
from distill.config import ConfigError, Experiment
from distill.schema import Teacher
from eval import rulers as judges
from students.identity_encoder import CARDS as ENCODERS
from students.identity_encoder import IdentityEncoder, load_identity_encoder
from teachers import faceshifter

# Files that a teacher reads where the experiment names none, by card.
DEFAULT_WEIGHTS = {"landmark_warp": {"landmarks": "3ddfa_v2_mb05"}}


def check_names(exp: Experiment) -> None:
    """Find every network, option and weight file that the stages will ask for, before hours go into the first."""
    stages = set(exp.stages)
    if stages & {"pseudo_gt", "train", "eval"}:
        encoder = identity_encoder(exp)
        (aei_net if exp.student.name == "faceshifter" else student)(exp, encoder)
    if "eval" in stages:
        rulers(exp)
        for metric in exp.eval.metrics:
            if metric not in measuring.METRICS:
                raise ConfigError(f"eval.metrics: unknown metric '{metric}'; known: {', '.join(measuring.METRICS)}")
    if "pseudo_gt" in stages:
        quality_rulers(exp)
        for spec in exp.pseudo_gt.teachers:
            teacher_files(spec, exp)


def identity_encoder(exp: Experiment) -> IdentityEncoder:
    """The frozen encoder whose embeddings the student is given."""
    return _encoder(exp.student.identity_encoder, exp, "student.identity_encoder")


def _encoder(name: str, exp: Experiment, key: str) -> IdentityEncoder:
    if name not in ENCODERS:
        raise ConfigError(f"{key}: unknown identity encoder '{name}'; known: {', '.join(ENCODERS)}")
    path = weights.find(ENCODERS[name], exp.weights)
    encoder = load_identity_encoder(name, path)
    encoder.weight_hash = weights.sha256(path)[:16]
    return encoder


def student(exp: Experiment, encoder: IdentityEncoder):
    """A new student for this experiment's resolution and encoder."""
    own = {"resolution": exp.data.resolution, "embedding_dim": encoder.card.embedding_dim}
    try:
        if getattr(students.STUDENTS.get(exp.student.name), "needs_map", False):
            own["map_shape"] = list(encoder.map_shape)
        return students.build(exp.student.name, **{**own, **exp.student.options})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"student.name, student.options: {error}") from None


def aei_net(exp: Experiment, encoder: IdentityEncoder):
    """A new first stage of FaceShifter for this experiment's resolution and encoder: student.name faceshifter."""
    own = {"resolution": exp.data.resolution, "embedding_dim": encoder.card.embedding_dim}
    try:
        return faceshifter.AEINet(**{**own, **exp.student.options})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"student.options: {error}") from None


def rulers(exp: Experiment):
    """The networks that judge. Raises ConfigError where one of them is the one that trains."""
    if exp.eval.recogniser == exp.student.identity_encoder:
        raise ConfigError(
            f"eval.recogniser: '{exp.eval.recogniser}' is also student.identity_encoder; a network must not judge what "
            f"it trained. Known recognisers: {', '.join([*judges.CARDS, *ENCODERS])}"
        )
    recogniser = _recogniser(exp.eval.recogniser, exp, "eval.recogniser")
    pose = _judge(exp.eval.pose, "pose", exp, "eval.pose") if exp.eval.pose else None
    expression = _judge(exp.eval.expression, "expression", exp, "eval.expression") if exp.eval.expression else None
    return measuring.Rulers(recogniser, pose, expression)


def quality_rulers(exp: Experiment):
    """(recogniser, pose or None) that say what a teacher's swap is worth. Raises ConfigError where one of them
    is the one that evaluates: what was chosen by a judge is not judged by it."""
    quality = exp.pseudo_gt.quality
    name = quality.recogniser or exp.student.identity_encoder
    for key, chosen, judging in (
        ("recogniser", name, exp.eval.recogniser),
        ("pose", quality.pose, exp.eval.pose),
    ):
        if chosen is not None and chosen == judging:
            raise ConfigError(
                f"pseudo_gt.quality.{key}: '{chosen}' is also eval.{key}, and would judge what it has chosen; "
                f"take another, or set it to null"
            )
    recogniser = _recogniser(name, exp, "pseudo_gt.quality.recogniser")
    return recogniser, _judge(quality.pose, "pose", exp, "pseudo_gt.quality.pose") if quality.pose else None


def _recogniser(name: str, exp: Experiment, key: str):
    if name in ENCODERS:
        encoder = _encoder(name, exp, key)
        return judges.Ruler(encoder, name=encoder.card.name, weight_hash=encoder.weight_hash)
    return _judge(name, "embedding", exp, key)


def _judge(name: str, output: str, exp: Experiment, key: str):
    if name not in judges.CARDS:
        known = [*judges.CARDS, *ENCODERS] if output == "embedding" else list(judges.CARDS)
        raise ConfigError(f"{key}: unknown ruler '{name}'; known: {', '.join(known)}")
    paths = [weights.find(card, exp.weights) for card in judges.CARDS[name].files]
    return judges.load_ruler(name, paths, output)


def teacher(spec: Teacher, exp: Experiment, key: str = "pseudo_gt.teachers") -> teachers.Teacher:
    """A frozen teacher with the files that its entry in the experiment names, their sha256 checked where given."""
    paths = teacher_files(spec, exp, key)
    options = dict(spec.options)
    encoder = options.get("identity_encoder") or next(filter(None, map(_encoder_of, paths.values())), None)
    if encoder is not None:
        options["identity_encoder"] = _encoder(encoder, exp, f"{key}: identity_encoder of '{spec.name}'")
    try:
        built = teachers.build(spec.name, paths, **options)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    if encoder is not None:
        built.facts["identity_encoder"] = options["identity_encoder"].weight_hash
    return built


def teacher_files(spec: Teacher, exp: Experiment, key: str = "pseudo_gt.teachers") -> dict[str, Path]:
    """The files of a teacher's entry, found and checked, without loading them. Raises ConfigError, WeightsError."""
    if spec.name not in teachers.TEACHERS:
        raise ConfigError(f"{key}: unknown teacher '{spec.name}'; known: {', '.join(teachers.TEACHERS)}")
    named = {**DEFAULT_WEIGHTS.get(spec.name, {}), **spec.weights}
    for part in spec.sha256:
        if part not in named:
            raise ConfigError(f"{key}: sha256.{part}: there is no weights.{part}")
    return {part: _file(name, spec.sha256.get(part), exp, f"{key}: weights.{part}") for part, name in named.items()}


def label(spec: Teacher) -> str:
    """What tables call a teacher."""
    return spec.label or spec.name


def _file(name: str, sha256: str | None, exp: Experiment, key: str) -> Path:
    """The file of a card, or a path: as it is or in one of the weight folders."""
    cards = {**judges.CARDS, **ENCODERS}
    if name in cards:
        return weights.find(cards[name], exp.weights)
    folders = weights.search_folders(exp.weights)
    path = next((p for p in (Path(name), *(folder / name for folder in folders)) if p.is_file()), None)
    if path is None:
        raise ConfigError(
            f"{key}: {name} is no file here or in {', '.join(map(str, folders))}, and no card "
            f"({', '.join(cards)}); get the file from its authors, or from the run that trains it, and name its path"
        )
    if sha256 and not weights.sha256(path).startswith(sha256.lower()):
        raise ConfigError(
            f"{key}: {path}: sha256 is {weights.sha256(path)}, expected {sha256}: damaged or another file"
        )
    return path


def _encoder_of(path: Path) -> str | None:
    """The identity encoder that a teacher trained here names in its file."""
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("identity_encoder")
    except SafetensorError:
        return None  # the teacher's own loader tells what is wrong with it
