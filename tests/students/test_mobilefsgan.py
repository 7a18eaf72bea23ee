"""The generator against the reference's own numbers (HoiM/MobileFSGAN @478175b)."""

import json

import numpy as np
import pytest
import torch
from helpers import goldens

from students.mobilefsgan import MobileFSGAN, load_original, original_to_ours

TARGET = ("mobilefsgan.target", 2, 256)
EMBEDDING = ("mobilefsgan.embedding", 2, 512)
PIXELS = (256, 128, 64)


def train_step(dtype: torch.dtype):
    """One forward and backward of the golden's loss; the generator, its inputs, its images and the loss."""
    generator = load_original(goldens.fill("mobilefsgan_generator")).to(dtype).train()
    target = goldens.image(*TARGET).to(dtype).requires_grad_()
    embedding = goldens.unit_vectors(*EMBEDDING).to(dtype).requires_grad_()
    images = generator(target, embedding)
    probes = [goldens.image(f"mobilefsgan.probe{pixels}", 2, pixels).to(dtype) for pixels in PIXELS]
    loss = 1000 * sum((image * probe).mean() for image, probe in zip(images, probes, strict=True))
    loss.backward()
    return generator, target, embedding, images, loss


def check_train_step(dtype: torch.dtype, values: float, gradients: float) -> None:
    generator, target, embedding, images, loss = train_step(dtype)
    golden = goldens.load("mobilefsgan_generator_train")
    for pixels, image in zip(PIXELS, images, strict=True):
        goldens.compare(golden, f"image{pixels}", image, values)
    goldens.compare(golden, "loss", loss.reshape(1), gradients)
    goldens.compare(golden, "grad_target", target.grad, gradients)
    goldens.compare(golden, "grad_embedding", embedding.grad, gradients)
    outputs = {name.split("/")[0] for name in golden.files}
    learned, buffers = dict(generator.named_parameters()), dict(generator.named_buffers())
    checked = 0
    for output in outputs:
        kind, _, key = output.partition(":")
        if kind == "grad":
            goldens.compare(golden, output, learned[original_to_ours(key)].grad, gradients)
        elif kind == "after":
            goldens.compare(golden, output, buffers[original_to_ours(key)], values)
        checked += kind in ("grad", "after")
    assert checked == 9


def test_hash_has_the_published_check_values():
    assert goldens.mix(np.array([1]))[0] == 1753845952
    np.testing.assert_array_equal(goldens.noise(2, "a"), [-0.7499010113533586, 0.9709301663096994])


def test_evaluation_equals_the_reference():
    generator = load_original(goldens.fill("mobilefsgan_generator")).eval()
    golden = goldens.load("mobilefsgan_generator")
    with torch.no_grad():
        target = goldens.image(*TARGET)
        images = generator(target, goldens.unit_vectors(*EMBEDDING))
        maps = generator.attribute_maps(target)
    for pixels, image in zip(PIXELS, images, strict=True):
        goldens.compare(golden, f"image{pixels}", image)
    names = [f"a{pixels}_{i}" for pixels, count in zip(PIXELS, (3, 4, 5), strict=True) for i in range(count)]
    for name, attribute_map in zip(names, maps, strict=True):
        goldens.compare(golden, name, attribute_map)


def test_train_step_equals_the_reference():
    check_train_step(torch.float32, values=2e-4, gradients=2e-2)


@pytest.mark.slow
def test_train_step_equals_the_reference_in_double_precision():
    check_train_step(torch.float64, values=1e-5, gradients=1e-5)


def test_size(tmp_path):
    # torch.save writes the name of the file once per tensor: a short name, as the published sizes have.
    generator = MobileFSGAN()
    assert sum(parameter.numel() for parameter in generator.parameters()) == 2_517_781
    torch.save(generator.state_dict(), tmp_path / "g.pth")
    assert (tmp_path / "g.pth").stat().st_size / 1e6 == pytest.approx(10.20, abs=0.01)


def test_every_original_name_has_one_of_ours():
    entries = json.loads((goldens.FOLDER / "mobilefsgan_generator.json").read_text())["entries"]
    assert {original_to_ours(entry[0]) for entry in entries} == set(MobileFSGAN().state_dict())


@pytest.mark.parametrize("wrapper", [None, "state_dict", "generator"])
def test_original_checkpoints_may_be_wrapped(wrapper):
    state = {f"module.{key}": tensor for key, tensor in goldens.fill("mobilefsgan_generator").items()}
    generator = load_original({wrapper: state} if wrapper else state)
    key = "decoder.b64_0.conv_attention.weight"
    assert torch.equal(generator.decoder.stages[0][4].mix.weight, state[f"module.{key}"])


def test_original_checkpoints_must_fit():
    state = goldens.fill("mobilefsgan_generator")
    with pytest.raises(ValueError, match="not a tensor of a MobileFSGAN checkpoint: decoder.b64_9.conv.weight"):
        load_original({**state, "decoder.b64_9.conv.weight": torch.zeros(1)})
    incomplete = {key: tensor for key, tensor in state.items() if key != "decoder.up128.conv.weight"}
    with pytest.raises(ValueError, match=r"decoder\.ups\.0\.conv\.weight: expected shape \(64, 64, 3, 3\), found none"):
        load_original(incomplete)
    with pytest.raises(ValueError, match=r"decoder\.ups\.0\.conv\.weight: .*found shape \(64, 64, 1, 1\)"):
        load_original({**state, "decoder.up128.conv.weight": torch.zeros(64, 64, 1, 1)})
    with pytest.raises(ValueError, match=r"expected tensors by name \(a state dict\), got nothing"):
        load_original({})
    with pytest.raises(ValueError, match="MobileFSGAN checkpoint: it lacks encoder_head.conv_image.weight"):
        load_original({key: tensor for key, tensor in state.items() if "conv_image" not in key})


@pytest.mark.parametrize("bounded", [False, True])
def test_maps_that_are_too_large_explode_unless_the_masks_are_bounded(bounded):
    torch.manual_seed(0)
    network = MobileFSGAN(width=8, embedding_dim=16, resolution=64, bounded_masks=bounded).eval()
    with torch.no_grad():
        for block in network.decoder.stages[0]:
            block.mix.weight.mul_(1e6)
        swap = network(torch.rand(1, 3, 64, 64) * 2 - 1, torch.nn.functional.normalize(torch.randn(1, 16)))[0]
    assert bool(torch.isfinite(swap).all()) is bounded
