"""Runs of an experiment side by side: results of a sequential run, logs, ends by failure, by time, by signals."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from conftest import ROOT
from helpers import line
from helpers.results import compare

from distill import config, jobs, run, stage
from distill.config import ConfigError
from swapcore.files import read_rows

QUICK = {"metrics": ["id_similarity", "exact_match"], "pairs": 4, "pictures": 1}
TWO = {"narrow": {}, "untaught": {"train.mix": {"pseudo_gt": 0, "pair": 1}}}
THREE = {"narrow": {}, "wide": {"student.options.width": 16}, "untaught": TWO["untaught"]}


def many(folder, name="many", **sections):
    sections = {"variants": THREE, "train": {"steps": 2}, "eval": QUICK, **sections}
    return line.experiment(folder, name, **sections)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a command of two jobs, and what it printed."""
    folder = tmp_path_factory.mktemp("jobs")
    done = line.told(many(folder, variants=TWO), "jobs=2", "runs=runs", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / "many", done


def test_the_results_are_those_of_a_sequential_run(finished, tmp_path, monkeypatch):
    folder, _ = finished
    monkeypatch.chdir(tmp_path)
    alone = tmp_path / line.in_process(many(tmp_path, variants=TWO), "runs=runs")
    for name in TWO:
        line.same_state(folder / name, alone / name)
    differences = {name: lines for name, lines in compare(folder, alone) if lines}
    for name in [name for name in differences if name.endswith("log.jsonl")]:  # speeds differ, losses do not
        own, others = (read_rows(side / name, {"step": int}) for side in (folder, alone))
        keys = {key for row in own for key in row if "per_s" not in key and "minutes" not in key}
        assert [{k: row.get(k) for k in keys} for row in own] == [{k: row.get(k) for k in keys} for row in others]
        del differences[name]
    assert differences == {"experiment.yaml": ["other bytes"]}, "it names the jobs"


def test_shared_stages_are_made_once_and_logs_are_clean(finished):
    folder, done = finished
    logs = {name: (folder / name / "output.log").read_text() for name in TWO}
    assert len(list((folder / "shared").glob("data-*"))) == len(list((folder / "shared").glob("pseudo_gt-*"))) == 1
    for kind in ("data", "pseudo_gt"):
        assert sum(f"finished before: runs/many/{name}/{kind}" in text for name, text in logs.items()) == 1
    for name, text in logs.items():
        assert "\r" not in text and re.findall(r"^\[(\w+)\]$", text, re.MULTILINE) == list(config.default(name).stages)
        own = re.findall(rf"^{name}: (.*)$", done.stdout, re.MULTILINE)
        assert own[0] == f"output in runs/many/{name}/output.log" and own[-1].startswith("finished after ")
    assert not (folder / "jobs.yaml").exists() and (folder / "comparison.json").is_file()


# A child in place of distill/run.py: it says who it is, and then does what its name asks for.
FAKE = """
import json, os, signal, sys, time
name = sys.argv[sys.argv.index("--child") + 1]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
facts = {key: os.environ.get(key) for key in ("CUDA_VISIBLE_DEVICES", "WORLD_SIZE", "RANK", "MASTER_PORT")}
print(json.dumps([sys.argv[1:], facts, time.monotonic()]))
print("[train]\\ntrain:  1%\\rtrain: 50%\\rtrain: 99%")
if name == "bad":
    sys.exit("error: no such teacher")
if name == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if name.startswith("long"):
    time.sleep(60)
time.sleep(0.3)
"""


@pytest.fixture
def faked(tmp_path, monkeypatch):
    """A function that runs children of these names as fakes, and returns their logs by name."""
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(jobs, "COMMAND", tmp_path / "fake.py")

    def start(names, *overrides):
        exp = config.load(many(tmp_path, variants={name: {} for name in names}), overrides)
        jobs.run(exp, config.children(exp))
        return {name: (exp.folder / name / "output.log").read_text() for name in names}

    return start


def facts(log):
    return json.loads(log.splitlines()[0])


def test_the_places_share_the_gpus(faked, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 7")
    monkeypatch.setattr(jobs.torch.cuda, "device_count", lambda: 2)
    for key, value in {"WORLD_SIZE": "1", "RANK": "0", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(key, value)
    logs = faked("abc", "jobs=3")
    environments = [facts(logs[name])[1] for name in "abc"]
    assert [e.pop("CUDA_VISIBLE_DEVICES") for e in environments] == ["4", "7", "4"]
    assert all(value is None for e in environments for value in e.values()), "children join no launcher's processes"
    assert logs["a"].splitlines()[1:] == ["[train]", "train: 99%"]
    monkeypatch.setattr(jobs.torch.cuda, "device_count", lambda: 1)
    assert facts(faked("z", "jobs=3")["z"])[1]["CUDA_VISIBLE_DEVICES"] == "4, 7", "one GPU: nothing to choose"


def test_no_more_run_at_once_than_jobs_and_all_have_the_start_of_the_command(faked, monkeypatch):
    monkeypatch.setattr(stage, "STARTED", time.monotonic() - 7)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    logs = faked("abcd", "jobs=2")
    begun = sorted(facts(log)[2] for log in logs.values())
    assert begun[2] - begun[0] > 0.3 and begun[3] - begun[1] > 0.3
    for name, log in logs.items():
        words = facts(log)[0]
        assert words[1:3] == ["--child", name] and float(words[words.index("--started") + 1]) == stage.STARTED


def test_a_failure_is_named_with_its_log_and_the_others_go_on(faked, tmp_path, capsys):
    with pytest.raises(jobs.ChildrenFailed) as failed:
        faked(["bad", "killed", "good", "better"], "jobs=2")
    text, folder = str(failed.value), tmp_path / "runs" / "many"
    assert text.startswith("2 of 4 runs of many: ") and "good" not in text
    assert f"bad: failed (exit status 1; {folder / 'bad' / 'output.log'}: error: no such teacher)" in text
    assert f"killed: failed (killed by SIGKILL; {folder / 'killed' / 'output.log'}: " in text
    said = capsys.readouterr().out
    assert "good: finished after" in said and "better: finished after" in said and "bad: failed" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_together(faked, tmp_path, number, capsys):
    def send():
        logs = [tmp_path / "runs" / "many" / name / "output.log" for name in ("long1", "long2")]
        until = time.monotonic() + 30
        while time.monotonic() < until and not all(log.is_file() and "99%" in log.read_text() for log in logs):
            time.sleep(0.1)
        os.kill(os.getpid(), number)

    threading.Thread(target=send).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else stage.OutOfTime) as stopped:
        with stage.signals_stop_the_command():
            faked(["long1", "long2", "never"], "jobs=2")
    assert time.monotonic() - started < 45 and not (tmp_path / "runs" / "many" / "never").exists()
    said = capsys.readouterr().out
    assert "long1: stopped" in said and "long2: stopped" in said
    if number == signal.SIGTERM:
        assert str(stopped.value).startswith("stopped by SIGTERM with 0 of 3 runs of many finished")


def test_no_child_begins_after_the_minutes(faked, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "STARTED", time.monotonic() - 61)
    with pytest.raises(stage.OutOfTime, match="stopped after 1 minutes with 0 of 2 runs of many finished"):
        faked("ab", "jobs=2", "minutes=1")
    assert not (tmp_path / "runs" / "many" / "a").exists()


CHILD = "import time\nfrom distill import jobs, stage\njobs.follow_the_command(5.0)\nprint(stage.STARTED, flush=True)\n"


def test_a_child_ends_with_its_command():
    child = subprocess.Popen(
        [sys.executable, "-c", f"{CHILD}time.sleep(60)"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout.readline() == b"5.0\n"
    child.stdin.close()  # as the system does when the command is killed
    assert child.wait(30) == -signal.SIGTERM
    child.stdout.close()
    quiet = subprocess.Popen([sys.executable, "-c", CHILD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert quiet.wait(60) == 0, "the waiting thread does not disturb the end"
    quiet.stdin.close()


def test_mistakes_are_named(tmp_path, monkeypatch, capsys):
    path = many(tmp_path)
    for value in ("0", "1025"):
        with pytest.raises(ConfigError, match="jobs: expected 1 to 1024"):
            config.load(path, [f"jobs={value}"])
    with pytest.raises(ConfigError, match="jobs: cannot be set here"):
        config.load(many(tmp_path, "inside", variants={"a": {"jobs": 2}}))
    assert run.main([str(path), "--child", "wied"]) == 2
    assert "--child wied: no such run of many; did you mean 'wide'?" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run.main([str(path), "jobs=2"]) == 2
    assert "jobs: expected 1 in a command of 2 processes, got 2" in capsys.readouterr().err


def test_threads_are_divided(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "available_cores", lambda: 9)
    exp = config.load(many(tmp_path), ["threads=0", "jobs=4"])
    counts = []
    monkeypatch.setattr(run.torch, "set_num_threads", counts.append)
    run.set_threads(exp, jobs.slots(exp, 3))
    run.set_threads(exp)
    run.set_threads(config.load(many(tmp_path), ["threads=5"]), 3)
    assert counts == [3, 9, 5]


def test_a_written_experiment_is_read_as_it_was(tmp_path):
    """Children read `jobs.yaml`, the resolved experiment of their command."""
    exp = config.load(many(tmp_path, name="001", eval={"reference": "wide"}), ["weights=[]", "train.lr=1e-4"])
    (tmp_path / "jobs.yaml").write_text(config.dump(exp))
    assert config.load(tmp_path / "jobs.yaml") == exp


@pytest.mark.slow
def test_a_stopped_command_goes_on_as_if_nothing_was(tmp_path):
    """SIGTERM in the training of two of three, then the same command again: the states of an undisturbed run."""
    train = {"checkpoint_steps": 100_000, "log_steps": 1, "preview_steps": 100_000}
    path, stages = many(tmp_path, train=train), "stages=[data, pseudo_gt, train]"
    logs = [tmp_path / "runs" / "many" / name / "train" / "log.jsonl" for name in ("narrow", "wide")]
    words = line.command(str(path), "jobs=2", stages, "train.steps=100000")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 200
        while time.monotonic() < until and process.poll() is None and not all(log.is_file() for log in logs):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=100)
    assert process.returncode == 75 and "stopped by SIGTERM with 0 of 3 runs" in said
    steps = [torch.load(next((log.parent / "state").glob("*.pt")), weights_only=True)["step"] for log in logs]
    assert all(step >= 1 for step in steps)
    last = f"train.steps={max(steps) + 2}"
    assert line.told(path, "jobs=3", stages, last).returncode == 0
    alone = line.in_process(many(tmp_path, "alone", train=train), stages, last)
    for name in THREE:
        line.same_state(tmp_path / "runs" / "many" / name, alone / name)


@pytest.mark.slow
def test_mlflow_has_the_runs_below_the_experiments(tmp_path, mlflow):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    variants = {"a": {}, "b": {}}
    path = many(tmp_path, variants=variants, stages=["data"], tracking={"uri": uri, "experiment": "side"})
    assert line.told(path, "jobs=2").returncode == 0
    mlflow.set_tracking_uri(uri)
    runs = mlflow.search_runs(experiment_names=["side"])
    parent = runs[runs["tags.mlflow.runName"] == "many"].iloc[0]
    children = runs[runs["tags.mlflow.parentRunId"] == parent.run_id]
    assert len(runs) == 3 and len(children) == 2 and (runs.status == "FINISHED").all()
    assert sorted(children["tags.variant"]) == ["a", "b"] and set(children["tags.experiment"]) == {"many"}
