"""Stage pseudo_gt: who swaps what, what is dropped and why, what is computed once, kills, processes and places."""

import json
import os
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from torch import nn

import teachers
from distill.data import prepare as data
from distill.data.photos import Photos
from distill.pseudo_gt import generate as pseudo_gt
from distill.pseudo_gt.generate import draw_teacher
from distill.pseudo_gt.pipeline import ahead, behind
from distill.pseudo_gt.quality import Batch, Memory, Swaps, judge
from distill.pseudo_gt.shards import Shards, write_shard
from distill.pseudo_gt.store import Store
from distill.schema import Data, Eval, Experiment, PseudoGT, Quality, Student, Teacher
from distill.stage import StageError
from distill.train.stream import Mixture, batches
from swapcore.images import DataError

SIZE = 64


class Mixer(teachers.Teacher):
    """Mixes target and source pixels: 0 is the target, 1 the source. No face in what is darker than `darkest`."""

    name = "mixer"
    sources: list[bytes] = []  # one per row that `identity` was given
    calls = 0

    def __init__(self, weights=None, amount=0.5, darkest=-2.0, fails_at=None, spoils=False):
        super().__init__(weights, amount=amount, darkest=darkest, spoils=spoils)
        self.amount, self.darkest, self.fails_at, self.spoils = amount, darkest, fails_at, spoils

    def _need_faces(self, images):
        dark = images.mean((1, 2, 3)) < self.darkest
        if dark.any():
            raise teachers.NoFace("no face", dark.nonzero()[:, 0].tolist())

    def identity(self, source, rows=None):
        Mixer.sources += [image.numpy().tobytes() for image in source]
        self._need_faces(source)
        return source, source.mean((1, 2, 3))

    def swap(self, identity, target, rows=None):
        self._need_faces(target)
        Mixer.calls += 1
        if Mixer.calls == self.fails_at:
            raise ValueError("the teacher broke")
        swap = torch.lerp(target, identity[0], self.amount)
        if self.spoils:
            swap[0, 0, 0, 0] = float("nan")
        return swap


class Network(teachers.Teacher):
    """A small network: convolutions, a linear identity, batch after batch the same function."""

    name = "network"
    autocast = True

    def __init__(self, weights=None, **options):
        super().__init__(weights, **options)
        torch.manual_seed(0)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2), nn.ReLU(), nn.Conv2d(24, 40, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(64)
        )
        self.encoder(torch.zeros(1, 3, SIZE, SIZE))
        self.take, self.give = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 3, 3, padding=1)
        self.style = nn.Linear(64, 24)
        self.dtypes = set()

    def identity(self, source, rows=None):
        return (self.encoder(source),)

    def swap(self, identity, target, rows=None):
        maps = self.take(target)
        self.dtypes.add(maps.dtype)
        return target + 0.3 * self.give(torch.relu(maps + self.style(identity[0])[..., None, None]))


@pytest.fixture(autouse=True)
def known_teachers(monkeypatch):
    monkeypatch.setitem(teachers.TEACHERS, "mixer", Mixer)
    monkeypatch.setitem(teachers.TEACHERS, "network", Network)
    Mixer.sources, Mixer.calls = [], 0


def process(rank=0, world=1):
    """One process of `world` as Accelerate describes it; what it prints is kept."""
    said = []
    return SimpleNamespace(
        process_index=rank, num_processes=world, is_main_process=rank == 0, device=torch.device("cpu"),
        wait_for_everyone=lambda: None, print=said.append, said=said,
    )  # fmt: skip


class Record(dict):
    """A tracker that keeps the numbers it is given."""

    def metrics(self, values, step=None):
        self.update(values)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    exp = Experiment(
        name="drawn", runs=str(tmp_path_factory.mktemp("data")),
        data=Data(resolution=SIZE, train_people=6, train_images=2, val_people=2, test_people=2, test_images=2),
    )  # fmt: skip
    data.run(exp, process(), Record())
    return exp


