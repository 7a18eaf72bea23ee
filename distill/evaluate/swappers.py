"""Swappers by name, by file and by folder: callables (source, target) -> swap on canonical crops.

copy-target, copy-source, exact         references for every table; exact for synthetic people only
landmark_warp, simswap, ...             a teacher, with the files that `pseudo_gt.teachers` names
student.safetensors                     a student, with the identity encoder that the file names
teacher.safetensors                     a teacher that was trained here
student.onnx                            inputs source and target, or target and embedding
FOLDER                                  finished swaps, one picture per pair, named as the list names its pairs, or by
                                        the pictures of source and target
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import students
import teachers
from distill import build
from distill.config import ConfigError, Experiment, Teacher
from distill.evaluate.pairs import OF_WHOLE
from distill.train.learners import learner_of
from eval import sanity
from eval.cards import CARDS
from eval.estimators import Estimators
from eval.pairs import Pairs
from students.identity_encoder import CARDS as ENCODERS
from swapcore import weights
from swapcore.files import bytes_hash
from swapcore.images import DataError, decode, list_pictures, resized
from swapcore.onnx import Session, content_sha256, files_by_name

COPIES = {"copy-target": sanity.copy_target, "copy-source": sanity.copy_source}


def of_experiment(exp: Experiment, pairs: Pairs, device: Any) -> dict[str, Any]:
    """The rows of an experiment's table by name: the references, the teachers, the networks that it trained."""
    names = [*COPIES, *(["exact"] if pairs.exact is not None else [])]
    rows = {name: by_name(name, exp, pairs, device) for name in names}
    specs = measured_teachers(exp)
    rows |= {build.label(spec): TeacherSwapper(build.teacher(spec, exp, key)).to(device) for spec, key in specs}
    return rows | {name: by_name(str(path), exp, pairs, device) for name, path in trained(exp).items()}


def measured_teachers(exp: Experiment) -> list[tuple[Teacher, str]]:
    """The teachers that have a row in an experiment's table, each with the key that names it."""
    specs = []
    if exp.train.mix.pseudo_gt or exp.train.mix.reversed:
        specs += [(spec, "pseudo_gt.teachers") for spec in exp.pseudo_gt.teachers if spec.name != "exact"]
    if exp.distil.online:
        specs.append((exp.distil.online, "distil.online"))
    return specs


def trained(exp: Experiment) -> dict[str, Path]:
    """The files that an experiment trains by the name of their row: a student, or the stages of a teacher."""
    stages = {exp.student.name: "train"} | ({f"{exp.student.name}-refined": "refine"} if "refine" in exp.stages else {})
    return {name: exp.folder / stage / learner_of(exp.student.name, stage).file for name, stage in stages.items()}


def by_name(name: str, exp: Experiment, pairs: Pairs, device: Any, pattern: str | None = None) -> Any:
    """One of the swappers listed above. pattern: of the names in a folder, as in `namings`. Raises ConfigError that
    lists the known names."""
    if name in COPIES:
        return COPIES[name]
    if name == "exact":
        if pairs.exact is None:
            raise ConfigError(f"swapper 'exact': the pairs '{pairs.name}' are photographs, whose exact swap is unknown")
        return FinishedSwaps("exact", pairs.exact)
    specs = {build.label(spec): spec for spec in exp.pseudo_gt.teachers}
    if name in specs or name in teachers.TEACHERS:
        swapper = TeacherSwapper(build.teacher(specs.get(name, Teacher(name)), exp, f"swapper '{name}'")).to(device)
        swapper.name = name  # its label, as in stage `eval`
        return swapper
    name = os.path.expanduser(name)
    saved = name.endswith(".safetensors") and Path(name).is_file()
    teacher = weights.read_header(name).get("teacher") if saved else None
    if teacher is not None:
        return TeacherSwapper(build.teacher(Teacher(teacher, weights={"generator": name}), exp, name)).to(device)
    if name.endswith(".safetensors"):
        student = load_student(name, exp)
        _check_resolution(name, student.generator.options["resolution"], pairs.resolution)
        return student.to(device)
    if name.endswith(".onnx"):
        return OnnxStudent(name, exp, pairs.resolution)
    if Path(name).is_dir():
        return read_finished(Path(name), pairs, pattern)
    known = [*COPIES, "exact", *specs, *teachers.TEACHERS]
    raise ConfigError(
        f"unknown swapper '{name}'; known: {', '.join(dict.fromkeys(known))}, a student's or teacher's .safetensors "
        f"file, an .onnx file, a folder of finished swaps"
    )


