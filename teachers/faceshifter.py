"""FaceShifter as a teacher: AEI-Net swaps, HEAR-Net restores occlusions (Li et al. 2019, arXiv:1912.13457).

The authors never published weights. This reads checkpoints of the two public implementations, taotaonice/FaceShifter
@376b09e and mindslab-ai/faceshifter @d232459, and the files that `save_faceshifter` writes after training here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swapcore.frame import Crop
from swapcore.irse50 import load_irse50
from swapcore.weights import build_with, load_strictly, read_header, read_state, tensor_of, write_state

from . import aei_net, hearnet
from .aei_net import AEINet
from .hearnet import HEARNet
from .teacher import Teacher, network_hash

__all__ = ["AEINet", "FaceShifterTeacher", "HEARNet", "read_metadata", "save_faceshifter"]

_RESERVED = ("teacher", "options", "refiner_options")
_ORIGINAL_SIZE = 256
_TEMPLATES = {"taotaonice": "faceshifter_256", "mindslab": "ffhq_512"}
# The names of these two tensors identify a layout; their shapes give half the width and the embedding's length.
_MARKS = {
    "taotaonice": ("encoder.conv1.0.weight", "generator.up1.weight"),
    "mindslab": ("E.Encoder.layer_0.0.weight", "G.convt.weight"),
}


class FaceShifterTeacher(Teacher):
    """FaceShifter from a file trained here or from an original checkpoint.

    A file trained here works on the canonical crop and needs the `identity_encoder` of its training: canonical crops
    (N, 3, H, H) to unit embeddings (N, D). taotaonice's works on BGR and takes the identity from
    weights.identity_encoder, mindslab's from a ResNet-101 in the same file; `identity_encoder` replaces either. The
    layout is recognised by the names of the tensors; if `layout` is given, another one is an error. Wrong files and
    options raise ValueError.
    """

    name = "faceshifter"
    FILES = {
        "generator": "the AEI-Net: a teacher.safetensors trained here, or a checkpoint of taotaonice or mindslab",
        "identity_encoder": "optional IR-SE-50 that goes with a generator of taotaonice",
        "refiner": "optional HEAR-Net that goes with a generator of taotaonice",
    }
    autocast = True

    def __init__(
        self,
        weights: Mapping[str, str | Path] | None = None,
        identity_encoder: Callable[[Tensor], Tensor] | None = None,
        layout: str | None = None,
    ) -> None:
        super().__init__(weights)
        path = self.weights["generator"]
        metadata = read_metadata(path)
        if metadata:
            self._load_own(path, metadata, identity_encoder)
        else:
            self._load_original(path, identity_encoder, layout)
        self.identity_encoder = identity_encoder
        if identity_encoder is not None:
            self.facts["identity_encoder"] = network_hash(identity_encoder)

    def _load_own(self, path: Path, metadata: dict[str, str], identity_encoder: Callable | None) -> None:
        others = [key for key in self.weights if key != "generator"]
        if others:
            raise ValueError(f"teacher '{self.name}': {path} is complete; leave weights.{others[0]} out")
        if identity_encoder is None:
            known = metadata.get("identity_encoder", "not named in the file")
            raise ValueError(f"teacher '{self.name}': {path} needs the identity encoder it was trained with: {known}")
        state = read_state(path)
        generator = _own_network(path, "generator", AEINet, metadata["options"], state)
        refiner = None
        if "refiner_options" in metadata:
            refiner = _own_network(path, "refiner", HEARNet, metadata["refiner_options"], state)
        left = next((key for key in state if not key.startswith(("generator.", "refiner."))), None)
        if left is not None:
            raise ValueError(f"{path}: {left}: no such tensor in a file of teacher 'faceshifter'")
        self._assemble(generator, None, refiner, "canonical")

    def _load_original(self, path: Path, identity_encoder: Callable | None, expected: str | None) -> None:
        state = read_state(path)
        layout = next((name for name, marks in _MARKS.items() if all(mark in state for mark in marks)), None)
        if layout is None:
            known = "; ".join(f"{name}: {' and '.join(marks)}" for name, marks in _MARKS.items())
            first = ", ".join(list(state)[:3])
            raise ValueError(f"{path}: not an AEI-Net: expected the tensors of a known layout ({known}), found {first}")
        if expected not in (None, layout):
            raise ValueError(f"{path}: layout: expected '{expected}', found the tensors of '{layout}'")
        first, start = (state[mark] for mark in _MARKS[layout])
        width, embedding_dim = 2 * first.shape[0], start.shape[0]
        parts = {key: tensor for key, tensor in state.items() if layout != "mindslab" or key.startswith(("E.", "G."))}
        generator = build_with(
            lambda: AEINet(layout, width, embedding_dim, _ORIGINAL_SIZE), parts, path, aei_net.original_to_ours
        )
        identity_network = refiner = None
        if layout == "mindslab":
            for key in ("identity_encoder", "refiner"):
                if key in self.weights:
                    raise ValueError(f"teacher '{self.name}': weights.{key} goes with a generator of taotaonice only")
            if identity_encoder is None:
                identity_network = _resnet101(path, state, embedding_dim)
        else:
            if identity_encoder is not None and "identity_encoder" in self.weights:
                raise ValueError(f"teacher '{self.name}': give identity_encoder or weights.identity_encoder, not both")
            if identity_encoder is None:
                if "identity_encoder" not in self.weights:
                    what = self.FILES["identity_encoder"].removeprefix("optional ")
                    raise ValueError(
                        f"teacher '{self.name}': weights.identity_encoder is missing: the path of the {what}"
                    )
                identity_network = load_irse50(self.weights["identity_encoder"])
            if "refiner" in self.weights:
                refiner = _hearnet(self.weights["refiner"])
        self._assemble(generator, identity_network, refiner, _TEMPLATES[layout])

    def _assemble(
        self,
        generator: AEINet,
        identity_network: nn.Module | None,
        refiner: HEARNet | None = None,
        template: str = "faceshifter_256",
    ) -> None:
        """identity_network: IR-SE-50 of taotaonice or ResNet-101 of mindslab; None if an identity encoder is given.
        template: that of the generator's crop."""
        self.generator, self.identity_network, self.refiner = generator, identity_network, refiner
        self.crop = Crop(template, generator.options["resolution"])
        self.bgr = template == _TEMPLATES["taotaonice"]

    def identity(self, source: Tensor, rows: list[dict] | None = None) -> tuple[Tensor, ...]:
        """The unit embeddings (N, D) of sources (N, 3, H, H)."""
        return (self._embed(source, None),)

    def swap(self, identity: tuple[Tensor, ...], target: Tensor, rows: list[dict] | None = None) -> Tensor:
        """Swaps (N, 3, H, H), of both stages if the teacher has a HEAR-Net."""
        if self.refiner is None:
            return self.first_stage(identity[0], target)
        native = self._take(target)
        maps = self.generator.attribute_maps(native)
        own = self.generator.generate(maps, self._embed(target, native))
        first = self.generator.generate(maps, identity[0])
        return self._paste(self.refiner(torch.cat([first, native - own], 1)), target)

    def first_stage(self, embedding: Tensor, target: Tensor) -> Tensor:
        """AEI-Net alone: embeddings (N, D) onto targets (N, 3, H, H)."""
        return self._paste(self.generator(self._take(target), embedding)[0], target)

    def _take(self, images: Tensor) -> Tensor:
        native = self.crop.take(images)
        return native.flip(1) if self.bgr else native

    def _paste(self, native: Tensor, target: Tensor) -> Tensor:
        native = native.to(target.dtype)
        return self.crop.paste(native.flip(1) if self.bgr else native, target)

    def _embed(self, images: Tensor, native: Tensor | None) -> Tensor:
        """Unit embeddings (N, D) of canonical crops; `native` are the generator's crops of them, if already taken."""
        if self.identity_network is None:
            embedding = self.identity_encoder(images)
        else:
            native = self._take(images) if native is None else native
            if self.bgr:
                embedding, _ = self.identity_network(arcface_112(native))
            else:
                embedding = F.normalize(self.identity_network(whole_112(native)).float())
        dimension = self.generator.options["embedding_dim"]
        if embedding.ndim != 2 or embedding.shape[1] != dimension:
            raise ValueError(
                f"teacher '{self.name}': {self.weights['generator']} takes embeddings (N, {dimension}), "
                f"its identity encoder gives {tuple(embedding.shape)}"
            )
        return embedding.float()


