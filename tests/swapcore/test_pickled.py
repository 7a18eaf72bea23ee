"""Networks saved whole and other objects in torch files: read in both formats, and nothing of them is executed."""

import os
import pathlib
import pickle
import re
import struct
import sys

import numpy as np
import pytest
import torch
from helpers.pickled_networks import as_original, original_classes
from torch import nn

from swapcore.weights import pickled, read_state, unwrap
from teachers.irse101 import IRSE101, load_irse101

SMALL = ((16, 1, 1), (32, 2, 2))


@pytest.fixture(params=["models", "models.resnet"])
def package(request):
    with original_classes(request.param) as module:
        yield module


def network(package) -> nn.Module:
    torch.manual_seed(0)
    return as_original(IRSE101(SMALL), package)


def read_module(path):
    """By the reader itself, also where torch's own would do."""
    return pickled.read(path, lambda content: unwrap(content, path))


def write(path, content, zipped: bool) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)


def training_state(model: nn.Module, package, wrapper: bool) -> dict:
    """What the code that trained the encoder keeps beside it, after one step with momentum."""
    head = package.ArcMarginModel()
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    sum(p.sum() for p in [*model.parameters(), *head.parameters()]).backward()
    optimizer.step()
    if wrapper:
        head, optimizer = nn.DataParallel(head), sys.modules["optimizer"].InsightFaceOptimizer(optimizer)
    accuracy = np.float64(0.99) if wrapper else 0.99
    return {"epoch": 3, "acc": accuracy, "model": nn.DataParallel(model), "metric_fc": head, "optimizer": optimizer}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", ["bare", "data_parallel", "state", "state_with_wrapper"])
def test_both_formats_bare_and_in_a_training_state(tmp_path, zipped, kind):
    path = tmp_path / "arcface_checkpoint.tar"
    with original_classes() as package:
        content = model = network(package)
        if kind == "data_parallel":
            content = nn.DataParallel(model)
        elif kind != "bare":
            content = training_state(model, package, kind == "state_with_wrapper")
        write(path, content, zipped)
    found = read_module(path)
    wanted = {key: t.cpu() for key, t in model.state_dict().items()}  # DataParallel takes it to a GPU
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], t) and t.dtype == found[key].dtype for key, t in wanted.items())
    assert "models" not in sys.modules


def test_buffers_that_are_not_saved_and_empty_ones_are_left_out(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2, track_running_stats=False))
    model.register_buffer("grid", torch.ones(3), persistent=False)
    model.register_buffer("none", torch.ones(0))
    write(tmp_path / "m.pth", model, True)
    assert list(read_module(tmp_path / "m.pth")) == list(model.state_dict())


@pytest.mark.parametrize("zipped", [False, True])
def test_a_state_dict_is_read_as_well(tmp_path, zipped):
    state = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).half().state_dict()
    write(tmp_path / "s.pth", {"state_dict": {f"module.{k}": t for k, t in state.items()}}, zipped)
    found = read_module(tmp_path / "s.pth")
    assert found.keys() == state.keys()
    assert all(torch.equal(t, found[k]) and t.dtype == found[k].dtype for k, t in state.items())


def test_views_of_the_same_numbers_are_kept_apart(tmp_path):
    numbers = torch.arange(12.0).view(3, 4)
    write(tmp_path / "v.pth", {"turned": numbers.T, "row": numbers[1], "all": numbers}, False)
    found = read_module(tmp_path / "v.pth")
    assert torch.equal(found["turned"], numbers.T) and torch.equal(found["row"], numbers[1])


@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_and_foreign_files_are_named(tmp_path, zipped):
    path = tmp_path / "t.pth"
    write(path, nn.Linear(64, 64).state_dict(), zipped)
    path.write_bytes(path.read_bytes()[:-9000])
    with pytest.raises(ValueError, match=r"t\.pth: .*(damaged|cut off)"):
        read_module(path)
    for content in (b"nothing", b"", b"PK", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"t\.pth: not a file that torch.save wrote"):
            read_module(path)
    write(path, {"epoch": 3, "model": torch.optim.SGD([torch.zeros(1)], 0.1)}, zipped)
    with pytest.raises(ValueError, match=r"t\.pth: expected tensors by name .* with the keys epoch, model"):
        read_module(path)


class Bomb:
    def __init__(self, mark) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("hidden", [False, True])
def test_nothing_is_executed(tmp_path, package, zipped, hidden):
    mark, path = tmp_path / "executed", tmp_path / "bad.tar"
    content = {"model": Bomb(mark)}
    if hidden:
        content = network(package)
        content.bomb = Bomb(mark)
    write(path, content, zipped)
    with pytest.raises(ValueError, match=r"bad\.tar: refused, nothing was executed: it names \w+\.system, which"):
        read_module(path)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [False, True])
