"""Background and occluder error against values known by hand, and what the renderer says is held before a face."""

import pytest
import torch
from helpers.toy_pairs import ESTIMATORS, PEOPLE, SIDE, changed, rendered, toy_pairs, values_of

from eval.evaluation import Evaluation
from eval.sanity import copy_target
from teachers.exact import ATTRIBUTES, occluder_mask, render, sample_attributes, sample_identities


def masked(**fields):
    mask = torch.zeros(PEOPLE, 1, SIDE, SIDE, dtype=torch.bool)
    mask[:, :, 8:24, 8:24] = True
    return changed(toy_pairs(), mask=mask, **fields)


def test_background_error_counts_what_is_outside_the_inner_face():
    pairs = masked()
    assert values_of(copy_target, pairs, "background_error")["background_error"].value == 0
    swaps = pairs.target.clone()
    swaps[:, :, 8:24, 8:24] = 255 - swaps[:, :, 8:24, 8:24]  # inside: does not count
    values = values_of(rendered(swaps), pairs, "background_error")
    assert values["background_error"].value == 0 and "occluder_error" not in values
    swaps[:4, :, :4, :8] = (swaps[:4, :, :4, :8].int() ^ 1).byte()  # 32 of 1024 - 256 pixels off by one, in half of all
    value = values_of(rendered(swaps), pairs, "background_error")["background_error"]
    assert value.value == pytest.approx(0.5 * 32 / 768 / 127.5)
    assert value.protocol["where"] == "outside the inner face, the targets' own"


def test_without_masks_the_square_is_said():
    value = values_of(copy_target, toy_pairs(), "background_error")["background_error"]
    assert "square" in value.protocol["where"]


def test_occluder_error_is_of_the_pairs_that_have_one():
    occluder = torch.zeros(PEOPLE, 1, SIDE, SIDE, dtype=torch.bool)
    occluder[1, 0, 10:12, 10:12] = True
    occluder[3, 0, 20:24, 20:22] = True
    pairs = masked(occluder=occluder)
    swaps = pairs.target.clone()
    swaps[1, :, 10, 10] = (swaps[1, :, 10, 10].int() + 51).clamp(0, 255).byte()
    change = (swaps[1, :, 10, 10].int() - pairs.target[1, :, 10, 10]).float().mean() / 127.5
    value = values_of(rendered(swaps), pairs, "background_error")["occluder_error"]
    assert value.value == pytest.approx(float(change) / 4 / 2) and value.n == 2
    assert value.details["pairs_without"] == PEOPLE - 2
    with_none = masked(occluder=torch.zeros_like(occluder))
    assert "occluder_error" not in Evaluation(with_none, ESTIMATORS).measure(copy_target, ["background_error"])


def held(kind, n=4):
    """Attributes of n pictures in which something is held: a microphone, fingers or a scarf."""
    attributes = sample_attributes(n, seed=5)
    attributes[:, ATTRIBUTES.index("occluder")] = 1
    attributes[:, ATTRIBUTES.index("occluder_kind")] = kind
    return attributes


@pytest.mark.parametrize("kind", [0.1, 0.5, 0.9])
def test_what_is_held_looks_the_same_whoever_holds_it(kind):
    attributes = held(kind)
    mask = occluder_mask(attributes, 64)
    one, other = (render(sample_identities(4, seed=s), attributes, 64).image for s in (1, 2))
    changes = (one - other).abs().amax(1, keepdim=True)
    assert mask.flatten(1).sum(1).min() > 4
    assert changes[mask].max() < 0.02 < changes[~mask].max()


def test_a_face_without_one_has_no_such_pixel():
    attributes = held(0.5)
    attributes[:, ATTRIBUTES.index("occluder")] = 0
    assert not occluder_mask(attributes, 48).any()
    with pytest.raises(ValueError, match="attributes: expected"):
        occluder_mask(attributes[:, :5], 48)
