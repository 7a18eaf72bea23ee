"""The training step with OpenMP's threads spinning shortly, as the commands set them, passive, and spinning, as by
default:

python benchmarks/wait_policy.py                 # on an idle machine: what waiting passively costs
python benchmarks/wait_policy.py --beside 2      # beside two processes that are always busy: what it saves

The ways run in turns, so that other work on the machine concerns all alike; the ratios are those of the medians.
"""

import multiprocessing
import os
import re
import statistics
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from swapcore import start

start.command(__name__)

from swapcore import terminal
from swapcore.hardware import available_cores

# GOMP_SPINCOUNT overrides the policy; 300,000 is libgomp's default where neither is set.
WAYS = {
    "short": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spinning": {"GOMP_SPINCOUNT": "300000"},
}
RESULT = re.compile(r"([\d.]+) samples/s")


def main() -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("--pairs", type=terminal.whole(1), default=5, help="runs of each way; default: 5")
    parser.add_argument("--steps", type=terminal.whole(1), default=10, help="timed steps of a run; default: 10")
    parser.add_argument("--beside", type=terminal.whole(0, 64), default=0, help="busy processes beside it; default: 0")
    args = parser.parse_args()
    return terminal.run_command(lambda: compare(args.pairs, args.steps, args.beside))


def compare(pairs: int, steps: int, beside: int) -> None:
    cores = available_cores()
    print(f"{cores} cores, {cores} threads, {beside} busy processes beside")
    rates = {way: [] for way in WAYS}
    with busy(beside):
        for number in range(pairs):
            for way in sorted(WAYS, reverse=bool(number % 2)):
                rates[way].append(rate(way, cores, steps))
            print("  " + ", ".join(f"{way} {rates[way][-1]:.2f} samples/s" for way in WAYS), flush=True)
    medians = {way: statistics.median(rates[way]) for way in WAYS}
    for way in ("short", "passive"):
        print(f"{way} is {medians[way] / medians['spinning']:.2f} times as fast as spinning")


def rate(way: str, threads: int, steps: int) -> float:
    """Samples per second of the small training step. Raises ValueError if it fails."""
    command = [sys.executable, "benchmarks/train_step.py", "--quick", "--only", "b", "--no-autotune"]
    command += ["--precision", "fp32", "--threads", str(threads), "--steps", str(steps)]
    others = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(command, cwd=ROOT, env={**others, **WAYS[way]}, capture_output=True, text=True)
    found = RESULT.search(done.stdout)
    if done.returncode or not found:
        raise ValueError(f"{' '.join(command[1:])}: failed: {(done.stderr.strip().splitlines() or ['no result'])[-1]}")
    return float(found[1])


@contextmanager
def busy(count: int):
    """Processes that compute without a pause."""
    processes = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()


def _spin() -> None:
    while True:
        pass


if __name__ == "__main__":
    sys.exit(main())
