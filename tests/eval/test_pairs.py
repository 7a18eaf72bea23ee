"""Lists of pairs: drawn from people, from single photographs and from synthetic people, written, read and refused."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared
from helpers.make_pairs import COMMAND, make
from PIL import Image

import teachers
from distill.data import synthetic
from distill.data.photos import Photos, read_manifest
from distill.evaluate import pairs as lists
from distill.pseudo_gt.generate import draw_pair
from eval.pairs import REGIONS
from swapcore.files import sha256
from swapcore.images import DataError, to_uint8
from teachers.exact import IDENTITY, SEGMENTS


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Photos:
    folder = tmp_path_factory.mktemp("people")
    synthetic.write(folder, {"test": (5, 3)}, 48, seed=3, progress=False)
    return read_manifest(folder, "test", 48)


def drawn(people, count, seed):
    return lists.load(lists.by_people("toy", people, count, seed, "toy"), people.root)[0]


def test_the_gallery_never_holds_a_source_and_every_person_is_a_source(people):
    pairs = drawn(people, 20, seed=1)
    assert len(pairs.gallery) == 5 and sorted(pairs.gallery_person.tolist()) == list(range(5))
    assert (np.bincount(pairs.source_person.numpy()) == 4).all()
    assert (pairs.source_person != pairs.target_person).all()
    for image in pairs.source:
        assert not any(torch.equal(image, other) for other in pairs.gallery)


def test_pairs_are_a_function_of_the_seed(people):
    first, again, other = (drawn(people, 10, seed).hash for seed in (1, 1, 2))
    assert first == again != other


def test_the_exact_swap_of_a_pair_has_the_targets_surroundings(people):
    pairs = drawn(people, 8, seed=1)
    corner = (pairs.exact.int() - pairs.target.int())[:, :, :3, :3].abs().float().mean()
    face = (pairs.exact.int() - pairs.target.int())[:, :, 16:36, 16:32].abs().float().mean()
    assert corner < 1 and face > 10
    row = people.rows[0]
    assert pairs.target_pose_deg.shape == (8, 3) and pairs.mask.float().mean() > 0.1
    assert pairs.occluder.shape == pairs.regions.shape == (8, 1, 48, 48)
    assert len(row["identity"]) == len(IDENTITY) and len(row["landmarks"]) == 5 and row["person"].startswith("test-")


def test_the_regions_are_those_of_the_exact_swaps(people):
    """Drawn in the same pass, so of the same picture; smaller ones have the nearest pixel's region."""
    listing = lists.by_people("toy", people, 8, 1, "toy")
    rows = [[listing["pictures"][pair[side]] for pair in listing["pairs"]] for side in ("source", "target")]
    exact, regions = lists.drawn_swaps(*rows, 48)
    drawn = teachers.build("exact").drawn(*rows, 48, extra=("segmentation",))
    swaps = teachers.build("exact")(*[torch.zeros(8, 3, 48, 48)] * 2, *rows)
    assert torch.equal(swaps, drawn.image) and torch.equal(exact, to_uint8(swaps))
    assert torch.equal(exact, lists.exact_swaps(*rows, 48))
    classes = {"eyes": ("eyes", "brows"), "mouth": ("lips", "mouth", "teeth"), "skin": ("skin",)}
    for region, names in classes.items():
        wanted = torch.isin(drawn.segmentation, torch.tensor([SEGMENTS.index(name) for name in names]))
        assert wanted.any() and torch.equal(regions == REGIONS.index(region), wanted), region
    small = lists.drawn_swaps(*rows, 24, drawn_at=48)[1]  # of two pixels the second, whose centre is as near
    assert small.shape == (8, 1, 24, 24) and torch.equal(small, regions[:, :, 1::2, 1::2])