def test_methods_of_permitted_names_are_not_called(tmp_path, package, zipped):
    mark, path = tmp_path / "executed", tmp_path / "trap.tar"

    def spring(self, *_arguments):
        mark.touch()
        return object.__new__(self) if isinstance(self, type) else None

    trap = type("SEBlock", (nn.Module,), {"__module__": package.__name__, "__setstate__": spring, "__del__": spring})
    package.SEBlock = trap
    model = network(package)
    model.extra = trap()
    write(path, model, zipped)
    model.extra = None
    mark.unlink()  # the trap works: its end left the mark
    trap.__new__ = staticmethod(spring)
    assert read_module(path).keys() == model.state_dict().keys()
    assert not mark.exists()


def tree(path, opcodes: bytes) -> None:
    """A file of the older format whose tree is that pickle."""
    parts = [pickle.dumps(part, 2) for part in (pickled._LEGACY_MAGIC, 1001, {})]
    path.write_bytes(b"".join([*parts, b"\x80\x04", opcodes, b".", pickle.dumps([], 2)]))


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word)) + word.encode()


STAND_IN = b"cmodels\nResNet\n)\x81"


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (b"cbuiltins\neval\n" + text("1") + b"\x85R", "names builtins.eval"),
        (b"c__builtin__\neval\n" + text("1") + b"\x85R", "names builtins.eval"),
        (text("torch.nn") + text("os.system") + b"\x93" + text("true") + b"\x85R", "expected tensors by name"),
        (b"(" + text("true") + b"ios\nsystem\n", "names os.system"),
        (b"ctorch.hub\nload\n", "names torch.hub.load"),
        (STAND_IN + b"}" + text("__setstate__") + b"cbuiltins\nexec\nsb" + text("1") + b"b", "names builtins.exec"),
        (b"cmodels\nResNet\n}" + text("__new__") + b"Nsb", "damaged"),  # state for the class itself
        (STAND_IN + b"}" + text("_modules") + b"]sb", "damaged"),
        (STAND_IN + b"}" + text("_modules") + b"}K\x01" + STAND_IN + b"ssb", "expected tensors by name"),
        (STAND_IN + b"\x94}" + text("_modules") + b"}" + text("a") + b"h\x00ssb", "damaged"),  # its own child
        (text("storage") + b"Q", "damaged"),
        (b"(" + text("storage") + b"ctorch\nFloatStorage\n" + 2 * text("0") + b"J\xff\xff\xff\x7fNtQ", "announced"),
        (b"\x82\x01", "damaged"),  # of the extension registry
    ],
)  # fmt: skip
def test_pickles_written_by_hand(tmp_path, opcodes, message):
    tree(tmp_path / "hand.tar", opcodes)
    with pytest.raises(ValueError, match=rf"hand\.tar: .*{re.escape(message)}"):
        read_module(tmp_path / "hand.tar")
    assert "__new__" not in vars(pickled._Node)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [False, True])
def test_a_damaged_byte_ends_in_an_error_that_names_the_file_or_in_tensors(tmp_path, zipped):
    path, random = tmp_path / "d.tar", np.random.default_rng(0)
    write(path, nn.DataParallel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU())), zipped)
    content, refused = path.read_bytes(), 0
    for place, value in zip(random.integers(len(content), size=300), random.integers(256, size=300), strict=True):
        path.write_bytes(content[:place] + bytes([value]) + content[place + 1 :])
        try:
            assert all(isinstance(tensor, torch.Tensor) for tensor in read_module(path).values())
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
    assert 50 < refused < 300


class Settings(dict):
    """What trainers store beside the tensors: a dict with attributes."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [False, True])
def test_objects_of_any_class_beside_the_tensors_are_ignored(tmp_path, zipped):
    settings = Settings(lr=1e-3)
    settings.seen = [np.float64(0.5), {pathlib.PurePosixPath("a"): slice(3)}]
    state = nn.Linear(2, 2).state_dict()
    scores = np.arange(3, dtype=">f4")
    content = {"state_dict": Settings(state), "settings": settings, "best": np.float32(1), "scores": scores}
    write(tmp_path / "s.ckpt", content, zipped)
    found = read_state(tmp_path / "s.ckpt")
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
    write(tmp_path / "a.ckpt", {"scores": scores, "epoch": np.int64(3)}, zipped)
    assert torch.equal(read_state(tmp_path / "a.ckpt")["scores"], torch.arange(3.0))


@pytest.mark.filterwarnings("ignore")
def test_the_loader_names_a_pickled_network_of_another_size(tmp_path, package):
    write(tmp_path / "a.tar", network(package), False)
    with pytest.raises(ValueError, match=r"a\.tar: not the weights of IRSE101: .*expected shape"):
        load_irse101(tmp_path / "a.tar")
