"""WebDataset-compatible tar shards: written whole, read at random without unpacking, from a folder or a URL.

A sample is four members of one tar: `<key>.source.png`, `<key>.target.png`, `<key>.gt.png`, `<key>.json`. Readers that
know WebDataset read them in order; `Shards` reads any sample by its offset. A sidecar `<shard>.json` of ours saves
looking for the offsets; shards made elsewhere have none and are looked through once.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from distill.pseudo_gt.store import Store
from swapcore.files import whole_file
from swapcore.images import DataError, decode

PARTS = ("source.png", "target.png", "gt.png", "json")
ANEW = "delete it and run again: only it is made anew"

Sample = tuple[str, Sequence[np.ndarray], dict[str, Any]]


def write_shard(path: Path, samples: Iterable[Sample]) -> int:
    """Write (key, (source, target, gt) as (H,W,3) uint8, facts) samples as one tar; its bytes depend on them alone."""
    with whole_file(path) as temporary:
        return write_tar(temporary, samples)


def write_tar(path: Path, samples: Iterable[Sample]) -> int:
    """`write_shard` at a path that is temporary already; the number of samples."""
    samples, count = iter(samples), 0
    with tarfile.open(path, "w") as tar, ThreadPoolExecutor(4) as pool:
        while some := list(islice(samples, 16)):
            pngs = pool.map(_png, [picture for _, pictures, _ in some for picture in pictures])
            for key, _, facts in some:
                for part in PARTS[:3]:
                    _add(tar, f"{key}.{part}", next(pngs))
                _add(tar, f"{key}.json", json.dumps(facts).encode())
            count += len(some)
    return count


def contents(path: Path) -> dict[str, Any]:
    """What a sidecar says of a local tar so that nobody need look through it: its size, and key and place of all."""
    with open(path, "rb") as file:
        samples = _scan(file, str(path), path.stat().st_size)
    return {"bytes": path.stat().st_size, "keys": list(samples), "places": [_flat(p) for p in samples.values()]}


def _png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


class Shards:
    """The samples of all `*.tar` of a folder or URL, ours or made elsewhere. Raises DataError naming the shard."""

    def __init__(self, where: str | Path):
        self.store = Store(where)
        sizes = self.store.sizes()
        self.names = [name for name in sizes if name.endswith(".tar")]
        if not self.names:
            raise DataError(f"{where}: holds no .tar shard; run stage 'pseudo_gt' first")
        self.threads = 4 if self.store.folder else 16  # a store far away is asked for many things at once
        with ThreadPoolExecutor(self.threads) as pool:
            known = list(pool.map(lambda name: self._places(name, sizes), self.names))
        self.places = np.concatenate([np.array(k[0], np.int64).reshape(-1, len(PARTS), 2) for k in known])
        self.shard = np.repeat(np.arange(len(known)), [len(k[0]) for k in known])
        self._similarity = [k[1] for k in known]
        if not len(self.places):
            raise DataError(
                f"{where}: its shards hold no sample; were all swaps dropped by pseudo_gt.quality.min_id_similarity "
                f"or max_pose_error_deg? index.json says how many and why"
            )
        self.resolution = self._decode(0)[0].shape[-1]

    def __len__(self) -> int:
        return len(self.places)

    def load(self, indices: Sequence[int]) -> torch.Tensor:
        """Decode samples: (n, 3, 3, H, W) uint8, source, target and gt in this order."""
        with ThreadPoolExecutor(self.threads) as pool:
            return torch.from_numpy(np.stack(list(pool.map(self._decode, indices))))

    def facts(self, index: int) -> dict[str, Any]:
        """The JSON of a sample: teacher, weight hash, pair, seed, quality."""
        return json.loads(self._read(index, [PARTS.index("json")])[0])

    @cached_property
    def quality(self) -> np.ndarray:
        """Cosine of every swap to its source by the stage's recogniser, (n,) float32; nan where a sample has none."""
        return np.array([np.nan if v is None else v for v in self._similarities()], np.float32)

    def _similarities(self) -> list[float | None]:
        if all(known is not None for known in self._similarity):
            return [value for known in self._similarity for value in known]
        with ThreadPoolExecutor(self.threads) as pool:
            return [f.get("quality", {}).get("id_similarity") for f in pool.map(self.facts, range(len(self)))]

    def _places(self, name: str, sizes: dict[str, int]) -> tuple[list, list[float | None] | None]:
        """Offsets and sizes of the parts of each sample, from the sidecar where there is one; and their quality."""
        path, sidecar = self.store.path(name), f"{name.removesuffix('.tar')}.json"
        if sidecar in sizes:
            known = self.store.read_json(sidecar)
            if "places" in known:
                if known["bytes"] != sizes[name]:
                    raise DataError(f"{path}: damaged shard ({sizes[name]} of {known['bytes']} bytes); {ANEW}")
                return known["places"], known["id_similarity"]
        with self.store.open(name) as file:
            return [_flat(parts) for parts in _scan(file, path, sizes[name]).values()], None

    def _decode(self, index: int) -> np.ndarray:
        path = self.store.path(self.names[self.shard[index]])
        pictures = zip(PARTS[:3], self._read(index, range(3)), strict=True)
        try:
            return np.stack([decode(io.BytesIO(content), name=f"{path}: {part}") for part, content in pictures])
        except (DataError, ValueError) as error:
            raise DataError(f"{path}: damaged shard ({error}); {ANEW}") from None

    def _read(self, index: int, parts: Sequence[int]) -> list[bytes]:
        """Parts of a sample; in one piece where they lie together, as ours do."""
        name, places = self.names[self.shard[index]], self.places[index, list(parts)]
        ends = places.sum(1)
        first, last = int(places[:, 0].min()), int(ends.max())
        if last - first > places[:, 1].sum() + 2048 * len(places):
            return [self.store.read(name, int(o), int(o + s)) for o, s in places]
        piece = self.store.read(name, first, last)
        return [piece[o - first : o - first + s] for o, s in places.tolist()]


def _flat(parts: dict[str, tuple[int, int]]) -> list[int]:
    return [number for part in PARTS for number in parts[part]]


def _scan(file: Any, path: str, size: int) -> dict[str, dict[str, tuple[int, int]]]:
    """key -> part -> (offset, size) of a tar; members that would land outside a folder are refused."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                    raise DataError(f"{path}: refused: member '{member.name}' is a link or points outside its folder")
                if member.isfile():
                    stem, _, part = name.name.partition(".")
                    samples.setdefault(str(name.parent / stem), {})[part] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path}: damaged shard ({error}); {ANEW}") from None
    for key, parts in samples.items():
        missing = [part for part in PARTS if part not in parts]
        if missing:
            raise DataError(f"{path}: sample {key} lacks {', '.join(missing)}; delete the shard and run again")
    if any(offset + length > size for parts in samples.values() for offset, length in parts.values()):
        raise DataError(f"{path}: damaged shard (cut off); {ANEW}")
    return samples
