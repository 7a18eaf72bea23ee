"""`train.precision: auto`: the faster of fp32 and bf16 on this machine, tried once."""

import os

import pytest
from helpers.line import experiment
from safetensors.torch import load_file

from distill import config, estimate, run
from swapcore.files import read_json, read_record

AUTO = {"train": {"precision": "auto"}}


@pytest.fixture
def seconds(monkeypatch):
    """Seconds of a step by precision, in place of those of this machine, and the precisions that were tried."""
    table, tried = {"fp32": 1.0, "bf16": 0.5}, []

    def timed(step, batch, device):
        step.learn(batch)
        tried.append(step.exp.train.precision)
        return table[tried[-1]]

    monkeypatch.setattr(estimate, "_seconds", timed)
    return table, tried


@pytest.mark.parametrize(("bf16", "wanted"), [(0.5, "bf16"), (0.95, "fp32"), (1.5, "fp32")])
def test_bf16_is_taken_where_it_gains_a_tenth(tmp_path, seconds, capsys, bf16, wanted):
    seconds[0]["bf16"] = bf16
    exp = config.load(experiment(tmp_path, **AUTO))
    assert estimate.with_faster_precision(exp, run.new_accelerator).train.precision == wanted
    assert (
        seconds[1] == 3 * ["fp32", "fp32", "bf16", "bf16"] and f"train.precision: {wanted}" in capsys.readouterr().out
    )
    kept = read_json(exp.folder / "precision.json")
    assert kept["precision"] == wanted and kept["step_s"] == {"fp32": 1.0, "bf16": bf16}


def test_other_work_during_some_of_the_trials_does_not_decide(tmp_path, seconds, monkeypatch):
    """A busy quarter of a minute made every trial of bf16 slow, when those of fp32 came first."""
    quiet, count = estimate._seconds, iter(range(12))
    monkeypatch.setattr(estimate, "_seconds", lambda *given: quiet(*given) * (4 if next(count) in range(2, 8) else 1))
    exp = config.load(experiment(tmp_path, **AUTO))
    assert estimate.with_faster_precision(exp, run.new_accelerator).train.precision == "bf16"


def test_a_later_start_and_every_seed_have_the_choice_of_the_first(tmp_path, seconds):
    path = experiment(tmp_path, seeds=[1, 2], stages=["data", "pseudo_gt", "train"], **AUTO)
    assert run.main([str(path)]) == 0
    tried = len(seconds[1])
    seconds[0]["bf16"] = 9.0
    assert run.main([str(path)]) == 0 and len(seconds[1]) == tried
    for seed in (1, 2):
        record = read_record(tmp_path / "runs" / "tiny" / f"compact-seed{seed}" / "train" / "inputs.json")
        assert record["train"]["precision"] == "bf16"


@pytest.mark.parametrize("whole", [AUTO, {}], ids=["auto", "fp32"])
@pytest.mark.parametrize("own", [{"train.precision": "auto"}, {"train": {"precision": "auto"}}], ids=["key", "section"])
def test_a_variant_cannot_choose_by_itself(tmp_path, seconds, whole, own):
    path = experiment(tmp_path, variants={"b": {}, "a": own}, **whole)
    with pytest.raises(config.ConfigError, match=r"variants.a: train.precision: auto"):
        estimate.with_faster_precision(config.load(path), run.new_accelerator)


def test_the_trial_leaves_no_trace_in_what_is_learnt(tmp_path, seconds):
    seconds[0]["bf16"] = 2.0
    for name, precision in (("tried", "auto"), ("plain", "fp32")):
        path = experiment(tmp_path, name, stages=["data", "pseudo_gt", "train"], train={"precision": precision})
        assert run.main([str(path)]) == 0
    one, other = (tmp_path / "runs" / n / "train" / "student.safetensors" for n in ("tried", "plain"))
    assert one.stat().st_size and _weights(one) == _weights(other)
    assert not [name for name in os.listdir(tmp_path / "runs" / "plain") if name == "precision.json"]


def _weights(path):
    return {key: value.tolist() for key, value in load_file(path).items()}
