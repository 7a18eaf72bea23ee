"""What the losses of an experiment need, checked before its first stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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
        raise ConfigError(f"{key}.attribute: only faceshifter and mobilefsgan have attribute maps; set it to 0")
    card = perceptual.card_of(loss.perceptual_network, f"{key}.perceptual_network")
    if reads_maps and card == perceptual.LPIPS:
        raise ConfigError(f"distil.gram: {key}.perceptual_network=lpips has no maps; take another, or set gram to 0")
    return [card] if card and (loss.perceptual or reads_maps) else []


def trains_no_metric(trainers: Iterable[Card], evaluate: Mapping[str, Iterable[Card]]) -> None:
    """Raise ConfigError if one of the cards that losses read is also one by which a key of `eval` evaluates."""
    trained = {card.name.removesuffix("_compressed") for card in trainers}
    for key, cards in evaluate.items():
        for card in cards:
            if card.name.removesuffix("_compressed") in trained:
                raise ConfigError(
                    f"{key}: '{card.name}' is also the network of loss.perceptual_network; a network must not evaluate "
                    f"what it trained: choose another for one of them"
                )
