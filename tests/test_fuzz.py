"""The command fuzz.py: every kind of bad end is seen, and the commands of this checkout have none."""

import faulthandler
import os
import random
import signal
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path

import fuzz
import numpy as np
import pytest
from conftest import ROOT
from helpers import file_parts
from helpers.fuzz_cases import KINDS, Case
from helpers.videos import write_film
from PIL import Image

from swapcore import terminal

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


def test_unfinished_files_are_a_fault(tmp_path):
    for name in (".out.12@host.0123abcd.mp4", ".hidden", "out.mp4"):
        (tmp_path / name).touch()
    assert fuzz.unfinished(tmp_path) == [".out.12@host.0123abcd.mp4"]
    assert list(fuzz.find_faults(CASE, 0, "", [], fuzz.unfinished(tmp_path))) == ["left .out.12@host.0123abcd.mp4"]


def media(folder):
    """A small file of each kind with parts, whole."""
    pytest.importorskip("av", reason='pip install -e ".[video]"')
    images = [np.full((16, 16, 3), 40 * i, np.uint8) for i in range(3)]
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")):
        write_film(folder / name, images, range(3), Fraction(1, 25), codec=codec, last=1)
    for name in ("a.png", "a.jpg", "a.webp", "a.tif"):
        Image.fromarray(images[1]).save(folder / name)
    return sorted(folder.iterdir())


def test_the_parts_of_files_are_found(tmp_path):
    named = {
        ".mp4": {b"moov", b"trak", b"stsz", b"stts", b"avc1", b"avcC", b"mdat"}, ".png": {b"IHDR", b"IDAT", b"IEND"},
        ".avi": {b"RIFF", b"LIST", b"avih", b"strh", b"00dc", b"idx1"}, ".webp": {b"RIFF", b"VP8 "},
        ".mkv": {b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xae", b"\xe0", b"\xb0", b"\xa3"},
        ".jpg": {b"\xff\xe0", b"\xff\xdb", b"\xff\xc0", b"\xff\xda"}, ".tif": {b"\0\1", b"\1\0", b"\1\1"},
    }  # fmt: skip
    for path in media(tmp_path):
        content = path.read_bytes()
        parts = list(file_parts.parts_of(content))
        assert all(0 <= p.start <= p.size.start <= p.size.stop <= p.body <= p.end <= len(content) for p in parts)
        for name in named[path.suffix]:
            near = [content[p.start : p.body].find(name[:: -1 if path.suffix == ".tif" else 1]) for p in parts]
            assert any(0 <= place <= 4 for place in near), (path.name, name)


def test_damage_to_parts_is_the_same_again_and_changes_most_files(tmp_path):
    for path in media(tmp_path):
        content = path.read_bytes()
        damaged = [file_parts.damaged_parts(random.Random(seed), content) for seed in range(100)]
        assert damaged == [file_parts.damaged_parts(random.Random(seed), content) for seed in range(100)]
        assert len({*damaged}) > 60 and damaged.count(content) < 25
        if path.suffix == ".png":  # what it says is read, as its checksums are right
            sizes = {content[16:24] for content in damaged if _is_intact(content)}
            assert len(sizes) > 3


def _is_intact(png):
    """Whether the header of a PNG file has the right checksum."""
    return zlib.crc32(png[12:29]).to_bytes(4, "big") == png[29:33]


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


def hang_in_a_command(arguments):
    return terminal.run_command(signal.pause)


def compute(arguments):
    while True:
        pass


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (lambda arguments: {}["hash"], "KeyError: 'hash'"),
        (replace, "changed kept.txt"),
        (crash, "the process ended with SIGSEGV"),
        (hang, "took more than 2 s"),
        (hang_in_a_command, "took more than 2 s"),
        (compute, "took more than 1 s"),
    ],
)
def test_a_command_that_fails_is_named(command, text, world, monkeypatch, capfd):
    monkeypatch.setattr(fuzz, "MOST_SECONDS", 1)
    monkeypatch.setattr(fuzz, "MOST_WAIT", 60 if command is compute else 2)
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


def command(*arguments, shared=None):
    """`python tests/fuzz.py`: a process of its own, as a fork of this one could not train. shared: another folder."""
    environment = {**os.environ, **({} if shared is None else {"SWAPDISTILL_SHARED": str(shared)})}
    arguments = [sys.executable, str(ROOT / "tests/fuzz.py"), *arguments]
    return subprocess.run(arguments, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_the_commands_survive_damaged_input(tmp_path):
    """And they end well where it is not damaged: otherwise it would be refused for another reason."""
    damaged = command("--inputs", "24", "--seed", "1", "--keep", str(tmp_path))
    assert damaged.returncode == 0, damaged.stdout + damaged.stderr
    whole = command("--inputs", "9", "--whole", "--keep", str(tmp_path))
    assert whole.returncode == 0 and ", 0 failed" in whole.stdout, whole.stdout + whole.stderr
    for kind in ("media_film", "media_picture"):  # without the weights of the detector
        whole = command("--inputs", "60", "--only", kind, "--whole", "--keep", str(tmp_path), shared=tmp_path)
        assert whole.returncode == 0 and "a stand-in, as" in whole.stdout, whole.stdout + whole.stderr
