"""Frozen networks for the perceptual loss. The identity encoder needs no download: its own feature maps are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from distill.config import ConfigError
from distill.losses import terms as losses
from eval.cards import CARDS
from eval.estimators import load_estimator
from swapcore import weights
from swapcore.images import IMAGENET_MEAN, IMAGENET_STD

# loss.perceptual_network -> the card of its weights, and the layers of `features` whose outputs are compared.
BACKBONES = {
    "squeezenet": (CARDS["squeezenet1_0"], (1, 4, 7, 12)),
    "squeezenet_compressed": (CARDS["squeezenet1_0_compressed"], (1, 4, 7, 12)),
    "vgg16": (CARDS["lpips_vgg"], (3, 8, 15, 22)),
}
LPIPS = CARDS["lpips_alex"]


class Backbone(nn.Module):
    """Images (N, 3, H, W) in [-1, 1] -> feature maps at the taps."""

    def __init__(self, features: nn.Sequential, taps: tuple[int, ...]):
        super().__init__()
        self.features, self.taps = features[: taps[-1] + 1], taps
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = ((images + 1) / 2 - self.mean) / self.std, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                maps.append(x)
        return maps


@dataclass(frozen=True)
class Perceptual:
    """Distances of images to references in a frozen network: of its feature maps, or by its own `distance` (LPIPS)."""

    features: Callable[[Tensor], list[Tensor]] | None
    distance: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(
        self, image: Tensor, reference: Tensor, gram: bool = False, maps: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """`perceptual`, and with `gram` also `gram`: (N,) each. One pass of the network over each batch, unless the
        caller has the feature `maps` of `image` already."""
        if self.features is None:
            return {"perceptual": self.distance(image, reference)}
        with torch.no_grad():
            expected = self.features(reference)
        maps = self.features(image) if maps is None else maps
        terms = {"perceptual": losses.perceptual(maps, expected)}
        return terms | ({"gram": losses.gram(maps, expected)} if gram else {})

    def compiled(self) -> Perceptual:
        """A copy, its network compiled by torch.compile."""
        if self.features is None:
            return replace(self, distance=torch.compile(self.distance, dynamic=False))
        return replace(self, features=torch.compile(self.features, dynamic=False))


def backbone(name: str, path: Path | None = None) -> Backbone:
    """A frozen network of BACKBONES, with fresh weights where there is no path."""
    from torchvision import models  # imported here because it is slow

    network = (models.vgg16 if name == "vgg16" else models.squeezenet1_0)(weights=None)
    if path is not None:
        weights.load_strictly(network, weights.read_state(path), str(path))
    return Backbone(network.features, BACKBONES[name][1]).eval().requires_grad_(False)


def build(name: str, identity_encoder, folders, device) -> Perceptual:
    """The network `name` on `device`. Raises ConfigError for an unknown name, ValueError for wrong weights,
    WeightsError without."""
    card = card_of(name)
    if card is None:
        return Perceptual(identity_encoder.features)
    path = weights.find(card, folders)
    if card == LPIPS:  # Zhang et al. 2018, arXiv:1801.03924
        return Perceptual(None, load_estimator(LPIPS, path).network.to(device))
    return Perceptual(backbone(name, path).to(device))


def card_of(name: str, key: str = "loss.perceptual_network") -> weights.Card | None:
    """The weights of a network; those of the identity encoder are the experiment's. Raises ConfigError for an unknown
    name, which it lists with the known ones."""
    cards = {"identity_encoder": None, **{known: card for known, (card, _) in BACKBONES.items()}, "lpips": LPIPS}
    if name not in cards:
        raise ConfigError(f"{key}: unknown network '{name}'; known: {', '.join(cards)}")
    return cards[name]