@pytest.fixture
def experiment(drawn, tmp_path):
    def make(name="x", quality=None, **settings) -> Experiment:
        settings = {"pairs": 36, "shard_size": 16, "batch_size": 4, **settings}
        exp = Experiment(
            name=name, runs=str(tmp_path), data=drawn.data, eval=Eval(pose=None),
            pseudo_gt=PseudoGT(quality=quality or Quality(), **settings),
        )  # fmt: skip
        exp.folder.mkdir(exist_ok=True)
        if not (exp.folder / "data").exists():
            (exp.folder / "data").symlink_to(drawn.folder / "data")
        return exp

    return make


def run(exp, accelerator=None):
    """The stage; its index, its numbers, and what it said."""
    accelerator, tracker = accelerator or process(), Record()
    pseudo_gt.run(exp, accelerator, tracker)
    store = Store(exp.pseudo_gt.destination or exp.folder / "pseudo_gt")
    index = store.read_json("index.json") if store.exists("index.json") else None
    return index, tracker, "\n".join(accelerator.said)


def shard_bytes(exp) -> dict[str, bytes]:
    store = Store(exp.pseudo_gt.destination or exp.folder / "pseudo_gt")
    return {name: store.read(name) for name in store.sizes() if name.endswith(".tar")}


def facts(exp) -> list[dict]:
    shards = Shards(exp.pseudo_gt.destination or exp.folder / "pseudo_gt")
    return [shards.facts(i) for i in range(len(shards))]


def mixers(*amounts, **options) -> tuple[Teacher, ...]:
    return tuple(Teacher("mixer", label=f"m{a}", options={"amount": a, **options}) for a in amounts)


def test_shares_are_kept_and_depend_on_seed_and_pair_alone(experiment):
    chosen = [draw_teacher((3.0, 1.0), 5, n) for n in range(4000)]
    assert np.mean(chosen) == pytest.approx(0.25, abs=0.03)
    exp = experiment(teachers=(Teacher("exact", share=3), Teacher("mixer", label="half")))
    index, numbers, said = run(exp)
    made = facts(exp)
    assert {f["pair"] for f in made} == set(range(36))
    assert all(f["teacher"] == ("exact", "half")[draw_teacher((3, 1), 0, f["pair"])] for f in made)
    counts = {label: sum(f["teacher"] == label for f in made) for label in ("exact", "half")}
    assert {k: v["kept"] for k, v in index["teachers"].items()} == counts and min(counts.values()) > 0
    assert index["teachers"]["half"]["weight_hash"] == Mixer().weight_hash
    assert numbers["pseudo_gt/half/kept"] == counts["half"] and numbers["pseudo_gt/swaps_per_second"] > 0
    assert "36 swaps kept; mean cosine" in said and "    half: " in said


def test_best_of_keeps_the_better_swap_by_cosine_and_pose(experiment):
    exp = experiment(teachers=mixers(0.0, 1.0), choose="best_of")
    index, _, said = run(exp)
    assert index["teachers"]["m1.0"]["kept"] == 36 and index["teachers"]["m0.0"]["kept"] == 0
    assert index["teachers"]["m0.0"]["swapped"] == 36 and "none of its swaps was the best" in said
    first = facts(exp)[0]
    assert first["scores"]["m1.0"] == pytest.approx(1, abs=1e-3) and first["scores"]["m0.0"] < 0.9
    assert first["quality"]["id_similarity"] == pytest.approx(1, abs=1e-3)
    strict = experiment("strict", Quality(pose="synthetic_pose", cosine_per_degree=10.0), teachers=mixers(0.0, 1.0),
                        choose="best_of")  # fmt: skip
    index, _, _ = run(strict)
    assert index["teachers"]["m0.0"]["kept"] > 30, "a copy of the target has its pose"
    first = next(f for f in facts(strict) if f["teacher"] == "m0.0")
    assert first["quality"]["pose_error_deg"] == pytest.approx(0, abs=1e-2)


