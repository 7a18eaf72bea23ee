"""Error of every frame to the exact swap, and how that error changes from frame to frame. Synthetic people only.

The exact swap of a video is known frame by frame. The change of the error is taken along the exact swap's own motion:
an error that sticks to the face, such as a wrong nose, moves with it and does not count; one that appears and vanishes
does. A blur lowers the warping error of temporal_flicker. Here it does not: the change that it lacks is an error.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..measured import Measured
from ..metric import Value
from .optical_flow import mean_where, moved, staying
from .view import ClipView, VideoMetric, over_frames


def error_flicker(error: Tensor, motion: Tensor, where: Tensor) -> np.ndarray:
    """(T - 1,): mean |error of frame t + 1 along the motion - error of frame t| over `where`, NaN where no pixel is.

    error: (T, 3, H, W) differences of 8-bit values. The result is of values in [-1, 1]."""
    flicker = []
    for t in range(len(motion)):
        change = (moved(error[t + 1 : t + 2], motion[t : t + 1]) - error[t].float()).abs().mean(1, keepdim=True)
        flicker.append(mean_where(change / 127.5, where[t : t + 1]))
    return np.concatenate(flicker)


def exact_video_error(view: ClipView) -> dict[str, Measured | None]:
    """video_exact_error: mean |swap - exact swap| of the whole frames, of values in [-1, 1]; video_exact_worst: that of
    the worst frame; video_error_flicker: change of the error along the exact motion, inside the inner face."""
    truth = view.clip.truth
    error = view.swap.short() - truth.exact.short()
    each = error.abs().float().flatten(1).mean(1).numpy() / 127.5
    protocol = {**view.protocol(), "against": "the exact swap"}
    whole = {**protocol, "where": "whole frames"}
    inner = {**protocol, "where": "inner face of the exact swap, visible in both frames", "motion": "the exact swap's"}
    joined = torch.from_numpy(view.clip.joined)[:, None, None, None]
    where = truth.exact_seen & staying(truth.exact_inner, truth.exact_motion) & joined
    return {
        "video_exact_error": over_frames(each, whole),
        "video_exact_worst": over_frames(each, {**whole, "over": "the worst frame of a clip"}, float(each.max())),
        "video_error_flicker": over_frames(error_flicker(error, truth.exact_motion, where), inner),
    }


UNIT = "of values in [-1, 1]"
EXACT_VIDEO_ERROR = VideoMetric(
    exact_video_error,
    (
        Value("video_exact_error", "error to exact swap", UNIT, "{:.4f}", "lower"),
        Value("video_exact_worst", "error of the worst frame", UNIT, "{:.4f}", "lower"),
        Value("video_error_flicker", "flicker of the error", UNIT, "{:.4f}", "lower"),
    ),
    lacks=lambda clip: "" if clip.truth is not None else "needs exact swaps, which only synthetic people have",
)
