"""Variants trained by one command: their shared folders, their table, their plot, their runs in MLflow."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tracking_uri
from helpers.line import experiment, in_process
from helpers.marks import is_marked
from matplotlib.figure import Figure
from PIL import Image

from distill import config, variants
from distill.config import Child, ConfigError
from distill.report import comparison
from eval.measured import packed
from swapcore.images import save_png

VARIANTS = {"narrow": {}, "wide": {"student.options.width": 16}, "untaught": {"train.mix": {"pseudo_gt": 0, "pair": 1}}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    path = experiment(
        folder,
        "many",
        variants=VARIANTS,
        seeds=[1, 2],
        train={"steps": 2},
        loss={"adversarial": [0, 0, 0]},
        tracking={"uri": tracking_uri(folder), "experiment": "variants"},
    )
    return path, in_process(path)


def test_settings_that_change_no_file_share_folders(tmp_path):
    exp = config.load(experiment(tmp_path, "x", seeds=[1, 2]))
    one, other = (child.exp for child in config.children(exp))
    other = replace(other, data=replace(other.data, workers=3, cache="off"))
    other = replace(other, pseudo_gt=replace(other.pseudo_gt, batch_size=7))
    third = replace(other, name="third", pseudo_gt=replace(other.pseudo_gt, pairs=9))
    for child in (one, other, third):
        variants._share(child, exp)
    data, pseudo_gt = ([(child.folder / s).resolve() for child in (one, other, third)] for s in ("data", "pseudo_gt"))
    assert len(set(data)) == 1 and pseudo_gt[0] == pseudo_gt[1] != pseudo_gt[2]
    shutil.rmtree(data[0])
    variants._share(one, exp)
    assert (one.folder / "data").is_dir(), "a folder that was deleted is made anew"


def test_children_share_data_and_differ_in_training(finished):
    _, folder = finished
    names = [f"{variant}-seed{seed}" for variant in VARIANTS for seed in (1, 2)]
    assert sorted(p.name for p in folder.iterdir() if (p / "report.html").is_file()) == sorted(names)
    assert len(list((folder / "shared").glob("data-*"))) == len(list((folder / "shared").glob("pseudo_gt-*"))) == 1
    assert all((folder / name / "data").resolve() == (folder / names[0] / "data").resolve() for name in names)
    students = {(folder / name / "student.safetensors").read_bytes() for name in names}
    assert len(students) == len(names)


def test_the_comparison_is_the_mean_of_the_childrens_metrics(finished):
    _, folder = finished
    table = json.loads((folder / "comparison.json").read_text())
    assert list(table["rows"]) == list(VARIANTS) and list(table["references"]) == [
        "copy-target",
        "copy-source",
        "exact",
    ]
    for variant, row in table["rows"].items():
        assert row["seeds"] == [1, 2] and row["student"] == "compact"
        for metric in ("ssim", "parameters", "id_similarity_source"):
            runs = [json.loads((folder / f"{variant}-seed{seed}" / "metrics.json").read_text()) for seed in (1, 2)]
            each = [run["rows"]["compact"][metric]["value"] for run in runs]
            assert row["values"][metric]["each"] == each
            assert row["values"][metric]["mean"] == pytest.approx(np.mean(each))
            assert row["values"][metric]["spread"] == pytest.approx(np.std(each, ddof=1))
    text = (folder / "comparison.md").read_text()
    assert text.count("\n") == 2 + 3 + 3 + 2 and "| wide | 2 | " in text and " ± " in text
    parameters = [row["values"]["parameters"]["mean"] for row in table["rows"].values()]
    assert parameters[0] == parameters[2] < parameters[1]
    assert (folder / "comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_one_picture_has_the_swaps_of_all_variants(finished):
    _, folder = finished
    sheet = Image.open(folder / "swaps.png")
    stored = sorted((folder / f"{next(iter(VARIANTS))}-seed1" / "eval" / "pictures").glob("*.compact.png"))
    columns = ["source", "target", "exact", *VARIANTS]
    assert sheet.size == (len(columns) * 132 + 4, 26 + len(stored) * 132) and is_marked(folder / "swaps.png")
    for column, variant in enumerate(VARIANTS, 3):
        last = Image.open(folder / f"{variant}-seed1" / "eval" / "pictures" / stored[-1].name)
        left, top = 4 + column * 132, 26 + (len(stored) - 1) * 132
        found = sheet.crop((left, top, left + 128, top + 128))
        assert found.tobytes() == last.resize((128, 128), Image.Resampling.BICUBIC).tobytes(), variant


def test_a_variant_with_the_name_of_a_teacher_has_its_own_column(tmp_path):
    child = SimpleNamespace(variant="exact", exp=SimpleNamespace(folder=tmp_path, stages=[]))
    child.exp.student = SimpleNamespace(name="compact")
    runs = [(child, {"rows": {"copy-target": {}, "exact": {}, "compact": {}}})]
    assert comparison.sheet(runs) is None
    for name in ("source", "target", "exact", "compact"):
        save_png(torch.zeros(3, 8, 8, dtype=torch.uint8), tmp_path / "eval" / "pictures" / f"00.{name}.png")
    assert comparison.sheet(runs).width == 4 * 132 + 4


def stamped(folder):
    """When each file of the training was written, the note of its inputs left out."""
    files = [p for p in folder.glob("*/train/**/*") if p.is_file() and p.name != "inputs.json"]
    return {p: p.stat().st_mtime_ns for p in files}


def test_the_same_command_again_trains_nothing(finished):
    path, folder = finished
    stamps = stamped(folder)
    assert len(stamps) > 6
    in_process(path)
    assert stamped(folder) == stamps


def test_mlflow_has_a_run_for_every_child_below_the_experiments(finished, mlflow):
    path, _ = finished
    exp = config.load(path)
    mlflow.set_tracking_uri(exp.tracking.uri)
    runs = mlflow.search_runs(experiment_names=["variants"])
    parent = runs[runs["tags.mlflow.runName"] == "many"].iloc[0]
    children = runs[runs["tags.mlflow.parentRunId"] == parent.run_id]
    assert len(runs) == 7 and len(children) == 6 and (runs.status == "FINISHED").all()
    assert sorted(children["tags.variant"]) == sorted([*VARIANTS, *VARIANTS])
    assert set(children["tags.seed"]) == {"1", "2"} and set(children["tags.experiment"]) == {"many"}
    assert set(children["tags.student"]) == {"compact"} and set(children["tags.teacher"]) == {"exact"}
    for metric in ("id_retrieval_top1_pct", "pose_error_deg", "macs_g", "size_mb"):
        assert children[f"metrics.{metric}"].notna().all()
    client = mlflow.MlflowClient()
    names = {a.path for a in client.list_artifacts(parent.run_id)}
    assert {"comparison.md", "comparison.png", "comparison.json"} <= names
    assert "swaps.png" in names and client.list_artifacts(parent.run_id, "images")
    pictures = [a.path for a in client.list_artifacts(children.run_id.iloc[0], "images")]
    assert any(p.startswith("images/swaps+step+0+") for p in pictures) and any("preview" in p for p in pictures)


def test_the_front_keeps_what_nothing_beats():
    assert comparison.front([1, 2, 3, 4], [10, 30, 20, 40]) == [0, 1, 3]
    assert comparison.front([2, 1, 1], [5, 5, 4]) == [1]
    assert comparison.front([3.0], [1.0]) == [0]


@pytest.mark.parametrize(("operations", "shown"), [((1, 2), ["GMAC", "CPU ms"]), ((1, 1), [])])
def test_the_plot_shows_times_only_of_networks_that_differ(operations, shown):
    rows = {
        name: {"values": {k: {"mean": v, "spread": None} for k, v in zip(keys, (quality, work, ms), strict=True)}}
        for keys in [(comparison.QUALITY, "macs_g", "latency_ms")]
        for name, quality, work, ms in zip("ab", (30.0, 60.0), operations, (7.0, 9.0), strict=True)
    }
    figure = comparison.plot("times", {"rows": rows})
    assert [axes.get_xlabel() for axes in (figure.axes if figure else [])] == shown


def test_names_in_the_plot_hide_neither_each_other_nor_leave_it():
    places = {"left": (1, 5), "beside": (1.02, 5.1), "close": (1.01, 4.9), "right": (3, 9), "low": (1, 0)}
    rows = {
        name: {"macs_g": {"mean": x, "spread": 0.1}, comparison.QUALITY: {"mean": y, "spread": 1.0}}
        for name, (x, y) in places.items()
    }
    axes = Figure(figsize=(5, 4), dpi=100).subplots()
    for values in rows.values():
        x, y = values["macs_g"], values[comparison.QUALITY]
        axes.errorbar(x["mean"], y["mean"], xerr=x["spread"], yerr=y["spread"], fmt="o")
    axes.margins(x=0.3, y=0.2)
    axes.figure.draw_without_rendering()
    comparison._label(axes, rows, "macs_g", comparison.QUALITY)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert {text.get_text() for text in axes.texts} == set(places)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0 for box in boxes)


def test_a_name_in_the_plot_is_nearest_to_its_own_point():
    places = {"far": (30, 10), "high": (7.2, 0.317), "low": (9.7, 0.312)}
    rows = {k: {"macs_g": {"mean": x}, comparison.QUALITY: {"mean": y}} for k, (x, y) in places.items()}
    axes = Figure(figsize=(4, 3.3), dpi=130).subplots()
    axes.plot(*zip(*places.values(), strict=True), "o")
    axes.set_ylim(0.26, 0.38)
    axes.margins(x=0.18)
    axes.figure.draw_without_rendering()
    comparison._label(axes, rows, "macs_g", comparison.QUALITY)
    for text in axes.texts[1:]:
        box = text.get_window_extent()
        far = {k: comparison._distance(box, axes.transData.transform(point)) for k, point in places.items()}
        assert min(far, key=far.get) == text.get_text(), far


def by_hand(variant, each, seed=0, people=None, where="here"):
    """A run of a variant whose background error is `each` (N,), of pairs of different people."""
    exp = config.Experiment(name=f"{variant}-seed{seed}")
    each = np.asarray(each, dtype=np.float32)
    value = {"value": float(np.nanmean(each)), "unit": "", "protocol": {}, "each": packed(each)}
    people = packed(np.arange(len(each)) if people is None else np.asarray(people))
    metrics = {
        "pairs": {"hash": "1", "people": {"source": people, "target": people}},
        "rows": {"mobilefsgan": {"background_error": value, "size_mb": {"value": 1.0, "unit": "MB", "protocol": {}}}},
        "minutes": {"train": 1}, "environment": {"commit": "now"}, "environments": {"mobilefsgan": {"commit": where}},
    }  # fmt: skip
    return Child(variant, seed, exp), metrics


def test_sure_differences_of_variants_by_hand():
    """Variant b is 1 above a on eleven of twelve pairs and 1 below on one: 5/6, by pairs from 0.5 to 1."""
    base, paired = np.linspace(1, 100, 12), np.where(np.arange(12) == 5, -1, 1)
    table = comparison.collect([by_hand("a", base), by_hand("b", base + paired)])
    assert table["reference"] == "a" and "difference" not in table["rows"]["a"]["values"]["background_error"]
    found = table["rows"]["b"]["values"]["background_error"]["difference"]
    assert found["value"] == pytest.approx(5 / 6) and found["sure"] and set(found["intervals"]) == {"pairs", "people"}
    assert found["intervals"]["pairs"] == pytest.approx([0.5, 1])
    assert "difference" not in table["rows"]["b"]["values"]["size_mb"]


def test_sure_differences_hold_over_the_seeds():
    """The mean over seeds is 1 above the reference on every pair. Seeds 0.9 and 1.1 above agree, -4 and 6 do not."""
    base = np.linspace(1, 100, 12)
    reference = [by_hand("a", base + x, seed) for seed, x in enumerate((-0.1, 0.1))]
    for shifts, sure in (((0.9, 1.1), True), ((-4, 6), False)):
        runs = [*reference, *(by_hand("b", base + shift, seed) for seed, shift in enumerate(shifts))]
        found = comparison.collect(runs, "a")["rows"]["b"]["values"]["background_error"]["difference"]
        assert found["intervals"]["pairs"] == pytest.approx([1, 1], abs=1e-5) and found["sure"] == sure
        low, high = found["intervals"]["seeds"]
        assert (low > 0) == sure and low < 1 < high
    single = comparison.collect([reference[0], by_hand("b", base + 1)], "a")["rows"]["b"]["values"]["background_error"]
    assert "seeds" not in single["difference"]["intervals"] and single["intervals"]["seeds"] is None


def test_the_table_marks_differences_and_names_the_reference():
    base = np.linspace(1, 100, 12)
    text = comparison.markdown(comparison.collect([by_hand("a", base), by_hand("b", base + 1)], "b"))
    assert "surely differs from b: the 95 % intervals of the difference by pairs and by people exclude 0" in text
    assert "| a | 1 | 50.5000 \\* |" in text and "| b | 1 | 51.5000 |" in text
    runs = [by_hand("a", base, people=[0] * 12), by_hand("b", base + 1, people=[0] * 12)]
    table = comparison.collect(runs)  # one person
    assert table["reference"] == "a" and "| b | 1 | 51.5000 \\~ |" in comparison.markdown(table)


def test_a_variant_keeps_the_environment_of_its_values():
    table = comparison.collect([by_hand("a", range(8), 0, where="then"), by_hand("a", range(8), 1)])
    assert table["rows"]["a"]["environments"] == [{"commit": "then"}, {"commit": "here"}]


def test_values_of_different_pairs_are_not_put_in_one_column():
    def run(name, pairs, window="11 x 11"):
        exp = config.Experiment(name=name)
        rows = {"mobilefsgan": {"ssim": {"value": 0.5, "unit": "", "protocol": {"window": window}}}}
        return Child(name, None, exp), {
            "pairs": {"hash": pairs},
            "rows": rows,
            "minutes": {"train": 1},
            "environment": {},
        }

    assert comparison.collect([run("a", "1"), run("b", "1")])["rows"]["b"]["values"]["ssim"]["mean"] == 0.5
    with pytest.raises(ConfigError, match="2 different pair lists"):
        comparison.collect([run("a", "1"), run("b", "2")])
    with pytest.raises(ValueError, match="ssim: a and b were measured by different protocols.*'11 x 11' and '7 x 7'"):
        comparison.collect([run("a", "1"), run("b", "1", "7 x 7")])


def test_variants_of_several_resolutions_have_references_of_their_own_and_no_differences():
    def run(variant, resolution, pairs, top):
        child, metrics = by_hand(variant, range(8), top)
        exp = replace(child.exp, data=replace(child.exp.data, resolution=resolution))
        metrics["pairs"]["hash"] = pairs
        metrics["rows"]["exact"] = {"background_error": {"value": 90.0 + top, "unit": ""}}
        return Child(variant, None, exp), metrics

    table = comparison.collect([run("small", 64, "1", 0), run("large", 96, "2", 1)])
    assert list(table["references"]) == ["exact, 64 px", "exact, 96 px"] and table["reference"] is None
    assert not any("difference" in value for row in table["rows"].values() for value in row["values"].values())
    assert "*exact, 96 px*" in comparison.markdown(table)
    with pytest.raises(ConfigError, match="2 different pair lists"):
        comparison.collect([run("small", 64, "1", 0), run("large", 64, "2", 1)])
