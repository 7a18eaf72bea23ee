"""Files that are taken for weights or ONNX models are named by their content, whatever their ending is."""

import io
import pickle
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save
from torch import nn

from swapcore import weights
from swapcore.onnx import Session
from swapcore.weights import kinds

HTML = b"\n<!DOCTYPE html><html><head><title>Virus scan warning</title>"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
OTHERS = [
    (b"", r"is empty \(0 bytes\); download it again"),
    (bytes(5000), "is full of zeros; download it again"),
    (LFS, "is a Git LFS pointer; run `git lfs pull` there, or download the file itself"),
    (HTML, "is a web page; download the file itself, in a browser"),
    (b"<html>", "is a web page"),
    (b'{"error": "Access is restricted"}', r"is JSON text \('\{\"error\": .*'\); download the file itself"),
    (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is XML text"),
    (b"Not Found", r"is text \('Not Found'\)"),
    (b"model_checkpoint_path: 'm'", "is the list of a TensorFlow checkpoint, not"),
    (b"\0\1\2" * 9 + bytes.fromhex("57fb808b247547db"), "is the index of a TensorFlow checkpoint, not"),
    (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file .Keras.*, not"),
    (b"GGUF\3\0\0\0", "is a GGUF file"),
    (b"\x1c\0\0\0TFL3", "is a TensorFlow Lite model"),
    (b"\x93NUMPY\1\0", "is a numpy array"),
    (b"\x1f\x8b\x08", "is a gzip archive; unpack it"),
    (pickle.dumps({"a": 1}), "is a Python pickle that torch.save did not write, not"),
    (bytes(range(7, 250)) * 5, "is of an unknown format, or damaged, not"),
    (save({"a": torch.zeros(3)})[:-4], "is incomplete: the end of a safetensors file is missing; download it again"),
    (save({"a": torch.zeros(3)})[:20], "is incomplete: the end of a safetensors file is missing"),
    (b"\x09" + bytes(7) + b'{"a": 1,}', "is damaged: the header of a safetensors file"),
]


def zipped(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return file.getvalue()


def tarred(name: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


OTHERS += [
    (zipped("model/a.txt"), r"is a zip archive \(model/a.txt\); unpack it and name the weight file"),
    (zipped("config.json", "model.weights.h5"), "is a Keras model, not"),
    (zipped("a.npy"), "is an archive of numpy arrays, not"),
    (zipped("net/data.pkl", "net/constants.pkl"), "is a TorchScript program, not"),
    (
        zipped("net/data.pkl")[:-9],
        "is incomplete: the end of a torch file or zip archive is missing; download it again",
    ),
    (tarred("00000.jpg"), "is a tar archive; unpack it"),
]


@pytest.mark.parametrize("ending", [".pth", ".safetensors", ".tar", ".onnx"])
def test_files_of_other_kinds_are_named_in_one_line(tmp_path, ending):
    path = tmp_path / f"other{ending}"
    for content, message in OTHERS:
        path.write_bytes(content)
        expected = "an ONNX model" if ending == ".onnx" else "a PyTorch or safetensors file"
        end = f" {expected}; get it as {expected}$" if message.endswith("not") else ""
        with pytest.raises(ValueError, match=rf"other\{ending}: {message}{end}") as refused:
            Session(path) if ending == ".onnx" else weights.read_state(path)
        assert not {"\n", "\x1b"} & set(str(refused.value)) and "weights_only" not in str(refused.value)


@pytest.mark.parametrize("read", [weights.read_state, weights.read_header, Session, kinds.kind_of])
def test_a_folder_and_a_missing_file_are_named(tmp_path, read):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is a folder; name a file in it: model.safetensors"):
        read(tmp_path)
    with pytest.raises(ValueError, match="a.pth: no such file"):
        read(tmp_path / "a.pth")


@pytest.mark.parametrize("ending", [".pth", ".safetensors", ".tar", ".ckpt", ""])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_the_content_decides_how_a_file_is_read(tmp_path, kind, ending):
    path, state = tmp_path / f"w{ending}", nn.Linear(2, 2).state_dict()
    if kind == "safetensors":
        path.write_bytes(save(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    assert kinds.kind_of(path).name == ("a safetensors file" if kind == "safetensors" else "a torch file")
    assert torch.equal(weights.read_state(path)["weight"], state["weight"])
    if kind != "safetensors":
        with pytest.raises(ValueError, match="is a torch file, not a safetensors file; get it as a safetensors file"):
            weights.read_header(path)
    with pytest.raises(ValueError, match=r"is a (torch|safetensors) file, not an ONNX model"):
        Session(path)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_that_is_cut_off_is_named(tmp_path, zipped):
    path = tmp_path / "w.pth"
    torch.save(nn.Linear(64, 64).state_dict(), path, _use_new_zipfile_serialization=zipped)
    for length in (9000, 300, 30):
        path.write_bytes(path.read_bytes()[:-length])
        with pytest.raises(ValueError, match=r"w\.pth: .*(incomplete|damaged).*; download it again"):
            weights.read_state(path)


@pytest.mark.filterwarnings("ignore")
def test_a_real_torchscript_program_is_named(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "w.pt"))
    with pytest.raises(ValueError, match="is a TorchScript program, not a PyTorch or safetensors file"):
        weights.read_state(tmp_path / "w.pt")


@pytest.mark.parametrize(("ending", "name"), [("mlmodel", "a Core ML model"), ("pb", "a TensorFlow graph")])
def test_models_of_protobuf_are_named_by_their_ending(tmp_path, ending, name):
    (tmp_path / f"m.{ending}").write_bytes(b"\x08\x04\x12\x09")
    with pytest.raises(ValueError, match=f"is {name}, not a PyTorch"):
        weights.read_state(tmp_path / f"m.{ending}")