def test_thresholds_drop_and_count_by_reason(experiment):
    quality = Quality(pose="synthetic_pose", min_id_similarity=0.6, max_pose_error_deg=8.0)
    exp = experiment("picky", quality, teachers=mixers(0.5))
    index, numbers, said = run(exp)
    plain = experiment("plain", Quality(pose="synthetic_pose"), teachers=mixers(0.5))
    run(plain)
    measured = {f["pair"]: f["quality"] for f in facts(plain)}
    assert len(measured) == 36
    unlike = {n for n, q in measured.items() if q["id_similarity"] < 0.6}
    turned = {n for n, q in measured.items() if q["pose_error_deg"] > 8} - unlike
    assert unlike and turned
    assert index["dropped_by"] == {
        "id_similarity": len(unlike), "pose_error": len(turned), "no_face": 0, "not_finite": 0
    }  # fmt: skip
    assert {f["pair"] for f in facts(exp)} == measured.keys() - unlike - turned
    assert index["kept"] + index["dropped"] == 36 == sum(s["pairs"] for s in index["shards"])
    assert numbers["pseudo_gt/dropped/pose_error"] == len(turned)
    assert f"id_similarity {len(unlike)}, pose_error {len(turned)}" in said
    kept = [q["id_similarity"] for n, q in measured.items() if n not in unlike | turned]
    assert index["quality"]["id_similarity"] == pytest.approx(np.mean(kept), abs=1e-3)
    everything = [q["id_similarity"] for q in measured.values()]
    assert index["quality_of_all"]["id_similarity"] == pytest.approx(np.mean(everything), abs=1e-3)


def test_best_of_drops_only_where_no_candidate_passes():
    batch = Batch(0, [7, 8, 9], [(0, 1)] * 3, torch.zeros(3, 2, 3, 2, 2), [0, 1], last=True)

    def swaps(teacher, places, cosines, errors):
        n = len(places)
        finite = torch.tensor(cosines) > -1
        return Swaps(teacher, places, torch.zeros(n, 3, 2, 2), finite, torch.tensor(cosines), torch.tensor(errors))

    made = [swaps(0, [0, 1], [0.9, 0.3], [30.0, 1.0]), swaps(1, [0, 1], [0.5, 0.2], [2.0, 1.0])]
    quality = Quality(pose="p", min_id_similarity=0.4, max_pose_error_deg=10, cosine_per_degree=0.001)
    first, second, third = judge(batch, made, quality)
    assert (first.teacher, first.reason) == (1, None), "the better score does not pass"
    assert first.scores == {0: pytest.approx(0.87), 1: pytest.approx(0.498)}
    assert (second.teacher, second.reason) == (0, "id_similarity") and (third.row, third.reason) == (None, "no_face")
    worse = [swaps(0, [0], [-2.0], [0.0]), swaps(1, [0], [-0.9], [0.0])]
    assert judge(batch, worse, quality)[0].reason == "id_similarity", "what is no number is never the best"
    assert judge(batch, worse[:1], quality)[0].reason == "not_finite"


def test_pictures_without_a_face_are_dropped_and_named(experiment, drawn):
    photos = pseudo_gt.read_manifest(drawn.folder / "data", "train", SIZE)
    brightness = photos.load(range(len(photos))).float().div(127.5).sub(1).mean((1, 2, 3))
    darkest = float(brightness.sort().values[1:3].mean())  # two of twelve pictures
    dark = {row["file"] for row, b in zip(photos.rows, brightness.tolist(), strict=True) if b < darkest}
    assert len(dark) == 2
    exp = experiment(teachers=mixers(0.5, darkest=darkest))
    index, numbers, said = run(exp)
    pairs = [pseudo_gt.draw_pair(photos, 0, n) for n in range(36)]
    faceless = {n for n, pair in enumerate(pairs) if dark & {photos.rows[i]["file"] for i in pair}}
    assert index["dropped_by"]["no_face"] == len(faceless) == numbers["pseudo_gt/dropped/no_face"] > 0
    assert {f["pair"] for f in facts(exp)} == set(range(36)) - faceless
    assert f"dropped (no_face {len(faceless)})" in said
    both = experiment("both", teachers=(*mixers(0.5, darkest=darkest), Teacher("exact")), choose="best_of")
    index, _, _ = run(both)
    assert index["dropped"] == 0 and index["teachers"]["m0.5"]["swapped"] == 36 - len(faceless)


