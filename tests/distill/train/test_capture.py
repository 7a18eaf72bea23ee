"""Capture and compilation by regions, as far as a CPU shows it: when, what is undone, what is compiled how often."""

import copy
import os

import pytest
import torch
from helpers.line import experiment, in_process
from helpers.steps import noise, step_of

import students
from distill import config, schema
from distill.stage import StageError
from distill.train import capture
from distill.train.capture import Snapshot, reason_against
from distill.train.loop import EXECUTION_KEYS

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
POSSIBLE = {"mode": "auto", "device": CUDA, "processes": 1, "accumulation": 1, "scaler": None, "teacher": None}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"mode": "on"}, None),
        ({"mode": "off"}, "train.capture is off"),
        ({"device": CPU}, "the device is cpu"),
        ({"processes": 2}, "2 processes exchange gradients"),
        ({"accumulation": 3}, "train.accumulation is 3"),
        ({"scaler": object()}, "train.precision is fp16"),
        ({"teacher": object()}, "distil.online swaps a number of samples"),
    ],
)
def test_a_step_is_captured_where_it_can_be(change, reason):
    found = reason_against(**{**POSSIBLE, **change})
    assert found is None if reason is None else found.startswith(reason)


def test_a_cpu_captures_nothing_without_a_word_and_on_demands_it(tmp_path, capsys):
    quick = {"train": {"steps": 2, "preview_steps": 9}, "stages": ["data", "pseudo_gt", "train"]}
    path = experiment(tmp_path, **quick)
    in_process(path)
    with pytest.raises(StageError, match="train.capture=on: the device is cpu.*; set train.capture=auto"):
        in_process(path, "train.capture=on", "train.steps=3")
    in_process(path, "train.capture=off", "train.steps=3")
    assert "not captured" not in capsys.readouterr().out
    assert {"capture", "compile_cache"} <= set(EXECUTION_KEYS)


def test_on_and_off_are_words_here(tmp_path):
    for word in ("auto", "on", "off"):
        assert config.load(experiment(tmp_path), [f"train.capture={word}"]).train.capture == word
    with pytest.raises(config.ConfigError, match="train.capture: expected auto | on | off"):
        config.load(experiment(tmp_path), ["train.capture=maybe"])
    assert schema.Train().capture == "auto" and schema.Train().compile_cache is None


def everything(step) -> dict[str, torch.Tensor]:
    """All that a step changes, by name."""
    state, found = step.state, {}
    for name in ("net", "ema", "discriminator"):
        found |= {f"{name}.{key}": value for key, value in getattr(state, name).state_dict().items()}
    for name in ("optimiser", "optimiser_d"):
        for index, entry in getattr(state, name).state_dict()["state"].items():
            found |= {f"{name}.{index}.{key}": value for key, value in entry.items()}
    return found | {"random": torch.get_rng_state()}


@pytest.mark.parametrize("before", [0, 2])
def test_a_warm_up_leaves_no_trace(tmp_path, before):
    """After steps and a restore, what follows is what would have come without them, bit for bit."""
    plain, warmed = (step_of(tmp_path, "mobilefsgan") for _ in range(2))
    batch = noise()
    for step in (plain, warmed):
        for _ in range(before):
            step.learn(batch)
    torch.manual_seed(3)
    snapshot = Snapshot(warmed.state, CPU)
    addresses = [p.data_ptr() for p in warmed.state.net.parameters()]
    for _ in range(2):
        warmed.compute(batch)
        torch.rand(1)
    assert not torch.equal(everything(warmed)["random"], snapshot.random)
    snapshot.restore()
    assert addresses == [p.data_ptr() for p in warmed.state.net.parameters()]
    assert torch.equal(everything(warmed)["random"], snapshot.random)
    wanted, found = plain.learn(batch), warmed.learn(batch)
    assert all(torch.equal(found[key], value) for key, value in wanted.items())
    wanted, found = everything(plain), everything(warmed)
    assert wanted.keys() == found.keys() and all(torch.equal(found[key], value) for key, value in wanted.items())


