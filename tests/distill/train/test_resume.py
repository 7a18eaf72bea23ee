"""Runs in pieces: `minutes` stops a command with a checkpoint, and the pieces are the whole, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
import torch
from helpers.line import command, experiment, in_process, same_state, told

from distill import stage
from distill.stage import OutOfTime
from distill.train import loop, monitor, stream
from distill.train.monitor import read_log

TRAIN = "stages=[data, pseudo_gt, train]"


def test_a_command_that_is_out_of_time_says_so_and_begins_nothing(tmp_path):
    path = experiment(tmp_path, "late")
    done = told(path, "minutes=1e-6")
    assert done.returncode == 75 and "error:" not in done.stderr, done.stderr
    assert "stopped after 1e-06 minutes before stage data of late; the same command continues the run" in done.stdout
    assert not (tmp_path / "runs" / "late" / "data").exists()


def test_pieces_are_the_whole_bit_for_bit(tmp_path, monkeypatch):
    path = experiment(tmp_path, "pieces")
    in_process(path, "stages=[data, pseudo_gt]")
    monkeypatch.setattr(stage, "STARTED", time.monotonic())
    with pytest.raises(OutOfTime, match=r"at step \d+ of 100000 of .*pieces/train; the same command continues the run"):
        in_process(path, TRAIN, "train.steps=100000", "train.checkpoint_steps=100000", "minutes=0.05")
    folder = tmp_path / "runs" / "pieces"
    (checkpoint,) = (folder / "train" / "state").glob("step-*.pt")
    step = int(checkpoint.stem.removeprefix("step-"))
    first = torch.load(checkpoint, weights_only=True)["seconds"]
    assert step >= 1 and first > 0 and not (folder / "train" / "done.json").exists()
    in_process(path, TRAIN, f"train.steps={step + 2}")
    straight = in_process(experiment(tmp_path, "straight", train={"steps": step + 2}), TRAIN)
    same_state(straight, folder)
    assert read_log(straight / "train")[:-1] == [row for row in read_log(folder / "train")][:-1]
    minutes = json.loads((folder / "train" / "done.json").read_text())["minutes"]
    assert minutes >= round(first / 60, 2) > 0, "the minutes of a run are those of all its pieces"


def test_random_disturbance_goes_on_where_it_stopped(tmp_path):
    loss = {"identity_disturbance": 1, "grid": 10}
    straight = in_process(experiment(tmp_path, "straight", loss=loss), TRAIN)
    path = experiment(tmp_path, "pieces", loss=loss)
    in_process(path, TRAIN, "train.steps=2")
    same_state(straight, in_process(path, TRAIN))
    plain = in_process(experiment(tmp_path, "plain"), TRAIN)
    assert read_log(plain / "train")[0]["identity"] != read_log(straight / "train")[0]["identity"]


def test_a_run_from_before_a_key_existed_goes_on(tmp_path):
    """Its record lacks the keys, and a value other than the default is another experiment."""
    path = experiment(tmp_path, "old")
    folder = in_process(path, TRAIN, "train.steps=2")
    record = (folder / "train" / "inputs.json").read_text()
    assert '"loss"' in record and not any(f'"{key.split(".")[-1]}"' in record for key in loop.LATER_KEYS)
    in_process(path, TRAIN)
    with pytest.raises(stage.StageError, match=r"made with other inputs \(loss.grid was None, now 1.0\)"):
        in_process(path, TRAIN, "loss.grid=1")


RARE = {"steps": 7, "log_steps": 3, "preview_steps": 3, "checkpoint_steps": 100}


def fail_once(monkeypatch, owner, name, when, error):
    """The `when`-th call of a method from now on raises `error`, a kind with arguments, or sends a signal."""
    method, calls = getattr(owner, name), []

    def failing(*arguments, **options):
        calls.append(name)
        if len(calls) == when and isinstance(error, signal.Signals):
            os.kill(os.getpid(), error)
        elif len(calls) == when:
            raise error
        return method(*arguments, **options)

    monkeypatch.setattr(owner, name, failing)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return in_process(experiment(folder, "straight", train=RARE), TRAIN)


def copy_data(of, to):
    """The finished stages before the training."""
    for name in ("data", "pseudo_gt"):
        shutil.copytree(of / name, to / name)


@pytest.mark.parametrize(
    ("owner", "name", "when", "error", "saved"),
    [
        (monitor.Preview, "swap", 1, RuntimeError("no memory"), 3),  # after the line of losses of this step
        (monitor.Log, "write", 1, OSError("no such server"), 3),  # before it
        (monitor.Log, "write", 3, OSError("no such server"), 6),
        (stream.Mixture, "__getitems__", 5, OSError("photographs are gone"), 4),  # the batch of the next step
        (loop.Step, "learn", 5, RuntimeError("in the middle of a step"), 0),
        (loop.Step, "learn", 5, signal.SIGTERM, 5),
        (loop.Step, "learn", 3, signal.SIGINT, 3),
        (monitor.Preview, "swap", 1, signal.SIGINT, 3),
    ],
)
def test_no_finished_step_is_lost(tmp_path, monkeypatch, straight, owner, name, when, error, saved):
    path = experiment(tmp_path, "x", train=RARE)
    copy_data(straight, tmp_path / "runs" / "x")
    with monkeypatch.context() as patch, stage.signals_stop_the_command():
        fail_once(patch, owner, name, when, error)
        expected = {signal.SIGTERM: OutOfTime, signal.SIGINT: KeyboardInterrupt}.get(error) or type(error)
        with pytest.raises(expected, match=None if isinstance(error, signal.Signals) else str(error)):
            in_process(path, "stages=[train]")
    folder = tmp_path / "runs" / "x"
    assert [p.name for p in (folder / "train").glob("state/*.pt")] == ([f"step-{saved:07d}.pt"] if saved else [])
    in_process(path, "stages=[train]")
    same_state(straight, folder)
    assert (folder / "train" / "log.jsonl").read_bytes() == (straight / "train" / "log.jsonl").read_bytes()
    assert len(list((folder / "train" / "previews").iterdir())) == 3


def test_a_diverged_step_is_not_saved_after_an_error(tmp_path, monkeypatch, capsys):
    path = experiment(tmp_path, "x", train=RARE)
    fail_once(monkeypatch, stream.Mixture, "__getitems__", 3, OSError("photographs are gone"))
    with pytest.raises(OSError, match="photographs are gone"):
        in_process(path, TRAIN, "train.lr=1e38", "train.grad_clip=1e30")
    assert "no checkpoint of the last step" in capsys.readouterr().out
    assert not list((tmp_path / "runs" / "x" / "train").glob("state/*.pt"))


def test_signals_outside_of_a_step_stop_at_once_and_are_handled_once():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(OutOfTime, match="stopped by SIGTERM"), stage.signals_stop_the_command():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # of the launcher: it must not disturb the end
    with pytest.raises(KeyboardInterrupt), stage.signals_stop_the_command():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_ctrl_c_ends_a_step_that_hangs(monkeypatch):
    with pytest.raises(KeyboardInterrupt), stage.signals_stop_the_command(), stage.signals_held():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # the copy of a launcher
        later = time.monotonic() + 2
        monkeypatch.setattr(stage.time, "monotonic", lambda: later)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the third signal was held back")


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "number"), [(1, signal.SIGTERM), (1, signal.SIGINT), (2, signal.SIGTERM)])
def test_a_signal_to_all_processes_saves_and_stops(tmp_path, straight, processes, number):
    """A cluster and Ctrl-C reach the loaders of the data and the launcher as well."""
    path = experiment(tmp_path, "x", data={"workers": 1})
    copy_data(straight, tmp_path / "runs" / "x")
    steps = ["train.steps=100000", "train.checkpoint_steps=100000", "train.log_steps=2", "train.preview_steps=100000"]
    arguments = command(str(path), "stages=[train]", *steps, processes=processes)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        arguments, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        log = tmp_path / "runs" / "x" / "train" / "log.jsonl"
        while not (log.is_file() and log.stat().st_size):
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        os.killpg(process.pid, number)
        out = process.communicate(timeout=60)[0].decode()
    (checkpoint,) = (tmp_path / "runs" / "x" / "train" / "state").iterdir()
    assert checkpoint.name.startswith("step-") and "Error" not in out.replace("ChildFailedError", ""), out
    if number == signal.SIGTERM and processes == 1:
        assert process.returncode == 75 and "stopped by SIGTERM at step" in out