def test_drawn_pictures_are_the_rows_drawn_again(people):
    rows = [people.rows[i] for i in (0, 4)]
    again = to_uint8(teachers.build("exact")(*[torch.zeros(2, 3, 48, 48)] * 2, rows, rows))
    assert (again.int() - people.load([0, 4]).int()).abs().max() <= 1


def test_splits_share_nobody():
    train, test = (synthetic.people(split, 0, 50, 1)[0] for split in ("train", "test"))
    assert torch.cdist(train, test).min() > 1


def test_pairs_of_the_pseudo_gt_are_of_two_people_and_fixed_by_number(people):
    pairs = [draw_pair(people, 7, number) for number in range(50)]
    assert all(people.rows[s]["person"] != people.rows[t]["person"] for s, t in pairs)
    assert pairs == [draw_pair(people, 7, number) for number in range(50)] and len(set(pairs)) > 25


def test_too_few_people_are_told(people):
    alone = Photos(people.root, people.rows[:3], 48)
    with pytest.raises(ValueError, match="1 people for evaluation"):
        lists.by_people("toy", alone, 4, 1, "toy")
    singles = Photos(people.root, people.rows[::3], 48)
    with pytest.raises(ValueError, match="5 people for evaluation, 0 of them with two pictures"):
        lists.by_people("toy", singles, 4, 1, "toy")
    with pytest.raises(ValueError, match="two people are needed"):
        lists.by_singles("toy", Photos(people.root, people.rows[:1], 48), 4, 1, "toy")


def test_singles_are_each_a_source_as_often_and_their_own_gallery(people):
    singles = Photos(people.root, people.rows[::3], 48)
    pairs, skipped = lists.load(lists.by_singles("toy", singles, 10, 1, "toy"), people.root)
    assert not skipped and pairs.gallery_holds_sources
    assert (np.bincount(pairs.source_person.numpy()) == 2).all()
    assert (pairs.source_person != pairs.target_person).all()
    assert "the sources themselves" in pairs.protocol["gallery"]


def test_a_list_says_the_same_after_it_was_written(people, tmp_path):
    pairs = drawn(people, 9, seed=4)
    path = lists.save(lists.by_people("toy", people, 9, 4, "toy"), people.root, tmp_path / "deep" / "list")
    for place in (path, path.parent):
        again, skipped = lists.read(place)
        assert again.hash == pairs.hash and again.names == pairs.names and not skipped
    assert not (tmp_path / "deep" / "list").joinpath("pairs.json").read_text().count(str(tmp_path))
    assert lists.read(path, resolution=32)[0].resolution == 32


def test_names_of_one_person_are_merged(people, tmp_path):
    path = lists.save(lists.by_people("toy", people, 20, 4, "toy"), people.root, tmp_path)
    first, second, *_ = names = sorted({row["person"] for row in people.rows})
    (tmp_path / "same.txt").write_text(f"{first}, {second} nobody\nnobody else\n")
    merged, _ = lists.read(path, same_people=tmp_path / "same.txt")
    assert len(merged.gallery) == len(names) - 1 and len(merged) < 20
    for content, told in (("nobody else\n", "no line names two people"), (None, "no such file")):
        (tmp_path / "same.txt").unlink() if content is None else (tmp_path / "same.txt").write_text(content)
        with pytest.raises(DataError, match=told):
            lists.read(path, same_people=tmp_path / "same.txt")


