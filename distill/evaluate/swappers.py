"""Whatever can be measured, by name or by file, as a swapper: a callable (source, target) -> swap on canonical crops.

copy-target, copy-source, exact         the rows that bound every table; exact for synthetic faces
landmark_warp, simswap, ...             a teacher, with its files by `pseudo_gt.teachers`
student.safetensors                     a student, its identity encoder by the name in the file
teacher.safetensors                     a teacher trained here
student.onnx                            inputs source and target, or target and embedding
FOLDER                                  finished swaps, one picture a pair, named as the list names its pairs
"""

from __future__ import annotations

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
from distill.train.learners import learner_of
from eval import sanity
from eval.cards import CARDS
from eval.estimators import Estimators
from eval.pairs import Pairs
from students.identity_encoder import CARDS as ENCODERS
from swapcore import weights
from swapcore.files import bytes_hash
from swapcore.images import SUFFIXES, DataError, decode
from swapcore.onnx import Session


def of_experiment(exp: Experiment, pairs: Pairs, device: Any) -> dict[str, Any]:
    """The rows of an experiment's table, by name: what bounds it, its teachers, what it trained."""
    names = ["copy-target", "copy-source", *(["exact"] if pairs.exact is not None else [])]
    rows = {name: by_name(name, exp, pairs, device) for name in names}
    if exp.train.mix.pseudo_gt:
        specs = [t for t in exp.pseudo_gt.teachers if t.name != "exact"]
        rows |= {build.label(spec): Steady(build.teacher(spec, exp)).to(device) for spec in specs}
    if exp.distil.online:
        rows[build.label(exp.distil.online)] = Steady(build.teacher(exp.distil.online, exp, "distil.online")).to(device)
    return rows | {name: by_name(str(path), exp, pairs, device) for name, path in trained(exp).items()}


def trained(exp: Experiment) -> dict[str, Path]:
    """What an experiment trained, by the name of its row: a student, or the stages of a teacher."""
    stages = {exp.student.name: "train"} | ({f"{exp.student.name}-refined": "refine"} if "refine" in exp.stages else {})
    return {name: exp.folder / stage / learner_of(exp.student.name, stage).file for name, stage in stages.items()}


def by_name(name: str, exp: Experiment, pairs: Pairs, device: Any) -> Any:
    """One of the swappers listed above. Raises ConfigError listing what is known."""
    if name == "copy-target":
        return sanity.copy_target
    if name == "copy-source":
        return sanity.copy_source
    if name == "exact":
        if pairs.exact is None:
            raise ConfigError(f"swapper 'exact': the pairs '{pairs.name}' are photographs, whose exact swap is unknown")
        return Finished("exact", pairs.exact)
    specs = {build.label(spec): spec for spec in exp.pseudo_gt.teachers}
    if name in specs or name in teachers.TEACHERS:
        return Steady(build.teacher(specs.get(name, Teacher(name)), exp, f"swapper '{name}'")).to(device)
    saved = name.endswith(".safetensors") and Path(name).is_file()
    teacher = weights.read_header(name).get("teacher") if saved else None
    if teacher is not None:
        return Steady(build.teacher(Teacher(teacher, weights={"generator": name}), exp, name)).to(device)
    if name.endswith(".safetensors"):
        student = load_student(name, exp)
        made_for = student.generator.options["resolution"]
        if made_for != pairs.resolution:
            raise ConfigError(
                f"{name}: swaps at {made_for} x {made_for} pixels, the pairs '{pairs.name}' have {pairs.resolution} x "
                f"{pairs.resolution}; read the list at its size with --resolution {made_for}"
            )
        return student.to(device)
    if name.endswith(".onnx"):
        return OnnxStudent(name, exp, pairs.resolution)
    if Path(name).is_dir():
        return read_finished(Path(name), pairs)
    known = ["copy-target", "copy-source", "exact", *specs, *teachers.TEACHERS]
    raise ConfigError(
        f"unknown swapper '{name}'; known: {', '.join(dict.fromkeys(known))}, a student's or teacher's .safetensors "
        f"file, an .onnx file, a folder of finished swaps"
    )


