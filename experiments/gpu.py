"""Everything that needs a GPU, in some minutes of one: `sh experiments/gpu.sh [MINUTES] [RESULTS]`

The steps and experiments of experiments/gpu.yaml run in order of worth, each in a process of its own with a limit of
time. A step that is done is skipped, one that fails is named, and the next one goes on; after two failures it is left
out. At the end a table is printed. RESULTS then has at most six files of at most 15 MB: table.md, steps.json (every
measured number), logs.tar.gz, and runs-HASH.tar.00 to .02: what an unfinished or finished experiment needs to go on and
to be read (weights of students, metrics, logs, grids; checkpoints where they fit). Give the same command again to go
on; on a bare machine with the folder RESULTS of the last time. mlflow and lpips are not needed.

    sh experiments/gpu.sh 10 results                                  # ten minutes
    sh experiments/gpu.sh 10 results --photos P --heldout H --weights W   # photographs as well

`python experiments/gpu_photos.py FOLDER OUT` makes a folder of photographs small enough to travel.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from swapcore import start

start.command(__name__)

import yaml

from experiments import gpu_results
from swapcore import terminal
from swapcore.files import read_json, write_json

PLAN = ROOT / "experiments" / "gpu.yaml"
RUN_AGAIN = 75  # exit status of an experiment that is out of time
RESERVE_S = 20.0  # for the results at the end
GRACE_S = 20.0  # between SIGTERM and SIGKILL
LEAST_SHARE = 0.3  # of its limit: a step with less time left would be cut off
LEAST_S = 45.0  # for a piece of an experiment
MOST_FAILURES = 2
TINY_FACTOR = 10  # of the limits, with --tiny: they are made for a GPU, and the cores of a CPU may be busy


class Stopped(Exception):
    """SIGTERM or Ctrl-C has reached this command."""


class Session:
    """One start of the command: its time, its folders, and what is known of every step from earlier starts."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.until = args, time.monotonic() + 60 * args.minutes - min(RESERVE_S, 6 * args.minutes)
        self.work, self.results = args.work.resolve(), args.results.resolve()
        self.logs = self.work / "runs" / "gpu"
        self.logs.mkdir(parents=True, exist_ok=True)
        gpu_results.unpack(self.results, self.work)
        record = self.results / "steps.json"
        self.steps: dict[str, dict[str, Any]] = read_json(record) if record.is_file() else {}

    @property
    def left_s(self) -> float:
        return self.until - time.monotonic()

    def keep(self, name: str, **entry: Any) -> None:
        """Keep the state of a step at once: a kill must not lose it."""
        self.steps[name] = entry
        write_json(self.results / "steps.json", self.steps)

    def skipped(self, name: str) -> bool:
        """Whether a step is done or has failed too often."""
        before = self.steps.get(name, {})
        if before.get("state") == "done":
            print(f"{name}: done before")
            return True
        if before.get("failures", 0) >= MOST_FAILURES:
            print(f"{name}: left out, failed {MOST_FAILURES} times; delete it from steps.json to try again")
            return True
        return False

    def ended(self, name: str, status: int | None, limit_s: float, own_s: float, seconds: float, **entry: Any) -> None:
        """Keep how a process ended. status: None where it was stopped at its limit, which is a failure only if that
        was its own and not the end of the session."""
        failures, log = self.steps.get(name, {}).get("failures", 0), self.logs / f"{name}.txt"
        if status == 0:
            state = "done"
        elif status == RUN_AGAIN or status is None and limit_s < own_s:
            state = "unfinished"
        else:
            how = f"status {status}" if status is not None else f"stopped after its limit of {own_s:.0f} s"
            state, failures = f"failed ({how}): {gpu_results.last_line(log)}", failures + 1
        print(f"{name}: {state}, {seconds:.0f} s", flush=True)
        self.keep(name, state=state, failures=failures, seconds=round(seconds, 1), **entry)


def runnable(step: dict[str, Any]) -> str | None:
    """Why a step cannot run in this checkout; None if it can."""
    needs = step.get("needs")
    if not needs:
        return None
    file, text = ROOT / needs["file"], needs.get("text", "")
    if not file.is_file():
        return f"{needs['file']} is not in this checkout"
    return None if text in file.read_text(encoding="utf-8") else f"{needs['file']} has no {text}"


def measure(session: Session, step: dict[str, Any]) -> None:
    """Run one step of the plan if it is not done, can run here, and fits into the time."""
    name, own_s = step["name"], 60 * step["minutes"] * (TINY_FACTOR if session.args.tiny else 1)
    if session.skipped(name):
        return
    if lacks := runnable(step):
        print(f"{name}: left out, {lacks}")
        session.keep(name, state=f"left out: {lacks}")
        return
    if session.args.tiny and "tiny" not in step:
        print(f"{name}: left out, for a GPU only")
        return
    if session.left_s < LEAST_SHARE * own_s:
        print(f"{name}: no time left")
        return
    script, *options = shlex.split(step["tiny" if session.args.tiny else "command"])
    out = session.logs / f"{name}.json"
    out.unlink(missing_ok=True)
    if '"--out"' in (ROOT / script).read_text():
        options += ["--out", str(out)]
    limit_s = min(own_s, session.left_s)
    print(f"{name}: {script} {shlex.join(options)}", flush=True)
    status, seconds = run(session, name, [str(ROOT / script), *options], limit_s)
    result = read_json(out) if out.is_file() else None
    session.ended(
        name, status, limit_s, own_s, seconds, result=result, tail=gpu_results.tail(session.logs / f"{name}.txt")
    )


