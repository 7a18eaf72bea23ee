"""Swaps per second of teachers, and the share of time outside them:

python benchmarks/pseudo_gt.py exact --size 256 --pairs 64
python benchmarks/pseudo_gt.py landmark_warp --photos FOLDER --weights landmarks=FILE
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
import yaml
from accelerate import Accelerator
from tqdm import tqdm

import teachers
from distill import build
from distill.data import prepare as data
from distill.data.photos import read_manifest
from distill.pseudo_gt import generate as pseudo_gt
from distill.pseudo_gt.quality import DTYPES, Memory, Swapper
from distill.pseudo_gt.store import Store
from distill.schema import Data, Experiment, PseudoGT, Quality, Teacher


class Watch:
    """Measures the total seconds inside a function, including the device's work."""

    def __init__(self, function, device):
        self.function, self.device, self.seconds = function, device, 0.0

    def __call__(self, *arguments):
        self._wait()
        started = time.perf_counter()
        try:
            return self.function(*arguments)
        finally:
            self._wait()
            self.seconds += time.perf_counter() - started

    def _wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Quiet:
    def metrics(self, values, step=None):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teachers", nargs="+", metavar="TEACHER", help="names of teachers.TEACHERS")
    parser.add_argument(
        "--weights", nargs="*", default=[], metavar="PART=FILE", help="files the teacher reads, or cards"
    )
    parser.add_argument("--options", default="{}", help="options of the teacher, as YAML")
    parser.add_argument("--folders", nargs="*", default=[], help="folders searched for weights")
    parser.add_argument("--photos", help="folder of aligned photographs; without it, synthetic faces are drawn")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--people", type=int, default=16, help="synthetic people, two pictures each")
    parser.add_argument("--pose", help="also measure the pose with this estimator")
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    weights = dict(part.split("=", 1) for part in args.weights)
    print(
        f"torch {torch.__version__}, {accelerator.device}, {args.threads} threads, {args.size} px, batch {args.batch}, "
        f"{args.pairs} pairs, {args.precision}"
    )
    with tempfile.TemporaryDirectory() as folder:
        exp = Experiment(
            name="benchmark", runs=folder, weights=tuple(args.folders), stages=("data", "pseudo_gt"),
            data=Data(kind="photos" if args.photos else "synthetic", photos=args.photos, resolution=args.size,
                      train_people=args.people, val_people=2, test_people=2),
        )  # fmt: skip
        data.run(exp, accelerator, Quiet())
        for name in args.teachers:
            spec = Teacher(name, weights=weights, options=yaml.safe_load(args.options))
            settings = PseudoGT(
                teachers=(spec,), pairs=args.pairs, shard_size=args.pairs, batch_size=args.batch,
                quality=Quality(pose=args.pose), precision=args.precision, destination=f"{folder}/{name}",
            )  # fmt: skip
            timed = Experiment(**{**vars(exp), "pseudo_gt": settings})
            print(say(name, timings(timed, accelerator.device, build.teacher(spec, timed))))


def timings(exp: Experiment, device: torch.device, teacher: teachers.Teacher) -> dict[str, float]:
    """Swaps/s of the stage, end to end, and of the teacher's forward alone; share of identities read from the cache."""
    settings = exp.pseudo_gt
    photos = read_manifest(exp.folder / "data", "train", exp.data.resolution)
    memory = Memory(settings.identity_cache_mb * 2**20, device, settings.batch_size)
    swapper = Swapper(
        [teacher], build.quality_estimators(exp), settings.quality, photos.rows, memory, settings.precision
    )
    warm = [pseudo_gt.draw_pair(photos, 1, n) for n in range(settings.batch_size)]
    pictures = photos.load([i for pair in warm for i in pair]).unflatten(0, (len(warm), 2))
    swapper(pseudo_gt.Batch(0, list(range(len(warm))), warm, pictures, [0], last=True))
    memory.rows.clear()
    memory.bytes = memory.hits = memory.misses = 0
    parts = [Watch(teacher.identity, device), Watch(teacher.swap, device)]
    teacher.identity, teacher.swap = parts  # in the instance, before the methods of the class
    try:
        started = time.perf_counter()
        with tqdm(total=settings.pairs, unit="swap", leave=False) as bar:
            pseudo_gt.make(exp, Store(settings.destination), "benchmark", [0], photos, swapper, bar)
        seconds, inside = time.perf_counter() - started, sum(part.seconds for part in parts)
    finally:
        del teacher.identity, teacher.swap
    return {
        "swaps_per_s": settings.pairs / seconds,
        "swaps_per_s_forward": settings.pairs / inside,
        "share_outside": 1 - inside / seconds,
        "share_remembered": memory.hits / (memory.hits + memory.misses),
    }


def say(name: str, found: dict[str, float]) -> str:
    return (
        f"{name:14} {found['swaps_per_s']:7.2f} swaps/s end to end, "
        f"{found['swaps_per_s_forward']:7.2f} by the bare forward; {100 * found['share_outside']:4.1f} % of the time "
        f"outside the teacher; {100 * found['share_remembered']:.0f} % of identities and embeddings not read again"
    )


if __name__ == "__main__":
    main()
