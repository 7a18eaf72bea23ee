"""Decoded pictures: on the training device, in memory, or in a memory-mapped file, so that each is decoded once."""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from swapcore.files import digest, remove_leftovers, whole_file
from swapcore.images import DataError

DEVICE_SHARE = 0.25  # of the free memory of a GPU: the training needs the rest
MEMORY_SHARE = 0.8  # of the free memory, or of the free shared memory
CHUNK = 256  # pictures or triplets that are decoded at a time where all are


@dataclass
class Room:
    """Where decoded pictures are kept, by `data.cache`, and how much of `data.cache_gb` is left.

    `share`: several processes use one copy in memory, and none lies on the device.
    """

    cache: str = "auto"
    limit_gb: float = 4.0
    device: torch.device = torch.device("cpu")
    share: bool = False

    def __post_init__(self) -> None:
        self.left = self.limit_gb * 1e9

    def place(self, size: int, file: Callable[[], Path] | None) -> str:
        """device, memory, file or off, for `size` bytes that may be packed into `file`; takes the room.

        auto: the first that has room; a new file may take half of what is free on its disk. Raises DataError where the
        place that is asked for has no room.
        """
        place = self.cache
        if place == "device" and self.share:
            place = "memory"
        if place == "auto":
            order = ("device", "memory", "file", "off") if self.device.type != "cpu" else ("memory", "file", "off")
            place = next(name for name in order if size <= self._free(name, file))
        elif size > (free := self._free(place, file)):
            limit = "raise data.cache_gb or " if size > self.left and place != "file" else ""
            raise DataError(
                f"data.cache={self.cache}: the decoded pictures need {size / 1e9:.2f} GB, and there is room for "
                f"{free / 1e9:.2f} GB ({place}); {limit}set data.cache=auto"
            )
        if place in ("device", "memory"):
            self.left -= size
        return place

    def _free(self, place: str, file: Callable[[], Path] | None) -> float:
        if place == "device":
            return 0 if self.share else min(self.left, DEVICE_SHARE * _free_on(self.device))
        if place == "memory":
            return min(self.left, MEMORY_SHARE * (_free_shared_memory() if self.share else _free_memory()))
        if place == "file":
            if file is None:
                return 0
            return math.inf if file().is_file() else shutil.disk_usage(_existing(file().parent)).free / 2
        return math.inf


