"""YAML -> Experiment: frozen, typed, complete. `distill/schema.py` lists the keys.

Every error names the file, the key, what was expected and the nearest known key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

import yaml

from distill.schema import STAGES, Changes, Experiment, Location, Teacher, in_words
from swapcore.terminal import LARGEST, nearest

LARGEST_DRAWN = 1024  # pixels, teachers.exact.LARGEST; not imported, because that needs torch
Override = str | tuple[str, Any]
LOSSES = ("adversarial", "identity", "reconstruction", "gradient", "gradient_energy", "grid", "attribute", "perceptual")
TEXTS = (str, Location)  # types of keys whose value stays text: `no` and 1e-4 too


class ConfigError(ValueError):
    """A mistake in an experiment file or an override; the message is one line that says what to change."""


class Child(NamedTuple):
    """One run of an experiment with variants. The folder of `exp` lies in the experiment's folder."""

    variant: str
    seed: int | None
    exp: Experiment


def load(path: str | Path, overrides: Iterable[Override] = (), full_size: bool = False) -> Experiment:
    """Read an experiment file and apply overrides in order. Raises ConfigError.

    An override is text, `section.key=value`, or a pair of `section.key` and a value, which is not parsed. With
    full_size, the settings under `full_size` in the file are applied first.
    """
    path = Path(os.path.expanduser(path))
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = sorted(map(str, path.parent.glob("*.yaml")))
        raise ConfigError(f"{path}: no such experiment file{nearest(str(path), known)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from None
    tree = _read(text, Experiment, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, got {_describe(tree)}")
    tree.setdefault("name", path.stem)
    if full_size:
        overrides = parsed(overrides)
        for key in (key for key, _ in overrides if key.split(".")[0] == "full_size"):
            raise ConfigError(f"override {key}: --full-size has applied that section; set the key itself")
        changes = _convert(Changes, tree.get("full_size"), "full_size", str(path))
        _change(tree, changes.items(), f"{path}: full_size", ("name", "runs", "full_size"))
    return _experiment(tree, overrides, str(path))


def default(name: str, overrides: Iterable[Override] = ()) -> Experiment:
    """An experiment without a file: the defaults, then overrides as in `load`. Raises ConfigError."""
    return _experiment({"name": name}, overrides, "the command")


def parsed(overrides: Iterable[Override]) -> list[tuple[str, Any]]:
    """Overrides as pairs of `section.key` and value. Raises ConfigError."""
    return [_parse(override) if isinstance(override, str) else override for override in overrides]


def check_weights(folders: Iterable[str | Path]) -> None:
    """Raise ConfigError where a folder of the key `weights`, or of --weights, does not exist."""
    for folder in folders:
        if not Path(folder).is_dir():
            raise ConfigError(f"weights: no such folder '{folder}'; name a folder that holds weight files")


def _experiment(tree: dict[str, Any], overrides: Iterable[Override], where: str) -> Experiment:
    for override in overrides:
        _change(tree, parsed([override]), f"override '{override}'" if isinstance(override, str) else where)
    exp = _build(Experiment, tree, "", where)
    _check(exp, where)
    children(exp, where)  # a mistake in the last variant must not wait until the others are trained
    return exp


def children(exp: Experiment, where: str = "variants") -> list[Child]:
    """The runs of an experiment with `variants` or `seeds`, in order; an empty list without them. A variant's own
    `seeds` replace the experiment's. Raises ConfigError."""
    if not exp.variants and not exp.seeds:
        return []
    runs: list[Child] = []
    for variant, changes in (exp.variants or {exp.student.name: {}}).items():
        place = f"{where}: variants.{variant}"
        seeds = _convert(tuple[int, ...], changes.get("seeds", exp.seeds), "seeds", place)
        for seed in seeds or (None,):
            tree = to_dict(exp)
            name = variant if seed is None else f"{variant}-seed{seed}"
            if name in [run.exp.name for run in runs]:
                raise ConfigError(f"{place}: a second run of the name {name}; give each seed once, or another name")
            _change(tree, changes.items(), place, ("name", "runs", "jobs", "variants", "full_size", "tracking"))
            tree |= {"name": name, "runs": str(exp.folder), "jobs": 1, "variants": {}, "seeds": [], "full_size": {}}
            tree["eval"]["reference"] = None  # a variant: the comparison uses it
            if seed is not None:
                _change(tree, [("train.seed", seed)], place)
            runs.append(Child(variant, seed, _experiment(tree, (), place)))
    return runs


def to_dict(config: Any) -> Any:
    """Experiment or section -> plain dicts, lists and scalars that YAML and JSON can hold."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, tuple | list):
        return [to_dict(v) for v in config]
    if isinstance(config, dict):
        return {key: to_dict(v) for key, v in config.items()}
    return config


def dump(experiment: Experiment) -> str:
    return yaml.safe_dump(to_dict(experiment), sort_keys=False, default_flow_style=None, width=120)


def _read(text: str, hint: Any, where: str) -> Any:
    """YAML for a key of this type, as `_typed` builds it. Raises ConfigError."""
    try:
        loader = yaml.SafeLoader(text)
        return _typed(hint, loader.get_single_node(), loader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None


def _parse(override: str) -> tuple[str, Any]:
    """Key and value of `section.key=value`. A text key takes the value literally; a list of text takes `[a, b]`, or a
    single entry literally; every other key takes YAML."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override '{override}': expected section.key=value, for example train.steps=100")
    hint = _below(Changes, key)
    if hint in (*TEXTS, *(kind | None for kind in TEXTS)):
        return key, _typed(hint, yaml.ScalarNode("", text), None)
    if hint in [tuple[kind, ...] for kind in TEXTS] and text and not text.startswith("["):
        return key, [text]
    return key, _read(text, hint, f"override '{override}'")


def _typed(hint: Any, node: yaml.Node | None, loader: Any) -> Any:
    """The value of a node. An unquoted scalar stays text if the type is text. PyYAML converts all other values."""
    unquoted = isinstance(node, yaml.ScalarNode) and node.style is None
    if typing.get_origin(hint) is types.UnionType:
        empty = unquoted and node.value.lower() in ("", "~", "null", "none")
        return None if empty else _typed(typing.get_args(hint)[0], node, loader)
    if isinstance(node, yaml.MappingNode) and hint is not Any:
        own = [k.value for k, _ in node.value]
        for k, _ in node.value:
            if not isinstance(k, yaml.ScalarNode):
                raise ValueError(f"line {k.start_mark.line + 1}: a key must be text")
            if own.count(k.value) > 1:
                raise ValueError(f"line {k.start_mark.line + 1}: '{k.value}' is given twice")
        loader.flatten_mapping(node)  # of `<<: *anchor`, whose keys the own ones replace
        return {str(k.value): _typed(_below(hint, str(k.value)), value, loader) for k, value in node.value}
    if isinstance(node, yaml.SequenceNode) and hint is not Any:
        return [_typed(_below(hint, "0"), entry, loader) for entry in node.value]
    if hint in (*TEXTS, Teacher) and unquoted:
        return node.value or None
    if unquoted and typing.get_origin(hint) is Literal and node.value in typing.get_args(hint):
        return node.value  # else `on` and `off` would be true and false
    return node and loader.construct_object(node, deep=True)


def _below(hint: Any, key: str) -> Any:
    """The type of one key of a section or map, or of the entries of a list; Any for a key that the schema lacks."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Changes:
        return functools.reduce(_below, key.split("."), Experiment)
    if dataclasses.is_dataclass(hint):
        return typing.get_type_hints(hint).get(key, Any)
    if origin is types.UnionType:
        return _below(arguments[0], key)
    return {dict: arguments[-1:], tuple: arguments[:1]}.get(origin, (Any,))[0]


def _change(tree: dict[str, Any], changes: Iterable[tuple[str, Any]], where: str, fixed: tuple[str, ...] = ()) -> None:
    """Set each section.key in a tree; a whole section replaces the old one. Raises ConfigError for keys in `fixed`."""
    for key, value in changes:
        *parents, leaf = key.split(".")
        whole = {"variants": 2, "full_size": 1}.get(key.partition(".")[0], 0)  # what lies below them has dotted keys
        if 0 < whole < len(parents):
            parents, leaf = parents[:whole], ".".join([*parents[whole:], leaf])
        if (parents or [leaf])[0] in fixed:
            raise ConfigError(f"{where}: {key}: cannot be set here; set it at the top level of the file")
        section = tree
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ConfigError(f"{where}: '{parent}' is {_describe(section)}, not a section")
        section[leaf] = to_dict(value)  # a copy: a later key may change it


def _build(cls: type, tree: Any, prefix: str, where: str) -> Any:
    """A section from its keys; `prefix` is its own key with a dot."""
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: {prefix[:-1]}: expected a section of keys, got {_describe(tree)}")
    hints, values = typing.get_type_hints(cls), {}
    for key, value in tree.items():
        if key not in hints:
            raise ConfigError(f"{where}: {prefix}{key}: unknown key{nearest(str(key), hints, prefix)}")
        try:
            values[key] = _convert(hints[key], value, f"{prefix}{key}", where)
        except ConfigError as error:
            similar = [
                other for other, hint in hints.items() if isinstance(value, str) and value in typing.get_args(hint)
            ]
            raise ConfigError(f"{error}; did you mean {prefix}{similar[0]}?" if similar else str(error)) from None
    if cls is Teacher and "name" not in values:
        raise ConfigError(f"{where}: {prefix}name: expected text, got nothing")
    return cls(**values)


def _convert(hint: Any, value: Any, name: str, where: str) -> Any:
    """Check one value against its type; the only conversions are int -> float, `1e-4` -> float and list -> tuple."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or origin is Literal and value in arguments:
        return value
    if hint is Teacher and isinstance(value, str):
        return Teacher(value)
    if dataclasses.is_dataclass(hint):
        return _build(hint, {} if value is None else value, f"{name}.", where)
    if origin is types.UnionType:
        return None if value is None else _convert(arguments[0], value, name, where)
    if origin is tuple and isinstance(value, list | tuple) and (... in arguments or len(value) == len(arguments)):
        return tuple(_convert(arguments[0], v, f"{name}[{i}]", where) for i, v in enumerate(value))
    if hint is Changes and (value is None or isinstance(value, dict)):
        return value or {}
    if origin is dict and isinstance(value, dict):
        return {key: _convert(arguments[1], v, f"{name}.{key}", where) for key, v in value.items()}
    if hint is float and not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):  # PyYAML reads 1e-4 as text
            if math.isfinite(float(value)):
                return float(value)
    if hint is Location and isinstance(value, str):
        scheme = "sqlite:///" if value.startswith("sqlite:///") else ""
        return scheme + os.path.expanduser(value.removeprefix(scheme))
    if hint is int and type(value) is int and abs(value) > LARGEST:
        raise ConfigError(f"{where}: {name}: expected a whole number up to {LARGEST}, got {value}")
    if hint in (int, bool, str) and type(value) is hint:
        return value
    raise ConfigError(f"{where}: {name}: expected {in_words(hint)}, got {_describe(value)}")


