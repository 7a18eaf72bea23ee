"""Where tests find the real weights and photographs that are not part of the repository."""

import io
import os
import runpy
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("SWAPDISTILL_SHARED", ROOT.parent / "shared"))

needs_shared = pytest.mark.skipif(
    not (SHARED / "weights").is_dir(),
    reason=f"needs real weights and photographs in {SHARED} (set SWAPDISTILL_SHARED to their folder)",
)

torch.set_num_threads(1)  # small tensors: a second thread costs more than it gives, and sums stay in one order


def script(path, *arguments) -> subprocess.CompletedProcess:
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
        patch.chdir(ROOT)
        try:
            (runpy.run_path if str(path).endswith(".py") else runpy.run_module)(str(path), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
    status = code if isinstance(code, int) else int(code is not None)
    return subprocess.CompletedProcess(path, status, out.getvalue(), err.getvalue())
