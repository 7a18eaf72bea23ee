"""The data of an evaluation: a fixed list of pairs, the gallery of people, and their ground truth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Shapes (n pairs, p people, s pixels) and types. The order is that of the hash, which results keep.
FIELDS = {
    "source": ("n3ss", torch.uint8),
    "target": ("n3ss", torch.uint8),
    "exact": ("n3ss", torch.uint8),
    "source_person": ("n", torch.int64),
    "target_person": ("n", torch.int64),
    "gallery": ("p3ss", torch.uint8),
    "gallery_person": ("p", torch.int64),
    "target_pose_deg": ("n3", torch.float32),
    "mask": ("n1ss", torch.bool),
    "occluder": ("n1ss", torch.bool),
    "regions": ("n1ss", torch.uint8),
    "source_landmarks": ("n52", torch.float32),
    "target_landmarks": ("n52", torch.float32),
    "gallery_landmarks": ("p52", torch.float32),
    "source_parsing": ("n1ss", torch.uint8),
    "target_parsing": ("n1ss", torch.uint8),
    "gallery_parsing": ("p1ss", torch.uint8),
}
LANDMARKS = ("source_landmarks", "target_landmarks", "gallery_landmarks")
PARSING = ("source_parsing", "target_parsing", "gallery_parsing")
OPTIONAL = ("exact", "target_pose_deg", "mask", "occluder", "regions", *LANDMARKS, *PARSING)
# They follow from the targets and from the exact swaps, or are hashed only where a list has them.
NOT_HASHED = ("occluder", "regions", *LANDMARKS, *PARSING)


@dataclass(frozen=True)
class Origin:
    """The pictures from which the source and the target of a pair were made, by name, without folder and ending.

    size, landmarks: of the target's picture, width and height in pixels, and its five points (x, y) in pixels; None
    where the target is the whole picture.
    """

    source: str
    target: str
    size: tuple[int, int] | None = None
    landmarks: tuple[tuple[float, float], ...] | None = None


REGIONS = ("other", "eyes", "mouth", "skin")  # values of `regions`, by place; brows are eyes, lips and teeth are mouth


@dataclass(frozen=True, eq=False)
class Pairs:
    """N pairs (the source's identity onto the target) and a gallery of P people. All tensors on the CPU.

    source, target: (N, 3, H, H) uint8 RGB, the canonical aligned crop. exact: the true swaps, the same shape, or None.
    source_person, target_person: (N,) int64. gallery: (P, 3, H, H) uint8, one image of each person of gallery_person
    (P,) int64; every source's person is in it, with an image other than the source unless `gallery_holds_sources` (data
    with one image per person). target_pose_deg: (N, 3) float32, true yaw, pitch, roll of the targets. mask:
    (N, 1, H, H) bool, the targets' inner faces. occluder: (N, 1, H, H) bool, objects in front of the targets' faces.
    regions: (N, 1, H, H) uint8, what each pixel of the exact swaps shows, as a place in REGIONS.
    source_landmarks, target_landmarks (N, 5, 2), gallery_landmarks (P, 5, 2): float32, eyes, nose tip and mouth corners
    as fractions (x, y) of the side, all three or none; None for canonical crops, whose landmarks are all the same.
    source_parsing, target_parsing (N, 1, H, H), gallery_parsing (P, 1, H, H): uint8, the class of each pixel by a face
    parser, whose numbers the recogniser knows; all three or none.
    names: one for each pair, for files. origins: the pictures of each pair before they were cropped. protocol: further
    facts that values on these pairs depend on.

    Raises ValueError naming the field and the remedy if any of this does not hold.
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
    regions: Tensor | None = None
    source_parsing: Tensor | None = None
    target_parsing: Tensor | None = None
    gallery_parsing: Tensor | None = None
    source_landmarks: Tensor | None = None
    target_landmarks: Tensor | None = None
    gallery_landmarks: Tensor | None = None
    names: tuple[str, ...] | None = None
    origins: tuple[Origin, ...] | None = None
    gallery_holds_sources: bool = False
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.source.ndim != 4 or self.source.shape[1] != 3 or self.source.shape[2] != self.source.shape[3]:
            raise self._error("source", f"expected (N, 3, H, H), got {tuple(self.source.shape)}; align the pictures")
        if len(self.source) == 0:
            raise self._error("source", "no pairs; choose at least one")
        if len(self.gallery) == 0:
            raise self._error("gallery", "empty; give one image of every person, the sources' people included")
        sizes = {"n": len(self.source), "p": len(self.gallery), "s": self.resolution}
        sizes |= {digit: int(digit) for digit in "1235"}
        for key, (axes, dtype) in FIELDS.items():
            array, shape = getattr(self, key), tuple(sizes[axis] for axis in axes)
            if array is None and key in OPTIONAL:
                continue
            if tuple(array.shape) != shape or array.dtype != dtype or array.device.type != "cpu":
                got = f"{tuple(array.shape)} {array.dtype} on {array.device}"
                raise self._error(key, f"expected {shape} {dtype} on cpu, to match source, got {got}; convert it")
        if self.target_pose_deg is not None and not torch.isfinite(self.target_pose_deg).all():
            row = int((~torch.isfinite(self.target_pose_deg)).any(1).nonzero()[0])
            raise self._error("target_pose_deg", f"NaN or infinite in row {row}; leave such pairs out")
        if self.mask is not None and not self.mask.any():
            raise self._error("mask", "no pixel of any target is inner face; give None if masks are unknown")
        if self.regions is not None and (highest := int(self.regions.max())) >= len(REGIONS):
            raise self._error("regions", f"expected values below {len(REGIONS)}, got {highest}; see eval.pairs.REGIONS")
        for kind, keys in (("landmarks", LANDMARKS), ("parsing maps", PARSING)):
            known = [key for key in keys if getattr(self, key) is not None]
            if 0 < len(known) < len(keys):
                raise self._error(known[0], f"given without the other {kind}; give {', '.join(keys)} or none")
        for key in (key for key in LANDMARKS if getattr(self, key) is not None):
            if not torch.isfinite(getattr(self, key)).all():
                raise self._error(key, "NaN or infinite landmarks; leave such pictures out")
        if self.origins is not None and len(self.origins) != len(self):
            raise self._error("origins", f"expected {len(self)}, got {len(self.origins)}")
        names = self.names
        if names is not None and not len(names) == len(set(names)) == len(self):
            got = f"{len(set(names))} of {len(names)}"
            raise self._error("names", f"expected {len(self)}, all different, got {got}")
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
                raise self._error("gallery", f"the image of person {person} is the source of pair {i}; use another")

    def _error(self, key: str, problem: str) -> ValueError:
        return ValueError(f"pairs '{self.name}': {key}: {problem}")

    def __len__(self) -> int:
        return len(self.source)

    @property
    def people(self) -> tuple[np.ndarray, np.ndarray]:
        """The people of sources and of targets, (N,) int64 each."""
        return self.source_person.numpy(), self.target_person.numpy()

    @property
    def resolution(self) -> int:
        """Side of the images in pixels."""
        return self.source.shape[-1]

    @cached_property
    def hash(self) -> str:
        """First 16 hexadecimal digits of the sha256 over the arrays: equal for equal lists, names ignored.

        Fields of NOT_HASHED are left out; landmarks and parsing maps only where the list has none.
        """
        digest = hashlib.sha256()
        for key in [key for key in FIELDS if key not in NOT_HASHED]:
            array = getattr(self, key)
            digest.update(f"{key} {None if array is None else (tuple(array.shape), array.dtype)}\n".encode())
            if array is not None:
                digest.update(np.ascontiguousarray(array.numpy()).data)
        for array in (getattr(self, key) for key in (*LANDMARKS, *PARSING)):
            if array is not None:
                digest.update(np.ascontiguousarray(array.numpy()).data)
        return digest.hexdigest()[:16]

    @cached_property
    def gallery_column(self) -> Tensor:
        """(N,) int64: index in the gallery of each pair's source person."""
        column = {person: i for i, person in enumerate(self.gallery_person.tolist())}
        return torch.tensor([column[person] for person in self.source_person.tolist()])

    def subset(self, index: Sequence[int]) -> Pairs:
        """The pairs of these numbers, in this order, with the whole gallery. Raises ValueError if there are none."""
        index = torch.as_tensor(list(index), dtype=torch.int64)
        of_pairs = [key for key, (axes, _) in FIELDS.items() if axes[0] == "n" and getattr(self, key) is not None]
        names = None if self.names is None else tuple(self.names[i] for i in index.tolist())
        origins = None if self.origins is None else tuple(self.origins[i] for i in index.tolist())
        return replace(self, **{key: getattr(self, key)[index] for key in of_pairs}, names=names, origins=origins)


