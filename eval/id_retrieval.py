"""ID retrieval: is the swap recognised as the source's person among all people of the gallery?

Introduced by FaceShifter (Li et al., CVPR 2020, arXiv:1912.13457) with CosFace on FaceForensics++. Protocol here, as
in CASIA-NLPRAI/face-swapping-survey eval_faceswap: cosine of unit embeddings against one gallery image per person,
over all people of the gallery; with mirrored features if the recogniser reads them. Papers differ in recogniser,
crop, gallery and merging of duplicate identities, so their numbers are not comparable.
"""

from __future__ import annotations

from .measured import Measured, mean_of
from .metric import Metric, Value, View


def id_retrieval(view: View) -> dict[str, Measured]:
    """id_retrieval_top1_pct, id_retrieval_top5_pct: share of swaps with the source's person among the k nearest.

    A tie with another person counts as a miss, so a recogniser with equal embeddings for all scores 0, not 100. Top-5
    is absent for a gallery of up to five people, as it would always be 100.
    """
    protocol = view.protocol("recogniser")
    cosine = view.read("recogniser", "swap") @ view.read("recogniser", "gallery").T
    own = cosine.gather(1, view.pairs.gallery_column[:, None])
    nearer = (cosine >= own).sum(1) - 1
    people = cosine.shape[1]
    definition = "one image per person, all people, "
    definition += "the sources themselves" if view.pairs.gallery_holds_sources else "never the source image"
    values = {}
    for k in (1, 5):
        if k < people:
            gallery = {"size": people, "definition": definition}
            depends = {**protocol, "gallery": gallery, "distance": "cosine", "chance_pct": 100 * k / people}
            values[f"id_retrieval_top{k}_pct"] = mean_of(100 * (nearer < k).double(), depends)
    return values


ID_RETRIEVAL = Metric(
    id_retrieval,
    (
        Value("id_retrieval_top1_pct", "ID top-1 %", "%", "{:.1f}", "higher"),
        Value("id_retrieval_top5_pct", "ID top-5 %", "%", "{:.1f}", "higher", brief=False),
    ),
    needs="recogniser",
)
