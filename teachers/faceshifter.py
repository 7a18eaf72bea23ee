"""FaceShifter as a teacher: AEI-Net swaps, HEAR-Net brings back what it lost (Li et al. 2019, arXiv:1912.13457).

The authors never published weights. This reads checkpoints of the two public implementations, taotaonice/FaceShifter
@376b09e and mindslab-ai/faceshifter @d232459, and files of our own training, which `save_faceshifter` writes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from swapcore.frame import Crop
from swapcore.weights import load_strictly, read_state

from . import aei_net, hearnet
from .aei_net import AEINet, Layout
from .hearnet import HEARNet
from .irse50 import load_irse50
from .teacher import Teacher

__all__ = ["AEINet", "FaceShifterTeacher", "HEARNet", "Layout", "read_metadata", "save_faceshifter"]

_RESERVED = ("teacher", "options", "refiner_options")
_ORIGINAL_SIZE = 256
_TEMPLATES = {"taotaonice": "faceshifter_256", "mindslab": "ffhq_512"}
_MARKS = {  # tensors that tell the layout, half the width and the length of the embedding
    "taotaonice": ("encoder.conv1.0.weight", "generator.up1.weight"),
    "mindslab": ("E.Encoder.layer_0.0.weight", "G.convt.weight"),
}


class FaceShifterTeacher(Teacher):
    """FaceShifter of a file of our own, or of an original checkpoint.

    Ours works on the canonical crop, with the `identity_encoder` it was trained with: canonical crops to unit
    embeddings. taotaonice's works on BGR and takes the identity from weights.identity_encoder, mindslab's from a
    ResNet-101 in the same file; an `identity_encoder` that is given takes their place. `layout` is told by the names
    of the tensors; where it is given, another one is an error. Wrong files and options raise ValueError.
    """

    name = "faceshifter"
    FILES = {
        "generator": "the AEI-Net: a teacher.safetensors made here, or a checkpoint of taotaonice or mindslab",
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
        self.refiner: HEARNet | None = None
        self.identity_network: nn.Module | None = None
        self.bgr = False
        if metadata:
            self._load_own(path, metadata, identity_encoder)
        else:
            self._load_original(path, identity_encoder, layout)
        self.identity_encoder = identity_encoder

    def _load_own(self, path: Path, metadata: dict[str, str], identity_encoder: Callable | None) -> None:
        others = [key for key in self.weights if key != "generator"]
        if others:
            raise ValueError(f"teacher '{self.name}': {path} is complete, weights.{others[0]} does not go with it")
        if identity_encoder is None:
            known = metadata.get("identity_encoder", "not named in the file")
            raise ValueError(f"teacher '{self.name}': {path} needs the identity encoder it was trained with: {known}")
        state = read_state(path)
        self.generator = _of_part(path, "generator", AEINet, metadata["options"], state)
        if "refiner_options" in metadata:
            self.refiner = _of_part(path, "refiner", HEARNet, metadata["refiner_options"], state)
        left = next((key for key in state if not key.startswith(("generator.", "refiner."))), None)
        if left is not None:
            raise ValueError(f"{path}: {left}: no such tensor in a file of teacher 'faceshifter'")
        self.crop = Crop("canonical", self.generator.options["resolution"])

    def _load_original(self, path: Path, identity_encoder: Callable | None, wanted: str | None) -> None:
        state = read_state(path)
        layout = next((name for name, marks in _MARKS.items() if all(mark in state for mark in marks)), None)
        if layout is None:
            known = "; ".join(f"{name}: {' and '.join(marks)}" for name, marks in _MARKS.items())
            found = ", ".join(list(state)[:3])
            raise ValueError(f"{path}: not an AEI-Net: expected the tensors of a known layout ({known}), found {found}")
        if wanted not in (None, layout):
            raise ValueError(f"{path}: layout: expected '{wanted}', found the tensors of '{layout}'")
        first, start = (state[mark] for mark in _MARKS[layout])
        with torch.device("meta"):
            self.generator = AEINet(layout, 2 * first.shape[0], start.shape[0], _ORIGINAL_SIZE)
        parts = {key: tensor for key, tensor in state.items() if layout != "mindslab" or key.startswith(("E.", "G."))}
        load_strictly(self.generator, parts, str(path), aei_net.original_to_ours, assign=True)
        self.crop, self.bgr = Crop(_TEMPLATES[layout], _ORIGINAL_SIZE), layout == "taotaonice"
        if layout == "mindslab":
            for key in ("identity_encoder", "refiner"):
                if key in self.weights:
                    raise ValueError(f"teacher '{self.name}': weights.{key} goes with a generator of taotaonice only")
            if identity_encoder is None:
                self.identity_network = _resnet101(path, state, start.shape[0])
            return
        if identity_encoder is not None and "identity_encoder" in self.weights:
            raise ValueError(f"teacher '{self.name}': give identity_encoder or weights.identity_encoder, not both")
        if identity_encoder is None:
            if "identity_encoder" not in self.weights:
                what = self.FILES["identity_encoder"].removeprefix("optional ")
                raise ValueError(f"teacher '{self.name}': weights.identity_encoder is missing: the path of the {what}")
            self.identity_network = load_irse50(self.weights["identity_encoder"])
        if "refiner" in self.weights:
            self.refiner = _hearnet(self.weights["refiner"])

    def identity(self, source: Tensor, rows: list[dict] | None = None) -> tuple[Tensor, ...]:
        """The unit embeddings (N, D) of sources (N, 3, H, H)."""
        return (self._embed(source, None),)

    def swap(self, identity: tuple[Tensor, ...], target: Tensor, rows: list[dict] | None = None) -> Tensor:
        """Swaps (N, 3, H, H), by both stages where there is a HEAR-Net."""
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
        """Unit embeddings (N, D) of canonical crops, whose native crops may be at hand."""
        if self.identity_network is None:
            embedding = self.identity_encoder(images)
        else:
            native = self._take(images) if native is None else native
            if self.bgr:
                embedding, _ = self.identity_network(arcface_112(native))
            else:
                embedding = F.normalize(self.identity_network(whole_112(native)).float())
        wanted = self.generator.options["embedding_dim"]
        if embedding.ndim != 2 or embedding.shape[1] != wanted:
            raise ValueError(
                f"teacher '{self.name}': {self.weights['generator']} takes embeddings (N, {wanted}), "
                f"its identity encoder gives {tuple(embedding.shape)}"
            )
        return embedding.float()


def arcface_112(native: Tensor) -> Tensor:
    """The ArcFace crop inside taotaonice's crop (N, 3, 256, 256), as 112 pixels."""
    return F.interpolate(native[:, :, 19:237, 19:237], (112, 112), mode="bilinear", align_corners=True)


