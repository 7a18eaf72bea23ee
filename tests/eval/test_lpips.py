"""eval.lpips_distance: the package's own class with the same weights is repeated, and other weights are refused."""

import hashlib
import warnings
from dataclasses import replace

import pytest
import torch
import torchvision
from conftest import SHARED, needs_shared
from helpers.toy_pairs import PEOPLE, changed, rendered, toy_pairs

from eval.estimators import CARDS, Estimator, Estimators, load_estimator
from eval.evaluation import Evaluation
from eval.sanity import copy_target

lpips = pytest.importorskip("lpips", reason="pip install -e .")

MODELS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}


def saved(net, folder, change=lambda state: None):
    """A file of seeded weights in torchvision's layout, and a card that is honest about it."""
    with torch.device("meta"):
        model = getattr(torchvision.models, MODELS[net])()
    generator = torch.Generator().manual_seed(3)
    state = {
        name: torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5
        for name, tensor in model.state_dict().items()
        if name.startswith("features.") or net == "squeeze"  # the others' classifiers are large, and nobody reads them
    }
    change(state)
    card = CARDS[f"lpips_{net}"]
    torch.save(state, folder / card.file)
    digest = hashlib.sha256((folder / card.file).read_bytes()).hexdigest()
    return state, folder / card.file, replace(card, sha256=digest[:8])


def images(seed, n=3, side=64):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("net", MODELS)
def test_cards_name_the_files_that_torchvision_downloads(net):
    card = CARDS[f"lpips_{net}"]
    assert card.url == torchvision.models.get_model_weights(MODELS[net]).IMAGENET1K_V1.url
    assert card.url.endswith(card.file) and card.file == f"{card.file.rpartition('-')[0]}-{card.sha256}.pth"


def test_the_other_cards_name_what_their_packages_download():
    pytest.importorskip("torch_fidelity", reason="needs the extra fid")
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert CARDS["inception_fid"].url == URL_INCEPTION_V3
    weights = torchvision.models.get_model_weights("squeezenet1_0").IMAGENET1K_V1
    assert CARDS["squeezenet1_0"].url == weights.url and CARDS["squeezenet1_0"].sha256 in weights.url


@pytest.mark.parametrize("net", ["alex", pytest.param("vgg", marks=pytest.mark.slow), "squeeze"])
def test_distances_are_the_packages(net, tmp_path):
    state, path, card = saved(net, tmp_path)
    estimator = load_estimator(card, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)  # with its own heads
    for name, tensor in package.net.named_parameters():
        tensor.data = state["features." + name.split(".", 1)[1]]
    with torch.inference_mode():
        found, wanted = estimator(images(0), images(1)), package(images(0), images(1)).flatten()
        assert found.shape == (3,) and found.min() > 1e-3
        assert torch.equal(found, wanted)
        assert torch.equal(estimator(images(0), images(0)), torch.zeros(3))
        assert torch.allclose(estimator(images(1), images(0)), found)


def test_the_hash_is_of_backbone_and_heads(tmp_path):
    _, path, card = saved("alex", tmp_path)
    estimator = load_estimator(card, path)
    files = path.read_bytes() + estimator.network.heads_file.read_bytes()
    assert estimator.weight_hash == hashlib.sha256(files).hexdigest()[:16]
    assert estimator.as_dict()["name"] == "lpips_alex" and estimator.as_dict()["crop"] == "whole frame"
    assert not any(p.requires_grad for p in estimator.network.parameters()) and not estimator.network.training


