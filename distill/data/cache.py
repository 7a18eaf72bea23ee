"""Decoded pictures kept in memory, shared by the loader's processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

import numpy as np
import torch


class Cached:
    """Decoded pictures (n, ...) uint8, each decoded once, when first asked for.

    One loader process keeps them to itself; several share them. Where all of them would need more than `limit_gb`, or
    more shared memory than there is, nothing is kept and each is decoded at every use.
    """

    def __init__(
        self, load: Callable[[Sequence[int]], torch.Tensor], shape: tuple[int, ...], limit_gb: float, share: bool
    ):
        self.load = load
        self.pictures = self.known = None
        size = int(np.prod(shape, dtype=np.int64))
        if size > limit_gb * 1e9 or (share and size > 0.8 * _free_shared_memory()):
            return
        self.pictures, self.known = torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape[0], dtype=torch.bool)
        if share:
            self.pictures.share_memory_()
            self.known.share_memory_()

    def __getitem__(self, indices: Sequence[int]) -> torch.Tensor:
        if self.pictures is None:
            return self.load(indices)
        index = torch.as_tensor(indices, dtype=torch.long)
        missing = index[~self.known[index]].unique()
        if len(missing):
            self.pictures[missing] = self.load(missing.tolist())
            self.known[missing] = True  # after the pixels: a process beside this one sees whole pictures only
        return self.pictures[index]


def _free_shared_memory() -> float:
    """Bytes free where shared tensors live; containers are often given 64 MB only."""
    return shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else float("inf")
