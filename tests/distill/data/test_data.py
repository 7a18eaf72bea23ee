"""Photographs, shards and the stream of samples."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from helpers.marks import is_marked
from helpers.shards import write_shard
from PIL import Image

from distill.data import photos, synthetic
from distill.data.cache import Room
from distill.data.photos import Photos
from distill.data.triplet import Triplet
from distill.pseudo_gt.shards import Shards
from distill.stage import StageError
from distill.train.draws import Draws
from distill.train.stream import Mixture, batches, changes, disturb
from swapcore.files import FileError
from swapcore.images import DataError

PSEUDO = {"pseudo_gt": 1.0, "same_photo": 0.0, "same_person": 0.0, "pair": 0.0}


def picture(path, value=0, size=64, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size, size), value).save(path)


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["a/1", "a/2", "b/1", "b/2", "c/1"]):
        picture(tmp_path / f"{name}.png", (number * 10, 0, 0))
    return tmp_path


def shard(path, keys, size=32, similarity=None):
    def sample(key):
        images = [np.full((size, size, 3), 3 * int(key) + part, np.uint8) for part in range(3)]
        quality = {"quality": {"id_similarity": similarity[key]}} if similarity else {}
        return key, images, {"pair": int(key), **quality}

    return write_shard(path, (sample(k) for k in keys))


def test_people_are_subfolders_and_flawed_files_are_named(folder):
    (folder / "a" / "broken.png").write_bytes(b"not a picture")
    cut = (folder / "a" / "1.png").read_bytes()
    (folder / "b" / "cut.png").write_bytes(cut[: len(cut) // 2])
    picture(folder / "b" / "tiny.png", size=16)
    picture(folder / "c" / "grey.png", 0, mode="L")
    (folder / "notes.txt").write_text("not looked at")
    rows, skipped = photos.scan(folder, 32)
    assert [r["person"] for r in rows] == ["a", "a", "b", "b", "c"]
    said = "\n".join(skipped)
    assert len(skipped) == 4
    for words in ("a/broken.png: not a readable", "b/cut.png: not a readable", "tiny.png: 16x16", "mode L, not RGB"):
        assert words in said


def test_flat_folder_has_a_person_per_photo(tmp_path):
    for number, name in enumerate("xyz"):
        picture(tmp_path / f"{name}.png", (number, 0, 0))
    assert [r["person"] for r in photos.scan(tmp_path, 32)[0]] == ["x", "y", "z"]


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir()])
def test_no_photos_shows_the_expected_tree(tmp_path, make):
    make(tmp_path / "f")
    with pytest.raises(DataError, match="FOLDER/alice/001.jpg"):
        photos.scan(tmp_path / "f", 32)


def test_damaged_manifest_and_picture_are_named(tmp_path):
    with pytest.raises(DataError, match="no manifest; run stage 'data'"):
        photos.read_manifest(tmp_path, "train", 32)
    (tmp_path / "manifest.jsonl").write_text('{"file": ')
    with pytest.raises(FileError, match="manifest.jsonl: line 1: damaged"):
        photos.read_manifest(tmp_path, "train", 32)
    (tmp_path / "x.png").write_bytes(b"?")
    with pytest.raises(DataError, match="x.png: not a readable picture"):
        Photos(tmp_path, [{"file": "x.png", "person": "x"}], 32).load([0])


def test_shard_roundtrip_and_random_access(tmp_path):
    assert shard(tmp_path / "shard-0.tar", ["0", "1"]) == 2
    shard(tmp_path / "shard-1.tar", ["2"])
    shards = Shards(tmp_path)
    assert len(shards) == 3 and shards.resolution == 32
    loaded = shards.load([2, 0])
    assert loaded.shape == (2, 3, 3, 32, 32)
    assert loaded[:, :, 0, 0, 0].tolist() == [[6, 7, 8], [0, 1, 2]]
    assert shards.facts(1) == {"pair": 1}


def test_shards_are_webdataset_members_and_the_same_bytes_each_time(tmp_path):
    shard(tmp_path / "a.tar", ["00000000"])
    shard(tmp_path / "b.tar", ["00000000"])
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
    assert names == [f"00000000.{part}" for part in ("source.png", "target.png", "gt.png", "json")]


def test_damaged_shards_are_named(tmp_path):
    with pytest.raises(DataError, match="holds no .tar shard"):
        Shards(tmp_path)
    path = tmp_path / "shard-0.tar"
    shard(path, ["0", "1"])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"shard-0\.tar.*(damaged|lacks).*delete"):
        Shards(tmp_path)
    path.write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match=r"shard-0\.tar: damaged"):
        Shards(tmp_path)
    spoilt = bytearray(whole)
    spoilt[512:700] = b"\1" * 188  # the pixels of the first member, its header stays
    path.write_bytes(bytes(spoilt))
    with pytest.raises(DataError, match=r"shard-0\.tar: damaged shard .*source.png.*run again"):
        Shards(tmp_path)


@pytest.mark.parametrize("name", ["../up.json", "/etc/x.json", "link"])
def test_members_outside_their_folder_are_refused(tmp_path, name):
    kind = tarfile.SYMTYPE if name == "link" else tarfile.REGTYPE
    shard(tmp_path / "s.tar", ["0"])
    with tarfile.open(tmp_path / "s.tar", "a") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd" if kind == tarfile.SYMTYPE else ""
        content = b"{}" if kind == tarfile.REGTYPE else b""
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match=r"s\.tar: refused: member '"):
        Shards(tmp_path)


def test_samples_depend_on_seed_and_position_alone(tmp_path):
    shard(tmp_path / "s.tar", [str(i) for i in range(10)])
    mixture = Mixture(Shards(tmp_path), None, PSEUDO, seed=1)
    whole = mixture.__getitems__(range(25))
    parts = [mixture.__getitems__([i]) for i in reversed(range(25))]
    assert torch.equal(whole.gt, torch.cat([p.gt for p in reversed(parts)]))
    first_epoch = whole.source[:10, 0, 0, 0].tolist()
    assert sorted(first_epoch) == [3 * i for i in range(10)], "an epoch shows every triplet once"
    uncached = Mixture(Shards(tmp_path), None, PSEUDO, seed=1, room=Room("off"))
    assert torch.equal(uncached.__getitems__(range(25)).gt, whole.gt)


@pytest.mark.parametrize("workers", [0, 1])
def test_two_processes_see_what_one_sees(tmp_path, workers):
    shard(tmp_path / "s.tar", [str(i) for i in range(10)])
    mixture = Mixture(Shards(tmp_path), None, PSEUDO, seed=1)
    one = torch.cat([b.gt for b in batches(mixture, 4, 0, 3, 0, 1, workers, pin=False)])
    two = [list(batches(mixture, 2, 0, 3, rank, 2, workers, pin=False)) for rank in range(2)]
    merged = torch.cat([b.gt for pair in zip(*two, strict=True) for b in pair])
    assert torch.equal(one, merged)
    resumed = torch.cat([b.gt for b in batches(mixture, 4, 1, 3, 0, 1, workers, pin=False)])
    assert torch.equal(resumed, one[4:])


def test_kinds_without_pseudo_gt(folder):
    rows, _ = photos.scan(folder, 32)
    source = Photos(folder, rows, 64)
    red = {i * 10: row["person"] for i, row in enumerate(rows)}

    def draw(**shares):
        return Mixture(None, source, {**dict.fromkeys(PSEUDO, 0.0), **shares}, seed=0).__getitems__(range(40))

    def people(batch):
        sources, targets = (images[:, 0, 0, 0].tolist() for images in batch[:2])
        return [(red[s], red[t]) for s, t in zip(sources, targets, strict=True)]

    batch = draw(pair=1.0)
    assert all(a != b for a, b in people(batch)) and batch.with_gt.sum() == 0
    assert (batch.on_device(torch.device("cpu")).gt == -1).all(), "no GT is -1 everywhere"
    batch = draw(same_person=1.0)
    assert all(a == b for a, b in people(batch))
    assert torch.equal(batch.gt, batch.target) and batch.with_gt.sum() == 40
    batch = draw(same_photo=1.0)
    assert torch.equal(batch.gt, batch.target) and not torch.equal(batch.source, batch.target)
    mixed = draw(pair=0.6, same_photo=0.4)
    assert 0 < mixed.with_gt.sum() < 40
    with pytest.raises(StageError, match="pseudo_gt"):
        draw(pseudo_gt=1.0)


def test_samples_of_old_kinds_stay_what_they_were(tmp_path, folder):
    """Positions 0 .. 7 of a mixture of all of them: a change here is a change of every experiment's data."""
    shard(tmp_path / "shards" / "s.tar", [str(i) for i in range(10)], size=64)
    rows, _ = photos.scan(folder, 32)
    shares = {"pseudo_gt": 0.25, "same_photo": 0.25, "same_person": 0.25, "pair": 0.25}
    mixture = Mixture(Shards(tmp_path / "shards"), Photos(folder, rows, 64), shares, seed=5, flip=True)
    batch = mixture.__getitems__(range(8))
    assert batch.target[:, 0, 0, 0].tolist() == [40, 40, 28, 10, 0, 30, 10, 30]
    assert batch.with_gt.tolist() == [0, 0, 1, 1, 1, 1, 0, 1] and batch.src_as_true.all() and batch.weight.eq(1).all()


