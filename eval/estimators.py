"""Rulers: networks that judge, each loaded from the files of its card. Loading is the only way to one of ours."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .cards import CARDS, Card
from .image_networks import Inception, Lpips, eight_bit, imagenet_frame, over_positions
from .networks import (
    POSE_UNIT_DEG,
    FaceParameters,
    FaceRegressor,
    FSANet,
    euler_angles_deg,
    face_parameters_crop,
    fsanet_crop,
    inner_square,
)

__all__ = ["CARDS", "POSE_UNIT_DEG", "Card", "Ruler", "Rulers", "build_network", "load_ruler", "preparation"]


# What networks give that judge whole pictures, are trained elsewhere and have but one set of weights.
_OF_PICTURES = (("perceptual",), ("features",))


@dataclass(frozen=True, eq=False)
class Ruler:
    """Reads images (N, 3, S, S) in [-1, 1]: to unit embeddings (N, D), to yaw, pitch and roll in degrees (N, 3), or to
    expression coefficients (N, E); or two batches of them to their perceptual distances (N,).

    network: the callable that does it. weight_hash: first digits of the sha256 of the weights it was loaded from. crop
    and colour_order: what it makes of its images; where not given, those of the network's own card. coefficients: what
    an expression's are, and their scaling. flip: whether mirror images are read too. Raises ValueError without a name
    or weight hash and on a network in training mode.
    """

    network: Callable[..., Tensor]
    name: str
    weight_hash: str
    crop: str = ""
    colour_order: str = ""
    note: str = ""
    coefficients: str = ""
    flip: str = "none"

    def __post_init__(self) -> None:
        if not self.name or not self.weight_hash:
            raise ValueError("a ruler needs a name and the hash of the weights it was loaded from")
        if isinstance(self.network, nn.Module) and self.network.training:
            raise ValueError(f"ruler '{self.name}' is in training mode, where images judge each other; call .eval()")
        card = getattr(self.network, "card", None)
        object.__setattr__(self, "crop", self.crop or getattr(card, "crop", "whole frame"))
        object.__setattr__(self, "colour_order", self.colour_order or getattr(card, "colour_order", "rgb"))

    def __call__(self, *images: Tensor) -> Tensor:
        return self.network(*images)

    def to(self, device: Any) -> Ruler:
        """Move the network, where it is a module, to a device; the ruler itself is returned."""
        if isinstance(self.network, nn.Module):
            self.network.to(device)
        return self

    def as_dict(self) -> dict[str, str]:
        """What a value measured with it depends on."""
        return {key: value for key, value in vars(self).items() if key not in ("network", "flip") and value}


@dataclass(frozen=True, eq=False)
class Rulers:
    """The rulers of an evaluation; a metric whose ruler is None cannot be asked for."""

    recogniser: Ruler | None = None
    pose: Ruler | None = None
    expression: Ruler | None = None
    perceptual: Ruler | None = None
    features: Ruler | None = None

    def need(self, role: str) -> Ruler:
        """The ruler of a role: recogniser, pose, expression, perceptual or features. Raises ValueError without it."""
        ruler = getattr(self, role)
        if ruler is None:
            raise ValueError(f"this needs a {role} ruler: give one as Rulers({role}=...), or leave its metric out")
        return ruler

    def to(self, device: Any) -> Rulers:
        for ruler in vars(self).values():
            if ruler is not None:
                ruler.to(device)
        return self


def mirrored(ruler: Ruler) -> Ruler:
    """A recogniser that reads the image and its mirror image, (N, 2D), as SphereFace and CosFace are evaluated."""
    return replace(ruler, network=_Mirrored(ruler.network).eval(), flip="image and mirror image, concatenated")


class _Mirrored(nn.Module):
    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(torch.cat([self.network(images), self.network(images.flip(-1))], 1))


class _Reader(nn.Module):
    """Preparation, network and what is made of its outputs, one after the other."""

    def __init__(self, prepare: Callable, network: Callable, finish: Callable) -> None:
        super().__init__()
        self.prepare, self.network, self.finish = prepare, network, finish

    def forward(self, images: Tensor) -> Tensor:
        return self.finish(self.network(self.prepare(images)))


def build_network(card: Card) -> FaceRegressor:
    """The network of one of our own cards with fresh weights, to be trained. Raises ValueError on another card."""
    if not card.options:
        raise ValueError(f"'{card.name}' is not trained here; its weights come from {card.source}")
    return FaceRegressor(**card.options)


def preparation(card: Card) -> Callable[[Tensor], Tensor]:
    """Canonical crops (N, 3, S, S) in [-1, 1] to what the network of one of our own cards takes."""
    return partial(inner_square, size=card.options.get("input_size", 64))


def load_ruler(name: str | Card, paths: str | Path | Sequence[str | Path], output: str | None = None) -> Ruler:
    """The ruler of a card, by its name in CARDS or as it is, read from the files of `card.files` (or one path alone).

    output: one of the card's; its first where not given. The caller has checked each sha256; those of LPIPS, Inception
    v3 and the like are checked again, since a value of theirs means nothing with other weights. Raises ValueError on an
    unknown name or output, on missing paths, and on a file that does not fit, naming it and the key.
    """
    if isinstance(name, str) and name not in CARDS:
        raise ValueError(f"unknown ruler '{name}', known: {', '.join(CARDS)}")
    card = CARDS[name] if isinstance(name, str) else name
    name = card.name
    output = output or card.outputs[0]
    if output not in card.outputs:
        raise ValueError(f"ruler '{name}' gives {' and '.join(card.outputs)}, not '{output}'")
    paths = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if len(paths) != len(card.files):
        wanted = ", ".join(one.file for one in card.files)
        raise ValueError(f"ruler '{name}' is made of {wanted}: expected {len(card.files)} paths, got {len(paths)}")
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: no such file, wanted for ruler '{name}'. {card.note}".strip())
        if card.outputs in _OF_PICTURES and not _sha256([path]).startswith(card.sha256 or "none published"):
            raise ValueError(
                f"{path}: sha256 is {_sha256([path])}, but that of '{name}' begins with {card.sha256}: damaged, or "
                f"another file, whose values would not be what their name says; get it from {card.url or card.source}"
            )
    reader = _reader(card, paths, output).eval().requires_grad_(False)
    digest = _sha256([*paths, reader.heads_file] if isinstance(reader, Lpips) else paths)[:16]
    coefficients = card.coefficients if output == "expression" else ""
    return Ruler(reader, name, digest, card.crop, card.colour_order, card.note, coefficients)


def _sha256(paths: Sequence[Path]) -> str:
    """Of the files one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _unit(outputs: Tensor) -> Tensor:
    return F.normalize(outputs)


