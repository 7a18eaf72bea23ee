"""Stage `eval`: builds swappers and rulers by name, and has eval measure every swapper on the same held-out people.

    python -m distill.evaluate SWAPPER [SWAPPER ...] --experiment exp.yaml [--set section.key=value ...]

A SWAPPER is copy-target, copy-source, the name of a teacher, or a student's .safetensors file. The pairs, metrics and
rulers are those of the experiment, whose stage `data` has run.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import eval as measuring
import students
import teachers
from distill import build, config, pictures, weights
from distill.config import ConfigError, Experiment, Teacher, to_dict
from distill.data.photos import Photos, read_manifest
from distill.stage import Stage, open_stage, upstream, write_json
from distill.tracking import environment
from eval import sanity
from students.identity_encoder import IdentityEncoder


def run(exp: Experiment, accelerator, tracker) -> Stage:
    inputs = {
        **{stage: upstream(exp, stage) for stage in ("train", "refine") if stage in (*exp.stages, "train")},
        "eval": to_dict(exp.eval),
        "rulers": {k: r.weight_hash for k, r in vars(build.rulers(exp)).items() if r is not None},
        "renderer": teachers.build("exact").weight_hash,
    }
    stage = open_stage(exp, "eval", inputs, accelerator, redo=True)
    if stage.done:
        accelerator.print(f"  finished before: {stage.folder}")
        return stage
    if not accelerator.is_main_process:  # a few minutes of one process; the others wait at the end of the stage
        return stage
    pairs = test_pairs(exp)
    bench = measuring.Bench(pairs, build.rulers(exp), device=accelerator.device, batch_size=exp.eval.batch_size)
    rows, verdicts, shown = {}, [], {"source": pairs.source, "target": pairs.target}
    for name, swapper in swappers(exp, pairs, accelerator.device).items():
        with tqdm(total=len(pairs.source), desc=f"measure {name}", unit="pair") as bar:
            done = bench.evaluate(swapper, list(exp.eval.metrics), progress=bar.update)
        rows[name] = {metric: value.as_dict() for metric, value in done.values.items()}
        if name not in ("copy-target", "copy-source"):
            verdicts += sanity.verdict(name, done.values, done.swaps, pairs)
            same = int((done.swaps == pairs.target).flatten(1).all(1).sum())
            if same:
                verdicts.append(f"{name} leaves {same} of {len(pairs.target)} targets as they are")
            shown[name] = done.swaps
        tracker.metrics({f"eval/{name}/{k}": v["value"] for k, v in rows[name].items()})
    count = exp.eval.pictures
    for column, images in shown.items():
        for i, image in enumerate(images[:count]):
            pictures.save_png(image, stage.folder / "pictures" / f"{i:02d}.{column}.png")
    sheet = pictures.grid({k: v[:count] for k, v in shown.items()}, cell=max(128, exp.data.resolution))
    pictures.save_png(sheet, stage.folder / "grid.png")
    tracker.artifact(stage.folder / "grid.png")
    write_json(
        stage.folder / "metrics.json",
        {
            "experiment": exp.name,
            "seed": exp.seed,
            "pairs": {
                "name": pairs.name,
                "hash": pairs.hash,
                "count": len(pairs.source),
                "gallery": len(pairs.gallery),
            },
            "rows": rows,
            "verdicts": verdicts,
            "environment": environment(),
        },
    )
    tracker.artifact(stage.folder / "metrics.json")
    for line in verdicts:
        accelerator.print(f"  ! {line}")
    stage.finish()
    return stage


def swappers(exp: Experiment, pairs, device) -> dict[str, Any]:
    """The rows of an experiment's table, by name: the sanity rows, its teachers, what it trained."""
    rows = {name: build_swapper(name, exp, pairs, device) for name in ("copy-target", "copy-source")}
    if pairs.exact is not None:
        rows["exact"] = Rendered(pairs.exact)
    if exp.train.mix.pseudo_gt:
        specs = [t for t in exp.pseudo_gt.teachers if t.name != "exact"]
        rows |= {build.label(spec): Steady(build.teacher(spec, exp)).to(device) for spec in specs}
    if exp.distil.online:
        rows[build.label(exp.distil.online)] = Steady(build.teacher(exp.distil.online, exp, "distil.online")).to(device)
    for name, path in trained(exp).items():
        rows[name] = build_swapper(str(path), exp, pairs, device)
    return rows


