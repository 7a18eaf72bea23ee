"""FaceShifter's networks against the references' own numbers (taotaonice @376b09e, mindslab @d232459)."""

import json

import pytest
import torch
from helpers import goldens
from helpers.teacher_networks import filled, lively
from torch.nn import functional as F

from swapcore.irse50 import IRSE50
from teachers import aei_net
from teachers.aei_net import AEINet
from teachers.faceshifter import arcface_112
from teachers.hearnet import HEARNet


@torch.no_grad()
@pytest.mark.parametrize(
    "golden", ["faceshifter_aei", pytest.param("mindslab_aei", marks=pytest.mark.slow)], ids=["taotaonice", "mindslab"]
)
def test_aei_net_equals_the_reference(golden):
    name, zero_to_one = golden.split("_")[0], golden == "mindslab_aei"
    network, target = filled(golden), goldens.image(f"{name}.target", 1, 256)
    dim = network.options["embedding_dim"]
    image, maps = network(target, goldens.unit_vectors(f"{name}.embedding", 1, dim))
    stored = goldens.load(golden)
    goldens.compare(stored, "image", (image + 1) / 2 if zero_to_one else image)
    assert len(maps) == 8
    for level, attribute in enumerate(maps, 1):
        goldens.compare(stored, f"attr{level}", attribute)


@torch.no_grad()
def test_hearnet_equals_the_reference():
    swap, error = goldens.image("hear.swap", 1, 256), goldens.image("hear.error", 1, 256)
    image = filled("faceshifter_hearnet")(torch.cat([swap, error], 1))
    goldens.compare(goldens.load("faceshifter_hearnet"), "image", image)


@torch.no_grad()
def test_irse50_equals_the_reference():
    network, stored = filled("arcface_irse50"), goldens.load("arcface_irse50")
    embedding, maps = network(goldens.image("irse50.face", 2, 112))
    goldens.compare(stored, "embedding", embedding)
    assert len(maps) == 24
    for level in (2, 6, 20, 23):
        goldens.compare(stored, f"feat{level}", maps[level])
    crop = arcface_112(goldens.image("irse50.full256", 1, 256))
    goldens.compare(stored, "embedding_from256_crop19_237", network(crop)[0])


def test_ir50_has_no_squeeze_and_excitation():
    with torch.device("meta"):
        network = IRSE50(se=False)
    assert sum(parameter.numel() for parameter in network.parameters()) == 43_574_976


@pytest.mark.parametrize("layout", aei_net.LAYOUTS)
@pytest.mark.parametrize(
    ("resolution", "innermost", "levels"),
    [(64, 2, 6), (96, 3, 6), (128, 2, 7), (160, 5, 6), (192, 3, 7), (224, 7, 6), (512, 4, 8)],
)
def test_resolutions(layout, resolution, innermost, levels):
    network = AEINet(layout, width=4, embedding_dim=8, resolution=resolution).eval()
    assert AEINet(**json.loads(json.dumps(network.options))).state_dict().keys() == network.state_dict().keys()
    with torch.no_grad():
        image, maps = network(goldens.image("t", 1, resolution), goldens.unit_vectors("e", 1, 8))
    assert image.shape == (1, 3, resolution, resolution) and image.abs().max() <= 1
    sizes = [innermost << level for level in range(levels)]
    assert [m.shape[-1] for m in maps] == sizes and sizes[-1] == resolution
    assert [m.shape[1] for m in maps[-3:]] == [8, 4, 4]


def test_widths_are_in_proportion():
    with torch.device("meta"):
        whole, quarter = AEINet(), AEINet(width=16)
    for key, tensor in quarter.state_dict().items():
        for a, b in zip(tensor.shape, whole.state_dict()[key].shape, strict=True):
            assert b in (a, 4 * a), key


@pytest.mark.parametrize("layout", aei_net.LAYOUTS)
@pytest.mark.parametrize("resolution", [64, 96])
def test_gradients_reach_inputs_and_every_parameter(layout, resolution):
    network = lively(AEINet(layout, width=4, embedding_dim=8, resolution=resolution)).train()
    target, embedding = (
        goldens.image("t", 2, resolution).requires_grad_(),
        goldens.unit_vectors("e", 2, 8).requires_grad_(),
    )
    image, maps = network(target, embedding)
    (image.square().mean() + sum(m.square().mean() for m in maps)).backward()
    assert target.grad.abs().sum() > 0 and embedding.grad.abs().sum() > 0
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_it_learns():
    torch.manual_seed(0)
    network, target = AEINet(width=8, embedding_dim=8, resolution=64), goldens.image("t", 2, 64)
    embedding, optimiser = goldens.unit_vectors("e", 2, 8), torch.optim.Adam(network.parameters(), 4e-4, (0.0, 0.999))
    losses = []
    for _ in range(40):
        loss = F.mse_loss(network(target, embedding)[0], target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_normalises_in_full_precision(dtype):
    aad = lively(aei_net.AAD(4, 4, 8, aei_net.LAYOUTS["taotaonice"]))
    x = (1000 + 100 * goldens.image("x", 1, 64)[:, [0, 1, 2, 0]]).to(dtype)  # its squares are beyond float16
    attribute, embedding = goldens.image("a", 1, 64)[:, [0, 1, 2, 1]], goldens.unit_vectors("e", 1, 8)
    with torch.autocast("cpu", dtype):
        half = aad(x, attribute.to(dtype), embedding.to(dtype))
    assert (half - aad(x.float(), attribute, embedding)).abs().max() < 0.05


def test_hearnet_of_any_width_and_size():
    network = HEARNet(width=4)
    x = torch.cat([goldens.image("a", 2, 96), goldens.image("b", 2, 96)], 1).requires_grad_()
    image = network(x)
    image.square().mean().backward()
    assert image.shape == (2, 3, 96, 96) and x.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_bad_options_and_inputs():
    for options, message in (
        ({"layout": "ghost"}, "unknown layout 'ghost', known: taotaonice, mindslab"),
        ({"width": 15}, "width: expected an even number, at least 2, got 15"),
        ({"resolution": 100}, "resolution: expected a multiple of 32, at least 64, got 100"),
        ({"resolution": 32}, "at least 64, got 32"),
        ({"embedding_dim": 0}, "embedding_dim: expected at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            AEINet(**options)
    network = AEINet(width=2, embedding_dim=4, resolution=64).eval()
    for target, embedding, message in (
        (torch.zeros(1, 3, 96, 96), torch.zeros(1, 4), r"target: expected \(N, 3, 64, 64\), got \(1, 3, 96, 96\)"),
        (torch.zeros(1, 3, 64, 64), torch.zeros(1, 5), r"embedding: expected \(N, 4\), got \(1, 5\)"),
        (torch.zeros(1, 3, 64, 64), torch.zeros(2, 4), "batch sizes differ: 1 targets, 2 embeddings"),
    ):
        with pytest.raises(ValueError, match=message):
            network(target, embedding)
    with pytest.raises(ValueError, match="width: expected at least 1, got 0"):
        HEARNet(0)
    with pytest.raises(ValueError, match=r"expected \(N, 6, R, R\) .*got \(1, 3, 64, 64\)"):
        HEARNet(4)(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"faces: expected \(N, 3, 112, 112\), got \(1, 3, 64, 64\)"):
        IRSE50().maps(torch.zeros(1, 3, 64, 64))
