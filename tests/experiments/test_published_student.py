"""The student that this repository holds: of drawn people alone, and as good as its stored result says."""

import pytest
import yaml
from conftest import ROOT, script

import students
from swapcore.files import read_json

RESULTS = ROOT / "experiments" / "results"
STUDENT = RESULTS / "sharp_96" / "student.safetensors"


def test_no_student_of_photographs_is_published():
    files = [path for path in RESULTS.rglob("*") if path.suffix in (".safetensors", ".pt", ".pth", ".onnx")]
    assert files == [STUDENT]
    tree = yaml.safe_load((STUDENT.parent / "experiment.yaml").read_text())
    assert tree["data"]["kind"] == "synthetic"
    assert [teacher["name"] for teacher in tree["pseudo_gt"]["teachers"]] == ["exact"]
    assert tree["student"]["identity_encoder"] == "synthetic_identity" and not tree["student"]["weights"]
    assert students.load(STUDENT).options["width"] == tree["student"]["options"]["width"]


def test_the_published_student_swaps_as_its_result_says(tmp_path):
    """By the commands of docs/students.md, with fewer people and pairs: three standard deviations of 96 pairs."""
    people, pairs, out = tmp_path / "people", tmp_path / "pairs", tmp_path / "out"
    for command in (
        ("datasets/synthetic.py", people, "--people", 32, "--images", 2, "--size", 96, "--split", "test"),
        ("datasets/make_pairs.py", "synthetic", people, "--resolution", 96, "--count", 96, "--out", pairs),
        ("distill.evaluate", STUDENT, "--pairs", pairs, "--metrics", "id_retrieval,sharpness", "--out", out),
    ):
        path = ROOT / command[0] if command[0].endswith(".py") else command[0]
        done = script(path, *command[1:])
        assert done.returncode == 0, done.stderr
    found = read_json(out / "metrics.json")["rows"]["unet"]
    stored = read_json(STUDENT.parent / "comparison.json")["rows"]["sharp"]["values"]
    top1 = "id_retrieval_top1_pct"
    assert found[top1]["value"] >= stored[top1]["mean"] - 7
    assert found["sharpness"]["value"] == pytest.approx(stored["sharpness"]["mean"], abs=0.05)
