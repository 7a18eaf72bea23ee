"""A card of a leaf -> the verified path of its weight file.

Looked for, in this order: the folders given, $SWAPDISTILL_WEIGHTS (folders joined by the system's path separator),
the weights shipped with the packages, the cache; then downloaded from the card's URL into the cache. The sha256 is
always checked.
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from distill.stage import whole_file

ROOT = Path(__file__).resolve().parent.parent
PACKAGED = (ROOT / "students" / "weights", ROOT / "eval" / "weights")


class WeightsError(ValueError):
    """A weight file is missing or is not the one its card describes; the message says how to get the right one."""


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "swapdistill"


def search_folders(folders: Iterable[str | Path] = ()) -> list[Path]:
    """Where weights are looked for, in this order."""
    listed = [Path(f) for f in os.environ.get("SWAPDISTILL_WEIGHTS", "").split(os.pathsep) if f]
    return [*map(Path, folders), *listed, *PACKAGED, cache_folder()]


def find(card, folders: Iterable[str | Path] = ()) -> Path:
    """Path of the file of `card` (fields name, file, sha256, url, source, licence), its sha256 checked.

    Raises WeightsError with what to get from where if it is nowhere, and if a file of that name has another sha256.
    """
    if card.file is None:
        raise WeightsError(f"weights '{card.name}': nobody published them. {card.note}")
    places = search_folders(folders)
    for place in places:
        path = place / card.file
        if path.is_file():
            _verify(path, card)
            return path
    if card.url:
        return _download(card)
    raise WeightsError(
        f"weights '{card.name}': {card.file} is in none of {', '.join(map(str, places))}; "
        f"get it from {card.source} (licence: {card.licence}, sha256 {card.sha256}) and put it there, "
        f"or name its folder with weights=[FOLDER], --weights FOLDER or SWAPDISTILL_WEIGHTS"
    )


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(path: str | Path) -> str:
    path = Path(path)
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


def bytes_hash(content: bytes) -> str:
    """First 16 hexadecimal digits of the sha256 of what is in memory."""
    return hashlib.sha256(content).hexdigest()[:16]


def _verify(path: Path, card) -> None:
    found = sha256(path)
    if card.sha256 and not found.startswith(card.sha256):  # torchvision publishes the first eight digits only
        raise WeightsError(
            f"{path}: sha256 is {found}, but the weights '{card.name}' have {card.sha256}: damaged or another file; "
            f"delete it and get it again from {card.url or card.source}"
        )


def _download(card) -> Path:
    path = cache_folder() / card.file
    try:
        with whole_file(path) as temporary:
            with urllib.request.urlopen(card.url, timeout=30) as reply, open(temporary, "wb") as file:
                total = int(reply.headers.get("Content-Length", 0)) or None
                with tqdm(total=total, unit="B", unit_scale=True, desc=f"download {card.file}") as bar:
                    while block := reply.read(1 << 20):
                        file.write(block)
                        bar.update(len(block))
            _verify(temporary, card)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise WeightsError(
            f"weights '{card.name}': download of {card.url} failed ({error}); get the file by hand "
            f"(sha256 {card.sha256}) and put it into {cache_folder()}"
        ) from None
    return path
