"""Face detection by YuNet, alignment, reading of videos, and their errors."""

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from helpers.marks import is_marked
from helpers.odd_pictures import animation, turned
from helpers.portraits import PLACES, portraits
from helpers.videos import write_video
from PIL import Image

pytest.importorskip("cv2", reason='pip install -e ".[video]"')
pytest.importorskip("av", reason='pip install -e ".[video]"')

from distill.data import faces
from distill.video import frames as video
from swapcore.files import sha256
from swapcore.images import DataError, read_made_from


def test_an_aligned_face_has_its_points_in_the_canonical_places():
    """A picture of five coloured spots, turned, scaled and moved, comes out with the spots where they belong."""
    for size, scale, turn in ((256, 1.0, 0.3), (128, 3.1, -0.2), (64, 0.6, 0.0)):
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        points = PLACES * 200 * scale @ rotation.T + 260
        image = np.zeros((1000, 1000, 3), np.uint8)
        for x, y in points.round().astype(int):
            image[y - 6 : y + 6, x - 6 : x + 6] = 255
        crop = faces.align(image, points, size)
        assert crop.shape == (size, size, 3)
        for x, y in PLACES * size:
            window = crop[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2, 0]
            assert window.max() > 150, (size, x, y)
        assert (crop > 60).mean() < 0.1


def test_a_canonical_crop_stays_as_it_is():
    image, _ = portraits(1)
    assert np.abs(faces.align(image[0], PLACES * 256, 256).astype(int) - image[0]).max() <= 1


def test_points_that_are_no_face_are_refused():
    for points in (np.zeros((5, 2)), np.full((5, 2), np.nan), PLACES[:4]):
        with pytest.raises(ValueError, match="expected five points of a face"):
            faces.align(np.zeros((64, 64, 3), np.uint8), points, 64)


def test_the_nose_offset_is_the_distance_from_the_middle_of_the_eyes():
    points = np.array([[10, 10], [30, 10], [20, 20], [14, 30], [26, 30]], float)
    assert faces.nose_offset(points) == 0
    points[2] = 25, 22
    assert faces.nose_offset(points) == pytest.approx(0.25)
    assert faces.nose_offset(points * 3 + 7) == pytest.approx(0.25)


@needs_shared
def test_yunet_finds_synthetic_faces_and_takes_the_largest():
    detector = faces.Detector(SHARED / "weights" / faces.YUNET.file)
    images, truth = portraits(6)
    scene = np.full((700, 1500, 3), 90, np.uint8)
    for image, points in zip(images, truth, strict=True):
        found = detector(image)
        assert np.abs(found - points).mean() < 12
        scene[100:356, 60:316] = image
        scene[60:572, 800:1312] = np.asarray(Image.fromarray(image).resize((512, 512)))
        found = detector(scene)
        assert np.abs(found - (points * 2 + (800, 60))).mean() < 26
    assert detector(np.full((300, 200, 3), 128, np.uint8)) is None
    assert detector.name == "yunet" and len(detector.weight_hash) == 16


@needs_shared
@pytest.mark.parametrize(
    ("height", "width", "side", "corner"),
    [
        (6000, 8000, 100, (5555, 4444)),
        (600, 9000, 100, (8880, 490)),  # in the corner
        (9000, 600, 64, (250, 5000)),
        (3000, 4000, 40, (640, 640)),  # where two tiles meet
        (1100, 1300, 34, (611, 590)),
    ],
)
def test_a_small_face_in_a_large_picture_is_found(height, width, side, corner):
    """The side is that of the drawn picture, of which the face takes a half."""
    detector = faces.Detector(SHARED / "weights" / faces.YUNET.file)
    images, truth = portraits(1, 256, seed=5)
    scene = np.full((height, width, 3), 110, np.uint8)
    left, top = corner
    small = Image.fromarray(images[0]).resize((side, side), Image.Resampling.BOX)
    scene[top : top + side, left : left + side] = np.asarray(small)
    found = detector.all(scene)
    assert len(found) == 1, "once, though tiles overlap"
    eyes = np.linalg.norm(truth[0][1] - truth[0][0]) * side / 256
    assert np.abs(found[0] - (truth[0] * side / 256 + corner)).mean() < 0.2 * eyes


@needs_shared
def test_the_finer_search_runs_only_where_the_first_finds_nothing(monkeypatch):
    detector = faces.Detector(SHARED / "weights" / faces.YUNET.file)
    images, _ = portraits(1, 256, seed=5)
    scene = np.full((1300, 1500, 3), 110, np.uint8)
    windows, search = [], detector._search
    monkeypatch.setattr(detector, "_search", lambda *args: windows.append(args[1:]) or search(*args))
    assert detector(scene) is None
    assert windows[0] == ((0, 0, 1500, 1300), 640 / 1500)
    covered = np.zeros((1300, 1500), bool)
    for (left, top, right, bottom), scale in windows[1:]:
        assert max(right - left, bottom - top) * scale <= 641
        if scale == 1:
            covered[top:bottom, left:right] = True
    assert covered.all()
    windows.clear()
    scene[100:1124, 100:1124] = np.asarray(Image.fromarray(images[0]).resize((1024, 1024)))
    assert detector(scene) is not None and len(windows) == 1
    windows.clear()
    assert detector(scene[:640, :640]) is None or len(windows) == 1  # nothing finer than the picture itself


