"""Which of several swappers is better: differences to a reference row, in metrics.json and as marks in the tables."""

import json

import numpy as np
import pytest
from helpers.pair_lists import toy_list
from PIL import Image

from distill.evaluate import __main__ as evaluate
from distill.evaluate.differences import best
from distill.evaluate.pairs import by_people, read, save
from eval.intervals import bootstrap
from eval.measured import unpacked


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """A list of synthetic people with exact swaps, and one of the same pictures as photographs."""
    folder = tmp_path_factory.mktemp("people")
    _, photos = toy_list(folder, 24, people=8)
    plain = by_people("plain", photos, 12, 1, "toy")
    save({**plain, "pictures": {}}, photos.root, folder / "photographs")
    return folder


@pytest.fixture(scope="module")
def peers(lists):
    """Finished swaps of two programs: the exact swaps with grey added, of one 8 levels on every picture, of the other
    4 levels and, on every fourth picture, 12."""
    pairs, _ = read(lists / "list")
    for name, added in (("worse", lambda i: 8), ("better", lambda i: 12 if i % 4 == 0 else 4)):
        (lists / name).mkdir()
        for i, (stem, image) in enumerate(zip(pairs.names, pairs.exact, strict=True)):
            brighter = np.minimum(image.permute(1, 2, 0).numpy().astype(int) + added(i), 255).astype(np.uint8)
            Image.fromarray(brighter).save(lists / name / f"{stem}.png")
    return str(lists / "better"), str(lists / "worse")


def run(lists, out, *arguments, metrics="exact_match,pose_error", listing="list"):
    return evaluate.main([*arguments, "--pairs", str(lists / listing), "--metrics", metrics, "--out", str(out)])


def test_differences_are_those_of_the_pairs(lists, peers, tmp_path, capsys):
    assert run(lists, tmp_path, *peers, "copy-target", "exact") == 0
    content = json.loads((tmp_path / "metrics.json").read_text())
    differences = content["differences"]
    assert differences["reference"] == "better" and set(differences["rows"]) == {"worse", "copy-target", "exact"}
    each = {name: unpacked(row["l1"]["each"]).astype(float) for name, row in content["rows"].items()}
    found, paired = differences["rows"]["worse"]["l1"], each["worse"] - each["better"]
    assert found["value"] == pytest.approx(paired.mean())
    assert found["intervals"]["pairs"] == pytest.approx(bootstrap(paired))
    people = [unpacked(content["pairs"]["people"][side], "<i4") for side in ("source", "target")]
    assert found["intervals"]["people"] == pytest.approx(bootstrap(paired, people))
    assert found["sure"] and differences["rows"]["exact"]["psnr_db"]["sure"]
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("L1 ↓"))
    better, worse = content["rows"]["better"]["l1"]["value"], content["rows"]["worse"]["l1"]["value"]
    assert line.split()[2:5] == [f"{better:.4f}", f"{worse:.4f}", "*"]
    assert "* surely differs from better: " in printed


def test_the_user_names_the_reference(lists, peers, tmp_path, capsys):
    for name in ("worse", peers[1]):  # by the name of the row, or as the command names it
        assert run(lists, tmp_path, *peers, "--against", name) == 0
        content = json.loads((tmp_path / "metrics.json").read_text())
        assert content["differences"]["reference"] == "worse" and set(content["differences"]["rows"]) == {"better"}
    assert "* surely differs from worse: " in capsys.readouterr().out
    assert run(lists, tmp_path, *peers, "--against", "wors") == 2
    message = "eval.reference: no swapper 'wors' is measured here; did you mean 'worse'?"
    assert capsys.readouterr().err == f"error: {message}\n"


def test_one_row_has_no_marks(lists, peers, tmp_path, capsys):
    assert run(lists, tmp_path, peers[0]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["differences"] is None
    assert "surely" not in capsys.readouterr().out


def test_the_best_row_is_that_of_the_first_value_with_a_direction():
    rows = {"a": {"pose_error_deg": 3.0, "ssim": 0.9}, "b": {"pose_error_deg": 2.0, "ssim": 0.1}}
    assert best(rows) == "b"
    assert best({name: {**row, "id_retrieval_top1_pct": 50.0} for name, row in rows.items()}) == "a"
    assert best({"a": {"id_similarity_target": 1.0}, "b": {"id_similarity_target": 2.0}}) is None
    assert best({"a": {"ssim": 1.0}, "b": {"l1": 1.0}}) is None and best({}) is None


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("exact_match", "--metrics: nothing to measure for exact_match (the exact swaps are unknown, as for all photo"),
        ("id_retrieval,exact_match", "--metrics: nothing to measure for exact_match (the exact swaps are unknown"),
        ("size_mb,latency_ms", "size_mb (no swapper here has networks or files); latency_ms (no swapper here"),
        ("id_retrieval,", "eval.metrics: expected no empty name (a comma too many?), got ('id_retrieval', '')"),
        ("", "eval.metrics: expected no empty name"),
    ],
)
def test_a_metric_that_measures_nothing_is_an_error(lists, tmp_path, capsys, metrics, message):
    recogniser = ["--recogniser", "synthetic_recogniser"]
    assert run(lists, tmp_path, "copy-target", *recogniser, metrics=metrics, listing="photographs") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "metrics.json").exists()


def test_default_metrics_that_measure_nothing_are_told(lists, tmp_path, capsys):
    arguments = ["copy-target", "--pairs", str(lists / "photographs"), "--out", str(tmp_path)]
    assert evaluate.main([*arguments, "--recogniser", "synthetic_recogniser", "--pose", "synthetic_pose",
                          "--expression", "synthetic_pose"]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert "not measured: exact_match, region_errors: the exact swaps are unknown, as for all photographs\n" in printed
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert list(content["not_measured"]) == ["exact_match", "region_errors", "size_mb", "latency_ms"]


def test_cautions_stand_under_the_table(lists, tmp_path, capsys):
    assert run(lists, tmp_path, "copy-source", "--features", "synthetic_recogniser", metrics="fid") == 0
    printed = capsys.readouterr().out
    assert next(line for line in printed.splitlines() if line.startswith("frechet ")).endswith(" !")
    assert "! frechet synthetic recogniser: singular covariance, 24 pairs for 192 features: it depends on " in printed
