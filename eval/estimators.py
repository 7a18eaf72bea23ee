"""Estimators: the networks that measure swaps, each loaded from the files of its card."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swapcore.files import sha256
from swapcore.images import to_uint8
from swapcore.irse50 import IRSE50, original_to_ours
from swapcore.onnx import external_data
from swapcore.weights import load_strictly, read_state

from .cards import CARDS, EstimatorCard
from .image_networks import Inception, Lpips, imagenet_frame, mean_over_positions
from .networks import (
    FaceParameters,
    FaceRegressor,
    FSANet,
    euler_angles_deg,
    face_parameters_crop,
    fsanet_crop,
    inner_square,
    regressed_angles_deg,
)
from .published_networks import (
    Hopenet,
    Reconstruction,
    Sphere20,
    WhitenedParameters,
    angles_of_bins_deg,
    imagenet_scaled,
    masked_faces,
    sphere_faces,
    whitened_faces,
    whole_frame,
)

UNTRAINED = "untrained"  # weight_hash of an estimator with random weights, which no Evaluation accepts


@dataclass(frozen=True, eq=False)
class Estimator:
    """Maps images (N, 3, S, S) in [-1, 1] to unit embeddings (N, D), to yaw, pitch and roll in degrees (N, 3; positive:
    to the right of the picture, up, clockwise), to expression coefficients (N, E) or to features (N, D); or two batches
    of images to perceptual distances (N,).

    weight_hash: first digits of the sha256 of its weights. crop, colour_order: how it prepares its images.
    coefficients: meaning and scale of expression coefficients. flip: whether mirror images are read too. Raises
    ValueError without a name or weight hash and on a network in training mode.
    """

    network: Callable[..., Tensor]
    name: str
    weight_hash: str
    crop: str = "whole frame"
    colour_order: str = "rgb"
    note: str = ""
    coefficients: str = ""
    flip: str = "none"

    def __post_init__(self) -> None:
        if not self.name or not self.weight_hash:
            raise ValueError("an estimator needs a name and the hash of its weights")
        if isinstance(self.network, nn.Module) and self.network.training:
            raise ValueError(
                f"estimator '{self.name}' is in training mode, so its outputs depend on the batch; call .eval()"
            )

    def __call__(self, *images: Tensor, landmarks: Tensor | None = None, parsing: Tensor | None = None) -> Tensor:
        """landmarks: (N, 5, 2) as fractions of the side, parsing: (N, 1, S, S) uint8 classes of the parts of a face,
        where they are known; most networks have no use for them."""
        if landmarks is not None and getattr(self.network, "takes_landmarks", False):
            return self.network(*images, landmarks)
        if parsing is not None and getattr(self.network, "takes_parsing", False):
            return self.network(*images, parsing)
        return self.network(*images)

    def to(self, device: Any) -> Estimator:
        """Move the network, if it is a module, to a device; returns the estimator itself."""
        if isinstance(self.network, nn.Module):
            self.network.to(device)
        return self

    def as_dict(self) -> dict[str, str]:
        """Everything that its outputs depend on."""
        return {key: value for key, value in vars(self).items() if key != "network" and value}

    def protocol(self, role: str) -> dict[str, Any]:
        """Its entries in the protocol of a measured value."""
        facts = self.as_dict()
        return {"flip": facts.pop("flip"), role: facts}


@dataclass(frozen=True, eq=False)
class Estimators:
    """The estimators of an evaluation by role; a metric whose estimator is absent cannot be measured."""

    recogniser: Estimator | None = None
    pose: Estimator | None = None
    expression: Estimator | None = None
    perceptual: Estimator | None = None
    features: Estimator | None = None
    trained_encoder: Estimator | None = None

    def items(self) -> Iterator[tuple[str, Estimator]]:
        """Role and estimator of each that is present."""
        return ((role, estimator) for role, estimator in vars(self).items() if estimator is not None)

    def need(self, role: str) -> Estimator:
        """The estimator of a role. Raises ValueError if it is absent."""
        estimator = getattr(self, role)
        if estimator is None:
            raise ValueError(f"no {role} estimator: give Estimators({role}=...), or leave its metric out")
        return estimator


def mirrored(recogniser: Estimator) -> Estimator:
    """A recogniser of the image and its mirror image, (N, 2D), as SphereFace and CosFace are evaluated."""
    network = _Mirrored(recogniser.network).eval()
    return replace(recogniser, network=network, flip="image and mirror image, concatenated")


class _Mirrored(nn.Module):
    def __init__(self, network: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.takes_landmarks = network, getattr(network, "takes_landmarks", False)
        self.takes_parsing = getattr(network, "takes_parsing", False)

    def forward(self, images: Tensor, beside: Tensor | None = None) -> Tensor:
        """beside: the landmarks or parsing maps that the network takes."""
        if self.takes_landmarks:  # it has a crop of its own, which is mirrored rather than the picture
            return self.network.of_both(images, beside)
        both = (images,) if beside is None else (images, beside)  # maps are mirrored as their pictures are
        return F.normalize(torch.cat([self.network(*both), self.network(*(one.flip(-1) for one in both))], 1))


class _Pipeline(nn.Module):
    """Preparation, network and conversion of its outputs, one after the other."""

    def __init__(self, prepare: Callable, network: Callable, finish: Callable) -> None:
        super().__init__()
        self.prepare, self.network, self.finish = prepare, network, finish

    def forward(self, images: Tensor) -> Tensor:
        return self.finish(self.network(self.prepare(images)))


def load_estimator(
    name: str | EstimatorCard, paths: str | Path | Sequence[str | Path], output: str | None = None
) -> Estimator:
    """The estimator of a card (or of the name of one in CARDS), read from the files of `card.files` (or one path).

    output: one of the card's; its first by default. The caller has checked each sha256; those of VERIFIED are checked
    again. Raises ValueError on an unknown name or output, on missing paths, and on a file that does not fit, naming it
    and the key.
    """
    card, output = _known(name, output)
    paths = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if len(paths) != len(card.files):
        files = ", ".join(one.file for one in card.files)
        raise ValueError(f"estimator '{card.name}' needs {files}: expected {len(card.files)} paths, got {len(paths)}")
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: no such file, needed for estimator '{card.name}'. {card.note}".strip())
    return _estimator(card, output, paths)


def untrained_estimator(name: str | EstimatorCard, output: str | None = None) -> Estimator:
    """The estimator of a card with random weights and without files, to test or time it; no Evaluation accepts it.

    Raises ValueError on an unknown name or output, and if the files are part of the network.
    """
    card, output = _known(name, output)
    if card.architecture in ONLY_IN_FILES:
        raise ValueError(f"estimator '{card.name}' cannot be built without its files")
    return _estimator(card, output, ())


def build_network(card: EstimatorCard) -> FaceRegressor:
    """The network of one of our own cards with fresh weights, to be trained. Raises ValueError on another card."""
    if card.architecture != "face_regressor":
        raise ValueError(f"'{card.name}' is not trained here; its weights come from {card.source}")
    return FaceRegressor(**card.options)


def _known(name: str | EstimatorCard, output: str | None) -> tuple[EstimatorCard, str]:
    if isinstance(name, str) and name not in CARDS:
        raise ValueError(f"unknown estimator '{name}', known: {', '.join(CARDS)}")
    card = CARDS[name] if isinstance(name, str) else name
    if output is not None and output not in card.outputs:
        raise ValueError(f"estimator '{card.name}' gives {' and '.join(card.outputs)}, not '{output}'")
    return card, output or card.outputs[0]


def _estimator(card: EstimatorCard, output: str, paths: Sequence[Path]) -> Estimator:
    network = ARCHITECTURES[card.architecture](card, output, paths).eval().requires_grad_(False)
    digest = hashlib.sha256()
    data = [file for path in paths if path.suffix == ".onnx" for file in external_data(path).values()]
    for path in (*paths, *data, *([network.heads_file] if isinstance(network, Lpips) else [])):
        with open(path, "rb") as file:
            hashlib.file_digest(file, lambda: digest)
    weight_hash = digest.hexdigest()[:16] if paths else UNTRAINED
    coefficients = card.coefficients if output == "expression" else ""
    return Estimator(network, card.name, weight_hash, card.crop, card.colour_order, card.note, coefficients)


def _face_regressor(card: EstimatorCard, output: str, paths: Sequence[Path]) -> nn.Module:
    network = build_network(card)
    _load(network, card, paths)
    if output == "features":
        return _Pipeline(inner_square, network.features, mean_over_positions)
    finish = {"embedding": F.normalize, "pose": regressed_angles_deg, "expression": lambda outputs: outputs[:, 3:]}
    return _Pipeline(inner_square, network, finish[output])


def _three_ddfa(card: EstimatorCard, output: str, paths: Sequence[Path]) -> nn.Module:
    network = FaceParameters()
    _load(network, card, paths)
    if paths:
        network.mean, network.std = _mean_and_std(paths[1])
    finish = {
        "pose": lambda parameters: -euler_angles_deg(parameters),
        "expression": lambda parameters: parameters[:, 52:],
    }
    return _Pipeline(face_parameters_crop, network, finish[output])


def _fsanet(card: EstimatorCard, output: str, paths: Sequence[Path]) -> nn.Module:
    return _Pipeline(fsanet_crop, FSANet(paths), lambda angles: angles * angles.new_tensor([-1.0, 1.0, 1.0]))


def _lpips(card: EstimatorCard, output: str, paths: Sequence[Path]) -> nn.Module:
    network = Lpips(card.name.removeprefix("lpips_"))
    for path in paths:
        for part, state in network.states(_read(card, path), read_state(network.heads_file)):
            load_strictly(part, state, f"{path}: '{card.name}'")
    return network


def _inception(card: EstimatorCard, output: str, paths: Sequence[Path]) -> nn.Module:
    try:
        return _Pipeline(to_uint8, Inception(_read(card, paths[0])), nn.Identity())
    except RuntimeError as error:
        raise ValueError(f"{paths[0]}: not the weights of '{card.name}': {' '.join(str(error).split())}") from error


def _squeezenet(card: EstimatorCard, output: str, paths: Sequence[Path]) -> nn.Module:
    from torchvision.models import squeezenet1_0  # imported here because it is slow

    network = squeezenet1_0()
    _load(network, card, paths)
    return _Pipeline(imagenet_frame, network.features, mean_over_positions)


class _Sphere(nn.Module):
    """Sphere20 with its crop: by landmarks, those of canonical crops where none are given; or of the whole picture."""

    takes_landmarks = True

    def __init__(self, network: Sphere20, whole: bool) -> None:
        super().__init__()
        self.network, self.whole = network, whole

    def _faces(self, images: Tensor, landmarks: Tensor | None) -> Tensor:
        if self.whole:
            return whole_frame(whole_frame(images, 256), 112, corners=True)
        return sphere_faces(images, landmarks)

    def forward(self, images: Tensor, landmarks: Tensor | None = None) -> Tensor:
        return F.normalize(self.network(self._faces(images, landmarks)))

    def of_both(self, images: Tensor, landmarks: Tensor | None) -> Tensor:
        """Of the crop and its mirror image, (N, 1024): joined as they are, then brought to unit length."""
        faces = self._faces(images, landmarks)
        return F.normalize(torch.cat([self.network(faces), self.network(faces.flip(-1))], 1))


def _sphere20(card: EstimatorCard, output: str, paths: Sequence[Path]) -> nn.Module:
    network = Sphere20(**card.options)
    _load(network, card, paths)
    return _Sphere(network, whole=network.fc.in_features == 512 * 7 * 7)


class _Masked(nn.Module):
    """IR-SE-50 on pictures of which a parsing map hides all but some classes."""

    takes_parsing = True

    def __init__(self, network: IRSE50, kept: Sequence[int]) -> None:
        super().__init__()
        self.network, self.kept = network, tuple(kept)

    def forward(self, images: Tensor, parsing: Tensor | None = None) -> Tensor:
        if parsing is None:
            raise ValueError(
                "this recogniser reads faces through masks, and the list has no parsing maps; write the list again "
                "with --masks FOLDER"
            )
        return self.network(masked_faces(images, parsing, self.kept))[0]


def _irse50(card: EstimatorCard, output: str, paths: Sequence[Path]) -> nn.Module:
    network = IRSE50()
    _load(network, card, paths, original_to_ours)
    return _Masked(network, card.options["kept"])


def _hopenet(card: EstimatorCard, output: str, paths: Sequence[Path]) -> nn.Module:
    network, side, unit = Hopenet(), card.options["side"], card.options["unit_range"]
    _load(network, card, paths, Hopenet.renamed)
    turned = card.colour_order == "bgr"

    def prepare(images: Tensor) -> Tensor:
        return imagenet_scaled(whole_frame(images.flip(1) if turned else images, side), unit)

    return _Pipeline(prepare, network, nn.Identity() if card.options["logits"] else angles_of_bins_deg)


def _whitened(card: EstimatorCard, output: str, paths: Sequence[Path]) -> nn.Module:
    network = WhitenedParameters()
    _load(network, card, paths)
    return _Pipeline(whitened_faces, network, lambda parameters: parameters[:, 52:])


def _reconstruction(card: EstimatorCard, output: str, paths: Sequence[Path]) -> nn.Module:
    network = Reconstruction()
    _load(network, card, paths)
    prepare = partial(F.interpolate, size=(512, 512), mode="bicubic", align_corners=False, antialias=True)
    return _Pipeline(lambda images: (prepare(images).clamp(-1, 1) + 1) / 2, network, nn.Identity())


# (card, output, paths) -> the network with its preparation; without paths, with random weights.
ARCHITECTURES: dict[str, Callable[[EstimatorCard, str, Sequence[Path]], nn.Module]] = {
    "face_regressor": _face_regressor,
    "three_ddfa": _three_ddfa,
    "fsanet": _fsanet,
    "lpips": _lpips,
    "inception": _inception,
    "squeezenet": _squeezenet,
    "sphere20": _sphere20,
    "irse50": _irse50,
    "hopenet": _hopenet,
    "whitened_parameters": _whitened,
    "reconstruction": _reconstruction,
}
VERIFIED = ("lpips", "inception", "squeezenet")  # their values mean nothing with other weights
ONLY_IN_FILES = ("fsanet", "inception")  # without the file the network cannot be built


def _load(network: nn.Module, card: EstimatorCard, paths: Sequence[Path], rename: Callable[[str], str] = str) -> None:
    """Load the first file, if there is one."""
    for path in paths[:1]:
        load_strictly(network, _read(card, path), f"{path}: '{card.name}'", rename)


def _read(card: EstimatorCard, path: Path) -> dict[str, Tensor]:
    """The tensors of the card's first file."""
    if card.architecture in VERIFIED and not (card.sha256 and sha256(path).startswith(card.sha256)):
        raise ValueError(
            f"{path}: sha256 is {sha256(path)}, but that of '{card.name}' begins with {card.sha256}: damaged or "
            f"another file, so its values would not be comparable; get it from {card.url or card.source}"
        )
    state = read_state(path)
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{path}: damaged weights of '{card.name}': {key}: NaN or infinite values")
    return state


def _mean_and_std(path: Path) -> tuple[Tensor, ...]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return tuple(torch.from_numpy(arrays[key].reshape(62)).float() for key in ("mean", "std"))
    except (KeyError, ValueError, TypeError, AttributeError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: expected arrays mean and std of 62 numbers ({error})") from error
