"""Build the networks that an experiment names, with verified weights: students, teachers and estimators.

Errors name the key of the experiment and list the known names.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

import students
import teachers
from distill.config import ConfigError, Experiment, check_weights
from distill.losses import checks
from distill.schema import Teacher
from distill.train.learners import LEARNERS, Learner, learner_of, refiner, shapes_alone
from eval import METRICS
from eval.cards import CARDS
from eval.estimators import Estimator, Estimators, load_estimator, mirrored
from students.export import targets
from students.identity_encoder import CARDS as ENCODERS
from students.identity_encoder import IdentityEncoder, load_identity_encoder
from swapcore import terminal, weights
from swapcore.onnx import content_sha256
from swapcore.weights import kinds
from teachers.landmarks import Landmarks

# role -> output of its estimator, where the names differ
OUTPUTS = {"recogniser": "embedding", "trained_encoder": "embedding"}
# architecture -> package, and the extra of setup.py that installs it
PACKAGES = {"lpips": ("lpips", None), "fsanet": ("onnxruntime", "onnx"), "inception": ("torch-fidelity", "fid")}
# teacher -> weight files used where the experiment names none: key -> name of a card
LANDMARKS = "3ddfa_v2_mb05"  # whose network also estimates landmarks
DEFAULT_WEIGHTS = {"landmark_warp": {"landmarks": LANDMARKS}}


def check_names(exp: Experiment) -> None:
    """Check every name, option and file that the stages need, before the first stage runs. No weights are loaded.

    Raises ConfigError, WeightsError.
    """
    check_weights(exp.weights)
    stages, chosen, cards = set(exp.stages), [], []
    refined = [name for name, kinds in LEARNERS.items() if "refine" in kinds]
    if "refine" in stages and exp.student.name not in refined:
        raise ConfigError(f"student.name: expected {' or '.join(refined)} for stage `refine`, got '{exp.student.name}'")
    if stages & {"pseudo_gt", "train", "eval"}:
        cards.append(_encoder_card(exp.student.identity_encoder, "student.identity_encoder"))
        with shapes_alone():
            made = learner(exp, IdentityEncoder(ENCODERS[exp.student.identity_encoder]))
            trained = checks.cards(exp.loss, "loss", made.net, exp.distil.gram > 0)
            cards += trained if "train" in stages else []
            try:
                if exp.train.small_steps:
                    made.set_resolution(made.net, exp.train.small_resolution)
            except ValueError as error:
                raise ConfigError(f"train.small_steps: {error}") from None
            refined = refiner(exp.refine.options) if "refine" in stages else None
            later = checks.cards(exp.refine.loss, "refine.loss", refined) if refined else []
            cards += later
    if "eval" in stages:
        check_recogniser(exp, exp.student.identity_encoder, "student.identity_encoder")
        chosen += _choices(exp, exp.eval.metrics).values()
        checks.trains_no_metric([*trained, *later], {choice.key: _cards(choice) for choice in chosen})
        teachers_here = [*exp.pseudo_gt.teachers, *filter(None, [exp.distil.online])]
        rows = ["copy-target", "copy-source", "exact", *map(label, teachers_here), exp.student.name]
        rows += [f"{exp.student.name}-refined"] if "refine" in stages else []
        if exp.eval.reference not in (None, *rows):
            raise ConfigError(f"eval.reference: no swapper '{exp.eval.reference}' here; known: {', '.join(rows)}")
    if "export" in stages:
        if exp.student.name in LEARNERS:
            raise ConfigError(f"stages: export writes students; '{exp.student.name}' is a teacher: leave the stage out")
        try:
            targets.check_packages(*(name for name, _ in targets.chosen(exp.export.to, exp.export.precisions)))
        except ValueError as error:
            raise ConfigError(f"export: {error}") from None
        chosen += _choices(exp, ("id_retrieval",)).values()
    if "pseudo_gt" in stages:
        chosen += _quality_choices(exp).values()
        known = _cards_of_files()
        cards += [known[name] for spec in exp.pseudo_gt.teachers for name in _named(spec).values() if name in known]
    cards += [card for choice in chosen for card in _cards(choice)]
    weights.find_all(cards, exp.weights)
    for spec in exp.pseudo_gt.teachers if "pseudo_gt" in stages else ():
        teacher_files(spec, exp)
    if "train" in stages and exp.distil.online:
        teacher_files(exp.distil.online, exp, "distil.online")


def identity_encoder(
    exp: Experiment, name: str | None = None, key: str = "student.identity_encoder"
) -> IdentityEncoder:
    """The frozen identity encoder `name`, by default the experiment's. Raises ConfigError, WeightsError."""
    path = weights.find(_encoder_card(name or exp.student.identity_encoder, key), exp.weights)
    encoder = load_identity_encoder(name or exp.student.identity_encoder, path)
    encoder.weight_hash = weights.sha256(path)[:16]
    return encoder


