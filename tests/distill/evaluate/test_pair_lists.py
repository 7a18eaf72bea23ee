"""Lists of pairs as evaluation has them: what may be in one, its hash, parts of it, and people under several names."""

import gc
import json
import time

import numpy as np
import pytest
import torch
from helpers.toy_pairs import PEOPLE, SIDE, changed, toy_pairs, values_of

from distill.data.photos import Photos
from distill.evaluate import pairs as pair_lists
from eval.pairs import merged
from eval.sanity import copy_source, copy_target


def test_the_hash_of_a_list_is_what_it_was_when_results_were_kept():
    pairs = toy_pairs()
    assert pairs.hash == "3194111fa9964f7d"
    facts = {"names": tuple("abcdefgh"), "protocol": {"dataset": "toy"}}
    assert changed(pairs, name="other", **facts).hash == pairs.hash
    shape = (PEOPLE, 1, SIDE, SIDE)
    follows = {"occluder": torch.ones(shape, dtype=torch.bool), "regions": torch.ones(shape, dtype=torch.uint8)}
    assert changed(pairs, **follows).hash == pairs.hash
    assert changed(pairs, target_pose_deg=None).hash != pairs.hash


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"names": ("a",) * PEOPLE}, "names: expected 8, all different, got 1 of 8"),
        ({"names": ("a", "b")}, "names: expected 8, all different, got 2 of 2"),
        ({"occluder": torch.zeros(PEOPLE, SIDE, SIDE, dtype=torch.bool)}, "occluder: expected"),
        ({"regions": torch.zeros(PEOPLE, 1, SIDE, SIDE)}, "regions: expected"),
        (
            {"regions": torch.full((PEOPLE, 1, SIDE, SIDE), 4, dtype=torch.uint8)},
            "regions: expected values below 4, got 4",
        ),
    ],
)
def test_new_fields_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        changed(toy_pairs(), **fields)


def test_the_sources_may_be_the_gallery_only_where_the_list_says_so():
    pairs = toy_pairs()
    fields = {"gallery": pairs.source, "gallery_person": pairs.source_person}
    with pytest.raises(ValueError, match="is the source of pair"):
        changed(pairs, **fields)
    own = changed(pairs, **fields, gallery_holds_sources=True)
    value = values_of(copy_source, own, "id_retrieval")["id_retrieval_top1_pct"]
    assert value.value == 100 and "the sources themselves" in value.protocol["gallery"]["definition"]


def test_a_part_of_a_list_has_the_whole_gallery():
    pairs = changed(toy_pairs(), names=tuple("abcdefgh"))
    part = pairs.subset([6, 1])
    assert part.names == ("g", "b") and len(part.gallery) == PEOPLE and part.hash != pairs.hash
    for key in ("source", "target", "exact", "source_person", "target_pose_deg"):
        assert torch.equal(getattr(part, key), getattr(pairs, key)[[6, 1]])
    with pytest.raises(ValueError, match="no pairs; choose"):
        pairs.subset([])


def test_people_under_several_names_are_one():
    pairs = toy_pairs()  # person i onto person i + 1
    one = merged(pairs, [[4, 3], [6, 0]])
    assert len(one) == PEOPLE - 1 and one.protocol["merged"] == {"people": 8, "into": 6, "pairs_left_out": 1}
    assert one.source_person.tolist() == [0, 1, 2, 3, 5, 0, 7]
    assert one.target_person.tolist() == [1, 2, 3, 5, 0, 7, 0]
    assert sorted(one.gallery_person.tolist()) == [0, 1, 2, 3, 5, 7]
    first = pairs.gallery_person.tolist().index(6)  # the gallery runs from 7 to 0: 6 comes before 0
    assert torch.equal(one.gallery[one.gallery_person.tolist().index(0)], pairs.gallery[first])
    value = values_of(copy_target, one, "pose_error")["pose_error_deg"]
    assert value.protocol["data"]["merged"]["into"] == 6


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[0, 99]], "person 99 is not in this list"),
        ([[0, 1], [1, 2]], "person 1 is in two groups"),
        ([list(range(PEOPLE))], "every pair would be of one person"),
    ],
)
def test_merging_that_makes_no_sense_is_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        merged(toy_pairs(), groups)


@pytest.fixture
def no_garbage_collection():
    """Its time depends on everything else in memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_list_below_a_link_finds_its_pictures(tmp_path):
    listing, root = {"pairs": [], "gallery": [{"file": "a/0.png", "person": "a"}]}, tmp_path / "people"
    (root / "a").mkdir(parents=True)
    (root / "a" / "0.png").symlink_to(tmp_path / "elsewhere.png")
    (tmp_path / "deep" / "disk").mkdir(parents=True)
    (tmp_path / "lists").symlink_to(tmp_path / "deep" / "disk")
    path = pair_lists.save({**listing, "pictures": {}}, root, tmp_path / "lists" / "mine")
    written = json.loads(path.read_text())["gallery"][0]["file"]
    assert (path.parent / written).parent.resolve() == root / "a"
    assert written.endswith("a/0.png"), "a picture that is a link keeps its name"


@pytest.mark.usefixtures("no_garbage_collection")
def test_many_people_take_time_in_proportion(tmp_path, monkeypatch):
    """Twenty times as many people took 300 times as long to read."""
    monkeypatch.setattr(pair_lists, "_decode", lambda path, size: np.zeros((3, 16, 16), np.uint8))
    seconds = {}
    for people in (1000, 20000):
        rows = [{"file": f"{i}.png", "person": str(i)} for i in range(people)]
        listing = pair_lists.by_singles("many", Photos(tmp_path, rows, 16), people, 0, "d")
        listing["skipped"] = []
        start = time.process_time()
        pairs, _ = pair_lists.load(listing, tmp_path)
        seconds[people] = time.process_time() - start
        assert len(pairs) == len(pairs.gallery) == people
    assert seconds[20000] < 100 * seconds[1000], seconds
