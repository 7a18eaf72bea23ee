"""train.mix.reversed: the teacher's swap as target, the photograph as ground truth, another one of the person as
source."""

import numpy as np
import pytest
import torch
from helpers.line import experiment, in_process, same_state
from helpers.shards import write_shard

from distill import config
from distill.data.cache import Room
from distill.data.photos import read_manifest
from distill.evaluate.swappers import measured_teachers
from distill.pseudo_gt.shards import Shards
from distill.stage import StageError
from distill.train import loop
from distill.train.draws import Draws
from distill.train.monitor import read_log
from distill.train.stream import Mixture, batches, changes, disturb
from swapcore.images import DataError

PEOPLE = "aabbbcddddeef"  # c and f have one picture
ONTO = [0, 3, 5, 9, 12, 2, 5, 10, 1, 7, 0]  # the photograph of each triplet's target
ONE, HALF = {"reversed": 1.0}, {"pseudo_gt": 0.5, "reversed": 0.5}


class FakePhotos:
    """13 pictures of six people; red of picture i is 100 + i, green is not uniform."""

    resolution, root = 8, "data"
    rows = [{"person": person, "file": f"{i}.png"} for i, person in enumerate(PEOPLE)]

    def __len__(self):
        return len(PEOPLE)

    def load(self, indices):
        out = torch.zeros(len(indices), 3, 8, 8, dtype=torch.uint8)
        for image, i in zip(out, indices, strict=True):
            image[0], image[1] = 100 + i, torch.arange(64).view(8, 8) * 3
        return out

    def signature(self):
        return "photos"


class FakeShards:
    """A triplet for each of ONTO; red of its source is 50, of its target the photograph's, of its swap 200 + i."""

    resolution, quality = 8, np.full(len(ONTO), 0.1, np.float32)
    targets = [f"{i}.png" for i in ONTO]

    def __len__(self):
        return len(ONTO)

    def load(self, indices):
        out = torch.full((len(indices), 3, 3, 8, 8), 50, dtype=torch.uint8)
        for images, i in zip(out, indices, strict=True):
            images[1], images[2, 0] = FakePhotos().load([ONTO[i]])[0], 200 + i
        return out

    def signature(self):
        return "shards"


def mixture(shares=ONE, where="auto", folder=None, shards=None, photos=None, flip=False):
    shards, photos = shards or FakeShards(), photos or FakePhotos()
    return Mixture(shards, photos, shares, 3, flip, Room(where), quality_power=2.0, folders=(folder, folder))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_reversed_sample_has_the_swap_as_target_and_its_photograph_as_truth():
    batch = mixture().__getitems__(range(220))
    triplets = (batch.target[:, 0, 0, 0] - 200).tolist()
    assert all(sorted(triplets[i : i + 11]) == list(range(11)) for i in range(0, 220, 11)), "each once in an epoch"
    photographs = (batch.gt[:, 0, 0, 0] - 100).tolist()
    assert photographs == [ONTO[i] for i in triplets]
    assert batch.with_gt.eq(1).all() and batch.src_as_true.all(), "real is the source, never the swap"
    assert batch.weight.eq(1).all(), "quality_power is for the teacher's swaps"
    shown: dict[int, set[int]] = {}
    for row, photograph in enumerate(photographs):
        own = FakePhotos().load([photograph])[0]
        if PEOPLE.count(PEOPLE[photograph]) == 1:
            assert not torch.equal(batch.source[row], own), "disturbed"
            continue
        other = int(batch.source[row, 0, 0, 0]) - 100
        assert torch.equal(batch.source[row], FakePhotos().load([other])[0])
        assert other != photograph and PEOPLE[other] == PEOPLE[photograph]
        shown.setdefault(photograph, set()).add(other)
    for photograph, others in shown.items():
        everybody = {i for i, person in enumerate(PEOPLE) if person == PEOPLE[photograph]}
        assert others == everybody - {photograph}, "every other picture comes up"


def test_a_sample_is_a_function_of_seed_and_position_as_numpy_draws_it():
    own, positions = mixture(HALF, flip=True), [*range(60), 2**33]
    batch, recipe = own.__getitems__(positions), own.draw(positions)
    assert {part.kind for part in recipe.parts} == {"pseudo_gt", "reversed"}
    part = recipe.parts[1]
    alone = 0
    for row, (triplet, source) in zip(part.rows.tolist(), part.index.tolist(), strict=True):
        position = positions[row]
        rng = np.random.default_rng((3, position))
        assert rng.random() >= 0.5
        epoch, place = divmod(position, 11)
        assert triplet == np.random.default_rng((3, epoch, 1)).permutation(11)[place]
        others = [i for i, p in enumerate(PEOPLE) if p == PEOPLE[ONTO[triplet]] and i != ONTO[triplet]]
        if others:
            assert source == others[rng.integers(len(others))]
        else:
            how = [*rng.uniform(-1, 1, 7), rng.uniform(0.9, 1.1), rng.choice([-1.0, 1.0])]
            assert source == ONTO[triplet] and part.changes[alone].tolist() == how
            alone += 1
        assert recipe.mirrored[row] == (rng.random() < 0.5)
    assert alone == len(part.changes) > 0
    for row, position in enumerate(positions):  # alone or in any company, but for the rounding of disturbed pixels
        one = own.__getitems__([position])
        assert same(one[1:], [each[row : row + 1] for each in batch[1:]])
        assert (one.source[0].int() - batch.source[row].int()).abs().max() <= 1


