"""Identity similarity: mean cosine of the swap's embedding to the source image's and to the target image's.

The first is usually reported with ID retrieval (CASIA-NLPRAI/face-swapping-survey eval_faceswap); the second shows how
much of the target's identity remains. The practical maximum to the source is the cosine of two photos of one person,
not 1; the best value to the target is the cosine of two strangers.
"""

from __future__ import annotations

from .measured import Measured, mean_of
from .metric import Metric, Value, View


def id_similarity(view: View) -> dict[str, Measured]:
    """id_similarity_source, id_similarity_target: in [-1, 1]."""
    protocol = view.protocol("recogniser")
    mirrored = "no mirrored features" if protocol["flip"] == "none" else "mirrored features too"
    protocol["distance"] = f"cosine, {mirrored}"
    swap = view.read("recogniser", "swap")
    cosine = {column: (swap * view.read("recogniser", column)).sum(1) for column in ("source", "target")}
    return {f"id_similarity_{column}": mean_of(values, protocol) for column, values in cosine.items()}


ID_SIMILARITY = Metric(
    id_similarity,
    (
        Value("id_similarity_source", "cosine to source", "cosine", "{:.3f}", "higher"),
        Value("id_similarity_target", "cosine to target", "cosine", "{:.3f}", "target", brief=False),
    ),
    needs="recogniser",
)
