"""Region errors against values known by hand."""

import pytest
import torch
from helpers.toy_pairs import PEOPLE, SIDE, changed, toy_pairs

from eval import METRICS
from eval.evaluation import Evaluation
from eval.pairs import REGIONS

EYES, MOUTH, SKIN = (REGIONS.index(name) for name in ("eyes", "mouth", "skin"))
NAMES = ("eyes", "mouth", "skin", "outside")


def with_regions():
    """Inner face in rows and columns 8 to 23; skin in rows 4 to 23, in it 2 x 8 pixels of eyes and 1 x 4 of mouth."""
    mask = torch.zeros(PEOPLE, 1, SIDE, SIDE, dtype=torch.bool)
    mask[:, :, 8:24, 8:24] = True
    regions = torch.zeros(PEOPLE, 1, SIDE, SIDE, dtype=torch.uint8)
    regions[:, :, 4:24, 8:24] = SKIN
    regions[:, :, 10:12, 8:16] = EYES
    regions[:, :, 20:21, 12:16] = MOUTH
    exact = toy_pairs().exact.clamp(60, 190)
    return changed(toy_pairs(), exact=exact, mask=mask, regions=regions)


def measured(swaps, pairs):
    return Evaluation(pairs, batch_size=3).measure("by hand", ["region_errors"], swaps=swaps)


def errors(swaps, pairs):
    found = measured(swaps, pairs)
    return [found[f"region_error_{name}"].value for name in NAMES]


def test_the_exact_swap_has_none():
    pairs = with_regions()
    found = measured(pairs.exact, pairs)
    assert set(found) == {f"region_error_{name}" for name in NAMES}
    for value in found.values():
        assert value.value == 0 and value.protocol["against"] == "the exact swap" and value.interval == (0, 0)
    assert "the targets' own" in found["region_error_skin"].protocol["where"]


@pytest.mark.parametrize(
    ("row", "column", "name", "pixels"),
    [
        (10, 8, "eyes", 16),
        (11, 15, "eyes", 16),
        (20, 12, "mouth", 4),
        (8, 8, "skin", 256 - 16 - 4),
        (23, 23, "skin", 256 - 16 - 4),
        (7, 8, "outside", SIDE**2 - 256),  # skin, but not of the inner face
        (24, 23, "outside", SIDE**2 - 256),
    ],
)
def test_a_pixel_counts_in_its_region_alone(row, column, name, pixels):
    pairs = with_regions()
    swaps = pairs.exact.clone()
    swaps[:, 1, row, column] += 51  # a fifth of the range in one of three colours
    wanted = [51 / 127.5 / 3 / pixels if region == name else 0 for region in NAMES]
    assert errors(swaps, pairs) == pytest.approx(wanted)


def test_brows_outside_the_inner_face_count_as_both():
    pairs = with_regions()
    pairs.regions[:, :, 6, 10] = EYES
    swaps = pairs.exact.clone()
    swaps[:, :, 6, 10] += 51
    assert errors(swaps, pairs) == pytest.approx([0.4 / 17, 0, 0, 0.4 / (SIDE**2 - 256)])


def test_pairs_without_a_region_are_left_out_and_counted():
    pairs = with_regions()
    pairs.regions[1:] = torch.where(pairs.regions[1:] == EYES, 0, pairs.regions[1:])
    swaps = pairs.exact.clone()
    swaps[:, :, 10, 8] += 51
    found = measured(swaps, pairs)["region_error_eyes"]
    assert found.value == pytest.approx(0.4 / 16) and found.n == 1 and found.details == {"pairs_without": PEOPLE - 1}
    pairs.regions[:] = 0
    assert set(measured(swaps, pairs)) == {"region_error_outside"}


def test_lists_without_regions_say_why():
    metric, device = METRICS["region_errors"], torch.device("cpu")
    assert "regions of the exact swaps are unknown" in metric.lacks(None, toy_pairs(), device)
    assert "exact swaps are unknown, as for all photographs" in metric.lacks(
        None, changed(toy_pairs(), exact=None), device
    )
    assert metric.lacks(None, with_regions(), device) == ""
    assert measured(toy_pairs().exact, toy_pairs()) == {}
