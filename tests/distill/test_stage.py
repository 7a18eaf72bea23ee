"""Folders of stages: whole files, inputs that may not change under finished work, weights that are what they say."""

import dataclasses
from types import SimpleNamespace

import pytest

from distill.config import Experiment
from distill.stage import StageError, open_stage, upstream
from swapcore import weights
from swapcore.files import whole_file, write_json

ALONE = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)


@dataclasses.dataclass
class Card:
    file: str | None = "w.bin"
    sha256: str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of b"abc"
    url: str | None = None
    name: str = "toy"
    source: str = "https://example.org/toy"
    licence: str = "MIT"
    note: str = "Train one."


def experiment(tmp_path) -> Experiment:
    return Experiment(name="x", runs=str(tmp_path))


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_finished_stage_is_found_and_other_inputs_are_refused(tmp_path):
    exp = experiment(tmp_path)
    stage = open_stage(exp, "train", {"train": {"lr": 1, "steps": 5}}, ALONE)
    assert not stage.done
    stage.finish()
    assert open_stage(exp, "train", {"train": {"lr": 1, "steps": 5}}, ALONE).done
    with pytest.raises(StageError, match=r"train\.lr was 1, now 2.*another name"):
        open_stage(exp, "train", {"train": {"lr": 2, "steps": 5}}, ALONE)
    assert open_stage(exp, "train", {"train": {"lr": 1, "steps": 5}}, ALONE).done, "the refusal touched nothing"
    assert not open_stage(exp, "train", {"train": {"lr": 1, "steps": 9}}, ALONE, extendable=("train.steps",)).done


def test_upstream_must_be_finished_and_whole(tmp_path):
    exp = experiment(tmp_path)
    with pytest.raises(StageError, match="stage 'data' is not finished"):
        upstream(exp, "data")
    write_json(exp.folder / "data" / "done.json", {"hash": "1"})
    assert upstream(exp, "data") == "1"
    (exp.folder / "data" / "done.json").write_text("{")
    with pytest.raises(StageError, match="done.json: damaged"):
        upstream(exp, "data")


def test_weights_are_found_verified_and_refused(tmp_path, monkeypatch):
    (tmp_path / "w.bin").write_bytes(b"abc")
    assert weights.find(Card(), [tmp_path]) == tmp_path / "w.bin"
    monkeypatch.setenv("SWAPDISTILL_WEIGHTS", str(tmp_path))
    assert weights.find(Card()) == tmp_path / "w.bin"
    (tmp_path / "w.bin").write_bytes(b"abd!")
    with pytest.raises(weights.WeightsError, match=r"w\.bin: sha256 is .*but the weights 'toy' have ba7816bf.*again"):
        weights.find(Card())


def test_missing_weights_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.delenv("SWAPDISTILL_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(weights.WeightsError, match="get it from https://example.org/toy .*MIT, sha256 ba7816bf"):
        weights.find(Card())
    with pytest.raises(weights.WeightsError, match="nobody published them. Train one"):
        weights.find(Card(file=None))


def test_a_download_is_verified_and_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("SWAPDISTILL_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "served.bin"
    source.write_bytes(b"abc")
    card = Card(url=source.as_uri())
    assert weights.find(card).read_bytes() == b"abc"
    source.unlink()
    assert weights.find(card).read_bytes() == b"abc", "kept in the cache"
    with pytest.raises(weights.WeightsError, match="download of .* failed"):
        weights.find(Card(file="other.bin", url=card.url))
    source.write_bytes(b"evil")
    with pytest.raises(weights.WeightsError, match="sha256"):
        weights.find(Card(file="third.bin", url=card.url))
    assert not (tmp_path / "cache" / "swapdistill" / "third.bin").exists()
