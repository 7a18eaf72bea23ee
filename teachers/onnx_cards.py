"""How public ONNX face swappers are run: one card per family.

The facts are those of facefusion/facefusion (its model table, pre- and post-processing; read 2026-08). The files have
their own authors and licences. All families except those that take an image take embeddings of ArcFace w600k R50,
each normalised or converted in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from swapcore.frame import TEMPLATES
from swapcore.images import IMAGENET_MEAN, IMAGENET_STD

_TRIPLES = ("mean", "std", "source_mean", "source_std")
_CHOICES = {
    "template": tuple(TEMPLATES),
    "source_template": tuple(TEMPLATES),
    "source": ("embedding", "image"),
    "embedding": ("raw", "l2", "matrix"),
    "output": ("zero_one", "denormalise"),
}


@dataclass(frozen=True)
class GraphCard:
    """Inputs and output of a graph. The defaults are those of a student exported here.

    size, template, mean, std: the target is the crop of `template` at `size` pixels, RGB, as (x - mean) / std of x in
    [0, 1].
    source: "embedding" or "image". The source_ fields describe the crop of an image; source_size None is `size`.
    embedding: "raw" is unchanged, "l2" at unit length, "matrix" as embedding @ M / |embedding|, where M, 512 x 512,
    is the last initializer of the graph. converter: whether the embedding first passes a converter network.
    output: range of the first output, the swapped crop; "zero_one" is in [0, 1], "denormalise" becomes y * std + mean.
    target_input, source_input: names of the graph's inputs.

    Raises ValueError naming the field.
    """

    family: str
    size: int
    template: str = "canonical"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    source: str = "embedding"
    embedding: str = "raw"
    converter: bool = False
    source_template: str = "canonical"
    source_size: int | None = None
    source_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    source_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    output: str = "denormalise"
    target_input: str = "target"
    source_input: str = "source"

    def __post_init__(self) -> None:
        if self.source_size is None:
            object.__setattr__(self, "source_size", self.size)
        for key in ("size", "source_size"):
            size = getattr(self, key)
            if type(size) is not int or size < 1:
                self._refuse(key, "a whole number of pixels from 1 on")
        for key in _TRIPLES:
            object.__setattr__(self, key, self._triple(key))
        for key, known in _CHOICES.items():
            if getattr(self, key) not in known:
                self._refuse(key, f"one of {', '.join(known)}")
        for key in ("family", "target_input", "source_input"):
            if not isinstance(getattr(self, key), str) or not getattr(self, key):
                self._refuse(key, "a name")
        if self.target_input == self.source_input:
            self._refuse("source_input", f"another name than target_input '{self.target_input}'")
        if type(self.converter) is not bool:
            self._refuse("converter", "true or false")
        if self.source == "image" and (self.converter or self.embedding != "raw"):
            key = "converter" if self.converter else "embedding"
            self._refuse(key, "none, as source is 'image'")

    def _triple(self, key: str) -> tuple[float, float, float]:
        """The field as three numbers, for R, G and B; a single number holds for all three."""
        value = getattr(self, key)
        numbers = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
        plain = len(numbers) == 3 and all(type(n) in (int, float) for n in numbers)
        if not plain or (key.endswith("std") and min(numbers) <= 0):
            self._refuse(key, "a number or three" + (", above 0" if key.endswith("std") else ""))
        return tuple(map(float, numbers))

    def _refuse(self, key: str, expected: str) -> None:
        raise ValueError(f"card '{self.family}': {key}: expected {expected}, got {getattr(self, key)!r}")


_ZERO_ONE = {"mean": 0.0, "std": 1.0, "output": "zero_one"}
_IMAGE = {"source": "image", "source_mean": 0.0, "source_std": 1.0}

CARDS = {
    card.family: card
    for card in (
        GraphCard("inswapper_128", 128, "arcface_128", embedding="matrix", **_ZERO_ONE),
        GraphCard("hyperswap_256", 256, "arcface_128", embedding="l2"),
        GraphCard("ghost_256", 256, "arcface_112_v1", converter=True),
        GraphCard("hififace_256", 256, "mtcnn_512", embedding="l2", converter=True),
        GraphCard(
            "simswap_256", 256, "arcface_112_v1", IMAGENET_MEAN, IMAGENET_STD, embedding="l2", converter=True,
            output="zero_one",
        ),
        GraphCard("simswap_512", 512, "arcface_112_v1", embedding="l2", converter=True, **_ZERO_ONE),
        GraphCard(
            "blendswap_256", 256, "ffhq_512", source_template="arcface_112_v2", source_size=112, **_IMAGE, **_ZERO_ONE
        ),
        GraphCard("uniface_256", 256, "ffhq_512", source_template="ffhq_512", source_size=256, **_IMAGE),
    )
}  # fmt: skip


def find_card(family: str | None = None, card: Mapping[str, Any] | None = None) -> GraphCard:
    """The card of a family, with the fields of `card` in place of its own; without a family, a card of `card` alone.

    Raises ValueError if neither is given, and for an unknown family or field and a wrong value.
    """
    own = dict(card or {})
    known = [field.name for field in fields(GraphCard)]
    for key in own:
        if key not in known:
            raise ValueError(f"card: unknown field '{key}'; known: {', '.join(known)}")
    if family is not None:
        if family not in CARDS:
            raise ValueError(
                f"unknown family '{family}'; known: {', '.join(CARDS)}; another graph is described by `card`"
            )
        return replace(CARDS[family], **own)
    if "size" not in own:
        raise ValueError(f"expected a family ({', '.join(CARDS)}) or a card with at least its size in pixels")
    return GraphCard(**{"family": "custom", **own})
