"""The window of a video around its face, and which swapped videos fit it."""

from fractions import Fraction

import numpy as np
import pytest
from helpers.portraits import PLACES
from helpers.videos import write_film
from PIL import Image

pytest.importorskip("cv2", reason='pip install -e ".[video]"')

from distill.video import windows
from swapcore.images import DataError

FACE = 64  # pixels of the canonical crop of the face in the frames below


def frame(place, shape=(120, 160), side=FACE, noise=0):
    """A dark frame with one white pixel, which `finder` takes for the upper left corner of a face's crop."""
    image = np.random.default_rng(noise).integers(0, 100, (*shape, 3)).astype(np.uint8)
    if place is not None:
        image[place[1], place[0]] = 255
    return image


def finder(side=FACE):
    def find(image):
        white = np.argwhere(image.min(2) == 255)
        return None if len(white) == 0 else PLACES * side + white[0][::-1]

    return find


def folder(path, frames):
    path.mkdir(parents=True)
    for number, image in enumerate(frames):
        Image.fromarray(image).save(path / f"{number:03d}.png")
    return path


def moving(count=5, **options):
    return [frame((20 + 3 * t, 30 + t), noise=t, **options) for t in range(count)]


def test_the_window_holds_the_face_in_all_frames(tmp_path):
    frames = moving()
    window = windows.find(folder(tmp_path / "v", frames), finder())
    left, top, right, bottom = window.box
    assert left == pytest.approx(20, abs=1) and top == pytest.approx(30, abs=1)
    assert right == pytest.approx(20 + 12 + FACE, abs=2) and bottom == pytest.approx(30 + 4 + FACE, abs=2)
    assert window.size == (bottom - top, right - left) and window.count == 5 and window.joined.all()
    cut = window.changed(lambda time, image: image)
    for t, image in enumerate(frames):
        assert (cut[t].permute(1, 2, 0).numpy() == image[top:bottom, left:right]).all()
        corner = np.array([20 + 3 * t - left, 30 + t - top, 1])
        assert window.to_crop[t].numpy() @ corner == pytest.approx([0, 0], abs=0.01)
        assert window.to_crop[t].numpy() @ (corner + [FACE, FACE, 0]) == pytest.approx([1, 1], abs=0.01)
    assert window.seconds.tolist() == [t / 25 for t in range(5)]


def test_large_faces_are_shrunk_and_borders_are_kept(tmp_path):
    frames = [frame((10 + t, 5), (700, 620), noise=t) for t in range(3)]
    window = windows.find(folder(tmp_path / "v", frames), finder(512))
    left, top, right, bottom = window.box
    assert bottom <= 700 and window.size[0] == round((bottom - top) / 2)
    corner = np.array([(10 - left) / 2, (5 - top) / 2, 1])
    assert window.to_crop[0].numpy() @ (corner + [256, 256, 0]) == pytest.approx([1, 1], abs=0.01)
    close = windows.find(folder(tmp_path / "w", [frame((90, 60), noise=t) for t in range(3)]), finder())
    assert close.box[3] == 120 and close.size[0] < FACE  # the frame ends there


def test_frames_without_a_face_are_left_out_and_a_jump_is_no_neighbour(tmp_path):
    frames = moving(6)
    frames[2] = frame(None)
    frames[5] = frame((90, 30))
    window = windows.find(folder(tmp_path / "v", frames), finder())
    assert window.places.tolist() == [0, 1, 3, 4, 5] and window.count == 6
    assert window.joined.tolist() == [True, False, True, False]
    assert window.seconds.tolist() == [0, 0.04, 0.12, 0.16, 0.2]
    assert len(windows.find(tmp_path / "v", finder(), most=4).places) == 3
    asked = []
    window.changed(lambda time, image: (asked.append(time), image)[1])
    assert len(asked) == 6  # a swapper sees all frames, in their order


def test_every_other_frame_is_no_film_of_half_the_rate(tmp_path):
    frames = moving(9)
    frames[1:6:2] = [frame(None)] * 3
    window = windows.find(folder(tmp_path / "v", frames), finder())
    assert window.places.tolist() == [0, 2, 4, 6, 7, 8] and window.joined.tolist() == [False, False, False, True, True]


def refused(tmp_path, frames):
    with pytest.raises(DataError) as caught:
        windows.find(folder(tmp_path / "v", frames), finder())
    return str(caught.value)


