"""The command that measures any swapper on a list of pairs: what it prints, keeps and refuses, how it goes on."""

import json
import shutil

import pytest
import torch
from helpers.line import experiment
from helpers.marks import is_marked
from helpers.pair_lists import toy_list
from helpers.student_files import student_file
from PIL import Image

from distill.data import synthetic
from distill.data.photos import read_manifest
from distill.evaluate import __main__ as evaluate
from distill.evaluate import measure
from distill.evaluate.pairs import read
from eval.evaluation import Evaluation
from swapcore.files import CHECK, write_record

METRICS = "id_retrieval,pose_error,exact_match"


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    return toy_list(tmp_path_factory.mktemp("people"), 12)[0]


def run(listing, out, *swappers, metrics=METRICS, batch=4, more=()):
    return evaluate.main(
        [*map(str, swappers), "--pairs", str(listing), "--metrics", metrics, "--out", str(out), *map(str, more)]
        + ["--set", f"eval.batch_size={batch}", "threads=1"]
    )


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text())


def test_every_kind_of_swapper_in_one_table(listing, tmp_path, capsys):
    student = student_file(tmp_path)
    finished = tmp_path / "elsewhere"
    finished.mkdir()
    pairs, _ = read(listing)
    for name, image in zip(pairs.names, pairs.exact, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(finished / f"{name}.png")
    assert run(listing, tmp_path / "out", "copy-target", "copy-source", "exact", student, finished) == 0
    printed = capsys.readouterr().out
    content = metrics_of(tmp_path / "out")
    assert list(content["rows"]) == ["copy-target", "copy-source", "exact", "compact", "elsewhere"]
    assert all(name in printed for name in content["rows"]) and "pose error" in printed
    rows = content["rows"]
    assert rows["copy-target"]["pose_error_deg"]["value"] == 0 and rows["exact"]["ssim"]["value"] == 1
    assert {k: v["value"] for k, v in rows["elsewhere"].items()} == {k: v["value"] for k, v in rows["exact"].items()}
    depends = rows["compact"]["id_retrieval_top1_pct"]["protocol"]
    assert depends["recogniser"]["weight_hash"] and depends["gallery"]["size"] == 6 and depends["flip"] == "none"
    assert depends["pairs_hash"] == content["pairs"]["hash"] == pairs.hash
    assert [p.name for p in (tmp_path / "out" / "swaps").iterdir()] == ["compact"]  # the others cost nothing
    with Image.open(tmp_path / "out" / "grid.png") as sheet:
        assert "AI-generated" in sheet.text["Comment"]


def test_the_fooling_gap_is_of_the_encoder_that_the_student_names(listing, tmp_path, capsys):
    student, gap = student_file(tmp_path), "fooling_gap"
    assert run(listing, tmp_path / "out", "exact", student, metrics=gap) == 0
    content = metrics_of(tmp_path / "out")
    values = {name: row[gap] for name, row in content["rows"].items()}
    assert {value["protocol"]["trained_encoder"]["name"] for value in values.values()} == {"synthetic_identity"}
    assert not any("network of its own" in verdict for verdict in content["verdicts"])
    for value in values.values():
        parts = value["details"]
        assert value["value"] == pytest.approx(parts["trained_encoder"] - parts["recogniser"], abs=1e-5)
    assert values["exact"]["details"]["recogniser"] > 0.5 > abs(values["exact"]["value"])
    capsys.readouterr()
    assert run(listing, tmp_path / "none", "exact", "copy-source", metrics=gap) == 2
    assert "which encoder trained is not known: no measured file names one; name it (--trained-encoder" in "".join(
        capsys.readouterr()
    )
    other = ["--trained-encoder", "synthetic_identity", "--recogniser", "synthetic_identity"]
    assert run(listing, tmp_path / "same", "exact", metrics=gap, more=other) == 2
    assert "eval.trained_encoder: 'synthetic_identity' is also eval.recogniser" in "".join(capsys.readouterr())


def test_a_second_start_swaps_and_measures_only_missing_rows(listing, tmp_path, monkeypatch):
    student, out = student_file(tmp_path), tmp_path / "out"
    assert run(listing, out, student) == 0
    first, swaps = metrics_of(out), sorted((out / "swaps" / "compact").glob("*.png"))
    stamps = [path.stat().st_mtime_ns for path in swaps]
    seconds = first["rows"]["compact"]["pose_error_deg"]["seconds"]
    assert len(swaps) == 12

    # As if killed while it swapped the second of three batches: one picture of it is there, no metrics.
    (out / "metrics.json").unlink()
    for path in swaps[5:8]:
        path.unlink()
    asked = []
    swap_batch = Evaluation._swap_batch

    def spy(self, swapper, name, batch, *more):
        asked.append((batch.start, batch.stop))
        return swap_batch(self, swapper, name, batch, *more)

    monkeypatch.setattr(Evaluation, "_swap_batch", spy)
    assert run(listing, out, student) == 0
    assert asked == [(4, 8)]
    after = [path.stat().st_mtime_ns for path in swaps]
    assert after[:4] == stamps[:4] and after[8:] == stamps[8:] and after[4:8] != stamps[4:8]
    again = metrics_of(out)
    assert {k: v["value"] for k, v in again["rows"]["compact"].items()} == {
        k: v["value"] for k, v in first["rows"]["compact"].items()
    }

    # A row that is there is kept, one of other metrics is not.
    again["rows"]["compact"]["pose_error_deg"]["seconds"] = seconds + 99
    write_record(out / "metrics.json", {key: value for key, value in again.items() if key != CHECK})
    assert run(listing, out, "copy-target", student) == 0
    assert metrics_of(out)["rows"]["compact"]["pose_error_deg"]["seconds"] == seconds + 99
    assert run(listing, out, student, metrics="pose_error") == 0
    assert list(metrics_of(out)["rows"]["compact"]) == ["pose_error_deg", "pose_error_true_deg"]
    assert metrics_of(out)["rows"]["compact"]["pose_error_deg"]["seconds"] < seconds + 99


def test_swaps_of_another_student_are_not_taken_for_its_own(listing, tmp_path):
    out = tmp_path / "out"
    assert run(listing, out, student_file(tmp_path), metrics="exact_match") == 0
    first = metrics_of(out)["rows"]["compact"]["l1"]["value"]
    assert run(listing, out, student_file(tmp_path, width=16), metrics="exact_match") == 0
    assert metrics_of(out)["rows"]["compact"]["l1"]["value"] != first


def test_missing_swaps_are_reported_and_can_be_left_out_for_all(listing, tmp_path, capsys):
    pairs, _ = read(listing)
    finished = tmp_path / "peer"
    finished.mkdir()
    for name, image in list(zip(pairs.names, pairs.exact, strict=True))[2:]:
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(finished / f"{name}.png")
    assert run(listing, tmp_path / "out", finished) == 2
    assert "peer lacks 2 of 12 swaps (00000, 00001); finish them, or give --skip-missing" in capsys.readouterr().err
    assert run(listing, tmp_path / "out", finished, "exact", "copy-target", more=["--skip-missing"]) == 0
    content = metrics_of(tmp_path / "out")
    assert content["pairs"]["count"] == 10 and content["pairs"]["hash"] != pairs.hash
    assert content["rows"]["peer"]["l1"]["value"] == content["rows"]["exact"]["l1"]["value"] == 0
    assert {row["l1"]["n"] for row in content["rows"].values()} == {10}


@pytest.mark.parametrize(
    ("swapper", "options", "message"),
    [
        ("nobody", [], "unknown swapper 'nobody'; known: copy-target"),
        ("copy-target", ["--metrics", "beauty"], "unknown metric 'beauty'; known: id_retrieval"),
        ("copy-target", ["--recogniser", "nobody"], "unknown estimator 'nobody'"),
        ("copy-target", ["--resolution", "8"], "pairs 'toy': resolution: expected at least 16 pixels, got 8"),
        ("copy-target", ["--resolution", "0"], "resolution: expected at least 16 pixels, got 0"),
        ("simswap", [], "simswap"),
    ],
)
def test_mistakes_are_one_line(swapper, options, message, listing, tmp_path, capsys):
    assert evaluate.main([swapper, "--pairs", str(listing), "--out", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") <= 2


def test_pairs_must_come_from_somewhere(capsys, tmp_path, listing):
    assert evaluate.main(["copy-target"]) == 2
    assert "no pairs: give --pairs LIST" in capsys.readouterr().err
    shutil.copytree(listing, tmp_path / "moved")  # its pictures are relative to where it was
    assert evaluate.main(["copy-target", "--pairs", str(tmp_path / "moved")]) == 2
    assert "gallery, person" in capsys.readouterr().err


def test_size_and_people_of_an_experiments_pairs_can_be_given(tmp_path):
    path, out = experiment(tmp_path), tmp_path / "out"
    data = tmp_path / "runs" / "tiny" / "data"
    synthetic.write(data, {"test": (4, 2)}, 64, seed=3, progress=False)
    (tmp_path / "same.txt").write_text(" ".join([*read_manifest(data, "test", 64).people][:2]))
    more = ["--resolution", "32", "--same-people", str(tmp_path / "same.txt"), "--metrics", "exact_match"]
    assert evaluate.main(["exact", "--experiment", str(path), "--out", str(out), *more]) == 0
    value = metrics_of(out)["rows"]["exact"]["ssim"]
    assert value["protocol"]["resolution"] == 32 and value["protocol"]["data"]["merged"]["into"] == 3


def test_swaps_of_no_numbers_are_counted_and_named(listing, tmp_path, monkeypatch, capsys):
    student, out = student_file(tmp_path), tmp_path / "out"
    swap_batch = Evaluation._swap_batch

    def broken(self, swapper, name, batch, failed):
        def once(source, target):
            swap = swapper(source, target)
            swap[1] = float("nan")
            return swap

        return swap_batch(self, once if batch.start == 4 else swapper, name, batch, failed)

    monkeypatch.setattr(Evaluation, "_swap_batch", broken)
    for _ in range(2):  # the second start finds the pictures, and still knows
        (out / "metrics.json").unlink(missing_ok=True)
        assert run(listing, out, student, metrics="exact_match") == 0
        warning = "compact gives NaN or infinite values for 1 of 12 pairs (00005), which count as grey pictures"
        assert warning in metrics_of(out)["verdicts"] and warning in capsys.readouterr().out


@pytest.mark.parametrize("synthetic", [True, False])
def test_photographs_are_not_marked_as_generated_and_swaps_are(tmp_path, synthetic):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "00.gone.png").touch()
    columns = {name: torch.zeros(2, 3, 8, 8).byte() for name in ("source", "target", "student")}
    measure.write_pictures(tmp_path / "pictures", columns, synthetic)
    marked = {path.name: is_marked(path) for path in (tmp_path / "pictures").iterdir()}
    assert marked == {f"{i:02d}.{name}.png": synthetic or name == "student" for name in columns for i in range(2)}
