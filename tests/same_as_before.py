"""Compare the results of this checkout with those of an earlier commit, on a line that is as small as possible.

    python tests/same_as_before.py [--before 09ca5a1] [--keep FOLDER]

Both commits run the same commands on the same YAML files, each in a process of its own with one thread: synthetic
people, teachers, students, evaluation, export, report. Then this command compares every file that they wrote: shards
and exported files byte by byte, weights and pictures number by number, every value of metrics.json and of MLflow.
Values that depend on the clock, on memory or on the commit are left out. At last this checkout continues the work of
the earlier commit: it fills a gap in its shards, trains on its shards, and resumes its training.

It prints a line per item and ends with status 1 if an item differs. With the weights and photographs of
$SWAPDISTILL_SHARED, or of the folder `shared` beside the checkout, it also runs a line on photographs. It takes three
to four minutes on one core. With --keep, a second call runs this checkout alone.

Keep this command, and run it before every change that must not change results. After one that must, of a student or
of the renderer of synthetic people (teachers/exact), set the default of --before to its commit.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from helpers.results import compare, sort_metadata
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("SWAPDISTILL_SHARED", ROOT.parent / "shared"))
STAGES = ["data", "pseudo_gt", "train", "eval", "report"]
ADAM = {"lr": 1e-3, "lr_discriminator": 1e-3, "betas": [0.5, 0.99]}
METRICS = [
    "id_retrieval", "id_similarity", "pose_error", "expression_error", "exact_match", "background_error", "size_mb",
]  # fmt: skip

BASE = {
    "seed": 5,
    "threads": 1,
    "data": {
        "resolution": 64, "train_people": 6, "train_images": 2, "val_people": 2, "test_people": 4, "test_images": 2,
        "workers": 0,
    },
    "pseudo_gt": {"pairs": 20, "shard_size": 8, "batch_size": 4},
    "student": {"name": "compact", "options": {"width": 8}},
    "train": {"steps": 4, "batch_size": 4, **ADAM, "checkpoint_steps": 2, "log_steps": 1, "preview_steps": 2},
    "loss": {
        "adversarial": [1, 0.1, 0.1], "identity": [1, 1, 0], "reconstruction": [1, 1, 1], "perceptual": 1,
        "discriminator": {"ndf": 4, "layers": 2},
    },
    "eval": {"pairs": 8, "pictures": 2, "metrics": METRICS},
    "tracking": {"uri": "none"},
}  # fmt: skip

TRAINED_TEACHER = "runs/teacher/train/teacher.safetensors"

# The exact teacher; compact and mobilefsgan with a discriminator; variants, seeds, MLflow.
VARIANTS = {
    "tracking": {"uri": "sqlite:///mlflow.db"},
    "pseudo_gt": {
        "teachers": ["exact", {"name": "exact", "label": "exact_again"}], "choose": "best_of",
        "quality": {"pose": "synthetic_pose_quality", "min_id_similarity": 0.7},
    },
    "variants": {
        "compact": {"seeds": [0, 1]},
        "mobilefsgan": {
            "seeds": [0], "student": {"name": "mobilefsgan", "options": {"width": 4}},
            "train.accumulation": 2, "train.batch_size": 2, "train.flip": True, "distil.gram": 1.0,
            "distil.quality_power": 1.0, "loss.reconstruction_kind": "original", "loss.adversarial_batch": "sum",
            "loss.reconstruction_norm": "l2", "stages": [*STAGES[:4], "export", "report"], "export.to": ["tnn"],
        },
    },
}  # fmt: skip

# FaceShifter as a teacher in training, both stages.
TEACHER = {
    "stages": ["data", "train", "refine", "eval", "report"],
    "student": {"name": "faceshifter", "options": {"width": 4}},
    "train": {"mix": {"pseudo_gt": 0, "same_person": 0.5, "pair": 0.5}, "warmup_steps": 2, "lr_final": 0.1},
    "loss": {
        "attribute": 10, "perceptual": 0, "reconstruction_norm": "l2",
        "discriminator": {"kind": "pyramid", "ndf": 4, "layers": 2},
    },
    "refine": {
        "options": {"width": 4},
        "train": {
            "steps": 2, "batch_size": 2, **ADAM, "log_steps": 1, "preview_steps": 2,
            "mix": {"pseudo_gt": 0, "same_person": 0.5, "pair": 0.5},
        },
    },
    "eval": {"metrics": [*METRICS, "latency_ms", "peak_memory_mb"]},
}  # fmt: skip

# That teacher beside the exact one and in the loop; every kind of sample; every further term; export.
DISTIL = {
    "stages": [*STAGES[:4], "export", "report"],
    "data": {"fstriplets": "fstriplets", "occlusions": "occlusions", "occlusion_share": 0.5},
    "pseudo_gt": {
        "teachers": [
            {"name": "faceshifter", "weights": {"generator": "runs/teacher/teacher.safetensors"}},
            {"name": "exact", "share": 2.0},
        ],
        "quality": {"pose": "synthetic_pose_quality", "max_pose_error_deg": 60},
    },
    "train": {
        "steps": 8, "grad_clip": 1.0,
        "mix": {"pseudo_gt": 0.3, "same_photo": 0.2, "same_person": 0.2, "pair": 0.2, "fstriplets": 0.3},
    },
    "distil": {
        "online": {"name": "faceshifter", "label": "online", "weights": {"generator": TRAINED_TEACHER}},
        "features": 1.0, "layers": {"encode4": "generator.encoder.downs.1"}, "gram": 1.0, "quality_power": 1.0,
    },
    "export": {"to": ["onnx", "tnn"], "precisions": ["fp32", "fp16"]},
}  # fmt: skip

# Photographs, a teacher with downloaded weights, estimators of photographs.
PHOTOS = {
    "weights": [str(SHARED / "weights")],
    "data": {"kind": "photos", "photos": str(SHARED / "faces" / "train"), "heldout": str(SHARED / "faces" / "heldout")},
    "pseudo_gt": {
        "teachers": ["landmark_warp", {"name": "faceshifter", "weights": {"generator": TRAINED_TEACHER}}],
        "choose": "best_of", "pairs": 12,
    },
    "student": {"identity_encoder": "foamliu_128"},
    "eval": {
        "recogniser": "xiaoccer_128", "pose": "3ddfa_v2_mb05", "expression": "3ddfa_v2_mb05",
        "features": "squeezenet1_0_compressed", "metrics": [*METRICS[:4], "fid"], "flip": True,
    },
}  # fmt: skip

RUN = "distill/run.py"
TRAIN_ONLY = ["stages=[data, pseudo_gt, train]", "export.to=[]"]
RUNS = [
    [RUN, "variants.yaml"],
    [RUN, "teacher.yaml"],
    ["datasets/make_fstriplets.py", "fstriplets", "--people", "3", "--images", "2", "--size", "64"],
    [RUN, "distil.yaml"],
    [RUN, "distil.yaml", "runs=half", *TRAIN_ONLY, "train.steps=4"],
    ["datasets/make_pairs.py", "synthetic", "runs/teacher/data", *"--out pairs --count 8 --resolution 64".split()],
    [
        "distill.evaluate", "copy-target", "runs/variants/mobilefsgan-seed0/student.safetensors",
        "runs/teacher/teacher.safetensors", "runs/distil/export/onnx-fp32/whole.onnx", "--pairs", "pairs",
        "--metrics", "id_retrieval,id_similarity,pose_error", "--out", "evaluated",
    ],
]  # fmt: skip
ON_PHOTOS = [[RUN, "photos.yaml"]]
# What this checkout does in a copy of the work of the earlier commit.
CONTINUED = [
    [RUN, "distil.yaml", "runs=half", *TRAIN_ONLY],
    [RUN, "distil.yaml", "stages=[data, pseudo_gt, train, eval]", "export.to=[]"],
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="09ca5a1", metavar="COMMIT", help="the earlier commit; default: 09ca5a1")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep all files; the next call runs this side alone"
    )
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the blocks below clean up
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary) / "work").resolve()
        if not run_before(args.before, folder / "before", Path(temporary) / "checkout"):
            return 2
        for name in ("now", "continued"):
            shutil.rmtree(folder / name, ignore_errors=True)
        lines = list(compare_sides(folder / "before", folder / "now", folder / "continued"))
    different = sum(not same for _, same in lines)
    print(f"{len(lines)} items, {different} different")
    return int(different > 0)


def run_before(commit: str, folder: Path, checkout: Path) -> bool:
    """Run the commands at an earlier commit, unless the folder holds its finished work; whether all succeeded."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", commit], check=True, capture_output=True, text=True).stdout.strip()
    record = folder / "finished.json"
    work = {"commit": commit, "commands": commands(), "experiments": experiments()}
    if record.is_file() and json.loads(record.read_text()) == work:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(checkout), commit], check=True)
    try:
        prepare(folder)
        if not run(checkout, folder, commands()):
            return False
    finally:
        subprocess.run([*git, "worktree", "remove", "--force", str(checkout)], check=True)
    record.write_text(json.dumps(work))
    return True


