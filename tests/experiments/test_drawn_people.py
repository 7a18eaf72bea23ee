"""What networks of photographs read in drawn people, the order of swappers, and identity by shape and by paint."""

import numpy as np
import pytest
import torch
from conftest import ROOT, SHARED, module_of, needs_shared, script

from eval.measured import mean_of, packed
from swapcore.files import read_json, write_record
from teachers.exact import IDENTITY

PATH = ROOT / "experiments" / "drawn_people.py"
POINTS = np.array([[24.0, 30], [40, 30], [32, 40], [26, 47], [38, 47]])


@pytest.fixture(scope="module")
def command():
    return module_of(PATH)


class Finder:
    """A detector that finds faces at fixed places of the padded picture."""

    def __init__(self, *found) -> None:
        self.found = found

    def scored(self, image):
        self.image = image
        return list(self.found)


def test_the_face_at_the_true_place_counts_in_a_picture_with_repeated_borders(command):
    image = torch.full((3, 64, 64), 7, dtype=torch.uint8)
    finder = Finder((POINTS + 32 + 40, 0.9), (POINTS + 32 + 1, 0.8))
    points, score = command.find(finder, image, POINTS)
    assert score == 0.8 and np.allclose(points, POINTS + 1)
    assert finder.image.shape == (128, 128, 3) and (finder.image == 7).all()
    assert command.find(Finder((POINTS + 32 + 40, 0.9)), image, POINTS) is None, "a face elsewhere"
    assert command.find(Finder(), image, POINTS) is None and command.find(Finder(), image, None) is None
    assert command.find(finder, image, None)[1] == 0.9, "without truth the most confident one"


def test_detections_are_counted_from_the_products_confidence(command):
    found = command.detection(np.array([0.9, 0.8, 0.69, 0.0]))
    assert found["detected_pct"] == 50 and found["score_mean"] == pytest.approx(0.5975)


def test_a_constant_offset_of_definition_is_taken_out(command):
    truth = np.stack([POINTS, POINTS * 2])
    found = truth + np.array([[3.2, 0], [0, 0], [0, 0], [0, 0], [0, 0]]) * np.array([1, 2])[:, None, None]
    errors = command.landmark_errors(found, truth)
    assert errors["as found"]["left eye"] == pytest.approx(20) and errors["as found"]["mean"] == pytest.approx(4)
    assert errors["without offset"]["mean"] == 0 and errors["offset"]["left eye"] == [20, 0]


def test_a_line_of_angles_is_found(command):
    truth = np.random.default_rng(0).normal(0, 10, (50, 3))
    fit = command.angle_fit(truth * [1, 0.5, -1] + [0, 0, 4], truth)
    assert fit["yaw"] == {"correlation": 1, "slope": 1, "offset_deg": 0, "error_deg": 0, "error_no_mean_deg": 0}
    assert fit["pitch"]["slope"] == 0.5 and fit["roll"]["correlation"] == -1 and fit["roll"]["offset_deg"] == 4


def metrics(path, means: dict[str, float], spread: float = 0.1):
    """A metrics.json of swappers with these top-1, over 40 pairs of 8 people."""
    noise = np.random.default_rng(1).normal(0, spread, 40)
    people = packed(np.arange(40) % 8)
    rows = {}
    for name, mean in means.items():
        value = mean_of(mean + noise * (1 + len(rows)), {"pairs_hash": path.name}).as_dict()
        rows[name] = {"id_retrieval_top1_pct": {**value, "unit": "%"}, "size_mb": {**value, "each": None}}
    pairs = {"name": path.name, "hash": path.name, "count": 40, "gallery": 8,
             "people": {"source": people, "target": people}}  # fmt: skip
    write_record(path / "metrics.json", {"pairs": pairs, "rows": rows})
    return path


def order(tmp_path, first: dict[str, float], second: dict[str, float], *more):
    sides = (metrics(tmp_path / "drawn", first), metrics(tmp_path / "photographs", second))
    return script(PATH, "order", *sides, *more, "--out", tmp_path / "order.json")


def test_the_order_of_swappers_is_compared(tmp_path):
    done = order(tmp_path, {"a": 10, "b": 20, "c": 30, "d": 5}, {"c": 50, "a": 20, "b": 40})
    assert done.returncode == 0, done.stderr
    found = read_json(tmp_path / "order.json")
    assert found["swappers"] == ["a", "b", "c"] and list(found["metrics"]) == ["id_retrieval_top1_pct"]
    top1 = found["metrics"]["id_retrieval_top1_pct"]
    assert top1["spearman"] == 1 and (top1["sure_pairs"], top1["sure_pairs_same_way"]) == (3, 3)
    assert top1["photographs"]["c"] == pytest.approx(50, abs=0.1)
    done = order(tmp_path, {"a": 10, "b": 20, "c": 30}, {"a": 20, "b": 50, "c": 40}, "--swappers", "c", "b", "a")
    top1 = read_json(tmp_path / "order.json")["metrics"]["id_retrieval_top1_pct"]
    assert top1["spearman"] == 0.5 and (top1["sure_pairs"], top1["sure_pairs_same_way"]) == (3, 2)


