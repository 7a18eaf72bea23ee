"""The stream: what each position shows, drawn as NumPy draws it, whatever keeps the pictures and makes the batches."""

import json
import threading

import numpy as np
import pytest
import torch
from conftest import script

from distill.data.augment import HeldObjects
from distill.data.cache import Room
from distill.train.draws import Draws
from distill.train.stream import KINDS, Mixture, batches, changes, disturb, mirrored_without_waiting

ALL = {"pseudo_gt": 0.25, "same_photo": 0.25, "same_person": 0.25, "pair": 0.25}
POSITIONS = [0, 1, 2, 3, 5, 8, 100, 1000, 99999, 123456789, 2**32 - 1, 2**32, 2**32 + 5, *range(40, 67)]
# Recorded with commit 8db3152, which drew each sample by a generator of its own. A change here is a change of every
# experiment's data. The source of same_photo is disturbed: what convolutions of pixels give is not compared.
TARGETS = [
    29, 9, 105, 111, 32, 107, 107, 111, 106, 111, 104, 106, 100, 23, 3, 21, 109, 13, 104, 106, 2, 17, 4, 105, 104, 29,
    111, 101, 110, 109, 20, 104, 102, 112, 106, 27, 11, 100, 111, 107,
]  # fmt: skip
SOURCES = {
    0: 29, 1: 9, 2: 108, 3: 103, 4: 32, 5: 106, 7: 110, 9: 102, 10: 102, 13: 23, 18: 100, 23: 110, 24: 103, 26: 110,
    28: 111, 31: 109, 33: 102, 38: 109,
}  # fmt: skip
MIRRORED = [
    1, 0, 0, 1, 1, 1, 0, 1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 1, 0, 0, 0, 1, 1, 1, 0, 1, 0, 1, 1, 0, 0, 0, 1, 1, 0, 1,
    1, 0,
]  # fmt: skip
WITHOUT_GT = [2, 3, 9, 18, 23, 31, 33, 38]
WEIGHTS = {0: 0.7444, 1: 0.3, 4: 0.8111, 13: 0.6111, 14: 0.1667, 15: 0.5667, 17: 0.3889, 20: 0.1444, 30: 0.5444}


class FakeShards:
    """37 triplets of 8 px; red of triplet i is i; the left column of blue is 7."""

    resolution, quality = 8, np.linspace(0.1, 0.9, 37).astype(np.float32)

    def __len__(self):
        return 37

    def load(self, indices):
        out = torch.tensor([200, 201, 202]).byte().view(1, 3, 1, 1, 1).repeat(len(indices), 1, 3, 8, 8)
        for image, i in zip(out, indices, strict=True):
            image[:, 0], image[:, 2, :, 0] = i, 7
        return out

    def signature(self):
        return "shards"


class FakePhotos:
    """13 pictures of six people; red of picture i is 100 + i."""

    resolution, rows = 8, [{"person": person} for person in "aabbbcddddeef"]

    def __len__(self):
        return 13

    def load(self, indices):
        out = torch.zeros(len(indices), 3, 8, 8, dtype=torch.uint8)
        for image, i in zip(out, indices, strict=True):
            image[0], image[2, :, 0] = 100 + i, 7
        return out

    def signature(self):
        return "photos"


def mixture(where="auto", folder=None, shares=ALL, flip=True, seed=11):
    return Mixture(
        FakeShards(), FakePhotos(), shares, seed, flip, Room(where), quality_power=1.0, folders=(folder, folder)
    )


def with_objects(objects=0.5, where="auto", folder=None, device=None):
    return Mixture(
        FakeShards(), FakePhotos(), ALL, 11, True, Room(where, device=device or torch.device("cpu")),
        folders=(folder, folder), objects=objects,
    )  # fmt: skip


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_positions_show_what_they_always_showed():
    batch = mixture().__getitems__(POSITIONS)
    assert batch.target[:, 0, 0, 0].tolist() == TARGETS
    source = batch.source[:, 0, 0, 0].tolist()
    assert {row: source[row] for row in SOURCES} == SOURCES
    assert (batch.target[:, 2, 0, -1] == 7).int().tolist() == MIRRORED
    assert torch.nonzero(batch.with_gt == 0).flatten().tolist() == WITHOUT_GT
    assert {row: round(batch.weight[row].item(), 4) for row in WEIGHTS} == WEIGHTS
    gt = batch.gt[:, 0, 0, 0].tolist()
    assert gt == [0 if row in WITHOUT_GT else target for row, target in enumerate(TARGETS)]


