"""Landmark jitter: how much landmarks tremble, as their second difference over time, beside the target's.

A moving face has small second differences, since its speed changes slowly; trembling has large ones. Landmarks are
estimated on swap and target by one network, whose own noise is in both, so what counts is the difference to the
target's jitter. Of synthetic people the jitter of the known landmarks is reported beside it: how much of an estimated
jitter is motion.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..measured import Measured
from ..metric import Value
from .clip import Clip
from .view import ClipView, VideoMetric, over_frames


def second_difference(points: Tensor, joined: np.ndarray) -> np.ndarray:
    """(T - 2,): mean length of x(t + 1) - 2 x(t) + x(t - 1) of points (T, K, D); NaN where a point is, and where the
    frames do not follow each other. joined: (T - 1,) bool."""
    points = points.double()
    length = (points[2:] - 2 * points[1:-1] + points[:-2]).norm(dim=2).mean(1).numpy()
    return np.where(joined[1:] & joined[:-1], length, np.nan)


def landmark_jitter(view: ClipView) -> dict[str, Measured | None]:
    """landmark_jitter_px of the swap, and landmark_jitter_excess_px, less the target's by the same network; over the
    moments at which both show a face."""
    clip = view.clip
    jitter = {
        column: second_difference(clip.in_frames(view.read("landmarks", column)), clip.joined)
        for column in ("swap", "target")
    }
    excess = jitter["swap"] - jitter["target"]
    protocol = {**view.protocol("landmarks"), "unit": "pixels of a canonical crop of 256"}
    swap = np.where(np.isfinite(excess), jitter["swap"], np.nan)
    return {
        "landmark_jitter_px": over_frames(swap, protocol),
        "landmark_jitter_excess_px": over_frames(excess, {**protocol, "less": "the target's own"}),
    }


def known_jitter(clip: Clip) -> dict[str, float]:
    """Mean jitter of the five known landmarks of target and exact swap, in pixels of a crop of 256; empty on
    photographs."""
    if clip.truth is None:
        return {}
    scale, joined = 256 / clip.target.shape[-1], clip.joined
    points = {"target": clip.truth.landmarks, "exact": clip.truth.exact_landmarks}
    known = {name: second_difference(torch.as_tensor(p) * scale, joined) for name, p in points.items()}
    return {name: float(np.nanmean(values)) for name, values in known.items() if np.isfinite(values).any()}


LANDMARK_JITTER = VideoMetric(
    landmark_jitter,
    (
        Value("landmark_jitter_px", "landmark jitter, pixels of 256", "pixels of 256", "{:.2f}", "lower"),
        Value("landmark_jitter_excess_px", "landmark jitter beyond the target's", "pixels of 256", "{:+.2f}", "target"),
    ),
    needs="landmarks",
)
