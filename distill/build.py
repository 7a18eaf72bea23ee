"""Experiment -> networks by name, with verified weights: what rooms do not know of each other meets here.

Errors name the key of the experiment and list what is known.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open

import eval as measuring
import students
import teachers
from distill.config import ConfigError, Experiment
from distill.schema import Teacher
from eval import rulers as judges
from students.export import targets
from students.identity_encoder import CARDS as ENCODERS
from students.identity_encoder import IdentityEncoder, load_identity_encoder
from swapcore import weights
from teachers import faceshifter

OUTPUTS = {"recogniser": "embedding"}  # what a ruler of a role gives, where it is called otherwise
# Files that a teacher reads where the experiment names none, by card.
DEFAULT_WEIGHTS = {"landmark_warp": {"landmarks": "3ddfa_v2_mb05"}}


def check_names(exp: Experiment) -> None:
    """Find every network, option and weight file that the stages will ask for, before hours go into the first."""
    stages = set(exp.stages)
    if stages & {"pseudo_gt", "train", "eval"}:
        encoder = identity_encoder(exp)
        (aei_net if exp.student.name == "faceshifter" else student)(exp, encoder)
    if "eval" in stages:
        check_judge(exp, exp.student.identity_encoder, "student.identity_encoder")
        trains = exp.loss.perceptual > 0 and exp.loss.perceptual_network == "lpips"
        if trains and "lpips" in exp.eval.metrics and exp.eval.perceptual == "lpips_alex":
            raise ConfigError(
                "eval.perceptual: 'lpips_alex' is also what loss.perceptual_network trains on; a network must not "
                "judge what it trained: take lpips_squeeze or lpips_vgg"
            )
        rulers(exp)
    if "export" in stages:
        try:
            targets.chosen(exp.export.to, exp.export.precisions)
        except ValueError as error:
            raise ConfigError(f"export: {error}") from None
        rulers(replace(exp, eval=replace(exp.eval, metrics=("id_retrieval",))))
    if "pseudo_gt" in stages:
        quality_rulers(exp)
        for spec in exp.pseudo_gt.teachers:
            teacher_files(spec, exp)


def identity_encoder(exp: Experiment, name: str | None = None) -> IdentityEncoder:
    """The frozen encoder whose embeddings the student is given: the experiment's, or the one of that name."""
    return _encoder(name or exp.student.identity_encoder, exp, "student.identity_encoder")


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


def check_judge(exp: Experiment, trainer: str, where: str) -> None:
    """Raise ConfigError where the recogniser is the identity encoder `trainer`, which `where` was trained with."""
    if exp.eval.recogniser == trainer:
        raise ConfigError(
            f"eval.recogniser: '{exp.eval.recogniser}' is also the identity encoder of {where}; a network must not "
            f"judge what it trained. Known recognisers: {', '.join(_known('embedding'))}"
        )


def rulers(exp: Experiment) -> measuring.Rulers:
    """The networks that judge, those that the metrics of `exp` need. Raises ConfigError, WeightsError."""
    for metric in exp.eval.metrics:
        if metric not in measuring.METRICS:
            raise ConfigError(f"eval.metrics: unknown metric '{metric}'; known: {', '.join(measuring.METRICS)}")
    found = {}
    for role in {measuring.NEEDS[metric] for metric in exp.eval.metrics if metric in measuring.NEEDS}:
        name, key = getattr(exp.eval, role), f"eval.{role}"
        if name is None:
            wanting = ", ".join(m for m in exp.eval.metrics if measuring.NEEDS.get(m) == role)
            known = ", ".join(_known(OUTPUTS.get(role, role)))
            raise ConfigError(f"{key}: null, but {wanting} of eval.metrics needs one; known: {known}")
        found[role] = _recogniser(name, exp, key) if role == "recogniser" else _judge(name, role, exp, key)
    if exp.eval.flip and "recogniser" in found:
        found["recogniser"] = judges.mirrored(found["recogniser"])
    return measuring.Rulers(**found)


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
        raise ConfigError(f"{key}: unknown ruler '{name}'; known: {', '.join(_known(output))}")
    paths = [weights.find(card, exp.weights) for card in judges.CARDS[name].files]
    return judges.load_ruler(name, paths, output)


def _known(output: str) -> list[str]:
    """Names of the cards that give an output; recognisers may be identity encoders too."""
    cards = [name for name, card in judges.CARDS.items() if output in card.outputs]
    return [*cards, *ENCODERS] if output == "embedding" else cards


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
