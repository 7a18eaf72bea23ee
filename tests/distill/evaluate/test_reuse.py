"""What `python -m distill.evaluate` takes over from an earlier start: only what still holds, with its origin."""

import json
from dataclasses import replace

import pytest
from helpers.pair_lists import toy_list
from helpers.student_files import student_file

from distill.evaluate import __main__ as evaluate
from distill.evaluate import measure
from eval import METRICS
from eval.evaluation import Evaluation

TOP1, POSE = "id_retrieval_top1_pct", "pose_error_deg"


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    return toy_list(tmp_path_factory.mktemp("people"), 24)[0]


@pytest.fixture
def measured(monkeypatch):
    """The swappers that are measured, not taken over, in order."""
    names, original = [], Evaluation.measure

    def spy(self, swapper, *more, **options):
        names.append(swapper if isinstance(swapper, str) else swapper.name)
        return original(self, swapper, *more, **options)

    monkeypatch.setattr(Evaluation, "measure", spy)
    return names


def run(listing, out, *more, swappers=("exact",), metrics="id_retrieval,pose_error"):
    arguments = [*map(str, swappers), "--pairs", str(listing), "--metrics", metrics, "--out", str(out), *more]
    assert evaluate.main(arguments) == 0
    return json.loads((out / "metrics.json").read_text())


def values(content, name="exact"):
    return {key: value["value"] for key, value in content["rows"][name].items()}


def test_mirrored_features_are_measured_anew(listing, tmp_path, measured):
    plain = run(listing, tmp_path / "a")
    mirrored = run(listing, tmp_path / "a", "--flip")
    assert measured == ["exact", "exact"]
    assert mirrored["rows"]["exact"][TOP1]["protocol"]["flip"] == "image and mirror image, concatenated"
    assert values(mirrored) == values(run(listing, tmp_path / "b", "--flip"))
    assert values(run(listing, tmp_path / "a")) == values(plain) and measured == ["exact"] * 4


def test_another_network_of_the_same_name_is_announced(listing, tmp_path, capsys):
    for number, width in enumerate((8, 16)):
        path = student_file(tmp_path / str(number), width=width)
        run(listing, tmp_path / "out", swappers=(path,), metrics="id_similarity")
        assert ("compact: measured anew" in capsys.readouterr().out) == (number == 1)


@pytest.mark.parametrize(
    "change", [["--set", "eval.batch_size=5"], ["--set", "threads=1"], ["--pose", "synthetic_pose_quality"]]
)
def test_every_setting_of_a_value_decides(listing, tmp_path, measured, change):
    run(listing, tmp_path)
    run(listing, tmp_path)
    assert measured == ["exact"]
    run(listing, tmp_path, *change)
    assert measured == ["exact"] * 2


def test_another_version_or_machine_is_measured_anew(listing, tmp_path, measured, monkeypatch):
    run(listing, tmp_path)
    monkeypatch.setattr(measure, "VERSION", measure.VERSION + 1)
    run(listing, tmp_path)
    assert measured == ["exact"] * 2
    faster = replace(METRICS["pose_error"], machine=lambda: {"processor": "a faster one"})
    monkeypatch.setitem(METRICS, "pose_error", faster)
    run(listing, tmp_path)
    assert measured == ["exact"] * 3
    assert {"processor", "cores", "gpu", "torch"} <= METRICS["latency_ms"].machine().keys()
    assert METRICS["fid"].machine()["computed_by"].startswith("torchmetrics ")


def test_swaps_of_another_batch_size_are_made_anew(listing, tmp_path):
    student = student_file(tmp_path)
    for batch, new in ((4, True), (4, False), (5, True)):
        folder = tmp_path / "out" / "swaps" / "compact"
        before = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
        run(listing, tmp_path / "out", "--set", f"eval.batch_size={batch}", swappers=[student])
        after = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
        assert (before != after) == new


def test_values_that_are_taken_over_keep_their_origin(listing, tmp_path, measured, monkeypatch, capsys):
    first = {"commit": "a" * 40, "torch": "1.0", "processor": "an older one"}
    monkeypatch.setattr(measure, "environment", lambda: first)
    run(listing, tmp_path)
    now = {"commit": "b" * 40, "torch": "2.0", "processor": "an older one"}
    monkeypatch.setattr(measure, "environment", lambda: now)
    capsys.readouterr()
    content = run(listing, tmp_path, swappers=["copy-target", "exact"])
    assert measured == ["exact", "copy-target"]
    assert content["environments"] == {"copy-target": now, "exact": first} and content["environment"] == now
    assert f"exact: taken over, measured with commit {'a' * 40}, torch 1.0\n" in capsys.readouterr().out
    content = run(listing, tmp_path, "--flip", swappers=["copy-target", "exact"])
    assert content["environments"] == {"copy-target": now, "exact": now}
    assert "taken over" not in capsys.readouterr().out


def test_another_unit_needs_no_measurement(listing, tmp_path, measured, capsys):
    by_pairs = run(listing, tmp_path / "a")
    assert "95 % by pairs" in capsys.readouterr().out
    by_people = run(listing, tmp_path / "a", "--interval", "people")
    assert measured == ["exact"] and values(by_pairs) == values(by_people)
    assert "95 % by people" in capsys.readouterr().out
    pose = [content["rows"]["exact"][POSE] for content in (by_pairs, by_people)]
    assert pose[0]["interval"] != pose[1]["interval"]
    assert [one["protocol"]["interval"]["unit"] for one in pose] == ["pairs", "people"]
    fresh = run(listing, tmp_path / "b", "--interval", "people")
    assert fresh["rows"]["exact"][POSE]["interval"] == pose[1]["interval"]
