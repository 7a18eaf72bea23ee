"""Locks on folders and files: one command at a time writes to a folder.

They are POSIX record locks. The system releases them when the process ends, even by SIGKILL. Forked data loaders do not
inherit them. They hold between machines on network file systems that have them, as NFS does. Where a file system
refuses locks, a warning says so and the command goes on.
"""

from __future__ import annotations

import errno
import os
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from swapcore.files import disk_full_named, machine, remove_leftovers

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None

NAME = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_held: set[Path] = set()  # of this process: the system would grant it the same lock twice


class Locked(ValueError):
    """Another command writes to the folder. The message names its process and machine, and the remedy."""


@contextmanager
def folder_lock(folder: str | Path, name: str = NAME) -> Iterator[None]:
    """Let nobody else write to `folder` during the block. Raises Locked at once if another command holds the lock.

    Unfinished files that killed commands left in the folder are removed first, except in subfolders with a lock of
    their own. The file `name` stays, empty; only a folder that the block had to make and left empty is removed again.
    """
    folder = Path(folder)
    made = not folder.exists()
    with disk_full_named(folder / name):
        handle, path, granted = _open(folder, name)
    try:
        if granted:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{_myself()}\n".encode(), 0)
        _held.add(path)
        remove_leftovers(_inside(folder), foreign=granted)
        yield
    finally:
        _held.discard(path)
        if granted:
            os.ftruncate(handle, 0)
            if made and [entry.name for entry in folder.iterdir()] == [name]:
                path.unlink()
                with suppress(OSError):  # another command writes there already
                    folder.rmdir()
        os.close(handle)  # releases the lock


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Hold a lock on the file `path` during the block; wait while another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                _warn(path, error.strerror)
        yield


def _open(folder: Path, name: str) -> tuple[int, Path, bool]:
    """The open lock file of a folder, its path, and whether its lock was granted. Raises Locked."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder.resolve() / name
        if path in _held:
            raise _locked(folder, _myself())
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # its last user removes the folder
            continue
        try:
            granted = _try_lock(handle, folder)
            if path.exists() and os.path.samestat(path.stat(), os.fstat(handle)):
                return handle, path, granted
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its last user has removed the file: the lock would hold off nobody


def _try_lock(handle: int, folder: Path) -> bool:
    """Take the lock; False, with a warning, where there are no locks. Raises Locked."""
    if fcntl is None:
        _warn(folder, "this system has no POSIX locks")
        return False
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise _locked(folder, os.pread(handle, 1000, 0).decode(errors="replace").strip()) from None
        if error.errno not in NO_LOCKS:
            raise
        _warn(folder, f"its file system has no locks ({error.strerror})")
        return False
    return True


def _locked(folder: Path, holder: str) -> Locked:
    return Locked(
        f"{folder}: in use by {holder or 'another process'}; wait until it ends or stop it, or choose another folder "
        f"or name"
    )


def _warn(path: Path, reason: str | None) -> None:
    print(f"warning: {path}: {reason}: nothing keeps a second command from writing there too", file=sys.stderr)


def _myself() -> str:
    command = textwrap.shorten(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]), 80, placeholder=" ...")
    return f"process {os.getpid()} on {machine()} since {time.strftime('%Y-%m-%d %H:%M:%S')} ({command})"


def _inside(folder: Path) -> Iterator[Path]:
    """All files and folders below `folder`, but nothing below links or below folders with a lock of their own."""
    for place, folders, files in os.walk(folder, topdown=True):
        if Path(place) != folder and NAME in files:
            folders.clear()
            continue
        for name in (*folders, *files):
            yield Path(place, name)
