"""Folders of stages: inputs may not change under finished work."""

from types import SimpleNamespace

import pytest

from distill.config import Experiment
from distill.stage import StageError, open_stage, upstream
from swapcore.files import FileError, write_json

ALONE = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)


def experiment(tmp_path) -> Experiment:
    return Experiment(name="x", runs=str(tmp_path))


def test_finished_stage_is_found_and_other_inputs_are_refused(tmp_path):
    exp = experiment(tmp_path)
    stage = open_stage(exp, "train", {"train": {"lr": 1, "steps": 5}}, ALONE)
    assert not stage.done
    stage.finish()
    assert open_stage(exp, "train", {"train": {"lr": 1, "steps": 5}}, ALONE).done
    with pytest.raises(StageError, match=r"train\.lr was 1, now 2.*another name"):
        open_stage(exp, "train", {"train": {"lr": 2, "steps": 5}}, ALONE)
    assert open_stage(exp, "train", {"train": {"lr": 1, "steps": 5}}, ALONE).done, "the refusal touched nothing"
    assert not open_stage(exp, "train", {"train": {"lr": 1, "steps": 9}}, ALONE, extendable=("train.steps",)).done


def test_upstream_must_be_finished_and_whole(tmp_path):
    exp = experiment(tmp_path)
    with pytest.raises(StageError, match="stage 'data' is not finished"):
        upstream(exp, "data")
    write_json(exp.folder / "data" / "done.json", {"hash": "1"})
    assert upstream(exp, "data") == "1"
    (exp.folder / "data" / "done.json").write_text("{")
    with pytest.raises(FileError, match="done.json: damaged"):
        upstream(exp, "data")
