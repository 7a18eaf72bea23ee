"""Metrics of swapped videos: identity over time, flicker, jitter, background and, where it is known, the exact swap.

    view = ClipView(clip, swap, "student", {"recogniser": ...}, readings)
    VIDEO_METRICS["identity_consistency"](view)["video_id_similarity"].value

A clip is one target video with the source of its swaps (clip.py). A metric measures one swapped clip; `merged` makes
one value of the values of all clips, each of which counts once.
"""

from __future__ import annotations

from .background_consistency import BACKGROUND_CONSISTENCY
from .exact_video_error import EXACT_VIDEO_ERROR
from .identity_consistency import IDENTITY_CONSISTENCY
from .landmark_jitter import LANDMARK_JITTER
from .pose_jitter import POSE_JITTER
from .temporal_flicker import TEMPORAL_FLICKER
from .view import VideoMetric

VIDEO_METRICS: dict[str, VideoMetric] = {
    "identity_consistency": IDENTITY_CONSISTENCY,
    "exact_video_error": EXACT_VIDEO_ERROR,
    "temporal_flicker": TEMPORAL_FLICKER,
    "landmark_jitter": LANDMARK_JITTER,
    "pose_jitter": POSE_JITTER,
    "background_consistency": BACKGROUND_CONSISTENCY,
}
