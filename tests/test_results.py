"""The comparison of results sees a difference in every kind of file, and nothing in what the clock changes."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from helpers import results
from helpers.results import compare, sort_metadata
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from swapcore import files


def tar(path, value):
    with tarfile.open(path, "w") as shard:
        member = tarfile.TarInfo("0.json")
        member.size = 1
        shard.addfile(member, io.BytesIO(str(value).encode()))


WRITERS = {
    "shard.tar": tar,
    "student.safetensors": lambda path, value: save_file({"w": torch.tensor([value])}, path),
    "named.safetensors": lambda path, value: save_file({"w": torch.zeros(1)}, path, {"steps": str(value)}),
    "step.pt": lambda path, value: torch.save({"net": {"w": torch.tensor([value])}}, path),
    "grid.png": lambda path, value: Image.fromarray(np.full((2, 2, 3), value, np.uint8)).save(path),
    "metrics.json": lambda path, value: path.write_text(json.dumps({"rows": {"a": {"ssim": {"value": value}}}})),
    "log.jsonl": lambda path, value: path.write_text(json.dumps({"step": value})),
    "whole.onnx": lambda path, value: path.write_bytes(bytes([value])),
    "experiment.yaml": lambda path, value: path.write_text(f"seed: {value}"),
}


def differences(folder, name, write, values):
    for side, value in zip(("before", "now"), values, strict=True):
        (folder / side).mkdir()
        write(folder / side / name, value)
    return [line for _, lines in compare(folder / "before", folder / "now") for line in lines]


@pytest.mark.parametrize("name", WRITERS)
def test_a_difference_is_seen(name, tmp_path):
    assert len(differences(tmp_path, name, WRITERS[name], (1, 2))) == 1


@pytest.mark.parametrize("name", WRITERS)
def test_equal_files_are_equal(name, tmp_path):
    assert differences(tmp_path, name, WRITERS[name], (1, 1)) == []


def test_a_missing_file_and_a_new_key_are_seen(tmp_path):
    assert differences(
        tmp_path, "metrics.json", lambda path, v: path.write_text(json.dumps({"a": 1} | v)), ({}, {"b": 1})
    )
    (tmp_path / "now" / "metrics.json").unlink()
    assert [lines for _, lines in compare(tmp_path / "before", tmp_path / "now")] == [["only in the first folder"]]


def test_the_digest_of_a_record_is_left_out(tmp_path):
    assert results.CHECK == files.CHECK
    assert differences(tmp_path, "done.json", lambda path, v: files.write_record(path, {"minutes": v}), (1, 2)) == []


def test_measured_times_and_the_mark_of_an_index_are_left_out(tmp_path):
    def write(path, value):
        path.write_text(json.dumps({"kept": 1, "minutes": value, **({"generated": True} if value == 2 else {})}))

    assert differences(tmp_path, "index.json", write, (1, 2)) == []


def test_metadata_in_order_make_equal_bytes_of_equal_weights(tmp_path):
    metadata = {key: key for key in "bdfhjlnpr"}
    for name in ("a", "b"):
        save_file({"w": torch.arange(3.0)}, tmp_path / name, dict(metadata))
        sort_metadata(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert file.metadata() == metadata and file.get_tensor("w").tolist() == [0, 1, 2]
