"""FaceForensics++: a small tree of the data set's shape, of videos of synthetic people that are really encoded."""

import json

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared

pytest.importorskip("cv2", reason='pip install -e ".[video]"')
pytest.importorskip("av", reason='pip install -e ".[video]"')

from helpers.make_pairs import make
from helpers.marks import is_marked
from helpers.videos import write_film, write_video
from PIL import Image

from distill.data import faces
from distill.evaluate import __main__ as evaluate
from distill.evaluate import faceforensics
from distill.evaluate.pairs import read
from swapcore.files import read_record, write_record
from swapcore.frame import CANONICAL
from swapcore.images import DataError
from teachers.exact import ATTRIBUTES, render, sample_attributes, sample_identities

SIDE, LENGTH, FRAMES = 128, 24, 4
PEOPLE = ("000", "003", "007", "012")


def clip(person: int, dark=()):
    """A person who turns the head over 24 frames; in `dark` frames the light is out."""
    attributes = sample_attributes(1, seed=40 + person).expand(LENGTH, -1).clone()
    attributes[:, ATTRIBUTES.index("yaw")] = torch.linspace(-20, 20, LENGTH)
    drawn = render(sample_identities(1, seed=40 + person).expand(LENGTH, -1), attributes, SIDE).image
    images = ((drawn + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    for index in dark:
        images[index] = 0
    return list(images)


@pytest.fixture(scope="module")
def clips():
    return {name: clip(i) for i, name in enumerate(PEOPLE)}


@pytest.fixture
def tree(tmp_path, clips):
    """The data set's tree with two couples: 000 and 003, 007 and 012; and one method's swaps of the first."""
    root = tmp_path / "FaceForensics"
    videos = root / "original_sequences" / "youtube" / "c23" / "videos"
    for name, images in clips.items():
        write_video(videos / f"{name}.mp4", images)
    swapped = root / "manipulated_sequences" / "Deepfakes" / "c23" / "videos"
    write_video(swapped / "000_003.mp4", [255 - image for image in clips["000"]])
    (root / "test.json").write_text(json.dumps([["000", "003"], ["007", "012"]]))
    return root


class Still:
    """Sees everybody where the canonical crop has them, and nobody in the dark; counts what it is shown."""

    name, weight_hash = "still", "none: constant"

    def __init__(self):
        self.shown = 0

    def __call__(self, image):
        self.shown += 1
        return np.array(CANONICAL) * SIDE if image.mean() > 30 else None


def prepare(tree, out, find_face=None, **options):
    return faceforensics.prepare(
        tree,
        [tree / "test.json"],
        out,
        find_face=find_face or Still(),
        **{"frames": FRAMES, "resolution": 64, **options},
    )


def test_frames_are_taken_evenly_and_the_gallery_between_them():
    middles, between = faceforensics.evenly(100, 10)
    assert middles == [5, 15, 25, 35, 45, 55, 65, 75, 85, 95] and between == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    for count in (8, 9, 24, 301, 1000):
        middles, between = faceforensics.evenly(count, 4)
        assert not set(middles) & set(between) and len(set(middles)) == 4 and max(middles) < count
    with pytest.raises(ValueError, match="7 frames, too few"):
        faceforensics.evenly(7, 4)


def test_the_list_is_the_fields_protocol(tree, tmp_path, clips):
    pairs, skipped = read(prepare(tree, tmp_path / "list"))
    assert not skipped and len(pairs) == 4 * FRAMES and len(pairs.gallery) == 4
    assert pairs.names[:5] == ("000_003_00", "000_003_01", "000_003_02", "000_003_03", "003_000_00")
    middles, between = faceforensics.evenly(LENGTH, FRAMES)
    person = {name: i for i, name in enumerate(PEOPLE)}
    whole = np.array(CANONICAL) * SIDE
    for i, name in enumerate(pairs.names):
        target, source, number = name.split("_")
        for column, whose in (("source", source), ("target", target)):
            wanted = faces.align(clips[whose][middles[int(number)]], whole, 64).transpose(2, 0, 1)
            assert np.abs(getattr(pairs, column)[i].numpy().astype(int) - wanted).mean() < 4, (name, column)
        assert pairs.source_person[i] == person[source] and pairs.target_person[i] == person[target]
    assert pairs.protocol["frames"] == FRAMES
    assert (pairs.protocol["detector"], pairs.protocol["detector_hash"]) == ("still", Still.weight_hash)
    assert set(pairs.protocol["splits"]) == {"test.json"} and "halfway" in pairs.protocol["gallery"]
    assert between == [6, 12, 18]
    frames = [*(tmp_path / "list" / "faces").rglob("*.png")]
    assert len(frames) == 4 * (FRAMES + 1) and not any(map(is_marked, frames)), "frames of real videos"


@pytest.mark.parametrize("turn", [(90, False), (180, False), (270, True)])
def test_videos_that_lie_sideways_are_read_upright(tree, tmp_path, clips, turn):
    """The frames of the list, those of the gallery and the data set's own swaps."""
    videos = tree / "original_sequences/youtube/c23/videos"
    swapped = tree / "manipulated_sequences/Deepfakes/c23/videos/000_003.mp4"
    made = []
    for lying in (False, True):
        for path, images in (
            (videos / "000.mp4", clips["000"]), (swapped, [255 - image for image in clips["000"]])
        ):  # fmt: skip
            if lying:  # what the display matrix undoes: first the turn against the clock, then the mirror
                images = [image[:, ::-1] if turn[1] else image for image in images]
                images = [np.ascontiguousarray(np.rot90(image, -turn[0] // 90)) for image in images]
            write_film(path, images, turn=turn if lying else None)
        out = tmp_path / str(lying)
        listing = prepare(tree, out / "list")
        faceforensics.finished_swaps(tree, "Deepfakes", listing, out / "swaps")
        crops = sorted([*(out / "list/faces/000").glob("*.png"), *(out / "swaps").glob("*.png")])
        made.append({path.relative_to(out): np.asarray(Image.open(path)).astype(int) for path in crops})
    upright, turned = made
    assert upright.keys() == turned.keys() and len(upright) == 2 * FRAMES + 1
    for name, image in upright.items():
        assert np.abs(image - turned[name]).mean() < 3, name
        assert np.abs(image - np.rot90(turned[name])).mean() > 20, name


def test_a_second_call_reads_only_what_is_missing(tree, tmp_path):
    first = prepare(tree, tmp_path / "list").read_text()
    (tmp_path / "list" / "faces" / "007" / "sampled.json").unlink()  # as a kill within the third video leaves it
    (tmp_path / "list" / "pairs.json").unlink()
    again = Still()
    assert prepare(tree, tmp_path / "list", again).read_text() == first
    assert again.shown == 2 * FRAMES - 1
    with pytest.raises(DataError, match="made with other settings"):
        prepare(tree, tmp_path / "list", resolution=96)


def test_frames_of_another_video_are_not_kept(tree, tmp_path, clips):
    path = tree / "original_sequences/youtube/c23/videos/003.mp4"
    listing = prepare(tree, tmp_path / "list")
    faceforensics.finished_swaps(tree, "Deepfakes", listing, tmp_path / "Deepfakes")
    faceforensics.finished_swaps(tree, "Deepfakes", listing, tmp_path / "Deepfakes")  # all of them are kept
    write_video(path, clips["012"])
    with pytest.raises(DataError, match=r"faces/003: made from another video than .*003\.mp4"):
        prepare(tree, tmp_path / "list")
    swapped = tree / "manipulated_sequences/Deepfakes/c23/videos/000_003.mp4"
    write_video(swapped, clips["000"][::-1])
    with pytest.raises(DataError, match=r"000_003_00\.png: made from other inputs: .*; delete .*Deepfakes, and give"):
        faceforensics.finished_swaps(tree, "Deepfakes", listing, tmp_path / "Deepfakes")


def test_videos_of_a_peer_may_have_another_size_but_no_other_shape(tree, tmp_path, clips):
    listing = prepare(tree, tmp_path / "list")
    videos = tree / "manipulated_sequences" / "Mine" / "c23" / "videos"
    write_video(videos / "000_003.mp4", [image.repeat(2, 0).repeat(2, 1) for image in clips["000"]])
    write_video(videos / "003_000.mp4", [image[:96] for image in clips["003"]])
    missing = {m["what"]: m["reason"] for m in faceforensics.finished_swaps(tree, "Mine", listing, tmp_path / "Mine")}
    assert "frames of 128 x 96 pixels, the target's have 128 x 128: a crop of another" in missing["video 003_000"]

    def differences():
        pairs = read(listing)[0]
        for name, target in zip(pairs.names[:FRAMES], pairs.target, strict=False):
            swap = np.asarray(Image.open(tmp_path / "Mine" / f"{name}.png")).transpose(2, 0, 1)
            yield np.abs(swap.astype(int) - target.numpy()).mean()

    assert max(differences()) < 3, "the target itself at twice its size is its crop"
    record = tmp_path / "list" / "faces" / "000" / "sampled.json"
    info = read_record(record)
    assert info.pop("size") == [SIDE, SIDE]
    write_record(record, info)  # as lists of earlier commits have it
    for path in (tmp_path / "Mine").glob("*.png"):
        path.unlink()
    faceforensics.finished_swaps(tree, "Mine", listing, tmp_path / "Mine")
    assert max(differences()) < 3


def test_frames_without_a_face(tree, tmp_path, clips):
    """Of a source the most frontal frame takes the place, of a target the pair is left out by name."""
    middles, _ = faceforensics.evenly(LENGTH, FRAMES)
    dark = [np.zeros_like(f) if i == middles[1] else f for i, f in enumerate(clips["000"])]
    write_video(tree / "original_sequences/youtube/c23/videos/000.mp4", dark)
    pairs, skipped = read(prepare(tree, tmp_path / "list"))
    assert [s["what"] for s in skipped] == ["000_003_01"] and "no face found in this frame" in skipped[0]["reason"]
    assert len(pairs) == 4 * FRAMES - 1 and pairs.protocol["skipped"] == 1
    replaced = pairs.source[pairs.names.index("003_000_01")]
    others = [pairs.source[pairs.names.index(f"003_000_{n:02d}")] for n in (0, 2, 3)]
    assert any(bool((replaced == other).all()) for other in others)


def test_missing_damaged_and_short_videos_are_named(tree, tmp_path, clips):
    videos = tree / "original_sequences/youtube/c23/videos"
    (videos / "007.mp4").unlink()
    (videos / "012.mp4").write_bytes((videos / "012.mp4").read_bytes()[:900])
    pairs, skipped = read(prepare(tree, tmp_path / "list"))
    assert len(pairs) == 2 * FRAMES and len(pairs.gallery) == 2
    told = {s["what"]: s["reason"] for s in skipped}
    assert "no such file" in told["video 007"] and "not a readable video" in told["video 012"]
    assert sum(what.startswith(("007_012", "012_007")) for what in told) == 2 * FRAMES
    write_video(videos / "007.mp4", clips["007"][: 2 * FRAMES - 1])
    _, skipped = read(prepare(tree, tmp_path / "list"))  # a video that failed is tried again
    assert any("too few to take 4 evenly" in s["reason"] for s in skipped)
    for name in ("000", "003"):
        write_video(videos / f"{name}.mp4", [np.zeros_like(frame) for frame in clips[name]])
    with pytest.raises(DataError, match="no pair is left of 4"):
        prepare(tree, tmp_path / "dark")


@pytest.mark.parametrize("content", ["{", "{}", "[]", '[["000"]]', "[[0, 3]]"])
def test_splits_of_another_shape_are_refused(tree, tmp_path, content):
    (tree / "test.json").write_text(content)
    with pytest.raises(DataError, match="test.json: not one of the data set's lists of pairs"):
        prepare(tree, tmp_path / "list")


def test_another_tree_is_refused(tree, tmp_path):
    with pytest.raises(DataError, match="expected the tree of the official download"):
        prepare(tree, tmp_path / "list", compression="c40")


def test_the_data_sets_own_swaps_are_a_folder_to_measure(tree, tmp_path, capsys):
    listing = prepare(tree, tmp_path / "list")
    missing = faceforensics.finished_swaps(tree, "Deepfakes", listing, tmp_path / "Deepfakes")
    assert sorted(p.stem for p in (tmp_path / "Deepfakes").iterdir()) == [f"000_003_{n:02d}" for n in range(FRAMES)]
    assert all(is_marked(path) for path in (tmp_path / "Deepfakes").iterdir())
    assert {m["what"] for m in missing} == {"video 003_000", "video 007_012", "video 012_007"}
    arguments = [str(tmp_path / "Deepfakes"), "--pairs", str(listing.parent), "--metrics", "background_error"]
    assert evaluate.main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "Deepfakes lacks 12 of 16 swaps" in capsys.readouterr().err
    assert evaluate.main([*arguments, "--out", str(tmp_path / "out"), "--skip-missing"]) == 0
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    pairs, _ = read(listing)
    negative = (255 - 2 * pairs.target[:FRAMES].float()).abs() / 127.5  # the swaps are the targets' negatives
    assert content["rows"]["Deepfakes"]["background_error"]["value"] == pytest.approx(float(negative.mean()), rel=0.2)
    with pytest.raises(DataError, match="methods of c23 here: Deepfakes"):
        faceforensics.finished_swaps(tree, "Face2Face", listing, tmp_path / "none")


@needs_shared
def test_the_command_with_the_real_detector(tree, tmp_path):
    arguments = ["--splits", tree / "test.json", "--frames", FRAMES, "--resolution", 64]
    arguments += ["--weights", SHARED / "weights", "--swaps-of", "Deepfakes"]
    made = make("faceforensics", tree, "--out", tmp_path / "list", *arguments)
    assert made.returncode == 0, made.stderr
    assert "pairs, gallery of 4" in made.stdout and "no swap of video 003_000" in made.stdout
    pairs, _ = read(tmp_path / "list")
    assert len(pairs) >= 3 * FRAMES and pairs.protocol["detector"] == "yunet"
