"""What there is to know about an ONNX face swapper before it can be run: one card a family.

The facts are those of the model table and the pre- and post-processing of facefusion/facefusion (read 2026-08); the
files are other people's, under licences of their own. The embeddings are ArcFace w600k R50's, which every family but
the image-fed ones takes in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from swapcore.frame import TEMPLATES

SOURCES = ("embedding", "image")
EMBEDDINGS = ("raw", "l2", "matrix")
OUTPUTS = ("zero_one", "denormalise")
_TRIPLES = ("mean", "std", "source_mean", "source_std")
_CHOICES = {
    "template": tuple(TEMPLATES),
    "source_template": tuple(TEMPLATES),
    "source": SOURCES,
    "embedding": EMBEDDINGS,
    "output": OUTPUTS,
}


@dataclass(frozen=True)
class Card:
    """How a graph wants its inputs. The defaults are those of a student exported from here.

    The target is shown as the crop of `template` at `size` pixels, RGB, x in [0, 1] as (x - mean) / std. The source is
    an embedding or an image. An embedding goes through the converter network where `converter` says so, and then in as
    it is ("raw"), at unit length ("l2"), or as embedding @ M / |embedding| with M, 512 x 512, the last initializer of
    the graph ("matrix"). An image is cropped by the source_ fields; source_size None is `size`. The first output is
    the swapped crop, in [0, 1] ("zero_one") or in units of mean and std ("denormalise": y * std + mean). target_input
    and source_input are the names of the graph's inputs. Raises ValueError naming the field.
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
        """One number for all channels, or one for each of R, G, B."""
        given = getattr(self, key)
        numbers = tuple(given) if isinstance(given, list | tuple) else (given,) * 3
        plain = len(numbers) == 3 and all(type(n) in (int, float) for n in numbers)
        if not plain or (key.endswith("std") and min(numbers) <= 0):
            self._refuse(key, "a number or three" + (", above 0" if key.endswith("std") else ""))
        return tuple(map(float, numbers))

    def _refuse(self, key: str, expected: str) -> None:
        raise ValueError(f"card '{self.family}': {key}: expected {expected}, got {getattr(self, key)!r}")


_HALF = {"mean": 0.5, "std": 0.5, "output": "denormalise"}
_PLAIN = {"mean": 0.0, "std": 1.0, "output": "zero_one"}
_IMAGE = {"source": "image", "source_mean": 0.0, "source_std": 1.0}

CARDS = {
    card.family: card
    for card in (
        Card("inswapper_128", 128, "arcface_128", embedding="matrix", **_PLAIN),
        Card("hyperswap_256", 256, "arcface_128", embedding="l2", **_HALF),
        Card("ghost_256", 256, "arcface_112_v1", embedding="raw", converter=True, **_HALF),
        Card("hififace_256", 256, "mtcnn_512", embedding="l2", converter=True, **_HALF),
        Card(
            "simswap_256", 256, "arcface_112_v1", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), embedding="l2",
            converter=True, output="zero_one",
        ),
        Card("simswap_512", 512, "arcface_112_v1", embedding="l2", converter=True, **_PLAIN),
        Card("blendswap_256", 256, "ffhq_512", source_template="arcface_112_v2", source_size=112, **_IMAGE, **_PLAIN),
        Card("uniface_256", 256, "ffhq_512", source_template="ffhq_512", source_size=256, **_IMAGE, **_HALF),
    )
}  # fmt: skip


def find_card(family: str | None = None, card: Mapping[str, Any] | None = None) -> Card:
    """The card of a family, of `card` alone, or of a family with the fields of `card` in place of its own.

    Raises ValueError: neither is given, an unknown family or field, a value that does not fit.
    """
    own = dict(card or {})
    known = [field.name for field in fields(Card)]
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
    return Card(**{"family": "custom", **own})
