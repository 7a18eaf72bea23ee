"""Atomic writes of files and folders, errors of a full disk, leftovers of killed processes, JSON, and hashes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

CHECK = "content_digest"  # key of a record
FRESH_NS = 2_000_000_000  # the coarsest clock of a file system, FAT's, has ticks of two seconds
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no space, the user's quota is used up, the file is too large here
PROBE_BYTES = 1 << 20
# Names of unfinished files: .STEM.PID@MACHINE.TOKEN.SUFFIX
UNFINISHED = re.compile(r"\..*\.(?P<pid>\d+)@(?P<machine>.+)\.[0-9a-f]{8}(\.[^.]*)?", re.DOTALL)


class FileError(ValueError):
    """A file is damaged, or stands where a folder is needed. The message names the file and the remedy."""


class DiskFull(OSError):
    """A file cannot be written because the disk is full, or the user's quota. The message names the file, the reason,
    the free space and the remedy."""


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` if the block succeeds, remove it if not.

    The mode of the file follows the umask. Raises DiskFull where the block failed because the disk is full.
    """
    path = Path(path)
    with disk_full_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _unfinished(path)
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        mode = os.fstat(handle).st_mode & 0o777
        os.close(handle)
        try:
            with disk_full_named(path, temporary):
                yield temporary
            temporary.chmod(mode)  # some libraries replace the file, with a mode of their own
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder beside `path`, for a converter that writes a file or a folder
    and needs the final name. It replaces `path` if the block succeeds, and is removed if not.

    Raises DiskFull where the block failed because the disk is full.
    """
    path = Path(path)
    with disk_full_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = _unfinished(path.with_suffix(""))
        folder.mkdir()
        temporary = folder / path.name
        try:
            with disk_full_named(path, folder / "probe"):
                yield temporary
            if path.is_dir():
                os.replace(path, folder / "before")  # a kill while it is deleted must not leave a part of it at `path`
            os.replace(temporary, path)
        finally:
            shutil.rmtree(folder)


@contextmanager
def disk_full_named(path: Path, probe: Path | None = None) -> Iterator[None]:
    """Turn an error of the block into DiskFull, which names `path`, where its cause is a full disk.

    Many libraries hide that cause. With `probe`, a file in the same folder that may be spoilt, the disk itself is
    asked: an error counts as one of a full disk if the probe cannot grow.
    """
    try:
        yield
    except Exception as error:
        reason = None if isinstance(error, DiskFull) else _disk_is_full(error, probe)
        if reason is None:
            raise
        folder = next(parent for parent in path.absolute().parents if parent.is_dir())
        free = shutil.disk_usage(folder).free
        raise DiskFull(
            f"{path}: cannot be written: {os.strerror(reason)} ({free / 1e6:,.1f} MB free in {folder}); free some "
            f"space, or name a folder on another disk, and give the same command again"
        ) from error


def _disk_is_full(error: BaseException | None, probe: Path | None) -> int | None:
    """The errno of FULL that caused an error, or None."""
    while error is not None:
        for reason in FULL:
            if isinstance(error, OSError) and error.errno == reason or os.strerror(reason) in str(error):
                return reason
        error = error.__cause__ or error.__context__
    if probe is None:
        return None
    try:
        with open(probe, "ab") as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as refused:
        return refused.errno if refused.errno in FULL else None
    return None


def _unfinished(path: Path) -> Path:
    """A new name beside `path`, hidden, of the same suffix; it says which process on which machine writes it."""
    stem = path.stem.encode()[:80].decode(errors="ignore")
    return path.with_name(f".{stem}.{os.getpid()}@{machine()}.{secrets.token_hex(4)}{path.suffix}")


@lru_cache(maxsize=1)
def machine() -> str:
    """The name of this machine, for files. In a container with process numbers of its own: also their namespace."""
    name = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:64] or "unnamed"
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # not Linux
        return name
    return name if namespace == 0xEFFFFFFC else f"{name}-{namespace}"  # PROC_PID_INIT_INO of the Linux kernel


def remove_leftovers(paths: Iterable[Path], foreign: bool = False) -> None:
    """Remove those of `paths` that `whole_file` or `whole_folder` of a dead process of this machine left unfinished.

    With `foreign` also those of other machines: only for a folder that no other process may write to.
    """
    for path in paths:
        match = UNFINISHED.fullmatch(path.name)
        if match is None or not (_is_dead(int(match["pid"])) if match["machine"] == machine() else foreign):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)  # another process may be removing it as well
        else:
            path.unlink(missing_ok=True)


def _is_dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:  # it lives, and belongs to another user
        return False
    return False


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


def write_record(path: str | Path, content: dict[str, Any]) -> None:
    """Write a JSON file that `read_record` checks: of a command's own, for later commands."""
    write_json(path, with_check(content))


def read_record(path: str | Path) -> dict[str, Any]:
    """The content of a file of `write_record`. Raises FileError if it is damaged or was changed by hand."""
    return without_check(read_json(path), path)


def with_check(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a record and its digest."""
    tree = json.loads(json.dumps(content))  # keys become text, tuples lists
    return {**tree, CHECK: digest(tree)}


def without_check(tree: Any, path: str | Path) -> dict[str, Any]:
    """The content of a record whose digest is right; records of older versions have none. Raises FileError."""
    content = {key: value for key, value in tree.items() if key != CHECK} if isinstance(tree, dict) else None
    if content is None or tree.get(CHECK, digest(content)) != digest(content):
        raise FileError(f"{path}: damaged, or changed by hand; delete it and run again")
    return content


def read_rows(path: str | Path, fields: dict[str, type], unfinished: bool = False) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; with `unfinished` without a last line that does not end. Raises FileError where
    one is damaged or lacks a field of this type."""
    rows = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(keepends=True), 1):
        if unfinished and not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
        except ValueError as error:
            raise FileError(f"{path}: line {number}: damaged ({error}); delete the file and run again") from None
        for field, kind in fields.items():
            if not isinstance(row, dict) or not isinstance(row.get(field), kind):
                raise FileError(f"{path}: line {number}: damaged (no {field}); delete the file and run again")
        rows.append(row)
    return rows


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
