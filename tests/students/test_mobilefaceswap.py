"""MobileFaceSwap against the reference outputs, its checkpoints, and its kernels per source."""

import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import goldens
from torch.utils.flop_counter import FlopCounterMode

import students
from students.identity_encoder import CARDS, IdentityEncoder
from students.mobilefaceswap import MobileFaceSwap, load_original, original_to_ours
from students.paddle import read_pdparams


@pytest.fixture(scope="module")
def checkpoint() -> dict[str, torch.Tensor]:
    return goldens.fill("mobilefaceswap_idn")


@pytest.fixture(scope="module")
def student(checkpoint) -> MobileFaceSwap:
    return load_original(checkpoint)


def source() -> tuple[torch.Tensor, torch.Tensor]:
    embedding = goldens.unit_vectors("mobilefaceswap.embedding", 1, 512)
    return embedding, goldens.vector("mobilefaceswap.feature_map", (1, 512, 7, 7), 1.7320508)


def small(**options) -> MobileFaceSwap:
    torch.manual_seed(0)
    return MobileFaceSwap(**{"width": 4, "embedding_dim": 12, "map_shape": [6, 4, 4], "resolution": 64, **options})


def small_inputs(n: int = 3):
    torch.manual_seed(1)
    return torch.rand(n, 3, 64, 64) * 2 - 1, F.normalize(torch.randn(n, 12)), torch.randn(n, 6, 4, 4)


@torch.no_grad()
def test_matches_the_reference(student):
    golden = goldens.load("mobilefaceswap_idn")
    kernels = student.kernels(*source())
    outputs = {}
    for size, suffix in ((224, ""), (256, "_at256")):
        name = "mobilefaceswap.target" + ("256" if suffix else "")
        swap, mask, face = student.swap(goldens.image01(name, 1, size), kernels)
        outputs |= {f"image{suffix}": swap, f"mask{suffix}": mask} | ({} if suffix else {"unblended": face})
    for part, made in zip(("enc_dw", "enc_pw", "dec_dw", "dec_pw"), kernels, strict=True):
        for layer, kernel in enumerate(made):
            outputs[f"{part}{layer}"] = kernel if part.endswith("dw") else kernel[0][..., None, None]
    names = {key.split("/")[0] for key in golden.files}
    assert names == outputs.keys()
    for name in names:
        goldens.compare(golden, name, outputs[name])


def test_every_tensor_of_the_original_has_its_place():
    expected = {
        key: tuple(t.shape) for key, t in MobileFaceSwap().state_dict().items() if not key.endswith("batches_tracked")
    }
    entries = json.loads((goldens.FOLDER / "mobilefaceswap_idn.json").read_text())["entries"]
    turned = {
        key: tuple(reversed(shape)) if key.endswith("style.weight") else tuple(shape) for key, shape, *_ in entries
    }
    assert {original_to_ours(key): shape for key, shape in turned.items()} == expected
    assert {dtype for _, _, dtype, *_ in entries} == {"float32"}


def test_parameters_and_operations_are_the_published_ones(student):
    assert sum(p.numel() for p in student.parameters()) == 20_699_710
    kernels = student.kernels(*source())
    heads = sum(p.numel() for part in (student.rgb, student.mask) for p in part.parameters())
    biases = sum(k.shape[1] for part in kernels for k in part)  # of the IDN's convolutions; nothing ever sets them
    assert kernels.count + heads + biases == 499_825
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student.swap(torch.zeros(1, 3, 224, 224), kernels)
    assert counter.get_total_flops() / 2e9 == pytest.approx(0.306, abs=0.001)


@torch.no_grad()
def test_a_batch_of_sources_is_each_alone():
    network = small()
    target, embedding, identity_map = small_inputs()
    for _ in range(30):  # until the running statistics are those of these inputs
        network(target, embedding, identity_map)
    network.eval()
    together = network(target, embedding, identity_map)[0]
    for i in range(3):
        alone = network(target[i : i + 1], embedding[i : i + 1], identity_map[i : i + 1])[0]
        assert torch.allclose(together[i : i + 1], alone, atol=1e-5)
    assert (network(target[:1], embedding[1:2], identity_map[1:2])[0] - together[:1]).abs().max() > 1e-4


def test_gradients_go_through_the_kernels_but_not_from_the_mask_into_the_trunk():
    network = small()
    target, embedding, identity_map = small_inputs()
    network(target, embedding, identity_map)[0].square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.predictor.parameters())
    network.zero_grad()
    network.swap((target + 1) / 2, network.kernels(embedding, identity_map))[1].sum().backward()
    assert all(p.grad is None for p in [*network.predictor.parameters(), *network.encoder_modulation.parameters()])
    assert all(p.grad is not None for p in network.mask.parameters())


@pytest.mark.parametrize("card", ["synthetic_identity", "mobilefacenet_512", "xiaoccer_128"])
@torch.no_grad()
def test_the_identity_encoders_give_maps_that_fit(card):
    torch.manual_seed(0)
    encoder = IdentityEncoder(CARDS[card]).eval()
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    embedding, identity_map = encoder.embed(images)
    assert torch.equal(embedding, encoder(images)) and identity_map.shape == (2, *encoder.map_shape)
    options = {"embedding_dim": encoder.embedding_dim, "map_shape": list(encoder.map_shape)}
    swapper = students.StudentSwapper(small(**options).eval(), encoder)
    assert swapper(images, images.flip(0)).shape == images.shape
    assert students.condition(encoder, images, swapper.generator)[1].shape == identity_map.shape


