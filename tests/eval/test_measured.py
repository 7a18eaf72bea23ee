"""eval.measured: the values of all pairs in JSON, and what decides whether two values are comparable."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.toy_pairs import ESTIMATORS, PEOPLE, SIDE, changed, toy_pairs

from eval.evaluation import Evaluation
from eval.intervals import protocol
from eval.measured import Measured, check_column, mean_of, packed, unpacked
from eval.sanity import copy_source, copy_target


def test_the_values_of_all_pairs_survive_json():
    value = mean_of([0.1, 2.0, 3e-9], {"a": 1}, {"b": 2}, where=[True, False, True, True]).with_interval("pairs")
    again = Measured.from_dict(json.loads(json.dumps(value.as_dict(), allow_nan=False)))
    assert np.array_equal(again.each, np.array([0.1, np.nan, 2.0, 3e-9], dtype=np.float32), equal_nan=True)
    assert again.as_dict() == value.as_dict() and again.n == 3 and again.value == pytest.approx(0.7)
    assert again.with_interval("pairs").as_dict() == value.as_dict()
    cost = Measured(1.0, 2)
    assert cost.with_interval("pairs") == cost == Measured.from_dict(cost.as_dict()) and cost.as_dict()["each"] is None
    assert unpacked(packed(np.array([3, -1])), "<i4").tolist() == [3, -1]


def test_every_mean_over_pairs_says_how_its_interval_was_made():
    pairs = toy_pairs()
    metrics = ["id_retrieval", "id_similarity", "pose_error", "expression_error", "exact_match", "background_error"]
    by_unit = {unit: Evaluation(pairs, ESTIMATORS, interval=unit).measure(copy_source, metrics) for unit in protocols()}
    for unit, values in by_unit.items():
        for value in values.values():
            assert value.protocol["interval"] == protocol(unit) and value.interval and len(value.each) == PEOPLE
            assert float(np.nanmean(value.each)) == pytest.approx(value.value, rel=1e-5)


def protocols():
    return ("pairs", "people")


def test_people_who_repeat_widen_the_interval():
    """Four pairs each of two people, of whom one is recognised and one is not."""
    twice = torch.arange(PEOPLE) % 2
    pairs = changed(toy_pairs(), source_person=twice, exact=None)
    swaps = pairs.source.clone()
    swaps[:, :, 0], swaps[:, :, 0, 0] = 0, 255  # all show person 0
    found = {}
    for unit in protocols():
        values = Evaluation(pairs, ESTIMATORS, interval=unit).measure("by hand", ["id_retrieval"], swaps=swaps)
        found[unit] = values["id_retrieval_top1_pct"]
    assert found["pairs"].value == found["people"].value == 50
    assert found["people"].interval == (0, 100) and found["pairs"].interval[0] > 0


def test_pairs_to_which_a_value_does_not_apply_are_empty():
    occluder = torch.zeros(PEOPLE, 1, SIDE, SIDE, dtype=torch.bool)
    occluder[[1, 4]] = True
    pairs = changed(toy_pairs(), occluder=occluder)
    value = Evaluation(pairs, interval="people").measure(copy_target, ["background_error"])["occluder_error"]
    assert value.n == 2 and np.flatnonzero(np.isfinite(value.each)).tolist() == [1, 4] and value.interval == (0, 0)


def test_results_that_say_nothing_of_their_interval_drew_pairs():
    new = mean_of([1.0, 2.0], {}).with_interval("pairs").as_dict()
    old = {**new, "protocol": {}}
    check_column("x", {"old": old, "new": new})
    by_people = {**new, "protocol": {"interval": protocol("people")}}
    with pytest.raises(ValueError, match="x: old and people were measured by different protocols.*interval is"):
        check_column("x", {"old": old, "people": by_people})
    cost = {**new, "interval": None, "protocol": {}}
    check_column("x", {"a": cost, "b": replace(Measured(1.0, 2)).as_dict()})
