"""Networks pickled whole, under the class names of SimSwap's ArcFace file."""

import sys
import types
from contextlib import contextmanager

import torch
from torch import nn

from teachers.irse101 import IRSE101, SqueezeExcitation, Unit

NAMES = ("models", "models.resnet", "optimizer")


class ArcMarginModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 512))


class InsightFaceOptimizer:
    def __init__(self, optimizer) -> None:
        self.optimizer, self.lr = optimizer, 0.1


@contextmanager
def original_classes(package: str = "models"):
    """The classes under the names of the original's file, for as long as it is written."""
    kept = {name: sys.modules.get(name) for name in NAMES}
    sys.modules.update({name: types.ModuleType(name) for name in NAMES})
    for name, cls in {
        "ResNet": IRSE101, "IRBlock": Unit, "SEBlock": SqueezeExcitation, "ArcMarginModel": ArcMarginModel
    }.items():  # fmt: skip
        setattr(sys.modules[package], name, type(name, (cls,), {"__module__": package}))
    optimizer = type("InsightFaceOptimizer", (InsightFaceOptimizer,), {"__module__": "optimizer"})
    sys.modules["optimizer"].InsightFaceOptimizer = optimizer
    try:
        yield sys.modules[package]
    finally:
        for name, module in kept.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def as_original(model: IRSE101, package) -> IRSE101:
    """The network, its classes and those of its parts renamed."""
    renamed = {IRSE101: package.ResNet, Unit: package.IRBlock, SqueezeExcitation: package.SEBlock}
    for module in model.modules():
        module.__class__ = renamed.get(type(module), type(module))
    return model
