"""Rules of the house: which folder may import which, and what must not be in the repository."""

import ast
import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

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


def test_no_file_is_large():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, listed):
        path = ROOT / name
        assert not path.is_file() or path.stat().st_size < 6_000_000, name
