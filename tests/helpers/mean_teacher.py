"""A teacher with submodules that costs nothing, and the experiment that keeps it in the loop."""

import torch
from torch import nn

from teachers.teacher import Teacher as Base


class Mean(Base):
    """A teacher with insides: the mean of source and target, sharpened by a fixed network."""

    name = "mean"

    def __init__(self, weights=None, scale: float = 0.5) -> None:
        super().__init__(weights, scale=scale)
        torch.manual_seed(7)
        self.inside = nn.Conv2d(3, 5, 3, 2, 1)
        self.scale = scale

    def identity(self, source, rows=None):
        return (source,)

    def swap(self, identity, target, rows=None):
        mean = self.scale * identity[0] + (1 - self.scale) * target
        self.inside(mean)
        return mean


MIX = {"pseudo_gt": 0, "same_person": 0.5, "pair": 0.5}

ONLINE = {
    "stages": ["data", "train"],
    "train": {"steps": 4, "batch_size": 2, "checkpoint_steps": 2, "log_steps": 1, "mix": MIX},
    "distil": {
        "online": "mean", "features": 2.0, "layers": {"encode4": "inside"}, "gram": 1.0, "quality_power": 1.0,
    },
}  # fmt: skip
