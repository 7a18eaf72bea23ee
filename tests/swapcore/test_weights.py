"""Weight files: located, verified, downloaded, read without executing them, loaded strictly."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from swapcore import weights


def card(**changes) -> weights.Card:
    """A card whose file holds b"abc"."""
    facts = {
        "name": "toy", "file": "w.bin", "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "url": None, "source": "https://example.org/toy", "licence": "MIT", "note": "Train one.",
    }  # fmt: skip
    return weights.Card(**{**facts, **changes})


def test_a_file_is_located_and_verified(tmp_path, monkeypatch):
    (tmp_path / "w.bin").write_bytes(b"abc")
    assert weights.find(card(), [tmp_path]) == tmp_path / "w.bin"
    monkeypatch.setenv("SWAPDISTILL_WEIGHTS", str(tmp_path))
    assert weights.find(card()) == tmp_path / "w.bin"
    (tmp_path / "w.bin").write_bytes(b"abd!")
    with pytest.raises(weights.WeightsError, match=r"w\.bin: sha256 is .*but the weights 'toy' have ba7816bf.*again"):
        weights.find(card())


def test_missing_weights_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.delenv("SWAPDISTILL_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(weights.WeightsError, match="get it from https://example.org/toy .*MIT, sha256 ba7816bf"):
        weights.find(card())
    with pytest.raises(weights.WeightsError, match="nobody published them. Train one"):
        weights.find(card(file=None))


def test_all_missing_weights_are_named_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "w.bin").write_bytes(b"abc")
    served = tmp_path / "served.bin"
    served.write_bytes(b"abc")
    download = card(name="served", file="s.bin", url=served.as_uri())
    missing = [card(name=name, file=f"{name}.bin") for name in ("one", "two")]
    with pytest.raises(weights.WeightsError) as refused:
        weights.find_all([download, card(), *missing, missing[0], card(name="none", file=None)], [tmp_path])
    message = str(refused.value)
    assert [message.count(f"weights '{name}': ") for name in ("one", "two", "none", "toy")] == [1, 1, 1, 0]
    assert "\n" not in message and not (tmp_path / "cache").exists(), "nothing is downloaded before the error"
    found = weights.find_all([card(), download, card()], [tmp_path])
    assert found == [tmp_path / "w.bin", tmp_path / "cache" / "swapdistill" / "s.bin", tmp_path / "w.bin"]


def test_all_downloads_that_fail_are_named_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lost = [card(name=name, file=name, url=(tmp_path / name).as_uri()) for name in ("one", "two")]
    with pytest.raises(
        weights.WeightsError, match="'one': download of .* failed .*; weights 'two': download of .* failed"
    ):
        weights.find_all(lost)


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "w.bin").write_bytes(b"abc")
    assert weights.find(card(), ["~/files"]) == tmp_path / "files" / "w.bin"
    monkeypatch.setenv("SWAPDISTILL_WEIGHTS", "/none:~/files")
    assert weights.find(card()) == tmp_path / "files" / "w.bin"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/cache")
    assert weights.cache_folder() == tmp_path / "cache" / "swapdistill"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert weights.cache_folder() == tmp_path / ".cache" / "swapdistill"


def test_a_download_is_verified_and_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("SWAPDISTILL_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "served.bin"
    source.write_bytes(b"abc")
    served = card(url=source.as_uri())
    assert weights.find(served).read_bytes() == b"abc"
    source.unlink()
    assert weights.find(served).read_bytes() == b"abc", "kept in the cache"
    with pytest.raises(weights.WeightsError, match="download of .* failed"):
        weights.find(card(file="other.bin", url=served.url))
    source.write_bytes(b"evil")
    with pytest.raises(weights.WeightsError, match="sha256"):
        weights.find(card(file="third.bin", url=served.url))
    assert not (tmp_path / "cache" / "swapdistill" / "third.bin").exists()


def filled(network: nn.Module, value: float) -> dict[str, torch.Tensor]:
    return {key: torch.full_like(tensor, value) for key, tensor in network.state_dict().items()}


@pytest.mark.parametrize("assign", [False, True])
def test_tensors_are_loaded_under_their_new_names(assign):
    network, state = nn.BatchNorm1d(3), filled(nn.BatchNorm1d(3), 2)
    del state["num_batches_tracked"]
    weights.load_strictly(network, {f"fc.{k}": t for k, t in state.items()}, "a.pth", rename, assign=assign)
    loaded = network.state_dict()
    assert loaded["num_batches_tracked"] == 0 and all(torch.equal(loaded[key], state[key]) for key in state)
    assert (network.running_mean.data_ptr() == state["running_mean"].data_ptr()) is assign


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"bias": None}, {}, r"a\.pth: not the weights of Linear: bias: expected shape \(2,\), found none"),
        ({"bias": torch.zeros(3)}, {}, r"bias: expected shape \(2,\), found shape \(3,\)"),
        ({"gain": torch.zeros(2)}, {}, "gain: expected no such tensor, found shape"),
        ({"bias": None}, {"name": "toy"}, r"a\.pth: not the weights of 'toy': bias"),
        (
            {"bias": torch.tensor([0, torch.nan])},
            {"finite": True, "name": "toy"},
            r"damaged .*'toy': bias: NaN",
        ),
        ({"weight": torch.full((2, 2), torch.inf)}, {"finite": True}, "damaged weights of Linear: weight: .*infinite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, options, message):
    network = nn.Linear(2, 2)
    state = {k: t for k, t in {**filled(network, 0), **change}.items() if t is not None}
    before = {k: t.clone() for k, t in network.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        weights.load_strictly(network, state, "a.pth", **options)
    assert all(torch.equal(t, before[k]) for k, t in network.state_dict().items())


def test_a_network_is_built_around_the_tensors():
    state = filled(nn.Linear(2, 2), 3)
    network = weights.build_with(lambda: nn.Linear(2, 2), {f"fc.{k}": t for k, t in state.items()}, "a.pth", rename)
    assert network.weight.data_ptr() == state["weight"].data_ptr() and torch.equal(network.bias, state["bias"])
    with pytest.raises(ValueError, match=r"a\.pth: not the weights of Linear: weight: expected shape \(3, 2\)"):
        weights.build_with(lambda: nn.Linear(2, 3), state, "a.pth")


def rename(key: str) -> str:
    return key.removeprefix("fc.")


def test_tensors_that_give_an_option_must_have_their_rank():
    state = {"a": torch.zeros(3, 2)}
    assert weights.tensor_of(state, "a", 2, "a.pth").shape == (3, 2)
    for key, dimensions, found in (("a", 1, r"shape \(3, 2\)"), ("b", 2, "none")):
        with pytest.raises(ValueError, match=rf"a\.pth: {key}: expected {dimensions} dimensions, found {found}"):
            weights.tensor_of(state, key, dimensions, "a.pth")


def test_non_finite_numbers_pass_where_nobody_asks():
    network, nan = nn.Linear(2, 2), filled(nn.Linear(2, 2), torch.nan)
    weights.load_strictly(network, nan, "a.pth")
    assert network.bias.isnan().all()


STATE, OTHER = filled(nn.Linear(2, 2), 1), filled(nn.Linear(2, 2), 2)
HALF = {"weight": OTHER["weight"]}


def prefixed(prefix: str, state=STATE) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE, {**STATE, "epoch": 3, "best": None}, {"state_dict": STATE, "epoch": 3}, {"model": {"params": STATE}},
        {"netG": STATE, "optimizer_G": {"state": {0: {"exp_avg": OTHER["bias"]}}}, "latent_avg": OTHER["bias"]},
        {"my_swapper": STATE, "optimizer": {"state": {0: OTHER}, "param_groups": []}, "epoch": 3},
        {"generator": STATE, "G": STATE},
        prefixed("module."), prefixed("module.module."), prefixed("_orig_mod."), prefixed("_orig_mod.module."),
        prefixed("module._orig_mod."), {"net_state_dict": prefixed("module.")},
        {**prefixed("module."), "n_averaged": torch.tensor(3)},
        {key: tensor.numpy() for key, tensor in STATE.items()},
    ],
)  # fmt: skip
def test_state_dicts_are_unwrapped(content, tmp_path, capfd):
    torch.save(content, tmp_path / "a.pth")
    read = weights.read_state(tmp_path / "a.pth")
    assert read.keys() == STATE.keys() and all(torch.equal(read[key], STATE[key]) for key in STATE)
    choice = isinstance(content, dict) and "G" in content
    assert bool(capfd.readouterr().err) is choice, "a line where two entries hold tensors"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"params": OTHER, "params_ema": STATE}, "'params_ema', not params"),
        ({"state_dict": OTHER, "state_dict_ema": prefixed("module.")}, "'state_dict_ema', not state_dict"),
        ({"g": OTHER, "d": HALF, "g_ema": STATE}, "'g_ema', not g, d"),
        ({"model": OTHER, "ema": STATE}, "'ema', not model"),
        ({"ema_model": STATE, "model": OTHER}, "'ema_model', not model"),
        ({"generator": STATE, "discriminator": OTHER, "discriminator_ema": OTHER}, "'generator', not discriminator, "),
        ({"model": STATE, "model_ema": HALF}, "'model', not model_ema"),  # an average of parameters without the rest
    ],
)
def test_the_average_is_taken_where_it_is_complete_and_a_line_says_so(content, line, tmp_path, capfd):
    torch.save(content, tmp_path / "a.pth")
    read = weights.read_state(tmp_path / "a.pth")
    assert read.keys() == STATE.keys() and all(torch.equal(read[key], STATE[key]) for key in STATE)
    assert capfd.readouterr().err.startswith(f"{tmp_path / 'a.pth'}: takes the weights of {line}")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 3}, "expected tensors by name .*, got a mapping with the keys epoch; give the file of a network"),
        ({}, "got nothing"),
        ([STATE], "got list"),
        ({"optimizer": {"state": {0: STATE}, "param_groups": []}}, "got a mapping with the keys optimizer"),
        ({"state": {0: STATE}, "param_groups": [1]}, "got the state of an optimiser with the keys state, param_groups"),
        ({"generator": STATE, "model": OTHER}, r"holds several networks \('generator', 'model'\); save the right one"),
        ({"e": STATE, "s": OTHER}, r"holds several networks \('e', 's'\)"),
    ],
)
def test_content_without_a_state_dict_or_with_several_is_refused(content, found, tmp_path):
    torch.save(content, tmp_path / "none.pth")
    with pytest.raises(ValueError, match=rf"none\.pth: .*{found}"):
        weights.read_state(tmp_path / "none.pth")


def test_a_part_of_a_name_that_is_no_prefix_stays():
    mixed = {"module.weight": torch.ones(1), "bias": torch.ones(1), "a._orig_mod.b": torch.ones(1)}
    assert list(weights.unwrap(mixed, "a.pth")) == ["module.weight", "bias", "a.b"]


def test_parts_of_a_file_are_read_alone(tmp_path):
    state = filled(nn.Linear(2, 2), 1)
    torch.save({"g": state, "d": {}, "optimiser": {"step": 3}}, tmp_path / "both.pth")
    parts = weights.read_parts(tmp_path / "both.pth", ("g", "d"))
    assert parts["d"] == {} and all(torch.equal(parts["g"][key], state[key]) for key in state)
    with pytest.raises(ValueError, match=r"both\.pth: expected a state dict under 'e', got a mapping with the keys g"):
        weights.read_parts(tmp_path / "both.pth", ("e",))


def test_equal_weights_are_equal_files(tmp_path):
    metadata = {key: f'"{key}" é' for key in "dbacefgh"}
    state = {"half": torch.rand(3).half(), "transposed": torch.arange(6.0).view(2, 3).t(), "empty": torch.zeros(0)}
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for path, keys in zip(paths, ("abcdefgh", "hgfedcba"), strict=True):
        weights.write_state(path, state, {key: metadata[key] for key in keys})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert weights.read_header(paths[0]) == metadata
    read = load_file(paths[0])
    assert read.keys() == state.keys() and all(torch.equal(read[key], state[key]) for key in state)
    weights.write_state(paths[0], state)
    assert weights.read_header(paths[0]) == {} and load_file(paths[0]).keys() == state.keys()
