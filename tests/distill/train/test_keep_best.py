"""train.keep: the weights that are saved; the score of a preview; the warning about copies of the target."""

import json
import math
import re

import pytest
import torch
from helpers.line import experiment, in_process, same_state

import students
from distill import config
from distill.config import ConfigError
from distill.data import synthetic
from distill.stage import StageError
from distill.train import loop, monitor
from distill.train.monitor import Preview, copies_target, read_log, score, warnings_of

TRAIN = "stages=[data, pseudo_gt, train]"
STEPS = {"steps": 6, "preview_steps": 2, "checkpoint_steps": 3, "keep": "best"}


def student(folder):
    return students.load(folder / "train" / "student.safetensors").state_dict()


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def facts(folder):
    return json.loads((folder / "train" / "done.json").read_text())


def forced(patch, *scores):
    """The scores of the previews to come."""
    coming = iter(scores)
    patch.setattr(loop, "score", lambda metrics: next(coming))


def test_the_score_of_drawn_people_is_exact_and_of_photographs_copies_score_nothing():
    assert score({"val/l1_exact": 0.2, "val/id_similarity": 0.9}) == -0.2
    source = {"val/id_similarity": 1.0, "val/l1_coarse": 0.51}
    target = {"val/id_similarity": 0.01, "val/l1_coarse": 0.0}
    swap = {"val/id_similarity": 0.5, "val/l1_coarse": 0.035}
    assert abs(score(source)) < 0.05 and abs(score(target)) < 0.05 and score(swap) == pytest.approx(0.43)


def test_a_copy_is_seen_after_the_first_third_alone():
    copy = {"val/id_similarity": 0.2, "val/id_similarity_target": 0.61, "val/copies_target": 1.0}
    assert copies_target(copy, 100, 300) == "" and copies_target({**copy, "val/copies_target": 0.0}, 200, 300) == ""
    assert copies_target({"val/id_similarity": -0.2}, 300, 300) == "", "source and target are one person"
    assert "at step 101 of 300: " in copies_target(copy, 101, 300)
    assert "0.61 to the target and 0.20 to the source" in copies_target(copy, 300, 300)
    rows = [{"step": 200, "loss": 1.0}, {"step": 300, **copy}, {"step": 300, "loss": 1.0}]
    (said,) = warnings_of(rows)
    assert "step 300 of 300" in said
    recovered = {"step": 400, "val/id_similarity": 0.5, "val/id_similarity_target": 0.1, "val/copies_target": 0.0}
    assert warnings_of([*rows, recovered]) == warnings_of([]) == []


def test_previews_of_photographs_measure_what_must_not_change(tmp_path):
    folder = tmp_path / "runs" / "x" / "data"
    synthetic.write(folder, {"val": (3, 2)}, 64, seed=0, progress=False)
    path = folder / "manifest.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: r[k] for k in ("file", "person", "split")}) + "\n" for r in rows))
    exp = config.load(experiment(tmp_path, "x"))

    def encoder(images):
        return torch.nn.functional.normalize(images.mean((2, 3)))

    def condition(source, target):
        return (encoder(source),)

    preview = Preview(exp, encoder, torch.device("cpu"))
    same, _ = preview.swap(lambda target, embedding: [target], condition)
    assert same["val/l1_coarse"] == 0 and same["val/id_similarity_target"] == pytest.approx(1)
    assert same["val/copies_target"] == 1
    board = 1 - 2.0 * ((torch.arange(64) + torch.arange(64)[:, None]) % 2)
    fine, _ = preview.swap(lambda target, embedding: [target + 0.1 * board], condition)
    light, _ = preview.swap(lambda target, embedding: [target + 0.1], condition)
    assert fine["val/l1_coarse"] < 1e-6 and light["val/l1_coarse"] == pytest.approx(0.1)
    assert "val/l1_exact" not in same and "val/not_finite" not in same

    def broken(target, embedding):
        return [target.masked_fill(torch.arange(len(target)).view(-1, 1, 1, 1) == 1, torch.nan)]

    metrics, _ = preview.swap(broken, condition)
    assert metrics["val/not_finite"] == 1 and all(map(math.isfinite, metrics.values()))


