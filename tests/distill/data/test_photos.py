"""Folders of photographs: copies, hidden files, leaks between training and test, and changes under a finished stage."""

import json
import os
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.odd_pictures import animation, turned
from helpers.pseudo_gt import Record, process
from PIL import Image

from distill.data import photos, prepare, synthetic
from distill.data.contents import contents
from distill.evaluate import pairs
from distill.schema import Data, Experiment
from distill.stage import StageError
from swapcore import decoding
from swapcore.images import DataError

SIDE = 32
ALONE = SimpleNamespace(is_main_process=True)


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Six people with three photographs each."""
    for number in range(18):
        picture(tmp_path / "photos" / f"p{number // 3}" / f"{number % 3}.png", number)
    return tmp_path / "photos"


def experiment(folder, **data) -> Experiment:
    settings = {"kind": "photos", "resolution": SIDE, "photos": str(folder), "val_people": 1, "test_people": 2}
    return Experiment(name="x", runs=str(folder.parent / "runs"), data=Data(**{"min_size": 16, **settings, **data}))


def run(exp):
    """The stage `data`: the content of done.json, the rows of the manifest, what it said."""
    accelerator = process()
    stage = prepare.run(exp, accelerator, Record())
    rows = [json.loads(line) for line in (stage.folder / "manifest.jsonl").read_text().splitlines()]
    return json.loads((stage.folder / "done.json").read_text()), rows, "\n".join(accelerator.said)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_utf8_is_listed(folder):
    """As in old archives."""
    name = os.fsdecode(b"caf\xe9.png")
    (folder / "p0" / name).write_bytes(b"damaged")
    picture(folder / "p1" / name, 91)
    done, rows, said = run(experiment(folder))
    assert done["skipped"] == 1 and len(rows) == 19 and r"p0/caf\xe9.png" in said
    assert r"p0/caf\xe9.png" in (folder.parent / "runs" / "x" / "data" / "skipped.txt").read_text()


def test_fewer_test_people_than_asked_for_are_not_evaluated(folder):
    """Without stage `eval` they are no error: photographs of which each shows another person can be trained on."""
    exp = experiment(folder, test_people=4)
    for number in (0, 1, 2):
        shutil.rmtree(folder / f"p{number}")
        picture(folder / f"p{number}" / "0.png", number)
    with pytest.raises(DataError, match="data.photos: .*3 of 6 people have two photographs"):
        run(exp)
    run(replace(exp, stages=("data", "train")))
    with pytest.raises(DataError, match="only 3 people are held out, data.test_people=4 asks for more"):
        pairs.test_pairs(exp)


def test_a_project_that_was_moved_reads_its_own_photographs(folder, tmp_path):
    place = tmp_path / "place"
    place.symlink_to(folder)
    exp = experiment(place)
    _, rows, _ = run(exp)
    assert "finished before" in run(exp)[2]
    shutil.copytree(folder, tmp_path / "copy")
    place.unlink()
    place.symlink_to(tmp_path / "copy")
    _, moved, said = run(exp)
    assert "finished before" not in said and "finished before" in run(exp)[2]
    assert all(row["file"].startswith(str(tmp_path / "copy")) for row in moved)
    assert [(row["person"], row["split"]) for row in moved] == [(row["person"], row["split"]) for row in rows]


def test_hidden_files_are_left_out_and_counted(folder):
    shutil.copy(folder / "p0" / "0.png", folder / "p1" / "._0.png")
    picture(folder / ".thumbnails" / "0.png", 90)
    rows, skipped = photos.scan(folder, 16)
    assert len(rows) == 18 and {row["person"] for row in rows} == {f"p{i}" for i in range(6)}
    assert sorted(skipped) == [".thumbnails/0.png: a hidden file", "p1/._0.png: a hidden file"]
    done, _, _ = run(experiment(folder))
    assert done["skipped"] == 2 and done["copies"] == done["leaks"] == 0


def test_a_picture_counts_once_by_its_pixels(folder):
    """A copy of another person, one of the same person, and one saved in another format."""
    shutil.copy(folder / "p0" / "0.png", folder / "p3" / "of_p0.png")
    shutil.copy(folder / "p2" / "1.png", folder / "p2" / "twice.png")
    Image.open(folder / "p1" / "0.png").save(folder / "p1" / "other.bmp")
    rows, skipped = photos.scan(folder, 16)
    assert len({row["pixels"] for row in rows}) == len(rows) == 18
    assert skipped == [
        "p1/other.bmp: the same picture as p1/0.png",
        "p2/twice.png: the same picture as p2/1.png",
        "p3/of_p0.png: the same picture as p0/0.png",
    ]
    done, rows, _ = run(experiment(folder))
    assert (done["skipped"], done["copies"], len(rows)) == (3, 3, 18)
    assert len({row["pixels"] for row in rows}) == 18, "no two splits share a picture"


def test_heldout_people_of_the_training_are_an_error_unless_allowed(folder):
    heldout = folder.parent / "heldout"
    for number in range(4):
        picture(heldout / f"h{number // 2}" / f"{number % 2}.png", 100 + number)
    assert run(experiment(folder, heldout=str(heldout)))[0]["leaks"] == 0
    shutil.rmtree(folder.parent / "runs")
    shutil.copy(folder / "p4" / "2.png", heldout / "h1" / "z.png")
    with pytest.raises(
        DataError, match=r"data\.heldout: .*: 1 of 5 pictures are .*z\.png is .*p4/2\.png; .*allow_leaks"
    ):
        run(experiment(folder, heldout=str(heldout)))
    for whole in (folder, shutil.copytree(folder, folder.parent / "copy"), folder / "p3"):
        with pytest.raises(DataError, match=r"(18 of 18|3 of 3) pictures are also in data\.photos"):
            run(experiment(folder, heldout=str(whole)))
    done, rows, said = run(experiment(folder, heldout=str(folder.parent / "copy"), allow_leaks=True))
    assert done["leaks"] == done["test_images"] == 18 and "! 18 test pictures are also training pictures" in said
    assert sum(row["split"] == "test" for row in rows) == 18


def test_drawn_splits_share_no_person_and_no_picture(tmp_path):
    synthetic.write(tmp_path, {split: (4, 2) for split in ("train", "val", "test")}, SIDE, 5, progress=False)
    seen = {"identity": {}, "pixels": {}}
    for split in ("train", "val", "test"):
        drawn = photos.read_manifest(tmp_path, split, SIDE)
        for row, image in zip(drawn.rows, drawn.load(range(8)), strict=True):
            for kind, key in (("identity", str(row["identity"])), ("pixels", image.numpy().tobytes())):
                seen[kind].setdefault(key, set()).add(split)
    assert len(seen["identity"]) == 12 and len(seen["pixels"]) == 24
    assert all(len(splits) == 1 for kind in seen.values() for splits in kind.values())


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: picture(folder / "p1" / "1.png", 99),
        lambda folder: picture(folder / "p1" / "3.png", 99),
        lambda folder: (folder / "p1" / "1.png").unlink(),
        lambda folder: (folder / "p1").rename(folder / "p9"),
        lambda folder: shutil.rmtree(folder),
    ],
)
def test_a_finished_stage_notices_changed_photographs(folder, change):
    exp = experiment(folder)
    run(exp)
    assert "finished before" in run(exp)[2]
    change(folder)
    with pytest.raises(StageError, match=r"made with other inputs \(contents\.photos\.(hash|pictures) was .*or delete"):
        run(exp)


def test_a_change_that_keeps_the_size_is_noticed_and_a_new_time_alone_is_none(folder):
    exp, path = experiment(folder), folder / "p2" / "0.bmp"
    Image.open(folder / "p2" / "0.png").save(path)
    (folder / "p2" / "0.png").unlink()
    run(exp)
    moved = folder.rename(folder.parent / "away")
    shutil.copytree(moved, folder, copy_function=shutil.copyfile)  # the same bytes, new times
    assert folder.stat().st_ino != moved.stat().st_ino and "finished before" in run(exp)[2]
    size = path.stat().st_size
    Image.open(path).rotate(90).save(path)
    assert path.stat().st_size == size
    with pytest.raises(StageError, match=r"contents\.photos\.hash was"):
        run(exp)


def test_unchanged_files_are_not_read_again(folder, monkeypatch):
    record = folder.parent / "record.json"
    first = contents({"photos": folder, "heldout": None}, record, ALONE)
    assert first == {"photos": {"pictures": 18, "hash": first["photos"]["hash"]}}
    read = []
    monkeypatch.setattr("distill.data.contents.sha256", lambda path: read.append(path.name) or "another")
    assert contents({"photos": folder}, record, ALONE) == first and read == []
    os.utime(folder / "p0" / "2.png", (1, 1))
    assert contents({"photos": folder}, record, ALONE) != first and read == ["2.png"]


def test_messages_name_the_folder_and_the_limit_of_their_command(folder):
    with pytest.raises(DataError, match=r"--photos: .*0\.png: 32x32 pixels, smaller than 64 \(half of --resolution\)"):
        photos.scan(folder, 64, "half of --resolution", "--photos")
    with pytest.raises(DataError, match=r"data\.photos: .*smaller than 64 \(data\.min_size\)"):
        photos.scan(folder, 64)
    with pytest.raises(DataError, match=r"data\.heldout: .*absent: no such folder"):
        run(experiment(folder, heldout=str(folder / "absent")))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pictures_are_kept_upright_and_the_rest_is_named(folder, monkeypatch):
    """Orientation, profile, animations, endings, links and size, in the folder of a training."""
    upright = np.asarray(Image.open(folder / "p0" / "0.png"))
    turned(folder / "p6" / "0.tif", upright, 6)
    store = picture(folder.parent / "store" / "bob" / "1.png", 91).parent
    (folder / "bob").symlink_to(store)
    animation(folder / "p1" / "a.webp", 3, SIDE)
    Image.new("RGB", (1000, 1001)).save(folder / "p1" / "large.png")
    for name in ("p1/a.CR2", "p2/b.heic", "p2/notes.txt"):
        (folder / name).write_bytes(b"")
    monkeypatch.setattr(decoding, "SUFFIXES", decoding.SUFFIXES - decoding.HEIF)
    monkeypatch.setenv(decoding.LIMIT, "1")
    rows, skipped = photos.scan(folder, 16)
    assert {row["person"] for row in rows} == {*(f"p{i}" for i in range(6)), "bob"} and len(rows) == 19
    assert sorted(skipped) == [
        "p1/a.CR2: '.cr2' is not read; save it as a JPEG or PNG",
        "p1/a.webp: an animation of 3 frames; save one of them as a still picture",
        "p1/large.png: more than 1 megapixels; set SWAPDISTILL_MAX_MEGAPIXELS to read it (1000 x 1001 pixels)",
        'p2/b.heic: HEIC needs pillow-heif: pip install -e ".[heic]"',
        "p6/0.tif: the same picture as p0/0.png",
    ]
    (folder / "p0" / "0.png").unlink()
    rows, _ = photos.scan(folder, 16)
    loaded = photos.Photos(folder, rows, SIDE).load([i for i, row in enumerate(rows) if row["person"] == "p6"])
    assert (loaded[0].permute(1, 2, 0).numpy() == upright).all()
    run(experiment(folder))
    assert "p2/b.heic: HEIC needs" in (folder.parent / "runs" / "x" / "data" / "skipped.txt").read_text()


def test_pictures_of_one_stem_are_two_people(tmp_path):
    for number, name in enumerate(("a.jpg", "a.png", "b.png", "c.png", "c/1.png", "c/2.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture(tmp_path / name, number)
    people = [row["person"] for row in photos.scan(tmp_path, 16)[0]]
    assert sorted(people) == ["a.jpg", "a.png", "b", "c", "c", "c.png"]


def test_a_folder_of_other_files_says_what_they_are(tmp_path):
    (tmp_path / "a.cr2").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds no picture \(.*\); a.cr2: '.cr2' is not read"):
        photos.scan(tmp_path, 16)
