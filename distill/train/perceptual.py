"""Frozen networks for the perceptual loss. Without downloads: the identity encoder's own feature maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from distill.train import losses
from swapcore import weights
from swapcore.images import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True, kw_only=True)
class Card(weights.Card):
    """A backbone trained on ImageNet. `taps` index the layers of `features` whose outputs are compared."""

    taps: tuple[int, ...] = ()


TORCHVISION = "https://download.pytorch.org/models/"  # the names of its files hold the first digits of their sha256
CARDS = {
    "squeezenet": Card(
        name="squeezenet", file="squeezenet1_0-b66bff10.pth", sha256="b66bff10", taps=(1, 4, 7, 12),
        url=TORCHVISION + "squeezenet1_0-b66bff10.pth", source="torchvision squeezenet1_0 IMAGENET1K_V1",
        licence="BSD-3-Clause",
    ),
    "squeezenet_compressed": Card(
        name="squeezenet_compressed", file="squeezenet1_0_torchvision.pth", taps=(1, 4, 7, 12), url=None,
        sha256="575a40743ed85964da71be2c0b04dc085f8ec4aba8f6b440a70e63ea9fa5da69", licence="BSD-2-Clause-like",
        source="songhan/SqueezeNet-Deep-Compression @fb13faa, decoded into torchvision's layout",
    ),
    "vgg16": Card(
        name="vgg16", file="vgg16-397923af.pth", sha256="397923af", taps=(3, 8, 15, 22), licence="BSD-3-Clause",
        url=TORCHVISION + "vgg16-397923af.pth", source="torchvision vgg16 IMAGENET1K_V1",
    ),
    "lpips": Card(
        name="lpips", file="alexnet-owt-7be5be79.pth", sha256="7be5be79", licence="BSD-3-Clause, BSD-2-Clause",
        url=TORCHVISION + "alexnet-owt-7be5be79.pth",
        source="torchvision alexnet IMAGENET1K_V1; the linear heads come with the package lpips",
    ),
}  # fmt: skip


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

    def __call__(self, image: Tensor, reference: Tensor, gram: bool = False) -> dict[str, Tensor]:
        """`perceptual`, and `gram` if wanted: (N,) each. One pass of the network over either batch."""
        if self.features is None:
            return {"perceptual": self.distance(image, reference)}
        with torch.no_grad():
            wanted = self.features(reference)
        maps = self.features(image)
        terms = {"perceptual": losses.perceptual(maps, wanted)}
        return terms | ({"gram": losses.gram(maps, wanted)} if gram else {})

    def compiled(self) -> Perceptual:
        """The same, its network by torch.compile."""
        if self.features is None:
            return replace(self, distance=torch.compile(self.distance, dynamic=False))
        return replace(self, features=torch.compile(self.features, dynamic=False))


def backbone(name: str, path: Path | None = None) -> Backbone:
    """The frozen backbone of squeezenet, squeezenet_compressed or vgg16, with fresh weights where there is no path."""
    from torchvision import models  # only for these: it is slow to import

    model = (models.vgg16 if name == "vgg16" else models.squeezenet1_0)(weights=None)
    if path is not None:
        weights.load_strictly(model, weights.read_state(path), str(path))
    return Backbone(model.features, CARDS[name].taps).eval().requires_grad_(False)


def build(name: str, identity_encoder, folders, device) -> Perceptual:
    """Raises ValueError for an unknown name or wrong weights, WeightsError without them."""
    if name == "identity_encoder":
        return Perceptual(identity_encoder.features)
    if name not in CARDS:
        raise ValueError(f"loss.perceptual_network: unknown '{name}'; known: identity_encoder, {', '.join(CARDS)}")
    path = weights.find(CARDS[name], folders)
    if name == "lpips":
        network = lpips_with(weights.read_state(path)).to(device)
        return Perceptual(None, lambda image, reference: network(image, reference).flatten())
    return Perceptual(backbone(name, path).to(device))


def lpips_with(alexnet: dict[str, Tensor]) -> nn.Module:
    """LPIPS (Zhang et al. 2018, arXiv:1801.03924) with the given backbone: the package alone would download its own."""
    import lpips

    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = {name: alexnet["features." + name.split(".", 1)[1]] for name, _ in network.net.named_parameters()}
    network.net.load_state_dict(state)
    return network.eval().requires_grad_(False)
