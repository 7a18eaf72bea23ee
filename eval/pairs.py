"""What a swapper is measured on: a fixed list of pairs, the gallery to be found in, and all that is known of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """uint8 images in [0, 255] to float32 in [-1, 1]. Raises ValueError on another type."""
    if images.dtype != torch.uint8:
        raise ValueError(f"images: expected uint8, got {images.dtype}")
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Float images in [-1, 1] to uint8 as a file would hold them: rounded, clipped outside the range.

    Raises ValueError on integers and on NaN or infinite values.
    """
    if not images.is_floating_point():
        raise ValueError(f"images: expected floats in [-1, 1], got {images.dtype}")
    if not torch.isfinite(images).all():
        raise ValueError("images: NaN or infinite values; no picture can hold them")
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, eq=False)
class Pairs:
    """N pairs (the source's identity onto the target) and a gallery of P people. All tensors on the CPU.

    source, target: (N, 3, H, H) uint8 RGB, the canonical aligned crop. exact: the true swaps, the same shape, or None.
    source_person, target_person: (N,) int64. gallery: (P, 3, H, H) uint8, one image of each person of gallery_person
    (P,) int64; every source's person is there, never by the source image itself. target_pose_deg: (N, 3) float32, true
    yaw, pitch, roll of the targets. mask: (N, 1, H, H) bool, the targets' inner faces.

    Raises ValueError naming the field and what to do where any of this does not hold.
    """

    name: str
    source: Tensor
    target: Tensor
    exact: Tensor | None
    source_person: Tensor
    target_person: Tensor
    gallery: Tensor
    gallery_person: Tensor
    target_pose_deg: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if self.source.ndim != 4 or self.source.shape[1] != 3 or self.source.shape[2] != self.source.shape[3]:
            raise self._error("source", f"expected (N, 3, H, H), got {tuple(self.source.shape)}; align the pictures")
        if len(self.source) == 0:
            raise self._error("source", "no pairs at all; choose at least one")
        if len(self.gallery) == 0:
            raise self._error("gallery", "empty; give one image of every person, the sources' people included")
        n, p, side = len(self.source), len(self.gallery), self.resolution
        expected = {
            "source": ((n, 3, side, side), torch.uint8),
            "target": ((n, 3, side, side), torch.uint8),
            "exact": ((n, 3, side, side), torch.uint8),
            "source_person": ((n,), torch.int64),
            "target_person": ((n,), torch.int64),
            "gallery": ((p, 3, side, side), torch.uint8),
            "gallery_person": ((p,), torch.int64),
            "target_pose_deg": ((n, 3), torch.float32),
            "mask": ((n, 1, side, side), torch.bool),
        }
        for key, (shape, dtype) in expected.items():
            array = getattr(self, key)
            if array is None and key in ("exact", "target_pose_deg", "mask"):
                continue
            if tuple(array.shape) != shape or array.dtype != dtype or array.device.type != "cpu":
                found = f"{tuple(array.shape)} {array.dtype} on {array.device}"
                raise self._error(key, f"expected {shape} {dtype} on cpu, as source has it, got {found}; convert it")
        if self.target_pose_deg is not None and not torch.isfinite(self.target_pose_deg).all():
            row = int((~torch.isfinite(self.target_pose_deg)).any(1).nonzero()[0])
            raise self._error("target_pose_deg", f"NaN or infinite in row {row}; leave such pairs out")
        if self.mask is not None and not self.mask.any():
            raise self._error("mask", "no pixel of any target is inner face; give None where masks are unknown")
        self._check_people()

    def _check_people(self) -> None:
        column = {person: i for i, person in enumerate(self.gallery_person.tolist())}
        if len(column) < len(self.gallery):
            raise self._error("gallery_person", "some person has several images; keep one of each")
        if len(column) < 2:
            raise self._error("gallery", "one person only, so anybody would be found; add images of other people")
        for i, person in enumerate(self.source_person.tolist()):
            if person not in column:
                raise self._error("gallery", f"no image of person {person}, the source of pair {i}; add one")
            if torch.equal(self.gallery[column[person]], self.source[i]):
                raise self._error("gallery", f"person {person} is there by the source image of pair {i}; use another")

    def _error(self, key: str, what: str) -> ValueError:
        return ValueError(f"pairs '{self.name}': {key}: {what}")

    def __len__(self) -> int:
        return len(self.source)

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self.source.shape[-1]

    @cached_property
    def hash(self) -> str:
        """First 16 hexadecimal digits of the sha256 over all arrays: equal for the same list, whatever its name."""
        digest = hashlib.sha256()
        for entry in fields(self)[1:]:
            array = getattr(self, entry.name)
            digest.update(f"{entry.name} {None if array is None else (tuple(array.shape), array.dtype)}\n".encode())
            if array is not None:
                digest.update(np.ascontiguousarray(array.numpy()).data)
        return digest.hexdigest()[:16]

    @cached_property
    def gallery_column(self) -> Tensor:
        """(N,) int64: where in the gallery each pair's source person is."""
        column = {person: i for i, person in enumerate(self.gallery_person.tolist())}
        return torch.tensor([column[person] for person in self.source_person.tolist()])
