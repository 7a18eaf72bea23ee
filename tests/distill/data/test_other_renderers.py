"""Faces of another renderer: wherever rows, folders, lists, shards or weights of them enter, one line refuses them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import script
from helpers import pseudo_gt as stage
from helpers.shards import write_shard
from PIL import Image

from distill import build
from distill.config import ConfigError
from distill.data import prepare
from distill.data.fstriplets import BRANCHES, FSTriplets
from distill.data.photos import read_manifest
from distill.evaluate import pairs as lists
from distill.evaluate import swappers
from distill.pseudo_gt.shards import Shards
from distill.schema import Experiment, Mix, Train
from distill.stage import StageError
from distill.train import loop
from eval.cards import CARDS as ESTIMATORS
from students.identity_encoder import CARDS as ENCODERS
from swapcore import weights
from swapcore.files import read_json, read_record, write_json, write_record
from swapcore.images import DataError
from teachers import build as build_teacher
from teachers.exact import RENDERER

OLD = "renderer-1"
SIZE = 48
DRAWN = f"renderer: drawn by {OLD}, this version draws by {RENDERER}: draw the people"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Pictures of two test people and a list of pairs of them."""
    folder = tmp_path_factory.mktemp("drawn") / "people"
    options = ("--people", 2, "--images", 2, "--size", SIZE, "--split", "test", "--device", "cpu")
    assert script("datasets/synthetic.py", folder, *options).returncode == 0
    words = ("synthetic", folder, "--out", folder.parent / "list", "--count", 4, "--resolution", SIZE)
    made = script("datasets/make_pairs.py", *words)
    assert made.returncode == 0, made.stderr
    return folder.parent


@pytest.fixture
def copy(drawn, tmp_path):
    """The same, to be made old."""
    return shutil.copytree(drawn, tmp_path / "copy")


def as_first_renderer(row):
    """A row as the first renderer wrote it: fewer numbers, and no version."""
    new = {**row, "identity": row["identity"][:56], "attributes": row["attributes"][:42]}
    return {key: value for key, value in new.items() if key != "renderer"}


def make_old(manifest: Path) -> None:
    rows = [as_first_renderer(json.loads(line)) for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))


def one_line(done, *said):
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    for words in said:
        assert words in done.stderr


def test_rows_and_lists_name_their_renderer(drawn):
    rows = read_manifest(drawn / "people", "test", SIZE).rows
    assert {row["renderer"] for row in rows} == {RENDERER}
    listing = read_json(drawn / "list" / "pairs.json")
    assert {facts["renderer"] for facts in listing["pictures"].values()} == {RENDERER}
    assert listing["protocol"]["renderer"] == RENDERER, "which results repeat"
    assert lists.read(drawn / "list")[0].protocol["renderer"] == RENDERER


def test_a_manifest(copy):
    make_old(copy / "people" / "manifest.jsonl")
    with pytest.raises(DataError, match="manifest.jsonl: test/p00000/0.png: " + DRAWN):
        read_manifest(copy / "people", "test", SIZE)
    refused = script("datasets/make_pairs.py", "synthetic", copy / "people", "--out", copy / "x", "--resolution", SIZE)
    one_line(refused, "manifest.jsonl: test/p00000/0.png: " + DRAWN)