def _check_resolution(path: str | Path, own: int, expected: int) -> None:
    if own != expected:
        raise ConfigError(
            f"{path}: swaps at {own} x {own} pixels, the pairs have {expected} x {expected}; read the list at its size "
            f"with --resolution {own}"
        )


class TeacherSwapper(torch.nn.Module):
    """A teacher that returns a swap for every pair: where it finds no face, the target is returned unchanged."""

    def __init__(self, teacher: teachers.Teacher):
        super().__init__()
        self.teacher, self.name, self.weight_hash = teacher, teacher.name, teacher.weight_hash
        self.parts, self.files = teacher.parts, teacher.files
        self.eval().requires_grad_(False)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        swap = target.clone()
        found, places = teachers.swaps_of_faces(self.teacher, source, target, torch.arange(len(target)))
        swap[places] = found
        return swap


@dataclass(frozen=True, eq=False)
class FinishedSwaps:
    """Swaps (N, 3, H, H) uint8 in the order of the pairs. missing: numbers of the pairs without a swap. naming: how the
    files are named; names: the name of each pair's file by it."""

    name: str
    swaps: torch.Tensor
    missing: Sequence[int] = ()
    naming: str = "pairs"
    names: Sequence[str] = ()


# How people name swaps, and the names of the pairs' files; the first that fits most files is taken.
OWN, NUMBER = "the list's own names", "numbers of the pairs"
PATTERNS = ("{source}-{target}", "{target}_{source}")
ASPECT = 1.03  # ratio by which the aspect of a swap may differ from that of the target's picture


def namings(pairs: Pairs, pattern: str | None = None) -> dict[str, Sequence[str]]:
    """The names of the pairs' swaps, without ending, by each way of naming; by `pattern` alone if one is given, in
    which {source} and {target} stand for the names of the pictures. Raises ConfigError for another pattern."""
    if pattern is not None and not all(f"{{{end}}}" in pattern for end in ("source", "target")):
        raise ConfigError(f"--names: expected a pattern with {{source}} and {{target}}, got '{pattern}'")
    own = names_of(pairs)
    patterns = PATTERNS if pattern is None else (pattern,)
    known: dict[str, Sequence[str]] = {OWN: own} if pattern is None else {}
    for one in patterns if pairs.origins is not None else ():
        known[one] = [one.replace("{source}", o.source).replace("{target}", o.target) for o in pairs.origins]
    return known


def read_finished(folder: Path, pairs: Pairs, pattern: str | None = None) -> FinishedSwaps:
    """A folder of swaps that another program wrote, one picture (.png, .jpg, .webp, .tif ...) for each pair.

    Named as the list names its pairs, they are crops aligned like the pairs, or whole pictures (`_own_named`). Named by
    the pictures of source and target (see PATTERNS), they are whole pictures in the target's frame, of any size: they
    are aligned by the target's landmarks where the list has aligned its pictures, else resized like them. Numbers may
    have any number of zeros.

    Raises DataError where no pair has a picture, where one is damaged or has another shape, and where a pair has two.
    """
    files: dict[str, Path] = {}
    second: dict[str, Path] = {}
    for path in list_pictures(folder, deep=False)[0]:
        if files.setdefault(path.stem, path) != path:
            second[path.stem] = path
    known = namings(pairs, pattern)
    own = names_of(pairs)
    if pattern is None and all(name.isdigit() for name in own):
        by_number = {int(stem): stem for stem in files if stem.isascii() and stem.isdigit()}
        known[NUMBER] = [by_number.get(int(name), name) for name in own]
    counts = {naming: sum(name in files for name in names) for naming, names in known.items()}
    naming = max(counts, key=counts.__getitem__)
    names = known[naming]
    missing = [i for i, name in enumerate(names) if name not in files]
    if len(missing) == len(names):
        examples = " or ".join(f"{column[0]}.png" for way, column in known.items() if way != NUMBER)
        raise DataError(
            f"{folder}: holds none of the {len(names)} swaps; expected {examples} and so on, a picture for each pair "
            f"of '{pairs.name}'"
        )
    for name in names:
        if name in second:
            raise DataError(
                f"{second[name]}: a second picture of pair {name}, beside {files[name].name}; delete one of them"
            )
    swaps, absent = torch.zeros_like(pairs.target), set(missing)
    for i, name in enumerate(names):
        if i not in absent:
            whole = naming not in (OWN, NUMBER)
            swaps[i] = (_whole_picture if whole else _own_named)(files[name], pairs, i)
    return FinishedSwaps(folder.name, swaps, missing, naming, names)


