"""Loss terms: tensors in, scalar out. Every mean is over the whole batch, even where only some samples take part. So
the mean over processes with equal batches equals the value, and the gradient, of one process with the whole batch.

Nearly so for `perceptual`, `gram` and `features`, which divide by a mean magnitude of the process's own batch. Not so
for the original's terms: `reconstruction_as_written` divides by the pixels that count in that batch, and the hinge
losses of batch "sum" grow with its size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from swapcore.images import REC_601


def hinge_discriminator(
    real: Sequence[Tensor], swaps: Sequence[Tensor], weights: Sequence[float], batch: str = "mean"
) -> Tensor:
    """Hinge loss of the discriminators (Lim & Ye 2017, arXiv:1705.02894) from their logit maps (N, 1, r, r) of real
    pictures and of swaps, one per scale. `batch` as in `hinge_generator`."""
    terms = [F.relu(1 - r).mean() + F.relu(1 + s).mean() for r, s in zip(real, swaps, strict=True)]
    return _weighted(terms, [w * _samples(swaps, batch) for w in weights])


def hinge_generator(swaps: Sequence[Tensor], weights: Sequence[float], batch: str = "mean") -> Tensor:
    """The generator's loss in MobileFSGAN and FaceShifter: relu(1 - D), which is zero where D takes swaps for real.

    With batch "sum" the samples' terms are added up, as HoiM/MobileFSGAN @478175b does (losses/Losses.py), instead of
    averaged.
    """
    return _weighted([F.relu(1 - s).mean() for s in swaps], [w * _samples(swaps, batch) for w in weights])


def _samples(logits: Sequence[Tensor], batch: str) -> int:
    return logits[0].shape[0] if batch == "sum" else 1


def _weighted(terms: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of terms times weights, one operation for each."""
    (first, *others), (weight, *other_weights) = terms, weights
    total = first * weight
    for term, other in zip(others, other_weights, strict=True):
        total = torch.add(total, term, alpha=other)
    return total


def identity(embeddings: Tensor, source: Tensor, weights: Sequence[float], margin: float) -> Tensor:
    """relu(1 - cosine - margin) between embeddings of the source (N, D) and of swaps (K * N, D), those of K scales one
    after the other, with K weights. All are of unit length."""
    by_scale = _wide(embeddings).unflatten(0, (len(weights), -1))
    return _weighted(F.relu((1 - margin) - (by_scale * _wide(source)).sum(2)).mean(1).unbind(), weights)


def reconstruction(
    images: Sequence[Tensor], gt: Tensor, counts: Tensor, weights: Sequence[float], norm: str = "l1"
) -> Tensor:
    """Distance to the ground truth, each sample times `counts` (N,): 0 where it has no GT, 1 where it counts in full.

    L1, or with norm "l2" half the mean square (FaceShifter, arXiv:1912.13457, eq. 8). gt is shrunk to the smaller
    scales. Samples without GT are masked out whole; the original does otherwise, see `reconstruction_as_written`.
    """
    losses = []
    for image, weight in zip(images, weights, strict=True):
        if weight:
            scaled = gt if image.shape == gt.shape else shrink(gt, image.shape[-1])
            distance = (image - scaled).abs() if norm == "l1" else (image - scaled).square() / 2
            losses.append(weight * (distance.mean((1, 2, 3)) * counts).mean())
    return torch.stack(losses).sum()


def reconstruction_as_written(images: Sequence[Tensor], gt: Tensor, weights: Sequence[float]) -> Tensor:
    """The original's term with its defect (HoiM/MobileFSGAN @478175b, losses/Losses.py), kept for comparison.

    Half the squared differences, summed over three colours and all pixels that count, divided by the number of these
    pixels. A pixel does not count where gt is black (as all of it is in samples without GT), but the top 80 rows and
    the outer 40 columns of 256 always count: in samples without GT they are pulled to black.
    """
    losses = []
    for image, weight in zip(images, weights, strict=True):
        if weight:
            size = image.shape[-1]
            scaled = gt if image.shape == gt.shape else shrink(gt, size)
            counts = (scaled.sum(1, keepdim=True) >= -2.999).to(image.dtype)
            rows, columns = 80 * size // 256, 40 * size // 256
            counts[:, :, :rows] = counts[..., :columns] = counts[..., size - columns :] = 1
            losses.append(weight * ((image - scaled).square() * counts).sum() / (2 * counts.sum()))
    return torch.stack(losses).sum()


