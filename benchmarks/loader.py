"""How fast the stream of training samples is, from every place of the decoded pictures, and codecs in one table:

python benchmarks/loader.py                              # 128 px, batch 64, one thread ahead
python benchmarks/loader.py --size 256 --workers 4 --places memory off --mix pair=0.5 same_photo=0.5
python benchmarks/loader.py --quick                      # small, to check that everything runs

A sample has three pictures. "batches" hands them over as bytes, as the loader does; "into training" also converts them
to floats on the training device, as the step does. Synthetic people are drawn first; every swap is another picture.
"""

import json
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from swapcore import start

start.command(__name__)

import numpy as np
import torch

from benchmarks import codecs
from distill.data import synthetic
from distill.data.cache import Room
from distill.data.photos import Photos, read_manifest
from distill.data.triplet import Triplet
from distill.pseudo_gt.shards import Shards, append
from distill.train.draws import Draws
from distill.train.stream import KINDS, Mixture, batches
from swapcore import terminal
from swapcore.hardware import available_cores, environment

PLACES = ("device", "memory", "file", "off")
PEOPLE, IMAGES = 24, 2  # drawn; triplets are composed of them


def write_shards(folder: Path, photos: Photos, count: int) -> None:
    """`count` triplets in one shard, each of three pictures that are drawn anew."""
    pictures = photos.load(range(len(photos))).permute(0, 2, 3, 1).contiguous().numpy()
    chosen = np.random.default_rng(0).integers(len(pictures), size=(count, 3))
    folder.mkdir()
    with tarfile.open(folder / "shard-00000.tar", "w") as tar, ThreadPoolExecutor(4) as pool:
        for start_ in range(0, count, 256):
            part = range(start_, min(start_ + 256, count))
            facts = {i: {"pair": i, "target": photos.rows[chosen[i][1]]["file"]} for i in part}
            append(tar, ((f"{i:08d}", [pictures[k] for k in chosen[i]], facts[i]) for i in part), pool)


def rates(
    feed: Iterator[Triplet], consume: Callable[[Triplet], object], batch: int, seconds: float
) -> dict[str, float]:
    """Pictures per second in five blocks of time, after the batches that are ready already; and per second of
    processor time of this process and its threads, which other work on the machine disturbs less."""
    found, used = [], []
    for _ in range(8):
        consume(next(feed))
    for _ in range(5):
        started, done, before = time.perf_counter(), 0, time.process_time()
        while time.perf_counter() - started < seconds / 5:
            consume(next(feed))
            done += 1
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(3 * batch * done / (time.perf_counter() - started))
        used.append(3 * batch * done / (time.process_time() - before))
    clock = {"median": statistics.median(found), "least": min(found), "most": max(found)}
    return {**clock, "per_cpu_s": statistics.median(used)}


