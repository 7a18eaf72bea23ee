"""StyleGAN2 against the reference's own numbers, and against weights modulated one by one."""

import math

import pytest
import torch
from helpers import goldens
from helpers.teacher_networks import DIM, latents, originals, small_stylegan2
from torch import Tensor
from torch.nn import functional as F

from teachers.stylegan2 import StyleGAN2, blur_kernel, config_f, load_stylegan2


@torch.no_grad()
@pytest.mark.slow
def test_stylegan2_equals_the_reference(tmp_path):
    torch.save({"g_ema": goldens.fill("megafs_stylegan2")}, tmp_path / "stylegan2-ffhq-config-f.pth")
    generator = load_stylegan2(tmp_path / "stylegan2-ffhq-config-f.pth").eval()
    assert generator.options == {"resolution": 1024, "channels": config_f(1024), "latent_dim": 512}
    golden = goldens.load("megafs_stylegan2")
    goldens.compare(golden, "mapping", generator.mapping(goldens.vector("megafs.z", (1, 512), 1.7320508)))
    start = goldens.vector("megafs.struct", (1, 512, 4, 4), 1.7320508)
    image = generator(goldens.vector("megafs.latents", (1, 18, 512), 0.9), start)
    goldens.compare(golden, "image", image)


def up_and_filter(x: Tensor, up: int, left: int, right: int) -> Tensor:
    """Zeros between the pixels, zeros around, the kernel pixel by pixel."""
    channels, size = x.shape[0], x.shape[1] * up
    spread = torch.zeros(channels, size, size, dtype=x.dtype)
    spread[:, ::up, ::up] = x
    spread = F.pad(spread, (left, right, left, right))
    row = torch.tensor([1, 3, 3, 1], dtype=x.dtype) / 4  # twice the binomial: 4 in two dimensions
    size = spread.shape[1] - 3
    rows = sum(row[i] * spread[:, i : i + size] for i in range(4))
    return sum(row[i] * rows[:, :, i : i + size] for i in range(4))


def naive_synthesis(state: dict[str, Tensor], latents: Tensor, start: Tensor) -> Tensor:
    """One sample: (L, D) and (C, 4, 4) to (3, R, R)."""

    def modulated(x, name, latent, demodulate=True, up=False):
        weight = state[f"{name}.weight"][0]
        matrix, bias = state[f"{name}.modulation.weight"], state[f"{name}.modulation.bias"]
        style = matrix @ latent / math.sqrt(len(latent)) + bias
        weight = weight * style[None, :, None, None] / math.sqrt(weight[0].numel())
        if demodulate:
            weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            return up_and_filter(F.conv_transpose2d(x[None], weight.transpose(0, 1), stride=2)[0], 1, 1, 1)
        return F.conv2d(x[None], weight, padding=weight.shape[-1] // 2)[0]

    def styled(x, name, layer, latent, up=False):
        x = modulated(x, f"{name}.conv", latent, up=up)
        x = x + state[f"{name}.noise.weight"] * state[f"noises.noise_{layer}"][0]
        x = x + state[f"{name}.activate.bias"][:, None, None]
        return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)

    def rgb(x, name, latent):
        return modulated(x, f"{name}.conv", latent, demodulate=False) + state[f"{name}.bias"][0]

    x = styled(start, "conv1", 0, latents[0])
    image = rgb(x, "to_rgb1", latents[1])
    for step in range((len(latents) - 2) // 2):
        i = 2 * step + 1
        x = styled(x, f"convs.{i - 1}", i, latents[i], up=True)
        x = styled(x, f"convs.{i}", i + 1, latents[i + 1])
        image = rgb(x, f"to_rgbs.{step}", latents[i + 2]) + up_and_filter(image, 2, 2, 1)
    return image


@pytest.mark.parametrize("style", [1.0, 1e-3, 1e4])
def test_stylegan2_equals_weights_modulated_one_by_one(style):
    generator = small_stylegan2().double()
    for name, parameter in generator.named_parameters():
        if "modulation" in name and "rgb" not in name:
            parameter.mul_(style)
    codes, start = latents(1).double(), torch.randn(3, DIM, 4, 4, dtype=torch.float64)
    images = generator(codes, start)
    state = generator.state_dict()
    for image, code, first in zip(images, codes, start, strict=True):
        assert torch.allclose(image.double(), naive_synthesis(state, code, first), atol=1e-5)
    constant = state["input.input"]
    assert torch.equal(generator(codes), generator(codes, constant.expand(3, -1, -1, -1)))


def test_stylegan2_maps_to_latents_as_written():
    generator, x = small_stylegan2(), latents(3)[:, 0]
    mapped = generator.mapping(x)
    x = x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for layer in range(1, 9):
        weight, bias = (generator.state_dict()[f"style.{layer}.{what}"] for what in ("weight", "bias"))
        x = x @ (weight * 0.01 / math.sqrt(DIM)).T + bias * 0.01
        x = torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)
    assert torch.allclose(mapped, x, atol=1e-6)