def trained(exp: Experiment) -> dict[str, Path]:
    """What an experiment trained, by the name of its row: a student, or the stages of a teacher."""
    stages = {exp.student.name: "train"} | ({f"{exp.student.name}-refined": "refine"} if "refine" in exp.stages else {})
    file = "teacher.safetensors" if exp.student.name == "faceshifter" else "student.safetensors"
    return {name: exp.folder / stage / file for name, stage in stages.items()}


def build_swapper(name: str, exp: Experiment, pairs, device):
    """A callable (source, target) -> swap by name or by file. Raises ConfigError listing what is known."""
    if name == "copy-target":
        return sanity.copy_target
    if name == "copy-source":
        return sanity.copy_source
    if name == "exact":
        if pairs.exact is None:
            raise ConfigError(f"swapper 'exact' renders synthetic faces; data.kind of '{exp.name}' is photos")
        return Rendered(pairs.exact)
    if name.endswith("teacher.safetensors"):
        return Steady(build.teacher(Teacher("faceshifter", weights={"generator": name}), exp, name)).to(device)
    if name.endswith(".safetensors"):
        return load_student(name, exp).to(device)
    specs = {build.label(spec): spec for spec in exp.pseudo_gt.teachers}
    if name in specs or name in teachers.TEACHERS:
        return Steady(build.teacher(specs.get(name, Teacher(name)), exp, f"swapper '{name}'")).to(device)
    known = ["copy-target", "copy-source", *specs, *teachers.TEACHERS, "a student's or teacher's .safetensors file"]
    raise ConfigError(f"unknown swapper '{name}'; known: {', '.join(dict.fromkeys(known))}")


class Steady(torch.nn.Module):
    """A teacher that must give a swap for every pair: where it finds no face, the target stays as it is."""

    def __init__(self, teacher: teachers.Teacher):
        super().__init__()
        self.teacher, self.name = teacher, teacher.name
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


