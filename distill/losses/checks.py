"""What the losses of an experiment need, checked before its first stage."""

from __future__ import annotations

from torch import nn

from distill.config import ConfigError
from distill.losses import discriminator, perceptual
from distill.schema import Loss
from swapcore.weights import Card


def cards(loss: Loss, key: str, net: nn.Module, reads_maps: bool = False) -> list[Card]:
    """The cards of the networks that the losses of section `key` read. Raises ConfigError where one has no meaning.

    net: the network in training. reads_maps: another section reads the maps of loss.perceptual_network as well.
    """
    if any(loss.adversarial):
        try:
            discriminator.check(loss.discriminator)
        except ValueError as error:
            raise ConfigError(f"{key}.discriminator: {error}") from None
    if loss.attribute and not hasattr(net, "attribute_maps"):
        raise ConfigError(f"{key}.attribute: only student.name=faceshifter has attribute maps; set it to 0")
    card = perceptual.card_of(loss.perceptual_network, f"{key}.perceptual_network")
    return [card] if card and (loss.perceptual or reads_maps) else []
