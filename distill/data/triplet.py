"""The batch of training samples that the loader hands to the training step.

The first five elements, in this order, are those of the original project's dataset (HoiM/MobileFSGAN @478175b): source,
target, gt, with_gt, src_as_true. The sixth, weight, is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from swapcore.images import scaled, to_float


class Triplet(NamedTuple):
    """source, target, gt (N, 3, H, W); with_gt (N,) float32 0/1; src_as_true (N,) bool; weight (N,) float32.

    src_as_true: the discriminator sees the source, not the target, as the real picture. weight: factor of the
    sample in the losses that compare with gt; below 1 for poor swaps if `distil.quality_power` is set.

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

    def resized(self, size: int) -> Triplet:
        """With pictures of `size` x `size`; for a batch on the device."""
        return Triplet(*(scaled(images, size) for images in self[:3]), *self[3:])

    def check(self) -> Triplet:
        """Check shapes and types; returns the triplet. Raises ValueError; never makes the host wait for a GPU."""
        n = len(self.source)
        expected = dict.fromkeys(("source", "target", "gt"), ((n, 3, *self.source.shape[2:]), torch.float32))
        expected |= dict.fromkeys(("with_gt", "weight"), ((n,), torch.float32)) | {"src_as_true": ((n,), torch.bool)}
        for name, (shape, dtype) in expected.items():
            tensor = getattr(self, name)
            if tensor.shape != shape or tensor.dtype != dtype:
                raise ValueError(f"triplet.{name}: expected {dtype} {shape}, got {tensor.dtype} {tuple(tensor.shape)}")
        return self