def _own_named(path: Path, pairs: Pairs, number: int) -> torch.Tensor:
    """A swap that is aligned like the pairs. Of another size it is a whole picture where the list has whole ones, and
    where it has the size of the target's picture; else it is refused."""
    pixels = torch.from_numpy(decode(path))
    if pixels.shape != pairs.target.shape[1:]:
        _, height, width = pixels.shape
        side = pairs.resolution
        origin = pairs.origins[number] if pairs.origins is not None else None
        as_target = origin is not None and origin.size == (width, height)
        if as_target or pairs.protocol.get("swaps of others") == OF_WHOLE:
            return _whole_picture(path, pairs, number)
        raise DataError(
            f"{path}: {width} x {height} pixels, the pairs have {side} x {side}; swap the crops of the "
            f"list, or read the list at that size with --resolution"
        )
    return pixels


def _whole_picture(path: Path, pairs: Pairs, number: int) -> torch.Tensor:
    """A swap in the frame of the target's picture, brought to the frame of the pairs."""
    origin = pairs.origins[number]
    pixels = decode(path)
    _, height, width = pixels.shape
    if origin.landmarks is None:
        return resized(torch.from_numpy(pixels)[None], pairs.resolution)[0]
    ratio = (width / height) / (origin.size[0] / origin.size[1])
    if not 1 / ASPECT < ratio < ASPECT:
        raise DataError(
            f"{path}: {width} x {height} pixels, the target's picture {origin.target} has {origin.size[0]} x "
            f"{origin.size[1]}: a crop of another frame; paste the swaps back, or name crops of the list as the list "
            f"names its pairs"
        )
    from distill.data.faces import align  # needs the extra `video`, which lists of aligned pictures had

    scale = np.array([width / origin.size[0], height / origin.size[1]])
    image = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    crop = align(image, np.array(origin.landmarks) * scale, pairs.resolution)
    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))


def names_of(pairs: Pairs) -> Sequence[str]:
    """The pairs' own names, or their numbers."""
    return pairs.names or tuple(f"{i:05d}" for i in range(len(pairs)))


def load_student(path: str | Path, exp: Experiment) -> students.StudentSwapper:
    """A student's file, with the identity encoder that trained it, as a swapper. Raises ConfigError, ValueError."""
    generator = students.load(path)
    encoder = build.identity_encoder(exp, build.encoder_of(path))
    build.check_encoder(path, build.header_of(path), encoder)
    build.check_recogniser(exp, encoder.card.name, str(path))
    swapper = students.StudentSwapper(generator, encoder).eval().requires_grad_(False)
    swapper.name = generator.name
    swapper.weight_hash = f"{weights.sha256(path)[:16]}+{encoder.weight_hash}"
    swapper.files = {"generator": Path(path), "identity_encoder": weights.find(encoder.card, exp.weights)}
    return swapper


