"""The command `datasets/synthetic.py`: it goes on where it stopped, and never mixes pictures of two settings."""

import json

import pytest
from conftest import script
from PIL import Image

SETTINGS = {"--people": 3, "--images": 2, "--size": 32, "--seed": 1, "--split": "train"}


def draw(folder, **changed):
    options = SETTINGS | {f"--{name}": value for name, value in changed.items()}
    words = [word for pair in options.items() for word in pair]
    return script("datasets/synthetic.py", folder, "--device", "cpu", *words)


@pytest.fixture
def folder(tmp_path):
    assert draw(tmp_path / "people").returncode == 0
    return tmp_path / "people"


@pytest.mark.parametrize("changed", [{"size": 48}, {"seed": 2}, {"people": 6}, {"images": 3}, {"split": "test"}])
def test_other_settings_need_another_folder(folder, changed):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    ((name, value),) = changed.items()
    refused = draw(folder, **changed)
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert (
        f"synthetic.json: made with other settings: {name} was {SETTINGS['--' + name]}, now {value}" in refused.stderr
    )
    assert "name another folder, or delete" in refused.stderr
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_command_goes_on(folder):
    whole = {path: path.read_bytes() for path in folder.rglob("*.png")}
    for path in (folder / "rows").iterdir():
        path.unlink()
    next(iter(whole)).unlink()
    assert draw(folder).returncode == 0
    assert whole == {path: path.read_bytes() for path in folder.rglob("*.png")}
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and {Image.open(folder / row["file"]).size for row in rows} == {(32, 32)}


@pytest.mark.parametrize("command", ["synthetic", "make_fstriplets"])
def test_pictures_of_another_origin_are_not_taken_over(tmp_path, command):
    path = tmp_path / "vanilla" / "p00000" / "0.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(path)
    refused = script(f"datasets/{command}.py", tmp_path, "--people", 2, "--images", 2, "--size", 32, "--device", "cpu")
    assert refused.returncode == 2 and "0.png: was not drawn by this command; name another folder" in refused.stderr
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"0.png", ".lock"}