def merged(pairs: Pairs, groups: Sequence[Sequence[int]]) -> Pairs:
    """The list with the people of each group merged into one: data sets have some people under several names.

    The gallery keeps the first image of each person; pairs of a person with themself are left out, and counted in
    `protocol`. Values with and without merging cannot be compared. Raises ValueError on a person
    who is unknown or in two groups, and if no pair is left.
    """
    known = set(pairs.gallery_person.tolist()) | set(pairs.source_person.tolist()) | set(pairs.target_person.tolist())
    into = {person: person for person in known}
    for group in groups:
        for person in group:
            if person not in known:
                raise ValueError(f"pairs '{pairs.name}': groups: person {person} is not in this list")
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
        gallery_landmarks=None if pairs.gallery_landmarks is None else pairs.gallery_landmarks[first],
        gallery_parsing=None if pairs.gallery_parsing is None else pairs.gallery_parsing[first],
        protocol={**pairs.protocol, "merged": counts},
    )


def inner_face(pairs: Pairs) -> Tensor:
    """(N or 1, 1, H, H) bool: the masks; without masks a square around eyes, nose and mouth (rows 80 to 199)."""
    if pairs.mask is not None:
        return pairs.mask
    side = pairs.resolution
    inner = torch.zeros(1, 1, side, side, dtype=torch.bool)
    inner[:, :, 80 * side // 256 : 200 * side // 256, 68 * side // 256 : 188 * side // 256] = True
    return inner


def inner_face_source(pairs: Pairs) -> str:
    """Where `inner_face` is from, for protocols."""
    return "the targets' own" if pairs.mask is not None else "rows and columns of a square"