def test_rates_in_tensors_are_those_of_numbers(tmp_path):
    """A graph reads rates from the device; their addresses stay, also through a checkpoint of either kind."""
    settings = {"warmup_steps": 3, "lr_final": 0.1, "steps": 5}
    plain, tensors = (step_of(tmp_path, "compact", **settings) for _ in range(2))
    tensors.state.make_capturable()
    batch, rate = noise(), tensors.state.optimiser.param_groups[0]["lr"]
    for _ in range(3):
        wanted, found = plain.learn(batch), tensors.learn(batch)
        assert rate.item() == pytest.approx(plain.state.optimiser.param_groups[0]["lr"], rel=1e-6)
        for key, value in wanted.items():
            assert found[key].item() == pytest.approx(value.item(), rel=1e-3), key
    assert tensors.state.optimiser.param_groups[0]["lr"] is rate
    for a, b in zip(plain.state.ema.parameters(), tensors.state.ema.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)

    for saved, loaded in ((plain, tensors), (tensors, plain)):
        folder = tmp_path / f"state{saved is plain}"
        folder.mkdir()
        saved.state.save(folder, saved.accelerator)
        content = torch.load(next(folder.iterdir()), weights_only=True)
        assert all(isinstance(content[o]["param_groups"][0]["lr"], float) for o in ("optimiser", "optimiser_d"))
        kinds = [type(o.param_groups[0]["lr"]) for o in (loaded.state.optimiser, loaded.state.optimiser_d)]
        assert loaded.state.load(folder, loaded.accelerator) and loaded.state.step == 3
        assert kinds == [type(o.param_groups[0]["lr"]) for o in (loaded.state.optimiser, loaded.state.optimiser_d)]
        loaded.learn(batch)
        loaded.state.step = 3


def test_checkpoints_of_before_load(tmp_path):
    """Their optimisers looped over the parameters; that must not come back with the checkpoint."""
    old, new = (step_of(tmp_path, "compact") for _ in range(2))
    old.learn(noise())
    for group in old.state.optimiser.param_groups:
        group["fused"] = False
    old.state.save(tmp_path, old.accelerator)
    assert new.state.load(tmp_path, new.accelerator)
    assert new.state.optimiser.param_groups[0]["fused"] is True
    wanted, found = everything(old), everything(new)
    assert all(torch.equal(found[key], value) for key, value in wanted.items() if key != "random")


def test_an_average_of_decay_0_is_the_network(tmp_path):
    for tensors in (False, True):
        step = step_of(tmp_path, "mobilefsgan", ema=0)
        if tensors:
            step.state.make_capturable()
        step.learn(noise())
        for own, wanted in zip(step.state.ema.state_dict().values(), step.state.net.state_dict().values(), strict=True):
            assert torch.equal(own, wanted)


def test_each_distinct_block_is_compiled_once(monkeypatch):
    torch.manual_seed(0)
    network = students.build("mobilefsgan", width=4, embedding_dim=6, resolution=64)
    same = copy.deepcopy(network)
    chosen = capture.regions(network)
    assert {type(m).__name__ for m in chosen} == {
        "AttributeBlock", "IdentityBlock", "Down", "Up", "DecoderBlock", "ImageHead",
    }  # fmt: skip
    inside = [m for region in chosen for m in region.modules() if m is not region]
    assert not set(map(id, chosen)) & set(map(id, inside)), "no region lies in another"

    graphs, real = [], torch.compile

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, backend=counting, **options))
    names = list(network.state_dict())
    capture.compile_regions(network)
    x, embedding = torch.rand(2, 3, 64, 64), torch.rand(2, 6)
    with torch.no_grad():
        out = network(x, embedding)
        first = len(graphs)
        network(x, embedding)
        assert 6 <= first == len(graphs) < len(chosen), "once for each block and size"
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(out, same(x, embedding), strict=True))
    torch._dynamo.reset()
    assert names == list(network.state_dict())


def test_a_network_without_repeated_blocks_is_one_region():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 1))
    assert capture.regions(network) == [network]


def test_compiled_code_is_kept_where_the_key_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    monkeypatch.setenv("TRITON_CACHE_DIR", "elsewhere")
    capture.keep_compiled_in(None)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"
    capture.keep_compiled_in(str(tmp_path / "new" / "cache"))
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "new" / "cache")
    assert (tmp_path / "new" / "cache").is_dir() and "TRITON_CACHE_DIR" not in os.environ
