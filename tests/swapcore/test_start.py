"""The start of commands: how OpenMP's threads wait, and the one line of Ctrl-C. Each test starts Python by itself."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from helpers import house
from helpers.line import experiment

COMMANDS = [house.relative(ROOT, path) for path in house.sources(ROOT) if house.is_command(path)]
COMMANDS.remove("distill/schema.py")  # imports Python's own library only
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SHOW = f"import os, sys; print(*map(os.environ.get, {VARIABLES}), sys.excepthook is sys.__excepthook__)"


def python(*arguments: str, **options) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    environment |= options.pop("environment", {})
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, **options
    )


@pytest.mark.parametrize(
    ("users", "found"),
    [
        ({}, ["PASSIVE", "10000"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", "None"]),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, ["PASSIVE", "None"]),
        ({"GOMP_SPINCOUNT": "0"}, ["None", "0"]),
    ],
)
def test_threads_of_a_command_spin_shortly_unless_the_user_decides(users, found):
    shown = python("-c", f"from swapcore import start; start.command(__name__); {SHOW}", environment=users)
    assert shown.stdout.split() == [*found, "False"], shown.stderr


def test_an_import_as_a_library_changes_nothing():
    modules = ", ".join(sorted({path.split("/")[0] for path in COMMANDS if path.startswith("distill/")}))
    imports = f"import distill.schema, distill.report.__main__, swapcore.start, {modules}"
    shown = python("-c", f"{imports}; {SHOW}")
    assert shown.stdout.split() == ["None", "None", "True"], shown.stderr


def test_names_are_checked_without_the_compiler():
    """torch._dynamo takes two seconds to load. timm_unet loads torchvision, which loads it, as mobilefaceswap does."""
    check = "build.check_names(config.default('x', [('student.name', name), ('student.options', {})]))"
    shown = python("-c", (
        "import sys; from distill import build, config\n"
        f"for name in ('mobilefsgan', 'compact', 'unet'): {check}; print(name)\n"
        "print('torch._dynamo' in sys.modules)"
    ))  # fmt: skip
    assert shown.stdout.split() == ["mobilefsgan", "compact", "unet", "False"], shown.stderr


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ("start.command(__name__)", "stopped\n"),
        ("start.command(__name__, resumes=True)", "stopped; the same command continues\n"),
    ],
)
def test_ctrl_c_prints_one_line_and_ends_by_the_signal(call, line):
    done = python("-c", f"from swapcore import start; {call}\nimport os, signal; os.kill(os.getpid(), signal.SIGINT)")
    assert (done.returncode, done.stderr) == (-signal.SIGINT, line)  # shells show 130
    done = python("-c", f"from swapcore import start; {call}\n1 / 0")
    assert done.returncode == 1 and done.stderr.startswith("Traceback") and "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("path", COMMANDS)
def test_ctrl_c_while_a_command_still_imports(path, tmp_path):
    """A module of the name torch stands for the real one, which takes seconds."""
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)")
    (tmp_path / "yaml.py").write_text("import torch")
    target = ["-m", path.removesuffix(".py").removesuffix("/__main__").replace("/", ".")] if "distill/" in path else []
    if path == "distill/run.py" or not target:
        target = [path]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", FIRST, str(tmp_path), *target], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGINT, done.stderr
    assert done.stderr.startswith("stopped") and done.stderr.count("\n") == 1


# Runs a command with the folder of the stand-ins before all others, where `python -m` would put the current one.
FIRST = """
import runpy, sys
place, *target = sys.argv[1:]
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        from importlib.machinery import PathFinder
        return PathFinder.find_spec(name, [place]) if name in ("torch", "yaml") else None
sys.meta_path.insert(0, Finder)
sys.path.insert(0, "")
sys.argv = target[-1:]
(runpy.run_module if target[0] == "-m" else runpy.run_path)(target[-1], run_name="__main__")
"""


def test_a_process_that_a_command_spawned_leaves_ctrl_c_to_the_command(tmp_path):
    (tmp_path / "pool.py").write_text(
        f"import sys; sys.path[0] = {str(ROOT)!r}\n"
        "from swapcore import start\nstart.command(__name__)\n"
        "import multiprocessing, time\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(2) as pool:\n"
        "        pool.map(abs, [1, 2]); print('ready', flush=True); pool.map(time.sleep, [60, 60])\n"
    )
    with subprocess.Popen(
        [sys.executable, tmp_path / "pool.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=30)[1] == "stopped\n" and process.returncode == -signal.SIGINT
    deadline = time.time() + 10
    while running(process.pid) and time.time() < deadline:
        time.sleep(0.05)
    assert not running(process.pid)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [["python"], ["accelerate", "launch", "--quiet", "--cpu"]], ids=lambda words: words[0]
)
def test_ctrl_c_in_training_ends_all_processes(launcher, tmp_path):
    path = experiment(tmp_path, "stopped", stages=["data", "pseudo_gt", "train"], train={"steps": 100_000})
    program = [str(Path(sys.executable).with_name(launcher[0])), *launcher[1:]]
    log = tmp_path / "runs" / "stopped" / "train" / "log.jsonl"
    with subprocess.Popen(
        [*program, "distill/run.py", str(path), "data.workers=2", "train.log_steps=1"], cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        deadline = time.time() + 120
        while not (log.is_file() and log.stat().st_size) and time.time() < deadline and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    assert error.count("stopped; the same command continues\n") == 1
    if launcher == ["python"]:
        assert process.returncode == -signal.SIGINT and "Traceback" not in error
    deadline = time.time() + 10
    while running(process.pid) and time.time() < deadline:
        time.sleep(0.05)
    assert not running(process.pid)


def running(group: int) -> list[str]:
    """The processes of a group, without those that ended and wait for their parent."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [row[2] for row in rows if row[0] == str(group) and not row[1].startswith("Z")]