def train(session: Session, plan: dict[str, Any]) -> None:
    """Run one experiment, or go on with it, for the time that is left."""
    name, args = plan["name"], session.args
    if session.skipped(name):
        return
    folders = {key: getattr(args, option) for option, key in plan.get("folders", {}).items()}
    if missing := [option for option in plan.get("folders", {}) if getattr(args, option) is None]:
        print(f"{name}: left out, it needs --{' and --'.join(missing)}")
        return
    if session.left_s < LEAST_S:
        print(f"{name}: no time left")
        return
    minutes = max(0.1, (session.left_s - GRACE_S) / 60)
    settings = {**plan.get("set", {}), **{key: str(path.resolve()) for key, path in folders.items()}}
    words = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]
    words += [f"name={name}", "runs=runs", "tracking.uri=none", f"jobs={plan.get('jobs', 1)}", f"minutes={minutes:.2f}"]
    words += ["--full-size"] if plan.get("full_size") else []
    print(f"{name}: distill/run.py {plan['file']} {shlex.join(words)}", flush=True)
    limit_s = session.left_s
    status, seconds = run(session, name, [str(ROOT / "distill/run.py"), str(ROOT / plan["file"]), *words], limit_s)
    session.ended(name, status, limit_s, limit_s + 1, seconds)


def run(session: Session, name: str, words: list[str], limit_s: float) -> tuple[int | None, float]:
    """Run a script with its output in a log. Returns its exit status, None if it was stopped at the limit, and its
    seconds. A stop is SIGTERM to its whole process group, and SIGKILL if that does not end it. Raises Stopped."""
    started, environment = time.monotonic(), {**os.environ, "PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "5"}
    with open(session.logs / f"{name}.txt", "ab") as log:
        log.write(f"\n$ {shlex.join(words)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=session.work,
            env=environment, process_group=0,
        )  # fmt: skip
        try:
            return process.wait(limit_s), time.monotonic() - started
        except subprocess.TimeoutExpired:
            return None, time.monotonic() - started
        finally:
            end(process)


def end(process: subprocess.Popen) -> None:
    """End a process and what it has started in its group."""
    for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    parser.prog = "experiments/gpu.py"
    parser.add_argument("minutes", nargs="?", type=terminal.number(above=0), default=10.0, help="default: 10")
    parser.add_argument(
        "results", nargs="?", type=Path, default=Path("runs/gpu_results"), help="default: runs/gpu_results"
    )
    parser.add_argument("--work", type=Path, default=ROOT, help="folder in which runs/ is; default: the checkout")
    parser.add_argument("--photos", type=Path, help="folder of aligned photographs to train on")
    parser.add_argument("--heldout", type=Path, help="folder of aligned photographs to evaluate on")
    parser.add_argument("--weights", type=Path, help="folder of weight files that photographs need")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these steps and experiments alone")
    parser.add_argument("--tiny", action="store_true", help="the same at CPU size, to check that everything runs")
    args = parser.parse_args(arguments)
    return terminal.run_command(lambda: work(args))


def work(args: argparse.Namespace) -> int:
    """Everything of the plan, then the results. Status 75 after a stop, 1 if a step has failed."""
    plan = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    experiments = plan["tiny" if args.tiny else "experiments"]
    names = [entry["name"] for entry in (*plan["steps"], *experiments)]
    for name in args.only or ():
        if name not in names:
            raise ValueError(f"--only {name}: no such step{terminal.nearest(name, names)}")
    session, stopped = Session(args), False
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        for entry in plan["steps"]:
            if entry["name"] in (args.only or names):
                measure(session, entry)
        for entry in experiments:
            if entry["name"] in (args.only or names):
                train(session, entry)
    except Stopped:
        stopped = True
        print("stopped; the same command goes on")
    runs = [entry["name"] for entry in experiments]
    text = gpu_results.table(plan["steps"], session.steps, runs, session.work)
    left_out = gpu_results.pack(session.results, session.work, session.logs, runs)
    text += "".join(f"\n- left out, too large: {name}" for name in left_out)
    gpu_results.write_table(session.results, text)
    print(f"\n{text}\n\n{session.results}")
    failed = any(entry["state"].startswith("failed") for entry in session.steps.values())
    return RUN_AGAIN if stopped else int(failed)


def _stop(*_: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # once is enough: the results are written now
        signal.signal(number, signal.SIG_IGN)
    raise Stopped


if __name__ == "__main__":
    sys.exit(main())
