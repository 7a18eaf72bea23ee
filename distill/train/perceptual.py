"""Frozen networks for the perceptual term. Without downloads: the identity encoder's own feature maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from distill.train import losses
from swapcore import weights


@dataclass(frozen=True)
class Card:
    """A backbone trained on ImageNet; input RGB, ImageNet mean and deviation."""

    name: str
    file: str
    sha256: str  # torchvision publishes the first eight digits, in the file's name
    url: str | None
    source: str
    licence: str
    taps: tuple[int, ...] = ()  # indices into `features` whose outputs are compared
    note: str = ""


CARDS = {
    "squeezenet": Card(
        "squeezenet", "squeezenet1_0-b66bff10.pth", "b66bff10",
        "https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth",
        "torchvision squeezenet1_0 IMAGENET1K_V1", "BSD-3-Clause", taps=(1, 4, 7, 12),
    ),
    "squeezenet_compressed": Card(
        "squeezenet_compressed", "squeezenet1_0_torchvision.pth",
        "575a40743ed85964da71be2c0b04dc085f8ec4aba8f6b440a70e63ea9fa5da69", None,
        "songhan/SqueezeNet-Deep-Compression @fb13faa, decoded into torchvision's layout", "BSD-2-Clause-like",
        taps=(1, 4, 7, 12),
    ),
    "vgg16": Card(
        "vgg16", "vgg16-397923af.pth", "397923af", "https://download.pytorch.org/models/vgg16-397923af.pth",
        "torchvision vgg16 IMAGENET1K_V1", "BSD-3-Clause", taps=(3, 8, 15, 22),
    ),
    "lpips": Card(
        "lpips", "alexnet-owt-7be5be79.pth", "7be5be79",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "torchvision alexnet IMAGENET1K_V1; the linear heads come with the package lpips", "BSD-3-Clause, BSD-2-Clause",
    ),
}  # fmt: skip


class Backbone(nn.Module):
    """Images in [-1, 1] -> feature maps at the taps."""

    def __init__(self, features: nn.Sequential, taps: tuple[int, ...]):
        super().__init__()
        self.features, self.taps = features[: taps[-1] + 1], taps
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = ((images + 1) / 2 - self.mean) / self.deviation, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                maps.append(x)
        return maps


@dataclass(frozen=True)
class Perceptual:
    """How far images are from references to a frozen network. `distance` is used where its maps are not to be had."""

    features: Callable[[Tensor], list[Tensor]] | None
    distance: Callable[[Tensor, Tensor], Tensor] | None = None

    def __call__(self, image: Tensor, reference: Tensor, gram: bool = False) -> dict[str, Tensor]:
        """`perceptual`, and `gram` if asked for: (N,) each. One pass of the network over either batch."""
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


def build(name: str, identity_encoder, folders, device) -> Perceptual:
    """Raises ValueError for an unknown name, WeightsError without its weights."""
    if name == "identity_encoder":
        return Perceptual(identity_encoder.features)
    if name not in CARDS:
        raise ValueError(f"loss.perceptual_network: unknown '{name}'; known: identity_encoder, {', '.join(CARDS)}")
    card = CARDS[name]
    state = torch.load(weights.find(card, folders), map_location="cpu", weights_only=True)
    if name == "lpips":
        network = lpips_with(state).to(device)
        return Perceptual(None, lambda image, reference: network(image, reference).flatten())
    from torchvision import models  # only for these: it is slow to import

    model = models.vgg16(weights=None) if name == "vgg16" else models.squeezenet1_0(weights=None)
    model.load_state_dict(state)
    return Perceptual(Backbone(model.features, card.taps).eval().requires_grad_(False).to(device))


def lpips_with(alexnet: dict[str, Tensor]) -> nn.Module:
    """LPIPS (Zhang et al. 2018, arXiv:1801.03924) whose backbone gets the given weights: the package would download."""
    import lpips

    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    backbone = {name: alexnet["features." + name.split(".", 1)[1]] for name, _ in network.net.named_parameters()}
    network.net.load_state_dict(backbone)
    return network.eval().requires_grad_(False)
