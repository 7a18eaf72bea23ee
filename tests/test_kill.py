"""The command kill.py: a difference after kills is seen, and the line of this checkout has none."""

import os
import random
import subprocess
import sys
from pathlib import Path

import kill
import pytest
from conftest import ROOT


def stand_in(write):
    """A line that writes one file in several operations, resumes, and ends."""

    def main(arguments):
        folder = Path("runs/tiny")
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(30):
            (folder / f"{number}.txt").touch()
        write(folder)
        return 0

    return main


def run(tmp_path, monkeypatch, write, kills=3):
    monkeypatch.setattr(kill.run, "main", stand_in(write))
    return kill.kill(tmp_path, kills, random.Random(0))


def test_equal_results_end_with_status_0(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, monkeypatch, lambda folder: (folder / "log.jsonl").write_text("same")) == 0
    assert "3 kills, 0 different" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda folder: (folder / "log.jsonl").write_bytes(os.urandom(8)), "log.jsonl: other bytes"),
        (lambda folder: (folder / f".{os.getpid()}.part").touch(), "is left over"),
        (lambda folder: (folder / f"{os.getpid()}.tar").touch(), "only in the"),
    ],
)
def test_other_results_and_leftovers_are_seen(write, text, tmp_path, monkeypatch, capsys):
    assert run(tmp_path, monkeypatch, write) == 1
    assert text in capsys.readouterr().out


def test_a_run_that_fails_after_a_kill_is_seen(tmp_path, monkeypatch, capsys):
    def fail_the_second_time(folder):
        (folder / "once").touch(exist_ok=False)
        (folder / "last").touch()

    # The folder (in two tries), thirty files, "once": operation 34 is that on "last".
    monkeypatch.setattr(kill, "random_moments", lambda *_: iter([kill.Moment(event=34), None]))
    assert run(tmp_path, monkeypatch, fail_the_second_time, kills=1) == 1
    assert "status 1" in capsys.readouterr().out


@pytest.mark.slow
def test_the_line_survives_kills(tmp_path):
    """In a process of its own, as a fork of this one could not train."""
    arguments = ["--kills", "2", "--seed", "3", "--keep", str(tmp_path)]
    done = subprocess.run([sys.executable, str(ROOT / "tests/kill.py"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
