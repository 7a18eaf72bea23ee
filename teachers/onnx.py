"""Any ONNX face swapper as a teacher, run by onnxruntime and described by a card (`teachers/onnx_cards.py`).

It needs `pip install -e ".[onnx]"`; with onnxruntime-gpu in place of onnxruntime it runs on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swapcore.frame import Crop
from swapcore.onnx import Session, Shape, files_by_name, last_initializer

from .onnx_cards import GraphCard, find_card
from .teacher import Teacher, network_hash

__all__ = ["OnnxTeacher"]

EMBEDDER_SIZE, EMBEDDING_DIM = 112, 512  # of ArcFace w600k R50


class OnnxTeacher(Teacher):
    """An ONNX face swapper.

    family: a card of CARDS. card: fields of a card, for a graph of another kind or in place of the family's.
    identity_encoder: canonical crops (N, 3, H, H) to embeddings (N, D), in place of weights.embedder. providers and
    threads: see swapcore.onnx.Session; CUDA runs on torch's current device.

    Raises ValueError before the first swap, naming the file, its inputs and outputs, the card's fields and the remedy.
    """

    name = "onnx"
    FILES = {
        "model": "the face swapper (.onnx)",
        "embedder": "optional: ArcFace w600k R50 (.onnx), for families that take an embedding",
        "converter": "optional: the embedding converter (.onnx) that goes with the family",
    }

    def __init__(
        self,
        weights: Mapping[str, str | Path] | None = None,
        family: str | None = None,
        card: Mapping[str, Any] | None = None,
        identity_encoder: Callable[[Tensor], Tensor] | None = None,
        providers: Sequence[str] | None = None,
        threads: int = 0,
    ) -> None:
        super().__init__(weights)
        self.identity_encoder = identity_encoder
        if identity_encoder is not None:
            self.facts["identity_encoder"] = network_hash(identity_encoder)
        try:
            if type(threads) is not int or threads < 0:
                raise ValueError(f"threads: expected a whole number from 0 on, got {threads!r}")
            self.card = find_card(family, card)
            self.facts["card"] = asdict(self.card)
            self._check_files(self.card)
            self.sessions = {key: Session(path, providers, threads) for key, path in self.weights.items()}
            self._fit(self.card)
        except ValueError as error:
            raise ValueError(f"teacher '{self.name}': {error}") from None

    def _check_files(self, card: GraphCard) -> None:
        """Raise ValueError if a file that the card needs is missing or a file is not used."""
        embeds, encoder = card.source == "embedding", self.identity_encoder
        for key, need in {"embedder": embeds and encoder is None, "converter": card.converter}.items():
            what = self.FILES[key].removeprefix("optional: ")
            if need and key not in self.weights:
                instead = ", or the option identity_encoder" if key == "embedder" else ""
                raise ValueError(f"the card '{card.family}' needs weights.{key}: the path of {what}{instead}")
            if not need and key in self.weights:
                why = "identity_encoder takes its place" if embeds and key == "embedder" else "it is not used"
                raise ValueError(f"the card '{card.family}' takes no weights.{key}: {why}; leave it out")
        if encoder is not None and not embeds:
            raise ValueError(f"the card '{card.family}' takes the source as an image; leave identity_encoder out")

    def _fit(self, card: GraphCard) -> None:
        """Check the sessions against the card, and prepare crops and normalisation of source and target."""
        if card.source == "image":
            template, size, mean, std = card.source_template, card.source_size, card.source_mean, card.source_std
            source: Shape = (3, size, size)
        else:
            # The input of ArcFace: (x - 127.5) / 127.5.
            template, size, mean, std = "arcface_112_v2", EMBEDDER_SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
            source = (None,)
            if "embedder" in self.sessions:
                source = self.sessions["embedder"].fit({"": (3, size, size)}, (EMBEDDING_DIM,))
            if card.converter:
                source = self.sessions["converter"].fit({"": source}, (None,))
        matrix = last_initializer(self.weights["model"], EMBEDDING_DIM) if card.embedding == "matrix" else None
        side = (3, card.size, card.size)
        self.sessions["model"].fit({card.target_input: side, card.source_input: source}, side)
        self.crop, self.source_crop = Crop(card.template, card.size), Crop(template, size)
        self.register_buffer("matrix", matrix, persistent=False)
        for key, values in {"mean": card.mean, "std": card.std, "source_mean": mean, "source_std": std}.items():
            self.register_buffer(key, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Empty: otherwise the identity encoder would be counted as the whole teacher."""
        return {}

    @property
    def read_from(self) -> dict[str, Path]:
        """Its files, and those in which they keep tensors (external data of ONNX)."""
        return {name: file for key, path in self.weights.items() for name, file in files_by_name(path, key).items()}

    @torch.no_grad()
    def identity(self, source: Tensor, rows: list[dict] | None = None) -> tuple[Tensor, ...]:
        """The graph's source input of sources (N, 3, H, H): embeddings (N, D) or images (N, 3, h, h), float32.

        Raises ValueError if the embeddings of an identity encoder do not match the card's matrix.
        """
        if self.identity_encoder is None:
            pixels = ((self.source_crop.take(source.float()) + 1) / 2 - self.source_mean) / self.source_std
            if self.card.source == "image":
                return (pixels,)
            embedding = self.sessions["embedder"](pixels)
        else:
            embedding = self.identity_encoder(source).float()
        if self.card.converter:
            embedding = self.sessions["converter"](embedding)
        if self.card.embedding == "l2":
            embedding = F.normalize(embedding)
        if self.matrix is not None:
            if embedding.shape[1:] != self.matrix.shape[:1]:
                raise ValueError(
                    f"teacher '{self.name}': {self.weights['model']}: its matrix takes embeddings of "
                    f"{len(self.matrix)} numbers, got {tuple(embedding.shape)}"
                )
            embedding = F.normalize(embedding) @ self.matrix
        return (embedding,)

    @torch.no_grad()
    def swap(self, identity: tuple[Tensor, ...], target: Tensor, rows: list[dict] | None = None) -> Tensor:
        """Swaps (N, 3, H, H) of those identities onto targets (N, 3, H, H), equal to the target outside the crop.

        Raises ValueError if the embeddings of an identity encoder do not match the graph's input.
        """
        pixels = ((self.crop.take(target.float()) + 1) / 2 - self.mean) / self.std
        swap = self.sessions["model"](pixels, *identity)
        if self.card.output == "denormalise":
            swap = swap * self.std + self.mean
        return self.crop.paste(swap.clamp(0, 1) * 2 - 1, target.float()).to(target.dtype)
