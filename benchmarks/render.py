"""Milliseconds per picture of teachers/exact: `python benchmarks/render.py [--threads 1]`."""

import statistics
import sys
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from swapcore import start

start.command(__name__)

import torch

from swapcore import terminal
from teachers.exact import render, sample_attributes, sample_identities


def main() -> None:
    parser = terminal.parser(__doc__)
    parser.add_argument("--threads", type=terminal.whole(1, 1024), default=1, help="CPU threads; default: 1")
    parser.add_argument("--batch", type=terminal.whole(1), default=8, help="pictures per call; default: 8")
    parser.add_argument("--runs", type=terminal.whole(1), default=7, help="timed calls; default: 7")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    identity = sample_identities(args.batch, 0).to(args.device)
    attributes = sample_attributes(args.batch, 1).to(args.device)
    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads, batch {args.batch}")
    for size in (64, 128, 256):
        times = []
        for _ in range(args.runs + 1):
            started = time.perf_counter()
            render(identity, attributes, size).image.cpu()
            times.append((time.perf_counter() - started) / args.batch * 1000)
        print(f"{size:4} px  median {statistics.median(times[1:]):6.1f} ms an image  (min {min(times):.1f})")


if __name__ == "__main__":
    main()