def test_stylegan2_of_wrong_options_and_inputs():
    assert config_f(1024) == {4: 512, 8: 512, 16: 512, 32: 512, 64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}
    for resolution in (4, 48):
        with pytest.raises(ValueError, match=f"resolution: expected a power of two from 8 on, got {resolution}"):
            StyleGAN2(resolution)
    for channels in ({4: 8}, {4: 8, 8: 0}, {4: 8, 8: 8, 16: 8}):
        with pytest.raises(ValueError, match=r"channels: expected a positive number for each of \[4, 8\]"):
            StyleGAN2(8, channels)
    generator = small_stylegan2()
    with pytest.raises(ValueError, match=r"latents: expected \(N, 8, 16\), got \(3, 7, 16\)"):
        generator(latents(1)[:, :7])
    with pytest.raises(ValueError, match=r"start: expected \(3, 16, 4, 4\), got \(2, 16, 4, 4\)"):
        generator(latents(1), torch.zeros(2, DIM, 4, 4))


def test_stylegan2_files(tmp_path):
    generator, path, codes = small_stylegan2(), tmp_path / "g.pth", latents(1)
    state = originals(generator, "megafs_stylegan2")
    for content in (
        state,
        {"g_ema": state},
        {"g": {"x": torch.zeros(1)}, "g_ema": {f"module.{key}": tensor for key, tensor in state.items()}, "step": 3},
        {"g_ema": {key: tensor for key, tensor in state.items() if not key.endswith(".kernel")}},
    ):
        torch.save(content, path)
        loaded = load_stylegan2(path).eval()
        assert loaded.options == generator.options and torch.equal(loaded(codes), generator(codes))
    for key, tensor, message in (
        ("noises.noise_6", None, r"noises\.noise_6: expected shape \(1, 1, 32, 32\), found none"),
        ("style.3.bias", None, r"style\.3\.bias: expected shape \(16,\), found none"),
        (
            "convs.4.conv.weight",
            torch.zeros(1, 6, 8, 1, 1),
            r"convs\.4\.conv\.weight: expected .*found shape \(1, 6, 8, 1",
        ),
        ("convs.6.conv.weight", torch.zeros(1), r"convs\.6\.conv\.weight: expected no such tensor"),
        ("convs.2.conv.blur.kernel", blur_kernel() / 4, r"convs\.2\.conv\.blur\.kernel: expected the blur"),
        ("to_rgbs.1.upsample.kernel", torch.ones(3, 3), r"to_rgbs\.1\.upsample\.kernel: expected the blur"),
        ("input.input", None, r"not a StyleGAN2 generator: input\.input: expected 4 dimensions, found none"),
        ("convs.2.activate.bias", torch.zeros(1, 8), r"convs\.2\.activate\.bias: expected 1 dim.*found shape \(1, 8\)"),
    ):
        changed = {name: value for name, value in {**state, key: tensor}.items() if value is not None}
        torch.save({"g_ema": changed}, path)
        with pytest.raises(ValueError, match=rf"g\.pth: .*{message}"):
            load_stylegan2(path)
