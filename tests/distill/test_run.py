"""The whole line on a small experiment, through the command a user types; kills, mistakes and two processes."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from helpers.line import TINY, command, experiment, in_process, launch, same_state, told
from safetensors.torch import load_file

import students
from distill import run
from distill.pseudo_gt.shards import Shards


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of one run from data to report, as `distill/run.py tiny.yaml` from another working directory."""
    folder = tmp_path_factory.mktemp("run")
    done = launch(str(experiment(folder)), cwd=folder)
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-3:]
    assert [Path(line).name for line in last] == ["report.html", "metrics.json", "student.safetensors"]
    return folder / "runs" / "tiny"


def test_the_run_leaves_report_metrics_and_student(finished):
    page = (finished / "report.html").read_text()
    assert "<table" in page and page.count("data:image/png;base64,") == 2 * 4 and "<svg" in page
    assert 'src="http' not in page and "href=" not in page.replace('xlink:href="#', "").replace('href="#', "")
    metrics = json.loads((finished / "metrics.json").read_text())
    rows = metrics["rows"]
    assert list(rows) == ["copy-target", "copy-source", "exact", "compact"]
    assert rows["copy-target"]["pose_error_deg"]["value"] == 0
    assert rows["exact"]["ssim"]["value"] == pytest.approx(1)
    assert rows["compact"]["size_mb"]["value"] > 0 and "size_mb" not in rows["exact"]
    assert set(metrics["minutes"]) == {"data", "pseudo_gt", "train", "eval"}
    assert metrics["pairs"]["gallery"] == 4 and len(metrics["environment"]["commit"]) >= 7
    student = students.load(finished / "student.safetensors", expected="compact")
    assert student.options["width"] == 8


def test_pseudo_gt_of_the_exact_teacher_is_the_truth(finished):
    shards = Shards(finished / "pseudo_gt")
    assert len(shards) == 20
    facts = shards.facts(0)
    assert facts["teacher"] == "exact" and facts["seed"] == 5 and len(facts["weight_hash"]) >= 8
    rows = {
        json.loads(x)["file"]: json.loads(x) for x in (finished / "data" / "manifest.jsonl").read_text().splitlines()
    }
    assert rows[facts["source"]]["person"] != rows[facts["target"]]["person"]
    index = json.loads((finished / "pseudo_gt" / "index.json").read_text())
    assert [s["kept"] for s in index["shards"]] == [8, 8, 4] and index["kept"] == 20 and index["dropped"] == 0
    source, target, gt = shards.load([0])[0].float()
    assert (gt - target).abs().mean() > 1 and (gt - source).abs().mean() > 1
    assert all(rows[shards.facts(i)["source"]]["split"] == "train" for i in range(20))


def test_bad_swaps_are_dropped_and_counted(tmp_path):
    picky = {**TINY["pseudo_gt"], "quality": {"min_id_similarity": 0.75}}
    path = experiment(tmp_path, "picky", pseudo_gt=picky, stages=["data", "pseudo_gt"])
    folder = in_process(path)
    index = json.loads((folder / "pseudo_gt" / "index.json").read_text())
    shards = Shards(folder / "pseudo_gt")
    assert 0 < index["dropped"] < 20 and index["kept"] == 20 - index["dropped"] == len(shards)
    assert all(shards.facts(i)["quality"]["id_similarity"] >= 0.75 for i in range(len(shards)))
    with pytest.raises(ValueError, match="were all swaps dropped by pseudo_gt.quality.min_id_similarity"):
        in_process(
            experiment(tmp_path, "none", pseudo_gt={"quality": {"min_id_similarity": 1.1}}),
            "stages=[data, pseudo_gt, train]",
        )


def test_again_is_skipped_and_other_inputs_are_refused(finished):
    path = str(finished.parent.parent / "tiny.yaml")
    before = (
        (finished / "student.safetensors").stat().st_mtime_ns,
        (finished / "train" / "done.json").stat().st_mtime_ns,
    )
    done = told(path, cwd=finished)
    assert done.returncode == 0 and done.stdout.count("finished before") == 4, done.stdout + done.stderr
    assert before[1] == (finished / "train" / "done.json").stat().st_mtime_ns
    refused = told(path, "train.lr=0.5")
    assert refused.returncode == 2 and "train.lr was 0.001, now 0.5" in refused.stderr
    assert refused.stderr.strip().splitlines()[-1].startswith("error: ") and "Traceback" not in refused.stderr


def test_a_lost_shard_alone_is_made_anew(finished):
    path = str(finished.parent.parent / "tiny.yaml")
    shards = sorted((finished / "pseudo_gt").glob("*.tar"))
    before = [s.read_bytes() for s in shards]
    untouched = shards[0].stat().st_mtime_ns
    shards[1].unlink()
    assert told(path, "stages=[pseudo_gt]").returncode == 0
    assert [s.read_bytes() for s in shards] == before and shards[0].stat().st_mtime_ns == untouched