def compare_sides(before: Path, now: Path, continued: Path) -> Iterator[tuple[str, bool]]:
    """Run this checkout in `now`, and on a copy of the earlier work in `continued`; a name and whether it is equal."""
    prepare(now)
    yield "commands", run(ROOT, now, commands())
    yield from report("", compare(before, now))

    shutil.copytree(before, continued, symlinks=True)
    distil = continued / "runs" / "distil"
    for path in (*distil.glob("pseudo_gt/shard-00001.*"), *distil.glob("pseudo_gt/done.json")):
        path.unlink()
    for stage in ("train", "eval"):
        shutil.rmtree(distil / stage)
    yield "commands on earlier work", run(ROOT, continued, CONTINUED)
    yield from report("after a gap in its shards: ", compare(before / "runs/distil", distil, ("pseudo_gt",)))
    yield from report("trained on its shards: ", compare(before / "runs/distil", distil, ("train", "eval")))
    resumed = continued / "half" / "distil"
    yield from report("resumed at step 4: ", compare(before / "runs/distil", resumed, ("train",)))


def commands() -> list[list[str]]:
    return RUNS + (ON_PHOTOS if (SHARED / "weights").is_dir() else [])


def prepare(folder: Path) -> None:
    """Write the experiments and the pictures that they name."""
    (folder / "occlusions").mkdir(parents=True)
    rgba = np.random.default_rng(0).integers(0, 256, (24, 24, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(folder / "occlusions" / "noise.png")
    for name, tree in experiments().items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))


