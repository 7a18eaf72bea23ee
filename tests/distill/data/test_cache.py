"""Decoded pictures on the device, in memory, in a packed file, or nowhere."""

import pickle
import threading
import time

import numpy as np
import pytest
import torch

from distill.data import cache
from distill.data.cache import Cached, Room, files_signature
from swapcore.images import DataError

SHAPE = (600, 3, 4, 4)  # more than two chunks
BYTES = 600 * 48


class Pictures:
    """Picture i is filled with i % 251; counts how often each was decoded."""

    def __init__(self):
        self.decoded = np.zeros(SHAPE[0], int)

    def load(self, indices):
        np.add.at(self.decoded, list(indices), 1)
        return (torch.tensor(list(indices)) % 251).byte().view(-1, 1, 1, 1).repeat(1, *SHAPE[1:])


def kept(where, folder=None, signature="a", pictures=None):
    pictures = pictures or Pictures()
    return Cached(pictures.load, SHAPE, Room(where), folder, "photos", lambda: signature), pictures


@pytest.mark.parametrize("where", ["device", "memory", "file"])
def test_each_picture_is_decoded_once(tmp_path, where):
    own, pictures = kept(where, tmp_path)
    assert own.where == where and pictures.decoded.max() == (0 if where == "memory" else 1)
    for indices in ([3, 599, 3], [], range(600), [0]):
        expected = torch.tensor(list(indices)) % 251
        images = own[indices]
        assert images.dtype == torch.uint8 and images.shape == (len(expected), *SHAPE[1:])
        assert (images == expected.view(-1, 1, 1, 1)).all()
    own[[5]].zero_()
    assert own[[5]].unique().tolist() == [5], "a batch is a copy"
    assert (pictures.decoded == 1).all()


def test_off_decodes_at_every_use():
    own, pictures = kept("off")
    assert own[[7, 7]].unique().tolist() == [7] and own[[7]].shape == (1, *SHAPE[1:]) and pictures.decoded[7] == 3


@pytest.mark.parametrize("where", ["memory", "file"])
def test_an_index_beyond_the_end_is_an_error(tmp_path, where):
    own, _ = kept(where, tmp_path)
    for index in (600, -1):
        with pytest.raises((IndexError, RuntimeError)):
            own.copy(np.array([index]), np.empty((1, *SHAPE[1:]), np.uint8))


def test_threads_decode_no_picture_twice():
    own, pictures = kept("memory")
    load = own.load
    own.load = lambda indices: time.sleep(0.02) or load(indices)
    threads = [threading.Thread(target=own.__getitem__, args=(range(50),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pictures.decoded[:50].tolist() == [1] * 50 and pictures.decoded[50:].sum() == 0


def test_the_file_serves_later_runs_until_the_pictures_change(tmp_path):
    kept("file", tmp_path)
    again, unused = kept("file", tmp_path)
    assert unused.decoded.sum() == 0 and again[[260]].unique().tolist() == [9]
    changed, pictures = kept("file", tmp_path, signature="b")
    assert (pictures.decoded == 1).all() and [p.name for p in tmp_path.iterdir()] == [changed.path.name]
    assert again[[260]].unique().tolist() == [9], "a run that has the old file open keeps it"


@pytest.mark.parametrize("spoil", ["cut", "empty", "other shape"])
def test_a_damaged_file_is_packed_anew(tmp_path, spoil):
    own, _ = kept("file", tmp_path)
    whole = own.path.read_bytes()
    own.path.write_bytes({"cut": whole[:-1], "empty": b""}.get(spoil, b""))
    if spoil == "other shape":
        np.save(own.path, np.zeros((3, 3), np.uint8))
    again, pictures = kept("file", tmp_path)
    assert (pictures.decoded == 1).all() and own.path.read_bytes() == whole and again[[1]].unique().tolist() == [1]


def test_an_error_leaves_no_file(tmp_path):
    pictures = Pictures()
    load = pictures.load

    def broken(indices):
        if indices[-1] > 500:
            raise DataError("x.png: not a readable picture")
        return load(indices)

    pictures.load = broken
    with pytest.raises(DataError, match="x.png"):
        kept("file", tmp_path, pictures=pictures)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_opened_anew_in_another_process(tmp_path):
    own, _ = kept("file", tmp_path)
    own.load = None
    copy = pickle.dumps(own)
    assert len(copy) < BYTES // 2 and pickle.loads(copy)[[17]].unique().tolist() == [17]


def test_auto_takes_the_first_place_with_room(tmp_path, monkeypatch):
    gpu, file = torch.device("cuda"), lambda: tmp_path / "x"
    monkeypatch.setattr(cache, "_free_on", lambda device: 4000)
    monkeypatch.setattr(cache, "_free_memory", lambda: 10_000)
    monkeypatch.setattr(cache, "_free_shared_memory", lambda: 100)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: type("", (), {"free": 100_000}))
    assert Room("auto", 1, gpu).place(1000, file) == "device" and Room("auto", 1, gpu).place(1001, file) == "memory"
    assert Room("auto", 1).place(1000, file) == "memory", "without a GPU the device is the memory"
    assert Room("auto", 1).place(8000, file) == "memory" and Room("auto", 1).place(8001, file) == "file"
    assert Room("auto", 1).place(50_000, file) == "file" and Room("auto", 1).place(50_001, file) == "off"
    assert Room("auto", 1).place(8001, None) == "off", "there is no folder"
    assert Room("auto", 1, gpu, share=True).place(80, file) == "memory"
    assert Room("auto", 1, gpu, share=True).place(81, file) == "file", "of the shared memory"
    (tmp_path / "x").touch()
    assert Room("auto", 1).place(10**9, file) == "file", "it is packed already"
    room = Room("auto", 1e-6)
    assert [room.place(600, None) for _ in range(2)] == ["memory", "off"], "data.cache_gb is the limit of all together"


@pytest.mark.parametrize(
    ("where", "words"), [("device", "raise data.cache_gb or"), ("memory", "raise data.cache_gb or")]
)
def test_a_place_without_room_is_an_error(where, words):
    with pytest.raises(
        DataError, match=f"data.cache={where}: .*0.03 GB.*room for 0.01 GB.*{words} set data.cache=auto"
    ):
        Room(where, 0.01).place(30_000_000, None)
    with pytest.raises(DataError, match="data.cache=file: .*set data.cache=auto"):
        Room("file").place(1, None)


def test_memory_is_shared_or_nothing_is_kept(monkeypatch):
    own, _ = kept("memory")
    own.share()
    assert own.pictures.is_shared() and own.decoded.is_shared()
    monkeypatch.setattr(cache, "_free_shared_memory", lambda: 0)
    own.share()
    assert own.where == "memory", "it takes no more room the second time"
    small, pictures = kept("memory")
    monkeypatch.setattr(cache, "_free_shared_memory", lambda: BYTES)
    small.share()
    assert small.where == "off" and small[[3]].unique().tolist() == [3]


def test_a_signature_changes_with_a_file(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"one")
    before = files_signature([path], "more")
    assert files_signature([path], "more") == before != files_signature([path], "other")
    path.write_bytes(b"four")
    assert files_signature([path], "more") != before
