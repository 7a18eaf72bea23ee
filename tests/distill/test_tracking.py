"""Tracking neither stops nor delays a command: servers that are away, die, hang or refuse; one database for many."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from helpers.line import experiment, in_process
from helpers.mlflow_server import MlflowServer

from distill import config, run
from distill.tracking import Tracker, TrackingError
from distill.tracking import tracker as module
from distill.tracking import view as page_of_runs
from swapcore.files import read_record, write_record
from swapcore.images import save_png

mlflow = pytest.importorskip("mlflow", reason="pip install -e .")


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 1.0)
    monkeypatch.setattr(module, "RETRY_S", 0.2)
    server = MlflowServer(tmp_path / "artifacts")
    yield server
    server.stop()


def tracked(tmp_path, uri, name="tracked"):
    exp = config.load(experiment(tmp_path, name, tracking={"uri": uri, "experiment": "tests"}))
    exp.folder.mkdir(parents=True, exist_ok=True)
    (exp.folder / "experiment.yaml").write_text("name: tracked\n")
    save_png(np.zeros((8, 8, 3), np.uint8), exp.folder / "grid.png")
    return exp


def unsent(exp):
    try:
        text = (exp.folder / "mlflow_unsent.jsonl").read_text()
    except FileNotFoundError:  # all are sent
        return []
    return [json.loads(line)["kind"] for line in text.splitlines()]


def until(condition, limit_s=10.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def steps(server):
    return [int(point["step"]) for run_ in server.runs.values() for point in run_["metrics"]]


def test_a_server_that_dies_gets_the_rest_when_it_is_back_in_order_and_once(tmp_path, server, capsys):
    exp = tracked(tmp_path, server.uri)
    tracker = Tracker(exp)
    tracker.metrics({"loss": 1.0}, 1)
    until(lambda: steps(server) == [1])
    server.stop()
    started = time.monotonic()
    for step in range(2, 400):
        tracker.metrics({"loss": 1.0 / step}, step)
    tracker.image(exp.folder / "grid.png", "preview", 400)
    assert time.monotonic() - started < 1, "the training waits"
    until(lambda: "keeps the records" in capsys.readouterr().err)
    assert len(unsent(exp)) == 399
    server.start()
    until(lambda: not unsent(exp))
    assert steps(server) == list(range(1, 400)) and server.run["batches"] < 10
    tracker.end()
    assert server.run["status"] == "FINISHED" and capsys.readouterr().err.count("warning") == 0, "warned once"
    files = {p.name for p in (tmp_path / "artifacts").rglob("*.*")}
    assert "experiment.yaml" in files and sum("preview+step+400" in name for name in files) == 2


def test_what_a_dead_server_missed_comes_with_the_next_start(tmp_path, server, capsys):
    server.stop()
    exp = tracked(tmp_path, server.uri)
    started = time.monotonic()
    tracker = Tracker(exp)
    tracker.metrics({"loss": 1.0}, 1)
    tracker.end("KILLED")
    assert time.monotonic() - started < 3
    err = capsys.readouterr().err
    assert err.count("warning: MLflow at ") == 1 and "5 events not sent; the same command sends" in err
    with open(exp.folder / "mlflow_unsent.jsonl", "a") as file:
        file.write('{"kind": "metr')  # a kill in the middle of a line
    server.start()
    tracker = Tracker(exp)
    tracker.metrics({"loss": 0.5}, 2)
    tracker.end()
    assert steps(server) == [1, 2] and server.run["status"] == "FINISHED" and not unsent(exp)
    assert server.run["tags"]["experiment"] == "tracked" and server.run["params"]["train.lr"] == "0.001"


def test_a_server_that_hangs_delays_nothing_but_the_end_by_seconds(tmp_path, server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        exp = tracked(tmp_path, f"http://127.0.0.1:{deaf.getsockname()[1]}")
        started = time.monotonic()
        tracker = Tracker(exp)
        for step in range(100):
            tracker.metrics({"loss": 1.0}, step)
        assert time.monotonic() - started < 1
        tracker.end()
        assert time.monotonic() - started < 6 and len(unsent(exp)) == 104


def test_the_end_waits_for_a_slow_server(tmp_path, server):
    server.delay_s = 0.3
    exp = tracked(tmp_path, server.uri)
    tracker = Tracker(exp)
    for name in "abcdef":
        (exp.folder / name).write_text(name)
        tracker.artifact(exp.folder / name)
    tracker.image(exp.folder / "grid.png", "swaps")
    tracker.end()
    assert server.run["status"] == "FINISHED" and not unsent(exp)


def test_a_kill_between_the_creation_of_a_run_and_its_record_leaves_one_run(tmp_path, server):
    exp = tracked(tmp_path, server.uri)
    Tracker(exp).end()
    record = exp.folder / "mlflow_run.json"
    known = read_record(record)
    write_record(record, {key: value for key, value in known.items() if key != "run_id"})
    Tracker(exp).end()
    assert len(server.runs) == 1 and read_record(record)["run_id"] == known["run_id"]


def test_pictures_that_the_server_has_are_not_sent_again(tmp_path, server):
    exp = tracked(tmp_path, server.uri)
    tracker = Tracker(exp)
    tracker.image(exp.folder / "grid.png", "swaps")
    event = tracker.outbox.events[-1] if tracker.outbox.events else None
    tracker.end()
    assert event["kind"] == "image"
    (exp.folder / "mlflow_unsent.jsonl").write_text(json.dumps(event) + "\n")  # killed before it was taken out
    Tracker(exp).end()
    assert len([p for p in (tmp_path / "artifacts").rglob("*.*") if "swaps+step" in p.name]) == 2


def test_what_mlflow_refuses_is_named_and_the_rest_is_sent(tmp_path, server, capsys):
    exp = tracked(tmp_path, server.uri)
    tracker = Tracker(exp)
    for name, step in (("loss", 1), ("forbidden", 2), ("loss", 3)):
        tracker.metrics({name: 1.0}, step)
    tracker.artifact(exp.folder / "gone.txt")
    tracker.end()
    assert steps(server) == [1, 3] and server.run["status"] == "FINISHED"
    err = capsys.readouterr().err
    assert "MLflow refuses metrics (" in err and "MLflow refuses artifact (" in err and "gone.txt is gone" in err


def test_a_server_that_dies_does_not_stop_the_line(tmp_path, server):
    path = experiment(tmp_path, "line", tracking={"uri": server.uri, "experiment": "tests"})
    in_process(path, "stages=[data]")
    server.stop()
    folder = in_process(path, "stages=[data, pseudo_gt, train]")
    assert (folder / "train" / "student.safetensors").is_file() and (folder / "mlflow_unsent.jsonl").is_file()
    server.start()
    in_process(path, "stages=[data]")
    got = {point["key"] for point in server.run["metrics"]}
    assert {"data/train_images", "train/identity", "pseudo_gt/kept"} <= got and len(server.runs) == 1
    assert not (folder / "mlflow_unsent.jsonl").exists()


def test_variants_are_children_although_the_server_comes_late(tmp_path, server):
    path = experiment(tmp_path, "late", seeds=[0, 1], tracking={"uri": server.uri, "experiment": "tests"})
    server.stop()
    in_process(path, "stages=[data]")
    server.start()
    in_process(path, "stages=[data]")
    by_name = {run_["tags"]["experiment"] + run_["tags"].get("seed", ""): key for key, run_ in server.runs.items()}
    parents = [run_["tags"].get("mlflow.parentRunId") for run_ in server.runs.values()]
    assert len(server.runs) == 3 and parents.count(None) == 1, by_name
    assert set(parents) - {None} == {key for key, run_ in server.runs.items() if "variant" not in run_["tags"]}


KIND, VIEW = "mlflow.experimentKind", "mlflow.sharedViewState.swapdistill"


def test_the_experiment_gets_its_kind_and_the_view_of_its_runs_once(tmp_path, server):
    exp = tracked(tmp_path, server.uri)
    Tracker(exp).end()
    tags = server.tags["1"]
    assert set(tags) == {KIND, VIEW} and tags[KIND] == "custom_model_development"
    view = json.loads(tags[VIEW])
    assert {"metrics.`id_retrieval_top1_pct`", "tags.`variant`"} <= set(view["selectedColumns"])
    assert view["orderByKey"] == "metrics.`id_retrieval_top1_pct`" and view["orderByAsc"] is False
    Tracker(exp).end()
    Tracker(tracked(tmp_path, server.uri, "another")).end()
    assert sorted(server.tags_set) == sorted([KIND, VIEW]), "not set again"


def test_an_experiment_of_older_runs_gets_them_and_a_persons_choice_stays(tmp_path, server):
    server.experiments["tests"] = "7"
    server.tags["7"] = {KIND: "no_inferred_type", VIEW: '{"of": "an older version"}', "mlflow.note.content": "mine"}
    Tracker(tracked(tmp_path, server.uri)).end()
    assert server.tags["7"][KIND] == "custom_model_development" and "selectedColumns" in server.tags["7"][VIEW]
    assert sorted(server.tags_set) == sorted([KIND, VIEW])
    server.tags["7"][KIND] = "genai_development"
    Tracker(tracked(tmp_path, server.uri, "another")).end()
    assert server.tags["7"][KIND] == "genai_development" and len(server.tags_set) == 2


def test_a_server_that_refuses_the_tags_gets_the_run(tmp_path, server, capsys):
    server.read_only = True
    exp = tracked(tmp_path, server.uri)
    tracker = Tracker(exp)
    tracker.metrics({"loss": 1.0}, 1)
    tracker.end()
    assert steps(server) == [1] and server.run["status"] == "FINISHED" and not unsent(exp) and not server.tags
    err = capsys.readouterr().err
    assert err.count("warning") == 1 and "MLflow refuses view (" in err and "only its owner" in err


def test_a_child_adds_the_view_of_the_experiments_runs(tmp_path, server):
    parent = Tracker(tracked(tmp_path, server.uri, "parent's"))
    child = Tracker(tracked(tmp_path, server.uri, "child"), parent=parent.run)
    child.end()
    parent.end()
    view = json.loads(server.tags["1"][f"{VIEW}-parent-s"])
    assert view["searchFilter"] == 'tags.experiment = "parent\'s"'
    assert view["selectedColumns"] == json.loads(server.tags["1"][VIEW])["selectedColumns"]


def test_the_address_of_the_runs(tmp_path, server):
    tracker = Tracker(tracked(tmp_path, server.uri))
    page = f"{server.uri}/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=swapdistill"
    assert tracker.where_to_look() == page and tracker.where_to_look("many") == f"{page}-many"
    tracker.end()
    tracker = Tracker(tracked(tmp_path, server.uri))
    assert tracker.where_to_look() == page, "known from the run of the first start"
    tracker.end()
    server.stop()
    away = Tracker(tracked(tmp_path, server.uri, "away"))
    assert away.where_to_look() == server.uri
    away.end()
    assert Tracker(tracked(tmp_path, "none")).where_to_look() == ""


def test_the_address_of_a_database_comes_with_the_command_that_serves_it():
    lines = page_of_runs.where_to_look("sqlite:///mlflow.db", "3").splitlines()
    page = "http://127.0.0.1:5000/#/experiments/3/runs?workflowType=machine_learning&viewStateShareKey=swapdistill"
    assert lines == ["mlflow ui --backend-store-uri sqlite:///mlflow.db", page]
    assert page_of_runs.where_to_look("sqlite:///mlflow.db", None) == lines[0]
    assert page_of_runs.where_to_look("https://host/mlflow/", "3", "a b").startswith(
        "https://host/mlflow/#/experiments/3/"
    )


def test_mlflow_takes_the_tags_and_the_filter(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    parent = Tracker(tracked(tmp_path, uri, "grüße 'x'"))
    own = {"experiment": "grüße 'x'", "variant": "a"}
    Tracker(tracked(tmp_path, uri, "child"), parent=parent.run, tags=own).end()
    parent.end()
    Tracker(tracked(tmp_path, uri, "alone")).end()
    client = mlflow.MlflowClient(uri)
    experiment_ = client.get_experiment_by_name("tests")
    assert parent.where_to_look("x").endswith(
        f"/#/experiments/{experiment_.experiment_id}/runs?workflowType=machine_learning&viewStateShareKey=swapdistill-x"
    )
    view = json.loads(experiment_.tags["mlflow.sharedViewState." + page_of_runs.key("grüße 'x'")])
    found = client.search_runs(
        [experiment_.experiment_id], view["searchFilter"], order_by=[f"{view['orderByKey']} DESC"]
    )
    assert {run_.info.run_name for run_ in found} == {"grüße 'x'", "child"} and experiment_.tags[KIND]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("htp://localhost:5000", "unsupported URI 'htp://localhost:5000'"),
        ("./mlruns", "sqlite:///mlflow.db"),
        ("sqlite:////proc/nowhere/mlflow.db", "nowhere"),
        ("sqlite:///{folder}/text.db", "file is not a database"),
    ],
)
def test_a_wrong_uri_is_one_line_at_the_start(tmp_path, capsys, uri, message):
    (tmp_path / "text.db").write_text("this is no database " * 100)
    uri = uri.format(folder=tmp_path)
    started = time.monotonic()
    assert run.main([str(experiment(tmp_path, "x")), f"tracking.uri={uri}"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: tracking.uri={uri}: ") and message in err and err.count("\n") == 1
    assert time.monotonic() - started < 5
    with pytest.raises(TrackingError):
        Tracker(tracked(tmp_path, uri))


FIRST = """
import sys
from pathlib import Path
from distill.config import default
from distill.tracking import Tracker
exp = default(sys.argv[1], [("runs", sys.argv[2]), ("tracking.uri", f"sqlite:///{sys.argv[2]}/mlflow.db")])
exp.folder.mkdir(parents=True)
(exp.folder / "experiment.yaml").write_text("a")
tracker = Tracker(exp)
tracker.metrics({"loss": 1.0}, 1)
tracker.end()
"""


@pytest.mark.slow
def test_first_starts_at_once_share_a_new_database(tmp_path):
    """One of them is killed while it creates the database."""
    killed = subprocess.Popen([sys.executable, "-c", FIRST, "killed", tmp_path], cwd=ROOT, env=environment())
    until(lambda: list(tmp_path.glob(".mlflow.*@*.db")), 60)
    starts = [
        subprocess.Popen([sys.executable, "-c", FIRST, name, tmp_path], cwd=ROOT, env=environment(), stderr=-1)
        for name in ("one", "two", "three")
    ]
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    errors = [start.communicate()[1] for start in starts]
    assert [start.returncode for start in starts] == [0, 0, 0], errors
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["swapdistill"])
    assert set(runs["tags.experiment"]) == {"one", "two", "three"} and set(runs.status) == {"FINISHED"}
    assert set(runs["metrics.loss"]) == {1.0} and not list(tmp_path.glob(".mlflow.*@*"))


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}
