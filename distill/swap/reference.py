"""The person of `--reference`: which face in a frame is theirs, by a threshold on the cosine of identity embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

# The cosine from which on two faces count as one person's, by identity encoder. Measured as `distill.swap` sees faces
# (YuNet, alignment at 128 pixels) on all pairs of pictures: 9,355 pairs of one person and 365,190 of two, of 866
# photographs of 40 people of CelebA; and 600 and 44,250 pairs of 300 pictures of 60 drawn people.
#   foamliu_128 on photographs: at 0.35 it misses 5.7 % of the pairs of one person and takes 0.08 % of those of two
#     (0.25: 1.8 % and 1.5 %; 0.30: 3.5 % and 0.43 %; 0.40: 9.0 % and 0.01 %)
#   xiaoccer_128 on photographs: 7.8 % and 0.14 % (0.25: 2.8 % and 1.3 %; 0.30: 4.6 % and 0.47 %)
#   synthetic_identity on drawn people: at 0.55 7.0 % and 0.80 % (0.50: 4.5 % and 1.6 %; 0.60: 10 % and 0.30 %). It
#     does not tell photographs of people apart: at 0.55 it misses 45 % and takes 35 %.
THRESHOLDS = {"foamliu_128": 0.35, "xiaoccer_128": 0.35, "synthetic_identity": 0.55}
NOT_MEASURED = 0.35  # other encoders: as the networks above that were trained on photographs


class Person:
    """Chooses the face of one person. `nearest` is the highest cosine of any face so far, -1 before the first.

    embedding: (D,) of unit length. encoder: name of the network that makes the embeddings. least: the cosine from which
    on a face counts as this person's, by default as measured for the encoder.
    """

    def __init__(self, embedding: Tensor, encoder: str, least: float | None = None) -> None:
        self.embedding, self.nearest = embedding, -1.0
        self.least = THRESHOLDS.get(encoder, NOT_MEASURED) if least is None else least

    @torch.inference_mode()
    def among(self, embeddings: Tensor) -> int | None:
        """The number of the most similar of n faces (n, D), n > 0; None where no cosine reaches the least."""
        cosines = (embeddings @ self.embedding).nan_to_num(nan=-torch.inf).tolist()
        best = max(range(len(cosines)), key=cosines.__getitem__)
        self.nearest = max(self.nearest, cosines[best])
        return best if cosines[best] >= self.least else None
