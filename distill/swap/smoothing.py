"""Landmarks in a video, smoothed over time so that a swapped face does not tremble.

Each coordinate goes through a one-euro filter (Casiez, Roussel, Vogel, CHI 2012): a low-pass whose cut-off rises with
the speed. A still face is smoothed much; a moving one little, so that the swap does not lag behind it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from swapcore.frame import CANONICAL

STILL = 0.8  # Hz: the cut-off for a face that does not move
# Hz per (distance between the eyes per second): the lag behind steady motion stays below 1 / (2 pi FOLLOW) = 3.2 % of
# that distance, less than 1 % of the crop's side. YuNet's noise on a still face is 1.3 % of it.
FOLLOW = 5.0
SPEED = 0.8  # Hz: the cut-off for the speed itself
# A face is the one of the frame before if it has moved by less than this distance between its eyes, and has not grown
# or shrunk by more than this factor. Otherwise it is a new one.
NEAR, GROWN = 1.0, 1.5
PAUSE = 0.5  # seconds after which nothing is known of a face's motion
CUT = 30.0  # levels of 255: mean difference of two frames from which on they are of two scenes
_TEMPLATE = np.array(CANONICAL)


@dataclass
class _Track:
    seen: np.ndarray  # (5, 2) as found in the last frame
    smooth: np.ndarray
    speed: np.ndarray  # (5, 2), smoothed, in pixels per second


class Smoother:
    """The landmarks of the faces of one frame after another. A face that jumps, that was lost in a frame, or that comes
    after a cut starts anew: its first landmarks stay as they were found."""

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._time, self._view = -math.inf, None

    def __call__(self, found: list[np.ndarray], time: float, image: np.ndarray) -> list[np.ndarray]:
        """found: landmarks (5, 2) in pixels of each face. time: of the frame, in seconds. image: the frame (H, W, 3)
        uint8. Returns smoothed landmarks in the same order."""
        view, step = _view(image), time - self._time
        if not 0 < step <= PAUSE or _is_cut(self._view, view):
            self._tracks = []
        before = _matched(found, self._tracks)
        self._tracks = [_followed(face, track, step) for face, track in zip(found, before, strict=True)]
        self._time, self._view = time, view
        return [track.smooth for track in self._tracks]


def _followed(face: np.ndarray, track: _Track | None, step: float) -> _Track:
    """The track of a face after `step` seconds; a new one without a track."""
    face = np.asarray(face, dtype=np.float64)
    if track is None:
        return _Track(face, face, np.zeros_like(face))
    speed = track.speed + _share(SPEED, step) * ((face - track.seen) / step - track.speed)
    cutoff = STILL + FOLLOW * np.hypot(*speed.T)[:, None] / _eye_distance(face)
    return _Track(face, track.smooth + _share(cutoff, step) * (face - track.smooth), speed)


def _share(cutoff: float | np.ndarray, step: float) -> float | np.ndarray:
    """How much of a new value a low-pass takes after `step` seconds."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * step))


def _matched(found: list[np.ndarray], tracks: list[_Track]) -> list[_Track | None]:
    """For each face the track whose last place is the nearest, each track once; None where none is near."""
    distances = sorted(
        (distance, i, k)
        for i, face in enumerate(found)
        for k, track in enumerate(tracks)
        if (distance := _distance(face, track.seen)) < NEAR
    )
    taken: dict[int, int] = {}
    for _, i, k in distances:
        if i not in taken and k not in taken.values():
            taken[i] = k
    return [tracks[taken[i]] if i in taken else None for i in range(len(found))]


def _distance(face: np.ndarray, before: np.ndarray) -> float:
    """Between the middles of two finds, in distances of the eyes; infinite where their sizes exclude one face."""
    size, other = _eye_distance(face), _eye_distance(before)
    if max(size, other) > GROWN * min(size, other):
        return math.inf
    return float(np.hypot(*(np.mean(face, 0) - np.mean(before, 0)))) / max(size, other)


def _eye_distance(face: np.ndarray) -> float:
    """Of a frontal face whose five points are as far apart: a face that turns to the side must not seem to shrink."""
    spread = math.sqrt(np.var(face, axis=0).sum() / np.var(_TEMPLATE, axis=0).sum())
    return max(spread * float(np.hypot(*(_TEMPLATE[1] - _TEMPLATE[0]))), 1e-6)


def _view(image: np.ndarray) -> np.ndarray:
    """Some 2,000 pixels of a frame."""
    rows, columns = (max(1, side // 45) for side in image.shape[:2])
    return image[rows // 2 :: rows, columns // 2 :: columns].astype(np.int16)


def _is_cut(before: np.ndarray | None, after: np.ndarray) -> bool:
    return before is not None and (before.shape != after.shape or float(np.abs(after - before).mean()) > CUT)
