"""Expression error: the L2 norm of the difference of expression coefficients between swap and target, mean over pairs.

There is no standard: papers use 10 coefficients of 3DDFA (whitened or not), the first 29 or all 64 of Deng 2019, 16 of
FECNet. The protocol names the network, its coefficients, their number and scale; other protocols are not comparable.
"""

from __future__ import annotations

from .measured import Measured, mean_of
from .metric import Metric, Value, View


def expression_error(view: View) -> dict[str, Measured]:
    """expression_error: in the units of the estimator's coefficients."""
    protocol = view.protocol("expression")
    swap, target = view.read("expression", "swap"), view.read("expression", "target")
    protocol["coefficients"] = swap.shape[1]
    return {"expression_error": mean_of((swap - target).double().norm(dim=1), protocol)}


EXPRESSION_ERROR = Metric(
    expression_error,
    (Value("expression_error", "expression error", "coefficients (L2)", "{:.3f}", "lower"),),
    needs="expression",
)