def _regressed_angles(outputs: Tensor) -> Tensor:
    return outputs[:, :3] * POSE_UNIT_DEG


def _after_angles(outputs: Tensor) -> Tensor:
    return outputs[:, 3:]


def _signs_of_3ddfa(angles: Tensor) -> Tensor:
    return angles * angles.new_tensor([1.0, -1.0, -1.0])


def _last_ten(outputs: Tensor) -> Tensor:
    return outputs[:, 52:]


def _reader(card: Card, paths: list[Path], output: str) -> nn.Module:
    if card.outputs in _OF_PICTURES:
        return _picture_reader(card, paths[0])
    if card.name == "fsanet":
        return _Reader(fsanet_crop, FSANet(paths), _signs_of_3ddfa)
    if card.name == "3ddfa_v2_mb05":
        network: nn.Module = FaceParameters(*_mean_and_std(paths[1]))
        state = {key.removeprefix("module."): tensor for key, tensor in _read(paths[0]).items()}
        prepare, finish = face_parameters_crop, {"pose": euler_angles_deg, "expression": _last_ten}
    else:
        network, state, prepare = build_network(card), _read(paths[0]), preparation(card)
        finish = {"embedding": _unit, "pose": _regressed_angles, "expression": _after_angles}
    _load_strictly(network, state, card.name, paths[0])
    if output == "features":
        return _Reader(prepare, network.features, over_positions)
    return _Reader(prepare, network, finish[output])


def _picture_reader(card: Card, path: Path) -> nn.Module:
    state = _read(path)
    if card.outputs == ("perceptual",):
        network = Lpips(card.name.removeprefix("lpips_"))
        for part, weights in network.pieces(state, _read(network.heads_file)):
            _load_strictly(part, weights, card.name, path)
        return network
    if card.name == "inception_fid":
        try:
            return _Reader(eight_bit, Inception(state), nn.Identity())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    from torchvision.models import squeezenet1_0  # only for this one: it is slow to import

    network = squeezenet1_0()
    _load_strictly(network, state, card.name, path)
    return _Reader(imagenet_frame, network.features, over_positions)


def _load_strictly(network: nn.Module, state: Mapping[str, Tensor], name: str, path: Path) -> None:
    expected = network.state_dict()
    for key in [*expected, *state]:
        if key not in state or key not in expected or state[key].shape != expected[key].shape:
            wanted = f"shape {tuple(expected[key].shape)}" if key in expected else "no such tensor"
            found = f"shape {tuple(state[key].shape)}" if key in state else "none"
            raise ValueError(f"{path}: not the weights of '{name}': {key}: expected {wanted}, found {found}")
        if not torch.isfinite(state[key]).all():
            raise ValueError(f"{path}: damaged weights of '{name}': {key}: NaN or infinite values")
    network.load_state_dict(state, strict=True)


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path}: not a readable weight file ({error})") from error
    state = checkpoint.get("state_dict", checkpoint) if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path}: expected a state dict (names to tensors), found something else")
    return state


def _mean_and_std(path: Path) -> tuple[Tensor, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, std = (torch.from_numpy(arrays[key]).float() for key in ("mean", "std"))
    except (KeyError, ValueError, TypeError, AttributeError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected arrays mean and std of 62 numbers ({error})") from error
    for key, array in (("mean", mean), ("std", std)):
        if tuple(array.shape) != (62,):
            raise ValueError(f"{path}: {key}: expected 62 numbers, found {tuple(array.shape)}")
    return mean, std