def gradient(image: Tensor, gt: Tensor, counts: Tensor) -> Tensor:
    """L1 between the differences of neighbouring pixels, across and down, of swaps (N, 3, R, R) and of GT; each sample
    times `counts` (N,). Edges at the wrong place cost more than in L1 of pixels, and shades cost less (Mathieu et al.,
    ICLR 2016, arXiv:1511.05440, section 3.3, with exponent 1 and signs)."""
    error = _wide(image) - gt
    across, down = (error.diff(dim=dim).abs().mean((1, 2, 3)) for dim in (3, 2))
    return ((across + down) * counts).mean()


def gradient_energy(image: Tensor, gt: Tensor, counts: Tensor, window: int = 5) -> Tensor:
    """L1 between local contrasts of swaps (N, 3, R, R) and of GT; each sample times `counts` (N,).

    The contrast is the root of the mean squared luminance gradient in a window of pixels. L1 of pixels is least for a
    mean of the swaps that fit an embedding, and a mean is blurred. This term asks for as much contrast as the GT has in
    that window; L1 and `gradient` decide where its edges are.
    """
    own, expected = (_contrast(images, window) for images in (_wide(image), gt))
    return ((own - expected).abs().mean((1, 2, 3)) * counts).mean()


def _contrast(images: Tensor, window: int) -> Tensor:
    red, green, blue = images.unbind(1)
    luminance = (REC_601[0] * red + REC_601[1] * green + REC_601[2] * blue).unsqueeze(1)
    squares = luminance.diff(dim=3)[:, :, :-1].square() + luminance.diff(dim=2)[..., :-1].square()
    return (F.avg_pool2d(squares, window, 1) + 1e-4).sqrt()  # 1e-4: steps of 0.01 of [-1, 1] are not edges


def attribute(maps: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """Half the mean squared distance of attribute maps of swap and target, summed over levels (arXiv:1912.13457)."""
    return torch.stack([F.mse_loss(_wide(m), _wide(r)) / 2 for m, r in zip(maps, reference, strict=True)]).sum()


def perceptual(features: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """(N,) mean L1 between feature maps, each scaled by the reference's own mean magnitude in the batch
    (Johnson et al. 2016, arXiv:1603.08155, with L1)."""
    scaled = [
        _mean((f - r).abs(), 1, 2, 3) / _mean(r.abs()).clamp(min=1e-6) for f, r in zip(features, reference, strict=True)
    ]
    return torch.stack(scaled).mean(0)


def gram(features: Sequence[Tensor], reference: Sequence[Tensor]) -> Tensor:
    """(N,) L1 between Gram matrices of maps (Gatys et al. 2016, arXiv:1508.06576), scaled as in `perceptual`."""
    pairs = [(_gram_matrix(f), _gram_matrix(r)) for f, r in zip(features, reference, strict=True)]
    return torch.stack([(f - r).abs().mean((1, 2)) / r.abs().mean().clamp(min=1e-6) for f, r in pairs]).mean(0)


def _gram_matrix(maps: Tensor) -> Tensor:
    flat = maps.flatten(2).float()
    with torch.autocast(flat.device.type, enabled=False):  # sums of squares overflow in half precision
        return flat @ flat.mT / flat.shape[2]


def features(adapted: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """(N,) mean squared distance of the student's adapted maps to the teacher's, relative to the teacher's mean square
    (Romero et al. 2015, arXiv:1412.6550)."""
    scaled = [
        _mean((_wide(a) - t).square(), 1, 2, 3) / _mean(_wide(t).square()).clamp(min=1e-6)
        for a, t in zip(adapted, teacher, strict=True)
    ]
    return torch.stack(scaled).mean(0)


def _wide(tensor: Tensor) -> Tensor:
    """Half precision to float32, because small differences need it; other types unchanged."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _mean(tensor: Tensor, *over: int) -> Tensor:
    """The mean over these or all dimensions, in float32 at least, without a float32 copy of half-precision maps."""
    return tensor.mean(over or None, dtype=torch.promote_types(tensor.dtype, torch.float32))


def shrink(images: Tensor, size: int) -> Tensor:
    """(N, 3, H, H) -> (N, 3, size, size) by area."""
    return F.interpolate(images, size=(size, size), mode="area")