def test_a_teacher_of_whom_nothing_is_left_is_told(experiment):
    exp = experiment(teachers=mixers(0.0, 1.0), quality=Quality(min_id_similarity=0.99))
    index, _, said = run(exp)
    lost = index["teachers"]["m0.0"]["dropped_by"]["id_similarity"]
    assert index["teachers"]["m0.0"]["kept"] == 0 < lost and index["kept"] == 36 - lost
    assert f"teacher 'm0.0': every swap was dropped (id_similarity {lost})" in said and "! teacher 'm1.0'" not in said
    none = experiment("none", teachers=mixers(0.5), quality=Quality(min_id_similarity=1.1))
    index, _, said = run(none)
    assert index["kept"] == 0 and index["quality"] == {} and "every swap was dropped (id_similarity 36)" in said
    with pytest.raises(DataError, match="were all swaps dropped by pseudo_gt.quality.min_id_similarity"):
        Shards(none.folder / "pseudo_gt")


def test_swaps_that_are_no_numbers_are_dropped(experiment):
    exp = experiment(teachers=mixers(0.5, spoils=True))
    index, _, _ = run(exp)
    assert index["dropped_by"]["not_finite"] == 9 and index["kept"] == 27, "one of every batch of four"


def test_what_is_read_from_a_source_is_computed_once(experiment, drawn, monkeypatch):
    read = []
    exp = experiment(teachers=mixers(0.5), quality=Quality(pose="synthetic_pose"))
    seen = Memory.read
    monkeypatch.setattr(Memory, "read", lambda self, *a: read.append(self) or seen(self, *a))
    run(exp)
    photos = pseudo_gt.read_manifest(drawn.folder / "data", "train", SIZE)
    pairs = [pseudo_gt.draw_pair(photos, 0, n) for n in range(36)]
    sources, targets = ({pair[side] for pair in pairs} for side in (0, 1))
    assert len(set(Mixer.sources)) == len(sources)
    assert len(Mixer.sources) % 4 == 0 and len(Mixer.sources) < 36, "whole batches, and fewer of them than there are"
    memory = read[0]
    assert memory.misses == 2 * len(sources) + len(targets) and memory.hits == 3 * 36 - memory.misses


def test_memory_is_bounded_and_fills_batches_up():
    memory = Memory(3 * (40 + 128), torch.device("cpu"), batch_size=4)
    asked = []

    def compute(pictures):
        def of(places):
            asked.append([pictures[p] for p in places])
            return (torch.tensor([[float(pictures[p])] * 10 for p in places]),)

        return of

    def read(*pictures):
        return [float(row[0][0]) for row in memory.read("x", pictures, compute(pictures))]

    assert read(1, 2, 1) == [1, 2, 1] and asked == [[1, 2, 2, 2]]
    assert read(2, 3) == [2, 3] and asked[1:] == [[3] * 4]
    assert read(1, 4) == [1, 4] and len(asked) == 3 and memory.bytes <= memory.limit
    assert read(2) == [2] and asked[3:] == [[2] * 4], "the longest unused is forgotten first"
    row = memory.read("x", [4], compute([4]))[0][0]
    assert row.untyped_storage().nbytes() == 40, "a row does not keep its whole batch"
    none = Memory(0, torch.device("cpu"), batch_size=2)
    assert [float(r[0][0]) for r in none.read("x", [5, 6], compute([5, 6]))] == [5, 6] and not none.rows


@pytest.mark.parametrize("choose", ["share", "best_of"])
def test_any_number_of_processes_writes_the_same_bytes(experiment, choose):
    both = (Teacher("network", share=2), Teacher("exact"))
    one = experiment("one", teachers=both, choose=choose, pairs=40, shard_size=8)
    run(one)
    two = experiment("two", teachers=both, choose=choose, pairs=40, shard_size=8, identity_cache_mb=0)
    _, _, said = run(two, process(0, 2))
    assert "2 of 5 shards are still with others" in said and len(shard_bytes(two)) == 3
    assert run(two, process(1, 2))[0] is None, "the main process writes the index"
    index, _, _ = run(two, process(0, 2))
    assert shard_bytes(one) == shard_bytes(two) and len(shard_bytes(one)) == 5
    assert index == run(one)[0]
    assert "finished before" in run(two)[2]