@needs_shared
def test_small_faces_that_tiles_share_are_found_once_and_what_a_closer_look_denies_never(monkeypatch):
    detector = faces.Detector(SHARED / "weights" / faces.YUNET.file)
    images, _ = portraits(4, 256, seed=5)
    scene = np.full((1700, 3200, 3), 110, np.uint8)
    places = [(0, 0), (560, 570), (1080, 600), (3136, 1636)]
    for image, (left, top) in zip(images, places, strict=True):
        scene[top : top + 64, left : left + 64] = np.asarray(Image.fromarray(image).resize((64, 64)))
    middles = sorted(points.mean(0).tolist() for points in detector.all(scene))
    assert np.abs(np.array(middles) - np.array(places) - (32, 36)).max() < 6
    search = detector._search

    def doubtful(image, window, scale):
        return [face if window[2] - window[0] > 600 else [*face[:14], 0.79] for face in search(image, window, scale)]

    monkeypatch.setattr(detector, "_search", lambda *args: [np.array(face) for face in doubtful(*args)])
    assert detector(scene) is None


@needs_shared
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 2), (641, 640)])
def test_pictures_of_odd_shapes_have_no_face(shape):
    assert faces.Detector(SHARED / "weights" / faces.YUNET.file)(np.full((*shape, 3), 90, np.uint8)) is None