def test_other_weights_are_refused(tmp_path):
    _, path, card = saved("alex", tmp_path)
    with pytest.raises(ValueError, match="alexnet-owt.*begins with 7be5be79.*download.pytorch.org"):
        load_estimator("lpips_alex", path)
    with pytest.raises(ValueError, match="begins with None"):
        load_estimator(replace(card, sha256=None), path)
    with pytest.raises(ValueError, match="gives perceptual, not 'features'"):
        load_estimator(card, path, "features")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("features.6.bias"), r"slice3\.6\.bias: expected .* found none"),
        (lambda s: s.update({"features.11.weight": torch.zeros(2)}), r"features\.11\.weight: expected no such tensor"),
        (lambda s: s.update({"features.0.bias": torch.zeros(63)}), r"slice1\.0\.bias: expected shape \(64,\)"),
        (lambda s: s["features.0.bias"].fill_(torch.nan), r"features\.0\.bias: NaN"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, change, says):
    _, path, card = saved("alex", tmp_path, change)
    with pytest.raises(ValueError, match=f"alexnet-owt-7be5be79.pth: .*'lpips_alex'.*: {says}"):
        load_estimator(card, path)


@needs_shared
def test_squeezenet_1_0_is_not_1_1(tmp_path):
    path = SHARED / "weights" / "squeezenet1_0_torchvision.pth"
    with pytest.raises(ValueError, match="begins with b8a52dc0"):
        load_estimator("lpips_squeeze", path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="'lpips_squeeze': not the weights of"):
        load_estimator(replace(CARDS["lpips_squeeze"], sha256=digest), path)


def absolute(a, b):
    """A distance that is known by hand."""
    return (a - b).abs().mean((1, 2, 3))


HAND = Estimator(absolute, name="by hand", weight_hash="none: exact")


def test_values_are_means_over_pairs():
    pairs = toy_pairs()
    values = Evaluation(pairs, Estimators(perceptual=HAND)).measure(copy_target, ["lpips", "exact_match"])
    assert values["lpips_target"].value == 0 and values["lpips_target"].better == "target"
    assert values["lpips_exact"].value == pytest.approx(values["l1"].value)
    assert values["lpips_exact"].interval[0] < values["lpips_exact"].value < values["lpips_exact"].interval[1]
    assert values["lpips_target"].details["exact_swap_to_target"] == pytest.approx(values["l1"].value)
    assert values["lpips_exact"].n == PEOPLE and values["lpips_exact"].better == "lower"
    assert values["lpips_exact"].protocol["perceptual"]["name"] == "by hand"
    assert values["lpips_exact"].protocol["against"] != values["lpips_target"].protocol["against"]
    assert (
        Evaluation(pairs, Estimators(perceptual=HAND)).measure(rendered(pairs.exact), ["lpips"])["lpips_exact"].value
        == 0
    )


def test_without_an_exact_swap_the_best_value_is_unknown():
    values = Evaluation(changed(toy_pairs(), exact=None), Estimators(perceptual=HAND)).measure(copy_target, ["lpips"])
    assert set(values) == {"lpips_target"} and values["lpips_target"].better == "target"
    assert values["lpips_target"].details == {}


def test_bad_input_is_named():
    pairs = toy_pairs()
    with pytest.raises(ValueError, match="no perceptual estimator"):
        Evaluation(pairs, Estimators()).measure(copy_target, ["lpips"])
    images = {k: getattr(pairs, k)[:, :, :16, :16] for k in ("source", "target", "exact", "gallery")}
    with pytest.raises(ValueError, match="32 pixels or more, got 16"):
        Evaluation(changed(pairs, **images), Estimators(perceptual=HAND)).measure(copy_target, ["lpips"])
    for broken in (lambda a, b: absolute(a, b).mean(), lambda a, b: absolute(a, b)[:, None]):
        with pytest.raises(ValueError, match="'broken': expected 8 distances"):
            Evaluation(pairs, Estimators(perceptual=Estimator(broken, "broken", "00"))).measure(copy_target, ["lpips"])
    with pytest.raises(ValueError, match="finite"):
        nan = Estimator(lambda a, b: absolute(a, b) * torch.nan, "nan", "00")
        Evaluation(pairs, Estimators(perceptual=nan)).measure(copy_target, ["lpips"])
