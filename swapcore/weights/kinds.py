"""Names what a file is by its content: the formats that weights are read from, and those that people take for them."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from pathlib import Path
from typing import NamedTuple

SAFETENSORS, TORCH, ONNX = "a safetensors file", "a torch file", "an ONNX model"
PICKLE = "a Python pickle that torch.save did not write"
TORCH_LEGACY = struct.pack("<BBBB", 0x80, 2, 0x8A, 10) + (0x1950A86A20F9469CFC6C).to_bytes(10, "little") + b"."
_AGAIN = "download it again"
_UNPACK = "unpack it and name the weight file in it"
_LARGEST_HEADER = 100_000_000  # bytes; of a safetensors file, by its specification


class Kind(NamedTuple):
    """What a file is. remedy: what to do; None: get it in the expected format."""

    name: str
    remedy: str | None = None


# First bytes (from an offset) -> kind.
_SIGNATURES = (
    (0, b"version https://git-lfs", Kind("a Git LFS pointer", "run `git lfs pull` there, or download the file itself")),
    (0, b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file (Keras, TensorFlow, MATLAB)")),
    (0, b"GGUF", Kind("a GGUF file (llama.cpp)")),
    (0, b"lmgg", Kind("a GGML file")),
    (0, b"model_checkpoint_path:", Kind("the list of a TensorFlow checkpoint")),
    (4, b"TFL3", Kind("a TensorFlow Lite model")),
    (4, b"ET1", Kind("an ExecuTorch program")),
    (0, b"7767517\n", Kind("an ncnn model")),
    (0, b"\x93NUMPY", Kind("a numpy array")),
    (257, b"ustar", Kind("a tar archive", _UNPACK)),
    (0, b"\x1f\x8b", Kind("a gzip archive", _UNPACK)),
    (0, b"BZh", Kind("a bzip2 archive", _UNPACK)),
    (0, b"\xfd7zXZ\0", Kind("an xz archive", _UNPACK)),
    (0, b"\x28\xb5\x2f\xfd", Kind("a Zstandard archive", _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7-Zip archive", _UNPACK)),
    (0, b"Rar!", Kind("a RAR archive", _UNPACK)),
    (0, b"%PDF", Kind("a PDF document")),
    (0, b"\x89PNG", Kind("a picture")),
    (0, b"\xff\xd8\xff", Kind("a picture")),
)
_TENSORFLOW_INDEX = bytes.fromhex("57fb808b247547db")  # the last bytes of a leveldb table
# These three formats are protobuf and begin with the same byte, 8. Only the ending of the name differs.
_PROTOBUF = {".mlmodel": "a Core ML model", ".onnx": ONNX, ".pb": "a TensorFlow graph"}


def kind_of(path: str | Path) -> Kind:
    """What the file is, by its content. Raises ValueError naming the path where there is no file."""
    path = Path(path)
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", ".pth", ".pt", ".bin", ".onnx"))
        raise ValueError(f"{path}: is a folder; name a file in it{': ' if inside else ''}{', '.join(inside[:3])}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(1024)
        file.seek(max(0, size - 8))
        tail = file.read()
    if not head.strip(b"\0"):
        return Kind("empty (0 bytes)" if size == 0 else "full of zeros", _AGAIN)
    for offset, mark, kind in _SIGNATURES:
        if head.startswith(mark, offset):
            return kind
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if head.startswith(TORCH_LEGACY):
        return Kind(TORCH)
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return Kind(PICKLE)
    if size > 8 and head[8:9] == b"{" and (length := struct.unpack("<Q", head[:8])[0]) <= _LARGEST_HEADER:
        return _safetensors_kind(path, length, size)
    if tail == _TENSORFLOW_INDEX:
        return Kind("the index of a TensorFlow checkpoint")
    if head[:1] == b"\x08" and path.suffix.lower() in _PROTOBUF:
        return Kind(_PROTOBUF[path.suffix.lower()])
    return _text_kind(head) or Kind("of an unknown format, or damaged")


def refusal(path: str | Path, expected: str) -> str:
    """One line: the path, what the file is, and what to do; `expected` names the format that belongs there."""
    kind = kind_of(path)
    return f"{path}: is {kind.name}" + (
        f"; {kind.remedy}" if kind.remedy else f", not {expected}; get it as {expected}"
    )


def _zip_kind(path: Path) -> Kind:
    if not zipfile.is_zipfile(path):
        return Kind("incomplete: the end of a torch file or zip archive is missing", _AGAIN)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        return Kind("a TorchScript program")
    if "data.pkl" in inner:
        return Kind(TORCH)
    if "archive_format" in inner or "models/model.json" in inner:
        return Kind("a program of torch.export")
    if any(name.endswith(".weights.h5") for name in names):
        return Kind("a Keras model")
    if names and all(name.endswith(".npy") for name in names):
        return Kind("an archive of numpy arrays")
    return Kind(f"a zip archive ({', '.join(names[:3]) or 'empty'})", _UNPACK)


def _safetensors_kind(path: Path, length: int, size: int) -> Kind:
    incomplete = Kind("incomplete: the end of a safetensors file is missing", _AGAIN)
    if 8 + length > size:
        return incomplete
    with open(path, "rb") as file:
        file.seek(8)
        try:
            entries = json.loads(file.read(length)).items()
            end = max((entry["data_offsets"][1] for name, entry in entries if name != "__metadata__"), default=0)
        except (ValueError, TypeError, LookupError, AttributeError):
            return Kind("damaged: the header of a safetensors file cannot be read", _AGAIN)
    return incomplete if 8 + length + end > size else Kind(SAFETENSORS)


def _text_kind(head: bytes) -> Kind | None:
    """The kind of a text; None for bytes that are none."""
    text = head.decode("utf-8", "ignore").lstrip("\ufeff \t\r\n").lower()
    if re.match(r"<(!doctype html|html|head|body|script|meta|!--)", text):
        return Kind("a web page", "download the file itself, in a browser if the site asks a question first")
    if not text or re.search(r"[\0-\x08\x0e-\x1f]", text) or len(text) < 0.9 * len(head.strip()):
        return None
    kind = "XML text" if text.startswith("<") else "JSON text" if text[0] in "{[" else "text"
    return Kind(f"{kind} ('{' '.join(head.decode('utf-8', 'ignore').split())[:60]}')", "download the file itself")