def test_checkpoints_must_fit(checkpoint):
    incomplete = {k: t for k, t in checkpoint.items() if k != "predictor.norm._mean"}
    with pytest.raises(ValueError, match=r"predictor\.norm\.running_mean: expected shape \(512,\), found none"):
        load_original(incomplete)
    with pytest.raises(ValueError, match=r"extra: expected no such tensor, found shape \(1,\)"):
        load_original({**checkpoint, "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match="lacks predictor.first.weight"):
        load_original({"conv.weight": torch.zeros(1)})


def test_wrong_shapes_and_options_are_named():
    target, embedding, identity_map = small_inputs()
    with pytest.raises(ValueError, match=r"identity_map: expected \(3, 6, 4, 4\), got \(3, 6, 4, 3\)"):
        small()(target, embedding, identity_map[..., :3])
    with pytest.raises(ValueError, match="width: expected a multiple of 4"):
        small(width=6)
    with pytest.raises(ValueError, match=r"map_shape: expected \(C, h, w\)"):
        small(map_shape=[6, 3, 4])


def test_paddle_files_are_read_without_executing_them(tmp_path, checkpoint):
    arrays = {key: tensor.numpy() for key, tensor in list(checkpoint.items())[:4]}
    path, mark = tmp_path / "m.pdparams", tmp_path / "executed"
    path.write_bytes(pickle.dumps({**arrays, "StructuredToParameterName@@": {"a": "b"}}, protocol=2))
    state = read_pdparams(path)
    assert state.keys() == arrays.keys() and all(torch.equal(state[k], checkpoint[k]) for k in state)

    class Bomb:
        def __reduce__(self):
            return open, (str(mark), "w")

    path.write_bytes(pickle.dumps({"a": Bomb()}))
    with pytest.raises(ValueError, match=r"m\.pdparams: refused: it would execute \w+\.open"):
        read_pdparams(path)
    assert not mark.exists()
    for content, said in (
        (b"text", "is text"),
        (b"<html>", "is a web page"),
        (pickle.dumps([1]), "expected arrays by name"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=said):
            read_pdparams(path)
    path.write_bytes(pickle.dumps({"a": np.array([3, "x"], dtype=object)}))
    with pytest.raises(ValueError, match="a: expected an array of numbers"):
        read_pdparams(path)


class NamedTensor:
    """Pickled as Paddle writes a tensor outside a state dict: a pair (name, array) through `tuple`."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        self.pair = (name, array)

    def __reduce__(self):
        return tuple, (self.pair,)


@pytest.mark.parametrize("protocol", [2, 4])
def test_paddle_tensors_in_pairs_and_in_bfloat16(tmp_path, protocol):
    numbers = torch.tensor([[1.0, -2.5], [0.125, 3e38]])
    bits = numbers.bfloat16().view(torch.int16).numpy().view(np.uint16)
    path = tmp_path / "m.pdparams"
    content = {"pair": NamedTensor("w_0", numbers.numpy()), "half": bits, "swapped": numbers.numpy().astype(">f4")}
    path.write_bytes(pickle.dumps({"state_dict": content}, protocol=protocol))
    state = read_pdparams(path)
    assert torch.equal(state["pair"], numbers) and torch.equal(state["swapped"], numbers)
    assert state["half"].dtype == torch.bfloat16 and torch.equal(state["half"], numbers.bfloat16())


def test_a_cut_paddle_file_and_an_absent_one_are_told(tmp_path):
    path = tmp_path / "m.pdparams"
    whole = pickle.dumps({"a": np.zeros(100, np.float32)})
    for length in (1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"m\.pdparams: .*not a \.pdparams file"):
            read_pdparams(path)
    with pytest.raises(FileNotFoundError):
        read_pdparams(tmp_path / "absent.pdparams")


def test_checkpoints_may_be_wrapped_and_prefixed_and_must_be_numbers(checkpoint, student):
    wrapped = load_original({"state_dict": {f"module.{key}": tensor for key, tensor in checkpoint.items()}})
    assert all(torch.equal(tensor, student.state_dict()[key]) for key, tensor in wrapped.state_dict().items())
    with pytest.raises(ValueError, match="extra: expected one floating-point tensor"):
        load_original({**checkpoint, "extra": torch.zeros(1, dtype=torch.int64)})


def test_checkpoints_are_read_from_paddle_files(tmp_path):
    network, path = small(), tmp_path / "m.pdparams"
    state = {key: tensor for key, tensor in network.state_dict().items() if not key.endswith("batches_tracked")}
    arrays = {key: (t.T if key.endswith("style.weight") else t).contiguous().numpy() for key, t in state.items()}
    path.write_bytes(pickle.dumps(arrays, protocol=2))
    loaded = load_original(path, resolution=64)
    assert loaded.options == network.options
    assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in state.items())
    del arrays["predictor.norm.running_mean"]
    path.write_bytes(pickle.dumps(arrays, protocol=2))
    with pytest.raises(ValueError, match=r"m\.pdparams: not the weights of MobileFaceSwap: predictor\.norm"):
        load_original(path, resolution=64)


def test_kernels_are_for_as_many_sources_as_targets():
    target, embedding, identity_map = small_inputs()
    kernels = small().kernels(embedding, identity_map)
    for bad in (target[:2], target[:, :, :33, :33]):
        with pytest.raises(ValueError, match=r"target: expected \(3, 3, R, R\)"):
            small().swap(bad, kernels)
    with pytest.raises(ValueError, match=r"embedding: expected \(N, 12\)"):
        small().kernels(embedding[:, :5], identity_map)
