"""Storage of shards: a local folder, or any fsspec URL (s3://bucket/path, memory://path, ...). Files appear whole.

In a folder a file is written under a hidden name and renamed; in an object store it is written locally and put.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from distill.stage import StageError
from swapcore import terminal
from swapcore.files import disk_full_named, remove_leftovers, whole_file, with_check, without_check


class Store:
    """The files of one folder, by name. Raises StageError naming the URL and the remedy where it cannot be reached."""

    def __init__(self, where: str | Path):
        scheme, separator, path = str(where).partition("://")
        self.url = str(where).rstrip("/")
        self.folder = Path(path if separator else where) if not separator or scheme in ("file", "local") else None
        self._opened: tuple[int, Any] = (-1, None)  # this process, its fsspec file system
        if self.folder is None:
            self._system()

    def __str__(self) -> str:
        return str(self.folder or self.url)

    def path(self, name: str) -> str:
        return str(self.folder / name) if self.folder else f"{self.url}/{name}"

    def sizes(self) -> dict[str, int]:
        """Bytes of every file of the folder, by sorted name, without hidden files (which are unfinished)."""
        if self.folder:
            files = {p.name: p.stat().st_size for p in self.folder.glob("*") if p.is_file()}
        else:
            with self._clear_errors():
                system = self._system()
                system.invalidate_cache()
                listed = system.find(self.url, maxdepth=1, detail=True) if system.exists(self.url) else {}
                files = {name.rsplit("/", 1)[-1]: entry["size"] for name, entry in listed.items()}
        return {name: files[name] for name in sorted(files) if not name.startswith(".")}

    def exists(self, name: str) -> bool:
        if self.folder:
            return (self.folder / name).is_file()
        with self._clear_errors():
            self._system().invalidate_cache()
            return self._system().exists(self.path(name))

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes start .. end of a file, or all of them. Safe in threads and forked processes."""
        if self.folder and start is not None:
            with open(self.folder / name, "rb", buffering=0) as file:  # thousands of shards must not stay open
                return os.pread(file.fileno(), end - start, start)
        if self.folder:
            return (self.folder / name).read_bytes()
        with self._clear_errors():
            return self._system().cat_file(self.path(name), start=start, end=end)

    def read_record(self, name: str) -> dict[str, Any]:
        """The content of a file of `write_record`. Raises StageError, FileError if it is damaged."""
        try:
            tree = json.loads(self.read(name))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise StageError(f"{self.path(name)}: damaged ({error}); delete it and run again") from None
        return without_check(tree, self.path(name))

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file for reading, with seek."""
        if self.folder:
            with open(self.folder / name, "rb") as file:
                yield file
            return
        with self._clear_errors(), self._system().open(self.path(name), "rb") as file:
            yield file

    @contextmanager
    def whole(self, name: str) -> Iterator[Path]:
        """Yield a temporary local path that becomes the file `name` if the block succeeds, and is removed if not."""
        if self.folder:
            try:
                with whole_file(self.folder / name) as temporary:
                    yield temporary
            except FileNotFoundError:  # another machine wrote the same file and removed the temporary one
                if not self.exists(name):
                    raise
            return
        with tempfile.TemporaryDirectory(prefix="shard-") as folder:
            temporary = Path(folder) / name
            with disk_full_named(temporary, probe=temporary):
                yield temporary
            with self._clear_errors():
                self._system().put_file(str(temporary), self.path(name))

    def remove_leftovers(self) -> None:
        """Remove files that dead processes of this machine left unfinished; other machines may write here, too."""
        if self.folder and self.folder.is_dir():
            remove_leftovers(list(self.folder.iterdir()))

    def write_record(self, name: str, content: dict[str, Any], indent: int | None = None) -> None:
        with self.whole(name) as temporary:
            text = json.dumps(with_check(content), indent=indent, allow_nan=False)
            temporary.write_text(f"{text}\n", encoding="utf-8")

    def _system(self) -> Any:
        """The file system, reopened in each process: threads and connections do not survive a fork."""
        owner, system = self._opened
        if owner != os.getpid():
            scheme = self.url.partition("://")[0]
            try:
                system = fsspec.filesystem(scheme)
            except ImportError as error:
                raise StageError(
                    f"{self.url}: {error}; `{terminal.install('remote')}` installs what s3:// needs"
                ) from None
            except ValueError as error:
                raise StageError(
                    f"{self.url}: {error}; expected a folder or a URL that fsspec knows (s3://...)"
                ) from None
            self._opened = (os.getpid(), system)
        return system

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Turn errors of a file system into StageError naming the URL. Errors of botocore are not OSErrors."""
        kinds = (
            (OSError, sys.modules["botocore.exceptions"].BotoCoreError)
            if "botocore.exceptions" in sys.modules
            else OSError
        )
        try:
            yield
        except kinds as error:
            raise StageError(f"{self.url}: {type(error).__name__}: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": (-1, None)}
