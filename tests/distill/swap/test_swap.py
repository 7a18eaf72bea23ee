"""The command that swaps faces in photographs and videos, on synthetic people; and what it refuses."""

import tracemalloc

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from PIL import Image

pytest.importorskip("cv2", reason='pip install -e ".[video]"')
pytest.importorskip("av", reason='pip install -e ".[video]"')

import av
import cv2
from helpers.odd_pictures import turned
from helpers.portraits import PLACES, portraits
from helpers.student_files import student_file
from helpers.videos import beep, onset, times, write_film, write_video

from distill.data import faces
from distill.swap import __main__ as swap
from distill.video import frames as video


def test_a_crop_that_is_laid_back_changes_nothing_but_its_face():
    image, _ = portraits(1, 256)
    scene = np.full((400, 500, 3), 80, np.uint8)
    scene[50:306, 100:356] = image[0]
    points = PLACES * 256 + (100, 50)
    crop = faces.align(scene, points, 256)
    assert np.abs(faces.paste(crop, scene, points).astype(int) - scene).max() <= 2
    white = faces.paste(np.full_like(crop, 255), scene, points).astype(int)
    assert (white[160:200, 210:250] == 255).all()
    changed = np.abs(white - scene).max(2) > 0
    assert not changed[:45].any() and not changed[:, :95].any() and not changed[:, 361:].any() and changed.any()
    flat = np.full_like(scene, 80)
    across = faces.paste(np.full_like(crop, 255), flat, points)[178, :, 0].astype(int)
    assert across.max() == 255 and np.abs(np.diff(across)).max() < 15  # no hard edge where the crop ends


def pasted_whole(crop, image, points):
    """What `faces.paste` is to give, computed on the whole picture."""
    size = len(crop)
    to_image = cv2.invertAffineTransform(faces._between_pixel_centres(faces._to_crop(points, size)))
    distance = np.abs((np.arange(size) + 0.5) / size * 2 - 1)
    inside = 1 - np.maximum(np.hypot(distance[:, None], distance) / 1.12, np.maximum(distance[:, None], distance))
    mask = np.clip(inside / 0.24, 0, 1).astype(np.float32)
    shape = image.shape[1::-1]
    over = cv2.warpAffine(crop, to_image, shape, borderMode=cv2.BORDER_REPLICATE).astype(float)
    weight = cv2.warpAffine(mask * mask * (3 - 2 * mask), to_image, shape)[..., None]
    return (image + weight * (over - image)).round()


@pytest.mark.parametrize(
    ("scale", "turn", "place"),
    [(1, 0, (100, 50)), (0.3, 0.5, (222, 111)), (2.5, -0.7, (-90, -60)), (1, 0.2, (480, 330)), (1, 0, (4000, -900))],
)
def test_a_crop_is_laid_on_its_rectangle_as_on_the_whole_picture(scale, turn, place):
    """Also where it lies across the border, or outside."""
    random = np.random.default_rng(0)
    scene, crop = (random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in ((400, 500), (128, 128)))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points, before = PLACES * 150 * scale @ rotation.T + place, scene.copy()
    made = faces.paste(crop, scene, points)
    difference = np.abs(made - pasted_whole(crop, scene, points))
    assert difference.max() <= 4 and difference.mean() < 0.05  # OpenCV rounds places to 1/32 pixel
    assert (scene == before).all() and (made != before).any() == (place[0] < 1000)


def test_pasting_into_a_large_picture_needs_little_more_than_its_copy():
    scene, crop = np.full((3000, 4000, 3), 90, np.uint8), np.full((64, 64, 3), 200, np.uint8)
    tracemalloc.start()
    try:
        faces.paste(crop, scene, PLACES * 200 + 900)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert scene.nbytes <= peak < 1.2 * scene.nbytes


def test_a_face_in_a_very_wide_picture():
    """Places above 32,767, which some of OpenCV's tables cannot hold."""
    scene = np.full((300, 40000, 3), 90, np.uint8)
    points = PLACES * 200 + (39000, 50)
    scene[50:250, 39000:39200] = portraits(1, 200)[0][0]
    crop = faces.align(scene, points, 128)
    alone = faces.align(scene[:, 38000:], points - (38000, 0), 128)
    assert np.abs(crop.astype(int) - alone).max() <= 2
    white = faces.paste(np.full_like(crop, 255), scene, points)
    assert (white[140:160, 39090:39110] == 255).all() and (white[:, :38900] == 90).all()


