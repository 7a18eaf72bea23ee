"""Milliseconds per picture of teachers/exact, and operations of a call: `python benchmarks/render.py [--threads 1]
[--against FOLDER]`.

`--against` times the renderer of another checkout in turns with this one, each in a process of its own: both meet the
same load of the machine. It needs `render`, `sample_identities` and `sample_attributes`, which every version has.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path[0] = str(HERE)

from swapcore import start

start.command(__name__)

from swapcore import terminal
from swapcore.files import write_json

# Reads "ms" and a size, prints the milliseconds per picture of one call; or "operations" and a size, prints those of a
# call, views left out. The current folder is the checkout.
PROGRAM = """
import runpy, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
sys.path.insert(0, "")
import torch
from teachers.exact import render, sample_attributes, sample_identities
threads, batch, device = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
Operations = runpy.run_path(sys.argv[4])["Operations"]
torch.set_num_threads(threads)
identity, attributes = sample_identities(batch, 0).to(device), sample_attributes(batch, 1).to(device)
print(torch.__version__, flush=True)
for line in sys.stdin:
    asked, size = line.split()
    if asked == "operations":
        with Operations(1, 1) as counted:
            render(identity, attributes, int(size))
        print(counted.calls, flush=True)
    else:
        started = time.perf_counter()
        render(identity, attributes, int(size)).image.cpu()
        print((time.perf_counter() - started) / batch * 1000, flush=True)
"""


class Renderer:
    """The renderer of a checkout in its own process. Raises ValueError where the folder has none, or it stops."""

    def __init__(self, folder: Path, args: argparse.Namespace) -> None:
        if not (folder / "teachers" / "exact" / "__init__.py").is_file():
            raise ValueError(f"--against {folder}: no checkout of this project: teachers/exact is missing")
        self.folder = folder
        numbers = args.threads, args.batch, args.device, HERE / "benchmarks" / "roofline.py"
        words = [sys.executable, "-c", PROGRAM, *map(str, numbers)]
        self.process = subprocess.Popen(
            words, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": str(args.threads)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.torch = self._answer()

    def ms(self, size: int) -> float:
        """Milliseconds per picture of one call."""
        return float(self._ask("ms", size))

    def operations(self, size: int) -> int:
        """Of one call, views left out; a CPU draws a large batch in several parts, each with all of them."""
        return int(self._ask("operations", size))

    def _ask(self, what: str, size: int) -> str:
        self.process.stdin.write(f"{what} {size}\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            if self.process.wait() == -signal.SIGINT:  # Ctrl-C reaches both processes; this one may hear of it later
                raise KeyboardInterrupt
            raise ValueError(f"{self.folder}: its renderer stopped; see above")
        return line.strip()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def main() -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("--threads", type=terminal.whole(1, 1024), default=1, help="CPU threads; default: 1")
    parser.add_argument("--batch", type=terminal.whole(1), default=16, help="pictures per call; default: 16")
    parser.add_argument("--runs", type=terminal.whole(1), default=7, help="timed calls; default: 7")
    text = "sides in pixels; default: 64 96 128 256"
    parser.add_argument("--sizes", type=terminal.whole(16, 1024), nargs="+", default=[64, 96, 128, 256], help=text)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout of this project")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--out", type=Path, help="JSON file of all measurements")
    args = parser.parse_args()
    return terminal.run_command(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    renderers = []
    try:
        for folder in filter(None, (HERE, args.against and args.against.resolve())):
            renderers.append(Renderer(folder, args))
        threads = f"{args.threads} thread{'s' if args.threads > 1 else ''}"
        print(f"torch {renderers[0].torch}, {args.device}, {threads}, batch {args.batch}, medians of {args.runs} calls")
        rows = []
        for size in args.sizes:
            times = measure(renderers, size, args.runs)
            operations = [renderer.operations(size) for renderer in renderers]
            print(row(size, times, operations), flush=True)
            own = {
                "size": size,
                "ms": statistics.median(times[0]),
                "least_ms": min(times[0]),
                "operations": operations[0],
            }
            other = (
                {"against_ms": statistics.median(times[1]), "against_operations": operations[1]} if times[1:] else {}
            )
            rows.append(own | other)
    finally:
        for renderer in renderers:
            renderer.close()
    if args.out:
        facts = {"torch": renderers[0].torch, "device": args.device, "threads": args.threads, "batch": args.batch}
        write_json(args.out, {**facts, "rows": rows})


def measure(renderers: list[Renderer], size: int, runs: int) -> list[list[float]]:
    """Milliseconds per picture of each call of each renderer, without the first call, which fills caches."""
    for renderer in renderers:
        renderer.ms(size)
    rounds = [[renderer.ms(size) for renderer in renderers] for _ in range(runs)]
    return [list(column) for column in zip(*rounds, strict=True)]


def row(size: int, times: list[list[float]], operations: list[int]) -> str:
    """A line of the table. The ratio is the median of those of single rounds: both calls met the same load."""
    line = f"{size:5} px {statistics.median(times[0]):7.1f} ms a picture  (min {min(times[0]):.1f})"
    line += f"  {operations[0]:,} operations a call"
    if len(times) > 1:
        ratio = statistics.median(own / other for own, other in zip(*times, strict=True))
        line += (
            f"  against {statistics.median(times[1]):7.1f} ms: {ratio:.2f} times as long, {operations[1]:,} operations"
        )
    return line


if __name__ == "__main__":
    sys.exit(main())