def test_what_has_no_window_is_refused_by_name(tmp_path, monkeypatch):
    assert "v: a face in 2 of 5 frames" in refused(tmp_path / "a", [*moving(2), *[frame(None)] * 3])
    assert "v: frame 2 has another size" in refused(tmp_path / "b", [*moving(2), frame((5, 5), (90, 90))])
    monkeypatch.setattr(windows, "LARGEST", 1000)
    assert "more than 1 GB; measure the first ones with --frames" in refused(tmp_path / "c", moving())
    with pytest.raises(DataError, match="nothing: no such video"):
        windows.find(tmp_path / "nothing", finder())
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no pictures"):
        windows.find(tmp_path / "empty", finder())
    (tmp_path / "text.txt").write_text("no video")
    with pytest.raises(DataError, match="text.txt: not a video by its ending"):
        windows.find(tmp_path / "text.txt", finder())


def test_a_damaged_video_is_refused_by_name(tmp_path):
    write_film(tmp_path / "v.mp4", moving())
    content = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="v.mp4: not a readable video"):
        windows.find(tmp_path / "v.mp4", finder())


@pytest.fixture
def target(tmp_path):
    return windows.find(folder(tmp_path / "target", moving()), finder())


def test_a_swap_of_the_same_frames_fits(tmp_path, target):
    swap, note = target.of_swap(folder(tmp_path / "swap", [255 - image for image in moving()]), whole=True)
    assert (swap == 255 - target.changed(lambda _, image: image)).all() and note == ""


def test_a_swap_of_another_size_is_fitted_or_refused(tmp_path, target):
    double = [np.repeat(np.repeat(image, 2, 0), 2, 1) for image in moving()]
    swap, note = target.of_swap(folder(tmp_path / "double", double), whole=True)
    assert (swap == target.changed(lambda _, image: image)).all()
    assert note == "double: 320 x 240 pixels, the target 160 x 120: resized"
    swap, note = target.of_swap(folder(tmp_path / "even", [image[:-1, :-1] for image in moving()]), whole=True)
    assert (swap == target.changed(lambda _, image: image)).all() and "missing line" in note
    with pytest.raises(DataError, match="crop: 64 x 64 pixels, the target 160 x 120: another shape"):
        target.of_swap(folder(tmp_path / "crop", [image[:64, :64] for image in moving()]), whole=True)


def test_a_swap_of_another_length_is_refused(tmp_path, target):
    short, long = (folder(tmp_path / str(n), moving(n)) for n in (4, 7))
    with pytest.raises(DataError, match="4: 4 frames, but .*target has 5; .*--frames 4 measures"):
        target.of_swap(short, whole=True)
    with pytest.raises(DataError, match="7: 7 frames, but .*target has 5; .*--frames 5 measures"):
        target.of_swap(long, whole=True)
    assert len(target.of_swap(long, whole=False)[0]) == 5  # as with --frames 5
    with pytest.raises(DataError, match="has 5 or more"):
        target.of_swap(short, whole=False)


def test_a_swap_of_another_rate_is_refused(tmp_path):
    pytest.importorskip("av", reason='pip install -e ".[video]"')
    frames = [frame(None, (64, 64), noise=t) for t in range(6)]
    places = iter([(2 * t, t) for t in range(6)])

    def find(image):
        return PLACES * 40 + next(places)

    write_film(tmp_path / "target.mp4", frames)
    write_film(tmp_path / "same.mkv", frames, [1000 + 40 * t for t in range(6)])  # begins later
    write_film(tmp_path / "slow.mp4", frames, [50 * t for t in range(6)])
    window = windows.find(tmp_path / "target.mp4", find)
    assert np.diff(window.times) == pytest.approx(0.04)
    assert len(window.of_swap(tmp_path / "same.mkv", whole=True)[0]) == 6
    with pytest.raises(DataError, match="slow.mp4: another frame rate .*frame 5 is shown after 0.250 s, not 0.200 s"):
        window.of_swap(tmp_path / "slow.mp4", whole=True)


def test_uneven_times_are_those_of_the_file(tmp_path):
    pytest.importorskip("av", reason='pip install -e ".[video]"')
    ticks, places = [0, 33, 66, 100, 171, 204], iter([(t, t) for t in range(6)])
    write_film(tmp_path / "v.mp4", [frame(None, (64, 64), noise=t) for t in range(6)], ticks, Fraction(1, 1000))
    window = windows.find(tmp_path / "v.mp4", lambda image: PLACES * 40 + next(places))
    assert window.seconds == pytest.approx([tick / 1000 for tick in ticks])
