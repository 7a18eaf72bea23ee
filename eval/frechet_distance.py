"""Distance of the distribution of swaps from that of targets: Frechet and kernel distance of their features.

FID: Heusel et al., NeurIPS 2017, arXiv:1706.08500. KID: Binkowski et al., ICLR 2018, arXiv:1801.01401, the unbiased MMD
with the kernel (x . y / D + 1)^3, over 100 subsets of 1000 (of half the swaps if there are fewer than 1000). Its
deviation is over subsets of half the swaps if there are fewer than 2000: subsets of 1000 of 1000 are all the same. Both
are computed by torchmetrics. Only features of FID's Inception v3 give fid and kid; other features give other names.

The kernel adds 1 to a product of features, so it depends on their scale: features whose squares are near 200 give tens
of millions. Features other than Inception's are divided by the root mean square of the targets' features.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
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


def computed_by() -> dict[str, str]:
    """The package behind both distances and its version. Raises ValueError without it."""
    try:
        import torchmetrics
    except ImportError as error:
        raise ValueError(f"metric fid needs the package torchmetrics: {terminal.install()}") from error
    return {"computed_by": f"torchmetrics {torchmetrics.__version__}"}


def frechet_distance(view: View) -> dict[str, Measured]:
    """fid, kid (times 1000); frechet_NAME, kernel_NAME if the features are those of another estimator NAME.

    Neither has an interval: resampled pairs hold duplicates, which shrink the covariance and put equal images on both
    sides of the kernel, so that the interval may not contain the value. KID's deviation over subsets is in the
    details. A caution says where the covariance is singular (as many samples as features or fewer): the Frechet
    distance then depends on the number of samples more than on the swaps; and where the kernel distance is no larger
    than its deviation: it may then be below 0, and is for a copy of the targets. Raises ValueError without
    torchmetrics, for fewer than two pairs, and where all features are 0.
    """
    package = computed_by()
    name = view.estimators.need("features").name
    swaps, targets = view.read("features", "swap"), view.read("features", "target")
    count, dimension = swaps.shape
    protocol = {
        **view.protocol("features"), "dimension": dimension, "samples": count, "against": "the targets of the pairs",
        **package,
    }  # fmt: skip
    distance = Measured(frechet(swaps, targets), count, None, protocol)
    if count <= dimension:
        problem = f"singular covariance, {count} pairs for {dimension} features"
        distance = replace(distance, caution=f"{problem}: it depends on the number of pairs more than on the swaps")
    formula = "(x . y / D + 1)^3, unbiased"
    if name != INCEPTION:
        scale = targets.double().square().mean().sqrt()
        if not scale > 0:
            raise ValueError(f"features '{name}': all features of the targets are 0, which no scale can change")
        swaps, targets = swaps / scale, targets / scale
        formula += ", features divided by the root mean square of the targets'"
    mean, deviation, size = kernel(swaps, targets)
    subsets = {"subsets": SUBSETS, "subset_size": size, "seed": SEED, "kernel": formula}
    spread_size = min(size, max(2, count // 2))
    if spread_size < size:
        deviation = kernel(swaps, targets, subset_size=spread_size)[1]
    spread = {"deviation": 1000 * deviation, "deviation_subset_size": spread_size}
    by_kernel = Measured(1000 * mean, count, None, {**protocol, **subsets}, spread)
    if mean <= deviation:
        problem = f"no larger than its deviation over subsets of {spread_size} pairs, {1000 * deviation:.2f}"
        by_kernel = replace(by_kernel, caution=problem)
    fid, kid = ("fid", "kid") if name == INCEPTION else (f"frechet_{name}", f"kernel_{name}")
    return {fid: distance, kid: by_kernel}


FRECHET_DISTANCE = Metric(
    frechet_distance,
    (
        Value("fid", "FID", "", "{:.2f}", "lower", brief=False),
        Value("kid", "KID x 1000", "10^-3", "{:.2f}", "lower", brief=False),
        Value("frechet_", "frechet", "", "{:.2f}", "lower", brief=False, open_ended=True),
        Value("kernel_", "kernel", "10^-3", "{:.2f}", "lower", brief=False, open_ended=True),
    ),
    needs="features",
    machine=computed_by,
)
