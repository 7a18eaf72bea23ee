"""Background consistency: what a swap changes outside the face, and how that change comes and goes.

background_error measures the first on single pictures. A constant change, such as a slightly other colour, does not
strike the eye; one that jumps from frame to frame does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..measured import Measured
from ..metric import Value
from .optical_flow import mean_where
from .view import ClipView, VideoMetric, over_frames


def background_consistency(view: ClipView) -> dict[str, Measured | None]:
    """video_background: mean |swap - target| outside the target's inner face, of values in [-1, 1].
    video_background_flicker: mean |change of (swap - target) from frame to frame|, outside both frames' inner faces."""
    clip = view.clip
    joined = torch.from_numpy(clip.joined)[:, None, None, None]
    change = view.swap.short() - clip.target.short()
    still = mean_where(_size(change), ~clip.inner)
    outside = ~(clip.inner[1:] | clip.inner[:-1]) & joined
    flicker = mean_where(_size(change[1:] - change[:-1]), outside)
    protocol = {**view.protocol(), "where": f"outside the inner face, {clip.inner_from}"}
    return {
        "video_background": over_frames(still, {**protocol, "against": "the target"}),
        "video_background_flicker": over_frames(flicker, {**protocol, "against": "its change in the frame before"}),
    }


def _size(change: Tensor) -> Tensor:
    return change.abs().float().mean(1, keepdim=True) / 127.5


UNIT = "of values in [-1, 1]"
BACKGROUND_CONSISTENCY = VideoMetric(
    background_consistency,
    (
        Value("video_background", "background change", UNIT, "{:.4f}", "lower"),
        Value("video_background_flicker", "background flicker", UNIT, "{:.4f}", "lower"),
    ),
)