def photos(folder, people, names):
    """Some synthetic pictures as a folder of photographs."""
    for row, name in zip(people.rows, names, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.open(people.root / row["file"]).save(folder / name)
    return folder


def test_missing_and_damaged_pictures_are_skipped_by_name(people, tmp_path):
    names = [f"person{i // 3}/{i % 3}.png" for i in range(15)]
    folder = photos(tmp_path / "photos", people, names)
    made = make("people", folder, "--out", tmp_path / "list", "--count", 20, "--resolution", 48)
    assert made.returncode == 0 and "20 pairs, gallery of 5, 0 skipped" in made.stdout, made.stderr
    (folder / "person1/1.png").unlink()
    (folder / "person2/2.png").write_bytes(b"no picture")
    pairs, skipped = lists.read(tmp_path / "list")
    assert 0 < len(pairs) < 20 and len(pairs) + len(skipped) == 20 and pairs.protocol["skipped"] == len(skipped)
    assert any("person1/1.png" in s["reason"] for s in skipped) and any("person2/2.png" in s["reason"] for s in skipped)
    (folder / "person3/0.png").unlink()
    with pytest.raises(DataError, match="gallery, person person3: .*person3/0.png"):
        lists.read(tmp_path / "list")


def test_nothing_left_is_an_error(people, tmp_path):
    folder = photos(tmp_path / "photos", people, [f"person{i // 3}/{i % 3}.png" for i in range(15)])
    assert make("people", folder, "--out", tmp_path / "list", "--count", 4, "--resolution", 48).returncode == 0
    for i in range(5):
        for j in (1, 2):
            (folder / f"person{i}/{j}.png").unlink()
    with pytest.raises(DataError, match="none is left of 4; the first: 00000: .*no"):
        lists.read(tmp_path / "list")


def test_the_command_reads_single_photographs_and_synthetic_people(people, tmp_path):
    folder = photos(tmp_path / "flat", people, [f"{i}.png" for i in range(6)])
    made = make("singles", folder, "--out", tmp_path / "flat_list", "--count", 6, "--resolution", 48)
    assert made.returncode == 0 and "6 pairs, gallery of 6" in made.stdout, made.stderr
    other = make("singles", folder, "--out", tmp_path / "flat_list", "--count", 5, "--resolution", 48)
    assert other.returncode == 2 and "flat_list/pairs.json: holds another list" in other.stderr
    words = ["synthetic", people.root, "--out", tmp_path / "list", "--count", "8", "--resolution", "48"]
    made = subprocess.run([sys.executable, COMMAND, *words], capture_output=True, text=True)  # as people give it
    assert made.returncode == 0 and "8 pairs, gallery of 5" in made.stdout, made.stderr
    pairs, _ = lists.read(tmp_path / "list")
    assert pairs.exact is not None and pairs.protocol["alignment"] == "rendered in the canonical frame"
    assert lists.read(tmp_path / "flat_list")[0].protocol["alignment"] == "as given"


def test_synthetic_people_are_never_enlarged(people, tmp_path):
    made = make("synthetic", people.root, "--out", tmp_path / "list", "--resolution", 96)
    assert made.returncode == 2 and "its pictures have 48 pixels a side, --resolution is 96" in made.stderr
    assert "give --resolution 48, or draw them with datasets/synthetic.py --size 96" in made.stderr


def test_exact_swaps_are_resized_like_the_pictures(people, tmp_path):
    """Of pictures that are shown smaller than they were drawn, the exact swap is that of 48 pixels, resized."""
    listing = lists.by_people("toy", people, 6, 4, "toy")
    path = lists.save(listing, people.root, tmp_path / "list")
    whole, small = lists.read(path)[0], lists.read(path, resolution=32)[0]
    for name in ("source", "exact"):
        smaller = [
            np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).resize((32, 32), Image.Resampling.LANCZOS))
            for image in getattr(whole, name)
        ]
        assert np.array_equal(getattr(small, name).permute(0, 2, 3, 1).numpy(), np.stack(smaller)), name
    assert make("synthetic", people.root, "--out", tmp_path / "32", "--count", 6, "--resolution", 32).returncode == 0
    drawn_small = lists.read(tmp_path / "32")[0]
    assert drawn_small.exact.shape[-1] == 32


