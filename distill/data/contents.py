"""The contents of the folders of pictures that a stage reads, as inputs of the stage: a finished stage must notice that
a picture was changed, added or taken away."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from swapcore.files import digest, read_record, sha256, write_record
from swapcore.images import list_pictures


def contents(folders: Mapping[str, str | Path | None], record: Path, accelerator) -> dict[str, dict[str, Any]]:
    """The number of pictures of each folder and a hash over their names and bytes. A folder that is None is left out.

    `record` keeps size, time and sha256 of every picture. A picture is read again only if its size or time changed, so
    a copy of the folder has the same hash as the folder. The main process reads; all processes get the result.
    """
    found = [_read(folders, record) if accelerator.is_main_process else None]
    return broadcast_object_list(found)[0]


def _read(folders: Mapping[str, str | Path | None], record: Path) -> dict[str, dict[str, Any]]:
    known = read_record(record) if record.is_file() else {}
    result, table = {}, {}

    def look(path: Path) -> tuple[str, list[int | str]]:
        status, before = path.stat(), known.get(str(path.absolute()))
        times = [status.st_size, status.st_mtime_ns]
        return str(path.absolute()), before if before and before[:2] == times else [*times, sha256(path)]

    with ThreadPoolExecutor(4) as pool:  # hashing releases the interpreter lock
        for key, folder in folders.items():
            if folder is not None:
                files = [path for path in list_pictures(folder)[0] if path.is_file()]
                looked = dict(pool.map(look, files))
                names = [path.relative_to(folder).as_posix() for path in files]
                hashes = [entry[2] for entry in looked.values()]
                result[key] = {"pictures": len(files), "hash": digest([*zip(names, hashes, strict=True)])}
                table |= looked
    if table != known:
        write_record(record, table)
    return result