def test_differences_that_are_not_sure_do_not_count(command, tmp_path):
    content = command.results(metrics(tmp_path / "x", {"a": 10, "b": 10.001, "c": 30}, spread=5))
    assert {key[:2] for key in command.sure_differences(content, content["rows"])} == {
        ("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")
    }  # fmt: skip


def test_what_cannot_be_compared_is_named(tmp_path):
    done = order(tmp_path, {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "d": 3})
    assert done.returncode == 2 and "an order needs three swappers" in done.stderr
    done = order(tmp_path, {"a": 1, "b": 2, "c": 3}, {"a": 1, "b": 2, "c": 3}, "--swappers", "a", "x")
    assert done.returncode == 2 and "not in both results: x; known: a, b, c" in done.stderr
    done = script(PATH, "order", tmp_path / "drawn", tmp_path / "nothing")
    assert done.returncode == 2 and "nothing: no such file" in done.stderr


def test_shape_and_paint_are_all_numbers_of_a_person(command):
    held = {name: set(numbers) for name, numbers in command.HELD.items()}
    assert not held["nothing"] and held["paint"] | held["shape"] == set(IDENTITY)
    assert {"tone", "gender"} <= held["paint"] and "gender" in held["shape"] and "tone" not in held["shape"]


def test_what_is_held_is_the_same_in_everybody(command):
    pairs = command.drawn_pairs(32, 4, 6, 0, IDENTITY)
    assert len(pairs) == 6 and len(pairs.gallery) == 4 and pairs.resolution == 32
    assert torch.equal(pairs.exact, pairs.target), "all people are one person, so the exact swap is the target"
    free = command.drawn_pairs(32, 4, 6, 0, ())
    assert not torch.equal(free.exact, free.target) and torch.equal(free.target_pose_deg, pairs.target_pose_deg)
    assert (free.source_person != free.target_person).all() and free.hash != pairs.hash


def test_identity_is_measured(tmp_path):
    out = tmp_path / "identity.json"
    done = script(PATH, "identity", "--pairs", 16, "--gallery", 8, "--sizes", 64, "--hold", "nothing", "--out", out)
    assert done.returncode == 0, done.stderr
    found = read_json(out)["held"]["nothing"]["64"]
    top1 = found["id_top1_pct"]["synthetic_recogniser"]
    assert top1["copy-source"]["value"] > 60 and top1["exact"]["value"] > 60 and top1["copy-target"]["value"] == 0
    assert found["pose_error_deg"]["yaw"] < 6 and "synthetic_identity" in found["id_top1_pct"]
    assert "64 px, held: nothing" in done.stdout and str(out) in done.stdout


@needs_shared
def test_networks_of_photographs_read_drawn_people(tmp_path):
    pytest.importorskip("cv2", reason='pip install -e ".[video]"')
    pytest.importorskip("onnxruntime", reason='pip install -e ".[onnx]"')
    out = tmp_path / "photographs.json"
    options = ("--people", 6, "--size", 256, "--weights", SHARED / "weights", "--photos", SHARED / "faces" / "heldout")
    done = script(PATH, "photographs", *options, "--out", out)
    assert done.returncode == 0, done.stderr
    found = read_json(out)
    assert found["not_measured"] == {} and found["drawn"]["detection"]["detected_pct"] > 80
    assert found["photographs"]["pictures"] == 6 and found["photographs"]["detection"]["detected_pct"] > 80
    assert found["drawn"]["landmarks_pct_of_eye_distance"]["as found"]["mean"] < 25
    assert all(found["drawn"]["pose"][name]["yaw"]["correlation"] > 0.5 for name in ("3ddfa_v2_mb05", "fsanet"))


def test_absent_networks_are_named(command, monkeypatch):
    def absent(*_):
        raise ValueError("nowhere")

    monkeypatch.setattr(command.weights, "find", absent)
    monkeypatch.setattr(command, "estimator", absent)
    with pytest.raises(ValueError, match="none of the networks is here: nowhere"):
        command.load_networks(())
    monkeypatch.setattr(command, "estimator", lambda role, name, folders: name)
    assert command.load_networks(()) == (
        None, {"3ddfa_v2_mb05": "3ddfa_v2_mb05", "fsanet": "fsanet"}, {"yunet": "nowhere"}
    )  # fmt: skip
