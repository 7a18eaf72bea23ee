"""Swaps per second of teachers, and the share of time outside them:

python benchmarks/pseudo_gt.py exact --size 256 --pairs 64
python benchmarks/pseudo_gt.py landmark_warp --photos FOLDER --weights landmarks=FILE
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from swapcore import start

start.command(__name__)

import torch
import yaml
from accelerate import Accelerator
from tqdm import tqdm

import teachers
from distill import build
from distill.data import prepare as data
from distill.data.photos import read_manifest
from distill.pseudo_gt import generate as pseudo_gt
from distill.pseudo_gt.cache import LruCache
from distill.pseudo_gt.quality import DTYPES, Swapper
from distill.pseudo_gt.store import Store
from distill.schema import Data, Experiment, PseudoGT, Quality, Teacher
from distill.tracking import Tracker
from swapcore import terminal


class Stopwatch:
    """Wraps a function and adds up the seconds that its calls take, with the work of the device."""

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


def main() -> None:
    parser = terminal.parser(__doc__)
    parser.add_argument("teachers", nargs="+", metavar="TEACHER", help="names of teachers.TEACHERS")
    parser.add_argument(
        "--weights", nargs="*", default=[], metavar="PART=FILE", help="weight file or card of each part"
    )
    parser.add_argument("--options", default="{}", help="options of the teacher, as YAML: '{key: value}'")
    parser.add_argument("--folders", nargs="*", default=[], help="folders to search for weight files")
    parser.add_argument("--photos", help="folder of aligned photographs; without it, synthetic faces are drawn")
    parser.add_argument("--size", type=terminal.whole(32, 4096), default=256, help="pixels; default: 256")
    parser.add_argument("--pairs", type=terminal.whole(1), default=64, help="pairs to swap; default: 64")
    parser.add_argument("--batch", type=terminal.whole(1), default=8, help="pairs per forward pass; default: 8")
    parser.add_argument("--people", type=terminal.whole(1), default=16, help="synthetic people, two pictures each")
    parser.add_argument("--pose", help="pose estimator (a card of eval/cards.py) that also runs")
    parser.add_argument("--precision", choices=DTYPES, default="fp32", help="default: fp32")
    parser.add_argument("--threads", type=terminal.whole(1, 1024), default=1, help="CPU threads; default: 1")
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
        data.run(exp, accelerator, Tracker(exp, enabled=False))
        for name in args.teachers:
            spec = Teacher(name, weights=weights, options=yaml.safe_load(args.options))
            settings = PseudoGT(
                teachers=(spec,), pairs=args.pairs, shard_size=args.pairs, batch_size=args.batch,
                quality=Quality(pose=args.pose), precision=args.precision, destination=f"{folder}/{name}",
            )  # fmt: skip
            timed = replace(exp, pseudo_gt=settings)
            print(say(name, timings(timed, accelerator.device, build.teacher(spec, timed))))


def timings(exp: Experiment, device: torch.device, teacher: teachers.Teacher) -> dict[str, float]:
    """Swaps per second of the whole stage and of the teacher alone, shares of the time (outside the teacher, and of it
    in the estimators and in waiting for decoded pictures and for the writer), and of rows that the cache saved."""
    settings = exp.pseudo_gt
    photos = read_manifest(exp.folder / "data", "train", exp.data.resolution)
    teacher.identity, teacher.swap = parts = Stopwatch(teacher.identity, device), Stopwatch(teacher.swap, device)
    estimators = build.quality_estimators(exp)

    def run(count: int, destination: str) -> tuple[float, LruCache, dict[str, float]]:
        """Seconds of the stage for the first `count` pairs, its cache, and seconds in parts of it."""
        part = replace(exp, pseudo_gt=replace(settings, pairs=count))
        cache = LruCache(settings.identity_cache_mb * 2**20, device, settings.batch_size)
        swapper = Swapper([teacher], estimators, photos.rows, cache, settings.precision)
        swapper.assess = assess = Stopwatch(swapper.assess, device)
        started = time.perf_counter()
        with tqdm(total=count, unit="swap", leave=False) as bar:
            waits = pseudo_gt.generate(part, Store(destination), "benchmark", [0], photos, swapper, bar)
        return time.perf_counter() - started, cache, {"estimators": assess.seconds, **waits}

    run(min(settings.batch_size, settings.pairs), f"{settings.destination}-warm-up")
    for part in parts:
        part.seconds = 0.0
    seconds, cache, spent = run(settings.pairs, settings.destination)
    del teacher.identity, teacher.swap  # back to the methods of the class
    inside = sum(part.seconds for part in parts)
    return {
        "swaps_per_s": settings.pairs / seconds,
        "swaps_per_s_forward": settings.pairs / inside,
        "share_outside": 1 - inside / seconds,
        **{f"share_{name}": value / seconds for name, value in spent.items()},
        "share_remembered": cache.hits / (cache.hits + cache.misses),
    }


def say(name: str, measured: dict[str, float]) -> str:
    return (
        f"{name:14} {measured['swaps_per_s']:7.2f} swaps/s end to end, "
        f"{measured['swaps_per_s_forward']:7.2f} by the bare forward; {100 * measured['share_outside']:4.1f} % of the "
        f"time outside the teacher ({', '.join(_parts(measured))}); "
        f"{100 * measured['share_remembered']:.0f} % of identities and embeddings cached"
    )


def _parts(measured: dict[str, float]) -> list[str]:
    names = {"estimators": "estimators", "pictures": "waiting for pictures", "writer": "waiting for the writer"}
    return [f"{words} {100 * measured[f'share_{name}']:.1f}" for name, words in names.items()]


if __name__ == "__main__":
    main()
