"""YAML -> Experiment: frozen, typed, complete.

Every error names the file, the key, what was expected and the nearest known key.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

STAGES = ("data", "pseudo_gt", "train", "eval", "report")


class ConfigError(ValueError):
    """A mistake in an experiment file or an override; the message is one line that says what to change."""


@dataclass(frozen=True)
class Data:
    """Aligned crops on disk: drawn (`synthetic`) or photographed (`photos`)."""

    kind: Literal["synthetic", "photos"] = "synthetic"
    resolution: int = 256  # pixels, height = width of every crop
    photos: str | None = None  # folder with one subfolder per person, or flat
    heldout: str | None = None  # folder of other people for evaluation; none: `test_people` of `photos` are held out
    min_size: int = 64  # pixels; smaller photographs are skipped and reported
    train_people: int = 2000  # synthetic only
    val_people: int = 8  # shown in previews while training
    test_people: int = 64  # the gallery: synthetic, or photographs where `heldout` is not given
    train_images: int = 2  # per synthetic person
    test_images: int = 4
    cache_gb: float = 4.0  # decoded images kept in memory per process, while they fit
    workers: int = 1  # loader processes per training process


@dataclass(frozen=True)
class PseudoGT:
    """Frozen teachers swap pairs; what they make is written as tar shards."""

    teachers: tuple[str, ...] = ("exact",)  # each pair goes to one of them, in turn
    pairs: int = 4000
    shard_size: int = 500  # pairs per tar file
    batch_size: int = 16
    min_id_similarity: float | None = None  # swaps whose cosine to the source is lower are dropped and counted


@dataclass(frozen=True)
class Student:
    """The network that goes on the phone, and the frozen encoder it is given embeddings by."""

    name: str = "mobilefsgan"
    options: dict[str, Any] = field(default_factory=dict)
    identity_encoder: str = "synthetic_identity"


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of training samples; they need not sum to one."""

    pseudo_gt: float = 1.0  # source, target and the teacher's swap
    same_photo: float = 0.0  # one photograph twice, the source disturbed; GT = target
    same_person: float = 0.0  # two photographs of one person; GT = target
    pair: float = 0.0  # two people, no GT


@dataclass(frozen=True)
class Train:
    """The loop. One step = `batch_size` samples on each process, times `accumulation`."""

    steps: int = 10000
    batch_size: int = 16
    accumulation: int = 1
    lr: float = 1e-4
    lr_discriminator: float = 1e-4
    betas: tuple[float, float] = (0.0, 0.999)
    warmup_steps: int = 0
    lr_final: float = 1.0  # cosine decay of lr to this share of it at the last step; 1 = constant
    grad_clip: float = 10.0  # L2 norm
    ema: float = 0.999  # decay per step, shorter at the start; 0 = off
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    sync_batch_norm: bool = True
    flip: bool = False  # mirror whole triplets at random
    mix: Mix = Mix()
    checkpoint_steps: int = 500
    log_steps: int = 20
    preview_steps: int = 500


@dataclass(frozen=True)
class Loss:
    """Weights, largest scale first (full, half, quarter); 0 switches a term off and saves its time."""

    adversarial: tuple[float, float, float] = (1.0, 0.02, 0.02)
    identity: tuple[float, float, float] = (20.0, 20.0, 20.0)
    identity_margin: float = 0.02
    reconstruction: tuple[float, float, float] = (10.0, 0.0, 0.0)
    perceptual: float = 4.0
    perceptual_network: str = "identity_encoder"  # or squeezenet, vgg16, lpips: distill/perceptual.py
    discriminator: dict[str, Any] = field(default_factory=dict)  # options of the network


@dataclass(frozen=True)
class Eval:
    """Fixed pairs of held-out people, and the rulers that judge; none of them takes part in training."""

    pairs: int = 256
    metrics: tuple[str, ...] = (
        "id_retrieval",
        "id_similarity",
        "pose_error",
        "expression_error",
        "exact_match",
        "size_mb",
        "latency_ms",
    )
    recogniser: str = "synthetic_recogniser"
    pose: str | None = "synthetic_pose"
    expression: str | None = "synthetic_pose"
    batch_size: int = 32
    pictures: int = 8  # rows of the grid in the report


@dataclass(frozen=True)
class Tracking:
    """Where MLflow keeps the run; `none` keeps only the files."""

    uri: str = "sqlite:///mlflow.db"
    experiment: str = "swapdistill"


@dataclass(frozen=True)
class Experiment:
    """One YAML, resolved. `name` is the folder under `runs`."""

    name: str
    seed: int = 0
    runs: str = "runs"
    threads: int = 0  # CPU threads per process; 0 = the cores of this machine, shared by its processes
    stages: tuple[str, ...] = STAGES
    weights: tuple[str, ...] = ()  # folders searched for downloaded weights, before $SWAPDISTILL_WEIGHTS and the cache
    data: Data = Data()
    pseudo_gt: PseudoGT = PseudoGT()
    student: Student = Student()
    train: Train = Train()
    loss: Loss = Loss()
    eval: Eval = Eval()
    tracking: Tracking = Tracking()

    @property
    def folder(self) -> Path:
        return Path(self.runs) / self.name


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Experiment:
    """Read an experiment file; each override is `section.key=value`, its value in YAML. Raises ConfigError."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such experiment file{_nearest(str(path), known)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from None
    tree = _parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, got {_describe(tree)}")
    tree.setdefault("name", path.stem)
    for override in overrides:
        _override(tree, override)
    experiment = _build(Experiment, tree, "", str(path))
    _check(experiment, str(path))
    return experiment


def to_dict(config: Any) -> Any:
    """Experiment or section -> plain dicts, lists and scalars that YAML and JSON can hold."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, tuple | list):
        return [to_dict(v) for v in config]
    return config


