"""Where tests find the real weights and photographs that are not part of the repository, and on what they run.

They run on the CPU: they compare with results of the CPU, some bit by bit. A GPU is hidden from them and from the
commands that they start. SWAPDISTILL_TEST_GPU=1 shows it, and then the tests with the mark `gpu` run, and no others.
SWAPDISTILL_TEST_WITHOUT=mlflow,lpips hides packages, as on a machine that lacks them; tests that need them are skipped.
"""

import importlib.util
import io
import os
import runpy
import subprocess
import sys
import warnings
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("SWAPDISTILL_SHARED", ROOT.parent / "shared"))

needs_shared = pytest.mark.skipif(
    not (SHARED / "weights").is_dir(),
    reason=f"needs real weights and photographs in {SHARED} (set SWAPDISTILL_SHARED to their folder)",
)

ON_GPU = os.environ.get("SWAPDISTILL_TEST_GPU") == "1"
if not ON_GPU:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # CUDA reads it at its first use, which has not been yet
if os.environ.get("SWAPDISTILL_TEST_WITHOUT"):
    runpy.run_path(str(ROOT / "tests" / "helpers" / "without" / "sitecustomize.py"))
    folders = [str(ROOT / "tests" / "helpers" / "without"), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, folders))  # of the commands that tests start

torch.set_num_threads(1)  # small tensors: a second thread costs more than it gives, and sums stay in one order


def pytest_collection_modifyitems(items):
    start_long_files_first(items)
    for item in items:
        if item.get_closest_marker("gpu") is None and ON_GPU:
            item.add_marker(pytest.mark.skip(reason="compares with results of the CPU"))
        elif item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU, and SWAPDISTILL_TEST_GPU=1"))


def start_long_files_first(items) -> None:
    """Order the files, and no tests within one, by the time that they take, roughly: `make test` gives whole files to
    its processes in this order, and a long one that comes last would let the others wait for it."""
    weights = Counter()
    for item in items:
        weights[item.path] += SLOW_TEST if item.get_closest_marker("slow") else 1
    items.sort(key=lambda item: (-weights[item.path], str(item.path)))


SLOW_TEST = 20  # how many tests without the mark `slow` take as long as one with it


def tracking_uri(folder: Path) -> str:
    """The key tracking.uri of an experiment whose tests read more than MLflow: its database, or `none` without it."""
    return f"sqlite:///{folder / 'mlflow.db'}" if importlib.util.find_spec("mlflow") else "none"


@pytest.fixture
def mlflow():
    """The package; the test is skipped without it."""
    return pytest.importorskip("mlflow", reason="pip install -e .")


def module_of(path: Path) -> ModuleType:
    """A script as a module, so that tests call its functions."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module, before = importlib.util.module_from_spec(spec), list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before  # a script puts the repository in place of its own folder
    return module


def script(path, *arguments, cwd=ROOT) -> subprocess.CompletedProcess:
    """What `python PATH`, or `python -m MODULE`, does, but in this process, which has torch already."""
    out, err, code = io.StringIO(), io.StringIO(), None
    with (
        pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), redirect_stdout(out), redirect_stderr(err)
    ):  # fmt: skip
        warnings.simplefilter("ignore", RuntimeWarning)  # runpy's, of a module that is imported already
        patch.setattr(sys, "path", [*sys.path])
        patch.setattr(sys, "excepthook", sys.excepthook)  # which a command changes, like the variable below
        patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        patch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        patch.chdir(cwd)
        try:
            (runpy.run_path if str(path).endswith(".py") else runpy.run_module)(str(path), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
    status = code if isinstance(code, int) else int(code is not None)
    return subprocess.CompletedProcess(path, status, out.getvalue(), err.getvalue())