INNER = slice(120, 260), slice(480, 580)  # of the second face of `scene`


@pytest.fixture
def scene(tmp_path):
    """A source, a photograph of two people, the second the larger, and a student."""
    images, _ = portraits(3, 256, seed=21)
    Image.fromarray(images[0]).save(tmp_path / "source.png")
    two = np.full((320, 700, 3), 90, np.uint8)
    two[30:286, 20:276] = images[1]
    two[10:310, 380:680] = np.asarray(Image.fromarray(images[2]).resize((300, 300)))
    Image.fromarray(two).save(tmp_path / "two.png")
    Image.fromarray(images[1]).save(tmp_path / "first.png")
    return tmp_path, two, student_file(tmp_path)


def run(folder, *arguments):
    student = [] if "--student" in arguments else ["--student", str(folder / "student.safetensors")]
    return swap.main([*map(str, arguments), *student, "--weights", str(SHARED / "weights")])


@needs_shared
@pytest.mark.parametrize(
    ("options", "left", "right"),
    [
        ([], False, True),
        (["--faces", "all"], True, True),
        (["--faces", "2"], True, True),
        (["--reference"], True, False),
    ],
)
def test_which_faces_are_swapped(scene, options, left, right):
    folder, before, _ = scene
    options = [*options, folder / "first.png"] if options == ["--reference"] else options
    assert run(folder, folder / "source.png", folder / "two.png", "-o", folder / "out.png", *options) == 0
    with Image.open(folder / "out.png") as picture:
        assert "AI-generated" in picture.text["Comment"] and "trainedAlgorithmicMedia" in str(picture.info)
        after = np.asarray(picture)
    change = (after != before).any(2)
    assert (change[:, :330].any(), change[:, 330:].any()) == (left, right)
    inner = np.zeros_like(change)
    inner[80:290, 60:236] = inner[75:300, 430:635] = True
    assert not change[~inner].any(), "hair, neck and background keep their bytes"


@needs_shared
@pytest.mark.parametrize("name", ["out.jpg", "out.webp"])
def test_other_formats_say_it_too(scene, name):
    folder, _, _ = scene
    assert run(folder, folder / "source.png", folder / "two.png", "-o", folder / name) == 0
    with Image.open(folder / name) as picture:
        assert b"trainedAlgorithmicMedia" in picture.info["xmp"]


@needs_shared
def test_a_photograph_of_a_phone_is_swapped_upright(scene):
    """It lies sideways in the file; all inputs are read so."""
    folder, before, _ = scene
    turned(folder / "phone.png", before, 6)
    turned(folder / "side.png", np.asarray(Image.open(folder / "source.png")), 8)
    assert run(folder, folder / "source.png", folder / "two.png", "-o", folder / "a.png") == 0
    assert run(folder, folder / "side.png", folder / "phone.png", "-o", folder / "b.png") == 0
    a, b = (np.asarray(Image.open(folder / f"{name}.png")) for name in "ab")
    assert a.shape == b.shape and (a == b).all() and (a != before).any()


@needs_shared
def test_a_video_keeps_its_sound_and_says_what_it_is(scene, tmp_path):
    folder, two, _ = scene
    silent, target, out = (folder / f"{name}.mp4" for name in ("silent", "target", "out"))
    write_video(silent, [two] * 5, fps=10)
    with av.open(str(silent)) as read, av.open(str(target), "w") as written:
        pictures, sound = written.add_stream_from_template(read.streams.video[0]), written.add_stream("aac", rate=16000)
        for packet in read.demux(read.streams.video[0]):
            if packet.dts is not None:
                packet.stream = pictures
                written.mux(packet)
        tone = (0.3 * np.sin(np.arange(8000) / 6)).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        written.mux(sound.encode(frame))
        written.mux(sound.encode())
    assert run(folder, folder / "source.png", target, "-o", out) == 0
    with av.open(str(out)) as made, av.open(str(target)) as was:
        assert "AI-generated" in made.metadata["comment"] and "trainedAlgorithmicMedia" in made.metadata["description"]
        packets = [[bytes(p) for p in c.demux(c.streams.audio[0]) if p.size] for c in (made, was)]
    assert packets[0] == packets[1] and packets[0]
    frames = video.read(out, range(9))
    assert len(frames) == 5 and frames[0].shape == two.shape
    assert np.abs(frames[2].astype(int) - two)[INNER].mean() > 3