class OnnxStudent:
    """An exported student in onnxruntime: a whole model (source, target) -> swap, or a generator (target, embedding) ->
    swap. A generator runs with the PyTorch identity encoder that its metadata names, else with the experiment's.

    Raises ValueError that names the file and its inputs, and ConfigError where it does not swap at `resolution`; with
    None, it uses the file's own resolution.
    """

    def __init__(self, path: str | Path, exp: Experiment, resolution: int | None) -> None:
        path, session = Path(path), Session(path, threads=exp.threads)
        inputs = session.inputs
        if set(inputs) not in ({"source", "target"}, {"target", "embedding"}, {"target", "embedding", "identity_map"}):
            raise ValueError(
                f"{path}: its inputs are {', '.join(sorted(inputs))}; expected source and target (whole.onnx), or "
                f"target and embedding (generator.onnx); measure another kind of face swapper as a teacher: onnx in "
                f"pseudo_gt.teachers"
            )
        own = (inputs["target"] or [None])[-1]
        if isinstance(own, int) and resolution is not None:
            _check_resolution(path, own, resolution)
        self.resolution = own if isinstance(own, int) else resolution
        if self.resolution is None:
            raise ValueError(f"{path}: its input target has no fixed size: {inputs}; export it for one resolution")
        encoder_name = session.metadata.get("identity_encoder")
        if encoder_name is not None and encoder_name not in ENCODERS:
            raise ConfigError(f"{path}: its identity encoder '{encoder_name}' is unknown; known: {', '.join(ENCODERS)}")
        self.encoder = None if "source" in inputs else build.identity_encoder(exp, encoder_name)
        self.needs_map = "identity_map" in inputs  # whether the generator takes the encoder's map as well
        self.weight_hash = content_sha256(path)[:16]
        image = (3, self.resolution, self.resolution)
        if self.encoder is None:
            shapes, self.files = {"source": image, "target": image}, files_by_name(path, "model")
        else:
            encoder_name = self.encoder.card.name
            build.check_encoder(path, session.metadata, self.encoder)
            shapes = {"target": image, "embedding": (self.encoder.card.embedding_dim,)}
            if self.needs_map:
                shapes["identity_map"] = tuple(self.encoder.map_shape)
            self.files = files_by_name(path, "generator")
            self.files["identity_encoder"] = weights.find(self.encoder.card, exp.weights)
            self.weight_hash += f"+{self.encoder.weight_hash}"
        session.fit(shapes, image)
        if encoder_name is not None:
            build.check_recogniser(exp, encoder_name, str(path))
        generic = path.stem in ("generator", "whole") and path.parent.name  # all exports have these names
        self.session, self.name = session, f"{path.parent.name}-{path.stem}" if generic else path.stem

    @torch.inference_mode()
    def __call__(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.encoder is None:
            return self.session(source, target)
        return self.session(target, *students.condition(self.encoder, source.cpu(), self)).to(target.device)


def own_estimators(name: str, swapper: Any, estimators: Estimators) -> list[str]:
    """A warning for each estimator that is also a network of the swapper, like the landmarks of `landmark_warp`: the
    swapper optimises the value that this estimator measures."""
    teacher = getattr(swapper, "teacher", None)
    files = [*getattr(swapper, "files", {}).values(), *(teacher.weights.values() if teacher is not None else ())]
    hashes = {weights.sha256(path)[:16] for path in files}
    if teacher is not None:
        hashes.add(teacher.facts.get("identity_encoder"))
    warnings = []
    for role, estimator in estimators.items():
        if role == "trained_encoder":  # which is part of a student on purpose
            continue
        card = CARDS.get(estimator.name)
        own = {estimator.weight_hash, *((file.sha256 or "")[:16] for file in (card.files if card else ()))}
        if own & hashes:
            warnings.append(f"{name} is measured by a network of its own, the {role} {estimator.name}: take another")
    return warnings


def fingerprint(swapper: Any) -> str:
    """The hash of a swapper's weights or finished swaps, or the name of a swapper that has neither."""
    if isinstance(swapper, FinishedSwaps):
        return bytes_hash(np.ascontiguousarray(swapper.swaps.numpy()).tobytes())
    return getattr(swapper, "weight_hash", None) or swapper.name
