"""eval.frechet_distance: Gaussians known by hand, torch-fidelity's own figures, scipy's matrix root."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from conftest import SHARED, needs_shared
from helpers.toy_pairs import PEOPLE, changed, rendered, toy_pairs
from safetensors.torch import load_file
from scipy.linalg import sqrtm

from eval import frechet_distance
from eval.estimators import CARDS, Estimator, Estimators, load_estimator
from eval.evaluation import Evaluation
from eval.frechet_distance import frechet, kernel
from eval.networks import inner_square
from eval.sanity import copy_source, copy_target
from swapcore.images import to_uint8
from teachers.exact import render, sample_attributes, sample_identities


def gaussian(seed, n, d, scale=1.0, shift=0.0):
    """n samples whose mean is shift and whose covariance is scale^2 in all d directions, exactly."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    whiten = torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1)))
    return x @ whiten.T * scale + shift


@pytest.mark.parametrize(("scale", "shift", "known"), [(1, 0, 0), (1, 3, 6 * 9), (3, 0, 6 * 4), (2, 1, 6 * 2)])
def test_gaussians_known_by_hand(scale, shift, known):
    """Of covariances I and s^2 I in D dimensions: D (shift^2 + (s - 1)^2)."""
    assert frechet(gaussian(0, 50, 6, scale, shift), gaussian(1, 60, 6)) == pytest.approx(known, abs=1e-6)


def correlated(seed, n, d):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=rng) @ torch.randn(d, d, generator=rng) + torch.randn(d, generator=rng)


def test_frechet_equals_scipy_and_torch_fidelity():
    pytest.importorskip("torch_fidelity", reason="needs the extra fid")
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    a, b = correlated(0, 90, 12), correlated(1, 70, 12)
    found = frechet(a, b)
    x, y = a.double().numpy(), b.double().numpy()
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    closed = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(first + second - 2 * sqrtm(first @ second).real)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(f.double()) for f in (a, b)), verbose=False)
    assert found == pytest.approx(closed, rel=1e-5)
    assert found == pytest.approx(theirs[KEY_METRIC_FID], rel=1e-5)
    assert frechet(b, a) == pytest.approx(found, rel=1e-5)


def test_kernel_equals_its_formula_and_torch_fidelity():
    pytest.importorskip("torch_fidelity", reason="needs the extra fid")
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = correlated(0, 40, 12) / 5, correlated(1, 40, 12) / 5
    mean, deviation, size = kernel(a, b, subsets=2, subset_size=40)  # both subsets are the whole sets
    poly = lambda x, y: (x @ y.T / 12 + 1) ** 3  # noqa: E731
    within = [(k.sum() - k.trace()) / (40 * 39) for k in (poly(a, a), poly(b, b))]
    assert mean == pytest.approx(float(sum(within) - 2 * poly(a, b).mean()), rel=1e-4)
    assert size == 40 and deviation == pytest.approx(0, abs=1e-9)
    theirs = kid_features_to_metric(a.double(), b.double(), kid_subsets=1, kid_subset_size=40, verbose=False)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)


def test_kernel_repeats_itself_and_leaves_the_seed_alone():
    a, b = correlated(0, 40, 4), correlated(1, 30, 4)
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    first = kernel(a, b)
    assert torch.equal(torch.rand(1), wanted)
    assert first == kernel(a, b) and first[1] > 0 and first[2] == 15
    assert kernel(a, b, seed=1)[0] != first[0]
    assert kernel(correlated(0, 1001, 2), correlated(1, 1001, 2), subsets=1)[2] == 1000


def test_kernel_of_one_distribution_is_near_zero_on_both_sides():
    halves = [kernel(*gaussian(seed, 80, 3).split(40))[0] for seed in range(8)]
    assert min(halves) < 0 < max(halves) and max(map(abs, halves)) < 1
    assert kernel(gaussian(0, 40, 3, shift=3), gaussian(1, 40, 3))[0] > 30


@pytest.mark.parametrize("distance", [frechet, kernel])
def test_one_sample_is_no_distribution(distance):
    with pytest.raises(ValueError, match="two samples or more of each set, got 1 and 5"):
        distance(torch.zeros(1, 3), torch.zeros(5, 3))


def corners(images):
    """Three features of the toy pairs."""
    return images[:, 0, -1, :3] * 10


def estimators(name="corners", network=corners):
    return Estimators(features=Estimator(network, name=name, weight_hash="none: exact"))


