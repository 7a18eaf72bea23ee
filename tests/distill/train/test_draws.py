"""Random numbers of many positions at once are NumPy's own."""

import numpy as np
import pytest

from distill.train.draws import Draws

POSITIONS = [0, 1, 2, 77, 99999, 2**31, 2**32 - 1, 2**32, 2**40 + 3, *range(500, 700)]


def both(seed):
    return Draws(seed, POSITIONS), [np.random.default_rng((seed, p)) for p in POSITIONS], np.arange(len(POSITIONS))


@pytest.mark.parametrize("seed", [0, 11, 2**32 - 1, 2**32, 2**70 + 9, 2**130])
def test_seeds_and_positions_of_any_length(seed):
    draws, numpys, rows = both(seed)
    for _ in range(3):
        assert draws.random(rows).tolist() == [rng.random() for rng in numpys]


@pytest.mark.parametrize("high", [1, 2, 3, 1000, 2**31, 2**31 + 1, 3 * 2**30, 2**32 - 1])
def test_whole_numbers_with_their_halves_and_rejections(high):
    """Of 2**31 + 1 numbers nearly half of the draws are rejected; a number of 64 bits between leaves the half alone."""
    draws, numpys, rows = both(3)
    for turn in range(6):
        assert draws.integers(high, rows).tolist() == [int(rng.integers(high)) for rng in numpys]
        if turn == 2:
            assert draws.random(rows).tolist() == [rng.random() for rng in numpys]
        elif turn == 3:
            assert draws.integers(high, rows[:7]).tolist() == [int(rng.integers(high)) for rng in numpys[:7]]


def test_whole_numbers_below_a_limit_of_each_row():
    draws, numpys, rows = both(4)
    high = 1 + rows * 31
    expected = [int(rng.integers(h)) for rng, h in zip(numpys, high, strict=True)]
    assert draws.integers(high, rows).tolist() == expected


def test_two_of_some_and_numbers_in_a_range():
    draws, numpys, rows = both(5)
    sizes = 2 + rows % 5
    expected = [rng.choice(size, 2, replace=False).tolist() for rng, size in zip(numpys, sizes, strict=True)]
    assert draws.two_of(sizes, rows).tolist() == expected
    assert draws.uniform(-1, 1, 7, rows).tolist() == [rng.uniform(-1, 1, 7).tolist() for rng in numpys]
    assert draws.uniform(0.9, 1.1, 1, rows)[:, 0].tolist() == [rng.uniform(0.9, 1.1) for rng in numpys]
    large = np.full(len(rows), 20001)
    assert draws.two_of(large, rows).tolist() == [rng.choice(20001, 2, replace=False).tolist() for rng in numpys]


def test_a_generator_goes_on_where_the_row_is():
    draws, numpys, rows = both(6)
    draws.integers(5, rows), [rng.integers(5) for rng in numpys]
    for own, numpys_own in zip(draws.generators(rows[::50]), numpys[::50], strict=True):
        assert own.integers(9, size=5).tolist() == numpys_own.integers(9, size=5).tolist()
        assert own.random() == numpys_own.random()


def test_no_position_draws_nothing():
    draws = Draws(0, [])
    assert len(draws.random(np.arange(0))) == 0 and len(draws.integers(3, np.arange(0))) == 0
