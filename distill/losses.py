"""Loss terms: tensors in, scalar out. Every mean is over the whole batch, also where only some samples take part:
the mean over processes of equal batches is then the value, and the gradient, of one process with all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def hinge_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Hinge loss of the discriminators; real and fake are logit maps per scale (Lim & Ye 2017, arXiv:1705.02894)."""
    terms = [w * (F.relu(1 - r).mean() + F.relu(1 + f).mean()) for w, r, f in zip(weights, real, fake, strict=True)]
    return torch.stack(terms).sum()


def hinge_generator(fake: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The generator's side as MobileFSGAN has it: relu(1 - D), which stops pushing where D is already convinced.

    The original sums over the batch, we average (HoiM/MobileFSGAN @478175b, losses/Losses.py).
    """
    return torch.stack([w * F.relu(1 - f).mean() for w, f in zip(weights, fake, strict=True)]).sum()


def identity(embeddings: Sequence[Tensor], source: Tensor, weights: Sequence[float], margin: float) -> Tensor:
    """relu(1 - cosine - margin) between the swaps' embeddings per scale and the source's, all (N, D) unit length."""
    losses = [w * F.relu(1 - (e * source).sum(1) - margin).mean() for w, e in zip(weights, embeddings, strict=True)]
    return torch.stack(losses).sum()


def reconstruction(images: Sequence[Tensor], gt: Tensor, with_gt: Tensor, weights: Sequence[float]) -> Tensor:
    """L1 to the ground truth on samples that have one; gt is shrunk to the smaller scales.

    Samples without GT are masked out whole; the original lets their borders be drawn to black.
    """
    losses = []
    for image, weight in zip(images, weights, strict=True):
        truth = gt if image.shape == gt.shape else shrink(gt, image.shape[-1])
        losses.append(weight * ((image - truth).abs().mean((1, 2, 3)) * with_gt).mean())
    return torch.stack(losses).sum()


def perceptual(features: Callable[[Tensor], Sequence[Tensor]], image: Tensor, reference: Tensor) -> Tensor:
    """Mean L1 between feature maps of a frozen network, each scaled by the reference's own mean magnitude
    (Johnson et al. 2016, arXiv:1603.08155, with L1)."""
    with torch.no_grad():
        wanted = features(reference)
    losses = [F.l1_loss(f, w) / w.abs().mean().clamp(min=1e-6) for f, w in zip(features(image), wanted, strict=True)]
    return torch.stack(losses).mean()


def shrink(images: Tensor, size: int) -> Tensor:
    """(N, 3, H, H) -> (N, 3, size, size) by area."""
    return F.interpolate(images, size=(size, size), mode="area")