def _encoder_card(name: str, key: str) -> weights.Card:
    if name not in ENCODERS:
        raise ConfigError(f"{key}: unknown identity encoder '{name}'; known: {', '.join(ENCODERS)}")
    return ENCODERS[name]


def learner(exp: Experiment, encoder: IdentityEncoder, stage: str = "train") -> Learner:
    """A new learner of a stage, for this experiment's resolution and encoder. Raises ConfigError.

    The learner of stage `refine` loads the file that stage `train` wrote.
    """
    kind, name = learner_of(exp.student.name, stage), exp.student.name
    if stage == "refine":
        file = exp.folder / "train" / learner_of(name).file
        first = teacher(Teacher(name, weights={"generator": str(file)}), exp, "refine")
        inputs, key = (first.to(next(encoder.parameters()).device), encoder, exp.refine.options), "refine.options"
    else:
        inputs, key = (name, encoder, exp.data.resolution, exp.student.options), "student.name, student.options"
    try:
        made = kind(*inputs)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {error}") from None
    if exp.student.weights and stage == "train":
        _start_from(exp.student.weights, made, name)
    return made


def _start_from(path: str, made: Learner, name: str) -> None:
    """Give a new student the weights of a trained one, of any resolution and identity encoder. Raises ConfigError.

    Where embeddings of the two encoders differ in size, the layers that read them keep their random weights.
    """
    key = f"student.weights: {path}"
    if name in LEARNERS:
        raise ConfigError(f"{key}: student.name is '{name}', a teacher, which always starts from random weights")
    try:
        with torch.device("cpu"):
            trained = students.load(path, expected=name)
    except (ValueError, OSError) as error:
        raise ConfigError(f"student.weights: {error}") from None
    free = ("resolution", "embedding_dim", "map_shape")  # the last two follow from the identity encoder
    differing = [k for k, value in trained.options.items() if k not in free and made.net.options[k] != value]
    if differing:
        raise ConfigError(f"{key}: its option {differing[0]} is {trained.options[differing[0]]!r}; set student.options")
    if hasattr(made.encoder, "weight_hash"):  # else networks without weights, for the check of names
        check_encoder(path, header_of(path), made.encoder)
        new = made.net.state_dict()
        made.net.load_state_dict({k: v if v.shape == new[k].shape else new[k] for k, v in trained.state_dict().items()})


def check_recogniser(exp: Experiment, trainer: str, where: str) -> None:
    """Raise ConfigError if the recogniser of `exp` is `trainer`, the identity encoder that trained `where`."""
    if exp.eval.recogniser == trainer:
        others = [name for name in _known("embedding") if name != trainer]
        raise ConfigError(
            f"eval.recogniser: '{exp.eval.recogniser}' is also the identity encoder of {where}; a network must not "
            f"evaluate what it trained. Other recognisers: {', '.join(others)}"
        )


class Choice(NamedTuple):
    """An estimator that the experiment names under `key`, for one of its outputs."""

    name: str
    output: str
    key: str


def estimators(exp: Experiment) -> Estimators:
    """The estimators that the metrics of `exp` need. Raises ConfigError, WeightsError."""
    check_weights(exp.weights)
    choices = _choices(exp, exp.eval.metrics)
    weights.find_all([card for choice in choices.values() for card in _cards(choice)], exp.weights)
    loaded = {role: _estimator(choice, exp) for role, choice in choices.items()}
    if exp.eval.flip and "recogniser" in loaded:
        loaded["recogniser"] = mirrored(loaded["recogniser"])
    return Estimators(**loaded)


def landmark_estimator(exp: Experiment) -> Estimator:
    """68 landmarks of canonical crops, (N, 68, 2) in fractions of the side, where the network sees them: they move as
    the face moves in its crop. NaN where there is no face. Raises WeightsError."""
    card = CARDS[LANDMARKS]
    path = weights.find(card.files[0], exp.weights)
    network = _Seen(path).eval().requires_grad_(False)
    return Estimator(network, f"{LANDMARKS} landmarks", weights.sha256(path)[:16], card.crop, card.colour_order)


class _Seen(torch.nn.Module):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.landmarks = Landmarks(path)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        points, is_face = self.landmarks.seen(images)
        return torch.where(is_face[:, None, None], points, torch.nan)


