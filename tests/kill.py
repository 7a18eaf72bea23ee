"""Kill the line (data, pseudo_gt, train, eval, export) at random moments, and compare its results with those of an
undisturbed run.

    python tests/kill.py [--kills 200] [--seed 0] [--keep FOLDER]

Each try runs `distill/run.py` on a tiny experiment in a forked process, and SIGKILL ends it: after a random time, or
just before a random operation on files (open, rename, remove, make a folder), which is where half-done work could stay.
The same command is given again until it succeeds. Then all files are compared with those of the undisturbed run, and
nothing unfinished may be left beside them. It prints a line per run, and ends with status 1 if one differs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from helpers import line
from helpers.results import compare

from distill import run

FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate")
SCALES = (1.0, 0.3, 0.1)  # of the undisturbed run: the longest that a try may live
MOST_KILLS = 10  # of one run
LINE = {
    "runs": "runs",
    "train": {"steps": 6, "checkpoint_steps": 1},
    "eval": {"metrics": ["id_retrieval", "pose_error", "exact_match", "size_mb"]},
}
STAGES = ["data", "pseudo_gt", "train", "eval", "report"]
# The experiments by name. The first one is quick, and is run twice as often as each of the others.
LINES = {
    "tnn": {**LINE, "stages": [*STAGES[:4], "export", "report"], "export": {"to": ["tnn"]}},
    "onnx": {**LINE, "stages": [*STAGES[:4], "export", "report"], "export": {"to": ["onnx"]}},
    "tracked": {
        **LINE, "stages": STAGES, "tracking": {"uri": "sqlite:///mlflow.db" if find_spec("mlflow") else "none"},
        "variants": {"narrow": {"student.options": {"width": 16}}, "wide": {"student.options": {"width": 8}}},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """The end of a try: its exit status (negative: the signal), its seconds, and its operations on files."""

    status: int
    seconds: float
    events: int


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="in all (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep all files there")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)).resolve()
        return kill(folder, args.kills, random.Random(args.seed))


def kill(folder: Path, kills: int, rng: random.Random) -> int:
    """Runs until `kills` tries were killed; 1 if the files of a run differ from the undisturbed ones."""
    undisturbed: dict[str, Ended] = {}
    done = different = number = 0
    while done < kills:
        name = rng.choice([next(iter(LINES)), *LINES])
        calm, place = folder / f"undisturbed-{name}", folder / f"killed-{number}"
        if name not in undisturbed:
            whole = undisturbed[name] = attempt(calm, name)
            if whole.status:
                raise SystemExit(f"the undisturbed run failed with status {whole.status}, see {calm}.log")
            print(f"{name}, undisturbed: {whole.seconds:.1f} s, {whole.events} operations on files", flush=True)
        moments, ended = [], None
        for moment in random_moments(rng, undisturbed[name], kills - done):
            ended = attempt(place, name, moment)
            if ended.status != -signal.SIGKILL:
                break
            moments.append(str(moment))
        differences = [f"status {ended.status}, see {place}.log"] if ended.status else []
        differences += [f"{file}: {found[0]}" for file, found in compare(calm, place) if found]
        differences += [f"{path.relative_to(place)} is left over" for path in leftovers(place)]
        different += bool(differences)
        result = "DIFFERENT  " + "; ".join(differences[:4]) if differences else "same"
        print(f"{name} {number}, killed {', '.join(moments) or 'never'}: {result}", flush=True)
        if not differences:
            shutil.rmtree(place)
        done, number = done + len(moments), number + 1
    print(f"{number} runs, {done} kills, {different} different")
    return int(different > 0)


@dataclass(frozen=True)
class Moment:
    """When a try is killed: after `seconds`, or before operation `event` on files."""

    seconds: float | None = None
    event: int | None = None

    def __str__(self) -> str:
        return f"after {self.seconds:.2f} s" if self.event is None else f"before operation {self.event}"


def random_moments(rng: random.Random, whole: Ended, limit: int) -> Iterator[Moment | None]:
    """Moments of the tries of one run, at most `limit` of them; then None, for a try that is not killed."""
    scale = rng.choice(SCALES)
    for _ in range(min(limit, MOST_KILLS)):
        if rng.random() < 0.5:
            yield Moment(seconds=rng.uniform(0, scale * whole.seconds))
        else:
            yield Moment(event=rng.randrange(1, max(2, int(scale * whole.events))))
    yield None


def attempt(folder: Path, name: str, moment: Moment | None = None) -> Ended:
    """Run the line `name` in `folder` in a forked process, which is killed at `moment`. Its output goes to a log."""
    folder.mkdir(parents=True, exist_ok=True)
    path = line.experiment(folder, "tiny", **LINES[name])
    reader, writer = os.pipe()
    started = time.perf_counter()
    process = os.fork()
    if process == 0:
        os.close(reader)
        os.setpgid(0, 0)
        in_child(path, Path(f"{folder}.log"), moment and moment.event, writer)
    os.close(writer)
    if moment and moment.seconds is not None:
        kill_after(process, moment.seconds - (time.perf_counter() - started))
    _, status = os.waitpid(process, 0)
    with contextlib.suppress(ProcessLookupError):  # the helpers of a killed process, if it had any
        os.killpg(process, signal.SIGKILL)
    with open(reader, "rb") as pipe:
        events = int(pipe.read() or 0)
    return Ended(os.waitstatus_to_exitcode(status), time.perf_counter() - started, events)


def kill_after(process: int, seconds: float) -> None:
    """Kill a child after some seconds, unless it ended before."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)


def in_child(path: Path, log: Path, last: int | None, writer: int) -> None:
    """Run the experiment and leave the process with its status; die before operation `last` on files. Their number is
    written to the pipe `writer`."""
    status, events, ours = 1, 0, os.path.join("runs", "tiny")

    def count(event: str, arguments: tuple) -> None:
        nonlocal events
        if event in FILE_EVENTS and ours in str(arguments[0]):
            events += 1
            if events == last:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        os.chdir(path.parent)
        for stream in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
        sys.addaudithook(count)
        ended = run.main([str(path)])
        sys.stdout.flush()
        os.write(writer, str(events).encode())
        status = ended
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(status)


def leftovers(folder: Path) -> list[Path]:
    """Hidden files and folders: unfinished work, apart from locks and the files of MLflow, which removes none."""
    hidden = (path for path in folder.rglob(".*") if "mlruns" not in path.parts)
    return [path for path in hidden if path.name != ".lock" and ".lock" not in path.suffixes]


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
