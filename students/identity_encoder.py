"""Identity encoders: canonical face crops to unit embeddings, frozen and shipped with the student.

A card states the origin and licence of the weights, and how the network expects its images. Networks: MobileFaceNet as
of HoiM/MobileFSGAN @478175b, foamliu/MobileFaceNet @a6cc903 and Xiaoccer/MobileFaceNet_Pytorch @26bd8d2, and the plain
residual network of the synthetic benchmark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swapcore import weights
from swapcore.frame import inner_square
from swapcore.images import IMAGENET_MEAN, IMAGENET_STD

from .mobilefacenet import MobileFaceNet, Unit, original_to_ours


class SmallResNet(nn.Module):
    """A residual network of plain 3x3 convolutions, which train faster on a CPU than depthwise ones.

    Options: embedding_dim, width (channels of the first stage, then 2, 4 and 6 times as many), input_size.
    """

    def __init__(self, embedding_dim: int = 512, width: int = 24, input_size: tuple[int, int] = (64, 64)) -> None:
        super().__init__()
        channels = [width, width * 2, width * 4, width * 6]
        self.stem = Unit(3, channels[0], 5, 2, 2)
        self.downs = nn.ModuleList(Unit(a, b, 3, 2, 1) for a, b in zip(channels, channels[1:], strict=False))
        self.blocks = nn.ModuleList(
            nn.Sequential(Unit(c, c, 3, padding=1), Unit(c, c, 3, padding=1, activation="none")) for c in channels[1:]
        )
        final_map = [math.ceil(pixels / 16) for pixels in input_size]
        self.map_channels = width * 2
        self.squeeze = Unit(channels[-1], self.map_channels)
        self.linear = nn.Linear(self.map_channels * final_map[0] * final_map[1], embedding_dim, bias=False)
        self.bn = nn.BatchNorm1d(embedding_dim)

    def maps(self, faces: Tensor) -> list[Tensor]:
        """Feature maps at 1/2, 1/4, 1/8 and 1/16 of the input size."""
        maps = [self.stem(faces)]
        for down, block in zip(self.downs, self.blocks, strict=True):
            x = down(maps[-1])
            maps.append(x + block(x))
        return maps

    def identity_map(self, faces: Tensor) -> Tensor:
        """The last feature map, which `embed` reduces to an embedding: (N, 2 * width, h / 16, w / 16)."""
        return self.narrow(self.maps(faces)[-1])

    def narrow(self, last_map: Tensor) -> Tensor:
        """The last of `maps` to the identity map."""
        return self.squeeze(last_map)

    def embed(self, identity_map: Tensor) -> Tensor:
        """Identity maps to embeddings (N, embedding_dim), not yet of unit length."""
        return self.bn(self.linear(identity_map.flatten(1)))

    def forward(self, faces: Tensor) -> Tensor:
        """Prepared faces (N, 3, *input_size) to embeddings (N, embedding_dim), not yet of unit length."""
        return self.embed(self.identity_map(faces))


@dataclass(frozen=True, kw_only=True)
class EncoderCard(weights.Card):
    """An identity encoder: a weight file, its network and the preprocessing of its images.

    options: keyword arguments of the network. mean and std apply to values in [0, 1], in the network's colour order
    ("rgb" or "bgr"). crop is "square" (rows and columns 26 to 229 of 256, bilinear with aligned corners) or a constant
    affine map of the canonical frame: "arcface" (112 x 112) or "sphereface" (112 x 96).
    """

    architecture: str
    options: dict = field(default_factory=dict)
    crop: str = "square"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    colour_order: str = "rgb"

    @property
    def embedding_dim(self) -> int:
        return self.options["embedding_dim"]

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return tuple(self.options.get("input_size", (112, 112)))


ARCHITECTURES = {"mobilefacenet": MobileFaceNet, "small_resnet": SmallResNet}

# (a, b, c, d): pixel (x, y) of the 256 frame -> (a x + b y + c, -b x + a y + d) of the crop, the similarity between the
# mean landmarks of aligned photographs and the template of the network's training.
_AFFINE_CROPS = {"arcface": (0.57467, 0.00308, -17.677, -17.138), "sphereface": (0.57467, 0.00308, -25.677, -17.138)}

CARDS = {
    "mobilefacenet_512": EncoderCard(
        name="mobilefacenet_512",
        file=None,
        sha256=None,
        url=None,
        source="https://github.com/HoiM/MobileFSGAN @478175b",
        licence="none stated",
        architecture="mobilefacenet",
        options={"embedding_dim": 512},
        note="Train your own with `python -m distill.pretrain identity_encoder`, or choose another encoder.",
    ),
    "foamliu_128": EncoderCard(
        name="foamliu_128",
        file="mobilefacenet_foamliu.pt",
        sha256="90a00ba1d8b0b688af3deb731ed53dca582e6106805d1bc3cfdef55f570493f4",
        url="https://raw.githubusercontent.com/foamliu/MobileFaceNet/408e13c0bcd1c10b666f00b07efcc2eab3c5d195/weights/mobilefacenet.pt",
        source="https://github.com/foamliu/MobileFaceNet @a6cc903 weights/mobilefacenet.pt",
        licence="Apache-2.0 (trained on MS1M)",
        architecture="mobilefacenet",
        options={"embedding_dim": 128, "activation": "relu6", "stem_pointwise": True, "embedding_bias": True},
        crop="arcface",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        note="LFW 99.20 %.",
    ),
    "xiaoccer_128": EncoderCard(
        name="xiaoccer_128",
        file="mobilefacenet_xiaoccer_068.ckpt",
        sha256="e839247cdbdfc023fb7cadeaf53a4549d50c8fc24ad154c02e35920ea8910d99",
        url=None,
        source="https://github.com/Xiaoccer/MobileFaceNet_Pytorch @26bd8d2 model/best/068.ckpt",
        licence="none stated (trained on CASIA-WebFace)",
        architecture="mobilefacenet",
        options={"embedding_dim": 128, "input_size": (112, 96)},
        crop="sphereface",
        std=(128 / 255, 128 / 255, 128 / 255),
        note="LFW 98.72 %. Without a licence: for measuring on your own machine, never to be shipped.",
    ),
    "synthetic_identity": EncoderCard(
        name="synthetic_identity",
        file="synthetic_identity.safetensors",
        sha256="be14a81d724f5daad7a18f6ddf72e4bbac4082cbc730da94bb4d37c83b76b6a9",
        url=None,
        source="this repository, students/weights",
        licence="Apache-2.0",
        architecture="small_resnet",
        options={"embedding_dim": 64, "width": 24, "input_size": (64, 64)},
        note="Trained on synthetic faces with `python -m distill.pretrain identity_encoder`.",
    ),
}


def _sampling_grid(a: float, b: float, c: float, d: float, size: tuple[int, int]) -> Tensor:
    """(1, height, width, 2) for grid_sample without aligned corners, valid for images of any size."""
    y, x = np.meshgrid(*(np.arange(pixels, dtype=np.float64) for pixels in size), indexing="ij")
    u, v, norm = x - c, y - d, a * a + b * b
    frame = np.stack([(a * u - b * v) / norm, (b * u + a * v) / norm], axis=-1)
    grid = np.ascontiguousarray(((frame + 0.5) / 128 - 1).astype(np.float32))
    return torch.from_numpy(grid).unsqueeze(0)  # NumPy's own new axis has the stride 0, which ExecuTorch refuses


class IdentityEncoder(nn.Module):
    """A recognition network behind its card's preprocessing: canonical crops in, unit embeddings out."""

    def __init__(self, card: EncoderCard) -> None:
        """The encoder of a card with fresh weights. Raises ValueError on an unknown architecture."""
        super().__init__()
        if card.architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ValueError(f"{card.name}: unknown architecture '{card.architecture}', known: {known}")
        self.network = ARCHITECTURES[card.architecture](**card.options)
        self.card = card
        self.name = card.name
        self.embedding_dim = card.embedding_dim
        # One multiply-add from [-1, 1] to the values of the network's training. By NumPy, as the sampling grid:
        # arithmetic of torch on the device `meta` imports torch._dynamo, which takes every command two seconds.
        mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (card.mean, card.std))
        self.register_buffer("scale", torch.tensor(np.float32(0.5) / std), persistent=False)
        self.register_buffer("shift", torch.tensor((np.float32(0.5) - mean) / std), persistent=False)
        grid = _sampling_grid(*_AFFINE_CROPS[card.crop], card.input_size) if card.crop in _AFFINE_CROPS else None
        self.register_buffer("grid", grid, persistent=False)

    def prepare(self, *batches: Tensor) -> Tensor:
        """Canonical crops (N, 3, S, S) in [-1, 1] to the network's input (N, 3, *card.input_size). The inputs of
        several batches, each of its own size S, follow one another.

        S >= 16, a quarter of the smallest resolution. Differentiable. Raises ValueError on another shape.
        """
        faces = [self._crop(images) for images in batches]
        faces = faces[0] if len(faces) == 1 else torch.cat(faces)
        return (faces.flip(1) if self.card.colour_order == "bgr" else faces) * self.scale + self.shift

    def _crop(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or images.shape[2] < 16:
            raise ValueError(f"images: expected (N, 3, S, S) with S >= 16, got {tuple(images.shape)}")
        if self.grid is None:
            return F.interpolate(inner_square(images), self.card.input_size, mode="bilinear", align_corners=True)
        grid = self.grid if images.shape[0] == 1 else self.grid.expand(images.shape[0], -1, -1, -1)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """Feature maps of canonical crops, from 1/2 of the network's input size down, for a perceptual loss."""
        return self.network.maps(self.prepare(images))

    def embeddings(self, *batches: Tensor) -> Tensor:
        """Unit embeddings of several batches of crops, each of its own size, one after the other, in one pass."""
        return _unit(self.network(self.prepare(*batches)))

    def features_and_embeddings(self, *batches: Tensor) -> tuple[list[Tensor], Tensor]:
        """`features` and `embeddings` of several batches of crops in one pass."""
        maps = self.network.maps(self.prepare(*batches))
        return maps, _unit(self.network.embed(self.network.narrow(maps[-1])))

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the identity maps."""
        height, width = (math.ceil(pixels / 16) for pixels in self.card.input_size)
        return self.network.map_channels, height, width

    def embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Canonical crops (N, 3, S, S) in [-1, 1] to unit embeddings (N, D) and identity maps (N, *map_shape)."""
        identity_map = self.network.identity_map(self.prepare(images))
        return _unit(self.network.embed(identity_map)), identity_map

    def forward(self, images: Tensor) -> Tensor:
        """Canonical crops (N, 3, S, S) in [-1, 1] to unit embeddings (N, embedding_dim)."""
        return _unit(self.network(self.prepare(images)))


def _unit(embeddings: Tensor) -> Tensor:
    """Embeddings of unit length, in float32: in half precision lengths would be off by 0.4 %."""
    if embeddings.dtype in (torch.float16, torch.bfloat16):
        embeddings = embeddings.float()
    return F.normalize(embeddings)


def load_identity_encoder(card: EncoderCard | str, path: str | Path | None) -> IdentityEncoder:
    """The frozen encoder of a card (or of the name of one in CARDS) with the weights of the file `path`.

    Evaluation mode; no parameter requires a gradient. The caller has checked the file's sha256. Raises ValueError on an
    unknown name, if path is None (a card without published weights), and on a file whose tensors do not fit.
    """
    if isinstance(card, str):
        if card not in CARDS:
            raise ValueError(f"unknown identity encoder '{card}', known: {', '.join(CARDS)}")
        card = CARDS[card]
    if path is None:
        raise ValueError(f"identity encoder '{card.name}' needs the path of its weights. {card.note}")
    encoder = IdentityEncoder(card)
    state = original_to_ours(weights.read_state(path))
    weights.load_strictly(encoder.network, state, path, name=card.name)
    return encoder.eval().requires_grad_(False)