def test_a_failure_leaves_whole_shards_and_the_next_run_goes_on(experiment):
    whole = experiment("whole", teachers=mixers(0.5))
    run(whole)
    Mixer.calls = 0
    broken = Teacher("mixer", label="m0.5", options={"amount": 0.5, "fails_at": 6})
    exp = experiment(teachers=(broken,))
    with pytest.raises(ValueError, match="the teacher broke"):
        run(exp)
    folder = exp.folder / "pseudo_gt"
    assert sorted(p.name for p in folder.iterdir()) == ["inputs.json", "shard-00000.json", "shard-00000.tar"]
    stamp = (folder / "shard-00000.tar").stat().st_mtime_ns
    (folder / ".shard-00001.killed.tar").write_bytes(b"half")  # what SIGKILL leaves
    Mixer.calls = 100
    index, _, _ = run(exp)
    assert shard_bytes(exp) == shard_bytes(whole) and index["kept"] == 36
    assert (folder / "shard-00000.tar").stat().st_mtime_ns == stamp
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]
    assert sorted(f["pair"] for f in facts(exp)) == list(range(36))


def test_errors_of_every_thread_surface(experiment, drawn, monkeypatch):
    def broken(self, indices):
        raise DataError("x.png: not a readable picture")

    with monkeypatch.context() as patch:
        patch.setattr(Photos, "load", broken)
        with pytest.raises(DataError, match=r"x\.png: not a readable"):
            run(experiment("reading", teachers=mixers(0.5)))

    def full(*a):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("distill.pseudo_gt.shards._add", full)
        exp = experiment("writing", teachers=mixers(0.5))
        with pytest.raises(OSError, match="No space left"):
            run(exp)
    assert [p.name for p in (exp.folder / "pseudo_gt").iterdir()] == ["inputs.json"]


def test_threads_end_with_their_neighbours():
    def numbers():
        yield from range(3)
        raise ValueError("no more")

    got = []
    with pytest.raises(ValueError, match="no more"):
        got.extend(ahead(numbers(), 1))
    stream = ahead(iter(range(10**9)), 2)
    assert next(stream) == 0
    stream.close()
    with behind(lambda items: got.extend(items), 2) as put:
        for i in range(5):
            put(i)
    assert got[-5:] == [0, 1, 2, 3, 4]

    def refuse(items):
        next(items)
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"), behind(refuse, 1) as put:
        for i in range(10**6):
            put(i)
    with pytest.raises(KeyError), behind(lambda items: got.extend(items), 1) as put:
        put(0)
        raise KeyError


def test_precision_is_for_teachers_to_whom_it_is_harmless(experiment, monkeypatch):
    seen = {}
    built = pseudo_gt.build.teacher

    def keep(spec, exp):
        seen[spec.name] = built(spec, exp)
        return seen[spec.name]

    monkeypatch.setattr(pseudo_gt.build, "teacher", keep)
    run(experiment(teachers=(Teacher("network"), Teacher("mixer")), precision="bf16", pairs=8, shard_size=8))
    assert seen["network"].dtypes == {torch.bfloat16}
    run(experiment("full", teachers=(Teacher("network"),), pairs=8, shard_size=8))
    assert seen["network"].dtypes == {torch.float32}


