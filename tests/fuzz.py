"""Give the commands damaged input, and check how they end.

    python tests/fuzz.py [--inputs 1000] [--seed 0] [--only KIND[:NUMBER]] [--keep FOLDER]

Inputs are YAML files, overrides, options, records of runs, pictures, videos, shards, checkpoints, ONNX files and lists
of pairs (`helpers/fuzz_cases.py`). Every command must end with status 0, or with status 2 and one `error:` line,
without a traceback. It must not change what was finished before it, nor leave unfinished files. An input is named by
its kind and number; --only repeats it.

The commands run in forked processes, one for each core, each on its own copy of a small finished world. A process that
crashes counts as a failure of its input.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from helpers import fuzz_cases, fuzz_media
from helpers.fuzz_cases import KINDS, Case, build_world

from swapcore.files import UNFINISHED

MOST_SECONDS = 30  # of one input, of the processor: other work on the machine does not count
MOST_WAIT = 300  # seconds of one input by the clock
MOST_MEMORY = 12 * 2**30  # bytes of address space
ERROR = re.compile(r"^(\S+: )?error: ", re.MULTILINE)  # ours, and argparse's
REWRITTEN = ("out/", "eval/", "report/", "metrics.json", "report.html", "experiment.yaml", "inputs.json", "media/out.")
COMMANDS = {
    "distill/run.py": "distill.run",
    "distill.evaluate": "distill.evaluate.__main__",
    "distill.swap": "distill.swap.__main__",
    "datasets/make_pairs.py": "datasets/make_pairs.py",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="of all kinds together (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default: 0)")
    parser.add_argument("--only", metavar="KIND[:NUMBER]", help="one kind, or one input, whose output is printed")
    parser.add_argument("--whole", action="store_true", help="do not damage the inputs: all must end with status 0")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the world and the inputs that failed there")
    args = parser.parse_args(arguments)
    cases = list(inputs(args.inputs, args.only))
    if args.whole:
        fuzz_cases.leave_inputs_whole()
        cases = [(kind, number) for kind, number in cases if kind in fuzz_cases.VALID]
    if reason := fuzz_media.left_out():
        print(f"videos and pictures for distill.swap are left out: {reason}")
        cases = [(kind, number) for kind, number in cases if not kind.startswith("media")]
    else:
        print(f"distill.swap finds faces with {fuzz_media.choose_detector()}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)).resolve()
        return fuzz(folder, cases, args.seed, verbose=":" in (args.only or ""), whole=args.whole)


def inputs(count: int, only: str | None) -> Iterator[tuple[str, int]]:
    """(kind, number) of every input: `count` in all, by the shares of the kinds."""
    kind, _, number = (only or "").partition(":")
    if number:
        yield kind, int(number)
        return
    total = sum(share for _, share in KINDS.values())
    for name, (_, share) in KINDS.items():
        if kind in ("", name):
            yield from ((name, i) for i in range(-(-count * share // total)))


def fuzz(folder: Path, cases: list[tuple[str, int]], seed: int, verbose: bool = False, whole: bool = False) -> int:
    """Try all cases; 1 if one fails. With `whole`, status 2 is a failure too."""
    started = time.perf_counter()
    world = folder / "world"
    if not world.is_dir() and in_fork(make_world, world):
        raise SystemExit(f"the world could not be made in {world}")
    print(f"world: {time.perf_counter() - started:.0f} s", flush=True)
    workers = len(os.sched_getaffinity(0))
    random.Random(seed).shuffle(cases)
    logs = [folder / f"results-{i}.jsonl" for i in range(workers)]
    for log in logs:
        log.unlink(missing_ok=True)
    processes = [os.fork() or leave(work, folder, world, cases[i::workers], seed, logs[i]) for i in range(workers)]
    for process in processes:
        os.waitpid(process, 0)
    results = [json.loads(row) for log in logs if log.exists() for row in log.read_text().splitlines()]
    table = Counter((r["kind"], "failed" if r["faults"] else f"status {r['status']}") for r in results)
    for kind in KINDS:
        if counts := {end: table[kind, end] for end in ("status 0", "status 2", "failed") if table[kind, end]}:
            seconds = sum(r["seconds"] for r in results if r["kind"] == kind) / sum(counts.values())
            ends = ", ".join(f"{count} {end}" for end, count in counts.items())
            print(f"{kind:12} {ends}; {1000 * seconds:.0f} ms each")
    failed = [r for r in results if r["faults"] or whole and r["status"]]
    for r in failed:
        found = r["faults"] or r["output"].splitlines()[-1:]
        print(f"FAILED {r['kind']}:{r['number']} {r['command']}\n       {'; '.join(found)}")
    if verbose:
        print(*(f"{r['command']}\nstatus {r['status']}\n{r['output']}" for r in results), sep="\n")
    seconds = time.perf_counter() - started
    print(f"{len(results)} inputs of seed {seed}, {len(failed)} failed, {seconds:.0f} s")
    return int(bool(failed) or len(results) < len(cases))


def leave(work, *arguments) -> None:
    """The life of a forked process: work, and end without the parent's clean-up."""
    status = 1
    try:
        status = work(*arguments) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def in_fork(work, *arguments) -> int:
    """Call `work` in a forked process. Returns its exit status, negative for a signal."""
    process = os.fork() or leave(work, *arguments)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def make_world(world: Path) -> None:
    part = world.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    os.chdir(part)
    build_world(run)
    os.rename(part, world)