def stream(place: str, shards: Shards, photos: Photos, args, folder: Path, device: torch.device) -> dict:
    """Pictures per second of one place, when all pictures were decoded once."""
    room = Room(place, 1e3, device)
    started = time.perf_counter()
    mixture = Mixture(shards, photos, args.mix, 0, True, room, folders=(folder, folder), workers=args.workers)
    for kept in mixture.kept:
        if place == "memory":
            kept[range(kept.shape[0])]
    ready_s = time.perf_counter() - started
    row = {"place": place, "ready_s": ready_s}
    for name, consume in {"batches": lambda b: b, "into_training": lambda b: b.on_device(device)}.items():
        feed = batches(mixture, args.batch, 0, 10**7 // args.batch, 0, 1, args.workers, device.type == "cuda")
        row[name] = rates(feed, consume, args.batch, args.seconds)
        del feed
    return row


def drawing(batch: int) -> dict[str, float]:
    """Microseconds a sample to draw two numbers: by a generator of NumPy each, and of all positions at once."""
    timed: dict[str, list[float]] = {"generators": [], "at_once": []}
    for turn in range(20):
        positions = range(turn * batch, (turn + 1) * batch)
        started = time.perf_counter()
        for position in positions:
            rng = np.random.default_rng((0, position))
            rng.choice(5, p=[0.2] * 5), rng.random()
        between = time.perf_counter()
        draws, rows = Draws(0, positions), np.arange(batch)
        draws.random(rows), draws.random(rows)
        timed["generators"].append(between - started)
        timed["at_once"].append(time.perf_counter() - between)
    return {f"{name}_us": 1e6 * statistics.median(values) / batch for name, values in timed.items()}


def share(text: str) -> tuple[str, float]:
    """KIND=SHARE. Raises ValueError."""
    name, _, value = text.partition("=")
    if name not in KINDS or name == "fstriplets":
        raise ValueError(text)
    return name, float(value)


def main(arguments: list[str] | None = None) -> None:
    parser = terminal.parser(__doc__)
    parser.add_argument("--size", type=terminal.whole(32, 4096), default=128, help="pixels; default: 128")
    parser.add_argument("--batch", type=terminal.whole(1), default=64, help="samples per batch; default: 64")
    parser.add_argument("--samples", type=terminal.whole(1), default=1000, help="triplets; default: 1000")
    parser.add_argument("--workers", type=terminal.whole(0, 1024), default=1, help="data.workers; default: 1")
    parser.add_argument("--places", nargs="+", choices=PLACES, help="of data.cache; default: all that this machine has")
    parser.add_argument("--mix", nargs="+", type=share, default=[("pseudo_gt", 1.0)], metavar="KIND=SHARE",
                        help="of train.mix, without fstriplets; default: pseudo_gt=1")  # fmt: skip
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement; default: 5")
    parser.add_argument("--threads", type=terminal.whole(1, 1024), default=1, help="CPU threads of torch; default: 1")
    parser.add_argument("--quick", action="store_true", help="32 px, batch 8, 40 triplets, fractions of a second")
    parser.add_argument("--out", type=Path, help="JSON file of all measurements")
    args = parser.parse_args(arguments)
    if args.quick:
        args.size, args.batch, args.samples, args.seconds = 32, 8, 40, 0.1
    args.mix = dict(args.mix)
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = environment()
    where = facts["gpu"] if device.type == "cuda" else facts["processor"]
    print(f"torch {torch.__version__}, {where}, {available_cores()} cores, commit {facts['commit'][:10]}")
    print(f"{args.size} px, batch {args.batch}, {args.samples} triplets, {args.workers} workers, {args.mix}")
    result = {"arguments": {k: str(v) for k, v in vars(args).items()}, "drawing": drawing(args.batch), "stream": []}
    drawn = result["drawing"]
    print(f"drawing: {drawn['generators_us']:.1f} us a sample by generators, {drawn['at_once_us']:.1f} at once")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthetic.write(folder / "people", {"train": (2 if args.quick else PEOPLE, IMAGES)}, args.size, 0)
        photos = read_manifest(folder / "people", "train", args.size)
        write_shards(folder / "shards", photos, args.samples)
        shards = Shards(folder / "shards")
        for place in args.places or (PLACES if device.type == "cuda" else PLACES[1:]):
            row = stream(place, shards, photos, args, folder / "shards", device)
            result["stream"].append(row)
            print(say(row), flush=True)
        pictures = [*photos.load(range(min(len(photos), 16))).permute(0, 2, 3, 1).contiguous().numpy()]
        result["codecs"] = codecs.measure(pictures, 1 if args.quick else 5)
        print(codecs.text(result["codecs"]))
    if args.out:
        args.out.write_text(json.dumps({**result, "environment": facts}, indent=1) + "\n")


def say(row: dict) -> str:
    parts = (
        f"{row[name]['median']:9,.0f} ({row[name]['least']:,.0f} to {row[name]['most']:,.0f}; "
        f"{row[name]['per_cpu_s']:,.0f} per s of CPU) pictures/s {words}"
        for name, words in (("batches", "as batches"), ("into_training", "into training"))
    )
    return f"{row['place']:7} {', '.join(parts)}; ready after {row['ready_s']:.1f} s"


if __name__ == "__main__":
    main()
