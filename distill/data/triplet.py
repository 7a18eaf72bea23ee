"""The batch of training samples that the loader hands to the training step.

The first five elements, in this order, are those of the original project's dataset (HoiM/MobileFSGAN @478175b): source,
target, gt, with_gt, src_as_true. The sixth, weight, is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from swapcore.images import to_float


class Triplet(NamedTuple):
    """source, target, gt (N, 3, H, W); with_gt (N,) float32 0/1; src_as_true (N,) bool; weight (N,) float32.

    src_as_true: the discriminator sees the source, not the target, as the real picture. weight: how much the sample
    counts in the losses that compare with gt; below 1 where `distil.quality_power` distrusts the teacher's swap.

    On the device images are float32 in [-1, 1], and gt is -1 everywhere where with_gt is 0. The loader hands them over
    as uint8 in [0, 255], a quarter of the bytes; `on_device` converts.
    """

    source: torch.Tensor
    target: torch.Tensor
    gt: torch.Tensor
    with_gt: torch.Tensor
    src_as_true: torch.Tensor
    weight: torch.Tensor

    def on_device(self, device: torch.device) -> Triplet:
        images = (to_float(i.to(device, non_blocking=True)) for i in self[:3])
        return Triplet(*images, *(flag.to(device, non_blocking=True) for flag in self[3:]))

    def check(self) -> Triplet:
        """Itself, with shapes and types checked. Raises ValueError; never makes the host wait for a GPU."""
        n = self.source.shape[0]
        for name in ("source", "target", "gt"):
            image = getattr(self, name)
            if image.shape != self.source.shape or image.shape[1] != 3 or image.dtype != torch.float32:
                raise ValueError(f"triplet.{name}: expected float32 {tuple(self.source.shape)}, got {_form(image)}")
        for name in ("with_gt", "weight"):
            number = getattr(self, name)
            if number.shape != (n,) or number.dtype != torch.float32:
                raise ValueError(f"triplet.{name}: expected float32 ({n},), got {_form(number)}")
        if self.src_as_true.shape != (n,) or self.src_as_true.dtype != torch.bool:
            raise ValueError(f"triplet.src_as_true: expected bool ({n},), got {_form(self.src_as_true)}")
        return self


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
