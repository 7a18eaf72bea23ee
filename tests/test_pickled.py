"""Pickled networks, as SimSwap's ArcFace file is one: read in both formats, and nothing of a bad one is executed."""

import os
import sys
import types

import pytest
import torch
from torch import nn

from teachers import pickled
from teachers.irse101 import IRSE101, SqueezeExcitation, Unit, load_irse101
from teachers.pickled import read_module

SMALL = ((16, 1, 1), (32, 2, 2))


class ArcMarginModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 512))


@pytest.fixture
def package(monkeypatch):
    """The classes under the names that the original's file has, for as long as it is written."""
    renamed = {"ResNet": IRSE101, "IRBlock": Unit, "SEBlock": SqueezeExcitation, "ArcMarginModel": ArcMarginModel}
    for parent in ("models", "models.resnet"):
        module = types.ModuleType(parent)
        monkeypatch.setitem(sys.modules, parent, module)
    for name, cls in renamed.items():
        made = type(name, (cls,), {"__module__": "models.resnet"})
        setattr(sys.modules["models.resnet"], name, made)
    return sys.modules["models.resnet"]


def network(package) -> nn.Module:
    torch.manual_seed(0)
    model = package.ResNet(SMALL)
    for module in model.modules():
        for name, plain in (("IRBlock", Unit), ("SEBlock", SqueezeExcitation)):
            if type(module) is plain:
                module.__class__ = getattr(package, name)
    return model


def write(path, content, zipped: bool) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_both_formats_bare_and_in_a_training_state(tmp_path, package, monkeypatch, zipped, wrapped):
    model = network(package)
    wanted = {k: t.clone() for k, t in model.state_dict().items()}
    path, content = tmp_path / "arcface_checkpoint.tar", model
    if wrapped:
        head = package.ArcMarginModel()
        optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
        sum(p.sum() for p in model.parameters()).backward()
        optimizer.step()
        wanted = {k: t.clone() for k, t in model.state_dict().items()}
        content = {"epoch": 3, "acc": 0.99, "model": nn.DataParallel(model), "metric_fc": head, "optimizer": optimizer}
    write(path, content, zipped)
    for name in ("models", "models.resnet"):
        monkeypatch.delitem(sys.modules, name)
    found = read_module(path)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())
    assert "models" not in sys.modules


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
    with pytest.raises(ValueError, match="expected a pickled network, alone or under 'model'"):
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
    with pytest.raises(ValueError, match=r"bad\.tar: refused: it would execute posix\.system, which no network needs"):
        read_module(path)
    assert not mark.exists()


def test_only_names_of_networks_are_harmless():
    for name in (
        "os.system",
        "builtins.eval",
        "torch.hub.load",
        "models.evil.System",
        "torch.nn.modulesx.A",
        "xmodels.ResNet",
    ):
        assert not pickled._HARMLESS.fullmatch(name), name
    for name in ("models.ResNet", "models.a.b.IRBlock", "torch.nn.modules.conv.Conv2d", "torch.optim.sgd.SGD"):
        assert pickled._HARMLESS.fullmatch(name), name


@pytest.mark.filterwarnings("ignore")
def test_the_pickled_network_goes_through_the_loader(tmp_path, package):
    write(tmp_path / "a.tar", network(package), False)
    with pytest.raises(ValueError, match=r"a\.tar: not the weights of IRSE101: .*expected shape"):
        load_irse101(tmp_path / "a.tar")