def _check(exp: Experiment, where: str) -> None:
    """Rules beyond types. Names of students, teachers and metrics are checked by their registries."""

    def require(condition: bool, key: str, expected: str) -> None:
        if not condition:
            raise ConfigError(f"{where}: {key}: expected {expected}, got {value_of(key)!r}")

    def value_of(key: str) -> Any:
        return functools.reduce(getattr, key.split("."), exp)

    for key in (
        "data.train_people", "data.train_images", "data.min_size", "pseudo_gt.pairs", "pseudo_gt.shard_size",
        "pseudo_gt.batch_size", "eval.pairs", "eval.batch_size",
    ):  # fmt: skip
        require(value_of(key) >= 1, key, "at least 1")
    for key in (
        "seed", "minutes", "data.val_people", "data.cache_gb", "pseudo_gt.identity_cache_mb", "eval.pictures",
    ):  # fmt: skip
        require(value_of(key) >= 0, key, "0 or more")
    require(1 <= exp.jobs <= 1024, "jobs", "1 to 1024")
    for key in ("threads", "data.workers"):
        require(0 <= value_of(key) <= 1024, key, "0 to 1024")
    for part in ("train", "refine.train"):
        for key in ("batch_size", "accumulation", "log_steps", "preview_steps", "checkpoint_steps"):
            require(value_of(f"{part}.{key}") >= 1, f"{part}.{key}", "at least 1")
        for key in ("steps", "warmup_steps", "small_steps"):
            require(value_of(f"{part}.{key}") >= 0, f"{part}.{key}", "0 or more")
        for key in ("lr", "lr_matrices", "lr_discriminator", "grad_clip"):
            require(value_of(f"{part}.{key}") > 0, f"{part}.{key}", "more than 0")
        require(value_of(f"{part}.lr_final") >= 0, f"{part}.lr_final", "0 or more")
        require(all(0 <= beta < 1 for beta in value_of(f"{part}.betas")), f"{part}.betas", "two decays in [0, 1)")
        shown = value_of(f"{part}.keep") == "last" or exp.data.val_people >= 2
        require(shown, f"{part}.keep", "last, or two people in the previews (data.val_people)")
        small = value_of(f"{part}.small_resolution")
        fits = 64 <= small < exp.data.resolution and small % 32 == 0 or not value_of(f"{part}.small_steps")
        require(fits, f"{part}.small_resolution", "a multiple of 32, from 64 to below data.resolution")
        require(0 <= value_of(f"{part}.ema") < 1, f"{part}.ema", "a decay in [0, 1)")
        require(0 <= value_of(f"{part}.held_objects") <= 1, f"{part}.held_objects", "a share in [0, 1]")
        loss = "loss" if part == "train" else "refine.loss"
        scaled = value_of(f"{part}.precision") == "fp16" and value_of(f"{part}.accumulation") > 1
        one_scale = not scaled or not any(value_of(f"{loss}.adversarial"))
        require(one_scale, f"{part}.precision", "bf16 or fp32 with accumulation and a discriminator")
        require(0 <= value_of(f"{loss}.identity_disturbance") <= 4, f"{loss}.identity_disturbance", "0 to 4")
        require(0 <= value_of(f"{loss}.identity_fading") <= 1, f"{loss}.identity_fading", "0 to 1")
        for key in LOSSES:
            weights = value_of(f"{loss}.{key}")
            least = min(weights) if isinstance(weights, tuple) else weights
            require(least >= 0, f"{loss}.{key}", "0 or more")
        for key in ("mix", "fstriplets"):
            shares = to_dict(value_of(f"{part}.{key}")).values()
            require(min(shares) >= 0, f"{part}.{key}", "shares of 0 or more")
            require(sum(shares) > 0, f"{part}.{key}", "at least one share above 0")
        seed = value_of(f"{part}.seed")
        require(seed is None or seed >= 0, f"{part}.seed", "0 or more")
        poses = f"{part}.fstriplets.different_poses"
        require(value_of(poses) == 0, poses, "0: no such pictures exist")
        if value_of(f"{part}.mix.fstriplets") > 0 and (part == "train" or "refine" in exp.stages):
            require(exp.data.fstriplets is not None, "data.fstriplets", f"a folder, for {part}.mix.fstriplets")
    for stage in exp.stages:
        if stage not in STAGES:
            raise ConfigError(f"{where}: stages: unknown stage '{stage}'{nearest(stage, STAGES)}")
    data, distil, teachers = exp.data, exp.distil, exp.pseudo_gt.teachers
    labels = [teacher.label or teacher.name for teacher in teachers]
    _check_labels(exp, where)
    exports = "export" in exp.stages
    require(_names_a_folder(exp.name), "name", "a folder name")
    if _holds_a_password(exp.tracking.uri):
        raise ConfigError(
            f"{where}: tracking.uri: holds a password, which files and MLflow would show; leave it out, and set "
            f"MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for a server, or use a database's file of passwords"
        )
    previews = data.val_people >= 1 or "train" not in exp.stages
    require(previews, "data.val_people", "at least 1, for the previews of stage train")
    require("shared" not in exp.variants, "variants", "another name than 'shared', the folder of common data,")
    require(min(exp.seeds, default=0) >= 0, "seeds", "numbers of 0 or more")
    require(len(set(exp.seeds)) == len(exp.seeds), "seeds", "each seed once")
    require("" not in exp.eval.metrics, "eval.metrics", "no empty name (a comma too many?)")
    require(len(exp.eval.metrics) > 0, "eval.metrics", "at least one metric")
    if exp.variants or exp.seeds:
        known = tuple(exp.variants) or (exp.student.name,)
        require(exp.eval.reference in (None, *known), "eval.reference", f"a variant ({', '.join(known)})")
    require(bool(exp.export.to) == exports, "export.to", "targets, and `export` among `stages`, or neither")
    sizes = 32 <= data.resolution <= 4096 and data.resolution % 32 == 0
    require(sizes, "data.resolution", "a multiple of 32 up to 4096")
    drawn = data.kind != "synthetic" or data.resolution <= LARGEST_DRAWN
    require(drawn, "data.resolution", f"at most {LARGEST_DRAWN} for synthetic people")
    require(data.kind != "photos" or data.photos is not None, "data.photos", "a folder (data.photos=FOLDER)")
    require(data.test_people >= 2, "data.test_people", "at least 2: retrieval needs a gallery")
    require(data.test_images >= 2, "data.test_images", "at least 2: one for the gallery, the others as sources")
    require(0 <= data.occlusion_share <= 1, "data.occlusion_share", "a share in [0, 1]")
    require(not data.occlusion_share or data.occlusions is not None, "data.occlusions", "a folder of pictures")
    require(len(teachers) >= 1, "pseudo_gt.teachers", "at least one teacher")
    require(min(teacher.share for teacher in teachers) > 0, "pseudo_gt.teachers", "shares above 0")
    require(len(set(labels)) == len(labels), "pseudo_gt.teachers", "a `label` for each teacher of the same name")
    quality = exp.pseudo_gt.quality
    measured = quality.max_pose_error_deg is None or quality.pose is not None
    require(measured, "pseudo_gt.quality.pose", "a pose estimator, for max_pose_error_deg")
    one_size = distil.online is not None and exp.train.small_steps
    require(not one_size, "train.small_steps", "0 with distil.online, whose teacher has a resolution of its own")
    require(exp.refine.train.small_steps == 0, "refine.train.small_steps", "0: the first stage has one resolution")
    for key in ("features", "gram", "quality_power"):
        require(value_of(f"distil.{key}") >= 0, f"distil.{key}", "0 or more")
    if distil.features:
        require(distil.online is not None, "distil.online", "a teacher, for distil.features")
        require(bool(distil.layers), "distil.layers", "names of submodules, student: teacher")


def _check_labels(exp: Experiment, where: str) -> None:
    """Names of teachers are rows of the table and folders of stage `eval`. Raises ConfigError."""
    others = {"copy-target", "copy-source", "source", "target", exp.student.name, f"{exp.student.name}-refined"}
    online = [exp.distil.online] if exp.distil.online not in (None, *exp.pseudo_gt.teachers) else []
    for key, named in (("pseudo_gt.teachers", exp.pseudo_gt.teachers), ("distil.online", online)):
        for teacher in named:
            name = teacher.label or teacher.name
            if name in others or name == "exact" and teacher.name != "exact":
                raise ConfigError(f"{where}: {key}: '{name}' is the name of another row of the table; add a `label`")
            if not _names_a_folder(name):
                raise ConfigError(f"{where}: {key}: label: expected a folder name, got {name!r}")
        others |= {teacher.label or teacher.name for teacher in named}


def _names_a_folder(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & {"/", "\\"}


def _holds_a_password(uri: str) -> bool:
    try:
        return urlsplit(uri).password is not None
    except ValueError:  # no address: MLflow will say so
        return False


def _describe(value: Any) -> str:
    return "nothing" if value is None else f"{value!r} ({type(value).__name__})"
