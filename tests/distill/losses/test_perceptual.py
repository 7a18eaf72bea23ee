"""Perceptual networks load their weights from cards."""

import pytest
import torch
from conftest import SHARED, needs_shared

from distill.losses import perceptual
from eval.estimators import untrained_estimator
from swapcore import weights


@needs_shared
def test_squeezenet_sees_differences():
    distance = perceptual.build("squeezenet_compressed", None, [SHARED / "weights"], "cpu")
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    same, near, far = (
        distance(picture, image, gram=True) for picture in (image, image + 0.05 * torch.randn_like(image), -image)
    )
    for term in ("perceptual", "gram"):
        assert same[term].tolist() == [0, 0]
        assert (0 < near[term]).all() and (near[term] < far[term]).all()


def test_lpips_is_that_of_the_estimators(monkeypatch):
    pytest.importorskip("lpips", reason="needs the extra lpips")
    untrained = untrained_estimator("lpips_alex")
    monkeypatch.setattr(perceptual.weights, "find", lambda card, folders: card.file)
    monkeypatch.setattr(perceptual, "load_estimator", lambda card, path: untrained)
    distance = perceptual.build("lpips", None, [], "cpu")
    image = torch.rand(2, 3, 64, 64) * 2 - 1
    assert distance(image, image)["perceptual"].tolist() == [0, 0]
    assert torch.equal(distance(image, -image)["perceptual"], untrained(image, -image))


def test_unknown_and_missing_networks_say_what_to_do(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="unknown network 'vgg'; known: identity_encoder, squeezenet, "):
        perceptual.build("vgg", None, [], "cpu")
    monkeypatch.delenv("SWAPDISTILL_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        weights.WeightsError, match="squeezenet1_0_torchvision.pth is missing; get it from .* searched in "
    ):
        perceptual.build("squeezenet_compressed", None, [], "cpu")
