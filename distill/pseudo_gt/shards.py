"""WebDataset-compatible tar shards in a folder or at a URL, with random access.

A sample is four members of one tar: `<key>.source.png`, `<key>.target.png`, `<key>.gt.png`, `<key>.json`. WebDataset
readers read them in order; `Shards` reads any sample by its offset. Our shards have a sidecar `<shard>.json` with the
offsets; shards made elsewhere have none and are scanned once.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image

from distill.data.cache import files_signature
from distill.data.renderer import refuse_other
from distill.pseudo_gt.store import Store
from swapcore.files import bytes_hash
from swapcore.images import DataError, decode

PARTS = ("source.png", "target.png", "gt.png", "json")
INDEX = "index.json"  # what stage `pseudo_gt` tells about its shards
ANEW = "delete it and run again; the other shards are kept"

Sample = tuple[str, Sequence["np.ndarray | Future[bytes]"], dict[str, Any]]


def append(tar: tarfile.TarFile, samples: Iterable[Sample], pool: ThreadPoolExecutor) -> None:
    """Append (key, (source, target, gt) as (H, W, 3) uint8, facts) samples; the bytes depend on them alone. A picture
    may be the future of its PNG file, see `Encoded`."""
    waiting = [
        (key, [picture if isinstance(picture, Future) else pool.submit(png, picture) for picture in pictures], facts)
        for key, pictures, facts in samples
    ]
    for key, files, facts in waiting:
        for part, file in zip(PARTS[:3], files, strict=True):
            _add(tar, f"{key}.{part}", file.result())
        _add(tar, f"{key}.json", json.dumps(facts).encode())


class Encoded:
    """The PNG files of photographs, by index: each is encoded once, as long as `limit` files are enough; the least
    recently used ones are dropped."""

    def __init__(self, pool: ThreadPoolExecutor, limit: int):
        self.pool, self.limit = pool, limit
        self.files: OrderedDict[int, Future[bytes]] = OrderedDict()

    def get(self, index: int, picture: np.ndarray) -> Future[bytes]:
        """The file of photograph `index`, whose pixels are `picture` (H, W, 3) uint8."""
        file = self.files.pop(index, None) or self.pool.submit(png, picture)
        self.files[index] = file
        if len(self.files) > self.limit:
            self.files.popitem(last=False)
        return file


def contents(path: Path) -> dict[str, Any]:
    """The part of a sidecar that replaces a scan of the tar: its size, and key and place of each sample."""
    with open(path, "rb") as file:
        samples = _scan(file, str(path), path.stat().st_size)
    return {"bytes": path.stat().st_size, "keys": list(samples), "places": [_flat(p) for p in samples.values()]}


def png(picture: np.ndarray) -> bytes:
    """A lossless file of (H, W, 3) uint8. Level 1: `benchmarks/loader.py` compares codecs."""
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
        self._refuse_other_renderers(sizes)
        self.threads = 4 if self.store.folder else 16  # many requests at once hide the latency of a remote store
        with ThreadPoolExecutor(self.threads) as pool:
            read = list(pool.map(lambda name: self._places(name, sizes), self.names))
        self.places = np.concatenate([np.array(p, np.int64).reshape(-1, len(PARTS), 2) for p, _ in read])
        self.shard = np.repeat(np.arange(len(read)), [len(p) for p, _ in read])
        self._similarity = [similarity for _, similarity in read]
        if not len(self.places):
            raise DataError(
                f"{where}: its shards hold no sample; were all swaps dropped by pseudo_gt.quality.min_id_similarity "
                f"or max_pose_error_deg? index.json says how many and why"
            )
        self.resolution = self._decode(0)[0].shape[-1]

    def _refuse_other_renderers(self, sizes: dict[str, int]) -> None:
        """Raise DataError where index.json says that teacher `exact` was another renderer. Shards made elsewhere have
        no index, or one of their own."""
        index: Any = {}
        if INDEX in sizes:
            with suppress(ValueError):
                index = json.loads(self.store.read(INDEX))
        by_label = index.get("teachers") if isinstance(index, dict) else None
        for facts in by_label.values() if isinstance(by_label, dict) else ():
            if isinstance(facts, dict) and facts.get("name") == "exact":
                again = "swap the pairs again: name another folder, or delete this one"
                refuse_other(self.store.path(INDEX), facts.get("weight_hash"), again)

    def __len__(self) -> int:
        return len(self.places)

    def load(self, indices: Sequence[int]) -> torch.Tensor:
        """Decode samples: (n, 3, 3, H, W) uint8, source, target and gt in this order."""
        with ThreadPoolExecutor(self.threads) as pool:
            return torch.from_numpy(np.stack(list(pool.map(self._decode, indices))))

    def signature(self) -> str:
        """Changes where a shard does: names, sizes and times of the files, and the place of each member."""
        files = [self.store.folder / name for name in self.names] if self.store.folder else []
        return files_signature(files, self.names, bytes_hash(self.places.tobytes()))

    def facts(self, index: int) -> dict[str, Any]:
        """The JSON of a sample: teacher, weight hash, pair, seed, quality."""
        return json.loads(self._read(index, [PARTS.index("json")])[0])

    @cached_property
    def quality(self) -> np.ndarray:
        """Cosine of every swap to its source by the stage's recogniser, (n,) float32; nan where it is unknown."""
        if all(similarity is not None for similarity in self._similarity):
            values = [value for similarity in self._similarity for value in similarity]
        else:
            with ThreadPoolExecutor(self.threads) as pool:
                values = [f.get("quality", {}).get("id_similarity") for f in pool.map(self.facts, range(len(self)))]
        return np.array([np.nan if value is None else value for value in values], np.float32)

    @cached_property
    def targets(self) -> list[str]:
        """The file of every sample's target, as the manifest names it. Raises DataError where a shard has no names."""
        with ThreadPoolExecutor(self.threads) as pool:
            files = [facts.get("target") for facts in pool.map(self.facts, range(len(self)))]
        for index, file in enumerate(files):
            if not isinstance(file, str):
                raise DataError(
                    f"{self.store.path(self.names[self.shard[index]])}: its samples do not name the photograph of "
                    f"their target ('target' in the JSON), which train.mix.reversed needs; make the shards by stage "
                    f"'pseudo_gt', or set train.mix.reversed=0"
                )
        return files

    def _places(self, name: str, sizes: dict[str, int]) -> tuple[list, list[float | None] | None]:
        """Offset and size of the parts of each sample, and their cosines. Without a sidecar: by a scan, no cosines."""
        path, sidecar = self.store.path(name), f"{name.removesuffix('.tar')}.json"
        if sidecar in sizes:
            content = self.store.read_record(sidecar)
            if "places" in content:
                if content["bytes"] != sizes[name]:
                    raise DataError(f"{path}: damaged shard ({sizes[name]} of {content['bytes']} bytes); {ANEW}")
                return content["places"], content["id_similarity"]
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
        """Parts of a sample, by one request where they are adjacent, as in our shards."""
        name, places = self.names[self.shard[index]], self.places[index, list(parts)]
        ends = places.sum(1)
        first, last = int(places[:, 0].min()), int(ends.max())
        if last - first > places[:, 1].sum() + 2048 * len(places):
            return [self.store.read(name, int(o), int(o + s)) for o, s in places]
        block = self.store.read(name, first, last)
        return [block[o - first : o - first + s] for o, s in places.tolist()]


def _flat(parts: dict[str, tuple[int, int]]) -> list[int]:
    return [number for part in PARTS for number in parts[part]]


def _scan(file: Any, path: str, size: int) -> dict[str, dict[str, tuple[int, int]]]:
    """key -> part -> (offset, size) of a tar. Raises DataError, also on members that point outside their folder."""
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