def test_quality_is_read_without_decoding(experiment, tmp_path):
    exp = experiment(teachers=mixers(0.3, 0.6), quality=Quality(min_id_similarity=0.3))
    run(exp)
    folder = exp.folder / "pseudo_gt"
    shards = Shards(folder)
    expected = [f["quality"]["id_similarity"] for f in facts(exp)]
    assert shards.quality.dtype == np.float32 and np.allclose(shards.quality, expected)
    pictures = shards.load(range(len(shards)))
    for sidecar in folder.glob("shard-*.json"):
        sidecar.unlink()
    foreign = Shards(folder)  # the same shards as anybody's
    assert np.array_equal(foreign.quality, shards.quality) and torch.equal(foreign.load(range(len(foreign))), pictures)
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    write_shard(folder / "shard-00000.tar", [("a", (image,) * 3, {"pair": 1})])
    assert np.isnan(Shards(folder).quality[0])


def test_a_lost_or_cut_shard(experiment):
    exp = experiment(teachers=mixers(0.5))
    run(exp)
    before, folder = shard_bytes(exp), exp.folder / "pseudo_gt"
    path = folder / "shard-00001.tar"
    path.write_bytes(before[path.name][:-2048])
    with pytest.raises(DataError, match=r"shard-00001\.tar: damaged shard .*delete it and run again"):
        Shards(folder)
    path.unlink()
    Mixer.calls = 0
    run(exp)
    assert shard_bytes(exp) == before and Mixer.calls == 4


def test_inputs_are_what_changes_the_shards(experiment):
    exp = experiment(teachers=mixers(0.5))
    run(exp)
    same = experiment(teachers=mixers(0.5), batch_size=8, identity_cache_mb=1)
    assert "finished before" in run(same)[2]
    for changed in (
        experiment(teachers=mixers(0.4)),
        experiment(teachers=mixers(0.5), precision="bf16"),
        experiment(teachers=mixers(0.5), quality=Quality(min_id_similarity=0.1)),
    ):
        with pytest.raises(StageError, match="made with other inputs"):
            run(changed)
    other = experiment("other", teachers=mixers(0.4), destination=str(exp.folder / "pseudo_gt"))
    with pytest.raises(StageError, match="its shards were made with other inputs; set pseudo_gt.destination"):
        run(other)
    fewer = experiment("fewer", teachers=mixers(0.5), pairs=16, destination=str(exp.folder / "pseudo_gt"))
    with pytest.raises(StageError, match=r"shard-0000\d\.tar is not of this experiment"):
        run(fewer)


def check_place(experiment, name, destination):
    """Shards at `destination` are those of the run's folder, and can be trained from."""
    near = experiment(f"{name}-near", teachers=mixers(0.5), shard_size=8)
    run(near)
    far = experiment(name, teachers=mixers(0.5), shard_size=8, destination=destination)
    index, _, _ = run(far)
    assert shard_bytes(far) == shard_bytes(near) and index["kept"] == 36
    assert sorted(p.name for p in (far.folder / "pseudo_gt").iterdir()) == ["done.json", "inputs.json"]
    assert "finished before" in run(far)[2]
    shards, local = Shards(destination), Shards(near.folder / "pseudo_gt")
    assert torch.equal(shards.load([30, 2, 17]), local.load([30, 2, 17]))
    assert shards.facts(5) == local.facts(5) and np.array_equal(shards.quality, local.quality)
    mixture = Mixture(shards, None, {"pseudo_gt": 1.0, "same_photo": 0.0, "same_person": 0.0, "pair": 0.0}, seed=1)
    mixed = Mixture(local, None, {"pseudo_gt": 1.0, "same_photo": 0.0, "same_person": 0.0, "pair": 0.0}, seed=1)
    for a, b in zip(*(batches(m, 4, 0, 2, 0, 1, 1, pin=False) for m in (mixture, mixed)), strict=True):
        assert torch.equal(a.gt, b.gt), "read by a forked loader"
    return far


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_shards_lie_at_any_url(experiment, tmp_path, scheme):
    where = f"memory://{tmp_path.name}/pseudo" if scheme == "memory" else f"file://{tmp_path}/elsewhere"
    far = check_place(experiment, "far", where)
    system, path = fsspec.filesystem(scheme), where.partition("://")[2]
    lost = f"{path}/shard-00002.tar"
    content = system.cat_file(lost)
    system.rm(lost)
    run(far)
    assert system.cat_file(lost) == content, "a lost shard alone is made anew"


