"""experiments/gpu.sh: its plan, its folder of results, its stops, and all of it once at CPU size."""

import argparse
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from conftest import ROOT, script
from PIL import Image

from distill import config
from experiments import gpu, gpu_proofs, gpu_results

PLAN = yaml.safe_load(gpu.PLAN.read_text())


def overrides(entry):
    settings = {**entry.get("set", {}), **{key: "somewhere" for key in entry.get("folders", {}).values()}}
    words = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]
    return [*words, f"name={entry['name']}", f"jobs={entry.get('jobs', 1)}"]


@pytest.mark.parametrize("entry", [*PLAN["experiments"], *PLAN["tiny"]], ids=lambda entry: entry["name"])
def test_its_experiments_load(entry):
    exp = config.load(ROOT / entry["file"], overrides(entry), entry.get("full_size", False))
    known = {each["name"] for each in PLAN["experiments"]}
    for child in [child.exp for child in config.children(exp)] or [exp]:
        assert child.train.precision == "bf16" or entry in PLAN["tiny"]
        for teacher in child.pseudo_gt.teachers:  # another entry trains it
            assert all(
                path.split("/")[0] == "runs" and path.split("/")[1] in known for path in teacher.weights.values()
            )


class Understood(Exception):
    """The options of a command were read."""


@pytest.mark.parametrize("step", PLAN["steps"], ids=lambda step: step["name"])
def test_its_scripts_understand_their_options(monkeypatch, step):
    read = argparse.ArgumentParser.parse_args

    def parse(self, *arguments):
        read(self, *arguments)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    for kind in ("command", "tiny"):
        if kind in step:
            path, *options = shlex.split(step[kind])
            monkeypatch.setattr(sys, "argv", [path, *options])
            with pytest.raises(Understood):
                importlib.import_module(path.removesuffix(".py").replace("/", ".")).main()


@pytest.fixture
def session(tmp_path, monkeypatch):
    """A function that runs a plan of small scripts in tmp_path: name -> Python, or a whole step."""

    def start(steps, minutes="0.5", *more):
        entries = []
        for name, code in steps.items():
            (tmp_path / f"{name}.py").write_text(code)
            line = f"{tmp_path}/{name}.py"
            entries.append({"name": name, "minutes": 0.1, "command": line, "tiny": line, "show": {"value": "rows.*.v"}})
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"steps": entries, "experiments": [], "tiny": []}))
        monkeypatch.setattr(gpu, "PLAN", tmp_path / "plan.yaml")
        before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        try:
            return gpu.main([minutes, str(tmp_path / "results"), "--work", str(tmp_path / "work"), *more])
        finally:
            for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
                signal.signal(number, handler)

    return start


GOOD = (
    'import sys  # "--out"\nopen(sys.argv[2], "w").write(\'{"rows": [{"v": 1.5}, {"v": 2}]}\')\nprint("first\\nlast")'
)


def test_a_failure_is_reported_and_the_next_step_goes_on(session, tmp_path, capsys):
    steps = {"bad": "raise SystemExit('no such card')", "good": GOOD}
    assert session(steps) == 1
    said, table = capsys.readouterr().out, (tmp_path / "results" / "table.md").read_text()
    assert "bad: failed (status 1): no such card" in said and "| good | done |" in table and "value 1.5, 2 |" in table
    known = json.loads((tmp_path / "results" / "steps.json").read_text())
    assert known["bad"]["failures"] == 1 and known["good"]["result"]["rows"][0] == {"v": 1.5}
    # Again: what is done is skipped, what failed is tried once more, and then left out.
    session(steps)
    assert "good: done before" in (said := capsys.readouterr().out) and "bad: failed (status 1)" in said
    session(steps)
    assert "bad: left out, failed 2 times" in capsys.readouterr().out


def test_a_step_that_hangs_ends_at_its_limit(session, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "GRACE_S", 0.5)
    hangs = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('waits', flush=True)\ntime.sleep(99)"
    )
    started = time.monotonic()
    assert session({"hangs": hangs, "good": GOOD}) == 1
    assert time.monotonic() - started < 20
    assert "hangs: failed (stopped after its limit of 6 s): waits" in (said := capsys.readouterr().out)
    assert "good: done" in said


def test_the_end_of_the_time_is_no_failure(session, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "GRACE_S", 0.5)
    monkeypatch.setattr(gpu, "RESERVE_S", 0.0)
    slow = "import time\nprint('waits', flush=True)\ntime.sleep(99)"
    assert session({"slow": slow, "late": GOOD}, "0.06") == 0
    assert "slow: unfinished" in (said := capsys.readouterr().out) and "late: no time left" in said
    known = json.loads((tmp_path / "results" / "steps.json").read_text())
    assert known["slow"]["failures"] == 0 and "late" not in known