def dump(experiment: Experiment) -> str:
    return yaml.safe_dump(to_dict(experiment), sort_keys=False, default_flow_style=None, width=120)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def _override(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override '{override}': expected section.key=value, for example train.steps=100")
    *parents, leaf = key.split(".")
    for parent in parents:
        node = tree.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"override '{override}': '{parent}' is {_describe(node)}, not a section")
        tree = node
    tree[leaf] = _parse_yaml(value, f"override '{override}'")


def _build(cls: type, tree: Any, prefix: str, where: str) -> Any:
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: {prefix or 'the file'}: expected a section of keys, got {_describe(tree)}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if key not in fields:
            raise ConfigError(f"{where}: {name}: unknown key{_nearest(str(key), list(fields))}")
        values[key] = _convert(hints[key], value, name, where)
    return cls(**values)


def _convert(hint: Any, value: Any, name: str, where: str) -> Any:
    """Check one value against its type; the only conversions are int -> float, `1e-4` -> float and list -> tuple."""
    wrong = ConfigError(f"{where}: {name}: expected {_expected(hint)}, got {_describe(value)}")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value if value is not None else {}, name, where)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, name, where)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: {name}: expected {_expected(hint)}, got {_describe(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise wrong
        if arguments[-1] is Ellipsis:
            return tuple(_convert(arguments[0], v, f"{name}[{i}]", where) for i, v in enumerate(value))
        if len(value) != len(arguments):
            raise wrong
        return tuple(
            _convert(a, v, f"{name}[{i}]", where) for i, (a, v) in enumerate(zip(arguments, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise wrong
        return value
    if hint is float and not isinstance(value, bool):
        try:  # PyYAML reads 1e-4 as text
            number = float(value)
        except (TypeError, ValueError):
            raise wrong from None
        if not math.isfinite(number):
            raise wrong
        return number
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    raise wrong


def _check(exp: Experiment, where: str) -> None:
    """What types cannot say. Names of students, teachers and metrics are checked by their registries."""

    def require(condition: bool, key: str, expected: str) -> None:
        if not condition:
            value: Any = exp
            for part in key.split("."):
                value = getattr(value, part)
            raise ConfigError(f"{where}: {key}: expected {expected}, got {value!r}")

    require(exp.name not in ("", ".", "..") and "/" not in exp.name and "\\" not in exp.name, "name", "a folder name")
    for stage in exp.stages:
        if stage not in STAGES:
            raise ConfigError(f"{where}: stages: unknown stage '{stage}'{_nearest(stage, STAGES)}")
    require(exp.data.resolution >= 32 and exp.data.resolution % 32 == 0, "data.resolution", "a multiple of 32")
    require(exp.data.kind != "photos" or exp.data.photos is not None, "data.photos", "a folder (data.photos=FOLDER)")
    for key in ("data.train_people", "data.train_images", "pseudo_gt.pairs", "pseudo_gt.shard_size", "eval.pairs"):
        section, name = key.split(".")
        require(getattr(getattr(exp, section), name) >= 1, key, "at least 1")
    for key in ("pseudo_gt.batch_size", "train.batch_size", "train.accumulation", "eval.batch_size", "train.log_steps"):
        section, name = key.split(".")
        require(getattr(getattr(exp, section), name) >= 1, key, "at least 1")
    require(exp.data.test_people >= 2, "data.test_people", "at least 2: retrieval needs a gallery")
    require(exp.data.test_images >= 2, "data.test_images", "at least 2: one for the gallery, the others as sources")
    require(exp.train.steps >= 0, "train.steps", "0 or more")
    require(0 <= exp.train.ema < 1, "train.ema", "a decay in [0, 1)")
    require(exp.train.lr > 0, "train.lr", "more than 0")
    require(min(to_dict(exp.train.mix).values()) >= 0, "train.mix", "shares of 0 or more")
    require(sum(to_dict(exp.train.mix).values()) > 0, "train.mix", "at least one share above 0")
    require(exp.data.workers >= 0, "data.workers", "0 or more")
    require(exp.threads >= 0, "threads", "0 or more")


def _expected(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        return " or ".join("null" if a is type(None) else _expected(a) for a in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list of {_expected(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)} x {_expected(arguments[0])}"
    if origin is dict or dataclasses.is_dataclass(hint):
        return "a section of keys"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[hint]


def _describe(value: Any) -> str:
    return "nothing" if value is None else f"{value!r} ({type(value).__name__})"


def _nearest(name: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the list of what is known."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""
