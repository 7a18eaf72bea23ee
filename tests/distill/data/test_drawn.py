"""The command `datasets/synthetic.py`: pictures, videos and dense truth; it goes on where it stopped, and never mixes
pictures of two settings."""

import json

import numpy as np
import pytest
import torch
from conftest import script
from helpers.marks import is_marked
from helpers.pseudo_gt import Record, process
from PIL import Image

from distill import stage
from distill.data import prepare, synthetic
from distill.schema import Data, Experiment
from swapcore.images import decode, to_uint8
from teachers import build
from teachers.exact import ATTRIBUTES, LARGEST, OUTPUTS, RENDERER, render, sample_sequence

SETTINGS = {"--people": 3, "--images": 2, "--size": 32, "--seed": 1, "--split": "train"}


def draw(folder, **changed):
    options = SETTINGS | {f"--{name}": value for name, value in changed.items()}
    words = [word for pair in options.items() for word in pair]
    return script("datasets/synthetic.py", folder, "--device", "cpu", *words)


def rows_of(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def pixels(folder, rows):
    return torch.from_numpy(np.stack([decode(folder / row["file"]) for row in rows]))


@pytest.fixture
def folder(tmp_path):
    assert draw(tmp_path / "people").returncode == 0
    return tmp_path / "people"


FRAMES = 40


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos of each of two people: 160 frames, in chunks that begin within videos."""
    folder = tmp_path_factory.mktemp("videos") / "people"
    done = draw(folder, people=2, images=2, video=FRAMES)
    assert done.returncode == 0, done.stderr
    assert "160 pictures in 4 videos of 2 people" in done.stdout
    return folder


def test_drawing_goes_on_after_the_minutes_were_over(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "CHUNK_PICTURES", 2)
    small = Data(resolution=32, train_people=4, train_images=1, val_people=1, test_people=2, test_images=2)
    exp, whole = (Experiment(name=name, runs=str(tmp_path), data=small) for name in ("exp", "whole"))
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "time_is_over", lambda exp: asked.append(exp) or len(asked) > 2)
        patch.setattr(stage, "time_is_over", lambda exp: True)
        with pytest.raises(stage.OutOfTime, match="in stage data of exp; the same command continues"):
            prepare.run(exp, process(), Record())
    folder = exp.folder / "data"
    assert len(list(folder.rglob("*.png"))) == 2 * 4, "of two chunks, with their masks"
    assert not (folder / "manifest.jsonl").exists()
    for one in (exp, whole):
        prepare.run(one, process(), Record())
    assert (folder / "manifest.jsonl").read_bytes() == (whole.folder / "data" / "manifest.jsonl").read_bytes()
    assert len(list(folder.rglob("*.png"))) == 2 * (4 + 2 + 4)


@pytest.mark.parametrize(
    "changed", [{"size": 48}, {"seed": 2}, {"people": 6}, {"images": 3}, {"split": "test"}, {"video": 5}]
)
def test_other_settings_need_another_folder(folder, changed):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    ((name, value),) = changed.items()
    refused = draw(folder, **changed)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert (
        f"synthetic.json: made with other settings: {name} was {SETTINGS.get('--' + name, 0)}, now {value}"
        in refused.stderr
    )
    assert "name another folder, or delete" in refused.stderr
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_command_goes_on(folder):
    whole = {path: path.read_bytes() for path in folder.rglob("*.png")}
    for path in (folder / "rows").iterdir():
        path.unlink()
    next(iter(whole)).unlink()
    assert draw(folder).returncode == 0
    assert whole == {path: path.read_bytes() for path in folder.rglob("*.png")}
    rows = rows_of(folder)
    assert len(rows) == 6 and {Image.open(folder / row["file"]).size for row in rows} == {(32, 32)}


def test_videos_lie_in_folders_and_their_rows_say_person_video_and_frame(videos):
    rows = rows_of(videos)
    places = [(p, v, f) for p in range(2) for v in range(2) for f in range(FRAMES)]
    assert [row["file"] for row in rows] == [f"train/p{p:05d}/{v}/{f:05d}.png" for p, v, f in places]
    assert [(row["person"], row["video"], row["frame"]) for row in rows] == [
        (f"train-p{p:05d}", v, f) for p, v, f in places
    ]
    for row in rows[:: FRAMES // 2]:
        assert is_marked(videos / row["file"]) and not is_marked(videos / row["mask"])
        assert row["mask"] == row["file"].replace(".png", ".mask.png") and row["renderer"] == RENDERER


def test_a_video_shows_one_person_who_moves_in_one_place(videos):
    rows = rows_of(videos)
    moving = {"yaw", "pitch", "jaw", "blink", "gaze_x", "smile"}
    still = {"hair_length", "hair_dark", "light_azimuth", "clothes_hue", "background_hue", "distance", "glasses"}
    for start in range(0, len(rows), FRAMES):
        own = rows[start : start + FRAMES]
        assert len({tuple(row["identity"]) for row in own}) == 1
        columns = dict(zip(ATTRIBUTES, torch.tensor([row["attributes"] for row in own]).unbind(1), strict=True))
        assert all(columns[name].unique().numel() == 1 for name in still)
        assert sum(columns[name].unique().numel() > 3 for name in moving) >= 4
        steps = pixels(videos, own).float().diff(dim=0).abs().mean((1, 2, 3))
        assert steps.max() < 12, "no jump between two frames"
    assert len({tuple(row["identity"]) for row in rows}) == 2 and len({tuple(row["attributes"]) for row in rows}) == 160


def test_the_people_of_videos_are_those_of_pictures(videos, tmp_path):
    assert draw(tmp_path / "pictures", people=2).returncode == 0
    people = {row["person"]: row["identity"] for row in rows_of(tmp_path / "pictures")}
    assert all(row["identity"] == people[row["person"]] for row in rows_of(videos))


def test_the_exact_swap_of_every_frame_is_its_picture_with_another_face(videos):
    rows, exact = rows_of(videos), build("exact")
    targets = rows[:FRAMES:8]
    other = [rows[-1]] * len(targets)
    pictures, attributes = pixels(videos, targets), torch.tensor([row["attributes"] for row in targets])
    blank = torch.zeros(len(targets), 3, 32, 32)
    itself = to_uint8(exact(blank, blank, targets, targets))
    assert torch.equal(itself, pictures), "a frame's own person gives the frame"
    swap = exact(blank, blank, other, targets)
    identity = torch.tensor([row["identity"] for row in other])
    assert torch.equal(swap, render(identity, attributes, 32).image)
    assert (to_uint8(swap).int() - pictures.int()).abs().float().mean() > 1


def test_a_longer_video_begins_like_a_shorter_one(videos):
    rows = rows_of(videos)[FRAMES : 2 * FRAMES]
    short = synthetic.frames_of("train", SETTINGS["--seed"], 1, 10)
    assert torch.equal(torch.tensor([row["attributes"] for row in rows[:10]]), short)


def test_videos_go_on_where_they_were_stopped(videos, tmp_path):
    (tmp_path / "people" / "rows").mkdir(parents=True)
    for name in ("synthetic.json", "rows/train-0000064.jsonl"):
        (tmp_path / "people" / name).write_bytes((videos / name).read_bytes())
    done = draw(tmp_path / "people", people=2, images=2, video=FRAMES)
    assert done.returncode == 0 and "0/96" in done.stderr, "one chunk of 64 is there"
    assert (tmp_path / "people/manifest.jsonl").read_bytes() == (videos / "manifest.jsonl").read_bytes()
    for row in [*rows_of(videos)[:64], *rows_of(videos)[128:]][::9]:
        assert (tmp_path / "people" / row["file"]).read_bytes() == (videos / row["file"]).read_bytes()


@pytest.mark.parametrize("video", [0, 3])
def test_dense_truth_lies_beside_each_picture(tmp_path, video):
    folder = tmp_path / "people"
    words = ("--people", 1, "--images", 2, "--size", 32, "--device", "cpu", *(("--video", video) if video else ()))
    done = script("datasets/synthetic.py", folder, *words, "--extra", "segmentation", "depth", "depth")
    assert done.returncode == 0, done.stderr
    for row in rows_of(folder):
        assert row["extra"] == row["file"].replace(".png", ".extra.npz")
        assert np.load(folder / row["extra"]).files == ["depth", "segmentation"]
    again = ("--extra", "depth", "segmentation")  # the same, in another order
    assert script("datasets/synthetic.py", folder, *words, *again).returncode == 0
    refused = script("datasets/synthetic.py", folder, *words, "--extra", "depth")
    assert refused.returncode == 2 and "extra was ['depth', 'segmentation'], now ['depth']" in refused.stderr


def test_files_of_dense_truth_are_as_precise_as_they_say(tmp_path):
    synthetic.write(tmp_path, {"train": (3, 1)}, 64, 5, kind=synthetic.Kind(extra=OUTPUTS), progress=False)
    rows = rows_of(tmp_path)
    numbers = (torch.tensor([row[key] for row in rows]) for key in ("identity", "attributes"))
    drawn = render(*numbers, 64, OUTPUTS)
    for i, row in enumerate(rows):
        found = np.load(tmp_path / row["extra"])
        assert {name: (found[name].shape, str(found[name].dtype)) for name in found.files} == {
            "depth": ((64, 64), "float32"), "segmentation": ((64, 64), "uint8"),
            "normals": ((3, 64, 64), "float16"), "correspondence": ((3, 64, 64), "float32"),
        }  # fmt: skip
        for name in ("depth", "correspondence"):
            true, stored = getattr(drawn, name)[i].squeeze(0).numpy(), found[name]
            assert (np.isfinite(true) == np.isfinite(stored)).all() and (np.isnan(true) == np.isnan(stored)).all()
            inside = np.isfinite(true)
            assert inside.any() and np.abs(true[inside] - stored[inside]).max() <= synthetic.LENGTH_STEP / 2 + 1e-6
        assert np.abs(drawn.normals[i].numpy() - found["normals"]).max() < 1 / 2048
        assert (drawn.segmentation[i, 0].numpy() == found["segmentation"]).all()
        assert not (found["depth"][drawn.mask[i, 0].numpy() > 0] == np.inf).any(), "the face is somewhere"


def test_dense_truth_is_the_same_file_each_time(tmp_path):
    for name in "ab":
        synthetic.write(
            tmp_path / name, {"train": (1, 1)}, 32, 5, kind=synthetic.Kind(extra=("depth",)), progress=False
        )
    first, second = ((tmp_path / name / "train/p00000/0.extra.npz").read_bytes() for name in "ab")
    assert first == second


def test_the_sensor_blurs_and_adds_noise_to_half_of_the_pictures(tmp_path):
    clean, noisy = (synthetic.people("train", 1, 40, 1, sensor)[1] for sensor in (False, True))
    columns = dict(zip(ATTRIBUTES, range(len(ATTRIBUTES)), strict=True))
    same = [i for name, i in columns.items() if name not in ("blur", "noise")]
    assert torch.equal(clean[:, same], noisy[:, same]) and not clean[:, columns["noise"]].any()
    assert 10 <= (noisy[:, columns["noise"]] > 0).sum() <= 30 and 10 <= (noisy[:, columns["blur"]] > 0).sum() <= 30
    words = ("--people", 4, "--images", 1, "--size", 32, "--device", "cpu")
    for name, more in (("clean", ()), ("noisy", ("--sensor",))):
        assert script("datasets/synthetic.py", tmp_path / name, *words, *more).returncode == 0
    rows = rows_of(tmp_path / "clean"), rows_of(tmp_path / "noisy")
    assert [row["identity"] for row in rows[0]] == [row["identity"] for row in rows[1]]
    changed = (pixels(tmp_path / "clean", rows[0]) != pixels(tmp_path / "noisy", rows[1])).flatten(1).any(1)
    own = torch.tensor([row["attributes"] for row in rows[1]])[:, [columns["blur"], columns["noise"]]]
    assert changed.tolist() == (own > 0).any(1).tolist()
    refused = script("datasets/synthetic.py", tmp_path / "noisy", *words)
    assert refused.returncode == 2 and "sensor was True, now False" in refused.stderr


def test_the_noise_of_a_video_changes_from_frame_to_frame():
    noise, phase = ATTRIBUTES.index("noise"), ATTRIBUTES.index("noise_phase")
    seed = next(s for s in range(20) if sample_sequence(1, s, sensor=True)[0, noise] > 0)
    moving = sample_sequence(6, seed, sensor=True)
    assert moving[:, noise].unique().numel() == 1 and moving[:, phase].unique().numel() == 6
    assert torch.equal(moving[:3], sample_sequence(3, seed, sensor=True))
    assert not sample_sequence(6, seed)[:, noise].any() and sample_sequence(6, seed)[:, phase].unique().numel() == 1


def test_sizes_that_the_renderer_does_not_draw(tmp_path):
    for command in ("synthetic", "make_fstriplets"):
        refused = script(f"datasets/{command}.py", tmp_path / "x", "--size", LARGEST + 1)
        assert refused.returncode == 2 and f"expected a whole number from 16 to {LARGEST}" in refused.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("command", ["synthetic", "make_fstriplets"])
def test_pictures_of_another_origin_are_not_taken_over(tmp_path, command):
    path = tmp_path / "vanilla" / "p00000" / "0.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(path)
    refused = script(f"datasets/{command}.py", tmp_path, "--people", 2, "--images", 2, "--size", 32, "--device", "cpu")
    assert refused.returncode == 2 and "0.png: was not drawn by this command; name another folder" in refused.stderr
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"0.png", ".lock"}
