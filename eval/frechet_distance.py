"""Distance of the distribution of swaps from that of targets: Frechet and kernel distance of their features.

FID: Heusel et al., NeurIPS 2017, arXiv:1706.08500. KID: Binkowski et al., ICLR 2018, arXiv:1801.01401, the unbiased MMD
with the kernel (x . y / D + 1)^3, over 100 subsets of 1000 (of half the swaps if there are fewer than 1000). Both are
computed by torchmetrics. Only features of FID's Inception v3 give fid and kid; other features give other names.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from swapcore import terminal

from .measured import Measured
from .metric import Metric, Value, View

INCEPTION = "inception_fid"
SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 0


def _features(count: int) -> nn.Module:
    """Replaces torchmetrics' network, since the inputs are features already."""
    network = nn.Identity()
    network.num_features = count
    return network


def _compute(metric: Any, a: Tensor, b: Tensor) -> Any:
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a distance of sets needs two samples or more of each set, got {len(a)} and {len(b)}")
    metric.update(b.double(), real=True)
    metric.update(a.double(), real=False)
    return metric.compute()


def frechet(a: Tensor, b: Tensor) -> float:
    """Frechet distance of Gaussians fitted to (N, D) and (M, D) features. Raises ValueError for fewer than two each."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_features(a.shape[1]))
    return max(0.0, float(_compute(metric, a, b)))  # for equal sets, rounding can give less than 0


def kernel(
    a: Tensor, b: Tensor, subsets: int = SUBSETS, subset_size: int | None = None, seed: int = SEED
) -> tuple[float, float, int]:
    """Mean and deviation over subsets of the squared MMD of (N, D) and (M, D) features, and the size of the subsets.

    The mean is unbiased, so for similar sets it may be below 0. Raises ValueError for fewer than two samples of either.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    fewest = min(len(a), len(b))
    size = subset_size or (SUBSET_SIZE if fewest >= SUBSET_SIZE else max(2, fewest // 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that all features are kept in memory
        metric = KernelInceptionDistance(feature=_features(a.shape[1]), subsets=subsets, subset_size=size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, deviation = _compute(metric, a, b)
    return float(mean), float(deviation), size


def frechet_distance(view: View) -> dict[str, Measured]:
    """fid, kid (times 1000); frechet_NAME, kernel_NAME if the features are those of another estimator NAME.

    Neither has an interval: resampled pairs hold duplicates, which shrink the covariance and put equal images on both
    sides of the kernel, so that the interval may not contain the value. KID's deviation over subsets is in the
    details. With as many samples as features or fewer the covariance is singular, and the Frechet distance depends on
    the number of samples more than on the swaps; the details say so. Raises ValueError without torchmetrics and for
    fewer than two pairs.
    """
    try:
        import torchmetrics
    except ImportError as error:
        raise ValueError(f"metric fid needs the package torchmetrics: {terminal.install()}") from error
    name = view.estimators.need("features").name
    swaps, targets = view.read("features", "swap"), view.read("features", "target")
    count, dimension = swaps.shape
    protocol = {
        **view.protocol("features"), "dimension": dimension, "samples": count, "against": "the targets of the pairs",
        "computed_by": f"torchmetrics {torchmetrics.__version__}",
    }  # fmt: skip
    details = {"covariance": f"singular: {count} samples of {dimension} features"} if count <= dimension else {}
    distance, (mean, deviation, size) = frechet(swaps, targets), kernel(swaps, targets)
    fid, kid = ("fid", "kid") if name == INCEPTION else (f"frechet_{name}", f"kernel_{name}")
    subsets = {"subsets": SUBSETS, "subset_size": size, "seed": SEED, "kernel": "(x . y / D + 1)^3, unbiased"}
    return {
        fid: Measured(distance, count, None, protocol, details),
        kid: Measured(1000 * mean, count, None, {**protocol, **subsets}, {"deviation": 1000 * deviation}),
    }


FRECHET_DISTANCE = Metric(
    frechet_distance,
    (
        Value("fid", "FID", "", "{:.2f}", "lower", brief=False),
        Value("kid", "KID x 1000", "10^-3", "{:.2f}", "lower", brief=False),
        Value("frechet_", "frechet", "", "{:.2f}", "lower", brief=False, open_ended=True),
        Value("kernel_", "kernel", "10^-3", "{:.2f}", "lower", brief=False, open_ended=True),
    ),
    needs="features",
)
