"""Shards in folders, at URLs and in object stores, shared by machines."""

from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from helpers.pseudo_gt import Mixer, draw_people, experiments, facts, mixers, run, shard_bytes

from distill.pseudo_gt import generate as pseudo_gt
from distill.pseudo_gt.shards import Shards
from distill.pseudo_gt.store import Store
from distill.stage import StageError
from distill.train.stream import Mixture, batches


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_people(tmp_path_factory.mktemp("data"))


@pytest.fixture
def experiment(drawn, tmp_path, monkeypatch):
    return experiments(drawn, tmp_path, monkeypatch)


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


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_shards_do_not_stay_open(experiment):
    exp = experiment(teachers=mixers(0.5), shard_size=8)
    run(exp)
    before = len(list(Path("/proc/self/fd").iterdir()))
    shards = Shards(exp.folder / "pseudo_gt")
    shards.load(range(36))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


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


def test_a_shard_that_another_machine_has_made_meanwhile_stays(experiment, tmp_path, monkeypatch):
    """Somebody may read it already, and the same swaps can have other bytes on another machine."""
    exp = experiment(teachers=mixers(0.5), destination=str(tmp_path / "shards"))
    names = ("shard-00000.tar", "shard-00000.json")
    with monkeypatch.context() as patch:
        append = pseudo_gt.append

        def meanwhile(tar, samples, encoders):
            append(tar, samples, encoders)
            for name in names:
                (tmp_path / "shards" / name).write_bytes(b"theirs")

        patch.setattr(pseudo_gt, "append", meanwhile)
        patch.setattr(pseudo_gt, "_missing", lambda *_: [0])
        run(exp)
    found = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    assert {found.pop(name) for name in names} == {b"theirs"} and set(found) <= {"inputs.json"}


def test_a_missing_driver_says_what_to_install(experiment, monkeypatch):
    def absent(name):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("distill.pseudo_gt.store.fsspec.filesystem", absent)
    with pytest.raises(StageError, match=r"s3://b/p: Install s3fs .*pip install -e .\.\[remote\]"):
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
