"""Runs in pieces: `minutes` stops a command with a checkpoint, and the pieces are the whole, bit for bit."""

import json
import time

import pytest
import torch
from helpers.line import experiment, in_process, launch, same_state

from distill import stage
from distill.stage import OutOfTime
from distill.train.monitor import read_log

TRAIN = "stages=[data, pseudo_gt, train]"


def test_a_command_that_is_out_of_time_says_so_and_begins_nothing(tmp_path):
    path = experiment(tmp_path, "late")
    done = launch(str(path), "minutes=1e-6")
    assert done.returncode == 75 and "error:" not in done.stderr, done.stderr
    assert "stopped after 1e-06 minutes before stage data of late; the same command continues the run" in done.stdout
    assert not (tmp_path / "runs" / "late" / "data").exists()


def test_pieces_are_the_whole_bit_for_bit(tmp_path, monkeypatch):
    path = experiment(tmp_path, "pieces")
    in_process(path, "stages=[data, pseudo_gt]")
    monkeypatch.setattr(stage, "STARTED", time.monotonic())
    with pytest.raises(OutOfTime, match=r"at step \d+ of 100000 of .*pieces/train; the same command continues the run"):
        in_process(path, TRAIN, "train.steps=100000", "train.checkpoint_steps=100000", "minutes=0.05")
    folder = tmp_path / "runs" / "pieces"
    (checkpoint,) = (folder / "train" / "state").glob("step-*.pt")
    step = int(checkpoint.stem.removeprefix("step-"))
    first = torch.load(checkpoint, weights_only=True)["seconds"]
    assert step >= 1 and first > 0 and not (folder / "train" / "done.json").exists()
    in_process(path, TRAIN, f"train.steps={step + 2}")
    straight = in_process(experiment(tmp_path, "straight", train={"steps": step + 2}), TRAIN)
    same_state(straight, folder)
    assert read_log(straight / "train")[:-1] == [row for row in read_log(folder / "train")][:-1]
    minutes = json.loads((folder / "train" / "done.json").read_text())["minutes"]
    assert minutes >= round(first / 60, 2) > 0, "the minutes of a run are those of all its pieces"
