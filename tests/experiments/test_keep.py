"""What is kept of a run for the repository: small, complete, without folders of this machine or pictures of people."""

import shutil
import subprocess

import pytest
import yaml
from conftest import ROOT, script
from helpers.line import experiment, in_process


def keep(*arguments) -> subprocess.CompletedProcess:
    return script(ROOT / "experiments" / "keep.py", *arguments)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    in_process(experiment(folder, "one", weights=[str(folder)], train={"compile_cache": str(folder / "cache")}))
    b = {"student.options.width": 16, "train.compile_cache": str(folder / "cache")}
    small = {"train": {"steps": 1}, "seeds": [0], "variants": {"a": {}, "b": b}}
    in_process(experiment(folder, "several", **small))
    return folder / "runs"


def test_a_run_is_kept_in_small_files(runs, tmp_path):
    done = keep(runs / "one", "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    kept = {path.name for path in (tmp_path / "one").iterdir()}
    assert kept == {"experiment.yaml", "log.jsonl", "metrics.json", "run.json", "grid.png"}
    tree = yaml.safe_load((tmp_path / "one" / "experiment.yaml").read_text())
    assert tree["weights"] == ["FOLDER"] and tree["runs"] == "runs" and tree["train"]["steps"] == 4
    assert tree["tracking"]["uri"] == "none" and tree["student"]["weights"] is None
    assert tree["train"]["compile_cache"] == "FOLDER"
    facts = yaml.safe_load((tmp_path / "one" / "run.json").read_text())
    assert facts["commit"] and facts["processor"] and facts["minutes"]["train"] >= 0 and facts["steps"] == 4


def test_variants_are_kept_with_log_and_facts_of_each(runs, tmp_path):
    done = keep(runs / "several", "--results", tmp_path, "--as", "other")
    assert done.returncode == 0, done.stderr
    kept = {str(path.relative_to(tmp_path / "other")) for path in (tmp_path / "other").rglob("*") if path.is_file()}
    tree = yaml.safe_load((tmp_path / "other" / "experiment.yaml").read_text())
    assert tree["variants"]["b"] == {"student.options.width": 16, "train.compile_cache": "FOLDER"}
    assert {"comparison.json", "experiment.yaml", "a-seed0/log.jsonl", "b-seed0/run.json", "swaps.png"} <= kept


def test_what_is_no_run_of_the_experiment_is_left_out(runs, tmp_path):
    """A variant that the file no longer has, and the stages of a single run of the same name."""
    run = tmp_path / "several"
    shutil.copytree(runs / "several", run, symlinks=True)
    for name in ("old-seed0", "eval"):
        (run / name).mkdir()
        shutil.copy(run / "a-seed0" / "metrics.json", run / name)
    done = keep(run, "--results", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    kept = {path.name for path in (tmp_path / "results" / "several").iterdir() if path.is_dir()}
    assert kept == {"a-seed0", "b-seed0"}


@pytest.mark.parametrize("name", ["one", "several"])
def test_no_picture_of_a_photograph_is_kept(runs, tmp_path, name):
    run = tmp_path / "photographs"
    shutil.copytree(runs / name, run)
    assert list(run.rglob("grid.png")) and (run / "swaps.png").is_file() == (name == "several")
    text = (run / "experiment.yaml").read_text()
    text = text.replace("kind: synthetic", "kind: photos").replace("photos: null", "photos: /home/me/photos")
    (run / "experiment.yaml").write_text(text)
    assert keep(run, "--results", tmp_path / "results").returncode == 0
    assert {path.name for path in (tmp_path / "results").rglob("*.png")} <= {"comparison.png"}


def test_an_unfinished_run_is_named(tmp_path):
    done = keep(tmp_path / "nothing")
    assert done.returncode == 2 and "nothing: not a run, it has no experiment.yaml" in done.stderr
