"""Against patterns that only an encoder sees: disturbance before the identity encoder, and the penalty on grids."""

import pytest
import torch

from distill.losses.disturbance import NOISE, disturbed
from distill.losses.grid import FLOOR, grid, patterns
from eval.grid_artifact import GRID
from swapcore.images import REC_601

SIDE = 64
ROW, COLUMN = torch.meshgrid(*2 * [torch.arange(SIDE, dtype=torch.float32)], indexing="ij")
PATTERNS = patterns(torch.device("cpu"))


def smooth(n=2):
    """Slow waves in three colours."""
    phases = torch.arange(3 * n).view(n, 3, 1, 1)
    return 0.6 * torch.sin(ROW / 9 + phases) * torch.cos(COLUMN / 11 - phases)


def wave(u, v, phase=0.0):
    """Luminance of u and v sixteenths of a cycle a pixel, amplitude 1."""
    return torch.cos(2 * torch.pi * (u * ROW + v * COLUMN) / 16 + phase).expand(1, 3, -1, -1)


def test_a_smooth_picture_costs_nothing():
    pictures = smooth()
    assert grid(pictures, pictures, PATTERNS).eq(0).all()
    assert grid(pictures, torch.zeros_like(pictures), PATTERNS).max() < 2e-3
    assert grid(torch.full((1, 3, SIDE, SIDE), 0.9), -torch.ones(1, 3, SIDE, SIDE), PATTERNS).max() < 1e-4


@pytest.mark.parametrize("place", GRID)
@pytest.mark.parametrize("amplitude", [0.02, 0.2])
def test_a_pattern_of_the_grid_costs_its_amplitude(place, amplitude):
    phase = 0.0 if all(number % 8 == 0 for number in place) else 0.7
    found = grid(smooth() + amplitude * wave(*place, phase), smooth(), PATTERNS)
    assert found.shape == (2,) and found.tolist() == pytest.approx([amplitude] * 2, rel=0.03, abs=1.5 * FLOOR)
    assert grid(smooth() + amplitude * wave(*place, phase), smooth() + 0.5 * wave(*place), PATTERNS).max() < 0.005


@pytest.mark.parametrize("place", [(2, 0), (2, 2), (6, 6), (0, 14)])
def test_a_pattern_between_the_frequencies_costs_nothing(place):
    assert grid(smooth() + 0.2 * wave(*place), smooth(), PATTERNS).max() < 0.005


def test_the_gradient_takes_the_grid_away_and_leaves_the_picture():
    picture = (smooth() + 0.1 * wave(8, 8) + 0.1 * wave(0, 4)).requires_grad_()
    first = grid(picture, smooth(), PATTERNS).sum()
    assert first.item() == pytest.approx(2 * 0.2, rel=0.1)
    optimiser = torch.optim.Adam([picture], 2e-3)
    for _ in range(120):
        optimiser.zero_grad()
        grid(picture, smooth(), PATTERNS).sum().backward()
        optimiser.step()
    assert grid(picture, smooth(), PATTERNS).sum() < 0.02 * first
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert (picture - smooth())[inner].abs().max() < 0.05, "it was 0.2"


def test_half_precision_sees_the_same_grid():
    pictures = smooth() + 0.05 * wave(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(grid(pictures, smooth(), PATTERNS), grid(pictures, smooth(), PATTERNS.clone()))
        found = grid(pictures.bfloat16(), smooth(), PATTERNS)
    assert found.dtype == torch.float32 and found.tolist() == pytest.approx([0.05, 0.05], rel=0.2)


def test_no_disturbance_is_the_picture():
    torch.manual_seed(0)
    (same,) = disturbed([smooth()], 0.0)
    assert torch.allclose(same, smooth(), atol=1e-5)


def test_fading_takes_colour_away_and_keeps_the_luminance():
    torch.manual_seed(0)
    pictures = smooth(1).repeat(64, 1, 1, 1)
    (found,) = disturbed([pictures], 0.0, 0.8)
    weights = torch.tensor(REC_601).view(1, 3, 1, 1)
    assert torch.allclose((found * weights).sum(1), (pictures * weights).sum(1), atol=1e-5)
    colour, left = ((images - (images * weights).sum(1, keepdim=True)).flatten(1) for images in (pictures, found))
    kept = left.norm(dim=1) / colour.norm(dim=1)
    assert 0.2 <= kept.min() < 0.3 and 0.9 < kept.max() <= 1 and kept.unique().numel() == 64


def test_without_fading_the_random_numbers_are_those_of_before():
    torch.manual_seed(0)
    (one,) = disturbed([smooth()], 1.0)
    torch.manual_seed(0)
    (two,) = disturbed([smooth()], 1.0, 0.0)
    assert torch.equal(one, two)
    assert not torch.equal(one, disturbed([smooth()], 1.0, 0.5)[0])


def test_every_picture_of_every_scale_is_disturbed_in_its_own_way():
    torch.manual_seed(0)
    batches = [smooth(1).repeat(3, 1, 1, 1), smooth(1)[:, :, ::2, ::2].repeat(3, 1, 1, 1)]
    found = disturbed(batches, 1.0)
    assert [each.shape for each in found] == [each.shape for each in batches]
    for images in found:
        assert not torch.equal(images[0], images[1]) and not torch.equal(images[1], images[2])
    torch.manual_seed(0)
    again = disturbed(batches, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True)), "a function of torch's generator"
    assert not torch.equal(disturbed(batches, 1.0)[0], found[0])


def test_the_strength_is_that_of_small_changes():
    torch.manual_seed(0)
    flat = torch.full((400, 3, 16, 16), 0.5)
    (found,) = disturbed([flat], 1.0)
    deviation = (found - 0.5).std((1, 2, 3))
    assert deviation.max() < 1.1 * NOISE and deviation.mean().item() == pytest.approx(NOISE / 2, rel=0.1)
    ramp = (COLUMN / SIDE - 0.5).expand(400, 3, -1, -1)  # 1 / SIDE a pixel
    (found,) = disturbed([ramp], 1.0)
    middle = found[:, :, 28:36, 28:36].mean((1, 2, 3)) * SIDE + SIDE * 0.5 - 31.5  # pixels of shift
    assert 2.3 < middle.abs().max() < 0.08 * SIDE / 2 + 0.4 and abs(middle.mean()) < 0.3
    (twice,) = disturbed([ramp], 2.0)
    assert (twice - ramp).abs().mean() > 1.5 * (found - ramp).abs().mean()


def test_fine_patterns_go_and_shapes_stay():
    torch.manual_seed(0)
    board, face = 0.3 * wave(8, 8).repeat(200, 1, 1, 1), smooth(1).repeat(200, 1, 1, 1)
    with_board, without = disturbed([face + board], 1.0)[0], disturbed([face], 1.0)[0]
    cosine = torch.cosine_similarity((with_board - face).flatten(1), board.flatten(1), dim=1)
    assert cosine.abs().mean() < 0.1, "what an encoder would have to find at its place"
    assert torch.cosine_similarity(without.flatten(1), face.flatten(1), dim=1).mean() > 0.9


def test_gradients_reach_the_picture_and_half_precision_becomes_single():
    torch.manual_seed(0)
    picture = smooth().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = disturbed([picture], 1.0)
        (half,) = disturbed([smooth().bfloat16()], 1.0)
    assert found.dtype == half.dtype == torch.float32
    found.square().sum().backward()
    assert torch.isfinite(picture.grad).all()
    assert (picture.grad != 0).float().mean() > 0.8, "the rest moved out of the frame"