def test_a_picture_of_two_people_is_left_out_of_a_list(people, tmp_path):
    """One file under two people, and one file as gallery and as source of a person."""
    folder = photos(tmp_path / "photos", people, [f"person{i // 3}/{i % 3}.png" for i in range(15)])
    shutil.copy(folder / "person0/1.png", folder / "person4/9.png")
    shutil.copy(folder / "person2/0.png", folder / "person2/0_copy.png")
    (folder / "person1/._0.png").write_bytes(b"\0\5\26\7")
    made = make("people", folder, "--out", tmp_path / "list", "--count", 40, "--resolution", 48)
    assert made.returncode == 0 and "3 skipped" in made.stdout, made.stderr
    pairs, skipped = lists.read(tmp_path / "list")
    assert {s["what"]: s["reason"] for s in skipped} == {
        "person4/9.png": "the same picture as person0/1.png",
        "person2/0_copy.png": "the same picture as person2/0.png",
        "person1/._0.png": "a hidden file",
    }
    gallery = {image.numpy().tobytes() for image in pairs.gallery}
    assert len(gallery) == 5 and not gallery & {image.numpy().tobytes() for image in pairs.source}


@needs_shared
def test_the_protocol_of_aligned_crops_names_the_detector(tmp_path):
    folder = tmp_path / "photos"
    for person in sorted((SHARED / "faces" / "heldout").iterdir())[:2]:
        for path in sorted(person.iterdir())[:2]:
            (folder / person.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / person.name)
    words = ["people", folder, "--align", "--weights", SHARED / "weights", "--count", 2, "--out", tmp_path / "list"]
    made = make(*words, "--resolution", 64)
    assert made.returncode == 0, made.stderr
    protocol = lists.read(tmp_path / "list")[0].protocol
    assert protocol["detector"] == "yunet" and protocol["alignment"] == "by detected landmarks"
    assert protocol["detector_hash"] == sha256(SHARED / "weights" / "yunet_n_dynamic.onnx")[:16]
    made = make(*words, "--resolution", 96)
    assert made.returncode == 2 and "made from other inputs: size was 64, now 96" in made.stderr
    assert made.stderr.count("error: ") == 1 and "Traceback" not in made.stderr


def test_a_folder_of_one_person_is_named_with_what_was_left_out_of_it(people, tmp_path):
    folder = photos(tmp_path / "photos", people, ["alice/0.png", "alice/1.png"])
    (folder / "bob.png").write_bytes(b"no picture")
    made = make("people", folder, "--out", tmp_path / "list", "--resolution", 48)
    assert made.returncode == 2 and f"error: {folder}: 1 people for evaluation" in made.stderr, made.stderr
    assert "one of them with two pictures; left out: 1, the first: bob.png: not a readable" in made.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["people", "absent"], "absent: no such folder"),
        (["synthetic", "absent"], "no manifest"),
        (["people", ".", "--count", "0"], "argument --count: expected a whole number from 1 on, got '0'"),
        (["people", ".", "--resolution", "0"], "argument --resolution: expected a whole number from 16 to 4096"),
        (
            ["faceforensics", ".", "--splits", "t.json", "--resolution", "-5"],
            "--resolution: expected a whole",
        ),
    ],
)
def test_mistakes_of_the_command_are_one_line(arguments, told, tmp_path):
    made = make(*arguments, "--out", tmp_path / "list")
    assert made.returncode == 2 and told in made.stderr and "Traceback" not in made.stderr
    assert not (tmp_path / "list").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tree: tree.pop("gallery"), "lacks gallery"),
        (lambda tree: tree.update(format=9), "no list of pairs of format 1"),
        (lambda tree: tree["pairs"][0].pop("source"), "damaged list"),
        (lambda tree: tree.update(gallery=[]), "pairs 'toy': gallery: empty; write the list again"),
    ],
)
def test_damaged_lists_are_refused(change, told, people, tmp_path):
    path = lists.save(lists.by_people("toy", people, 3, 4, "toy"), people.root, tmp_path)
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=told):
        lists.read(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        lists.read(path)
    with pytest.raises(DataError, match="no such list; `python datasets/make_pairs.py --help`"):
        lists.read(tmp_path / "elsewhere")