def test_pseudo_gt_weighs_what_its_teacher_is_worth(tmp_path):
    shard(tmp_path / "s.tar", "0123", similarity={"0": 0.5, "1": None, "2": -0.2, "3": 1.0})
    wanted = {0: 0.25, 1: 1.0, 2: 0.0, 3: 1.0}
    batch = Mixture(Shards(tmp_path), None, PSEUDO, seed=0, quality_power=2.0).__getitems__(range(8))
    numbers = (batch.source[:, 0, 0, 0] // 3).tolist()
    assert batch.weight.tolist() == [wanted[n] for n in numbers] and batch.weight.dtype == torch.float32
    assert Mixture(Shards(tmp_path), None, PSEUDO, seed=0).__getitems__(range(8)).weight.eq(1).all()


def test_disturbed_pictures_stay_near_and_differ():
    image = torch.randint(0, 255, (1, 3, 8, 8)).repeat(2, 1, 1, 1).float()
    image = torch.nn.functional.interpolate(image, 64, mode="bilinear").byte()
    out = disturb(image, changes(Draws(0, range(2)), np.arange(2)))
    assert out.shape == image.shape and out.dtype == torch.uint8 and not torch.equal(out[0], out[1])
    assert abs(float(out.float().mean() - image.float().mean())) < 40


def test_the_contract_is_checked():
    image = torch.zeros(2, 3, 32, 32)
    good = Triplet(image, image, image - 1, torch.zeros(2), torch.ones(2, dtype=torch.bool), torch.ones(2))
    assert good.check() is good
    for field, bad in [
        ("gt", image.double()),
        ("target", image[:, :, :16]),
        ("with_gt", torch.zeros(2, 1)),
        ("src_as_true", torch.ones(2)),
        ("weight", torch.ones(2).double()),
        ("weight", torch.ones(1)),
    ]:
        with pytest.raises(ValueError, match=f"triplet.{field}: expected"):
            good._replace(**{field: bad}).check()


def test_drawn_people_are_marked_and_their_masks_are_not(tmp_path):
    synthetic.write(tmp_path, {"train": (2, 2)}, 32, seed=0, progress=False)
    rows = photos.read_manifest(tmp_path, "train", 32).rows
    assert len(rows) == 4
    assert all(is_marked(tmp_path / row["file"]) and not is_marked(tmp_path / row["mask"]) for row in rows)


def test_manifest_roundtrip(tmp_path):
    rows = [{"file": "a.png", "person": "a", "split": s} for s in ("train", "test")]
    photos.write_manifest(tmp_path, rows)
    assert photos.read_manifest(tmp_path, "test", 32).rows == rows[1:]
    assert [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()] == rows