def test_the_best_preview_is_saved_and_no_stop_loses_it(tmp_path, monkeypatch):
    path = experiment(tmp_path, "best", train=STEPS)
    with monkeypatch.context() as patch:
        forced(patch, 0.1, 0.9, 0.9)
        folder = in_process(path, TRAIN)
    assert (facts(folder)["kept_step"], facts(folder)["kept_score"], facts(folder)["steps"]) == (4, 0.9, 6)
    assert [row["val/score"] for row in read_log(folder / "train") if "val/score" in row] == [0.1, 0.9, 0.9]
    last = in_process(experiment(tmp_path, "four", train={**STEPS, "keep": "last", "steps": 4}), TRAIN)
    assert equal(student(folder), student(last)), "the average of step 4"
    (checkpoint,) = (folder / "train" / "state").glob("*.pt")
    assert torch.load(checkpoint, weights_only=True)["best"]["step"] == 4
    assert "kept_step" not in facts(last)

    # Killed at step 5, after the best preview and a checkpoint before it; an error in the second preview.
    for name, (owner, method, call), scores in (
        ("killed", (loop.Step, "learn", 6), [0.1, 0.9, 0.9]),
        ("again", (monitor.Log, "write", 6), [0.1, 0.9, 0.9, 0.9]),
    ):
        other = experiment(tmp_path, name, train=STEPS)
        with monkeypatch.context() as patch:
            forced(patch, *scores[:2], *scores[1:])
            real, calls = getattr(owner, method), []

            def failing(*arguments, real=real, calls=calls, call=call):
                calls.append(1)
                if len(calls) == call:
                    raise RuntimeError("the power is gone")
                return real(*arguments)

            patch.setattr(owner, method, failing)
            with pytest.raises(RuntimeError, match="the power is gone"):
                in_process(other, TRAIN)
            resumed = in_process(other, TRAIN)
        same_state(folder, resumed)
        assert equal(student(folder), student(resumed)) and facts(resumed)["kept_step"] == 4, name

    # More steps go on from the last weights; a better preview takes the place, a worse one does not.
    with monkeypatch.context() as patch:
        forced(patch, 0.5)
        in_process(path, TRAIN, "train.steps=8")
        assert facts(folder)["kept_step"] == 4 and equal(student(folder), student(last))
        forced(patch, 1.5)
        in_process(path, TRAIN, "train.steps=10")
        assert facts(folder)["kept_step"] == 10 and not equal(student(folder), student(last))


def test_what_decides_which_weights_are_kept_is_an_input(tmp_path):
    path = experiment(tmp_path, "x", train=STEPS)
    folder = in_process(path, TRAIN)
    scores = {row["step"]: row["val/score"] for row in read_log(folder / "train") if "val/score" in row}
    assert facts(folder)["kept_step"] == max(scores, key=lambda step: (scores[step], -step))
    for change, name in (("train.preview_steps=3", "train.preview_steps"), ("train.keep=last", "train.keep")):
        with pytest.raises(StageError, match=rf"made with other inputs \({re.escape(name)} was"):
            in_process(path, TRAIN, change)
    with pytest.raises(ConfigError, match="train.keep: expected last, or two people in the previews"):
        config.load(path, ["data.val_people=1"])


def test_the_terminal_says_once_that_swaps_copy_the_target_and_the_report_repeats_it(tmp_path, monkeypatch, capsys):
    real = Preview.swap

    def copying(self, ema, condition, size):
        metrics, grid = real(self, ema, condition)
        return {**metrics, "val/id_similarity": 0.1, "val/id_similarity_target": 0.8, "val/copies_target": 1.0}, grid

    monkeypatch.setattr(Preview, "swap", copying)
    folder = in_process(experiment(tmp_path, "copy", train={"steps": 6, "preview_steps": 1, "checkpoint_steps": 6}))
    printed = "".join(capsys.readouterr())
    assert printed.count("! the swaps copy the target at step 3 of 6") == 1 and "target at step 4" not in printed
    assert [row["step"] for row in read_log(folder / "train") if "val/copies_target" in row] == [1, 2, 3, 4, 5, 6]
    verdicts = json.loads((folder / "metrics.json").read_text())["verdicts"]
    assert any("copy the target at step 6 of 6" in verdict for verdict in verdicts)
    assert "copy the target at step 6 of 6" in (folder / "report.html").read_text()