class Steady(torch.nn.Module):
    """A teacher that must give a swap for every pair: where it finds no face, the target stays as it is."""

    def __init__(self, teacher: teachers.Teacher):
        super().__init__()
        self.teacher, self.name = teacher, teacher.name
        self.weight_hash = teacher.weight_hash
        self.eval().requires_grad_(False)

    @property
    def parts(self) -> dict[str, torch.nn.Module]:
        return self.teacher.parts

    @property
    def files(self) -> dict[str, Path]:
        return self.teacher.files

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        places, swap = torch.arange(len(target)), target.clone()
        while len(places):
            try:
                swap[places] = self.teacher(source[places], target[places])
                break
            except teachers.NoFace as error:
                places = places[[i for i in range(len(places)) if i not in set(error.index)]]
        return swap


@dataclass(frozen=True, eq=False)
class Finished:
    """Swaps that are there already: (N, 3, H, H) uint8, in the order of the pairs; `missing` pairs have none."""

    name: str
    swaps: torch.Tensor
    missing: Sequence[int] = ()


def read_finished(folder: Path, pairs: Pairs) -> Finished:
    """A folder of `<pair>.png` (or .jpg, .webp, .bmp) as it was made elsewhere, aligned as the pairs are.

    Raises DataError where none of the pairs is there, or one has another size or is damaged.
    """
    found = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
    names = names_of(pairs)
    missing = [i for i, name in enumerate(names) if name not in found]
    if len(missing) == len(names):
        raise DataError(
            f"{folder}: holds none of the {len(names)} swaps; expected {names[0]}.png and so on, a picture for each "
            f"pair of '{pairs.name}'"
        )
    side = pairs.resolution
    swaps = torch.zeros(len(names), 3, side, side, dtype=torch.uint8)
    for i, name in enumerate(names):
        if name in found:
            pixels = decode(found[name])
            if pixels.shape[1:] != (side, side):
                height, width = pixels.shape[1:]
                raise DataError(
                    f"{found[name]}: {width} x {height} pixels, the pairs have {side} x {side}; make it on their "
                    f"crops, or read the list at that size with --resolution"
                )
            swaps[i] = torch.from_numpy(pixels)
    return Finished(folder.name, swaps, missing)


def names_of(pairs: Pairs) -> Sequence[str]:
    """The pairs' own names, or their numbers."""
    return pairs.names or tuple(f"{i:05d}" for i in range(len(pairs)))


def load_student(path: str | Path, exp: Experiment) -> students.StudentSwapper:
    """A student's file with the identity encoder it was trained with, as a swapper. Raises ConfigError, ValueError."""
    generator = students.load(path)
    encoder = build.identity_encoder(exp, weights.read_header(path).get("identity_encoder"))
    build.check_recogniser(exp, encoder.card.name, str(path))
    swapper = students.StudentSwapper(generator, encoder).eval().requires_grad_(False)
    swapper.name = generator.name
    swapper.weight_hash = f"{weights.sha256(path)[:16]}+{encoder.weight_hash}"
    swapper.files = {"generator": Path(path), "identity_encoder": weights.find(encoder.card, exp.weights)}
    return swapper