def arcface_112(native: Tensor) -> Tensor:
    """The ArcFace crop (N, 3, 112, 112) inside taotaonice's crop (N, 3, 256, 256)."""
    return F.interpolate(native[:, :, 19:237, 19:237], (112, 112), mode="bilinear", align_corners=True)


def whole_112(native: Tensor) -> Tensor:
    """mindslab's crop (N, 3, 256, 256) in [-1, 1] as the input of its ResNet-101: (N, 3, 112, 112) in [0, 1]."""
    return F.interpolate((native + 1) / 2, (112, 112), mode="bilinear", align_corners=False)


def save_faceshifter(path: str | Path, generator: AEINet, refiner: HEARNet | None = None, **metadata: str) -> None:
    """Write a teacher as .safetensors, atomically, with the options of its networks and the given metadata.

    The metadata should name the `identity_encoder`. Raises ValueError if a value is not text or a key is reserved.
    """
    for key, value in metadata.items():
        if key in _RESERVED or not isinstance(value, str):
            raise ValueError(f"metadata '{key}': expected text under another name than {', '.join(_RESERVED)}")
    header = {"teacher": "faceshifter", "options": json.dumps(generator.options), **metadata}
    parts = {"generator": generator}
    if refiner is not None:
        header["refiner_options"], parts["refiner"] = json.dumps(refiner.options), refiner
    state = {f"{part}.{key}": tensor for part, net in parts.items() for key, tensor in net.state_dict().items()}
    write_state(path, state, header)


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata that `save_faceshifter` wrote: teacher, options, refiner_options with a HEAR-Net, and its arguments.

    Empty for any other file. Raises ValueError for a .safetensors file that cannot be read.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return {}
    metadata = read_header(path)
    return metadata if metadata.get("teacher") == "faceshifter" and "options" in metadata else {}


