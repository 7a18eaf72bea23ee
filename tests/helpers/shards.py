"""Tar shards without a stage."""

import tarfile
from concurrent.futures import ThreadPoolExecutor

from distill.pseudo_gt.shards import append


def write_shard(path, samples) -> int:
    """Write (key, (source, target, gt) as (H, W, 3) uint8, facts) samples as one tar; their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = list(samples)
    with tarfile.open(path, "w") as tar, ThreadPoolExecutor(1) as pool:
        append(tar, samples, pool)
    return len(samples)
