"""The value of fooling_gap: the cosine by the encoder that trained minus that by the recogniser, per pair."""

from dataclasses import replace

import pytest
import torch
from helpers.toy_pairs import ESTIMATORS, PEOPLE, RECOGNISER, rendered, toy_pairs

from eval import METRICS
from eval.estimators import Estimator
from eval.evaluation import Evaluation
from eval.sanity import copy_source


def fooled(images):
    """The recogniser's reading; but where the second row's first pixel is lit, the person of the second row."""
    second = torch.nn.functional.normalize(images[:, 0, 1, :PEOPLE] + 1)
    return torch.where(images[:, 1, 1, :1] > 0.9, second, RECOGNISER(images))


TRAINED = Estimator(fooled, "fooled", "none: exact", crop="two rows")
BOTH = replace(ESTIMATORS, trained_encoder=TRAINED)


def with_pattern(pairs, rows):
    """Targets with a mark that shows the source's person to the fooled encoder alone."""
    swaps = pairs.target.clone()
    swaps[rows, 0, 1], swaps[rows, 1, 1, 0] = pairs.source[rows, 0, 0], 255
    return swaps


@pytest.fixture(scope="module")
def pairs():
    pairs = toy_pairs()
    pairs.target[:, 1, 1, 0] = pairs.source[:, 1, 1, 0] = 0  # unlit
    return pairs


def measured(pairs, swapper, estimators=BOTH):
    return Evaluation(pairs, estimators, batch_size=3).measure(swapper, ["fooling_gap"])["fooling_gap"]


def test_the_gap_is_what_the_trained_encoder_sees_and_the_other_does_not(pairs):
    rows = [0, 3, 4]
    found = measured(pairs, rendered(with_pattern(pairs, rows)))
    assert found.value == pytest.approx(3 / PEOPLE) and (found.unit, found.better) == ("cosine", "lower")
    assert found.each.tolist() == pytest.approx([float(i in rows) for i in range(PEOPLE)], abs=1e-6)
    assert found.details == {"trained_encoder": pytest.approx(3 / PEOPLE), "recogniser": pytest.approx(0)}
    assert measured(pairs, copy_source).value == pytest.approx(0, abs=1e-6)
    assert measured(pairs, copy_source).details["recogniser"] == pytest.approx(1)


def test_the_protocol_names_both_networks(pairs):
    protocol = measured(pairs, copy_source).protocol
    assert (protocol["recogniser"]["name"], protocol["recogniser"]["crop"]) == ("first row", "whole frame")
    assert (protocol["trained_encoder"]["name"], protocol["trained_encoder"]["crop"]) == ("fooled", "two rows")
    assert protocol["pairs_hash"] == pairs.hash


def test_both_networks_are_needed(pairs):
    assert METRICS["fooling_gap"].roles == ("trained_encoder", "recogniser") and METRICS["size_mb"].roles == ()
    assert METRICS["pose_error"].roles == ("pose",)
    with pytest.raises(ValueError, match=r"no trained_encoder estimator: give Estimators\(trained_encoder=...\)"):
        measured(pairs, copy_source, ESTIMATORS)
    longer = replace(BOTH, trained_encoder=replace(TRAINED, network=lambda images: 2 * RECOGNISER(images)))
    with pytest.raises(ValueError, match="trained_encoder 'fooled' .* not of unit length"):
        measured(pairs, copy_source, longer)