def work(folder: Path, world: Path, cases: list[tuple[str, int]], seed: int, log: Path) -> None:
    """Try inputs in a process that forks again where one crashes; append a row for each to `log`."""
    done = 0
    while done < len(cases):
        ended = in_fork(try_all, folder, world, cases[done:], seed, log)
        finished = len(log.read_text().splitlines()) if log.exists() else 0
        if finished < len(cases):
            kind, number = cases[finished]
            fault = f"the process ended with {signal.Signals(-ended).name if ended < 0 else ended}"
            append(log, kind, number, "", ended, [fault], "", time.perf_counter())
            finished += 1
        done = finished


def try_all(folder: Path, world: Path, cases: list[tuple[str, int]], seed: int, log: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    os.dup2(os.open(log.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)  # what C libraries print
    for kind, number in cases:
        place = folder / f"{kind}-{number}"
        shutil.rmtree(place, ignore_errors=True)
        # Links are quick. Locks are not linked: copies with one file would share the lock.
        shutil.copytree(world, place, copy_function=os.link, ignore=shutil.ignore_patterns("*.lock"))
        os.chdir(place)
        case = KINDS[kind][0](random.Random(f"{seed}-{kind}-{number}"))
        before, started = stamps(place), time.perf_counter()
        status, output = run(case.command, case.arguments)
        faults = list(find_faults(case, status, output, changed_files(world, place, before), unfinished(place)))
        append(log, kind, number, " ".join([case.command, *case.arguments]), status, faults, output[-3000:], started)
        os.chdir(folder)
        if not faults:
            shutil.rmtree(place)


def append(
    log: Path, kind: str, number: int, command: str, status: int, faults: list[str], output: str, started: float
) -> None:
    row = {"kind": kind, "number": number, "command": command, "status": status, "faults": faults, "output": output}
    row["seconds"] = time.perf_counter() - started
    with open(log, "a") as file:
        file.write(json.dumps(row) + "\n")


def run(command: str, arguments: list[str]) -> tuple[int, str]:
    """Exit status and output of a command, in this process. -1 is an exception that it let through."""
    output = io.StringIO()
    for name in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(name, out_of_time)
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    signal.alarm(MOST_WAIT)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            status = entry(command)(arguments)
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc(file=output)
            status = -1
        finally:
            signal.alarm(0)
            signal.setitimer(signal.ITIMER_PROF, 0)
    return status or 0, output.getvalue()


def entry(command: str):
    """The function `main` of a command."""
    name = COMMANDS[command]
    if not name.endswith(".py"):
        return importlib.import_module(name).main
    spec = importlib.util.spec_from_file_location(Path(name).stem, ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


class OutOfTime(BaseException):
    """No Exception, which a command may take for its own: TimeoutError is an OSError, which ends with an error line."""


def out_of_time(number: int, _frame: object) -> None:
    raise OutOfTime(f"took more than {MOST_WAIT if number == signal.SIGALRM else MOST_SECONDS} s")


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file: files are replaced whole, and never written in place."""
    files = {str(p.relative_to(folder)): p.stat() for p in folder.rglob("*") if p.is_file() and not p.is_symlink()}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in files.items()}


def changed_files(world: Path, place: Path, before: dict[str, tuple[int, int]]) -> list[str]:
    """Files that are gone or have other bytes than before the command."""
    after = stamps(place)
    touched = [name for name, stamp in before.items() if after.get(name) != stamp]
    return [n for n in touched if n not in after or (place / n).read_bytes() != (world / n).read_bytes()]


def unfinished(place: Path) -> list[str]:
    """Files and folders that were begun and neither finished nor removed."""
    return sorted(path.name for path in place.rglob(".*") if UNFINISHED.fullmatch(path.name))


def find_faults(case: Case, status: int, output: str, changed: list[str], begun: Sequence[str] = ()) -> Iterator[str]:
    if begun:
        yield f"left {', '.join(begun[:3])}"
    lines = [text for text in output.splitlines() if text.strip()]
    if status not in (0, 2):
        yield f"status {status}: {lines[-1][:300] if lines else 'no output'}"
    if "Traceback" in output and status != -1:
        yield "a traceback"
    errors = len(ERROR.findall(output))
    if status in (0, 2) and errors != (status == 2):
        yield f"{errors} `error:` lines at status {status}"
    if any(len(text) > 1000 and ERROR.match(text) for text in lines) or "\x1b" in output:
        yield "an error that nobody can read"
    own = {str(path) for path in case.damaged}
    allowed = REWRITTEN if status == 0 else ()
    if lost := [name for name in changed if name not in own and not any(part in name for part in allowed)]:
        yield f"changed {', '.join(lost[:3])}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
