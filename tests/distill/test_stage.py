"""Folders of stages: inputs may not change under finished work."""

import shutil
from types import SimpleNamespace

import pytest
from helpers import line

from distill.config import Experiment
from distill.stage import StageError, open_stage, upstream
from swapcore.files import FileError, read_record, write_json

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


def test_a_stage_that_read_what_an_earlier_one_no_longer_is_must_run_again(tmp_path):
    exp = experiment(tmp_path)
    open_stage(exp, "data", {"seed": 1}, ALONE).finish()
    inputs = {"data": upstream(exp, "data"), "train": {"steps": 5}}
    open_stage(exp, "train", inputs, ALONE).finish()
    assert upstream(exp, "train") == read_record(exp.folder / "train" / "done.json")["hash"]
    open_stage(exp, "data", {"seed": 2}, ALONE, redo=True).finish()
    with pytest.raises(StageError, match="train: was made before stage 'data' last was; add 'train' to `stages`"):
        upstream(exp, "train")
    shutil.rmtree(exp.folder / "data")
    assert upstream(exp, "train"), "deleted to save room"
    more = {**inputs, "train": {"steps": 9}}
    assert not open_stage(exp, "train", more, ALONE, extendable=("train.steps",)).done
    with pytest.raises(StageError, match="stage 'train' is not finished"):
        upstream(exp, "train")  # its student is that of 5 steps


def test_a_finished_training_takes_more_steps_but_not_fewer(tmp_path):
    path, stages = line.experiment(tmp_path, "x", train={"steps": 3}), "stages=[data, pseudo_gt, train]"
    folder = line.in_process(path, stages)
    before = {name: (folder / name).read_bytes() for name in ("experiment.yaml", "train/inputs.json")}
    with pytest.raises(StageError, match=r"train: made with other inputs \(train.steps was 3, now 2\)"):
        line.in_process(path, stages, "train.steps=2")
    assert before == {name: (folder / name).read_bytes() for name in before}
    (folder / "train" / "done.json").unlink()  # as if it was stopped at step 3
    with pytest.raises(StageError, match=r"train: has learnt for 3 steps, more than train.steps=2; raise it"):
        line.in_process(path, "stages=[train]", "train.steps=2")
    line.in_process(path, "stages=[train]", "train.steps=4")
    assert read_record(folder / "train" / "done.json")["steps"] == 4


def test_a_finished_stage_without_its_result_makes_it_anew(tmp_path):
    path = line.experiment(tmp_path, "x", train={"steps": 1}, eval={"metrics": ["id_similarity"]})
    stages = "stages=[data, pseudo_gt, train, eval, report]"
    folder = line.in_process(path, stages)
    results = ["data/manifest.jsonl", "train/student.safetensors", "eval/metrics.json"]
    values = read_record(folder / "eval/metrics.json")["rows"]["compact"]["id_similarity_source"]["value"]
    for name in results:
        (folder / name).unlink()
    line.in_process(path, stages)
    assert all((folder / name).is_file() for name in results)
    assert read_record(folder / "eval/metrics.json")["rows"]["compact"]["id_similarity_source"]["value"] == values
