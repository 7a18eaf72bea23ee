"""Time how long students take from nothing to 90 % ID top-1 of 64 people, and print the row of a table:

    python experiments/record.py experiments/record.yaml [section.key=value ...] --note "what is new"

The experiment runs once for each of the seeds 0, 1 and 2, each time in a new folder, so data are drawn anew. The clock
counts the stages data, pseudo_gt and train, not the start of Python, the trial of `train.precision: auto`, the making
of the networks, and the evaluation. A record is a mean of at least 90 % by the benchmark's recogniser (1,024 pairs of
people never seen, 64 px).
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from swapcore import start

start.command(__name__)

from statistics import fmean

from distill import config
from swapcore import terminal
from swapcore.files import read_json

SEEDS, BAR_PCT = (0, 1, 2), 90.0
COUNTED = ("data", "pseudo_gt", "train")


def run(experiment: Path, overrides: list[str], seed: int, folder: Path) -> dict:
    """The metrics.json of one run in a new folder. Raises ConfigError if it does not end well."""
    name = f"record-{seed}"
    own = [*overrides, f"name={name}", f"seed={seed}", f"runs={folder}", "tracking.uri=none"]
    ended = subprocess.run([sys.executable, ROOT / "distill" / "run.py", experiment, *own])
    if ended.returncode:
        raise config.ConfigError(f"{experiment}: the run of seed {seed} ended with status {ended.returncode}")
    return read_json(folder / name / "metrics.json")


def row(results: list[dict], command: str, note: str) -> list[str]:
    """The cells of a row. Raises ConfigError below the bar, which is no record."""
    student = list(results[0]["rows"])[-1]
    tops = [result["rows"][student]["id_retrieval_top1_pct"]["value"] for result in results]
    minutes = [sum(result["minutes"][stage] for stage in COUNTED) for result in results]
    facts = results[0]["environment"]
    hardware = facts["gpu"] if facts["gpu"] != "none" else f"{facts['processor']}, {facts['threads']} threads"
    if fmean(tops) < BAR_PCT:
        raise config.ConfigError(f"no record: mean ID top-1 {fmean(tops):.1f} % ({_all(tops)}), below {BAR_PCT} %")
    return [
        f"{fmean(minutes):.2f}", _all(minutes, 2), f"{fmean(tops):.1f} ({_all(tops)})", hardware, f"`{command}`",
        f"`{facts['commit'][:10]}`", note,
    ]  # fmt: skip


def _all(values: list[float], digits: int = 1) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("experiment", type=Path, metavar="FILE.yaml")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="other seeds, to try a command")
    parser.add_argument("--note", default="", help="what is new, for the last column")
    return terminal.run_command(lambda: _command(parser.parse_args(arguments)))


def _command(args: argparse.Namespace) -> None:
    config.load(args.experiment, args.overrides)  # before the first run, which takes minutes
    seeds = [] if tuple(args.seeds) == SEEDS else ["--seeds", *map(str, args.seeds)]  # which is no record
    command = " ".join(["python experiments/record.py", str(args.experiment), *args.overrides, *seeds])
    with tempfile.TemporaryDirectory() as folder:
        results = [run(args.experiment.resolve(), args.overrides, seed, Path(folder)) for seed in args.seeds]
    print(f"| {' | '.join(row(results, command, args.note))} |")


if __name__ == "__main__":
    sys.exit(main())
