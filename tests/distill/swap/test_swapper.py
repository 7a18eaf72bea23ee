"""The swapper between its parts: the student's own mask, and landmarks smoothed by the times of frames."""

import numpy as np
import pytest
import torch

pytest.importorskip("cv2", reason='pip install -e ".[video]"')
pytest.importorskip("av", reason='pip install -e ".[video]"')

from fractions import Fraction

from conftest import SHARED, needs_shared
from helpers.odd_pictures import animation
from helpers.portraits import PLACES, portraits
from helpers.student_files import SIDE, student_file
from helpers.videos import flat, write_film
from PIL import Image

from distill import config
from distill.swap import __main__ as command
from distill.swap import swapper as swappers
from distill.swap.photograph import swap_frames
from distill.swap.smoothing import Smoother
from distill.video import frames as video
from swapcore.images import DataError


class Finder:
    """A detector that finds the places that it is given, one after another."""

    def __init__(self, *places):
        self.places = list(places)

    def all(self, image):
        return [self.places.pop(0)]

    def __call__(self, image):
        return self.all(image)[0]


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A function from landmarks, one face a frame, to a swapper of them; and the calls of `lay_back`."""
    Image.fromarray(portraits(1, 128)[0][0]).save(tmp_path / "source.png")
    student, calls, lay_back = student_file(tmp_path), [], swappers.lay_back
    monkeypatch.setattr(swappers, "lay_back", lambda *inputs: calls.append(inputs) or lay_back(*inputs))

    def make(places, **options):
        finder = Finder(PLACES * 128, *places)
        return swappers.Swapper(student, config.default("swap"), finder, tmp_path / "source.png", 1, **options)

    return make, calls


def test_landmarks_are_smoothed_by_the_times_of_frames(made):
    make, calls = made
    places = PLACES * 200 + 20 + np.random.default_rng(0).normal(0, 1, (12, 5, 2))
    times, image = np.cumsum([0.02, 0.05, 0.1] * 4), np.full((260, 260, 3), 128, np.uint8)
    smoother = Smoother()
    wanted = [smoother([face], time, image)[0] for face, time in zip(places, times, strict=True)]
    for smooth, expected in ((True, wanted), (False, places)):
        swapper = make(places, smooth=smooth)
        calls.clear()
        for time in times:
            swapper.at(float(time))
            swapper(image)
        assert np.array_equal([call[1] for call in calls], expected)
    assert np.std(wanted, 0).mean() < 0.8 * np.std(places, 0).mean()


def test_a_student_gives_its_own_mask_and_an_exported_one_none(made):
    make, calls = made
    swapper, image = make([PLACES * 100] * 2), np.full((100, 100, 3), 128, np.uint8)
    swapper(image)
    own = calls[-1][4]
    assert own.shape == (SIDE, SIDE) and 0 < own.min() <= own.max() < 1
    swapper.network = lambda source, target: -target  # what a session of onnxruntime is to the swapper
    assert (swapper(image) == image).all(), "a constant tint is matched away"
    assert calls[-1][4] is None


def test_a_swap_that_is_no_picture_is_an_error(made):
    make, _ = made
    swapper = make([PLACES * 100])
    swapper.network = lambda source, target: target * torch.nan
    with pytest.raises(ValueError, match="NaN"):
        swapper(np.full((100, 100, 3), 128, np.uint8))


def test_the_clock_of_a_film_tells_the_times_of_its_frames(tmp_path, monkeypatch):
    ticks = [0, 33, 400, 471]
    write_film(tmp_path / "in.mp4", [flat((90, 90, 90))] * 4, ticks)
    events = []

    def converted():
        events.clear()
        change = lambda image: events.append("frame") or image  # noqa: E731
        list(video.convert(tmp_path / "in.mp4", tmp_path / "out.mp4", change, clock=events.append))
        assert events[1::2] == ["frame"] * 4, "each time comes before its frame"
        return events[::2]

    assert converted() == pytest.approx([tick / 1000 for tick in ticks])
    decode, rate = video._decode, Fraction(4, 1)

    def without_times(reader, film, source):
        nonlocal rate
        rate = film.average_rate
        for frame in decode(reader, film, source):
            frame.pts = None
            yield frame

    monkeypatch.setattr(video, "_decode", without_times)
    assert converted() == pytest.approx([float(number / rate) for number in range(4)])


def test_the_clock_of_an_animation_tells_the_times_of_its_frames(tmp_path):
    animation(tmp_path / "in.gif", 4, duration=(40, 80))
    times = []
    swap_frames(tmp_path / "in.gif", tmp_path / "out.gif", lambda image: image, times.append)
    assert times == pytest.approx([0, 0.04, 0.12, 0.16])


@needs_shared
@pytest.mark.parametrize(
    ("target", "options", "smooth"),
    [
        ("a.png", [], False),
        ("a.mp4", [], True),
        ("a.mp4", ["--no-smooth"], False),
        ("a.gif", [], False),
        ("a.gif", ["--smooth"], True),
    ],
)
def test_videos_are_smoothed_and_photographs_are_not(tmp_path, monkeypatch, capsys, target, options, smooth):
    student = student_file(tmp_path)
    for name in ("source.png", target):
        (tmp_path / name).write_bytes(b"")

    def made(*inputs):
        raise DataError(f"smooth is {inputs[-1]}")

    monkeypatch.setattr(command, "Swapper", made)
    paths = [tmp_path / "source.png", tmp_path / target, "-o", tmp_path / f"out{target[1:]}", "--student", student]
    assert command.main([*map(str, paths), *options, "--weights", str(SHARED / "weights")]) == 2
    assert f"smooth is {smooth}" in capsys.readouterr().err
