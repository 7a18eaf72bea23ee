"""The same swaps by several definitions: the definitions themselves, on pairs that are known by hand."""

import pytest
import torch
from conftest import ROOT, module_of
from helpers.toy_pairs import ESTIMATORS, PEOPLE, changed, toy_pairs

from eval.evaluation import Evaluation
from eval.pairs import merged
from swapcore.files import read_json


@pytest.fixture(scope="module")
def definitions():
    return module_of(ROOT / "experiments" / "definitions.py")


def top1(pairs, swaps):
    return Evaluation(pairs, ESTIMATORS).measure("swaps", ["id_retrieval"], swaps=swaps)["id_retrieval_top1_pct"].value


def test_people_under_two_names_cost_their_swaps_until_they_are_merged(definitions):
    pairs = toy_pairs()
    double, groups = definitions.twice(pairs)
    assert len(double.gallery) == PEOPLE + 4 and [group[0] for group in groups] == [7, 6, 5, 4]
    assert top1(pairs, pairs.exact) == 100 and top1(double, pairs.exact) == 50, "an equal cosine is a miss"
    assert top1(merged(double, groups), pairs.exact) == 100


def test_a_smaller_gallery_keeps_its_own_pairs(definitions):
    part = definitions.of_first(toy_pairs(), 3)
    assert part.gallery_person.tolist() == [7, 6, 5] and sorted(part.source_person.tolist()) == [5, 6, 7]


def test_mixtures_keep_their_share(definitions):
    pairs = changed(toy_pairs(), target=toy_pairs().target // 2)
    found = definitions.mixtures(pairs)
    assert torch.equal(found["exact swap"], pairs.exact)
    half = (pairs.target.float() + pairs.exact.float()) / 2
    assert (found["50 % of it"].float() - half).abs().max() <= 0.5


def test_a_wider_crop_and_a_mask_change_what_is_read(definitions):
    images = torch.linspace(-1, 1, 32).expand(1, 3, 32, 32)
    wide = definitions.wider(images)
    assert wide.shape == images.shape and wide[0, 0, 0, 0] == wide[0, 0, 0, 1], "the border is repeated"
    assert wide[0, 0, 9, 16] == pytest.approx(float(images[0, 0, 9, 16]), abs=0.05)
    face = definitions.masked(toy_pairs())(torch.ones(2, 3, 32, 32))
    assert face[0, 0, 0, 0] == 0 and face[0, 0, 16, 16] == 1


def test_the_table_of_the_page_holds_the_stored_values():
    stored = read_json(ROOT / "experiments" / "results" / "definitions" / "definitions.json")["values"]
    page = (ROOT / "docs" / "protocols.md").read_text()
    for name, row in stored["id_retrieval_top1_pct"].items():
        assert f"| {name} | {' | '.join(f'{value:.1f}' for value in row.values())} |" in page