@needs_shared
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["source.png", "two.png", "-o", "out.mp4"],
            "so OUT must have the ending of a photograph too",
        ),
        (["source.png", "two.txt", "-o", "out.png"], "neither a photograph nor a video by its ending"),
        (["absent.png", "two.png", "-o", "out.png"], "absent.png: no such file"),
        (["grey.png", "two.png", "-o", "out.png"], "grey.png: no face found; the source must show one"),
        (["source.png", "grey.png", "-o", "out.png"], "grey.png: no face found"),
        (["source.png", "two.png", "-o", "out.bmp"], "BMP cannot say"),
        (["source.png", "two.png", "-o", "two.png"], "two.png: would replace an input"),
        (["source.png", "two.png", "-o", "first.png", "--reference", "first.png"], "first.png: would replace an input"),
        (["source.png", "two.png", "-o", "grey.png", "--student", "grey.png"], "grey.png: would replace an input"),
        (["source.png", "two.png", "-o", "out.png", "--student", "two.png"], "expected a student's .safetensors, or"),
        (
            ["source.png", "two.png", "-o", "out.png", "--student", "none.safetensors"],
            "none.safetensors: no such file; docs/photographs.md",
        ),
        (["source.png", "grey.mp4", "-o", "out.mp4"], "no face found in any frame"),
        (["source.png", "text.mp4", "-o", "out.mp4"], "text.mp4: not a readable video"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_no_file(scene, arguments, message, capsys, monkeypatch):
    folder, _, _ = scene
    grey = np.full((200, 200, 3), 128, np.uint8)
    Image.fromarray(grey).save(folder / "grey.png")
    write_video(folder / "grey.mp4", [grey] * 3)
    (folder / "text.mp4").write_text("no video")
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    assert run(folder, *arguments) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ") and message in error
    assert sorted(folder.iterdir()) == before


@needs_shared
@pytest.mark.parametrize("suffix", [".mp4", ".png"])
def test_a_finished_file_stays_where_the_next_target_shows_no_face(scene, suffix, capsys):
    folder, _, _ = scene
    grey, out = folder / f"grey{suffix}", folder / f"out{suffix}"
    if suffix == ".mp4":
        write_video(grey, [np.full((64, 64, 3), 128, np.uint8)] * 3)
    else:
        Image.new("RGB", (64, 64), (128, 128, 128)).save(grey)
    out.write_bytes(b"finished before")
    before = sorted(folder.iterdir())
    assert run(folder, folder / "source.png", grey, "-o", out) == 2
    assert "no face found" in capsys.readouterr().err
    assert out.read_bytes() == b"finished before" and sorted(folder.iterdir()) == before


@pytest.mark.parametrize("faces", ["none", "0", "-1", "²", "٣", "1e3", "nan", "1.5", "", "9" * 30])
def test_another_number_of_faces_is_one_line(faces, capsys):
    with pytest.raises(SystemExit) as ended:
        swap.main(["source.png", "two.png", "-o", "out.png", f"--faces={faces}"])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("error: argument --faces: largest, all, or a number: expected a")
    assert error.count("\n") == 1 and faces in error


@needs_shared
@pytest.mark.parametrize("name", ["phone.mp4", "camera.mov"])
def test_videos_of_phones_and_cameras_come_back_as_they_went_in(scene, name):
    folder, two, _ = scene
    target, out = folder / name, folder / f"out{name[-4:]}"
    ticks, turn, codec = (
        ([0, 33, 400, 471], (270, False), "aac") if name[0] == "p" else ([0, 40, 80, 120], None, "pcm_s16le")
    )
    lying = np.rot90(two) if turn else two
    write_film(target, [np.ascontiguousarray(lying)] * 4, ticks, turn=turn, colours=(1, 1, 1, 1),
               sound=[(codec, beep(0.5, 0.4), 16000, 0)])  # fmt: skip
    assert run(folder, folder / "source.png", target, "-o", out) == 0
    assert times(out) == times(target)
    assert onset(out) == pytest.approx(onset(target), abs=0.002)
    before, after = (video.read(path, [1])[1].astype(int) for path in (target, out))
    assert before.shape == after.shape == two.shape
    change = np.abs(after - before)
    assert change[INNER].mean() > 3 and change[:, :330].mean() <= 2
    with av.open(str(out)) as container:
        frame = next(container.decode(video=0))
    assert (frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries) == (1, 1, 1, 1)
