"""Fooling gap: the cosine of swap and source by the encoder that trained the swapper, minus the cosine by a recogniser
that did not.

A network that learns from an encoder can raise its cosine by patterns that only this encoder takes for identity
(adversarial examples: Szegedy et al., ICLR 2014, arXiv:1312.6199). They pass to other encoders in part, so the gap is a
lower bound of such fooling. Two encoders differ for honest swaps as well: read a student's gap beside that of its
teacher, of the exact swap or of `copy-source` in the same table. A gap that is larger by 0.1 says that the training
encoder was fooled; none says little, so look at `grid_artifact` and at the pictures.
"""

from __future__ import annotations

from .measured import Measured, mean_of
from .metric import Metric, Value, View

ROLES = ("trained_encoder", "recogniser")


def fooling_gap(view: View) -> dict[str, Measured]:
    """fooling_gap: a difference of two cosines, in [-2, 2]; `details` holds the means of both."""
    trained, judged = ((view.read(role, "swap") * view.read(role, "source")).sum(1) for role in ROLES)
    protocol = {**view.protocol("recogniser"), "trained_encoder": view.protocol("trained_encoder")["trained_encoder"]}
    details = {role: float(cosine.mean()) for role, cosine in zip(ROLES, (trained, judged), strict=True)}
    return {"fooling_gap": mean_of(trained - judged, protocol, details)}


FOOLING_GAP = Metric(fooling_gap, (Value("fooling_gap", "fooling gap", "cosine", "{:.3f}", "lower"),), needs=ROLES)