def whole_112(native: Tensor) -> Tensor:
    """mindslab's whole crop in [-1, 1] as its ResNet-101 wants it: 112 pixels in [0, 1]."""
    return F.interpolate((native + 1) / 2, (112, 112), mode="bilinear", align_corners=False)


def save_faceshifter(path: str | Path, generator: AEINet, refiner: HEARNet | None = None, **metadata: str) -> None:
    """Write a teacher as .safetensors, whole or not at all, with the options of its networks and the metadata given.

    `identity_encoder` should be among them. Raises ValueError where the metadata is not text or hides the options.
    """
    for key, value in metadata.items():
        if key in _RESERVED or not isinstance(value, str):
            raise ValueError(f"metadata '{key}': expected text under another name than {', '.join(_RESERVED)}")
    path = Path(path)
    header = {"teacher": "faceshifter", "options": json.dumps(generator.options), **metadata}
    parts = {"generator": generator}
    if refiner is not None:
        header["refiner_options"], parts["refiner"] = json.dumps(refiner.options), refiner
    state = {
        f"{part}.{key}": tensor.detach().cpu().contiguous()
        for part, network in parts.items()
        for key, tensor in network.state_dict().items()
    }
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        save_file(state, temporary, metadata=header)
        os.replace(temporary, path)


def read_metadata(path: str | Path) -> dict[str, str]:
    """What `save_faceshifter` wrote beside the tensors: teacher, options, refiner_options where there is a HEAR-Net,
    identity_encoder and what else was given. Empty for any other file; ValueError for one that cannot be read."""
    path = Path(path)
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None
    return metadata if metadata.get("teacher") == "faceshifter" and "options" in metadata else {}


def _of_part(path: Path, part: str, network: type[nn.Module], options: str, state: Mapping[str, Tensor]) -> nn.Module:
    """A network of our own file, from its options and the tensors under its name."""
    try:
        with torch.device("meta"):
            built = network(**json.loads(options))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: options of the {part}: {error}") from None
    own = {key: tensor for key, tensor in state.items() if key.startswith(f"{part}.")}
    load_strictly(built, own, str(path), lambda key: key.removeprefix(f"{part}."), assign=True)
    return built


def _hearnet(path: Path) -> HEARNet:
    """taotaonice's HEAR-Net, of any width."""
    state = read_state(path)
    first = state.get("down1.0.weight")
    if first is None:
        raise ValueError(f"{path}: not a HEAR-Net: down1.0.weight: expected a tensor, found none")
    with torch.device("meta"):
        network = HEARNet(first.shape[0])
    load_strictly(network, state, str(path), hearnet.original_to_ours, assign=True)
    return network


def _resnet101(path: Path, state: Mapping[str, Tensor], embedding_dim: int) -> nn.Module:
    """mindslab's identity network, which its checkpoint holds under Z."""
    from torchvision.models import resnet101  # only for this layout: it is slow to import

    with torch.device("meta"):
        network = resnet101(num_classes=embedding_dim)
    own = {key: tensor for key, tensor in state.items() if key.startswith("Z.")}
    load_strictly(network, own, str(path), lambda key: key.removeprefix("Z."), assign=True)
    return network