def test_photographs_have_no_renderer(tmp_path):
    row = {"file": "/x.png", "person": "x", "split": "train"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    assert read_manifest(tmp_path, "train", SIZE).rows == [row]


def test_a_folder_of_people(copy):
    record = copy / "people" / "synthetic.json"
    settings = {key: value for key, value in read_record(record).items() if key not in ("video", "extra", "sensor")}
    write_record(record, {**settings, "renderer": OLD})
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    options = ("--people", 2, "--images", 2, "--size", SIZE, "--split", "test", "--device", "cpu")
    refused = script("datasets/synthetic.py", copy / "people", *options)
    one_line(refused, f"synthetic.json: made with other settings: renderer was {OLD}, now {RENDERER}; name another")
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def test_a_list_of_pairs(copy):
    path = copy / "list" / "pairs.json"
    listing = read_json(path)
    listing["pictures"] = {file: as_first_renderer(facts) for file, facts in listing["pictures"].items()}
    write_json(path, listing)
    with pytest.raises(DataError, match="pairs.json: .*png: " + DRAWN + " and write the list again"):
        lists.read(copy / "list")
    refused = script("distill.evaluate", "copy-target", "--pairs", copy / "list", "--out", copy / "out")
    one_line(refused, DRAWN)


def test_rows_of_the_exact_teacher():
    exact, picture = build_teacher("exact"), torch.zeros(1, 3, SIZE, SIZE)
    old = {"file": "x.png", "identity": [0.0] * 56, "attributes": [0.0] * 42}
    said = f"x.png: drawn by another renderer: 'identity' has 56 numbers, those of {RENDERER} are .*; draw the people"
    with pytest.raises(ValueError, match=said):
        exact(picture, picture, [old], [old])
    with pytest.raises(ValueError, match="x.png: drawn by renderer-9: 'identity' has"):
        exact(picture, picture, [{**old, "renderer": "renderer-9"}], [old])


@pytest.fixture
def run_folder(tmp_path):
    """An experiment whose stage `data` the first renderer has finished."""
    exp = stage.draw_people(tmp_path)
    folder = exp.folder / "data"
    inputs = {**read_record(folder / "inputs.json"), "renderer": OLD}
    write_record(folder / "inputs.json", inputs)
    write_record(folder / "done.json", {"hash": prepare.Stage(folder, inputs).hash, "minutes": 1.0})
    make_old(folder / "manifest.jsonl")
    return exp


def test_a_finished_stage_of_a_run(run_folder):
    said = rf"data: made with other inputs \(renderer was '{OLD}', now '{RENDERER}'\); give the experiment another name"
    with pytest.raises(StageError, match=said):
        prepare.run(run_folder, stage.process(), stage.Record())


def test_a_run_without_its_stage_data(run_folder):
    from_photos = replace(run_folder, train=Train(mix=Mix(pseudo_gt=0.0, pair=1.0)))
    with pytest.raises(DataError, match="data/manifest.jsonl: train/p00000/0.png: " + DRAWN):
        loop.mixture(from_photos)  # stage train
    with pytest.raises(DataError, match="data/manifest.jsonl: .*" + DRAWN):
        lists.test_pairs(run_folder)  # stage eval, python -m distill.evaluate --experiment


def test_a_folder_of_fstriplets(tmp_path):
    for branch in {branch.folder for branch in BRANCHES.values()}:
        (tmp_path / branch).mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (SIZE, SIZE)).save(tmp_path / "vanilla" / f"{name}.png")
    shares = {"vanilla": 1.0}
    assert len(FSTriplets(tmp_path, SIZE, shares).files) == 2, "photographs have no record"
    settings = {"images": 4, "size": SIZE, "seed": 0, "renderer": OLD}
    write_record(tmp_path / "fstriplets.json", settings)
    with pytest.raises(DataError, match="fstriplets.json: " + DRAWN):
        FSTriplets(tmp_path, SIZE, shares)
    refused = script("datasets/make_fstriplets.py", tmp_path, "--size", SIZE, "--device", "cpu")
    one_line(refused, f"fstriplets.json: made with other settings: renderer was {OLD}, now {RENDERER}; name another")


def test_shards_of_the_exact_teacher(tmp_path):
    pictures = [torch.zeros(SIZE, SIZE, 3).byte().numpy()] * 3
    write_shard(tmp_path / "shard-00000.tar", [("0", pictures, {})])
    index = {"teachers": {"mine": {"name": "exact", "weight_hash": RENDERER}, "x": {"name": "x", "weight_hash": "1"}}}
    write_record(tmp_path / "index.json", index)
    assert len(Shards(tmp_path)) == 1
    index["teachers"]["mine"]["weight_hash"] = OLD
    write_record(tmp_path / "index.json", index)
    with pytest.raises(DataError, match=f"index.json: renderer: drawn by {OLD}, .*: swap the pairs again"):
        Shards(tmp_path)
    (tmp_path / "index.json").write_text("[1, 2]")
    assert len(Shards(tmp_path)) == 1, "an index of another program says nothing"


@pytest.mark.parametrize("card", [ENCODERS["synthetic_identity"], *ESTIMATORS.values()], ids=lambda card: card.name)
def test_weights_of_the_benchmark_are_known_by_their_bytes(tmp_path, card):
    for file in getattr(card, "files", (card,)):
        if card.name.startswith("synthetic"):
            (tmp_path / file.file).write_bytes(b"weights of other faces")
            with pytest.raises(weights.WeightsError, match=rf"{file.file}: sha256 is .*; delete it and get it again"):
                weights.find(file, [tmp_path])


def test_a_student_whose_encoder_was_trained_on_other_faces(tmp_path, monkeypatch):
    """It carries the hash of that encoder. To the encoder of the same name today it would be noise."""
    encoder = SimpleNamespace(card=ENCODERS["synthetic_identity"], weight_hash="b" * 16)
    names = {"identity_encoder": "synthetic_identity", "identity_encoder_hash": "a" * 16}
    path = tmp_path / "student.safetensors"
    weights.write_state(path, {"x": torch.zeros(1)}, names)
    said = f"student.safetensors: identity_encoder_hash: trained with weights {'a' * 16} of 'synthetic_identity', this"
    with pytest.raises(ConfigError, match=f"{said} version has {'b' * 16}; train it again"):
        build.check_encoder(path, build.header_of(path), encoder)
    monkeypatch.setattr(swappers.students, "load", lambda path: None)
    monkeypatch.setattr(build, "identity_encoder", lambda *_: encoder)
    with pytest.raises(ConfigError, match=said):
        swappers.load_student(path, Experiment(name="x"))
    for unknown in ({}, {"identity_encoder": "synthetic_identity"}, {**names, "identity_encoder": "foamliu_128"}):
        build.check_encoder(path, unknown, encoder)  # nothing is known, or another encoder was chosen on purpose
