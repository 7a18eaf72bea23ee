"""Where tests find the real weights and photographs that are not part of the repository."""

import os
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
