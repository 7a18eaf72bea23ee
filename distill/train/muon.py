"""Muon: an optimiser that makes every step of a weight matrix orthogonal (K. Jordan et al., 2024,
https://kellerjordan.github.io/posts/muon; its size as in Liu et al., 2025, arXiv:2502.16982).

A kernel (out, in, height, width) is a matrix of `out` rows. `torch.optim.Muon` takes matrices only, one by one; here
those of one shape are one batch, and a captured step can read the learning rate on the device.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adam import adam

MOMENTUM = 0.95
SIZE = 0.2  # root mean square of an update at learning rate 1, about that of Adam
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of x, x^3 and x^5: they bring singular values of 0 to 1 near 1
LEAST = 16  # rows and columns of a matrix; smaller ones, such as the kernel that draws four channels, are left to Adam
EPSILON = 1e-8  # Adam's


def is_matrix(parameter: Tensor) -> bool:
    """Whether Muon moves the parameter: a matrix or a kernel with enough rows and columns. Depthwise kernels connect no
    channels, so Adam moves them."""
    if parameter.ndim < 2 or (parameter.ndim > 2 and parameter.shape[1] == 1):
        return False
    return min(parameter.shape[0], parameter[0].numel()) >= LEAST


@torch.no_grad()
def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices with orthogonal rows or columns, roughly: singular values of 0.7 to 1.2.

    matrices: (N, rows, columns) float32. Newton and Schulz's iteration X <- P X with P = aI + bG + cG^2, G = X X^T. All
    P are polynomials of the first G, so the iteration needs G alone and meets the long side of X twice, not ten times.
    G has the squares of the singular values, for which half precision or TF32 is too coarse.
    """
    a, b, c = COEFFICIENTS
    high = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if high else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    gram, product = x @ x.mT, None
    for iteration in range(ITERATIONS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if iteration < ITERATIONS - 1:
            gram = factor @ gram @ factor
    return (product @ x).mT if high else product @ x


class Muon(torch.optim.Optimizer):
    """Muon for matrices (`is_matrix`), Adam for all other parameters: a group of each, the group of Adam first.

    lr, betas: of Adam. lr_matrices: of Muon; its updates have the size of Adam's at this rate.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, lr_matrices: float, betas: tuple[float, float]) -> None:
        parameters = list(parameters)
        matrices = [parameter for parameter in parameters if is_matrix(parameter)]
        others = [parameter for parameter in parameters if not is_matrix(parameter)]
        groups = [{"params": others, "lr": lr}, {"params": matrices, "lr": lr_matrices}]
        # torch leaves the steps of a loaded state on the device of the parameters where the group says `fused`.
        super().__init__(groups, {"betas": betas, "capturable": False, "fused": True})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One step. Parameters without a gradient stay as they are."""
        others, matrices = self.param_groups
        self._adam(others)
        self._muon(matrices)

    def _adam(self, group: dict) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter),
                }  # fmt: skip
        states = [self.state[parameter] for parameter in parameters]
        means, squares, steps = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq", "step"))
        if parameters:
            beta1, beta2 = group["betas"]
            adam(
                parameters, [parameter.grad for parameter in parameters], means, squares, [], steps, fused=True,
                capturable=group["capturable"], amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"],
                weight_decay=0.0, eps=EPSILON, maximize=False,
            )  # fmt: skip

    def _muon(self, group: dict) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {"momentum": torch.zeros_like(parameter)}
        gradients = [parameter.grad for parameter in parameters]
        means = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(means, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, means, MOMENTUM)  # Nesterov's momentum

        # Matrices of one shape are one batch.
        by_shape: dict[torch.Size, list[int]] = {}
        for index, parameter in enumerate(parameters):
            by_shape.setdefault(torch.Size((len(parameter), parameter[0].numel())), []).append(index)
        moves: list[Tensor] = [torch.empty(0)] * len(parameters)
        with torch.autocast(parameters[0].device.type, enabled=False):
            for shape, indices in by_shape.items():
                found = orthogonal(torch.stack([ahead[index].reshape(shape) for index in indices]))
                for index, move in zip(indices, found * (SIZE * max(shape) ** 0.5), strict=True):
                    moves[index] = move.view(parameters[index].shape)
        torch._foreach_mul_(moves, group["lr"])
        torch._foreach_sub_(parameters, moves)
