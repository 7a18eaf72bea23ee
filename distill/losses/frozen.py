"""Frozen networks in the form in which a training step runs them: fewer operations, equal results within rounding."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

from students.mobilefacenet import fold

CAST = nn.Conv2d | nn.Linear | nn.PReLU  # autocast computes them in half precision
Network = TypeVar("Network")


def for_training(network: Network, dtype: torch.dtype | None = None) -> Network:
    """A frozen copy of a network in evaluation mode, its batch normalisations made part of the layers before them.

    With `dtype`, the type in which autocast computes, the weights have it already: autocast keeps the casts of trained
    weights for the length of a step, but repeats those of frozen ones in every pass. Such a copy works under autocast
    only. Anything that is not a module is returned unchanged.
    """
    if not isinstance(network, nn.Module):
        return network
    copy = deepcopy(network).eval()
    for module in copy.modules():
        fold(module)
    if dtype is not None:
        for module in copy.modules():
            if isinstance(module, CAST):
                module.to(dtype)
    return copy.requires_grad_(False)
