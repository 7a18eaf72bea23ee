"""The data of an evaluation: a fixed list of pairs, the gallery of people, and all known facts of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

PER_PAIR = ("source", "target", "exact", "source_person", "target_person", "target_pose_deg", "mask", "occluder")
OPTIONAL = ("exact", "target_pose_deg", "mask", "occluder")
# In this order: hashes of lists are kept in results.
HASHED = (
    "source", "target", "exact", "source_person", "target_person", "gallery", "gallery_person", "target_pose_deg",
    "mask",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Pairs:
    """N pairs (the source's identity onto the target) and a gallery of P people. All tensors on the CPU.

    source, target: (N, 3, H, H) uint8 RGB, the canonical aligned crop. exact: the true swaps, the same shape, or None.
    source_person, target_person: (N,) int64. gallery: (P, 3, H, H) uint8, one image of each person of gallery_person
    (P,) int64; every source's person is there, never by the source image itself unless `gallery_holds_sources`, which
    is for data with one image per person. target_pose_deg: (N, 3) float32, true yaw, pitch, roll of the targets. mask:
    (N, 1, H, H) bool, the targets' inner faces. occluder: (N, 1, H, H) bool, objects in front of the targets' faces.
    names: one for each pair, for files. protocol: further facts that values on these pairs depend on.

    Raises ValueError naming the field and the remedy where any of this does not hold.
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
    occluder: Tensor | None = None
    names: tuple[str, ...] | None = None
    gallery_holds_sources: bool = False
    protocol: Mapping[str, Any] = field(default_factory=dict)

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
            "occluder": ((n, 1, side, side), torch.bool),
        }
        for key, (shape, dtype) in expected.items():
            array = getattr(self, key)
            if array is None and key in OPTIONAL:
                continue
            if tuple(array.shape) != shape or array.dtype != dtype or array.device.type != "cpu":
                got = f"{tuple(array.shape)} {array.dtype} on {array.device}"
                raise self._error(key, f"expected {shape} {dtype} on cpu, as source has it, got {got}; convert it")
        if self.target_pose_deg is not None and not torch.isfinite(self.target_pose_deg).all():
            row = int((~torch.isfinite(self.target_pose_deg)).any(1).nonzero()[0])
            raise self._error("target_pose_deg", f"NaN or infinite in row {row}; leave such pairs out")
        if self.mask is not None and not self.mask.any():
            raise self._error("mask", "no pixel of any target is inner face; give None where masks are unknown")
        if self.names is not None and (len(self.names) != n or len(set(self.names)) != n):
            raise self._error("names", f"expected {n}, all different, got {len(set(self.names))} of {len(self.names)}")
        self._check_people()

    def _check_people(self) -> None:
        column = {person: i for i, person in enumerate(self.gallery_person.tolist())}
        if len(column) < len(self.gallery):
            raise self._error("gallery_person", "some person has several images; keep one of each")
        if len(column) < 2:
            raise self._error("gallery", "one person only, who would always be the nearest; add images of other people")
        for i, person in enumerate(self.source_person.tolist()):
            if person not in column:
                raise self._error("gallery", f"no image of person {person}, the source of pair {i}; add one")
            if not self.gallery_holds_sources and torch.equal(self.gallery[column[person]], self.source[i]):
                raise self._error("gallery", f"person {person} is there by the source image of pair {i}; use another")

    def _error(self, key: str, problem: str) -> ValueError:
        return ValueError(f"pairs '{self.name}': {key}: {problem}")

    def __len__(self) -> int:
        return len(self.source)

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self.source.shape[-1]

    @cached_property
    def hash(self) -> str:
        """First 16 hexadecimal digits of the sha256 over the arrays: equal for the same list, whatever its names.

        Occluders are left out: they follow from the targets.
        """
        digest = hashlib.sha256()
        for key in HASHED:
            array = getattr(self, key)
            digest.update(f"{key} {None if array is None else (tuple(array.shape), array.dtype)}\n".encode())
            if array is not None:
                digest.update(np.ascontiguousarray(array.numpy()).data)
        return digest.hexdigest()[:16]

    @cached_property
    def gallery_column(self) -> Tensor:
        """(N,) int64: index in the gallery of each pair's source person."""
        column = {person: i for i, person in enumerate(self.gallery_person.tolist())}
        return torch.tensor([column[person] for person in self.source_person.tolist()])

    def subset(self, index: Sequence[int]) -> Pairs:
        """The pairs of these numbers, in this order, with the whole gallery. Raises ValueError where there are none."""
        index = torch.as_tensor(list(index), dtype=torch.int64)
        chosen = {key: array[index] for key in PER_PAIR if (array := getattr(self, key)) is not None}
        names = None if self.names is None else tuple(self.names[i] for i in index.tolist())
        return replace(self, **chosen, names=names)


def merged(pairs: Pairs, groups: Sequence[Sequence[int]]) -> Pairs:
    """The same list with the people of each group as one: data sets have some people under several names.

    The gallery keeps the first image of each person; pairs of a person with themself are left out, and counted in
    `protocol`. Values with and without merging cannot be compared. Raises ValueError on a person
    who is unknown or in two groups, and where no pair is left.
    """
    known = set(pairs.gallery_person.tolist()) | set(pairs.source_person.tolist()) | set(pairs.target_person.tolist())
    into = {person: person for person in known}
    for group in groups:
        for person in group:
            if person not in known:
                raise ValueError(f"pairs '{pairs.name}': groups: person {person} is nobody of this list")
            if into[person] != person or sum(person in other for other in groups) > 1:
                raise ValueError(f"pairs '{pairs.name}': groups: person {person} is in two groups; make them one")
            into[person] = min(group)
    source, target, gallery = (
        torch.tensor([into[person] for person in column.tolist()])
        for column in (pairs.source_person, pairs.target_person, pairs.gallery_person)
    )
    first = [i for i, person in enumerate(gallery.tolist()) if person not in gallery[:i].tolist()]
    left = (source != target).nonzero().flatten().tolist()
    if not left:
        raise ValueError(f"pairs '{pairs.name}': groups: every pair would be of one person; merge fewer")
    counts = {"people": len(known), "into": len(set(into.values())), "pairs_left_out": len(pairs) - len(left)}
    return replace(
        pairs.subset(left),
        source_person=source[left],
        target_person=target[left],
        gallery=pairs.gallery[first],
        gallery_person=gallery[first],
        protocol={**pairs.protocol, "merged": counts},
    )


def inner_face(pairs: Pairs) -> Tensor:
    """(N or 1, 1, H, H) bool: the masks, or the square around eyes, nose and mouth (80 to 200 of 256) without them."""
    if pairs.mask is not None:
        return pairs.mask
    side = pairs.resolution
    inner = torch.zeros(1, 1, side, side, dtype=torch.bool)
    inner[:, :, 80 * side // 256 : 200 * side // 256, 68 * side // 256 : 188 * side // 256] = True
    return inner