def test_a_file_that_is_no_detector_is_named(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(DataError, match="x.onnx: not a detector"):
        faces.Detector(tmp_path / "x.onnx")


def dark_is_nobody(image):
    """Stands where everybody stands; nobody is there in the dark."""
    return PLACES * image.shape[0] if image.mean() > 40 else None


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_people_behind_links_are_aligned_upright_and_what_is_not_read_is_named(tmp_path, monkeypatch):
    images, _ = portraits(1, 64)
    folder = tmp_path / "photos"
    turned(tmp_path / "store" / "1.png", images[0], 1)
    turned(tmp_path / "store" / "2.png", images[0], 6)
    turned(folder / ".ipynb_checkpoints" / "1.png", images[0], 1)
    (folder / "alice").symlink_to(tmp_path / "store")
    Image.new("L", (1000, 1001)).save(folder / "large.png")
    animation(folder / "moving.gif", 2)
    (folder / "raw.dng").write_bytes(b"")
    monkeypatch.setenv("SWAPDISTILL_MAX_MEGAPIXELS", "1")
    out, skipped = faces.align_folder(folder, tmp_path / "out", 32, dark_is_nobody)
    assert {s["what"]: s["reason"] for s in skipped} == {
        ".ipynb_checkpoints/1.png": "a hidden file",
        "large.png": "more than 1 megapixels; set SWAPDISTILL_MAX_MEGAPIXELS to read it",
        "moving.gif": "an animation of 2 frames; save one of them as a still picture",
        "raw.dng": "'.dng' is not read; save it as a JPEG or PNG",
    }
    first, second = (np.asarray(Image.open(out / "alice" / f"{i}.png.png")) for i in (1, 2))
    assert (first == second).all() and first.std() > 5


def test_a_folder_is_aligned_once_and_what_fails_is_named(tmp_path):
    images, _ = portraits(2, 64)
    folder = tmp_path / "photos"
    for name, image in (("a/1.png", images[0]), ("b/2.jpg", images[1]), ("b/3.png", images[1] * 0)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    (folder / "b/4.png").write_bytes(b"no picture")
    out, skipped = faces.align_folder(folder, tmp_path / "out", 32, dark_is_nobody)
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.png")) == ["a/1.png.png", "b/2.jpg.png"]
    assert not any(is_marked(path) for path in out.rglob("*.png")), "photographs, only cropped"
    assert {s["what"]: s["reason"] for s in skipped} == {
        "b/3.png": "no face found",
        "b/4.png": "not a readable picture",
    }
    stamp = (out / "a/1.png.png").stat().st_mtime_ns
    faces.align_folder(folder, out, 32, dark_is_nobody)
    assert (out / "a/1.png.png").stat().st_mtime_ns == stamp
    with pytest.raises(DataError, match="no face in any of 4 pictures"):
        faces.align_folder(folder, tmp_path / "none", 32, lambda image: None)
    with pytest.raises(DataError, match="no pictures"):
        faces.align_folder(tmp_path / "absent", tmp_path / "none", 32, dark_is_nobody)


class Named:
    """Stands where everybody stands; a detector with a name and a hash."""

    name = "named"

    def __init__(self, weight_hash="1"):
        self.weight_hash, self.shown = weight_hash, 0

    def __call__(self, image):
        self.shown += 1
        return PLACES * image.shape[0]


def album(folder, names, seed=3):
    images, _ = portraits(len(names), 64, seed)
    for name, image in zip(names, images, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return folder


def test_crops_say_what_they_were_made_from_and_only_those_are_kept(tmp_path):
    folder, out = album(tmp_path / "photos", ["a/1.png", "b/2.png"]), tmp_path / "list" / "faces"
    faces.align_folder(folder, out, 32, Named())
    facts = read_made_from(out / "a/1.png.png")
    picture = sha256(folder / "a/1.png")[:16]
    assert facts == {"size": 32, "detector": "named", "detector_hash": "1", "picture": picture}
    before = {path: path.read_bytes() for path in out.rglob("*.png")}
    for size, detector, flaw in (
        (64, Named(), "size was 32, now 64"),
        (32, Named("2"), "detector_hash was 1, now 2"),
        (32, dark_is_nobody, "detector was named, now another"),
    ):
        with pytest.raises(DataError, match=f"a/1.png.png: made from other inputs: {flaw}; name another --out, or del"):
            faces.align_folder(folder, out, size, detector)
    other = album(tmp_path / "other", ["c/1.png"])
    with pytest.raises(
        DataError, match=r"a/1\.png\.png: made from a picture that is not in .*other; name another --out"
    ):
        faces.align_folder(other, out, 32, Named())
    album(tmp_path / "same names", ["a/1.png", "b/2.png"], seed=4)
    with pytest.raises(DataError, match="made from other inputs: picture was"):
        faces.align_folder(tmp_path / "same names", out, 32, Named())
    assert before == {path: path.read_bytes() for path in out.rglob("*.png")}, "a refusal changes nothing"
    album(folder, ["c/3.png"])  # one more is aligned, the others are kept
    again = Named()
    faces.align_folder(folder, out, 32, again)
    assert again.shown == 1 and len([*out.rglob("*.png")]) == 3
    (folder / "b/2.png").unlink()
    with pytest.raises(DataError, match=r"b/2\.png\.png: made from a picture that is not in"):
        faces.align_folder(folder, out, 32, Named())


def test_a_picture_of_unknown_origin_is_no_crop(tmp_path):
    folder, out = album(tmp_path / "photos", ["a/1.png"]), album(tmp_path / "faces", ["a/1.png.png"])
    with pytest.raises(DataError, match="a/1.png.png: does not say from which picture it was made; name another --out"):
        faces.align_folder(folder, out, 64, Named())
    (out / "a/1.png.png").write_bytes(b"cut off")
    with pytest.raises(DataError, match="a/1.png.png: not a readable picture"):
        faces.align_folder(folder, out, 64, Named())
    with pytest.raises(DataError, match="lies in .*photos, whose pictures are aligned; name a folder outside it"):
        faces.align_folder(folder, folder / "list" / "faces", 64, Named())


def test_hidden_pictures_are_not_aligned_but_named(tmp_path):
    folder = album(tmp_path / "photos", ["a/1.png", "a/._1.png", ".cache/2.png"])
    out, skipped = faces.align_folder(folder, tmp_path / "faces", 32, Named())
    assert [str(p.relative_to(out)) for p in out.rglob("*.png")] == ["a/1.png.png"]
    assert skipped == [{"what": what, "reason": "a hidden file"} for what in (".cache/2.png", "a/._1.png")]


def frames(n, size=64):
    """Smooth frames that get brighter by eight a step."""
    ramp = np.linspace(0, 40, size, dtype=np.uint8)
    return [np.repeat((ramp[:, None] + 8 * i)[..., None], size, 1).repeat(3, 2) for i in range(n)]


def test_frames_come_back_by_number(tmp_path):
    path = tmp_path / "a.mp4"
    made = frames(20)
    write_video(path, made)
    assert video.count(path) == 20 and [p.name for p in tmp_path.iterdir()] == ["a.mp4"]
    read = video.read(path, [19, 3, 7])
    assert sorted(read) == [3, 7, 19]
    for number, frame in read.items():
        assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8
        assert np.abs(frame.astype(int) - made[number]).mean() < 3
    assert sorted(video.read(path, [1, 25])) == [1]
    assert video.read(path, []) == {}


def test_videos_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("text.mp4", "absent.mp4"):
        with pytest.raises(DataError, match=f"{name}: not a readable video"):
            video.count(tmp_path / name)
        with pytest.raises(DataError, match=f"{name}: not a readable video"):
            video.read(tmp_path / name, [0])
    write_video(tmp_path / "a.mp4", frames(4))
    with pytest.raises(DataError, match="ends before the first requested frame"):
        video.read(tmp_path / "a.mp4", [9])
