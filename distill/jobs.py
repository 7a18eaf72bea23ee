"""`jobs: N`: the children of an experiment as processes side by side, N at a time, and one line of progress each.

A child is `distill/run.py runs/NAME/jobs.yaml --child CHILD`; its output goes to runs/NAME/CHILD/output.log. It saves
and ends when its command is stopped, and also when its command is killed: its standard input then ends.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from distill import stage
from distill.config import Child, ConfigError, Experiment, dump
from swapcore.files import write_text

COMMAND = Path(__file__).resolve().parent / "run.py"
RUN_AGAIN = 75  # exit status after `minutes` or SIGTERM: EX_TEMPFAIL of sysexits.h
POLL_S = 0.2
TAIL_BYTES = 4096
# A launcher has set these for its own processes; a child would join them.
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")


class ChildrenFailed(ValueError):
    """Some runs of an experiment failed. The message names each with its log."""


def run(exp: Experiment, children: Sequence[Child]) -> None:
    """Run every child, `exp.jobs` at a time; a child that fails does not stop the others.

    Raises ChildrenFailed; OutOfTime after `minutes` or SIGTERM; KeyboardInterrupt after Ctrl-C. No child runs any more
    in any case.
    """
    settings = exp.folder / "jobs.yaml"  # resolved: a change of the user's file must not reach later children
    write_text(settings, dump(exp))
    pool = Pool(exp, children, settings)
    try:
        with stage.signals_held():
            pool.run()
    finally:
        pool.end()
        settings.unlink(missing_ok=True)
    pool.judge()


def slots(exp: Experiment, children: int) -> int:
    """How many of `children` runs are side by side."""
    return min(exp.jobs, children)


def follow_the_command(started: float) -> None:
    """Make this process a child of the command that began at `started`, by the system's monotonic clock: its `minutes`
    count from then, and it gets SIGTERM when standard input ends, which the command holds open."""
    stage.STARTED = started

    def wait() -> None:
        while os.read(0, 1):  # not sys.stdin: Python aborts at exit where a thread waits in it
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


class Job:
    """A child's process. `slot` numbers the places side by side from 0."""

    def __init__(self, child: Child, slot: int, settings: Path, devices: Sequence[str]) -> None:
        self.name, self.slot, self.started = child.exp.name, slot, time.monotonic()
        self.output = child.exp.folder / "output.log"
        self.output.parent.mkdir(parents=True, exist_ok=True)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER)}
        environment |= {"PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": environment.get("TQDM_MININTERVAL", "1")}
        if len(devices) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
        arguments = [str(COMMAND), str(settings), "--child", self.name, "--started", repr(stage.STARTED)]
        with open(self.output, "ab") as file:
            self.begin = file.tell()  # behind the output of earlier starts
            # A process group of its own: Ctrl-C in the terminal reaches the command alone, which passes it on once.
            self.process = subprocess.Popen(
                [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT,
                env=environment, process_group=0,
            )  # fmt: skip

    def last_lines(self) -> list[str]:
        """The newest lines of the output; of a progress bar the newest state."""
        with open(self.output, "rb") as file:
            file.seek(max(self.begin, self.output.stat().st_size - TAIL_BYTES))
            parts = re.split(r"[\r\n]+", file.read().decode(errors="replace"))
        return [line.strip() for line in parts if line.strip()] or ["starts"]

    def clean(self) -> None:
        """Keep of each line of the output what a terminal shows at its end, without the former states of bars."""
        lines = self.output.read_bytes().split(b"\n")
        kept = [line.rstrip(b"\r").rsplit(b"\r", 1)[-1] for line in lines]
        write_text(self.output, b"\n".join(kept).decode(errors="replace"))


class Pool:
    """The children of an experiment: those that wait, the jobs that run, and the exit status of those that ended."""

    def __init__(self, exp: Experiment, children: Sequence[Child], settings: Path) -> None:
        self.exp, self.settings, self.children = exp, settings, children
        self.waiting, self.running = deque(children), []
        self.ended: dict[str, int] = {}
        self.failed: dict[str, str] = {}  # name -> how, and the log
        self.signal: int | None = None  # that stops the command
        self.devices = visible_devices()
        self.progress = Progress(slots(exp, len(children)))

    def run(self) -> None:
        while self.running or self.waiting:
            try:
                self._turn()
                time.sleep(POLL_S)
            except KeyboardInterrupt:  # the second Ctrl-C: at once
                self.stop(signal.SIGINT)
            except stage.OutOfTime:  # SIGTERM where signals are not held
                self.stop(signal.SIGTERM)

    def _turn(self) -> None:
        """Look once: signals, time, children that have ended, free places."""
        for number in (signal.SIGTERM, signal.SIGINT):
            if self.signal is None and stage.arrived(number):
                self.stop(number)
        if stage.time_is_over(self.exp):  # the children see it themselves, after their step
            self.waiting.clear()
        for job in [job for job in self.running if job.process.poll() is not None]:
            self.running.remove(job)
            self._ended(job)
        free = sorted(set(range(slots(self.exp, len(self.children)))) - {job.slot for job in self.running})
        while free and self.waiting:
            child = self.waiting.popleft()
            self.running.append(Job(child, free.pop(0), self.settings, self.devices))
            self.progress.say(f"{child.exp.name}: output in {self.running[-1].output}")
        self.progress.show(self.running)

    def stop(self, number: int) -> None:
        """Pass a signal on to the children that run, and start no other."""
        self.signal = self.signal or number
        self.waiting.clear()
        for job in self.running:
            if job.process.poll() is None:
                job.process.send_signal(number)

    def end(self) -> None:
        """Stop what an error of this command has left running, and close the lines of progress."""
        for job in self.running:
            job.process.terminate()
        for job in self.running:
            job.process.wait()
        self.progress.close()

    def _ended(self, job: Job) -> None:
        job.process.stdin.close()
        status, minutes = job.process.returncode, (time.monotonic() - job.started) / 60
        self.ended[job.name] = status
        last = textwrap.shorten(job.last_lines()[-1], 200, placeholder=" ...")
        job.clean()
        if status == 0:
            how = f"finished after {minutes:.1f} min"
        elif status == RUN_AGAIN or self.signal and status in (-signal.SIGINT, -signal.SIGTERM):
            how = "stopped"
        else:
            by = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            how = self.failed[job.name] = f"failed ({by}; {job.output}: {last})"
        self.progress.say(f"{job.name}: {how}")

    def judge(self) -> None:
        """Raise what stopped or broke the whole; nothing if every child has ended well."""
        done = sum(status == 0 for status in self.ended.values())
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.failed and self.signal is None:
            named = "; ".join(f"{name}: {how}" for name, how in self.failed.items())
            raise ChildrenFailed(f"{len(self.failed)} of {len(self.children)} runs of {self.exp.name}: {named}")
        if done < len(self.children):
            why = f"after {self.exp.minutes:g} minutes" if stage.time_is_over(self.exp) else "by SIGTERM"
            raise stage.OutOfTime(
                f"stopped {why} with {done} of {len(self.children)} runs of {self.exp.name} finished; the same command "
                f"continues them"
            )


class Progress:
    """One line for each place: in a terminal it is drawn anew, elsewhere each stage is printed once."""

    def __init__(self, places: int) -> None:
        self.live, self.said = sys.stderr.isatty(), {}
        self.bars = [tqdm(bar_format="{desc}", position=i, leave=False) for i in range(places)] if self.live else []

    def say(self, text: str) -> None:
        tqdm.write(text)
        sys.stdout.flush()

    def show(self, running: Sequence[Job]) -> None:
        texts = {}
        for job in running:
            lines = job.last_lines()
            texts[job.slot] = f"{job.name}: {lines[-1]}"
            if not self.live:
                stages = [line for line in lines if re.fullmatch(r"\[\w+\]", line)]
                if stages and self.said.get(job.name) != stages[-1]:
                    self.said[job.name] = stages[-1]
                    self.say(f"{job.name}: {stages[-1]}")
        width = shutil.get_terminal_size().columns - 1
        for slot, bar in enumerate(self.bars):
            bar.set_description_str(texts.get(slot, "")[:width])

    def close(self) -> None:
        for bar in self.bars:
            bar.close()


def visible_devices() -> list[str]:
    """The names of the GPUs that this command may use, for CUDA_VISIBLE_DEVICES."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:count] if named else [str(i) for i in range(count)]


def refuse_several_processes(exp: Experiment) -> None:
    """Raise ConfigError where a launcher has started several processes: each of them would start every child."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if exp.jobs > 1 and processes > 1 and (exp.variants or exp.seeds):
        raise ConfigError(f"jobs: expected 1 in a command of {processes} processes, got {exp.jobs}")