def test_resuming_equals_going_on_bit_for_bit(tmp_path):
    data = "stages=[data, pseudo_gt, train]"
    whole = in_process(experiment(tmp_path, "whole"), data)
    halves = in_process(experiment(tmp_path, "halves"), data, "train.steps=2")
    assert in_process(experiment(tmp_path, "halves"), data) == halves
    same_state(whole, halves)
    a, b = (load_file(p / "train" / "student.safetensors") for p in (whole, halves))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", students.STUDENTS)
def test_every_student_trains(tmp_path, name):
    """Two steps change every parameter, the average follows, and the file holds the average."""
    student = {"name": name, "options": {"width": 16 if name in ("unet", "timm_unet") else 8}}
    path = experiment(tmp_path, name, student=student, train={"steps": 2, "ema": 0.9})
    folder = in_process(path, "stages=[data, pseudo_gt, train]")
    state = torch.load(next((folder / "train" / "state").glob("*.pt")), weights_only=True)
    saved = students.load(folder / "train" / "student.safetensors", expected=name)
    assert all(torch.equal(v, state["average"][k]) for k, v in saved.named_parameters())
    assert any(not torch.equal(v, state["average"][k]) for k, v in state["student"].items())
    assert all(s["step"] == 2 for s in state["optimiser"]["state"].values())
    lines = [json.loads(line) for line in (folder / "train" / "log.jsonl").read_text().splitlines()]
    assert lines[0].keys() >= {"step", "identity", "reconstruction", "perceptual", "adversarial", "grad_norm"}
    assert {"val/id_similarity", "val/l1_exact"} <= lines[-1].keys()


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(tmp_path):
    path = experiment(tmp_path, "killed", stages=["data", "pseudo_gt", "train"], train={"steps": 400})
    state = tmp_path / "runs" / "killed" / "train" / "state"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command(str(path)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as process:
        deadline = time.time() + 120
        while not list(state.glob("step-*.pt")) and time.time() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    checkpoint = sorted(state.glob("step-*.pt"))[-1]
    step = int(checkpoint.stem.removeprefix("step-"))
    assert step >= 2
    done = told(path, f"train.steps={step + 2}")
    assert done.returncode == 0 and f"resumed at step {step} of {step + 2}" in done.stdout, done.stdout + done.stderr
    straight = in_process(
        experiment(tmp_path, "straight", train={"steps": step + 2}), "stages=[data, pseudo_gt, train]"
    )
    same_state(straight, tmp_path / "runs" / "killed")


def same_training(a: Path, b: Path) -> None:
    """The same losses at every step and the same way through the parameters, but for the order of float32 sums.

    Adam divides a gradient by its own size, so a parameter whose gradient is all rounding may step either way; single
    parameters are therefore not compared. The gradients themselves are, in double precision, in test_distributed.py.
    """
    logs = [[json.loads(line) for line in (p / "train" / "log.jsonl").read_text().splitlines()] for p in (a, b)]
    for first, second in zip(*logs, strict=True):
        assert first.keys() == second.keys()
        for name, value in first.items():
            # Steps of rounding alone show first in the norm of the gradients, which no loss averages out.
            rel = 0.1 if name == "grad_norm" and first["step"] > 1 else 2e-2
            least = 1e-2 if name.startswith("val/") else 1e-3  # of few pictures, by the averaged network
            assert value == pytest.approx(second[name], rel=rel, abs=least), (first["step"], name)
    students_ = [torch.load(next((p / "train" / "state").glob("*.pt")), weights_only=True)["student"] for p in (a, b)]
    torch.manual_seed(TINY["seed"])
    start = students.build("compact", **students.load(a / "train" / "student.safetensors").options).state_dict()
    ways = [torch.cat([(s[k] - start[k]).flatten() for k in start]) for s in students_]
    assert ways[0].norm() > 0.1 and torch.cosine_similarity(*ways, dim=0) > 0.98


# With the default style most of so small a student would be weights whose gradients are rounding alone.
SMALL_STYLE = {"name": "compact", "options": {"width": 8, "style_dim": 16}}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> Path:
    """The folder of an experiment of three variants, the whole line in two processes."""
    folder = tmp_path_factory.mktemp("two")
    best = {"train.steps": 6, "train.checkpoint_steps": 3, "train.keep": "best"}
    variants = {"plain": {}, "best": best, "muon": {"train.optimiser": "muon"}}
    path = experiment(folder, "two", variants=variants, train={"batch_size": 2}, student=SMALL_STYLE)
    done = launch(str(path), processes=2)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "two"


@pytest.mark.slow
def test_two_processes_train_variants(two_processes):
    table = json.loads((two_processes / "comparison.json").read_text())
    assert (
        list(table["rows"]) == ["plain", "best", "muon"] and table["rows"]["plain"]["values"]["ssim"]["spread"] is None
    )


@pytest.mark.slow
def test_two_processes_save_the_same_best(two_processes):
    folder = two_processes / "best" / "train"
    best = torch.load(next((folder / "state").glob("*.pt")), weights_only=True)["best"]
    assert json.loads((folder / "done.json").read_text())["kept_step"] == best["step"]
    saved = students.load(folder / "student.safetensors").state_dict()
    assert saved.keys() == best["average"].keys()
    assert all(torch.equal(saved[key], best["average"][key]) for key in saved)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "optimiser"), [("plain", "adam"), ("muon", "muon")])