class Cached:
    """Decoded pictures or triplets of the given `shape` (n, ...) uint8, by index. `load` decodes some of them.

    memory: each is decoded at its first use. device: all are, now. file: all were once, into a NumPy file in
    `folder` whose name ends in a hash of `signature()`; one of other pictures is removed. off: decoded at every use.
    `where` says which of them it is.
    """

    def __init__(
        self, load: Callable[[Sequence[int]], torch.Tensor], shape: tuple[int, ...], room: Room,
        folder: Path | None = None, name: str = "pictures", signature: Callable[[], str] | None = None,
    ):  # fmt: skip
        self.load, self.shape, self.device = load, tuple(shape), room.device
        self.lock, self.pictures = threading.Lock(), None

        @cache  # it looks at every file
        def path() -> Path:
            return folder / f"decoded-{name}-{digest([signature(), *self.shape])}.npy"

        self.where = room.place(int(np.prod(shape, dtype=np.int64)), path if folder and signature else None)
        if self.where == "memory":
            # NumPy, because torch's operations in another thread start workers that compete with the training's.
            self.pictures = torch.from_numpy(np.zeros(self.shape, np.uint8))  # takes memory where it is written
            self.decoded = torch.zeros(shape[0], dtype=torch.bool)
            if room.share:
                self.share()
        elif self.where == "device":
            self.pictures = torch.empty(self.shape, dtype=torch.uint8, device=room.device)
            for chunk, images in self._all(f"decode {name}"):
                self.pictures[chunk.start : chunk.stop] = images.to(room.device)
        elif self.where == "file":
            self.path = path()
            self.pictures = self._opened() if self.path.is_file() else None
            if self.pictures is None:
                self._pack(folder, name)
                self.pictures = np.load(self.path, mmap_mode="r")

    def share(self) -> None:
        """Make the pictures in memory one copy for processes that are forked later; `off` without shared memory."""
        if self.where != "memory" or self.pictures.is_shared():
            return
        if self.pictures.numel() > MEMORY_SHARE * _free_shared_memory():
            self.where, self.pictures = "off", None
            return
        self.pictures.share_memory_()
        self.decoded.share_memory_()

    def leave_device(self) -> None:
        """Keep in memory what lies on the device: where other pictures of a batch do not, threads compose it."""
        if self.where == "device":
            self.where, self.pictures = "memory", self.pictures.cpu()
            self.decoded = torch.ones(self.shape[0], dtype=torch.bool)

    def __getitem__(self, indices: Sequence[int]) -> torch.Tensor:
        """(n, ...) uint8, a copy; on the device where `where` is `device`."""
        index = np.asarray(indices, np.int64).reshape(-1)
        if self.where == "off":
            return self.load(index.tolist())
        if self.where == "device":
            return self.pictures.index_select(0, torch.from_numpy(index).to(self.device, non_blocking=True))
        if self.where == "memory":
            self._decode(index)
        out = torch.empty((len(index), *self.shape[1:]), dtype=torch.uint8)
        self.copy(index, out.numpy())
        return out

    def copy(self, index: np.ndarray, out: np.ndarray) -> None:
        """Write the pictures of `memory` or `file` to `out` (n, ...). In one thread, without the interpreter's lock."""
        if self.where == "memory":
            self._decode(index)
        if len(index) and not 0 <= index.min() <= index.max() < self.shape[0]:
            raise IndexError(f"pictures {index.min()} .. {index.max()} of {self.shape[0]}")
        pictures = self.pictures if self.where == "file" else self.pictures.numpy()
        np.take(pictures, index, axis=0, out=out, mode="clip")  # mode `raise` would write to a buffer first

    def _decode(self, index: np.ndarray) -> None:
        """Decode those that are not in memory yet."""
        decoded = self.decoded.numpy()
        if decoded[index].all():
            return
        with self.lock:  # else two threads would decode one picture
            missing = np.unique(index[~decoded[index]])
            if len(missing):
                self.pictures.numpy()[missing] = self.load(missing.tolist()).numpy()
                decoded[missing] = True  # after the pixels: other processes see whole pictures only

    def _all(self, title: str):
        """Ranges of indices, and their decoded pictures."""
        count = self.shape[0]
        with tqdm(total=count, desc=title, leave=False, disable=count < CHUNK) as bar:
            for start in range(0, count, CHUNK):
                chunk = range(start, min(start + CHUNK, count))
                yield chunk, self.load(list(chunk))
                bar.update(len(chunk))

    def _opened(self) -> np.ndarray | None:
        """The file, or None where it is cut off or not of these pictures."""
        try:
            pictures = np.load(self.path, mmap_mode="r")
        except (ValueError, EOFError):
            return None
        return pictures if pictures.shape == self.shape and pictures.dtype == np.uint8 else None

    def _pack(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(list(folder.iterdir()))
        with whole_file(self.path) as temporary:
            file = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=self.shape)
            for chunk, images in self._all(f"pack {name}"):
                file[chunk.start : chunk.stop] = images.numpy()
            file.flush()
        for other in folder.glob(f"decoded-{name}-*.npy"):
            if other != self.path:
                other.unlink(missing_ok=True)

    def __getstate__(self) -> dict[str, Any]:
        """For loader processes that are not forked: a file is opened anew, and locks are not shared."""
        state = {key: value for key, value in self.__dict__.items() if key != "lock"}
        return {**state, "pictures": None} if self.where == "file" else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "lock": threading.Lock()}
        if self.where == "file":
            self.pictures = np.load(self.path, mmap_mode="r")


def files_signature(paths: Sequence[Path], *more: Any) -> str:
    """Names, sizes and times of files, and more facts: it changes where one of the files does."""
    status = [path.stat() for path in paths]
    return digest([[[path.name, s.st_size, s.st_mtime_ns] for path, s in zip(paths, status, strict=True)], *more])


def _free_on(device: torch.device) -> float:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else math.inf


def _free_memory() -> float:
    """Bytes that are free or can be freed; unknown, hence infinite, outside Linux."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return min((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), default=math.inf)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _free_shared_memory() -> float:
    """Bytes free where shared tensors live; containers often have 64 MB only."""
    return shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else math.inf
