"""Loss terms with answers known by hand, and that a split batch gives the whole batch's gradient."""

import pytest
import torch
from torch.nn import functional as F

from distill.losses import terms as losses


def test_reconstruction_is_l1_where_there_is_a_truth_and_nothing_elsewhere():
    gt = torch.zeros(2, 3, 8, 8)
    full = torch.full((2, 3, 8, 8), 0.5, requires_grad=True)
    half = torch.full((2, 3, 4, 4), 0.25)
    with_gt = torch.tensor([1.0, 0.0])
    loss = losses.reconstruction([full, half], gt, with_gt, [10, 2])
    assert loss.item() == pytest.approx((10 * 0.5 + 2 * 0.25) / 2)
    loss.backward()
    assert full.grad[0].abs().sum() > 0 and full.grad[1].abs().sum() == 0, "borders of samples without GT stay free"


def _stripes(period: int, shift: int = 0, size: int = 16) -> torch.Tensor:
    """(1, 3, size, size): columns of 1 and -1."""
    columns = ((torch.arange(size) + shift) % period < period // 2).float() * 2 - 1
    return columns.expand(1, 3, size, size).contiguous()


def test_gradient_is_the_difference_of_steps_and_free_of_shades():
    gt, one = _stripes(8), torch.ones(1)
    assert losses.gradient(gt, gt, one).item() == 0
    assert losses.gradient(0.5 * gt + 0.3, gt + 0.6, one).item() == pytest.approx(3 / 15), "3 steps of half the height"
    both, counts = torch.cat([gt, gt]), torch.tensor([1.0, 0.0])
    swaps = torch.zeros_like(both).requires_grad_()
    loss = losses.gradient(swaps, both, counts)
    assert loss.item() == pytest.approx(3 * 2 / 15 / 2)
    loss.backward()
    assert swaps.grad[0].abs().sum() > 0 and swaps.grad[1].abs().sum() == 0


def test_gradient_energy_is_the_contrast_wherever_its_edges_are():
    gt, one = _stripes(4), torch.ones(1)
    assert losses.gradient_energy(gt, gt, one).item() == 0
    # Half of the steps across are of height 2, so the root of the mean is 2 / sqrt(2) in a window of even width.
    grey = losses.gradient_energy(torch.zeros_like(gt), gt, one, window=4).item()
    assert grey == pytest.approx(2**0.5 - 0.01, abs=1e-4)
    assert losses.gradient_energy(0.5 * gt, gt, one, window=4).item() == pytest.approx(grey / 2, rel=0.01)
    moved = losses.gradient_energy(_stripes(4, shift=1), gt, one, window=4).item()
    assert moved == pytest.approx(0, abs=1e-6) and losses.gradient(_stripes(4, shift=1), gt, one) > 1


def test_gradient_energy_leaves_out_samples_without_gt_and_half_precision():
    gt, swaps = torch.cat([_stripes(4)] * 2), torch.zeros(2, 3, 16, 16, requires_grad=True)
    losses.gradient_energy(swaps, gt, torch.tensor([0.0, 1.0])).backward()
    assert swaps.grad.isfinite().all() and swaps.grad[0].abs().sum() == 0
    swaps = (0.1 * gt).bfloat16()
    for term in (losses.gradient, losses.gradient_energy):
        assert term(swaps, gt, torch.ones(2)).dtype == torch.float32


def test_identity_is_zero_within_the_margin():
    source = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert losses.identity(source, source, [20], 0.02).item() == 0
    opposite = losses.identity(torch.cat([-source, source]), source, [1, 5], 0.02)
    assert opposite.item() == pytest.approx(2 - 0.02)


def test_hinge_terms():
    real, swaps = [torch.tensor([2.0, 0.0])], [torch.tensor([-2.0, 0.0])]
    assert losses.hinge_discriminator(real, swaps, [1]).item() == pytest.approx(0.5 + 0.5)
    assert losses.hinge_generator(swaps, [2]).item() == pytest.approx(2 * (3 + 1) / 2)


def test_the_original_adds_samples_up_where_we_average():
    real, swaps = [torch.randn(3, 1, 4, 4)], [torch.randn(3, 1, 4, 4)]
    by_hand = sum(F.relu(1 - real[0][i]).mean() + F.relu(1 + swaps[0][i]).mean() for i in range(3))
    assert losses.hinge_discriminator(real, swaps, [1], "sum").item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert losses.hinge_generator(swaps, [2], "sum").item() == pytest.approx(
        3 * losses.hinge_generator(swaps, [2]).item(), rel=1e-5
    )


def test_half_the_mean_square_is_the_other_norm_and_counts_weigh_samples():
    gt, image = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    counts = torch.tensor([1.0, 0.5])
    assert losses.reconstruction([image], gt, counts, [4], "l2").item() == pytest.approx(4 * 0.125 * 0.75)
    assert losses.reconstruction([image], gt, counts, [4]).item() == pytest.approx(4 * 0.5 * 0.75)


def test_perceptual_is_zero_for_the_same_picture_and_free_of_scale():
    image, reference = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    assert losses.perceptual([image, image * 2], [image, image * 2]).tolist() == [0, 0]
    once = losses.perceptual([image], [reference])
    assert once.shape == (2,) and torch.allclose(losses.perceptual([100 * image], [100 * reference]), once)
    assert once.mean().item() == pytest.approx((F.l1_loss(image, reference) / reference.mean()).item(), rel=1e-5)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_gram_matrices_are_in_single_precision(precision):
    maps = 6 * torch.rand(2, 4, 128, 128)
    with torch.autocast("cpu", dtype=precision):
        found = losses.gram([maps], [0.99 * maps])
    assert torch.equal(found, losses.gram([maps], [0.99 * maps])) and 0.01 < found.min() and found.max() < 0.03


def test_gram_matrices_do_not_see_where_things_are():
    maps = torch.rand(2, 4, 6, 6)
    moved = maps.flatten(2)[:, :, torch.randperm(36)].view_as(maps)
    assert losses.gram([moved], [maps]).max() < 1e-5 < losses.perceptual([moved], [maps]).min()
    assert losses.gram([maps.flip(1)], [maps]).min() > 0.01


def test_features_and_attributes_are_squared_distances():
    teacher = torch.full((2, 4, 3, 3), 2.0)
    student = torch.stack([teacher[0] + 1, teacher[1]])
    assert losses.features([student], [teacher]).tolist() == pytest.approx([0.25, 0])
    assert losses.attribute([student, student], [teacher, teacher]).item() == pytest.approx(2 * 0.5 * 0.5)


def test_mean_over_halves_is_the_gradient_of_the_whole():
    torch.manual_seed(0)
    weight = torch.randn(3, requires_grad=True)
    gt, x = torch.randn(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    with_gt = torch.tensor([1.0, 1.0, 1.0, 0.0])  # unequal shares of GT in the halves

    def gradient(rows):
        loss = losses.reconstruction([x[rows] * weight.view(1, 3, 1, 1)], gt[rows], with_gt[rows], [1])
        return torch.autograd.grad(loss, weight)[0]

    halves = (gradient(slice(0, 2)) + gradient(slice(2, 4))) / 2
    assert torch.allclose(halves, gradient(slice(0, 4)), atol=1e-6)


def test_shrink_is_the_mean_of_areas():
    image = torch.arange(16.0).view(1, 1, 4, 4).repeat(1, 3, 1, 1)
    assert losses.shrink(image, 2)[0, 0].tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_the_originals_reconstruction_draws_borders_without_gt_to_black():
    """Half the square, three colours added up: 1.5 for grey against black, on 52.7 % of the pixels, as measured with
    HoiM/MobileFSGAN @478175b; nothing tells samples with GT -1 from those with it."""
    none = torch.full((2, 3, 256, 256), -1.0)
    grey = torch.zeros(2, 3, 256, 256, requires_grad=True)
    loss = losses.reconstruction_as_written([grey], none, [1.0])
    loss.backward()
    touched = (grey.grad != 0).float().mean((0, 1))
    assert loss.item() == pytest.approx(1.5) and touched.mean().item() == pytest.approx(0.527, abs=5e-4)
    assert (touched[:80] == 1).all() and (touched[80:, 40:216] == 0).all() and (touched[:, 216:] == 1).all()
    assert losses.reconstruction([grey], none, torch.zeros(2), [1.0]).item() == 0


@pytest.mark.parametrize("size", [32, 64, 128])
def test_the_originals_reconstruction_of_samples_with_gt_is_over_all_pixels(size):
    torch.manual_seed(0)
    gt, image = torch.rand(2, 3, 64, 64), torch.rand(2, 3, size, size)
    truth = losses.shrink(gt, size) if size != 64 else gt
    expected = 3 * 5 * (image - truth).square().mean() / 2
    assert losses.reconstruction_as_written([image], gt, [5.0]).item() == pytest.approx(expected.item(), rel=1e-5)