def by_numpy(position, seed, own):
    """(kind, index, changes, mirrored) of a sample by one generator of NumPy, in the order of the draws."""
    rng = np.random.default_rng((seed, position))
    kind = KINDS[rng.choice(len(KINDS), p=[ALL.get(k, 0.0) for k in KINDS])]
    index, how = [], []
    if kind == "pseudo_gt":
        epoch, place = divmod(position, 37)
        index = [int(np.random.default_rng((seed, epoch, 1)).permutation(37)[place])]
    elif kind == "pair":
        index = [int(rng.integers(13)), int(rng.integers(13))]
        while own.person[index[0]] == own.person[index[1]]:
            index[1] = int(rng.integers(13))
    elif kind == "same_person":
        several = np.flatnonzero(np.bincount(own.person) >= 2)
        index = rng.choice(np.flatnonzero(own.person == rng.choice(several)), 2, replace=False).tolist()
    else:
        index = [int(rng.integers(13))] * 2
        how = [*rng.uniform(-1, 1, 7), rng.uniform(0.9, 1.1), rng.choice([-1.0, 1.0])]
    return kind, index, how, rng.random() < 0.5


@pytest.mark.parametrize("seed", [0, 5, 2**40])
def test_every_kind_is_drawn_as_numpy_draws_it(seed):
    own, positions = mixture(seed=seed), [*range(300), 2**33]
    recipe = own.draw(positions)
    assert sorted(row for part in recipe.parts for row in part.rows) == list(range(301)) and len(recipe.parts) == 4
    for part in recipe.parts:
        how = np.empty((len(part.rows), 0)) if part.changes is None else part.changes
        for row, index, numbers in zip(part.rows, part.index, how, strict=True):
            drawn = part.kind, np.atleast_1d(index).tolist(), numbers.tolist(), bool(recipe.mirrored[row])
            assert drawn == by_numpy(positions[row], seed, own), row


@pytest.mark.parametrize("shares", [ALL, {"pseudo_gt": 1.0}, {"pair": 0.5, "same_photo": 0.5}])
@pytest.mark.parametrize("where", ["device", "memory", "file", "off"])
def test_no_place_of_the_pictures_changes_a_batch(tmp_path, where, shares):
    one, other = mixture("memory", shares=shares), mixture(where, tmp_path, shares)
    assert {kept.where for kept in other.kept} == {where} and other.in_threads == (where != "off")
    expected = [one.__getitems__(range(start, start + 16)) for start in range(0, 96, 16)]
    for workers in (0, 1, 3) if where != "off" else (0,):
        got = list(batches(other, 16, 0, 6, 0, 1, workers, pin=False))
        assert len(got) == 6 and all(same(a, b) for a, b in zip(expected, got, strict=True))
        assert all(batch.source.dtype == torch.uint8 for batch in got)


@pytest.mark.parametrize("place", ["device", "memory"])
def test_batches_of_a_gpu_lie_on_it(place):
    """On the device without data: what a GPU runs, but for the pixels."""
    own = Mixture(FakeShards(), FakePhotos(), ALL, 11, True, Room(place, device=torch.device("meta")))
    for workers in (0, 2):
        (batch,) = batches(own, 16, 0, 1, 0, 1, workers, pin=False)
        assert [image.device.type for image in batch[:3]] == ["meta"] * 3 and batch.source.shape == (16, 3, 8, 8)
        assert [number.device.type for number in batch[3:]] == ["cpu"] * 3 and batch.with_gt.sum() > 0
    images, which = torch.randint(0, 255, (4, 3, 3, 8, 8)).byte(), torch.tensor([True, False, False, True])
    mirrored = mirrored_without_waiting(images, which)
    assert torch.equal(mirrored[which], images[which].flip(-1)) and torch.equal(mirrored[~which], images[~which])