def test_a_stop_keeps_the_results(session, tmp_path, capsys):
    kills = f"import os, time\nos.kill({os.getpid()}, 15)\ntime.sleep(99)"
    assert session({"good": GOOD, "kills": kills, "never": GOOD}) == gpu.RUN_AGAIN
    assert "stopped; the same command goes on" in capsys.readouterr().out
    assert {"table.md", "steps.json", "logs.tar.gz"} <= {p.name for p in (tmp_path / "results").iterdir()}
    assert "| good | done |" in (tmp_path / "results" / "table.md").read_text()


def test_what_the_checkout_lacks_is_named(tmp_path):
    assert gpu.runnable({"needs": {"file": "README.md"}}) is None and gpu.runnable({}) is None
    assert gpu.runnable({"needs": {"file": "no.py"}}) == "no.py is not in this checkout"
    assert gpu.runnable({"needs": {"file": "README.md", "text": "--x9"}}) == "README.md has no --x9"


def test_mistakes_are_one_line(session, capsys):
    assert session({"good": GOOD}, "1", "--only", "goood") == 2
    assert "--only goood: no such step; did you mean 'good'?" in capsys.readouterr().err


def run_folder(work, name, sizes):
    for path, size in sizes.items():
        file = work / "runs" / name / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(np.random.default_rng(0).bytes(size))


def test_results_fit_into_six_files_and_go_back(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_results, "PART_BYTES", 100_000)
    work, results, logs = tmp_path / "work", tmp_path / "results", tmp_path / "logs"
    run_folder(work, "one", {
        "student.safetensors": 120_000, "train/log.jsonl": 100, "train/state/step5.pt": 90_000, "data/a.png": 9,
        "shared/data-1/a.png": 9, ".lock": 0, "eval/grid.png": 1000,
    })  # fmt: skip
    run_folder(work, "two", {"a/train/state/step9.pt": 200_000, "b/train/state/step9.pt": 7, "b/train/done.json": 7})
    (work / "runs" / "one" / "pseudo_gt").symlink_to("shared")
    logs.mkdir()
    (logs / "x.txt").write_text("x" * 1000)
    assert gpu_results.pack(results, work, logs, ["one", "two", "absent"]) == ["runs/two/a/train/state/step9.pt"]
    files = sorted(results.iterdir())
    assert [re.sub("-[0-9a-f]+", "", file.name) for file in files] == [
        "logs.tar.gz", "runs.tar.00", "runs.tar.01", "runs.tar.02"
    ]  # fmt: skip
    assert all(file.stat().st_size <= 100_000 for file in files)
    bare = tmp_path / "bare"
    run_folder(bare, "one", {"train/log.jsonl": 50})
    gpu_results.unpack(results, bare)
    kept = {str(p.relative_to(bare / "runs")): p.stat().st_size for p in bare.rglob("*") if p.is_file()}
    assert kept == {
        "one/student.safetensors": 120_000, "one/train/log.jsonl": 50, "one/train/state/step5.pt": 90_000,
        "one/eval/grid.png": 1000, "two/b/train/done.json": 7,
    }  # fmt: skip
    lost = files[2].read_bytes()
    files[2].unlink()
    with pytest.raises(ValueError, match="parts are missing; copy all of them"):
        gpu_results.unpack(results, tmp_path / "other")
    files[2].write_bytes(lost)
    (results / "runs-0123456789abcdef.tar.00").write_bytes(b"a part of a pack that a kill ended")
    gpu_results.unpack(results, tmp_path / "other")
    assert (tmp_path / "other" / "runs" / "two" / "b" / "train" / "done.json").is_file()
    gpu_results.pack(results, work, logs, ["absent"])
    assert [file.name for file in results.iterdir()] == ["logs.tar.gz"], "parts of an earlier pack are gone"


def test_numbers_of_a_tree():
    tree = {"rows": [{"v": 1}, {"v": None}, {}], "a": {"b": 2}}
    assert gpu_results.numbers(tree, "rows.*.v") == [1] and gpu_results.numbers(tree, "a.b") == [2]
    assert gpu_results.numbers(tree, "a.c") == gpu_results.numbers(None, "a") == []


def losses(shift=0.0, steps=50):
    return [{"loss": 1.0 + shift * (i == 9), "other": 0.1} for i in range(steps)]


