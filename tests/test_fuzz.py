"""The command fuzz.py: every kind of bad end is seen, and the commands of this checkout have none."""

import faulthandler
import os
import signal
import subprocess
import sys
from pathlib import Path

import fuzz
import pytest
from conftest import ROOT
from helpers.fuzz_cases import KINDS, Case

CASE = Case("distill.evaluate", ["x"], (Path("pairs/pairs.json"),))


@pytest.mark.parametrize(
    ("status", "output", "changed", "fault"),
    [
        (0, "done", [], None),
        (2, "a warning\nerror: pairs.json: damaged; write it again\n", [], None),
        (2, "usage: run.py\nrun.py: error: argument --seed: invalid int value: 'x'\n", [], None),
        (0, "done", ["out/grid.png"], None),
        (2, "error: pairs.json: damaged", ["pairs/pairs.json"], None),
        (2, "", [], "0 `error:` lines"),
        (2, "error: a\nerror: b", [], "2 `error:` lines"),
        (0, "error: a", [], "1 `error:` lines"),
        (1, "oh", [], "status 1: oh"),
        (-1, "Traceback\nKeyError: 'hash'", [], "status -1: KeyError: 'hash'"),
        (0, "Traceback (most recent call last)", [], "a traceback"),
        (2, "error: \x1b[31mred", [], "nobody can read"),
        (2, "error: " + "x" * 2000, [], "nobody can read"),
        (0, "", ["runs/tiny/train/student.safetensors"], "changed runs/tiny/train/student.safetensors"),
        (2, "error: a", ["out/grid.png"], "changed out/grid.png"),
    ],
)
def test_faults_of_an_end(status, output, changed, fault):
    faults = list(fuzz.find_faults(CASE, status, output, changed))
    assert faults == [] if fault is None else len(faults) == 1 and fault in faults[0]


@pytest.fixture
def world(tmp_path):
    (tmp_path / "world").mkdir()
    (tmp_path / "world" / "kept.txt").write_text("kept")
    return tmp_path


def run(folder, monkeypatch, command, inputs=3):
    """The status of fuzz for a command that stands in for distill.evaluate."""
    monkeypatch.setattr(fuzz, "KINDS", {"only": (lambda rng: CASE, 1)})
    monkeypatch.setattr(fuzz, "entry", lambda name: command)
    return fuzz.fuzz(folder, list(fuzz.inputs(inputs, None)), seed=0)


def replace(arguments):
    Path("kept.txt").unlink()
    Path("kept.txt").write_text("other")


def crash(arguments):
    faulthandler.disable()  # pytest's would print all threads
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(arguments):
    signal.pause()


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (lambda arguments: {}["hash"], "KeyError: 'hash'"),
        (replace, "changed kept.txt"),
        (crash, "the process ended with SIGSEGV"),
        (hang, "took more than 1 s"),
    ],
)
def test_a_command_that_fails_is_named(command, text, world, monkeypatch, capfd):
    monkeypatch.setattr(fuzz, "MOST_SECONDS", 1)
    assert run(world, monkeypatch, command) == 1
    output = capfd.readouterr().out
    assert text in output and "FAILED only:0" in output and "3 inputs of seed 0, 3 failed" in output


def test_a_command_that_ends_well(world, monkeypatch, capfd):
    assert run(world, monkeypatch, lambda arguments: 0) == 0
    assert "3 inputs of seed 0, 0 failed" in capfd.readouterr().out
    assert sorted(path.name for path in world.iterdir() if path.is_dir()) == ["world"]


def test_a_thousand_inputs_are_of_all_kinds():
    cases = list(fuzz.inputs(1000, None))
    assert len(cases) >= 1000 and {kind for kind, _ in cases} == set(KINDS)


def command(*arguments):
    """`python tests/fuzz.py`: a process of its own, as a fork of this one could not train."""
    return subprocess.run([sys.executable, str(ROOT / "tests/fuzz.py"), *arguments], capture_output=True, text=True)


@pytest.mark.slow
def test_the_commands_survive_damaged_input(tmp_path):
    """And they end well where it is not damaged: otherwise it would be refused for another reason."""
    damaged = command("--inputs", "24", "--seed", "1", "--keep", str(tmp_path))
    assert damaged.returncode == 0, damaged.stdout + damaged.stderr
    whole = command("--inputs", "7", "--whole", "--keep", str(tmp_path))
    assert whole.returncode == 0 and ", 0 failed" in whole.stdout, whole.stdout + whole.stderr
