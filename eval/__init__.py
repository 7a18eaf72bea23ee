"""Metrics of face swaps. A swapper is any callable (source, target) -> swap on canonical crops in [-1, 1].

    evaluation = Evaluation(pairs, Estimators(recogniser=..., pose=...))
    evaluation.measure(swapper, ["id_retrieval", "pose_error"])["id_retrieval_top1_pct"].value

Optional attributes of a swapper: `name`; `parts`, its networks by name, to be measured separately; `files`, the saved
files of those parts. Estimators are loaded by `eval.estimators`; networks that train a student are not used here.
"""

from __future__ import annotations

from collections.abc import Iterable

from .as_printed import ID_SIMILARITY_FIRST_TENTH, POSE_LOGITS, SSIM_SOURCE
from .background_error import BACKGROUND_ERROR
from .exact_match import EXACT_MATCH
from .expression_error import EXPRESSION_ERROR
from .fooling_gap import FOOLING_GAP
from .frechet_distance import FRECHET_DISTANCE
from .grid_artifact import GRID_ARTIFACT
from .id_retrieval import ID_RETRIEVAL
from .id_similarity import ID_SIMILARITY
from .latency_ms import LATENCY
from .lpips_distance import LPIPS_DISTANCE
from .metric import Metric, Value, find
from .peak_memory_mb import PEAK_MEMORY
from .pose_error import POSE_ERROR
from .region_errors import REGION_ERRORS
from .sharpness import SHARPNESS
from .size_mb import SIZE
from .video import VIDEO_METRICS

METRICS: dict[str, Metric] = {
    "id_retrieval": ID_RETRIEVAL,
    "id_similarity": ID_SIMILARITY,
    "pose_error": POSE_ERROR,
    "expression_error": EXPRESSION_ERROR,
    "exact_match": EXACT_MATCH,
    "region_errors": REGION_ERRORS,
    "sharpness": SHARPNESS,
    "grid_artifact": GRID_ARTIFACT,
    "fooling_gap": FOOLING_GAP,
    "background_error": BACKGROUND_ERROR,
    "lpips": LPIPS_DISTANCE,
    "fid": FRECHET_DISTANCE,
    "size_mb": SIZE,
    "latency_ms": LATENCY,
    "peak_memory_mb": PEAK_MEMORY,
    "pose_logits": POSE_LOGITS,
    "id_similarity_first_tenth": ID_SIMILARITY_FIRST_TENTH,
    "ssim_source": SSIM_SOURCE,
}


def table_values(keys: Iterable[str]) -> list[Value]:
    """Descriptions of measured keys in the order of tables: that of METRICS and VIDEO_METRICS, then open-ended
    ones by name.

    A key of an older result that no current metric declares is its own title.
    """
    keys = set(keys)
    declared = [value for metric in (*METRICS.values(), *VIDEO_METRICS.values()) for value in metric.values]
    fixed = [value for value in declared if value.key in keys]
    others = sorted(keys - {value.key for value in fixed})
    return fixed + [find(key, declared) or Value(key, key) for key in others]
