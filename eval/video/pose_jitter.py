"""Pose jitter: how much yaw, pitch and roll tremble, as their second difference over time, beside the target's.

As landmark_jitter, by a pose estimator: where no landmark network is at hand, as on synthetic people without downloads,
it is the measure of trembling.
"""

from __future__ import annotations

from ..measured import Measured
from ..metric import Value
from .landmark_jitter import second_difference
from .view import ClipView, VideoMetric, over_frames


def pose_jitter(view: ClipView) -> dict[str, Measured | None]:
    """pose_jitter_deg of the swap, and pose_jitter_excess_deg, less the target's by the same network."""
    jitter = {c: second_difference(view.read("pose", c)[:, None], view.clip.joined) for c in ("swap", "target")}
    protocol = view.protocol("pose")
    return {
        "pose_jitter_deg": over_frames(jitter["swap"], protocol),
        "pose_jitter_excess_deg": over_frames(
            jitter["swap"] - jitter["target"], {**protocol, "less": "the target's own"}
        ),
    }


POSE_JITTER = VideoMetric(
    pose_jitter,
    (
        Value("pose_jitter_deg", "pose jitter, degrees", "degrees", "{:.2f}", "lower"),
        Value("pose_jitter_excess_deg", "pose jitter beyond the target's", "degrees", "{:+.2f}", "target"),
    ),
    needs="pose",
)
