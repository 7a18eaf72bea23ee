"""The share of its teacher's error that a student repeats, on constructed swaps."""

import numpy as np
import pytest
import torch
from conftest import ROOT, module_of


@pytest.fixture(scope="module")
def inherited():
    return module_of(ROOT / "experiments" / "inherited.py")


def test_the_fit_finds_the_share_that_is_there(inherited):
    torch.manual_seed(0)
    teacher, unswapped, own = (torch.randn(5, 3, 16, 16) for _ in range(3))
    found = inherited.fit(0.7 * teacher + 0.2 * unswapped, teacher, unswapped)
    assert np.allclose(found, [[0.7, 0.2]] * 5, atol=1e-6)
    found = inherited.fit(own, teacher, unswapped)
    assert np.abs(found).max() < 0.2, "errors that have nothing in common share nothing"


def test_sizes_are_those_of_the_inner_face(inherited):
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2] = True
    assert inherited.size(torch.full((1, 3, 4, 4), 0.5) * mask, mask) == pytest.approx(0.5)


def test_an_interval_holds_its_mean(inherited):
    found = inherited.mean_and_interval(np.random.default_rng(0).normal(0.4, 0.1, 200))
    assert found["interval"][0] < found["mean"] < found["interval"][1] and abs(found["mean"] - 0.4) < 0.03
