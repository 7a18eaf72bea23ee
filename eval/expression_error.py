"""Expression error: the L2 norm of the difference of expression coefficients between swap and target, mean over pairs.

There is no standard: papers use 10 coefficients of 3DDFA (whitened or not), the first 29 or all 64 of Deng 2019, 16 of
FECNet. The protocol names the network, its coefficients, their number and scaling; compare nothing across those.
"""

from __future__ import annotations

from .measured import Measured, mean_of
from .subject import Subject


def expression_error(subject: Subject) -> dict[str, Measured]:
    """expression_error: in the units of the ruler's coefficients."""
    protocol = subject.protocol("expression")
    swap, target = subject.read("expression", "swap"), subject.read("expression", "target")
    protocol["coefficients"] = swap.shape[1]
    return {"expression_error": mean_of((swap - target).double().norm(dim=1), "coefficients (L2)", "lower", protocol)}