def _choices(exp: Experiment, metrics: Iterable[str]) -> dict[str, Choice]:
    """The estimators that metrics need, by role. Raises ConfigError."""
    choices = {}
    for metric in metrics:
        if metric not in METRICS:
            raise ConfigError(f"eval.metrics: unknown metric '{metric}'; known: {', '.join(METRICS)}")
        for role in METRICS[metric].roles:
            name = getattr(exp.eval, role)
            if role == "trained_encoder":
                name = name or exp.student.identity_encoder
            choice = Choice(name, OUTPUTS.get(role, role), f"eval.{role}")
            if choice.name is None:
                known = ", ".join(_known(choice.output))
                raise ConfigError(f"{choice.key}: null, but {metric} of eval.metrics needs one; known: {known}")
            choices[role] = choice
    if "trained_encoder" in choices and choices["trained_encoder"].name == exp.eval.recogniser:
        raise ConfigError(
            f"eval.trained_encoder: '{exp.eval.recogniser}' is also eval.recogniser; fooling_gap compares the encoder "
            f"that trained with another: name another eval.recogniser"
        )
    return choices


def quality_estimators(exp: Experiment) -> tuple[Estimator, Estimator | None]:
    """The recogniser and pose estimator (or None) that rate the teachers' swaps. Raises ConfigError, WeightsError."""
    loaded = {role: _estimator(choice, exp) for role, choice in _quality_choices(exp).items()}
    return loaded["recogniser"], loaded.get("pose")


def _quality_choices(exp: Experiment) -> dict[str, Choice]:
    """The same by role, not loaded. Raises ConfigError where one also evaluates: it must not measure its own choice."""
    quality = exp.pseudo_gt.quality
    names = {"recogniser": quality.recogniser or exp.student.identity_encoder, "pose": quality.pose}
    for role, name in names.items():
        if name is not None and name == getattr(exp.eval, role):
            raise ConfigError(
                f"pseudo_gt.quality.{role}: '{name}' is also eval.{role}; an estimator must not evaluate swaps that it "
                f"chose: name another estimator, or set the key to null"
            )
    return {r: Choice(n, OUTPUTS.get(r, r), f"pseudo_gt.quality.{r}") for r, n in names.items() if n}


def _estimator(choice: Choice, exp: Experiment) -> Estimator:
    paths = weights.find_all(_cards(choice), exp.weights)
    if choice.name not in ENCODERS:
        return load_estimator(choice.name, paths, choice.output)
    encoder = identity_encoder(exp, choice.name, choice.key)
    card = encoder.card
    return Estimator(encoder, card.name, encoder.weight_hash, crop=card.crop, colour_order=card.colour_order)


def _cards(choice: Choice) -> tuple[weights.Card, ...]:
    """The cards of an estimator's weight files. Raises ConfigError for an unknown name and for a missing package."""
    known = _known(choice.output)
    if choice.name not in known:
        problem = f"unknown estimator '{choice.name}'"
        if choice.name in CARDS:
            problem = f"'{choice.name}' gives {' and '.join(CARDS[choice.name].outputs)}, not '{choice.output}'"
        raise ConfigError(f"{choice.key}: {problem}; known: {', '.join(known)}")
    architecture = CARDS[choice.name].architecture if choice.name in CARDS else None
    package, extra = PACKAGES.get(architecture, (None, None))
    if package and find_spec(package.replace("-", "_")) is None:
        raise ConfigError(f"{choice.key}: '{choice.name}' needs the package {package}: {terminal.install(extra)}")
    return known[choice.name]


def packages_of(role: str) -> str:
    """The end of an option's help: which estimators of a role need a package of an extra."""
    output = OUTPUTS.get(role, role)
    cards = [card for card in CARDS.values() if output in card.outputs and PACKAGES.get(card.architecture, ("", ""))[1]]
    needs = [(card.name, *PACKAGES[card.architecture]) for card in cards]
    return "".join(f"; {name} needs {package}: {terminal.install(extra)}" for name, package, extra in needs)


def _known(output: str) -> dict[str, tuple[weights.Card, ...]]:
    """The cards of all estimators that have this output, by name. Identity encoders also count as recognisers."""
    cards = {name: card.files for name, card in CARDS.items() if output in card.outputs}
    return cards | ({name: (card,) for name, card in ENCODERS.items()} if output == "embedding" else {})


