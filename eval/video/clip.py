"""A clip: the frames of one target video, the source of its swaps, and what is known about them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

CROP = 256  # pixels; side of the canonical crops that are cut out of frames
LEAST_FRAMES = 3  # a second difference needs three
GAP = 1.5  # frames that are further apart than this many median intervals do not follow each other


@dataclass(frozen=True, eq=False)
class Truth:
    """What only synthetic videos know, for T frames of H x H pixels.

    exact: (T, 3, H, H) uint8, the exact swaps; exact_inner: (T, 1, H, H) bool, their inner faces. motion: (T - 1, 2, H,
    H), where each pixel of frame t of the target goes until frame t + 1, in pixels right and down; seen: (T - 1, 1, H,
    H) bool, the head's pixels that both frames show. exact_motion, exact_seen: the same of the exact swap. landmarks,
    exact_landmarks: (T, 5, 2) in pixels x, y. pose_deg: (T, 3) yaw, pitch, roll.
    """

    exact: Tensor
    exact_inner: Tensor
    motion: Tensor
    seen: Tensor
    exact_motion: Tensor
    exact_seen: Tensor
    landmarks: Tensor
    exact_landmarks: Tensor
    pose_deg: Tensor


@dataclass(frozen=True, eq=False)
class Clip:
    """T frames of a target, and the source whose identity their swaps should show. All tensors on the CPU.

    source: (3, S, S) uint8, a canonical crop. target: (T, 3, H, W) uint8, whole frames or the same window of each.
    inner: (T, 1, H, W) bool, the targets' inner faces. seconds: (T,) float64, when each frame is shown. to_crop:
    (T, 2, 3) float64, from places in a frame (pixels x, y; a pixel's centre is at one half) to fractions of its
    canonical crop; None where frames are canonical crops. joined: (T - 1,) bool, whether the face of frame t + 1 is
    that of frame t; where frames are missing between the two, by their times, it becomes false. source_person,
    target_person: numbers. inner_from: where `inner` is from, for protocols.

    Raises ValueError naming the clip and the field if any of this does not hold, and for fewer than three frames.
    """

    name: str
    source: Tensor
    target: Tensor
    inner: Tensor
    seconds: np.ndarray
    source_person: int
    target_person: int
    inner_from: str
    to_crop: Tensor | None = None
    joined: np.ndarray | None = None
    truth: Truth | None = None

    def __post_init__(self) -> None:
        frames = len(self.target)
        if self.target.ndim != 4 or self.target.shape[1] != 3 or self.target.dtype != torch.uint8:
            raise self._error("target", f"expected (T, 3, H, W) uint8, got {_kind(self.target)}")
        if frames < LEAST_FRAMES:
            raise self._error("target", f"{frames} frames; motion needs {LEAST_FRAMES} or more: take a longer video")
        if self.source.ndim != 3 or len(self.source) != 3 or self.source.dtype != torch.uint8:
            raise self._error("source", f"expected a crop (3, S, S) uint8, got {_kind(self.source)}")
        height, width = self.target.shape[2:]
        if self.to_crop is None and height != width:
            raise self._error(
                "to_crop", f"frames of {width} x {height} are no canonical crops; say where the faces are"
            )
        if self.inner.shape != (frames, 1, height, width) or self.inner.dtype != torch.bool:
            raise self._error("inner", f"expected {(frames, 1, height, width)} bool, got {_kind(self.inner)}")
        if not self.inner.flatten(1).any(1).all():
            place = int((~self.inner.flatten(1).any(1)).nonzero()[0])
            raise self._error("inner", f"frame {place} has no pixel of the inner face; leave such frames out")
        if self.seconds.shape != (frames,) or not (np.diff(self.seconds) > 0).all():
            raise self._error("seconds", f"expected {frames} increasing times, got {self.seconds.tolist()[:5]} ...")
        joined = np.ones(frames - 1, dtype=bool) if self.joined is None else self.joined
        if joined.shape != (frames - 1,) or not (joined & self._near).any():
            raise self._error("joined", f"expected {frames - 1}, some of them true; no two frames follow each other")
        object.__setattr__(self, "joined", joined & self._near)

    def _error(self, field: str, problem: str) -> ValueError:
        return ValueError(f"clip '{self.name}': {field}: {problem}")

    def __len__(self) -> int:
        return len(self.target)

    @cached_property
    def interval_s(self) -> float:
        """Median time between two frames."""
        return float(np.median(np.diff(self.seconds)))

    @cached_property
    def _near(self) -> np.ndarray:
        """(T - 1,) bool: frame t + 1 is shown so soon after frame t that none is missing between them."""
        return np.diff(self.seconds) < GAP * self.interval_s

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits over source, frames, times, inner faces and places of the faces."""
        digest = hashlib.sha256()
        for array in (self.source, self.target, self.inner, self.to_crop, torch.from_numpy(self.seconds)):
            digest.update(f"{None if array is None else _kind(array)}\n".encode())
            if array is not None:
                digest.update(np.ascontiguousarray(array.numpy()).data)
        return digest.hexdigest()[:16]

    def crops(self, frames: Tensor) -> Tensor:
        """The canonical crops (T, 3, S, S) uint8 of frames (T, 3, H, W) uint8, by the target's alignment; bilinear,
        and the border is repeated outside a frame."""
        if self.to_crop is None:
            return frames
        height, width = frames.shape[2:]
        back = torch.linalg.inv(_squared(self.to_crop))[:, :2]  # fractions of the crop to pixels of the frame
        back = back / back.new_tensor([width, height])[:, None] * 2  # to [0, 2] of the frame
        linear, shift = back[..., :2] / 2, back[..., 2] + back[..., :2].sum(2) / 2 - 1
        grid = F.affine_grid(torch.cat([linear, shift[..., None]], 2).float(), [len(frames), 3, CROP, CROP], False)
        parts = [
            F.grid_sample(f.float(), g, padding_mode="border", align_corners=False)
            for f, g in zip(frames.split(32), grid.split(32), strict=True)
        ]
        return torch.cat(parts).round().clamp(0, 255).byte()

    def in_frames(self, points: Tensor) -> Tensor:
        """Points (T, K, 2) in fractions of the canonical crops, as places in frames, in pixels of a crop of 256: sizes
        of faces and of frames do not change them."""
        if self.to_crop is None:
            return points * CROP
        back = torch.linalg.inv(_squared(self.to_crop))
        side = back[:, :2, 0].norm(dim=1).median()  # of a crop, in pixels of a frame
        placed = points.double() @ back[:, :2, :2].transpose(1, 2) + back[:, None, :2, 2]
        return placed * (CROP / side)


def inner_square(to_crop: Tensor, height: int, width: int) -> Tensor:
    """(T, 1, height, width) bool: the pixels of frames that lie in the square around eyes, nose and mouth of their
    canonical crops, as eval.pairs.inner_face has it."""
    x, y = (torch.arange(side, dtype=torch.float64) + 0.5 for side in (width, height))
    places = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1).reshape(-1, 2)
    inside = []
    for each in to_crop.double():
        u, v = (places @ each[:, :2].T + each[:, 2]).T * CROP
        inside.append((u >= 68) & (u < 188) & (v >= 80) & (v < 200))
    return torch.stack(inside).view(-1, 1, height, width)


def _squared(transform: Tensor) -> Tensor:
    """Transforms (T, 2, 3) as matrices (T, 3, 3), float64."""
    last = torch.tensor([[[0.0, 0.0, 1.0]]], dtype=torch.float64).expand(len(transform), 1, 3)
    return torch.cat([transform.double(), last], 1)


def _kind(array: Tensor) -> str:
    return f"{tuple(array.shape)} {array.dtype}"
