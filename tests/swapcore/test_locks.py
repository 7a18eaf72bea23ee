"""One command writes to a folder at a time: locks that end with their process, and leftovers of killed commands."""

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from conftest import ROOT, script
from helpers.line import experiment
from helpers.student_files import student_file

from distill import run
from distill.evaluate import __main__ as evaluate
from distill.export import __main__ as export
from swapcore import locks
from swapcore.files import machine, whole_file
from swapcore.locks import Locked, folder_lock, in_turn

HOLDER = """
import sys, time
from swapcore.files import whole_file
from swapcore.locks import folder_lock
with folder_lock(sys.argv[1]), whole_file(sys.argv[1] + "/part.txt") as temporary:
    temporary.write_text("half")
    print("locked", flush=True)
    time.sleep(600)
"""


@contextmanager
def holder(folder):
    """Another process that holds the lock and writes a file."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def parts(folder):
    return [p.name for p in folder.iterdir() if p.name.startswith(".part.")]


def test_the_second_command_names_the_first_and_a_kill_frees_the_folder(tmp_path):
    with holder(tmp_path) as other:
        with pytest.raises(Locked, match=rf"{tmp_path}: in use by process {other.pid} on {machine()} since .*stop it"):
            with folder_lock(tmp_path):
                pass
        assert len(parts(tmp_path)) == 1, "the refused command removed a file of the first"
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert len(parts(tmp_path)) == 1
        with folder_lock(tmp_path):
            assert parts(tmp_path) == [], "left by the killed command"
            assert str(os.getpid()) in (tmp_path / ".lock").read_text()
    assert (tmp_path / ".lock").read_text() == "", "nobody holds it"


def test_a_process_takes_a_lock_once_and_again_later(tmp_path):
    with folder_lock(tmp_path), pytest.raises(Locked, match=f"process {os.getpid()}"), folder_lock(tmp_path / "."):
        pass
    with pytest.raises(RuntimeError), folder_lock(tmp_path):
        raise RuntimeError
    with folder_lock(tmp_path), folder_lock(tmp_path / "child"):
        pass


def test_a_folder_that_a_mistake_left_empty_is_removed(tmp_path):
    folder = tmp_path / "runs" / "new"
    with pytest.raises(RuntimeError), folder_lock(folder):
        raise RuntimeError
    assert not folder.exists()
    with pytest.raises(RuntimeError), folder_lock(folder):
        (folder / "file").touch()
        raise RuntimeError
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "file"]
    (tmp_path / "empty").mkdir()
    with folder_lock(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty" / ".lock").is_file(), "it was there before"


def test_a_lock_on_a_file_that_its_last_user_removed_is_taken_anew(tmp_path, monkeypatch):
    folder, take, taken = tmp_path / "new", locks._try_lock, []

    def take_the_first_too_late(handle, folder):
        taken.append(take(handle, folder))
        if len(taken) == 1:
            (folder / ".lock").unlink()
            folder.rmdir()
        return taken[-1]

    monkeypatch.setattr(locks, "_try_lock", take_the_first_too_late)
    with folder_lock(folder):
        assert taken == [True, True] and str(os.getpid()) in (folder / ".lock").read_text()


def test_a_forked_process_neither_takes_the_lock_along_nor_releases_it(tmp_path):
    with folder_lock(tmp_path):
        child = os.fork()
        if child == 0:
            os.closerange(3, 100)  # what a data loader does at its end
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(subprocess.CalledProcessError):
            subprocess.run([sys.executable, "-c", HOLDER, tmp_path], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)


def test_leftovers_of_the_living_and_of_other_commands_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    other = tmp_path / "evaluation"
    other.mkdir()
    (other / ".lock").touch()
    (tmp_path / "state").mkdir()
    me = machine()
    removed = [f".a.{dead.pid}@{me}.01234567.pt", "state/.b.1@elsewhere.01234567"]
    kept = [
        f".a.{os.getpid()}@{me}.01234567.pt", f"evaluation/.a.{dead.pid}@{me}.01234567.pt", "state/.hidden", "a.1@b.pt",
    ]  # fmt: skip
    for name in (*removed, *kept):
        (tmp_path / name).touch()
    (tmp_path / f".pack.{dead.pid}@{me}.89abcdef").mkdir()
    (tmp_path / f".pack.{dead.pid}@{me}.89abcdef" / "content").touch()
    with folder_lock(tmp_path):
        left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {*kept, ".lock", "evaluation/.lock"} and not (tmp_path / f".pack.{dead.pid}@{me}.89abcdef").exists()


def test_a_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch, capsys):
    def refused(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "lockf", refused)
    foreign = tmp_path / ".a.1@elsewhere.01234567"
    foreign.touch()
    with folder_lock(tmp_path):
        assert foreign.exists(), "perhaps another machine writes it"
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {tmp_path}: ") and "No locks available" in warning and warning.count("\n") == 1
    with in_turn(tmp_path / "turn"):
        pass
    assert "warning: " in capsys.readouterr().err


def test_in_turn_waits(tmp_path):
    code = "import sys, time\nfrom swapcore.locks import in_turn\nfrom pathlib import Path\n"
    code += "with in_turn(Path(sys.argv[1])):\n    print('mine', flush=True)\n    time.sleep(0.7)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "turn"], cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"mine\n"
        started = time.monotonic()
        with in_turn(tmp_path / "turn"):
            assert time.monotonic() - started > 0.4


def refused(status, err, folder):
    assert status == 2 and err.startswith(f"error: {folder}: in use by process ") and err.count("\n") == 1, err


def test_every_command_that_writes_a_folder_takes_its_lock(tmp_path, capsys):
    path = experiment(tmp_path, "x", stages=["data"])
    assert run.main([str(path)]) == 0
    for command, where in [
        (lambda: run.main([str(path)]), "runs/x"),
        (lambda: run.main([str(path), "seeds=[0, 1]", "name=y"]), "runs/y"),
        (lambda: run.main([str(path), "seeds=[0, 1]", "name=y"]), "runs/y/compact-seed0"),
        (lambda: evaluate.main(["copy-target", "--experiment", str(path)]), "runs/x/evaluation"),
    ]:
        capsys.readouterr()
        with holder(tmp_path / where):
            status = command()
        refused(status, capsys.readouterr().err, tmp_path / where)
    with holder(tmp_path / "out"):
        for command in (
            ["datasets/synthetic.py", tmp_path / "out"],
            ["datasets/make_fstriplets.py", tmp_path / "out"],
            ["datasets/make_pairs.py", "synthetic", tmp_path / "runs/x/data", "--out", tmp_path / "out"],
        ):
            done = script(ROOT / command[0], *command[1:])
            refused(done.returncode, done.stderr, tmp_path / "out")


def test_an_evaluation_beside_a_training_is_possible(tmp_path):
    path = experiment(tmp_path, "x", stages=["data"])
    assert run.main([str(path)]) == 0
    with holder(tmp_path / "runs" / "x"):
        arguments = ["copy-target", "--experiment", str(path), "--metrics", "exact_match"]
        assert evaluate.main(arguments) == 0
    assert (tmp_path / "runs" / "x" / "evaluation" / "metrics.json").is_file()


def test_export_takes_the_lock_of_its_folder(tmp_path, capsys):
    with holder(tmp_path / "export"):
        status = export.main([str(student_file(tmp_path)), "--to", "onnx"])
    refused(status, capsys.readouterr().err, tmp_path / "export")


def test_names_say_who_writes(tmp_path):
    with whole_file(tmp_path / "a.pt") as temporary:
        assert f".{os.getpid()}@{machine()}." in temporary.name and temporary.suffix == ".pt"
