"""The discriminators against their references: HoiM/MobileFSGAN @478175b and taotaonice/FaceShifter @376b09e."""

import pytest
import torch
from helpers import goldens
from helpers.original_discriminators import original_to_ours, pyramid_original_to_ours
from torch.nn import functional as F

from distill.losses.discriminator import (
    MultiScaleDiscriminator,
    PyramidDiscriminator,
    build,
)


def pyramid(resolution: int, scales: int = 3) -> list[torch.Tensor]:
    return [torch.rand(2, 3, resolution >> scale, resolution >> scale) * 2 - 1 for scale in range(scales)]


def averaged(image: torch.Tensor) -> list[torch.Tensor]:
    """An image with its half and quarter, averaged over the pixels inside the image, as FaceShifter's code has them."""
    images = [image]
    for _ in range(2):
        images.append(F.avg_pool2d(images[-1], 3, stride=2, padding=1, count_include_pad=False))
    return images


def test_logits_equal_the_reference():
    discriminator = MultiScaleDiscriminator().eval()
    discriminator.load_state_dict(original_to_ours(goldens.fill("mobilefsgan_discriminator")), strict=True)
    images = [goldens.image(f"mobilefsgan.disc{pixels}", 2, pixels) for pixels in (256, 128, 64)]
    golden = goldens.load("mobilefsgan_discriminator")
    with torch.no_grad():
        for pixels, logits in zip((256, 128, 64), discriminator(images), strict=True):
            goldens.compare(golden, f"logits{pixels}", logits)


def test_size():
    assert sum(parameter.numel() for parameter in MultiScaleDiscriminator().parameters()) == 2_107_923


@pytest.mark.parametrize(
    ("resolution", "layers", "sizes"), [(256, 4, (19, 11, 7)), (64, 4, (7, 5, 4)), (64, 2, (19, 11, 7))]
)
def test_logit_maps(resolution, layers, sizes):
    logits = MultiScaleDiscriminator(layers=layers)(pyramid(resolution))
    assert [tuple(each.shape) for each in logits] == [(2, 1, size, size) for size in sizes]


def test_layers_have_spectral_norm_one():
    discriminator = MultiScaleDiscriminator(ndf=8, layers=2).train()
    for _ in range(30):
        discriminator(pyramid(64))
    discriminator.eval()
    for module in discriminator.modules():
        if isinstance(module, torch.nn.Conv2d):
            assert torch.linalg.matrix_norm(module.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)


def test_resumed_equals_uninterrupted():
    torch.manual_seed(0)
    first, second = MultiScaleDiscriminator(ndf=4, layers=2), MultiScaleDiscriminator(ndf=4, layers=2)
    images = pyramid(64)
    first(images)
    second.load_state_dict(first.state_dict())
    for one, other in zip(first(images), second(images), strict=True):
        assert torch.equal(one, other)


def test_gradients_reach_images_and_every_parameter():
    discriminator, images = MultiScaleDiscriminator(ndf=4, layers=2), pyramid(64)
    for image in images:
        image.requires_grad_()
    sum(logits.square().mean() for logits in discriminator(images)).backward()
    assert all(image.grad.abs().sum() > 0 for image in images)
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_bad_input():
    discriminator = MultiScaleDiscriminator(ndf=4)
    with pytest.raises(ValueError, match="expected 3 scales, got 2"):
        discriminator(pyramid(64, scales=2))
    with pytest.raises(ValueError, match=r"images\[0\]: expected \(N, 3, R, R\), got \(2, 1, 64, 64\)"):
        discriminator([image[:, :1] for image in pyramid(64)])
    with pytest.raises(ValueError, match="layers: expected at least 1, got 0"):
        MultiScaleDiscriminator(layers=0)
    with pytest.raises(ValueError, match="not a tensor of a MobileFSGAN discriminator: generator.weight"):
        original_to_ours({"generator.weight": torch.zeros(1)})


def test_pyramid_logits_equal_the_reference():
    discriminator = PyramidDiscriminator().eval()
    state = {f"module.{key}": tensor for key, tensor in goldens.fill("faceshifter_discriminator").items()}
    discriminator.load_state_dict(pyramid_original_to_ours(state), strict=True)
    golden, image = goldens.load("faceshifter_discriminator"), goldens.image("faceshifter.disc", 1, 256)
    with torch.no_grad():
        for scale, logits in enumerate(discriminator(averaged(image))):
            goldens.compare(golden, f"scale{scale}", logits)


def test_pyramid_size():
    assert sum(parameter.numel() for parameter in PyramidDiscriminator().parameters()) == 46_047_555


@pytest.mark.parametrize(
    ("resolution", "layers", "sizes"),
    [(256, 6, (7, 5, 4)), (64, 6, (4, 4, 4)), (64, 4, (7, 5, 4)), (64, 1, (35, 19, 11))],
)
def test_pyramid_learns_at_every_scale(resolution, layers, sizes):
    discriminator, images = PyramidDiscriminator(ndf=2, layers=layers), pyramid(resolution)
    for image in images:
        image.requires_grad_()
    logits = discriminator(images)
    assert [tuple(each.shape) for each in logits] == [(2, 1, size, size) for size in sizes]
    sum(each.square().mean() for each in logits).backward()
    assert all(image.grad.abs().sum() > 0 for image in images)
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_pyramid_averages_the_pixels_that_there_are():
    image = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    half, quarter = averaged(image)[1:]
    assert half.shape == (1, 3, 2, 2) and quarter.shape == (1, 3, 1, 1)
    assert half[0, 0].tolist() == [[2.5, 4.0], [8.5, 10.0]]  # 4, 6, 6 and 9 pixels
    assert torch.allclose(averaged(torch.ones(1, 3, 8, 8))[2], torch.ones(1, 3, 2, 2))


def test_build_by_kind():
    assert build({"ndf": 4, "layers": 2}).options == {"ndf": 4, "layers": 2, "scales": 3}
    assert isinstance(build({}), MultiScaleDiscriminator)
    assert isinstance(build({"kind": "pyramid", "ndf": 4}), PyramidDiscriminator)
    with pytest.raises(ValueError, match="unknown discriminator 'unet', known: multi_scale, pyramid"):
        build({"kind": "unet"})
    with pytest.raises(ValueError, match="discriminator 'pyramid': .*depth"):
        build({"kind": "pyramid", "depth": 4})


def test_bad_input_of_the_pyramid():
    with pytest.raises(ValueError, match="expected 3 scales, got 2"):
        PyramidDiscriminator(ndf=2)(pyramid(64, scales=2))
    with pytest.raises(ValueError, match="ndf: expected at least 1, got 0"):
        PyramidDiscriminator(ndf=0)
    with pytest.raises(
        ValueError, match="not a tensor of a FaceShifter discriminator: discriminator_256.model.0.weight"
    ):
        pyramid_original_to_ours({"discriminator_256.model.0.weight": torch.zeros(1)})
