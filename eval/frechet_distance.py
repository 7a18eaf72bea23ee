"""How far the swaps as a whole are from the targets as a whole: Frechet and kernel distance of their features.

FID: Heusel et al., NeurIPS 2017, arXiv:1706.08500. KID: Binkowski et al., ICLR 2018, arXiv:1801.01401, the unbiased MMD
with the kernel (x . y / D + 1)^3, over 100 subsets of 1000 (of half the swaps where there are fewer than 1000). Both by
torchmetrics. Only with the Inception v3 of FID are they called fid and kid; with other features by the ruler's name.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from .measured import Measured
from .subject import Subject

INCEPTION = "inception_fid"
SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 0


class _Given(nn.Module):
    """In the place of the network: what comes in is features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of Gaussians fitted to (N, D) and (M, D) features. Raises ValueError for fewer than two each."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    if min(len(a), len(b)) < 2:
        raise ValueError(f"a Frechet distance needs two samples or more of each set, got {len(a)} and {len(b)}")
    metric = FrechetInceptionDistance(feature=_Given(a.shape[1]))
    metric.update(b.double(), real=True)
    metric.update(a.double(), real=False)
    return max(0.0, float(metric.compute()))  # equal sets come out a rounding error below


def kernel(
    a: Tensor, b: Tensor, subsets: int = SUBSETS, subset_size: int | None = None, seed: int = SEED
) -> tuple[float, float, int]:
    """Mean and deviation over subsets of the squared MMD of (N, D) and (M, D) features, and the size of the subsets.

    The mean is unbiased, so of close sets it may be below 0. Raises ValueError for fewer than two samples of either.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    fewest = min(len(a), len(b))
    if fewest < 2:
        raise ValueError(f"a kernel distance needs two samples or more of each set, got {len(a)} and {len(b)}")
    size = subset_size or (SUBSET_SIZE if fewest >= SUBSET_SIZE else max(2, fewest // 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that all features are kept, which they are anyway
        metric = KernelInceptionDistance(feature=_Given(a.shape[1]), subsets=subsets, subset_size=size)
    metric.update(b.double(), real=True)
    metric.update(a.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = metric.compute()
    return float(mean), float(deviation), size


def frechet_distance(subject: Subject) -> dict[str, Measured]:
    """fid, kid (times 1000), or frechet_RULER, kernel_RULER where the features are not the Inception v3 of FID.

    Neither has an interval: pairs drawn again hold doubles, which draw in the covariance and put equal images on both
    sides of the kernel, so that the whole interval may lie beside the value. KID's deviation over subsets is in the
    details. With as many samples as features or fewer the covariance is singular, and the Frechet distance depends on
    the number of samples more than on the swaps; the details say so. Raises ValueError without torchmetrics and for
    fewer than two pairs.
    """
    try:
        import torchmetrics
    except ImportError as error:
        raise ValueError("metric fid is torchmetrics' computation: pip install torchmetrics") from error
    ruler = subject.rulers.need("features")
    swaps, targets = subject.read("features", "swap"), subject.read("features", "target")
    count, dimension = swaps.shape
    protocol = {
        **subject.protocol("features"), "dimension": dimension, "samples": count, "against": "the targets of the pairs",
        "computed_by": f"torchmetrics {torchmetrics.__version__}",
    }  # fmt: skip
    details = {"covariance": f"singular: {count} samples of {dimension} features"} if count <= dimension else {}
    distance, (mean, deviation, size) = frechet(swaps, targets), kernel(swaps, targets)
    names = ("fid", "kid") if ruler.name == INCEPTION else (f"frechet_{ruler.name}", f"kernel_{ruler.name}")
    subsets = {"subsets": SUBSETS, "subset_size": size, "seed": SEED, "kernel": "(x . y / D + 1)^3, unbiased"}
    return {
        names[0]: Measured(distance, "", "lower", count, None, protocol, details),
        names[1]: Measured(
            1000 * mean, "10^-3", "lower", count, None, {**protocol, **subsets}, {"deviation": 1000 * deviation}
        ),
    }