def test_machines_that_do_not_talk_share_a_destination(experiment, monkeypatch):
    """One has made some shards, the other begins meanwhile: every shard is made once."""
    where = "memory://shared/pseudo"
    first = experiment("first", teachers=mixers(0.5), shard_size=4, destination=where)
    second = experiment("second", teachers=mixers(0.5), shard_size=4, destination=where)
    asked, ran = [], []
    exists = Store.exists

    def meanwhile(store, name):
        if name.startswith("shard-") and not ran:
            asked.append(name)
            if len(asked) == 3:
                ran.append("begun")
                ran.append(run(second))
        return exists(store, name)

    monkeypatch.setattr(Store, "exists", meanwhile)
    index, _, _ = run(first)
    assert len(ran) == 2 and index["kept"] == 36 and sorted(f["pair"] for f in facts(first)) == list(range(36))
    assert Mixer.calls <= 9 + 3 + pseudo_gt.DEPTH, "only what was in the queues is made twice"


def test_a_missing_driver_says_what_to_install(experiment, monkeypatch):
    def absent(name):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("distill.pseudo_gt.store.fsspec.filesystem", absent)
    with pytest.raises(StageError, match=r"s3://b/p: Install s3fs .*pip install swapdistill\[remote\]"):
        run(experiment(teachers=mixers(0.5), destination="s3://b/p"))
    monkeypatch.undo()
    with pytest.raises(StageError, match="nowhere://x: .*expected a folder or a URL"):
        Store("nowhere://x")


@pytest.fixture
def s3(monkeypatch):
    """A bucket on an S3 server of this machine."""
    moto = pytest.importorskip("moto.server", reason="needs moto[s3], flask, flask-cors and s3fs")
    pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3").mkdir("pseudo")
    yield "s3://pseudo/run"
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


def test_shards_lie_in_an_object_store(experiment, s3):
    check_place(experiment, "far", s3)
    with pytest.raises(StageError, match="s3://not-there/x: .*"):
        run(experiment("nowhere", teachers=mixers(0.5), destination="s3://not-there/x"))


def test_photographs_need_two_people_and_another_teacher_than_exact(experiment, tmp_path):
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for person in "abcdef":
        (folder / person).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)).save(folder / person / f"{i}.png")

    def photographs(name, **settings):
        settings = PseudoGT(pairs=8, shard_size=4, batch_size=4, **settings)
        photos = Data(kind="photos", resolution=SIZE, photos=str(folder), val_people=1, test_people=1)
        exp = Experiment(name=name, runs=str(tmp_path), data=photos, pseudo_gt=settings, student=Student())
        data.run(exp, process(), Record())
        return exp

    exp = photographs("good", teachers=mixers(0.5))
    assert run(exp)[0]["kept"] == 8
    with pytest.raises(ValueError, match="'exact' swaps synthetic faces only"):
        run(photographs("drawn", teachers=(Teacher("exact"),)))
    rows = [json.loads(line) for line in (exp.folder / "data" / "manifest.jsonl").read_text().splitlines()]
    alone = [{**row, "person": "a"} for row in rows]
    (exp.folder / "data" / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in alone))
    for shard in (exp.folder / "pseudo_gt").glob("*.tar"):
        shard.unlink()
    with pytest.raises(StageError, match="needs two people"):
        run(exp)


def test_tars_are_those_of_other_tools(experiment):
    exp = experiment(teachers=mixers(0.5))
    run(exp)
    with tarfile.open(exp.folder / "pseudo_gt" / "shard-00000.tar") as tar:
        names = tar.getnames()
    assert len(names) == 4 * 16
    assert names[:4] == [f"00000000.{part}" for part in ("source.png", "target.png", "gt.png", "json")]


def test_the_benchmark_prints_swaps_per_second():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "pseudo_gt.py", "exact", "--size", "64", "--pairs", "8", "--batch", "4"],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "swaps/s end to end" in done.stdout and "outside the teacher" in done.stdout and "read again" in done.stdout
