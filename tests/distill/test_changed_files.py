"""Files that change under their name after a stage has finished: the stage is refused or made anew, never reused."""

import json
import shutil

import pytest
from conftest import script
from helpers.line import experiment, in_process

from distill.stage import StageError
from swapcore.files import read_record


def test_a_teacher_whose_tensors_lie_in_another_file(tmp_path):
    """The graph stays, its external data changes: pseudo-GT is refused, the teacher's row is measured again."""
    pytest.importorskip("onnx", reason="needs the package onnx, which builds the graph")
    pytest.importorskip("onnxruntime", reason="needs the package onnxruntime, which runs the graph")
    from helpers.onnx_graphs import change_first_number, moved_out, write_swapper

    card = {"size": 64, "source_size": 64}
    model, _ = write_swapper(tmp_path / "swapper.onnx", "uniface_256", **card)
    data = moved_out(model, size_threshold=0)
    spec = {"name": "onnx", "weights": {"model": str(model)}, "options": {"family": "uniface_256", "card": card}}
    path = experiment(tmp_path, pseudo_gt={"teachers": [spec]})
    folder = in_process(path)
    before = json.loads((folder / "metrics.json").read_text())["rows"]["onnx"]
    done = folder / "eval" / "done.json"
    written = done.stat().st_mtime_ns
    in_process(path, "stages=[eval, report]")
    assert done.stat().st_mtime_ns == written, "nothing changed"
    graph = model.read_bytes()
    change_first_number(data)
    assert model.read_bytes() == graph
    with pytest.raises(
        StageError, match=r"pseudo_gt: made with other inputs \(teachers\.onnx\.weight_hash was .*delete"
    ):
        in_process(path, "stages=[pseudo_gt]")
    in_process(path, "stages=[eval, report]")
    after = json.loads((folder / "metrics.json").read_text())["rows"]["onnx"]
    assert after["background_error"]["value"] != before["background_error"]["value"]


def test_pictures_of_fstriplets_and_occlusions(tmp_path):
    made = script("datasets/make_fstriplets.py", tmp_path / "fst", "--people", 2, "--images", 2, "--size", 64)
    assert made.returncode == 0, made.stderr
    changes = {"mix": {"pseudo_gt": 0.0, "fstriplets": 1.0}, "steps": 2}
    path = experiment(tmp_path, data={"fstriplets": str(tmp_path / "fst")}, train=changes, stages=["data", "train"])
    folder = in_process(path)
    record = folder / "train" / "contents.json"
    assert len(read_record(record)) == len([*(tmp_path / "fst").rglob("*.png")])
    state = folder / "train" / "done.json"
    written = state.stat().st_mtime_ns
    shutil.copy(tmp_path / "fst" / "vanilla/p00000/0.png", tmp_path / "kept.png")
    shutil.copyfile(tmp_path / "kept.png", tmp_path / "fst" / "vanilla/p00000/0.png")  # the same bytes again
    in_process(path)
    assert state.stat().st_mtime_ns == written
    shutil.copy(tmp_path / "fst" / "vanilla/p00000/1.png", tmp_path / "fst" / "vanilla/p00000/0.png")
    with pytest.raises(StageError, match=r"train: made with other inputs \(fstriplets\.contents\.fstriplets\.hash was"):
        in_process(path)


def test_an_evaluation_that_the_card_of_the_export_repeats(tmp_path):
    stages = ["data", "pseudo_gt", "train", "eval", "export"]
    path = experiment(tmp_path, stages=stages, export={"to": ["tnn"]}, eval={"metrics": ["id_retrieval"], "pairs": 8})
    folder = in_process(path)
    card, done = folder / "export" / "card.json", folder / "export" / "done.json"
    written = done.stat().st_mtime_ns
    in_process(path)
    assert done.stat().st_mtime_ns == written, "nothing changed"
    in_process(path, "eval.metrics=[id_retrieval, pose_error]")
    assert done.stat().st_mtime_ns > written and "pose_error" in card.read_text()
