"""eval.intervals: intervals by pairs, people and seeds, and paired differences, against cases computed by hand."""

import numpy as np
import pytest
from scipy import stats

from eval.intervals import FEWEST, bootstrap, difference, protocol, student, welch

EVERYBODY_ELSE = np.arange(12)


def test_people_are_drawn_with_all_their_pairs():
    """Of two people with values 0 and 3, 3, 3 the draws are 0, (0 + 9) / 4 and 3."""
    values, person = np.array([0.0, 3, 3, 3]), np.array([7, 4, 4, 4])
    assert bootstrap(values, [person]) == (0, 3)
    # Pairs that repeat a person exactly say nothing new: the interval is that of the people alone.
    people = np.random.default_rng(0).normal(size=20)
    assert bootstrap(np.repeat(people, 5), [np.repeat(np.arange(20), 5)]) == pytest.approx(bootstrap(people))
    low, high = bootstrap(np.repeat(people, 5))
    assert high - low < 0.6 * np.ptp(bootstrap(people))


def test_the_wider_of_source_and_target_people_counts():
    people = np.random.default_rng(1).normal(size=10)
    values, tens, ones = np.repeat(people, 10), np.repeat(np.arange(10), 10), np.tile(np.arange(10), 10)
    by_tens, by_ones = bootstrap(values, [tens]), bootstrap(values, [ones])
    assert np.ptp(by_tens) > 0.5 and np.ptp(by_ones) == pytest.approx(0)
    assert bootstrap(values, [tens, ones]) == bootstrap(values, [ones, tens]) == by_tens


@pytest.mark.parametrize("effect", ["source", "target"])
def test_intervals_by_people_cover_where_people_differ(effect):
    """Of 100 lists of 160 pairs of 20 people: how often the interval holds the true mean, 0."""
    rng, covered = np.random.default_rng(2), {"pairs": 0, "people": 0}
    for _ in range(100):
        source = np.repeat(np.arange(20), 8)
        target = (source + rng.integers(1, 20, size=160)) % 20
        values = rng.normal(size=20)[source if effect == "source" else target] + rng.normal(size=160)
        for unit, groups in (("pairs", ()), ("people", (source, target))):
            low, high = bootstrap(values, groups)
            covered[unit] += low <= 0 <= high
    assert covered["people"] >= 85 and covered["pairs"] <= 75


def test_too_few_units_have_no_interval():
    assert bootstrap(np.ones(1)) is None and bootstrap(np.ones(3), [np.zeros(3)]) is None
    assert bootstrap(np.ones(3), [np.arange(3), np.zeros(3)]) is None
    assert student([1.0]) is None and welch([1.0], [1.0, 2.0]) is None


def test_seeds_by_students_t():
    """Of 1, 2, 3: mean 2, deviation 1, t of two degrees of freedom 4.3027."""
    half = 4.3027 / 3**0.5
    assert student([1, 2, 3]) == pytest.approx((2 - half, 2 + half), abs=1e-4)
    a, b = [1.0, 2.0, 3.5], [4.0, 7.0]
    theirs = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert welch(a, b) == pytest.approx((theirs.low, theirs.high))
    assert welch([2.0, 2.0], [1.0, 1.0, 1.0]) == (1, 1)


def test_a_difference_by_hand():
    """Twelve differences, eleven of 1 and one of -1. A draw has the -1 k times, k of the binomial distribution B(12,
    1/12): P(k > 3) = 1.4 %, P(k > 2) = 7 %, so the 2.5 % quantile is k = 3, the mean 1 - 2 x 3 / 12, and the 97.5 %
    quantile is k = 0."""
    reference = np.random.default_rng(3).normal(0, 100, 12)
    paired = np.ones(12)
    paired[5] = -1
    found = difference(reference + paired, reference, [EVERYBODY_ELSE, EVERYBODY_ELSE])
    assert found.value == pytest.approx(10 / 12)
    assert found.intervals["pairs"] == pytest.approx((0.5, 1)) and found.intervals["people"] == pytest.approx((0.5, 1))
    assert found.sure
    # The values of both vary 100 times more than their difference: unpaired, nothing would be sure.
    low, high = bootstrap(reference)
    assert low < 0 < high and high - low > 50


def test_a_difference_that_is_not_sure_by_hand():
    """Six differences, five of 1 and one of -1: P(k > 3) = 0.9 %, P(k > 2) = 6 %, so the lower end is 1 - 2 x 3 / 6."""
    paired, labels = np.array([1.0, 1, 1, 1, 1, -1]), np.arange(6)
    found = difference(paired, np.zeros(6), [labels, labels])
    assert found.intervals["pairs"] == (0, 1) and not found.sure
    nothing = difference(paired, paired, [labels, labels])
    assert nothing.value == 0 and nothing.intervals["pairs"] == (0, 0) and not nothing.sure


def test_a_difference_of_few_people_is_not_sure():
    """Twelve pairs that all agree, but of two source people."""
    two = np.arange(12) % 2
    found = difference(np.ones(12), np.zeros(12), [two, EVERYBODY_ELSE])
    assert found.intervals == {"pairs": (1, 1), "people": None} and not found.sure
    assert found.as_dict() == {"value": 1, "intervals": {"pairs": [1, 1], "people": None}, "sure": False}
    few = np.arange(FEWEST - 1)
    assert not difference(np.ones(len(few)), np.zeros(len(few)), [few, few]).sure


def test_a_difference_is_over_the_pairs_that_both_have():
    a, b = np.arange(12.0), np.arange(12.0) - 2
    a[0], b[1] = np.nan, np.nan
    assert difference(a, b, [EVERYBODY_ELSE, EVERYBODY_ELSE]).value == 2
    assert difference(a * np.nan, b, [EVERYBODY_ELSE, EVERYBODY_ELSE]) is None
    with pytest.raises(ValueError, match="same pairs, got 12 and 11"):
        difference(a, b[1:], [EVERYBODY_ELSE, EVERYBODY_ELSE])


def test_the_protocol_says_how_the_interval_is_made():
    facts = protocol("people")
    assert facts["unit"] == "people" and "source people, then target people" in facts["drawn"]
    assert (facts["level_pct"], facts["resamples"], facts["seed"]) == (95, 1000, 0) and "bootstrap" in facts["method"]
    assert protocol("pairs") != facts != protocol("photographs")