def test_the_only_picture_of_a_person_is_disturbed_as_same_photo_does_it():
    own = mixture()
    position = next(i for i in range(99) if ONTO[int(own.__getitems__([i]).target[0, 0, 0, 0]) - 200] == 5)
    draws = Draws(3, [position])
    draws.random(np.arange(1))  # the kind
    wanted = disturb(FakePhotos().load([5]), changes(draws, np.arange(1)))
    assert torch.equal(own.__getitems__([position]).source, wanted)


@pytest.mark.parametrize("shares", [ONE, HALF, {**HALF, "same_photo": 0.5, "same_person": 0.5, "pair": 0.5}])
@pytest.mark.parametrize("where", ["device", "memory", "file", "off"])
def test_no_place_of_the_pictures_and_no_thread_changes_a_batch(tmp_path, where, shares):
    one, other = mixture(shares, "memory", flip=True), mixture(shares, where, tmp_path, flip=True)
    expected = [one.__getitems__(range(start, start + 16)) for start in range(0, 64, 16)]
    for workers in (0, 2) if where != "off" else (0,):
        got = list(batches(other, 16, 0, 4, 0, 1, workers, pin=False))
        assert all(same(a, b) for a, b in zip(expected, got, strict=True))
    two = [list(batches(other, 8, 0, 4, rank, 2, 0, pin=False)) for rank in range(2)]
    merged = torch.cat([batch.gt for pair in zip(*two, strict=True) for batch in pair])
    assert torch.equal(merged, torch.cat([batch.gt for batch in expected]))


def test_batches_of_a_gpu_lie_on_it():
    own = Mixture(FakeShards(), FakePhotos(), HALF, 3, True, Room("device", device=torch.device("meta")))
    (batch,) = batches(own, 16, 0, 1, 0, 1, 0, pin=False)
    assert [image.device.type for image in batch[:3]] == ["meta"] * 3 and batch.source.shape == (16, 3, 8, 8)


@pytest.mark.parametrize("places", [["file", "device"], ["device", "off"], ["memory", "device"]])
def test_pictures_that_have_room_on_the_device_alone_do_not_stay_there(tmp_path, monkeypatch, places):
    """Triplets and photographs of one sample come together where a thread can copy them."""
    coming = iter(places)
    with monkeypatch.context() as patch:
        patch.setattr(Room, "place", lambda self, size, file: next(coming))
        own = mixture(HALF, folder=tmp_path)
    assert [kept.where for kept in own.kept] == ["memory" if place == "device" else place for place in places]
    assert not own.on_device and same(own.__getitems__(range(16)), mixture(HALF).__getitems__(range(16)))


def test_what_reversed_needs_is_said(tmp_path):
    with pytest.raises(StageError, match="train.mix.reversed: there is no pseudo-GT; add stage 'pseudo_gt'"):
        Mixture(None, FakePhotos(), ONE, 0)
    with pytest.raises(StageError, match="need at least two pictures"):
        Mixture(FakeShards(), None, ONE, 0)
    elsewhere = FakeShards()
    elsewhere.targets = [*FakeShards.targets[:-2], "x/7.png", "gone.png"]
    with pytest.raises(StageError, match="2 of 11 swaps .* are onto pictures that are not among .* 'x/7.png'; make"):
        mixture(shards=elsewhere)
    assert len(mixture({"pseudo_gt": 1.0}, shards=elsewhere).__getitems__(range(4)).gt) == 4
    larger = FakePhotos()
    larger.resolution = 16
    with pytest.raises(StageError, match="the pseudo-GT has 8 pixels and the photographs 16; .*data.resolution=8"):
        mixture(photos=larger)
    picture = np.zeros((8, 8, 3), np.uint8)
    write_shard(tmp_path / "s.tar", [("0", [picture] * 3, {"target": "0.png"}), ("1", [picture] * 3, {"pair": 1})])
    with pytest.raises(DataError, match=r"s\.tar: its samples do not name .*set train.mix.reversed=0"):
        mixture(shards=Shards(tmp_path))


def test_drawn_people_train_by_reversed_swaps_and_resume_bit_for_bit(tmp_path):
    train = {"mix": {"pseudo_gt": 0, "reversed": 1}}
    stages = ["data", "pseudo_gt", "train"]
    whole = experiment(tmp_path, "whole", train=train, stages=stages)
    folder = in_process(whole)
    exp = config.load(whole)
    stream = loop.mixture(exp)
    rows = read_manifest(folder / "data", "train", 64).rows
    shards = Shards(folder / "pseudo_gt")
    assert [rows[i]["file"] for i in stream.onto] == [shards.facts(i)["target"] for i in range(len(shards))]
    batch = stream.__getitems__(range(len(shards)))
    own = shards.load(stream.draw(range(len(shards))).parts[0].index[:, 0].tolist())
    assert torch.equal(batch.target, own[:, 2]) and torch.equal(batch.gt, own[:, 1])
    assert not (batch.source == batch.gt).flatten(1).all(1).any()
    assert measured_teachers(config.load(whole, ["pseudo_gt.teachers=[landmark_warp]"]))
    half = experiment(tmp_path, "half", train=train, stages=stages)
    in_process(half, "train.steps=2")
    same_state(folder, in_process(half))
    lines = [row for row in read_log(folder / "train") if "identity" in row]
    assert len(lines) == 4 and all(row["reconstruction"] > 0 for row in lines)
    with pytest.raises(StageError, match="stage 'pseudo_gt' is not finished"):
        in_process(experiment(tmp_path, "lacks", train=train, stages=["data", "train"]))