def experiments() -> dict[str, dict[str, Any]]:
    """The YAML files by name: BASE with the changes of each."""
    trees = {}
    for name, changes in {"variants": VARIANTS, "teacher": TEACHER, "distil": DISTIL, "photos": PHOTOS}.items():
        trees[name] = {**BASE, "name": name}
        for section, values in changes.items():
            trees[name][section] = {**BASE.get(section, {}), **values} if isinstance(values, dict) else values
    return trees


def run(root: Path, folder: Path, commands: list[list[str]]) -> bool:
    """Run commands of the checkout `root` in `folder`; whether all succeeded. What failed is printed."""
    started = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONDONTWRITEBYTECODE": "1"}
    log = folder / "output.log"
    with open(log, "w") as output:
        done = subprocess.run(
            [sys.executable, __file__, "--drive", str(root), json.dumps(commands)],
            cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    lines = [line for line in log.read_text().splitlines() if "%|" not in line]  # no progress bars
    if done.returncode:
        print("\n".join(lines[-40:]))
    print(f"{len(commands)} commands of {root}: {time.perf_counter() - started:.0f} s, output in {log}", flush=True)
    return not done.returncode


def drive(root: str, commands: str) -> int:
    """Run commands, one after the other, in this process, which imports torch once; 1 where one failed. The first word
    of a command is a script of the checkout or a module."""
    sys.path[0], failed = root, 0
    for target, *arguments in json.loads(commands):
        started, status, sys.argv = time.perf_counter(), 0, [target, *arguments]
        try:
            if target.endswith(".py"):
                runpy.run_path(f"{root}/{target}", run_name="__main__")
            else:
                runpy.run_module(target, run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        except Exception:
            traceback.print_exc()
            status = 1
        failed |= bool(status)
        for path in Path.cwd().rglob("*.safetensors"):
            sort_metadata(path)
        print(f"# {time.perf_counter() - started:.1f} s, status {status or 0}:", *sys.argv, file=sys.stderr, flush=True)
    return int(failed)


def report(prefix: str, items: Iterator[tuple[str, list[str]]]) -> Iterator[tuple[str, bool]]:
    for name, differences in items:
        shown = "; ".join(differences[:3]) + (f"; {len(differences) - 3} more" if len(differences) > 3 else "")
        print(f"DIFFERENT  {prefix}{name}: {shown}" if differences else f"same       {prefix}{name}", flush=True)
        yield name, not differences


if __name__ == "__main__":
    sys.exit(drive(*sys.argv[2:]) if sys.argv[1:2] == ["--drive"] else main())
