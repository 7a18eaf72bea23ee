"""Records: the row of a table, no record below the bar, and the command itself, shortened."""

import subprocess
import sys

import pytest
from conftest import ROOT, module_of

from distill.config import ConfigError

record = module_of(ROOT / "experiments" / "record.py")

SHORT = (
    "data.train_people=8", "data.val_people=2", "data.test_people=6", "pseudo_gt.pairs=8", "pseudo_gt.shard_size=8",
    "train.steps=2", "train.batch_size=2", "train.precision=fp32", "student.options={width: 16}", "eval.pairs=8",
    "threads=1",
)  # fmt: skip


def result(top, minutes=(1.0, 2.0, 3.0), gpu="none"):
    environment = {"processor": "P", "threads": "2", "gpu": gpu, "commit": "c" * 40}
    rows = {"copy-target": {}, "unet": {"id_retrieval_top1_pct": {"value": top}}}
    return {
        "rows": rows,
        "minutes": dict(zip(record.COUNTED, minutes, strict=True)) | {"eval": 9},
        "environment": environment,
    }


def test_a_row_has_means_every_seed_and_what_is_needed_to_repeat_it():
    cells = record.row([result(90), result(91), result(92, (1, 2, 6))], "python x", "first")
    assert cells == [
        "7.00", "6.00, 6.00, 9.00", "91.0 (90.0, 91.0, 92.0)", "P, 2 threads", "`python x`", "`cccccccccc`", "first"
    ]  # fmt: skip
    assert record.row([result(90, gpu="H")] * 3, "x", "")[3] == "H"


def test_below_the_bar_is_no_record():
    with pytest.raises(ConfigError, match=r"no record: mean ID top-1 89.9 % \(89.9, 89.9, 89.9\)"):
        record.row([result(89.9)] * 3, "x", "")


def test_a_run_that_reaches_too_little_is_no_record():
    words = [sys.executable, "experiments/record.py", "experiments/record.yaml", *SHORT, "--seeds", "0"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "no record: mean ID top-1" in done.stderr


def test_a_mistake_is_named_before_the_first_run(capsys):
    assert record.main([str(ROOT / "experiments" / "record.yaml"), "train.stepz=3"]) == 2
    assert "train.stepz" in capsys.readouterr().err
