"""Rules of the house: which folder may import which, how large a file may be, what must not be in the repository.

The rules themselves are in helpers/house.py; each is tested here on the product and on a small tree that breaks it.
"""

import ast
import fnmatch
import runpy
import subprocess
from pathlib import Path

import pytest
import setuptools
from conftest import ROOT
from helpers import house
from torch import nn

import students
import teachers
from students.export import targets

SOURCES = house.sources(ROOT, house.ROOMS)


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule):
    assert not rule(ROOT)


START = "from swapcore import start\nstart.command(__name__)\n"
# A product in which all rules hold: distill uses every leaf, and every leaf uses swapcore.
WHOLE = {
    "swapcore/__init__.py": "",
    "swapcore/files.py": "",
    "swapcore/start.py": "",
    "students/__init__.py": "from .small import Small\n\nSTUDENTS = {'small': Small}",
    "students/small.py": "from swapcore.files import write",
    "students/export/__init__.py": "",
    "students/export/targets.py": "TARGETS: dict = {'onnx': 1, 'tnn': 2}",
    "teachers/__init__.py": "TEACHERS = {'exact': 1, 'simswap': 2}",
    "eval/__init__.py": "METRICS = {'size_mb': 1, 'latency_ms': 2}",
    "distill/__init__.py": "",
    "distill/run.py": f"{START}from distill import config\nimport eval\nif __name__ == '__main__':\n    print(eval)",
    "distill/config.py": "import students\nimport teachers\nfrom distill.train import learners",
    "distill/train/__init__.py": "",
    "distill/train/learners.py": "LEARNERS = {'faceshifter': 1}",
    "distill/export/__init__.py": "",
    "distill/export/__main__.py": f"{START}from students.export import targets",
    "benchmarks/speed.py": "from distill import config",
    "tests/test_config.py": "from helpers import line",
    "tests/helpers/line.py": "from distill import config",
}
LONG = "x = 1\n" * 400
# Of each rule: what is changed in that tree, and the violations that the rule then sees.
BROKEN = {
    "foreign_imports": [
        ({"students/small.py": "from teachers import build"}, ["students/small.py: imports teachers"]),
        (
            {"eval/__init__.py": "def f():\n    from distill.config import load"},
            ["eval/__init__.py: imports distill.config"],
        ),
        (
            {"students/small.py": "import importlib\nx = importlib.import_module('eval')"},
            ["students/small.py: imports eval"],
        ),
        (
            {"students/small.py": "import runpy\nrunpy.run_module('distill.export', run_name='x')"},
            ["students/small.py: imports distill.export"],
        ),
        ({"students/small.py": "x = __import__('teachers')"}, ["students/small.py: imports teachers"]),
        (
            {"students/small.py": "COMMAND = ['python', '-m', 'distill.export']"},
            ["students/small.py: imports distill.export"],
        ),
        ({"students/small.py": "ENTRY = 'distill.config:load'"}, ["students/small.py: imports distill.config"]),
        ({"swapcore/files.py": "from students import small"}, ["swapcore/files.py: imports students.small"]),
    ],
    "imports_of_the_command": [
        ({"distill/config.py": "from distill import run"}, ["distill/config.py: imports distill.run"]),
        ({"benchmarks/speed.py": "import distill.run"}, ["benchmarks/speed.py: imports distill.run"]),
    ],
    "cycles": [
        (
            {
                "students/small.py": "from .other import Other",
                "students/other.py": "import typing\nif typing.TYPE_CHECKING:\n    from .small import Small",
            },
            ["cycle: students.other, students.small"],
        ),
        (
            {"distill/config.py": "from . import other", "distill/other.py": "def f():\n    from .config import load"},
            ["cycle: distill.config, distill.other"],
        ),
        ({"students/small.py": "from students import STUDENTS"}, ["cycle: students, students.small"]),
    ],
    "late_starts": [
        (
            {
                "distill/export/__main__.py": f"import torch\n{START}",
                "benchmarks/speed.py": "import sys\nif __name__ == '__main__':\n    sys.exit()",
            },
            [
                f"{file}: start.command(__name__) is not called before the imports"
                for file in ("distill/export/__main__.py", "benchmarks/speed.py")
            ],
        ),
        (
            {"datasets/draw.py": f"from swapcore import files\n{START}if __name__ == '__main__':\n    files.draw()"},
            ["datasets/draw.py: start.command(__name__) is not called before the imports"],
        ),
    ],
    "unused_modules": [
        (
            {"distill/forgotten.py": "", "tests/test_config.py": "from distill import forgotten"},
            ["distill/forgotten.py: no command uses it"],
        ),
        (
            {"students/a.py": "from . import b", "students/b.py": "from . import a"},
            ["students/a.py: no command uses it", "students/b.py: no command uses it"],
        ),
    ],
    "long_files": [
        ({"eval/long.py": "x = 1\n" * 400}, ["eval/long.py: 400 lines"]),
        ({"benchmarks/speed.py": "x = 1\n" * 400}, ["benchmarks/speed.py: 400 lines"]),
    ],
    "full_folders": [
        ({f"distill/{i}.py": "" for i in range(9)}, ["distill: 11 files, at most 10"]),
        ({f"distill/export/{i}.html": "" for i in range(11)}, ["distill/export: 12 files, at most 11"]),
        ({f"swapcore/{i}.py": "" for i in range(10)}, ["swapcore: 12 files, at most 11"]),
    ],
    "registries": [
        ({"students/__init__.py": "STUDENTS = dict(small=1)"}, ["students/__init__.py: STUDENTS is no literal dict"]),
        ({"teachers/__init__.py": "TEACHERS = {**{'a': 1}}"}, ["teachers/__init__.py: TEACHERS is no literal dict"]),
        (
            {"distill/config.py": "TEACHERS = {'exact': 1}"},
            ["TEACHERS: assigned in teachers/__init__.py, distill/config.py, not in teachers/__init__.py alone"],
        ),
        ({"eval/__init__.py": ""}, ["METRICS: assigned in no file, not in eval/__init__.py alone"]),
        (
            {"distill/config.py": "import students\nstudents.STUDENTS['a'] = 1"},
            ["distill/config.py:2: changes STUDENTS"],
        ),
        ({"distill/config.py": "from eval import METRICS\nMETRICS |= {}"}, ["distill/config.py:2: changes METRICS"]),
        (
            {"distill/config.py": "from eval import METRICS\nMETRICS.update(x=1)"},
            ["distill/config.py:2: changes METRICS"],
        ),
        (
            {"distill/config.py": "TITLES = {'size_mb': 'MB', 'latency_ms': 'ms'}"},
            ["distill/config.py:1: lists names of METRICS: latency_ms, size_mb"],
        ),
    ],
    "tests_that_import_tests": [
        (
            {"tests/eval/test_pairs.py": "from test_config import experiment"},
            ["tests/eval/test_pairs.py: imports test_config"],
        ),
        (
            {"tests/helpers/line.py": "from tests import test_config"},
            ["tests/helpers/line.py: imports test_config"],
        ),
    ],
}


