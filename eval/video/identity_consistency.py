"""Identity over time: how near every frame of a swap is to the source, and how steady that is.

The cosine of embeddings, as in id_similarity. An identity that is right on average may still come and go with the
pose: the deviation over the frames of a clip shows it, and so does the cosine of neighbouring frames, which needs no
source. A copy of the target is steady as well: read both with the cosine to the source.
"""

from __future__ import annotations

import numpy as np

from ..measured import Measured
from ..metric import Value
from .view import ClipView, VideoMetric, over_frames


def identity_consistency(view: ClipView) -> dict[str, Measured | None]:
    """video_id_similarity, video_id_deviation, video_id_steadiness."""
    swap = view.read("recogniser", "swap")
    cosines = (swap @ view.read("recogniser", "source")[0]).numpy()
    neighbours = np.where(view.clip.joined, (swap[1:] * swap[:-1]).sum(1).numpy(), np.nan)
    protocol = view.protocol("recogniser")
    to_source = {**protocol, "distance": "cosine to the source"}
    spread = {**to_source, "over": "standard deviation over the frames of a clip"}
    return {
        "video_id_similarity": over_frames(cosines, to_source),
        "video_id_deviation": over_frames(cosines, spread, float(cosines.std())),
        "video_id_steadiness": over_frames(neighbours, {**protocol, "distance": "cosine of neighbouring frames"}),
    }


IDENTITY_CONSISTENCY = VideoMetric(
    identity_consistency,
    (
        Value("video_id_similarity", "cosine to source", "cosine", "{:.3f}", "higher"),
        Value("video_id_deviation", "deviation of the cosine over time", "cosine", "{:.3f}", "lower"),
        Value("video_id_steadiness", "cosine of neighbours", "cosine", "{:.3f}", "higher"),
    ),
    needs="recogniser",
)