def _own_network(
    path: Path, part: str, network: type[nn.Module], options: str, state: Mapping[str, Tensor]
) -> nn.Module:
    """One network of a file trained here: built with its options, loaded with the tensors under its name."""
    try:
        with torch.device("meta"):
            built = network(**json.loads(options))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: options of the {part}: {error}") from None
    return _load_part(built, f"{part}.", state, path)


def _resnet101(path: Path, state: Mapping[str, Tensor], embedding_dim: int) -> nn.Module:
    """mindslab's identity network, stored in its checkpoint under Z."""
    from torchvision.models import resnet101  # imported here because it is slow

    with torch.device("meta"):
        network = resnet101(num_classes=embedding_dim)
    return _load_part(network, "Z.", state, path)


def _load_part(network: nn.Module, prefix: str, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Load the tensors whose names begin with the prefix."""
    part = {key: tensor for key, tensor in state.items() if key.startswith(prefix)}
    load_strictly(network, part, path, lambda key: key.removeprefix(prefix), assign=True)
    return network


def _hearnet(path: Path) -> HEARNet:
    """taotaonice's HEAR-Net, of any width."""
    state = read_state(path)
    width = len(tensor_of(state, "down1.0.weight", 4, f"{path}: not a HEAR-Net"))
    return build_with(lambda: HEARNet(width), state, path, hearnet.original_to_ours)