def test_values_carry_the_name_of_their_features():
    pairs = toy_pairs()
    values = Evaluation(pairs, estimators()).measure(copy_source, ["fid"])
    assert set(values) == {"frechet_corners", "kernel_corners"}
    # Poses of sources are those of targets moved by (3, 4, 12), in the same order: only the means differ.
    assert values["frechet_corners"].value == pytest.approx((10 / 127.5 * 13) ** 2, rel=1e-4)
    same = Evaluation(pairs, estimators()).measure(copy_target, ["fid"])
    assert same["frechet_corners"].value == pytest.approx(0, abs=1e-6)
    for value in (*values.values(), *same.values()):
        depends = value.protocol
        assert depends["features"]["name"] == "corners" and depends["dimension"] == 3
        assert depends["samples"] == value.n == PEOPLE and depends["computed_by"].startswith("torchmetrics ")
        assert value.interval is None and value.each is None
        json.dumps(value.as_dict(), allow_nan=False)
    assert values["kernel_corners"].value == pytest.approx(1000 * expected_kernel(pairs, scaled=True))
    assert values["kernel_corners"].details["deviation"] > 0 and values["kernel_corners"].protocol["subset_size"] == 4
    assert not values["frechet_corners"].caution and "divided by" in values["kernel_corners"].protocol["kernel"]


def expected_kernel(pairs, scaled):
    swaps, targets = (corners(images.float() / 127.5 - 1) for images in (pairs.source, pairs.target))
    scale = targets.double().square().mean().sqrt() if scaled else 1
    return kernel(swaps / scale, targets / scale)[0]


def test_only_inception_gives_fid():
    """The name decides, and load_estimator gives that name to a file with the right sha256 only. KID is not scaled."""
    values = Evaluation(toy_pairs(), estimators("inception_fid")).measure(copy_source, ["fid"])
    assert set(values) == {"fid", "kid"} and values["kid"].protocol["kernel"] == "(x . y / D + 1)^3, unbiased"
    assert values["kid"].value == pytest.approx(1000 * expected_kernel(toy_pairs(), scaled=False))


def test_the_kernel_distance_does_not_depend_on_the_scale_of_the_features():
    found = []
    for scale in (1, 3000):
        network = lambda images, scale=scale: corners(images) * scale  # noqa: E731
        found.append(Evaluation(toy_pairs(), estimators("corners", network)).measure(copy_source, ["fid"]))
    small, large = (values["kernel_corners"] for values in found)
    assert large.value == pytest.approx(small.value, rel=1e-4) and 0 < small.value < 1e4
    with pytest.raises(ValueError, match="features 'dark': all features of the targets are 0"):
        Evaluation(toy_pairs(), estimators("dark", lambda images: images[:, 0, -1, :3] * 0)).measure(
            copy_source, ["fid"]
        )


def test_a_kernel_distance_within_its_deviation_is_told():
    pairs = toy_pairs()
    values = Evaluation(pairs, estimators()).measure(copy_target, ["fid"])
    near, far = (
        values["kernel_corners"],
        Evaluation(pairs, estimators()).measure(copy_source, ["fid"])["kernel_corners"],
    )
    assert near.value < 0 and near.caution.startswith("no larger than its deviation over subsets of 4 pairs, ")
    assert far.value > far.details["deviation"] and not far.caution


def test_the_deviation_at_the_size_of_the_subsets_is_not_zero(monkeypatch):
    """Subsets of as many pairs as there are would all be the same; the value is still that of all pairs."""
    monkeypatch.setattr(frechet_distance, "SUBSET_SIZE", PEOPLE)
    value = Evaluation(toy_pairs(), estimators()).measure(copy_target, ["fid"])["kernel_corners"]
    assert value.protocol["subset_size"] == PEOPLE and value.details["deviation_subset_size"] == PEOPLE // 2
    assert value.details["deviation"] > 1e-6 and "over subsets of 4 pairs" in value.caution
    features = corners(toy_pairs().target.double() / 127.5 - 1)
    features /= features.square().mean().sqrt()
    assert value.value == pytest.approx(1000 * kernel(features, features, subsets=1, subset_size=PEOPLE)[0], rel=1e-4)


def test_too_few_samples_are_told():
    wide = estimators("wide", lambda images: images[:, 0, :2].flatten(1))
    value = Evaluation(toy_pairs(), wide).measure(copy_source, ["fid"])["frechet_wide"]
    assert value.caution.startswith("singular covariance, 8 pairs for 64 features")
    with pytest.raises(ValueError, match="no features estimator"):
        Evaluation(toy_pairs(), Estimators()).measure(copy_target, ["fid"])
    with pytest.raises(ValueError, match="expected .8, D."):
        Evaluation(toy_pairs(), estimators("maps", lambda images: images)).measure(copy_target, ["fid"])