def teacher(spec: Teacher, exp: Experiment, key: str = "pseudo_gt.teachers") -> teachers.Teacher:
    """A frozen teacher with the files that its entry in the experiment names, their sha256 checked where given."""
    paths = teacher_files(spec, exp, key)
    options = dict(spec.options)
    encoder = options.get("identity_encoder") or next(filter(None, map(encoder_of, paths.values())), None)
    if encoder is not None:
        options["identity_encoder"] = identity_encoder(exp, encoder, f"{key}: identity_encoder of '{spec.name}'")
        for path in paths.values():
            check_encoder(path, header_of(path), options["identity_encoder"])
    try:
        return teachers.build(spec.name, paths, **options)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def teacher_files(spec: Teacher, exp: Experiment, key: str = "pseudo_gt.teachers") -> dict[str, Path]:
    """The paths of a teacher's files by their key, checked but not loaded. Raises ConfigError, WeightsError."""
    if spec.name not in teachers.TEACHERS:
        raise ConfigError(f"{key}: unknown teacher '{spec.name}'; known: {', '.join(teachers.TEACHERS)}")
    try:
        inspect.signature(teachers.TEACHERS[spec.name]).bind_partial(None, **spec.options)
    except TypeError as error:
        raise ConfigError(f"{key}: options of '{spec.name}': {error}") from None
    named = _named(spec)
    for part in spec.sha256:
        if part not in named:
            raise ConfigError(f"{key}: sha256.{part}: there is no weights.{part}; name the file there")
    paths, problems = {}, []
    for part, name in named.items():
        try:
            paths[part] = _file(name, spec.sha256.get(part), exp, f"{key}: weights.{part}")
        except ConfigError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))
    return paths


def teacher_contents(spec: Teacher, exp: Experiment, key: str = "pseudo_gt.teachers") -> dict[str, Any]:
    """The options and the sha256 of the files of a teacher, which is not loaded. Raises ConfigError, WeightsError."""
    files = teacher_files(spec, exp, key)
    hashes = {
        part: (content_sha256 if path.suffix == ".onnx" else weights.sha256)(path) for part, path in files.items()
    }
    return {"name": spec.name, "options": spec.options, "files": hashes}


def _named(spec: Teacher) -> dict[str, str]:
    """The names of a teacher's files by their key: paths, or names of cards."""
    return {**DEFAULT_WEIGHTS.get(spec.name, {}), **spec.weights}


def _cards_of_files() -> dict[str, weights.Card]:
    return {**CARDS, **ENCODERS}


def label(spec: Teacher) -> str:
    """The name of a teacher in tables."""
    return spec.label or spec.name


def _file(name: str, sha256: str | None, exp: Experiment, key: str) -> Path:
    """The file of a card or of a path; a path may be relative to a folder of weights."""
    cards = _cards_of_files()
    if name in cards:
        return weights.find(cards[name], exp.weights)
    folders = weights.search_folders(exp.weights)
    path = next(
        (p for p in (Path(os.path.expanduser(name)), *(folder / name for folder in folders)) if p.is_file()), None
    )
    if path is None:
        raise ConfigError(
            f"{key}: {name} is no file here or in {', '.join(map(str, folders))}, and no card "
            f"({', '.join(cards)}); get the file from its authors, or from the run that trains it, and name its path"
        )
    if sha256 and not weights.sha256(path).startswith(sha256.lower()):
        raise ConfigError(
            f"{key}: {path}: sha256 is {weights.sha256(path)}, expected {sha256}: the file is damaged, or another one"
        )
    if kinds.kind_of(path).remedy:  # a web page or part of a file; loading it would stop the run hours later
        raise ConfigError(f"{key}: {kinds.refusal(path, 'weights')}")
    return path


def encoder_of(path: str | Path) -> str | None:
    """The identity encoder that the metadata of a .safetensors file names, or None."""
    return header_of(path).get("identity_encoder")


def check_encoder(path: str | Path, header: Mapping[str, str], encoder: IdentityEncoder) -> None:
    """Raise ConfigError where the metadata of a network say that it was trained with an encoder of this name, but of
    other weights, such as those of older synthetic faces: its embeddings would mean nothing to the network."""
    before = header.get("identity_encoder_hash", encoder.weight_hash)
    if header.get("identity_encoder") == encoder.card.name and before != encoder.weight_hash:
        raise ConfigError(
            f"{path}: identity_encoder_hash: trained with weights {before} of '{encoder.card.name}', this version has "
            f"{encoder.weight_hash}; train it again, or use the version of this project that trained it"
        )


def header_of(path: str | Path) -> dict[str, str]:
    """The metadata of a .safetensors file; empty for other and damaged files."""
    if Path(path).suffix != ".safetensors":
        return {}
    try:
        return weights.read_header(path)
    except ValueError:
        return {}  # the loader of the network reports the damage
