"""Identity similarity: mean cosine of the swap's embedding to the source image's and to the target image's.

The first is the usual companion of ID retrieval (CASIA-NLPRAI/face-swapping-survey eval_faceswap); the second shows
what is left of the target's person. Two photos of one person are the practical upper end, so a sound
swap cannot reach 1 to the source; to the target, what two strangers have is the best value.
"""

from __future__ import annotations

from .measured import Measured, mean_of
from .subject import Subject


def id_similarity(subject: Subject) -> dict[str, Measured]:
    """id_similarity_source, id_similarity_target: in [-1, 1]."""
    protocol = subject.protocol("recogniser")
    protocol["distance"] = (
        f"cosine, {'no mirrored features' if protocol['flip'] == 'none' else 'mirrored features too'}"
    )
    swap = subject.read("recogniser", "swap")
    return {
        f"id_similarity_{column}": mean_of(
            (swap * subject.read("recogniser", column)).sum(1), "cosine", better, protocol
        )
        for column, better in (("source", "higher"), ("target", "target"))
    }