class OnnxStudent:
    """An exported student in onnxruntime: one file (source, target) -> swap, or a generator (target, embedding) ->
    swap, whose identity encoder is the one that `identity_encoder` of its metadata names, else the experiment's.
    resolution: that of its targets; where it is None, the file must tell it.

    Raises ValueError naming the file and what it takes.
    """

    needs_map = False  # whether the generator takes the encoder's map as well, as `identity_map`

    def __init__(self, path: str | Path, exp: Experiment, resolution: int | None) -> None:
        graph = Session(path, threads=exp.threads)
        inputs = graph.inputs
        made_for = inputs["target"][-1] if inputs.get("target") else None
        if set(inputs) not in ({"source", "target"}, {"target", "embedding"}, {"target", "embedding", "identity_map"}):
            raise ValueError(
                f"{path}: its inputs are {', '.join(sorted(inputs))}; expected source and target (whole.onnx), or "
                f"target and embedding (generator.onnx); a face swapper of another kind is measured as a teacher: onnx "
                f"of pseudo_gt.teachers"
            )
        if resolution is None:
            if not isinstance(made_for, int):
                raise ValueError(f"{path}: its input target has no fixed size: {inputs}; export it for one resolution")
            resolution = made_for
        if isinstance(made_for, int) and made_for != resolution:
            raise ConfigError(
                f"{path}: swaps at {made_for} x {made_for} pixels, the pairs have {resolution} x {resolution}; read "
                f"the list at its size with --resolution {made_for}"
            )
        self.resolution = resolution
        named = graph.metadata.get("identity_encoder")
        if named is not None and named not in ENCODERS:
            raise ConfigError(f"{path}: its identity encoder '{named}' is unknown; known: {', '.join(ENCODERS)}")
        image = (3, resolution, resolution)
        self.encoder = None
        if set(inputs) == {"source", "target"}:
            graph.fit({"source": image, "target": image}, image)
        else:
            self.encoder = build.identity_encoder(exp, named)
            condition = {"embedding": (self.encoder.card.embedding_dim,)}
            if "identity_map" in inputs:
                condition["identity_map"] = tuple(self.encoder.map_shape)
            self.needs_map = "identity_map" in inputs
            graph.fit({"target": image, **condition}, image)
        trainer = self.encoder.card.name if self.encoder is not None else named
        if trainer is not None:
            build.check_recogniser(exp, trainer, str(path))
        stem, folder = Path(path).stem, Path(path).parent.name  # exports all have the same names, in folders of theirs
        self.graph, self.name = graph, f"{folder}-{stem}" if stem in ("generator", "whole") and folder else stem
        self.weight_hash = weights.sha256(path)[:16]
        self.files = {"generator" if self.encoder is not None else "model": Path(path)}
        if self.encoder is not None:
            self.weight_hash += f"+{self.encoder.weight_hash}"
            self.files["identity_encoder"] = weights.find(self.encoder.card, exp.weights)

    @torch.inference_mode()
    def __call__(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.encoder is None:
            return self.graph(source, target)
        return self.graph(target, *students.condition(self.encoder, source.cpu(), self)).to(target.device)


def own_estimators(name: str, swapper: Any, estimators: Estimators) -> list[str]:
    """A warning for each estimator whose network is part of the swapper itself, as that of the landmarks by which a
    teacher warps: the swapper was made to please it."""
    teacher = getattr(swapper, "teacher", None)
    files = [*getattr(swapper, "files", {}).values(), *(teacher.weights.values() if teacher is not None else ())]
    hashes = {weights.sha256(path)[:16] for path in files}
    if teacher is not None and "identity_encoder" in teacher.facts:
        hashes.add(teacher.facts["identity_encoder"])
    warnings = []
    for role, estimator in estimators.items():
        card = CARDS.get(estimator.name)
        own = {estimator.weight_hash, *((one.sha256 or "")[:16] for one in (card.files if card else ()))}
        if own & hashes:
            warnings.append(f"{name} is measured by a network of its own, the {role} {estimator.name}: take another")
    return warnings


def fingerprint(swapper: Any) -> str:
    """What tells one swapper from another of the same name: the hash of its weights, or of its finished swaps."""
    if isinstance(swapper, Finished):
        return bytes_hash(np.ascontiguousarray(swapper.swaps.numpy()).tobytes())
    return getattr(swapper, "weight_hash", None) or getattr(swapper, "name", type(swapper).__name__)
