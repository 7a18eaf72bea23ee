"""Rules of the house: who may know whom, what must not be in the repository, what the README promises."""

import ast
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, script

from distill import config, run

ROOMS = {"distill", "students", "teachers", "eval"}
SOURCES = [p for room in sorted(ROOMS) for p in sorted((ROOT / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Top-level names a module imports, relative imports left out."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_leaves_know_nothing_of_other_rooms_and_nothing_imports_the_command(path):
    names, room = imported(path), path.relative_to(ROOT).parts[0]
    if room != "distill":
        assert not {n.split(".")[0] for n in names} & (ROOMS - {room})
    assert "distill.run" not in names


def test_datasets_is_no_package_and_not_installed():
    assert not (ROOT / "datasets" / "__init__.py").exists()
    packages = re.search(r"packages=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.S)[1]
    assert "datasets" not in packages
    for path in SOURCES:
        assert path.parent == ROOT or str(path.parent.relative_to(ROOT)).replace("/", ".") in re.findall(
            r'"(.*?)"', packages
        )


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_weights_load_safely(path):
    tree = ast.parse(path.read_text())
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        called = ast.unparse(call.func)
        assert called not in ("pickle.load", "pickle.loads", "yaml.load", "eval", "exec")
        if called == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords)


def commands() -> list[str]:
    """Lines of the README's code blocks that are commands, without their comments."""
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    lines = [re.sub(r"\s{2,}#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("make ", "accelerate ", "python ", "pip ", "mlflow "))]


def test_the_readme_shows_its_two_commands():
    assert {"make quickstart", "make test"} <= set(commands())


@pytest.mark.parametrize("line", [c for c in commands() if c.startswith("make ")])
def test_make_targets_of_the_readme_exist(line):
    done = subprocess.run(["make", "-n", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", [c for c in commands() if "distill/run.py" in c and "exp.yaml" not in c])
def test_run_commands_of_the_readme_resolve(line, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    experiment, *words = shlex.split(line)[shlex.split(line).index("distill/run.py") + 1 :]
    assert run.main([experiment, *words, "--dry-run"]) == 0
    overrides = [word for word in words if not word.startswith("--")]
    assert yaml.safe_load(capsys.readouterr().out)["name"] == config.load(experiment, overrides).name


@pytest.mark.parametrize("line", [c for c in commands() if c.startswith("python ") and "run.py" not in c])
def test_other_commands_of_the_readme_know_their_options(line):
    words = shlex.split(line)[1:]
    words = words[1:] if words[0] == "-m" else words
    target = [words[0], *(word for word in words[1:2] if re.fullmatch("[a-z_]+", word))]  # perhaps with a subcommand
    told = help_of(*target)
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in told, f"{word} is no option of {target}"


@cache
def help_of(*target: str) -> str:
    told = script(*target, "--help")
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_experiments_have_a_row_each():
    table = (ROOT / "experiments" / "README.md").read_text()
    for path in (ROOT / "experiments").glob("*.yaml"):
        assert f"`{path.name}`" in table


def test_no_file_is_large():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, listed):
        path = ROOT / name
        assert not path.is_file() or path.stat().st_size < 6_000_000, name