def test_verdicts_on_losses():
    runs = {"eager": losses(), "again": losses(1e-4), "captured": losses(2e-3), "halves": losses(5e-4)}
    runs |= {"compiled": losses(0.01), "compiled_captured": losses(steps=7)}
    found = gpu_proofs.verdicts(runs, dict.fromkeys(runs, "error: out of memory"))
    assert {name: row["ok"] for name, row in found["runs"].items()} == {
        "eager": True, "again": True, "captured": False, "halves": True, "compiled": True, "compiled_captured": False,
    }  # fmt: skip
    assert "compiled_captured: failed after 7 of 50 steps: error: out of memory" in found["words"]
    noisy = gpu_proofs.verdicts({**runs, "again": losses(8e-4)}, runs)
    assert noisy["runs"]["captured"]["ok"], "three times the noise of this device is allowed"
    assert not gpu_proofs.verdicts({**runs, "captured": losses(float("nan"))}, runs)["runs"]["captured"]["ok"]
    lost = gpu_proofs.verdicts({**runs, "eager": losses(steps=3)}, runs)["runs"]
    assert not lost["captured"]["ok"] and not lost["eager"]["ok"]


def test_runs_of_the_proofs_by_the_keys_of_the_checkout():
    assert set(gpu_proofs.variants(False, False, set())) == {"eager", "again", "halves"}
    assert set(gpu_proofs.variants(True, False, set())) == {"eager", "again", "compiled"}
    runs = gpu_proofs.variants(False, False, {"capture"}) | gpu_proofs.variants(True, False, {"capture"})
    assert runs["captured"] == {"train.capture": "on"} and runs["eager"] == {"train.capture": "off"}
    assert runs["halves"] == {"train.capture": "on", "train.steps": 25}
    assert runs["compiled_captured"] == {"train.capture": "on", "train.compile": True}


def test_photographs_become_small(tmp_path, capsys):
    for name in ("alice/1.png", "alice/1.jpg", "bob/2.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (160, 160, 3), np.uint8)).save(path)
    done = script(ROOT / "experiments" / "gpu_photos.py", tmp_path / "photos", tmp_path / "small")
    assert done.returncode == 0 and "3 pictures, 0.1 MB" in done.stdout, done.stderr
    copies = sorted(str(p.relative_to(tmp_path / "small")) for p in (tmp_path / "small").rglob("*.jpg"))
    assert copies == ["alice/1_jpg.jpg", "alice/1_png.jpg", "bob/2_png.jpg"]
    assert Image.open(tmp_path / "small" / copies[0]).size == (128, 128)
    again = script(ROOT / "experiments" / "gpu_photos.py", tmp_path / "photos", tmp_path / "none", "--mb", "0.04")
    assert again.returncode == 2 and "0.04 MB are full after" in again.stderr and not (tmp_path / "none").exists()
    Image.new("RGB", (160, 100)).save(tmp_path / "photos" / "bob" / "3.png")
    flat = script(ROOT / "experiments" / "gpu_photos.py", tmp_path / "photos", tmp_path / "none")
    assert flat.returncode == 2 and "3.png: 160x100 pixels, not a square crop" in flat.stderr


BLOCK = "import sys\nsys.modules['mlflow'] = sys.modules['lpips'] = None\n"


@pytest.mark.slow
def test_the_whole_script_at_cpu_size_without_mlflow_and_lpips(tmp_path):
    """All steps and a tiny experiment, by the command that a user types; then again from the handed-back folder."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(BLOCK)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "PYTHON": sys.executable}
    command = ["sh", str(ROOT / "experiments" / "gpu.sh"), "60", str(tmp_path / "results"), "--tiny"]
    done = subprocess.run(
        [*command, "--work", str(tmp_path / "work")], env=environment, capture_output=True, text=True, timeout=3600
    )
    known = json.loads((tmp_path / "results" / "steps.json").read_text())
    states = {name: entry["state"] for name, entry in known.items()}
    assert done.returncode == 0, done.stdout + done.stderr
    absent = {step["name"] for step in PLAN["steps"] if gpu.runnable(step) or "tiny" not in step}
    expected = {name: "done" for name in [*(s["name"] for s in PLAN["steps"]), "tiny"] if name not in absent}
    assert {name: state for name, state in states.items() if name not in absent} == expected
    proofs = known["proofs"]["result"]["runs"]
    assert all(row["ok"] for row in proofs.values()) and proofs["halves"]["difference"] < 1e-5
    assert known["render_equal"]["result"]["share"] >= 0.999
    step = known["step_eager"]["result"]
    assert step["ratio"] > 0 and "times as fast" in known["step_eager"]["tail"][-1]
    assert 0 < step["b"]["step_tflop"] < step["a"]["step_tflop"], "the original computes gradients that nobody uses"
    assert sum(step["b"]["profile"].values()) == pytest.approx(1, abs=0.05)
    files = list((tmp_path / "results").iterdir())
    assert len(files) <= 6 and all(file.stat().st_size <= 15e6 for file in files)
    again = subprocess.run(
        [*command, "--work", str(tmp_path / "bare")], env=environment, capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0 and again.stdout.count("done before") == len(expected)
    for name in ("student.safetensors", "metrics.json", "train/log.jsonl", "eval/grid.png"):
        assert (tmp_path / "bare" / "runs" / "tiny" / "a" / name).is_file(), name
