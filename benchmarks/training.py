"""Seconds of a training step, loading included, against those of another checkout of this project, in turns:

    python benchmarks/training.py --against FOLDER [--experiment FILE] [section.key=value ...]

Both train the same file, by default experiments/quickstart.yaml of FOLDER, on few people. The first steps of each are
not counted; after these each trains `--steps` more in every round, so that both meet the same load of the machine.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from swapcore import start

start.command(__name__)

from swapcore import terminal
from swapcore.files import read_json, write_json
from swapcore.hardware import environment

FIRST = 20  # steps that are not counted
SETTINGS = (
    "name=timed", "stages=[data, pseudo_gt, train]", "tracking.uri=none", "data.train_people=64", "data.val_people=2",
    "data.test_people=2", "data.test_images=2", "pseudo_gt.pairs=256", "pseudo_gt.shard_size=128",
    "train.checkpoint_steps=1000000", "train.preview_steps=1000000",
)  # fmt: skip


def trained_s(checkout: Path, file: Path, runs: Path, steps: int, words: list[str]) -> float:
    """Train up to `steps`. Returns the seconds of the training stage, over all starts."""
    command = [sys.executable, checkout / "distill" / "run.py", file, *SETTINGS, *words]
    # Without linear decay or warm-up by the number of steps, more steps go on where fewer ended.
    command += [f"runs={runs}", f"train.steps={steps}", "train.warmup_steps=0", "train.lr_final=1"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=checkout)
    if done.returncode:
        raise ValueError(f"{checkout}: its training failed:\n{done.stderr[-1000:]}")
    record = read_json(runs / "timed" / "train" / "done.json")
    return 60 * (record.get("content") or record)["minutes"]


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("overrides", nargs="*", default=[], metavar="section.key=value", help="change keys of the file")
    parser.add_argument("--against", type=Path, required=True, metavar="FOLDER", help="the other checkout")
    parser.add_argument("--experiment", type=Path, metavar="FILE", help="default: FOLDER/experiments/quickstart.yaml")
    parser.add_argument("--own", nargs="+", default=[], metavar="KEY=VALUE", help="settings of this checkout alone")
    parser.add_argument("--steps", type=terminal.whole(1), default=60, help="of each in a round; default: 60")
    parser.add_argument("--rounds", type=terminal.whole(1), default=3, help="default: 3")
    parser.add_argument("--out", type=Path, help="JSON file of all measurements")
    args = parser.parse_intermixed_args(arguments)
    return terminal.run_command(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    file = (args.experiment or args.against / "experiments" / "quickstart.yaml").resolve()
    checkouts = {"here": ROOT, "there": args.against.resolve()}
    seconds: dict[str, list[float]] = {name: [] for name in checkouts}
    with tempfile.TemporaryDirectory() as folder:

        def until(name: str, steps: int) -> float:
            words = [*args.overrides, *(args.own if name == "here" else ())]
            return trained_s(checkouts[name], file, Path(folder) / name, steps, words)

        before = {name: until(name, FIRST) for name in checkouts}
        for number in range(1, args.rounds + 1):
            for name in checkouts:
                after = until(name, FIRST + number * args.steps)
                seconds[name].append((after - before[name]) / args.steps)
                before[name] = after
            own, other = (times[-1] for times in seconds.values())
            print(f"{own:.3f} s a step here, {other:.3f} s there: {other / own:.2f} times as fast", flush=True)
    ratio = statistics.median(b / a for a, b in zip(*seconds.values(), strict=True))
    print(f"median: {ratio:.2f} times as fast")
    if args.out:
        write_json(args.out, {"seconds": seconds, "ratio": ratio, "environment": environment()})


if __name__ == "__main__":
    sys.exit(main())