def test_two_processes_train_what_one_trains(two_processes, tmp_path, name, optimiser):
    path = experiment(tmp_path, "one", train={"optimiser": optimiser}, student=SMALL_STYLE)
    two = two_processes / name
    one = in_process(path, "stages=[data, pseudo_gt, train]")
    names = [p.name for p in sorted((one / "pseudo_gt").glob("*.tar"))]
    assert all((one / "pseudo_gt" / n).read_bytes() == (two / "pseudo_gt" / n).read_bytes() for n in names)
    same_training(one, two)


def test_accumulated_halves_are_one_batch(tmp_path):
    stages, quiet = "stages=[data, pseudo_gt, train]", {"adversarial": [0, 0, 0]}
    whole = in_process(experiment(tmp_path, "whole", loss=quiet), stages)
    halves = in_process(
        experiment(tmp_path, "halves", loss=quiet), stages, "train.batch_size=2", "train.accumulation=2"
    )
    same_training(whole, halves)


def test_foreign_and_damaged_checkpoints_are_named(tmp_path):
    path = experiment(tmp_path, "x")
    folder = in_process(path, "stages=[data, pseudo_gt, train]")
    state = next((folder / "train" / "state").glob("*.pt"))
    (folder / "train" / "done.json").unlink()
    content = state.read_bytes()
    state.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"step-0000004\.pt: damaged, or no checkpoint; delete it"):
        in_process(path, "stages=[train]")
    torch.save({"format": 2, "step": 4, "student": {"w": torch.zeros(1)}}, state)
    with pytest.raises(ValueError, match=r"step-0000004\.pt: not a checkpoint of this student"):
        in_process(path, "stages=[train]")


def test_divergence_stops_with_a_message_and_keeps_the_checkpoint(tmp_path):
    path = experiment(tmp_path, "x")
    with pytest.raises(ValueError, match="is not a number at step .*Lower train.lr"):
        in_process(path, "stages=[data, pseudo_gt, train]", "train.lr=1e38", "train.steps=50", "train.grad_clip=1e30")


def test_mistakes_are_one_line(tmp_path, capsys):
    path = experiment(tmp_path, "x")
    for overrides, said in [
        (["train.stpes=3"], "train.stpes: unknown key; did you mean 'train.steps'"),
        (["student.name=mobile"], "student.name, student.options: unknown student 'mobile'"),
        (["student.options={widht: 8}"], "student 'compact' has no option 'widht'"),
        (["pseudo_gt.teachers=[exakt]"], "pseudo_gt.teachers: unknown teacher 'exakt'; known: exact"),
        (["eval.metrics=[beauty]"], "eval.metrics: unknown metric 'beauty'; known: id_retrieval"),
        (["student.identity_encoder=x"], "unknown identity encoder 'x'; known: "),
        (["eval.recogniser=synthetic_identity"], "must not evaluate what it trained"),
        (["student.identity_encoder=mobilefacenet_512"], "nobody published them"),
        (["stages=[train]"], "stage 'data' is not finished"),
    ]:
        assert run.main([str(path), *overrides]) == 2
        error = capsys.readouterr().err
        assert said in error and error.startswith("error: ") and error.count("\n") == 1, (overrides, error)
    done = launch(str(path), "train.stpes=3")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert told(path, "--dry-run").stdout.startswith("name: x")


def test_mlflow_keeps_one_run_that_is_continued(tmp_path, mlflow):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    path = experiment(tmp_path, "tracked", tracking={"uri": uri, "experiment": "tests"})
    in_process(path, "stages=[data, pseudo_gt, train]", "train.steps=2")
    in_process(path)
    mlflow.set_tracking_uri(uri)
    runs = mlflow.search_runs(experiment_names=["tests"])
    assert len(runs) == 1 and runs.status[0] == "FINISHED"
    assert runs["metrics.train/reconstruction"][0] > 0 and runs["metrics.eval/compact/id_retrieval_top1_pct"][0] >= 0
    assert runs["params.train.lr"][0] == "0.001" and runs["tags.env.torch"][0] == torch.__version__.split("+")[0]
    names = {a.path for a in mlflow.MlflowClient().list_artifacts(runs.run_id[0])}
    assert {"experiment.yaml", "metrics.json", "report.html", "student.safetensors", "grid.png", "images"} <= names
