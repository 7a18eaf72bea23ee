"""Landmarks smoothed over time: known answers for a still face, a moving one, a cut."""

import numpy as np
import pytest
from helpers.portraits import PLACES

from distill.swap.smoothing import Smoother

EYES = 40.0  # pixels between the eyes
FACE = PLACES / np.hypot(*(PLACES[1] - PLACES[0])) * EYES
GREY = np.full((90, 160, 3), 128, np.uint8)


def smoothed(places, times, images=None):
    """The one face of each frame, (n, 5, 2), through a new smoother."""
    smoother = Smoother()
    images = images if images is not None else [GREY] * len(places)
    return np.array([smoother([p], t, i)[0] for p, t, i in zip(places, times, images, strict=True)])


def moving(speed, times):
    """A face that moves to the right by `speed` eye distances per second."""
    return FACE + np.stack([speed * EYES * times, 0 * times], 1)[:, None]


@pytest.mark.parametrize("rate", [25, 30, 60])
@pytest.mark.parametrize("noise", [0.005, 0.01, 0.02])
def test_a_still_face_trembles_a_third_as_much(rate, noise):
    """Noise of 0.5 to 2 % of the eyes' distance: the places deviate less than half as far, and move from frame to frame
    by less than a third."""
    times = np.arange(400) / rate
    seen = FACE + np.random.default_rng(0).normal(0, noise * EYES, (400, 5, 2))
    made = smoothed(seen, times)[50:]
    assert made.std(0).mean() < 0.5 * seen[50:].std(0).mean()
    assert np.abs(np.diff(made, axis=0)).mean() < 0.33 * np.abs(np.diff(seen[50:], axis=0)).mean()
    assert np.abs(made.mean(0) - FACE).max() < 0.3 * noise * EYES, "it stays where it is"


@pytest.mark.parametrize("rate", [15, 30, 60])
@pytest.mark.parametrize("speed", [0.2, 1, 5, 10])
def test_steady_motion_lags_by_less_than_a_thirtieth_of_the_eyes_distance(rate, speed):
    times = np.arange(3 * rate) / rate
    lag = moving(speed, times) - smoothed(moving(speed, times), times)
    assert 0 < lag[2 * rate :, :, 0].max() / EYES < 1 / 30
    assert lag[:, :, 0].max() / EYES < 0.15, "nor far when it starts at once"
    assert np.abs(lag[..., 1]).max() < 1e-9


def test_the_times_of_frames_count_and_not_their_number():
    """Motion at a steady speed with a varying rate: the same lag as at a steady rate."""
    steps = np.random.default_rng(1).choice([1 / 60, 1 / 30, 1 / 12], 200)
    times = np.cumsum(steps)
    lag = (moving(2, times) - smoothed(moving(2, times), times))[100:, :, 0] / EYES
    assert 0 < lag.min() and lag.max() < 1 / 30
    wrong = smoothed(moving(2, times), np.arange(200) / 30)
    assert np.abs(moving(2, times) - wrong)[100:, :, 0].max() / EYES > 1.2 * lag.max()


@pytest.mark.parametrize(
    "after", [FACE + EYES * np.array([1.1, 0]), FACE * 1.6, FACE + 300], ids=["jump", "larger", "elsewhere"]
)
def test_a_face_that_jumps_is_not_dragged_along(after):
    places = [FACE] * 10 + [after] * 10
    assert (smoothed(places, np.arange(20) / 25)[10:] == after).all()


def test_nothing_is_dragged_over_a_cut_where_another_face_is_nearly_at_the_same_place():
    after = FACE + EYES * np.array([0.3, 0.1])
    images = [GREY] * 10 + [GREY + 60] * 10
    assert (smoothed([FACE] * 10 + [after] * 10, np.arange(20) / 25, images)[10:] == after).all()
    dragged = smoothed([FACE] * 10 + [after] * 10, np.arange(20) / 25)[10]
    assert (dragged != after).all(), "without a cut it is one face that moves"
    other = [GREY] * 10 + [GREY[:80]] * 10
    assert (smoothed([FACE] * 10 + [after] * 10, np.arange(20) / 25, other)[10:] == after).all()


def test_a_lost_face_a_pause_and_a_time_that_runs_back_start_anew():
    near = FACE + 4
    for frames in (
        [([FACE], 0.0), ([], 0.04), ([near], 0.08)],
        [([FACE], 0.0), ([near], 0.6)],
        [([FACE], 1.0), ([near], 0.0)],
        [([FACE], 1.0), ([near], 1.0)],
    ):
        smoother = Smoother()
        made = [smoother(found, time, GREY) for found, time in frames]
        assert (made[-1][0] == near).all()


def test_each_of_several_faces_keeps_its_own_track_whatever_their_order():
    rng = np.random.default_rng(3)
    smoother, places = Smoother(), [FACE, FACE + (200, 10), FACE * 0.5 + (400, 80)]
    for frame in range(60):
        order = rng.permutation(3)
        seen = [places[i] + rng.normal(0, 0.3, (5, 2)) for i in order]
        made = smoother(seen, frame / 25, GREY)
        for i, smooth in zip(order, made, strict=True):
            assert np.abs(smooth - places[i]).max() < (1.5 if frame < 20 else 0.9)
    assert smoother([], 3.0, GREY) == []


def test_two_faces_do_not_share_a_track():
    """One appears beside another, nearer than a jump: it begins where it was found."""
    smoother, new = Smoother(), FACE + EYES * np.array([0.9, 0])
    smoother([FACE], 0.0, GREY)
    made = smoother([new, FACE + 0.5], 0.04, GREY)
    assert (made[0] == new).all() and (made[1] != FACE + 0.5).all()
