"""WebDataset-compatible tar shards: written whole, read at random without unpacking.

A sample is four members of one tar: `<key>.source.png`, `<key>.target.png`, `<key>.gt.png`, `<key>.json`. Readers that
know WebDataset read them in order; `Shards` reads any sample by its offset.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from distill.data.photos import DataError, decode
from distill.stage import whole_file

PARTS = ("source.png", "target.png", "gt.png", "json")


def write_shard(path: Path, samples: Iterable[tuple[str, Sequence[np.ndarray], dict[str, Any]]]) -> int:
    """Write (key, (source, target, gt) as (H,W,3) uint8, facts) samples as one tar; its bytes depend on them alone."""
    samples, count = iter(samples), 0
    with whole_file(path) as temporary, tarfile.open(temporary, "w") as tar, ThreadPoolExecutor(4) as pool:
        while some := list(islice(samples, 16)):
            pngs = pool.map(_png, [picture for _, pictures, _ in some for picture in pictures])
            for key, _, facts in some:
                for part in PARTS[:3]:
                    _add(tar, f"{key}.{part}", next(pngs))
                _add(tar, f"{key}.json", json.dumps(facts).encode())
            count += len(some)
    return count


def _png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


class Shards:
    """The samples of all `*.tar` of a folder, ours or made elsewhere. Raises DataError naming the shard at fault."""

    def __init__(self, folder: str | Path):
        self.paths = sorted(Path(folder).glob("*.tar"))
        if not self.paths:
            raise DataError(f"{folder}: holds no .tar shard; run stage 'pseudo_gt' first")
        self.samples: list[tuple[int, dict[str, tuple[int, int]]]] = []
        for number, path in enumerate(self.paths):
            self.samples += [(number, parts) for parts in _scan(path).values()]
        if not self.samples:
            raise DataError(
                f"{folder}: its shards hold no sample; were all swaps dropped by pseudo_gt.min_id_similarity?"
            )
        self._open: dict[int, tuple[int, int]] = {}
        self.resolution = self._decode(0)[0].shape[-1]

    def __len__(self) -> int:
        return len(self.samples)

    def load(self, indices: Sequence[int]) -> torch.Tensor:
        """Decode samples: (n, 3, 3, H, W) uint8, source, target and gt in this order."""
        with ThreadPoolExecutor(4) as pool:
            return torch.from_numpy(np.stack(list(pool.map(self._decode, indices))))

    def facts(self, index: int) -> dict[str, Any]:
        """The JSON of a sample: teacher, weight hash, pair, seed, quality."""
        return json.loads(self._read(index, "json"))

    def _decode(self, index: int) -> np.ndarray:
        path = self.paths[self.samples[index][0]]
        try:
            return np.stack([decode(io.BytesIO(self._read(index, p)), name=f"{path}: {p}") for p in PARTS[:3]])
        except (DataError, ValueError) as error:
            raise DataError(f"{path}: damaged shard ({error}); delete it and run again: only it is made anew") from None

    def _read(self, index: int, part: str) -> bytes:
        number, parts = self.samples[index]
        offset, size = parts[part]
        return os.pread(self._descriptor(number), size, offset)

    def _descriptor(self, number: int) -> int:
        """An open file per process: a forked loader must not share its parent's."""
        owner, descriptor = self._open.get(number, (-1, -1))
        if owner != os.getpid():
            descriptor = os.open(self.paths[number], os.O_RDONLY)
            self._open[number] = (os.getpid(), descriptor)
        return descriptor


def _scan(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    """key -> part -> (offset, size) of a tar; members that would land outside a folder are refused."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                    raise DataError(f"{path}: refused: member '{member.name}' is a link or points outside its folder")
                if member.isfile():
                    stem, _, part = name.name.partition(".")
                    samples.setdefault(str(name.parent / stem), {})[part] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path}: damaged shard ({error}); delete it and run again: only it is made anew") from None
    for key, parts in samples.items():
        missing = [part for part in PARTS if part not in parts]
        if missing:
            raise DataError(f"{path}: sample {key} lacks {', '.join(missing)}; delete the shard and run again")
    size = path.stat().st_size
    if any(offset + length > size for parts in samples.values() for offset, length in parts.values()):
        raise DataError(f"{path}: damaged shard (cut off); delete it and run again: only it is made anew")
    return samples
