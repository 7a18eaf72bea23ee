"""Temporal flicker: what changes from frame to frame beyond the target's own motion.

The warping error of Lai et al., ECCV 2018 (arXiv:1808.00449): frame t + 1 is read where the motion takes each pixel of
frame t, and compared with frame t on the pixels that both frames show; here the mean absolute difference of values in
[-1, 1], inside the inner face. The motion is that of the target, never that of the swap: a swap that flickers would
move its own flow. A real face changes as well (light, mouth, sampling), so the target's own error on the same pixels is
subtracted for a second value: 0 is as steady as the target. A blurred swap is steadier than any face, so a value below
0 is no merit.

On synthetic people three motions are compared: that of the target by optical flow, that of the target as it is known,
and the known motion of the exact swap, whose face has another shape than the target's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..measured import Measured
from ..metric import Value
from .optical_flow import mean_where, moved, staying
from .view import ClipView, VideoMetric, over_frames


def warping_error(frames: Tensor, motion: Tensor, where: Tensor) -> np.ndarray:
    """(T - 1,): mean |frame t + 1 along the motion - frame t| of frames (T, 3, H, W) uint8, of values in [-1, 1], over
    `where` (T - 1, 1, H, W) bool; NaN where no pixel is. motion: (T - 1, 2, H, W) pixels."""
    errors = []
    for t in range(len(motion)):  # one at a time: as floats a long clip is large
        change = (moved(frames[t + 1 : t + 2], motion[t : t + 1]) - frames[t].float()).abs().mean(1, keepdim=True)
        errors.append(mean_where(change / 127.5, where[t : t + 1]))
    return np.concatenate(errors)


def temporal_flicker(view: ClipView) -> dict[str, Measured | None]:
    """flicker and flicker_excess along the target's motion by optical flow; with `_exact` along the motion that is
    known; flicker_own along the known motion of the exact swap."""
    clip, truth = view.clip, view.clip.truth
    joined = torch.from_numpy(clip.joined)[:, None, None, None]
    motion, visible, method = view.target_motion()
    protocol = {**view.protocol(), "where": f"inner face, {clip.inner_from}, visible in both frames"}
    values = _beside_target(
        view, "flicker", motion, visible & joined, {**protocol, "motion": f"the target's by {method}"}
    )
    if truth is not None:
        known = {**protocol, "motion": "the target's, known"}
        values |= _beside_target(view, "flicker_exact", truth.motion, truth.seen & joined, known)
        where = truth.exact_seen & staying(truth.exact_inner, truth.exact_motion) & joined
        own = {
            **protocol,
            "motion": "the exact swap's, known",
            "where": "inner face of the exact swap, visible in both",
        }
        values["flicker_own"] = over_frames(warping_error(view.swap, truth.exact_motion, where), own)
    return values


def _beside_target(
    view: ClipView, key: str, motion: Tensor, where: Tensor, protocol: dict
) -> dict[str, Measured | None]:
    """The warping error of the swap in `where`, as far as that is inner face, and the same less the target's own."""
    if ("warping", key) not in view.readings:
        inner = where & staying(view.clip.inner, motion)
        view.readings["warping", key] = inner, warping_error(view.clip.target, motion, inner)
    inner, target = view.readings["warping", key]
    swap = warping_error(view.swap, motion, inner)
    excess = {**protocol, "less": "the target's own"}
    return {key: over_frames(swap, protocol), f"{key}_excess": over_frames(swap - target, excess)}


UNIT = "of values in [-1, 1]"
TEMPORAL_FLICKER = VideoMetric(
    temporal_flicker,
    (
        Value("flicker", "flicker, optical flow", UNIT, "{:.4f}", "lower"),
        Value("flicker_excess", "flicker beyond the target's", UNIT, "{:+.4f}", "target"),
        Value("flicker_exact", "flicker, known motion", UNIT, "{:.4f}", "lower"),
        Value("flicker_exact_excess", "flicker beyond the target's, known", UNIT, "{:+.4f}", "target"),
        Value("flicker_own", "flicker, exact swap's motion", UNIT, "{:.4f}", "lower"),
    ),
)
