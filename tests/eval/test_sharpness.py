"""Sharpness, gradient correlation and face PSNR against values known by hand."""

import math

import numpy as np
import pytest
import torch
from helpers.toy_pairs import PEOPLE, SIDE, changed, toy_pairs, values_of

from eval.evaluation import Evaluation
from eval.sharpness import counted, gradients, luminance

INNER = slice(8, 24)


def pairs_of(exact, mask=None, **fields):
    """Toy pairs whose exact swaps are given, grey (SIDE, SIDE) for all, with an inner face of 16 x 16 pixels."""
    if mask is None:
        mask = torch.zeros(PEOPLE, 1, SIDE, SIDE, dtype=torch.bool)
        mask[:, :, INNER, INNER] = True
    return changed(toy_pairs(), exact=grey(exact), mask=mask, **fields)


def grey(picture):
    return picture.to(torch.uint8).expand(PEOPLE, 3, SIDE, SIDE).clone()


def measured(swaps, pairs):
    return Evaluation(pairs, batch_size=3).measure("by hand", ["sharpness"], swaps=swaps)


def values(swaps, pairs):
    return {key: one.value for key, one in measured(swaps, pairs).items()}


ROW, COLUMN = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
RAMP = 40 + 4 * COLUMN  # 4 levels a pixel, along x
DOWN = 40 + 4 * ROW


def test_luminance_and_forward_differences():
    image = torch.tensor([255, 0, 0, 51], dtype=torch.uint8).view(1, 1, 2, 2).repeat(1, 3, 1, 1)
    image[0, :, 1, 1] = torch.tensor([51, 102, 0])
    light = luminance(image)
    assert light[0].tolist() == [pytest.approx([1, 0]), pytest.approx([0, 0.2 * 0.299 + 0.4 * 0.587])]
    found = gradients(image, torch.ones(1, 2, 2, dtype=torch.bool))
    assert found[0, 0, 0].tolist() == pytest.approx([-1, 0]) and found[0, 1, :, 0].tolist() == pytest.approx([-1, 0])


def test_a_pixel_counts_with_its_right_and_lower_neighbours():
    inner = torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    inner[0, 0, 1:4, 1:4] = True
    inner[0, 0, 2, 2] = False
    assert counted(inner)[0].nonzero().tolist() == [[1, 1]]
    assert not counted(torch.ones(1, 1, 5, 5, dtype=torch.bool))[0, -1].any()  # the picture's last row has no lower one


def test_the_exact_swap_has_the_best_of_all():
    pairs = toy_pairs()
    found = measured(pairs.exact, pairs)
    assert found["sharpness"].value == 1 and found["face_psnr_db"].value == 99
    assert found["gradient_correlation"].value == pytest.approx(1)
    assert found["face_psnr_db"].details == {"pairs_without": 0, "identical_pairs": PEOPLE}
    for value in found.values():
        assert value.protocol["against"] == "the exact swap" and "square" in value.protocol["where"]
        assert len(value.each) == PEOPLE and value.interval


def test_half_the_contrast_is_a_quarter_of_the_energy():
    found = values(grey(40 + 2 * COLUMN), pairs_of(RAMP))
    assert found["sharpness"] == pytest.approx(0.25) and found["gradient_correlation"] == pytest.approx(1)


def test_gradients_of_another_direction_are_no_gradients_of_the_face():
    """As sharp, and wrong: this is what the correlation is for."""
    found = values(grey(DOWN), pairs_of(RAMP))
    assert found["sharpness"] == pytest.approx(1) and found["gradient_correlation"] == pytest.approx(0)
    found = values(grey(200 - 4 * COLUMN), pairs_of(RAMP))
    assert found["sharpness"] == pytest.approx(1) and found["gradient_correlation"] == pytest.approx(-1)
    found = values(grey(40 + 4 * COLUMN + 4 * ROW), pairs_of(RAMP))  # E + E, of which half is the reference's
    assert found["sharpness"] == pytest.approx(2) and found["gradient_correlation"] == pytest.approx(math.sqrt(0.5))


def test_noise_buys_sharpness_and_costs_correlation():
    noise = torch.randint(-6, 7, (SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    pairs, sharp = pairs_of(RAMP), grey(RAMP)
    blurred, noisy = values(grey(40 + 2 * COLUMN), pairs), values(grey(40 + 2 * COLUMN + noise), pairs)
    assert noisy["sharpness"] > 1 > blurred["sharpness"]
    assert noisy["gradient_correlation"] < 0.5 < blurred["gradient_correlation"] <= values(sharp, pairs)[
        "gradient_correlation"
    ] + 1e-12  # fmt: skip


def test_only_the_inner_face_counts():
    pairs, swaps = pairs_of(RAMP), grey(RAMP)
    swaps[:, :, :8] = 255 - swaps[:, :, :8]
    swaps[:, :, :, 24:] = 0  # the gradient from column 23 to 24 leaves the inner face
    assert values(swaps, pairs) == pytest.approx({"sharpness": 1, "gradient_correlation": 1, "face_psnr_db": 99})


def test_psnr_is_of_the_pixels_that_count():
    pairs, swaps = pairs_of(RAMP), grey(RAMP)
    swaps[:, :, INNER, INNER] += 5
    assert values(swaps, pairs)["face_psnr_db"] == pytest.approx(10 * math.log10(255**2 / 25))
    swaps = grey(RAMP)
    swaps[:, 0, 8, 8] += 30  # one of 3 x 15 x 15 values
    assert values(swaps, pairs)["face_psnr_db"] == pytest.approx(10 * math.log10(255**2 * 675 / 900))
    swaps[:, :, 23] = 0  # no lower neighbour in the inner face
    assert values(swaps, pairs)["face_psnr_db"] == pytest.approx(10 * math.log10(255**2 * 675 / 900))


def test_a_reference_without_gradients_is_left_out_and_counted():
    exact = grey(RAMP)
    exact[2] = 90
    pairs = changed(pairs_of(RAMP), exact=exact)
    found = measured(grey(RAMP), pairs)
    for key in ("sharpness", "gradient_correlation"):
        assert found[key].n == PEOPLE - 1 and found[key].details == {"pairs_without": 1}
        assert np.flatnonzero(np.isnan(found[key].each)).tolist() == [2] and found[key].value == pytest.approx(1)
    assert found["face_psnr_db"].n == PEOPLE


def test_a_swap_without_gradients_has_nothing_of_the_face():
    found = values(grey(torch.full((SIDE, SIDE), 90)), pairs_of(RAMP))
    assert found["sharpness"] == found["gradient_correlation"] == 0


def test_a_face_of_single_pixels_has_no_value():
    mask = torch.zeros(PEOPLE, 1, SIDE, SIDE, dtype=torch.bool)
    mask[0, 0, 10, 10] = True
    assert measured(grey(RAMP), pairs_of(RAMP, mask)) == {}
    assert set(measured(grey(RAMP), pairs_of(torch.full((SIDE, SIDE), 90)))) == {"face_psnr_db"}


def test_without_exact_swaps_the_target_is_the_reference():
    pairs = changed(toy_pairs(), exact=None)
    found = measured(pairs.target, pairs)
    assert set(found) == {"sharpness"} and found["sharpness"].value == 1
    assert found["sharpness"].protocol["against"] == "the target"
    against_exact = values_of(lambda source, target: target, toy_pairs(), "sharpness")["sharpness"]
    assert against_exact.protocol["against"] == "the exact swap" and against_exact.value != 1
