"""A second recogniser is trained, and compared with the benchmark's on the same pairs."""

import pytest
from conftest import ROOT, module_of

from distill import pretrain
from swapcore.files import read_json

script = module_of(ROOT / "experiments" / "second_recogniser.py")
SMALL = ["--pairs", "8", "--gallery", "4", "--size", "64"]


def test_it_is_trained_and_reads_what_the_others_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pretrain, "TEST_PEOPLE", 64)
    file = tmp_path / "second.safetensors"
    assert script.main(["train", str(file), "--people", "64", "--steps", "1"]) == 0
    assert read_json(tmp_path / "second.json")["recipe"]["seed"] == script.SEED
    assert script.main(["agree", str(file), *SMALL, "--out", str(tmp_path / "agree.json")]) == 0
    rows = read_json(tmp_path / "agree.json")["rows"]
    assert list(rows) == ["exact", "copy-source"]
    assert list(rows["exact"]) == ["synthetic_recogniser", "synthetic_identity", "second_recogniser"]
    assert rows["copy-source"]["synthetic_recogniser"]["value"] > 80
    assert "| exact |" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, b"x" * 100])
def test_a_missing_or_foreign_file_is_named(tmp_path, capsys, content):
    file = tmp_path / "second.safetensors"
    if content:
        file.write_bytes(content)
    assert script.main(["agree", str(file), *SMALL]) == 2
    assert str(file) in capsys.readouterr().err