def test_objects_are_laid_over_target_and_gt_alike():
    positions = range(400)
    plain, covered, own = mixture().__getitems__(positions), with_objects().__getitems__(positions), with_objects()
    recipe = own.draw(positions)
    rows = np.flatnonzero(recipe.objects >= 0)
    assert 150 < len(rows) < 250 and recipe.objects.max() < HeldObjects.COUNT
    changed = (plain.target != covered.target).flatten(1).any(1)
    assert set(torch.nonzero(changed).flatten().tolist()) <= set(rows.tolist()) and changed.sum() > 0.9 * len(rows)
    assert torch.equal(plain.source, covered.source), "the source stays as it is"
    assert all(torch.equal(plain[place], covered[place]) for place in (3, 4))
    without = covered.with_gt == 0
    assert not covered.gt[without].any() and changed[without].any(), "a target without GT has objects, too"
    alike = [row for row in rows if plain.with_gt[row] and torch.equal(plain.target[row], plain.gt[row])]
    assert len(alike) > 30 and torch.equal(covered.target[alike], covered.gt[alike])
    opaque = own.held.overlays[recipe.objects[rows], 3] == 255  # what the object hides is the same in both
    for row, place in zip(rows, opaque, strict=True):
        place = place.flip(-1) if recipe.mirrored[row] else place
        if plain.with_gt[row]:
            assert torch.equal(covered.target[row][:, place], covered.gt[row][:, place])
    assert opaque.sum() > len(rows)


@pytest.mark.parametrize("where", ["device", "memory", "file", "off"])
def test_objects_depend_on_seed_and_position_alone(tmp_path, where):
    one, other = with_objects(where="memory"), with_objects(where=where, folder=tmp_path)
    whole = one.__getitems__(range(24))
    parts = [other.__getitems__(range(start, start + 8)) for start in (0, 8, 16)]
    assert same(whole, [torch.cat(values) for values in zip(*parts, strict=True)])
    assert same(mixture().__getitems__(range(24))[:5], with_objects(objects=0.0).__getitems__(range(24))[:5])


def test_objects_are_laid_where_the_pictures_lie():
    for place in ("device", "memory"):
        (batch,) = batches(with_objects(1.0, place, device=torch.device("meta")), 16, 0, 1, 0, 1, 2, pin=False)
        assert batch.target.device.type == "meta" and batch.with_gt.device.type == "cpu"


def test_the_benchmark_runs(tmp_path):
    out = tmp_path / "loader.json"
    done = script("benchmarks/loader.py", "--quick", "--workers", 1, "--out", out)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert [row["place"] for row in result["stream"]][-3:] == ["memory", "file", "off"]
    assert all(row[key]["least"] > 0 for row in result["stream"] for key in ("batches", "into_training"))
    lossless = {row["codec"]: row["lossless"] for row in result["codecs"]}
    assert all(same for codec, same in lossless.items() if "quality" not in codec) and "Pillow PNG level 1" in lossless
    assert "pictures/s into training" in done.stdout and "us a sample by generators" in done.stdout


def test_threads_end_with_the_stream():
    stream = batches(mixture(), 4, 0, 1000, 0, 1, 2, pin=False)
    next(stream)
    assert any(thread.name.startswith("ordered") for thread in threading.enumerate())
    del stream
    assert not any(thread.name.startswith("ordered") for thread in threading.enumerate())


def test_an_error_of_a_thread_is_the_streams():
    own = mixture(shares={"pseudo_gt": 1.0})

    def broken(indices):
        raise ValueError("shard-0.tar: damaged shard")

    own.triplets.load = broken
    for workers in (0, 2):
        with pytest.raises(ValueError, match="shard-0.tar: damaged"):
            next(batches(own, 4, 0, 10, 0, 1, workers, pin=False))


def test_disturbed_pictures_are_those_of_one_generator():
    image = torch.randint(0, 255, (2, 3, 16, 16)).byte()
    both = disturb(image, changes(Draws(0, [4, 9]), np.arange(2)))
    alone = disturb(image[1:], changes(Draws(0, [9]), np.arange(1)))
    assert (both[1:].int() - alone.int()).abs().max() <= 1 and not torch.equal(both, image)
