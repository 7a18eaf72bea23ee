"""eval.lpips_distance: the package's own class with the same weights is repeated, and other weights are refused."""

import hashlib
import warnings
from dataclasses import replace

import lpips
import pytest
import torch
import torchvision
from conftest import SHARED, needs_shared
from helpers.toy_pairs import PEOPLE, changed, rendered, toy_pairs

from eval import Ruler, Rulers, evaluate
from eval.rulers import CARDS, load_ruler
from eval.sanity import copy_target

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
    ruler = load_ruler(card, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)  # with its own heads
    for name, tensor in package.net.named_parameters():
        tensor.data = state["features." + name.split(".", 1)[1]]
    with torch.inference_mode():
        found, wanted = ruler(images(0), images(1)), package(images(0), images(1)).flatten()
        assert found.shape == (3,) and found.min() > 1e-3
        assert torch.equal(found, wanted)
        assert torch.equal(ruler(images(0), images(0)), torch.zeros(3))
        assert torch.allclose(ruler(images(1), images(0)), found)


def test_the_hash_is_of_backbone_and_heads(tmp_path):
    _, path, card = saved("alex", tmp_path)
    ruler = load_ruler(card, path)
    files = path.read_bytes() + ruler.network.heads_file.read_bytes()
    assert ruler.weight_hash == hashlib.sha256(files).hexdigest()[:16]
    assert ruler.as_dict()["name"] == "lpips_alex" and ruler.as_dict()["crop"] == "whole frame"
    assert not any(p.requires_grad for p in ruler.network.parameters()) and not ruler.network.training


def test_other_weights_are_refused(tmp_path):
    _, path, card = saved("alex", tmp_path)
    with pytest.raises(ValueError, match="alexnet-owt.*begins with 7be5be79.*download.pytorch.org"):
        load_ruler("lpips_alex", path)
    with pytest.raises(ValueError, match="begins with None"):
        load_ruler(replace(card, sha256=None), path)
    with pytest.raises(ValueError, match="gives perceptual, not 'features'"):
        load_ruler(card, path, "features")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("features.6.bias"), r"slice3\.6\.bias: expected .* found none"),
        (lambda s: s.update({"features.11.weight": torch.zeros(2)}), r"features\.11\.weight: expected no such tensor"),
        (lambda s: s.update({"features.0.bias": torch.zeros(63)}), r"slice1\.0\.bias: expected shape \(64,\)"),
        (lambda s: s["features.0.bias"].fill_(torch.nan), r"slice1\.0\.bias: NaN"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, change, says):
    _, path, card = saved("alex", tmp_path, change)
    with pytest.raises(ValueError, match=f"alexnet-owt-7be5be79.pth: .*'lpips_alex': {says}"):
        load_ruler(card, path)


@needs_shared
def test_squeezenet_1_0_is_not_1_1(tmp_path):
    path = SHARED / "weights" / "squeezenet1_0_torchvision.pth"
    with pytest.raises(ValueError, match="begins with b8a52dc0"):
        load_ruler("lpips_squeeze", path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="not the weights of 'lpips_squeeze'"):
        load_ruler(replace(CARDS["lpips_squeeze"], sha256=digest), path)


def absolute(a, b):
    """A distance that is known by hand."""
    return (a - b).abs().mean((1, 2, 3))


HAND = Ruler(absolute, name="by hand", weight_hash="none: exact")


def test_values_are_means_over_pairs():
    pairs = toy_pairs()
    values = evaluate(copy_target, pairs, ["lpips", "exact_match"], Rulers(perceptual=HAND)).values
    assert values["lpips_target"].value == 0 and values["lpips_target"].better == "target"
    assert values["lpips_exact"].value == pytest.approx(values["l1"].value)
    assert values["lpips_exact"].interval[0] < values["lpips_exact"].value < values["lpips_exact"].interval[1]
    assert values["lpips_target"].details["exact_swap_to_target"] == pytest.approx(values["l1"].value)
    assert values["lpips_exact"].n == PEOPLE and values["lpips_exact"].better == "lower"
    assert values["lpips_exact"].protocol["perceptual"]["name"] == "by hand"
    assert values["lpips_exact"].protocol["against"] != values["lpips_target"].protocol["against"]
    assert evaluate(rendered(pairs.exact), pairs, ["lpips"], Rulers(perceptual=HAND)).values["lpips_exact"].value == 0


def test_without_an_exact_swap_no_value_is_best():
    values = evaluate(copy_target, changed(toy_pairs(), exact=None), ["lpips"], Rulers(perceptual=HAND)).values
    assert set(values) == {"lpips_target"} and values["lpips_target"].better is None
    assert values["lpips_target"].details == {}


def test_bad_input_is_named():
    pairs = toy_pairs()
    with pytest.raises(ValueError, match="needs a perceptual ruler"):
        evaluate(copy_target, pairs, ["lpips"], Rulers())
    images = {k: getattr(pairs, k)[:, :, :16, :16] for k in ("source", "target", "exact", "gallery")}
    with pytest.raises(ValueError, match="32 pixels or more, got 16"):
        evaluate(copy_target, changed(pairs, **images), ["lpips"], Rulers(perceptual=HAND))
    for broken in (lambda a, b: absolute(a, b).mean(), lambda a, b: absolute(a, b)[:, None]):
        with pytest.raises(ValueError, match="'broken': expected 8 distances"):
            evaluate(copy_target, pairs, ["lpips"], Rulers(perceptual=Ruler(broken, "broken", "00")))
    with pytest.raises(ValueError, match="finite"):
        nan = Ruler(lambda a, b: absolute(a, b) * torch.nan, "nan", "00")
        evaluate(copy_target, pairs, ["lpips"], Rulers(perceptual=nan))