class Rendered:
    """The exact teacher on fixed pairs: its swaps were rendered when the pairs were made."""

    name = "exact"

    def __init__(self, exact: torch.Tensor):
        self.exact, self.next = exact, 0

    def __call__(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        part = self.exact[self.next : self.next + len(source)]
        self.next = (self.next + len(source)) % len(self.exact)
        return measuring.to_float(part).to(target.device)


def load_student(path: str | Path, exp: Experiment):
    """A student's file with its identity encoder, as a swapper."""
    generator = students.load(path)
    encoder = build.identity_encoder(exp)
    swapper = students.StudentSwapper(generator, encoder).eval().requires_grad_(False)
    swapper.files = {"generator": Path(path), "identity_encoder": weights.find(encoder.card, exp.weights)}
    return swapper


def test_pairs(exp: Experiment):
    """The fixed pairs of held-out people: the gallery is everybody's first picture, sources and targets the others."""
    photos = read_manifest(exp.folder / "data", "test", exp.data.resolution)
    return make_pairs(f"{exp.name}/test", photos, exp.eval.pairs, exp.seed)


def make_pairs(name: str, photos: Photos, count: int, seed: int):
    """`count` pairs of two people by seed, every person as source equally often. Raises ValueError without people."""
    people = list(photos.people.values())
    number = np.unique([row["person"] for row in photos.rows], return_inverse=True)[1]
    sources = [indices[1:] for indices in people if len(indices) > 1]  # the first picture is the gallery's
    targets = [indices[1:] or indices for indices in people]
    if len(people) < 2 or not sources:
        raise ConfigError(
            f"{photos.root}: {len(people)} people for evaluation, {len(sources)} of them with two pictures"
        )
    rng = np.random.default_rng((seed, 11))
    chosen = []
    for i in range(count):
        if i % len(sources) == 0:
            order = rng.permutation(len(sources))
        source = int(rng.choice(sources[order[i % len(sources)]]))
        target = source
        while number[target] == number[source]:
            target = int(rng.choice(targets[rng.integers(len(targets))]))
        chosen.append((source, target))
    source, target = (list(column) for column in zip(*chosen, strict=True))
    gallery = [indices[0] for indices in people]
    known = "identity" in photos.rows[0]
    return measuring.Pairs(
        name=name,
        source=photos.load(source),
        target=photos.load(target),
        exact=exact_swaps(photos, source, target) if known else None,
        source_person=torch.from_numpy(number[source]),
        target_person=torch.from_numpy(number[target]),
        gallery=photos.load(gallery),
        gallery_person=torch.from_numpy(number[gallery]),
        target_pose_deg=torch.tensor([photos.rows[i]["pose_deg"] for i in target]) if known else None,
        mask=photos.load_masks(target) if known else None,
    )


def exact_swaps(photos: Photos, source: list[int], target: list[int]) -> torch.Tensor:
    """The true swaps of synthetic pictures, (n, 3, R, R) uint8."""
    blank = torch.zeros(len(source), 3, photos.resolution, photos.resolution)
    rows = [[photos.rows[i] for i in column] for column in (source, target)]
    return measuring.to_uint8(teachers.build("exact")(blank, blank, *rows))


@dataclass(frozen=True)
class Validation:
    """A few pairs of people kept for looks while training; they are neither trained nor tested on."""

    source: torch.Tensor
    target: torch.Tensor
    exact: torch.Tensor | None
    encoder: IdentityEncoder

    def to(self, device) -> Validation:
        moved = {k: v.to(device) for k, v in vars(self).items() if v is not None}
        return replace(self, **moved)

    @torch.inference_mode()
    def look(self, student, condition) -> tuple[dict[str, float], Image.Image]:
        """Measured values by name, and a grid to look at. `condition` (source, target) is what the student is given."""
        source, target = measuring.to_float(self.source), measuring.to_float(self.target)
        given = condition(source, target)
        swap = student(target, *given)[0]
        measured = {"val/id_similarity": float((self.encoder(swap) * given[0]).sum(1).mean())}
        columns = {"source": self.source, "target": self.target}
        if self.exact is not None:
            measured["val/l1_exact"] = float((swap - measuring.to_float(self.exact)).abs().mean())
            columns["exact"] = self.exact
        columns["student"] = measuring.to_uint8(swap.clamp(-1, 1))
        return measured, pictures.grid({k: v.cpu() for k, v in columns.items()})


def validation_pairs(exp: Experiment) -> Validation:
    photos = read_manifest(exp.folder / "data", "val", exp.data.resolution)
    people = list(photos.people.values())
    source = [indices[0] for indices in people]
    target = [people[(i + 1) % len(people)][-1] for i in range(len(people))]
    exact = exact_swaps(photos, source, target) if "identity" in photos.rows[0] else None
    return Validation(photos.load(source), photos.load(target), exact, build.identity_encoder(exp))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("swappers", nargs="+", metavar="SWAPPER")
    parser.add_argument("--experiment", required=True, help="YAML file whose pairs, metrics and rulers are used")
    parser.add_argument("--set", nargs="*", default=[], metavar="section.key=value")
    args = parser.parse_args(arguments)
    try:
        exp = config.load(args.experiment, args.set)
        pairs = test_pairs(exp)
        bench = measuring.Bench(pairs, build.rulers(exp), batch_size=exp.eval.batch_size)
        for name in args.swappers:
            values = bench.evaluate(build_swapper(name, exp, pairs, "cpu"), list(exp.eval.metrics)).values
            print(name)
            for metric, value in values.items():
                print(f"  {metric:28} {value.value:12.4f} {value.unit}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
