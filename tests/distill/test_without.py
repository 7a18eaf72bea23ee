"""A machine that lacks mlflow and lpips, as a borrowed GPU may, runs what needs neither."""

import json
import os
import subprocess
import sys

from conftest import ROOT
from helpers.line import experiment

BLOCKED = """
import sys
for name in ("mlflow", "lpips"):
    sys.modules[name] = None  # importing it now raises ImportError
sys.argv = sys.argv[1:]
sys.path.insert(0, "")
import runpy
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def blocked(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", BLOCKED, str(ROOT / "distill" / "run.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_neither_mlflow_nor_lpips_is_imported_where_they_are_not_asked_for(tmp_path):
    done = blocked(str(experiment(tmp_path, "bare", train={"steps": 1})))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "runs" / "bare" / "metrics.json").read_text())["rows"]
    assert rows["compact"]["id_similarity_source"]["n"] == 8


def test_the_block_blocks(tmp_path):
    path = experiment(tmp_path, "tracked", tracking={"uri": f"sqlite:///{tmp_path}/mlflow.db"})
    done = blocked(str(path))
    assert done.returncode == 2 and "error: tracking.uri=sqlite" in done.stderr
    assert "or tracking.uri=none" in done.stderr and "Traceback" not in done.stderr
