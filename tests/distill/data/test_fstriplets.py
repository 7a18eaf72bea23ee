"""FSTriplets: layout, every branch against its files, shares, occlusions, errors; and the command that makes one."""

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import script
from helpers.marks import is_marked
from PIL import Image

from distill.config import to_dict
from distill.data.cache import Room
from distill.data.fstriplets import BRANCHES, FOLDERS, FSTriplets
from distill.schema import FSTriplets as Shares
from distill.schema import Mix
from distill.stage import StageError
from distill.train.stream import Mixture, batches
from swapcore.images import DataError, decode

SIZE = 64
DEFAULT = to_dict(Shares())
PEOPLE, IMAGES = 3, 2


def make(folder, *options):
    return script("datasets/make_fstriplets.py", folder, "--size", SIZE, "--device", "cpu", *options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "fst"
    done = make(folder, "--people", str(PEOPLE), "--images", str(IMAGES))
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy to be spoilt."""
    return shutil.copytree(made, tmp_path / "fst")


@pytest.fixture
def occlusions(tmp_path):
    """One opaque green disc on nothing."""
    y, x = np.mgrid[:40, :40] - 19.5
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[np.hypot(x, y) < 19] = (0, 255, 0, 255)
    (tmp_path / "things").mkdir()
    Image.fromarray(pixels).save(tmp_path / "things" / "disc.png")
    return str(tmp_path / "things")


def draws(n, seed=0):
    return [np.random.default_rng((seed, i)) for i in range(n)]


def alone(folder, branch, **options):
    return FSTriplets(folder, SIZE, {branch: 1.0}, **options)


def names(data, picture):
    """Files that a picture equals, as it is or mirrored; none where its colours were changed."""
    return {
        data.files[i].relative_to(data.folder).as_posix()
        for i in range(len(data.files))
        if any(torch.equal(picture, other) for other in (data.pictures[[i]][0], data.pictures[[i]][0].flip(-1)))
    }


def test_what_the_command_makes_is_whole_and_counted(made):
    data = FSTriplets(made, SIZE, DEFAULT)
    assert set(data.counts) == set(BRANCHES) == set(DEFAULT) - {"different_poses"}
    expected = {"vanilla": PEOPLE * IMAGES, "vanilla_same": PEOPLE * IMAGES, "edited_target": PEOPLE * IMAGES}
    assert data.counts == dict.fromkeys(BRANCHES, PEOPLE) | expected
    assert len(data.files) == len(set(data.files)) == PEOPLE * (3 * IMAGES + 16)
    assert all(map(is_marked, data.files))
    for name, branch in BRANCHES.items():
        if branch.folder == "vanilla":
            continue
        for pair in data.pairs[branch.folder]:
            before, after = data.pictures[[pair.original, *pair.edits]].float()
            assert 0.1 < (before - after).abs().mean() < 60, f"{name}: the edit changes something, not everything"


def test_the_command_goes_on_where_it_stopped(made, folder):
    lost = [folder / "vanilla/p00001/0.png", folder / "target_as_gt/bald/p00002.edited.png"]
    kept = folder / "source_as_gt/fat/p00000.edited.png"
    before = kept.stat().st_mtime_ns
    for path in lost:
        path.unlink()
    done = make(folder, "--people", str(PEOPLE), "--images", str(IMAGES))
    assert done.returncode == 0 and "0/2" in done.stderr, done.stderr
    assert all(p.read_bytes() == (made / p.relative_to(folder)).read_bytes() for p in lost)
    assert kept.stat().st_mtime_ns == before
    done = make(folder, "--people", str(PEOPLE), "--images", str(IMAGES), "--seed", "1")
    assert done.returncode == 2 and "made with other settings" in done.stderr


def test_shares_and_the_table_are_the_published_ones(made):
    assert sum(DEFAULT.values()) == pytest.approx(1)
    assert sum(DEFAULT[n] * (branch.gt is not None) for n, branch in BRANCHES.items()) == pytest.approx(0.40)
    assert sum(DEFAULT[n] for n, branch in BRANCHES.items() if not branch.src_as_true) == pytest.approx(0.15)
    assert set(FOLDERS) == {
        "vanilla", "edited_target", "source_as_gt/beard", "source_as_gt/fat",
        *(f"target_as_gt/{n}" for n in "bald grin forehead_hair_1 forehead_hair_2 glasses sun_glasses".split()),
    }  # fmt: skip
    data, n = FSTriplets(made, SIZE, DEFAULT), 6000
    found = Counter(data.choose(rng).branch for rng in draws(n))
    for name in BRANCHES:
        p = DEFAULT[name]
        assert abs(found[name] - n * p) < 4 * (n * p * (1 - p)) ** 0.5, name
    scaled = FSTriplets(made, SIZE, {"vanilla": 3.0, "grin": 1.0})
    found = Counter(scaled.choose(rng).branch for rng in draws(n))
    assert set(found) == {"vanilla", "grin"} and abs(found["grin"] / n - 0.25) < 0.03


@pytest.mark.parametrize("name", BRANCHES)
def test_each_branch_shows_its_files_in_their_places(made, name):
    branch, data, n = BRANCHES[name], alone(made, name), 24
    data.keep(Room())
    images, with_gt, src_as_true = data.sample(draws(n))
    assert images.shape == (n, 3, 3, SIZE, SIZE) and images.dtype == torch.uint8
    assert with_gt.tolist() == [0.0 if name == "vanilla" else 1.0] * n and with_gt.dtype == torch.float32
    assert src_as_true.tolist() == [branch.folder.split("/")[0] != "target_as_gt"] * n
    sources, targets, gts = images.unbind(1)
    if name == "vanilla":
        assert not gts.any()
    elif "source_as_gt" in branch.folder:
        assert torch.equal(gts, sources) and not torch.equal(gts, targets)
    elif name != "edited_target":
        assert torch.equal(gts, targets) and not torch.equal(gts, sources)
    seen = Counter()
    for source, target, gt in images:
        of_source, of_target, of_gt = (names(data, picture) for picture in (source, target, gt))
        if not (of_source and of_target):
            continue  # its colours were changed
        (s,), (t,) = of_source, of_target
        assert s.startswith(branch.folder) and t.startswith(branch.folder)
        if name == "vanilla":
            assert s != t
        elif name == "vanilla_same":
            assert s == t
        elif name == "edited_target":
            (g,) = of_gt
            assert ".original." in s and t == g.replace(".original.", ".edited.") and s != g
            assert s.split("/")[1] == g.split("/")[1], "one person"
        else:
            kinds = tuple(name.split(".")[-2] for name in (s, t))
            assert s.replace(f".{kinds[0]}.", f".{kinds[1]}.") == t and kinds[0] != kinds[1]
            seen[kinds[0]] += 1
    if "_as_gt" in branch.folder:
        either = {"original", "edited"} if branch.source == "either" else {branch.source}
        assert set(seen) == either and min(seen.values()) >= 2
    if not branch.augmented:
        assert sum(seen.values()) == n, "these are shown as they are"


def test_half_of_the_pairs_are_turned_round(made):
    data = alone(made, "glasses")
    edited = [".edited." in data.files[data.choose(rng).source].name for rng in draws(2000)]
    assert abs(np.mean(edited) - 0.5) < 4 * 0.5 / 2000**0.5


def test_source_and_target_are_mirrored_each_by_itself(made):
    data = alone(made, "vanilla_same")
    images = data.sample(draws(60))[0]
    same = [torch.equal(s, t) for s, t, _ in images]
    mirrored = [torch.equal(s, t.flip(-1)) for s, t, _ in images]
    assert sum(same) >= 5 and sum(mirrored) >= 5


def test_samples_depend_on_their_generator_alone(made):
    data = FSTriplets(made, SIZE, {**DEFAULT, "vanilla": 0.1})
    whole = data.sample(draws(40))
    parts = [data.sample([rng]) for rng in reversed(draws(40))]
    for column, pieces in zip(whole, zip(*reversed(parts), strict=True), strict=True):
        assert torch.equal(column, torch.cat(pieces))
    data.keep(Room())
    again = data.sample(draws(40))
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    decoded = data.pictures.decoded.sum()
    data.pictures.load = None  # nothing is decoded twice
    assert torch.equal(data.sample(draws(40))[0], whole[0]) and data.pictures.decoded.sum() == decoded


@pytest.mark.parametrize("name", ["vanilla", "vanilla_same", "edited_target", "beard", "grin"])
def test_an_occlusion_lies_on_target_and_gt_and_on_nothing_else(made, occlusions, name):
    n = 24
    plain = alone(made, name).sample(draws(n))[0]
    images = alone(made, name, occlusions=occlusions, occlusion_share=1.0).sample(draws(n))[0]
    green = torch.tensor([0, 255, 0], dtype=torch.uint8).view(1, 3, 1, 1)
    assert torch.equal(images[:, 0], plain[:, 0]), "the source stays as it is"
    on_target = (images[:, 1] == green).all(1)
    areas = on_target.flatten(1).sum(1) / SIZE**2
    assert areas.min() > 0.6 * np.pi / 4 * 0.25**2 and areas.max() < np.pi / 4 * 0.375**2
    assert len({tuple(torch.nonzero(m).float().mean(0).round().tolist()) for m in on_target}) > n / 2, "all over it"
    far = (images[:, 1] == plain[:, 1]).all(1).flatten(1).float().mean(1)
    assert far.min() > 0.8, "the rest of the target stays as it is"
    if name == "vanilla":
        assert not images[:, 2].any()
    else:
        changed = on_target[:, None].expand_as(images[:, 2])
        difference = images[:, 2][changed].int() - images[:, 1][changed].int()
        assert difference.abs().max() <= 2, "GT shows the same thing in the same place"
        near = torch.nn.functional.max_pool2d(on_target.float(), 9, 1, 4).bool()
        assert not ((images[:, 2] != plain[:, 2]).any(1) & ~near).any(), "the rest of GT stays as it is"
    some = alone(made, name, occlusions=occlusions, occlusion_share=0.3).sample(draws(200))[0][:, 1]
    share = ((some == green).all(1).flatten(1).sum(1) > 50).float().mean()
    assert abs(share - 0.3) < 0.13


def test_the_originals_two_trees_of_edited_target(made, tmp_path):
    target = tmp_path / "edited_target"
    paths = sorted((made / "edited_target").rglob("*.png"))
    for path in paths:
        name, kind, _ = path.name.split(".")
        person = {"p00000": "p1", "p00001": "p10", "p00002": "q"}[path.parent.name]
        for copy in ("", "_age", "_smile") if kind == "edited" else ("",):
            to = target / kind / f"{person}{copy}" / f"{name}.png"
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, to)
    (target / "edited/q_age/0.png").unlink()
    data = alone(tmp_path, "edited_target")
    assert data.counts["edited_target"] == 6
    assert sorted(len(pair.edits) for pair in data.pairs["edited_target"]) == [2, 3, 3, 3, 3, 3]
    for rng in draws(100):
        chosen = data.choose(rng)
        source, edited, gt = (data.files[i].relative_to(target) for i in chosen[1:])
        assert source.parts[:2] == gt.parts[:2] and source.name != gt.name == edited.name
        assert edited.parts[0] == "edited" and edited.parts[1].split("_")[0] == gt.parts[1], "p1 is not p10"
    (target / "original/q/1.png").unlink()
    with pytest.raises(DataError, match=r"edited/q/1.png: has no partner original/q/1.png"):
        alone(tmp_path, "edited_target")


def spoil_missing(folder):
    shutil.rmtree(folder / "source_as_gt" / "fat")


def spoil_partner(folder):
    (folder / "target_as_gt/glasses/p00001.edited.png").unlink()


def spoil_original(folder):
    (folder / "edited_target/p00001/1.original.png").unlink()


def spoil_kind(folder):
    shutil.copy(folder / "vanilla/p00000/0.png", folder / "target_as_gt/bald/x.png")


def spoil_empty(folder):
    for path in (folder / "source_as_gt/beard").iterdir():
        path.unlink()


def spoil_vanilla(folder):
    for path in sorted((folder / "vanilla").rglob("*.png"))[1:]:
        path.unlink()


def spoil_people(folder):
    for path in (folder / "edited_target").rglob("0.*.png"):
        path.unlink()


def spoil_person(folder):
    for path in (folder / "edited_target/p00000").iterdir():
        path.rename(folder / "edited_target" / path.name)


@pytest.mark.parametrize(
    "spoil, said",
    [
        (spoil_missing, r"source_as_gt/fat: no such folder; branch 'fat' needs a pair NAME.*train.fstriplets.fat=0"),
        (spoil_partner, r"glasses/p00001.original.png: has no partner p00001.edited.png"),
        (spoil_original, r"p00001/1.edited.png: has no partner 1.original.png"),
        (spoil_kind, r"bald/x.png: neither NAME.original.EXT nor NAME.edited.EXT"),
        (spoil_empty, r"source_as_gt/beard: 0 found; branch 'beard' needs a pair"),
        (spoil_vanilla, r"vanilla: 1 found; branch 'vanilla' needs two pictures"),
        (spoil_people, r"edited_target: 3 found; branch 'edited_target' needs a person with two photographs"),
        (spoil_person, r"0.original.png: lies in no person's folder"),
        (lambda f: (f / "vanila").mkdir(), r"vanila: no folder of FSTriplets; did you mean 'vanilla'\?"),
        (lambda f: (f / "target_as_gt/sunglasses").mkdir(), r"did you mean 'target_as_gt/sun_glasses'\?"),
        (lambda f: (f / "zebra").mkdir(), r"zebra: no folder of FSTriplets; known: .*vanilla"),
        (
            lambda f: shutil.copy(f / "vanilla/p00000/0.png", f / "source_as_gt/a.png"),
            r"source_as_gt/a.png: a picture that lies in no branch",
        ),
    ],
)
def test_a_spoilt_folder_is_refused_before_anything_is_drawn(folder, spoil, said):
    spoil(folder)
    with pytest.raises(DataError, match=said):
        FSTriplets(folder, SIZE, DEFAULT)


def test_what_is_not_asked_for_may_be_absent(folder):
    shutil.rmtree(folder / "source_as_gt")
    (folder / "shapenet_png").mkdir()
    (folder / "vanilla" / ".half-written.png").write_bytes(b"")
    data = FSTriplets(folder, SIZE, {**DEFAULT, "beard": 0.0, "fat": 0.0})
    assert data.counts["beard"] == 0 and data.counts["vanilla"] == PEOPLE * IMAGES
    assert {data.choose(rng).branch for rng in draws(500)} == set(BRANCHES) - {"beard", "fat"}


def test_people_with_one_photograph_are_their_own_source(folder):
    """As in the original."""
    for path in (folder / "edited_target/p00000").glob("0.*"):
        path.unlink()
    data = alone(folder, "edited_target")
    chosen = [data.choose(rng) for rng in draws(60)]
    alike = {data.files[c.source].parent.name for c in chosen if c.source == c.gt}
    others = {data.files[c.source].parent.name for c in chosen if c.source != c.gt}
    assert alike == {"p00000"} and others == {"p00001", "p00002"}


def test_damaged_pictures_are_named(folder):
    path = folder / "target_as_gt/grin/p00000.edited.png"
    path.write_bytes(path.read_bytes()[:500])
    data = alone(folder, "grin")
    with pytest.raises(DataError, match=r"grin/p00000.edited.png: not a readable picture"):
        data.sample(draws(30))
    Image.new("RGB", (64, 48)).save(path)
    with pytest.raises(DataError, match=r"grin/p00000.edited.png: 64x48 pixels, not a square crop"):
        data.sample(draws(30))


@pytest.mark.parametrize(
    "shares, said",
    [
        ({"vanila": 1.0}, r"train.fstriplets.vanila: no such branch; did you mean 'vanilla'\?"),
        ({"vanilla": 1.0, "different_poses": 0.1}, "different_poses: no such branch; the original names it"),
        ({"vanilla": -1.0}, "vanilla: expected a share of 0 or more"),
        ({"vanilla": 0.0, "different_poses": 0.0}, "every share is 0"),
    ],
)
def test_bad_shares(made, shares, said):
    with pytest.raises(DataError, match=said):
        FSTriplets(made, SIZE, shares)


def test_bad_folders(made, tmp_path):
    with pytest.raises(DataError, match="nowhere: no such folder; expected edited_target, .*vanilla in it"):
        FSTriplets(tmp_path / "nowhere", SIZE, DEFAULT)
    with pytest.raises(DataError, match="data.occlusions: .*none: no such folder"):
        FSTriplets(made, SIZE, DEFAULT, str(tmp_path / "none"), 0.5)
    Image.new("RGB", (8, 8)).save(tmp_path / "opaque.png")
    with pytest.raises(DataError, match="opaque.png: mode RGB, not RGBA"):
        FSTriplets(made, SIZE, DEFAULT, str(tmp_path), 0.5)
    (tmp_path / "opaque.png").write_bytes(b"?")
    with pytest.raises(DataError, match="opaque.png: not a readable picture"):
        FSTriplets(made, SIZE, DEFAULT, str(tmp_path), 0.5)


def test_other_sizes_are_resized(made):
    images = FSTriplets(made, 32, {"beard": 1.0}).sample(draws(4))[0]
    assert images.shape == (4, 3, 3, 32, 32)
    assert any(
        np.array_equal(images[0, 0].numpy(), decode(path, 32))
        for path in (made / "source_as_gt/beard").glob("*.original.png")
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_the_mixture_streams_it(made, occlusions, workers):
    shares = {**to_dict(Mix()), "pseudo_gt": 0.0, "fstriplets": 1.0}
    data = FSTriplets(made, SIZE, {**DEFAULT, "vanilla": 0.3}, occlusions, 0.5)
    mixture = Mixture(None, None, shares, seed=3, flip=True, fstriplets=data)
    one = list(batches(mixture, 8, 0, 4, 0, 1, workers, pin=False))
    two = [list(batches(mixture, 4, 0, 4, rank, 2, workers, pin=False)) for rank in range(2)]
    for i, batch in enumerate(one):
        for k, column in enumerate(batch):
            assert torch.equal(column, torch.cat([two[0][i][k], two[1][i][k]]))
        ready = batch.on_device(torch.device("cpu")).check()
        assert (ready.gt[ready.with_gt == 0] == -1).all() and ready.weight.eq(1).all()
    with_gt = torch.cat([b.with_gt for b in one])
    real = torch.cat([b.src_as_true for b in one])
    assert 0 < with_gt.sum() < len(with_gt) and 0 < real.sum() < len(real)
    with pytest.raises(StageError, match="train.mix.fstriplets: there is no folder"):
        Mixture(None, None, shares, seed=3)
