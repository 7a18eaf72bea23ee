"""Stage pseudo_gt: processes, kills and errors, inputs, the bytes and members of shards, its benchmark."""

import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import script
from helpers.pseudo_gt import (
    SIZE,
    Mixer,
    Record,
    draw_people,
    experiments,
    facts,
    mixers,
    process,
    run,
    shard_bytes,
)  # fmt: skip
from helpers.shards import write_shard
from PIL import Image

from distill import stage
from distill.data import photos
from distill.data import prepare as data
from distill.data.photos import Photos
from distill.pseudo_gt import generate as pseudo_gt
from distill.pseudo_gt import shards
from distill.pseudo_gt.shards import Shards
from distill.schema import Data, Experiment, PseudoGT, Quality, Student, Teacher
from distill.stage import OutOfTime, StageError
from swapcore.files import machine
from swapcore.images import DataError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_people(tmp_path_factory.mktemp("data"))


@pytest.fixture
def experiment(drawn, tmp_path, monkeypatch):
    return experiments(drawn, tmp_path, monkeypatch)


@pytest.mark.parametrize("choose", ["share", "best_of"])
def test_any_number_of_processes_writes_the_same_bytes(experiment, choose):
    both = (Teacher("network", share=2), Teacher("exact"))
    one = experiment("one", teachers=both, choose=choose, pairs=40, shard_size=8)
    run(one)
    two = experiment("two", teachers=both, choose=choose, pairs=40, shard_size=8, identity_cache_mb=0)
    _, _, said = run(two, process(0, 2))
    assert "other machines still write 2 of 5 shards" in said and len(shard_bytes(two)) == 3
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
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (folder / f".shard-00001.{dead.pid}@{machine()}.01234567.tar").write_bytes(b"half")  # what SIGKILL leaves
    other = folder / ".shard-00001.1@elsewhere.01234567.tar"
    other.write_bytes(b"half")  # another machine may be writing it
    Mixer.calls = 100
    index, _, _ = run(exp)
    assert shard_bytes(exp) == shard_bytes(whole) and index["kept"] == 36
    assert (folder / "shard-00000.tar").stat().st_mtime_ns == stamp
    assert [p for p in folder.iterdir() if p.name.startswith(".")] == [other]
    assert sorted(f["pair"] for f in facts(exp)) == list(range(36))


def test_the_shard_in_progress_is_finished_when_the_minutes_are_over(experiment, monkeypatch):
    whole, exp = (experiment(name, teachers=mixers(0.5), shard_size=8) for name in ("whole", "x"))
    run(whole)
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(pseudo_gt, "time_is_over", lambda exp: asked.append(exp) or len(asked) > 2)
        patch.setattr(stage, "time_is_over", lambda exp: True)
        with pytest.raises(OutOfTime, match="in stage pseudo_gt of x; the same command continues"):
            run(exp)
    assert sorted(shard_bytes(exp)) == ["shard-00000.tar", "shard-00001.tar"]
    assert not (exp.folder / "pseudo_gt" / "done.json").exists()
    index, _, _ = run(exp)
    assert shard_bytes(exp) == shard_bytes(whole) and index["kept"] == 36


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


def test_the_order_of_teachers_is_an_input(experiment):
    """The number of a pair draws a position in the list."""
    one, three = mixers(0.2, 0.4)
    three = replace(three, share=3)
    run(experiment(teachers=(one, three)))
    assert "finished before" in run(experiment(teachers=(one, three)))[2]
    with pytest.raises(StageError, match="made with other inputs"):
        run(experiment(teachers=(three, one)))


def test_machines_with_other_inputs_do_not_share_a_destination(experiment, tmp_path):
    """Two machines begin in an empty folder at once: neither sees a shard of the other at its start."""
    places = {name: str(tmp_path / f"shards_{name}") for name in ("one", "other")}
    exps = {n: experiment(n, teachers=mixers(a), destination=places[n]) for n, a in (("one", 0.5), ("other", 0.4))}
    for exp in exps.values():
        run(exp)
    for suffix in ("tar", "json"):  # the other machine's shard lies between those of the first
        shutil.copy(tmp_path / "shards_other" / f"shard-00001.{suffix}", tmp_path / "shards_one")
    (tmp_path / "shards_one" / "shard-00002.json").unlink()  # so there is something left to do
    with pytest.raises(StageError, match=r"shards_one: its shards were made with other .*is shard-00001\.tar"):
        run(exps["one"])


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
    """Members are unmarked, as their bytes must not change; the index says that they are generated."""
    exp = experiment(teachers=mixers(0.5))
    index, _, _ = run(exp)
    assert index["generated"] is True
    with tarfile.open(exp.folder / "pseudo_gt" / "shard-00000.tar") as tar:
        names = tar.getnames()
        assert not Image.open(tar.extractfile("00000000.gt.png")).text
    assert len(names) == 4 * 16
    assert names[:4] == [f"00000000.{part}" for part in ("source.png", "target.png", "gt.png", "json")]


def test_each_photograph_is_decoded_and_encoded_once(experiment, monkeypatch):
    decoded, encoded = [], []
    decode, png = photos.decode, shards.png
    monkeypatch.setattr(photos, "decode", lambda file, *a: decoded.append(file) or decode(file, *a))
    monkeypatch.setattr(shards, "png", lambda picture: encoded.append(picture) or png(picture))
    exp = experiment(teachers=mixers(0.5))
    run(exp)
    assert len(decoded) == len(set(decoded)) <= 12 and 36 < len(encoded) <= 36 + 12
    monkeypatch.setattr(pseudo_gt, "ENCODED_MB", 0)
    none = experiment("none", teachers=mixers(0.5))
    decoded.clear(), encoded.clear()
    run(replace(none, data=replace(none.data, cache="off")))
    assert len(decoded) == 2 * 36 and len(encoded) == 3 * 36
    assert shard_bytes(none) == shard_bytes(exp), "nothing of it changes a shard"


def test_the_benchmark_prints_swaps_per_second():
    done = script("benchmarks/pseudo_gt.py", "exact", "--size", 64, "--pairs", 8, "--batch", 4)
    assert done.returncode == 0, done.stderr
    assert "swaps/s end to end" in done.stdout and "outside the teacher" in done.stdout and " cached" in done.stdout
    assert "(estimators " in done.stdout and "waiting for pictures " in done.stdout