def test_missing_packages_are_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ValueError, match=r"torchmetrics: pip install -e \."):
        Evaluation(toy_pairs(), estimators()).measure(copy_target, ["fid"])


def faces(n=2, side=64):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_shipped_recogniser_gives_features():
    from swapcore import weights

    path = weights.find(CARDS["synthetic_recogniser"])
    features = load_estimator("synthetic_recogniser", path, "features")(faces())
    state = load_file(path)
    x = inner_square(faces())
    for i in range(0, 24, 3):  # convolution (of stride 2 and 1 in turns), batch norm, ReLU
        norm = [state[f"features.{i + 1}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        x = torch.nn.functional.conv2d(x, state[f"features.{i}.weight"], None, 1 if i % 2 else 2, 1)
        x = torch.nn.functional.batch_norm(x, *norm).relu()
    assert features.shape == (2, 192)
    assert torch.allclose(features, x.mean((2, 3)), atol=1e-5)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """Seeded weights under the names that torch-fidelity's network has, and a card that is honest about them."""
    pytest.importorskip("torch_fidelity", reason="needs the extra fid")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            """Nothing to load yet."""

    folder = tmp_path_factory.mktemp("inception")
    torch.save({}, folder / "empty.pth")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Blank("blank", ["2048"], feature_extractor_weights_path=folder / "empty.pth")
    path = folder / CARDS["inception_fid"].file
    torch.save(network.state_dict(), path)
    return network, path, replace(CARDS["inception_fid"], sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def test_inception_is_torch_fidelitys(inception):
    network, path, card = inception
    estimator = load_estimator(card, path)
    eight_bit = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.inference_mode():
        found, wanted = estimator(eight_bit.float() / 127.5 - 1), network(eight_bit)[0]
    assert found.shape == (2, 2048) and torch.equal(found, wanted)
    assert estimator.name == "inception_fid" and estimator.weight_hash == card.sha256[:16]


def test_other_inceptions_are_refused(inception, tmp_path):
    network, path, card = inception
    with pytest.raises(ValueError, match="begins with 6726825d"):
        load_estimator("inception_fid", path)
    state = network.state_dict()
    for change, says in (({"fc.bias": None}, "fc.bias"), ({"fc.bias": torch.full((1008,), torch.nan)}, "NaN")):
        kept = {k: v for k, v in {**state, **change}.items() if v is not None}
        torch.save(kept, tmp_path / card.file)
        digest = hashlib.sha256((tmp_path / card.file).read_bytes()).hexdigest()
        with pytest.raises(ValueError, match=f"{card.file}: .*inception_fid.*{says}"):
            load_estimator(replace(card, sha256=digest), tmp_path / card.file)


def test_inception_of_older_files(inception, tmp_path):
    network, path, card = inception
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / card.file)
    digest = hashlib.sha256((tmp_path / card.file).read_bytes()).hexdigest()
    older = load_estimator(replace(card, sha256=digest), tmp_path / card.file)
    assert torch.equal(older(faces()), load_estimator(card, path)(faces()))


@needs_shared
def test_squeezenet_of_the_shared_weights():
    path = SHARED / "weights" / CARDS["squeezenet1_0_compressed"].file
    estimator = load_estimator("squeezenet1_0_compressed", path)
    model = torchvision.models.squeezenet1_0()
    model.load_state_dict(torch.load(path, weights_only=True))
    images = faces(side=224)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        wanted = model.eval().features((images / 2 + 0.5 - mean) / std).mean((2, 3))
        assert torch.allclose(estimator(images), wanted, atol=1e-4)
    assert wanted.shape == (2, 512)
    with pytest.raises(ValueError, match="begins with b66bff10"):
        load_estimator("squeezenet1_0", path)


def test_blurred_swaps_are_further_away():
    """Frechet distance of the shipped recogniser's features grows with what is done to the pictures."""
    from swapcore import weights

    estimator = load_estimator("synthetic_recogniser", weights.find(CARDS["synthetic_recogniser"]), "features")
    pairs, found = toy_pairs(), []
    n = len(pairs.target)
    people = to_uint8(render(sample_identities(n, 1), sample_attributes(n, 2), 64).image)
    pairs = changed(pairs, **dict.fromkeys(("source", "target", "exact", "gallery"), people))
    for sigma in (1, 2, 4):
        blurred = torchvision.transforms.functional.gaussian_blur(pairs.target, 13, sigma)
        found.append(Evaluation(pairs, Estimators(features=estimator)).measure(rendered(blurred), ["fid"]))
    distances = [values["frechet_synthetic_recogniser"].value for values in found]
    assert 0 < distances[0] < distances[1] < distances[2]
