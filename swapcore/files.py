"""Atomic writes of files and folders, JSON, and hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

FRESH_NS = 2_000_000_000  # the coarsest clock of a file system, FAT's, has ticks of two seconds


class FileError(ValueError):
    """A file is damaged, or stands where a folder is needed. The message names the file and the remedy."""


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` if the block succeeds, remove it if not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder beside `path`, for a converter that writes a file or a folder
    and needs the final name. It replaces `path` if the block succeeds, and is removed if not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        if path.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)


def check_folder(path: Path) -> None:
    """Raise FileError if the output folder `path` is a file. Commands call this before any work."""
    if path.exists() and not path.is_dir():
        raise FileError(f"--out {path}: is a file; name a folder")


def write_text(path: str | Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file. Raises FileError if it is damaged."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: damaged ({error}); delete it and run again") from None


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> one dict with dotted keys."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat


def digest(value: Any) -> str:
    """First 16 hexadecimal digits of the sha256 of a JSON-able value."""
    return bytes_hash(json.dumps(value, sort_keys=True).encode())


def bytes_hash(content: bytes) -> str:
    """First 16 hexadecimal digits of the sha256 of bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def sha256(path: str | Path) -> str:
    """The sha256 of a file. It is computed again if anything but the time of the last read changed since."""
    status = os.stat(path)
    known = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    # Two writes within one tick of the file system's clock leave equal times, so a file that has just changed is not
    # remembered. `st_ctime` is beside `st_mtime`, which a copy may take over from another file of the same size.
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < FRESH_NS:
        return _sha256.__wrapped__(Path(path), *known)
    return _sha256(Path(path), *known)


@lru_cache(maxsize=64)
def _sha256(path: Path, *_status: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