def plant(root: Path, changes: dict[str, str]) -> Path:
    for name, text in {**WHOLE, **changes}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_a_tree_without_violations_passes(rule, tmp_path):
    assert not rule(plant(tmp_path, {}))


@pytest.mark.parametrize("rule", house.RULES, ids=lambda rule: rule.__name__)
def test_each_rule_sees_its_violations(rule, tmp_path):
    for number, (changes, violations) in enumerate(BROKEN[rule.__name__]):
        assert rule(plant(tmp_path / str(number), changes)) == violations


class Toy(nn.Module):
    """A student in one entry of its registry."""

    name = "toy"

    def __init__(self, resolution: int = 64, embedding_dim: int = 8) -> None:
        super().__init__()
        self.options = {"resolution": resolution, "embedding_dim": embedding_dim}
        self.scale = nn.Linear(1, 1)


def test_one_more_student_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(students.STUDENTS, "toy", Toy)
    students.save(students.build("toy", embedding_dim=4), tmp_path / "student.safetensors")
    assert students.load(tmp_path / "student.safetensors").options == {"resolution": 64, "embedding_dim": 4}
    with pytest.raises(ValueError, match="known: .*toy"):
        students.build("unknown")


def test_one_more_teacher_is_one_line(monkeypatch):
    monkeypatch.setitem(teachers.TEACHERS, "toy", type("Toy", (teachers.TEACHERS["exact"],), {"name": "toy"}))
    assert teachers.build("toy").name == "toy"
    with pytest.raises(ValueError, match="known: .*toy"):
        teachers.build("unknown")


def test_one_more_export_target_is_one_line(monkeypatch):
    monkeypatch.setitem(targets.TARGETS, "toy", targets.TARGETS["tnn"])
    assert targets.chosen(["toy"], ["fp32"]) == [("toy", "fp32")]
    with pytest.raises(ValueError, match="known: .*toy"):
        targets.check("unknown", "fp32")


@pytest.fixture
def setup_arguments(monkeypatch) -> dict:
    """What setup.py hands to setuptools."""
    arguments = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: arguments.update(given))
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "setup.py"))
    return arguments


def test_all_packages_are_installed_and_datasets_is_none(setup_arguments):
    assert not (ROOT / "datasets" / "__init__.py").exists()
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in SOURCES}
    assert folders and set(setup_arguments["packages"]) == folders


def test_every_file_of_a_package_is_installed(setup_arguments):
    others = [name for name in tracked() if name.split("/")[0] in house.ROOMS and not name.endswith(".py")]
    assert others
    for name in others:
        parents = [parent.as_posix() for parent in Path(name).parents]
        package = next(parent for parent in parents if parent.replace("/", ".") in setup_arguments["packages"])
        patterns = setup_arguments["package_data"].get(package.replace("/", "."), [])
        within = name.removeprefix(f"{package}/")
        assert any(fnmatch.fnmatch(within, pattern) for pattern in patterns), f"{name}: in no package_data of setup.py"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_weights_load_safely(path):
    for call in (n for n in ast.walk(house.parsed(path)) if isinstance(n, ast.Call)):
        called = ast.unparse(call.func)
        assert called not in ("pickle.load", "pickle.loads", "yaml.load", "eval", "exec")
        if called == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords)


def test_no_file_is_large():
    assert len(tracked()) > 100
    for name in tracked():
        path = ROOT / name
        assert not path.is_file() or path.stat().st_size < 6_000_000, name


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name]
