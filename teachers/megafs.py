"""MegaFS as a teacher: encodes faces as StyleGAN2 latents, mixes them, decodes (Zhu et al. 2021, arXiv:2105.04932).

Own implementation of the networks of zyainfal/One-Shot-Face-Swapping-on-Megapixels @f01b195 (CC BY-NC 4.0), reading
its checkpoints: the encoder is in `hierfe.py`, the face transfer modules FTM, injection and LCR are here, the generator
is in `stylegan2.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from swapcore.frame import Crop
from swapcore.weights import build_with, read_parts, tensor_of

from .hierfe import SIZE, HieRFE
from .stylegan2 import StyleGAN2, load_stylegan2
from .teacher import Teacher, network_hash

KEPT = 4  # the first latents of a swap are the target's, with every transfer module
_SUB_BLOCKS = 3


class LCR(nn.Module):
    """Latent code replacement: the first latents of the target, the others of the source. No parameters."""

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Latents (N, L, D) of sources and targets to those of the swaps."""
        return torch.cat([target[:, :KEPT], source[:, KEPT:]], 1)


class TransferCell(nn.Module):
    """Source and target of one latent update each other three times, each by a learned gain and shift."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        for name in ("source_gain", "source_shift", "target_gain", "target_shift"):
            steps = (nn.Sequential(nn.Linear(2 * dim, dim // 2), nn.ReLU(), nn.Linear(dim // 2, dim)) for _ in "123")
            self.add_module(name, nn.ModuleList(steps))

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        for step in range(_SUB_BLOCKS):
            both = torch.cat([source, target], 1)  # both updates use the values before the step
            source = source * self.source_gain[step](both).sigmoid() + self.source_shift[step](both).tanh()
            target = target * self.target_gain[step](both).sigmoid() + self.target_shift[step](both).tanh()
        return source, target


class FTM(nn.Module):
    """The face transfer module: one cell per latent, whose two results are mixed by learned weights.

    66,196,480 parameters with the defaults. The reference's LeakyReLU(True) has slope 1, hence no activation here.
    """

    def __init__(self, latents: int = 18, dim: int = 512) -> None:
        super().__init__()
        self.cells = nn.ModuleList(TransferCell(dim) for _ in range(latents - KEPT))
        self.mix = nn.Parameter(torch.randn(1, latents - KEPT, dim))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Latents (N, L, D) of sources and targets to those of the swaps."""
        pairs = [cell(source[:, KEPT + i], target[:, KEPT + i]) for i, cell in enumerate(self.cells)]
        ours, theirs = (torch.stack(latents, 1) for latents in zip(*pairs, strict=True))
        return torch.cat([target[:, :KEPT], torch.lerp(theirs, ours, self.mix.sigmoid())], 1)


class InjectionStep(nn.Module):
    """Normalises the target's latent, then scales and shifts it by the source's."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm1d(dim, affine=False)
        self.hidden, self.gain, self.shift = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        hidden = F.relu(self.hidden(source))
        return self.out(self.normalize(target) * (1 + self.gain(hidden)) + self.shift(hidden))


class Injection(nn.Module):
    """Two injection steps per latent, around a residual connection. 29,417,472 parameters with the defaults."""

    def __init__(self, latents: int = 18, dim: int = 512) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.ModuleList(InjectionStep(dim) for _ in range(2)) for _ in range(latents - KEPT))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Latents (N, L, D) of sources and targets to those of the swaps."""
        swapped = list(target[:, :KEPT].unbind(1))
        for i, (first, second) in enumerate(self.cells, KEPT):
            swapped.append(second(source[:, i], first(source[:, i], target[:, i])) + target[:, i])
        return torch.stack(swapped, 1)


TRANSFERS = {"ftm": FTM, "injection": Injection, "lcr": LCR}


def build_transfer(name: str, latents: int = 18, dim: int = 512) -> nn.Module:
    """The face transfer module of that name: latents (N, L, D) of sources and targets to (N, L, D).

    Raises ValueError for an unknown name.
    """
    if name not in TRANSFERS:
        raise ValueError(f"unknown face transfer module '{name}', known: {', '.join(TRANSFERS)}")
    return LCR() if name == "lcr" else TRANSFERS[name](latents, dim)


class MegaFSTeacher(Teacher):
    """MegaFS from the original files; width, number of latents and resolution follow from their tensors.

    transfer: the face transfer module that the first file holds. refine: encode the swap again and generate it from its
    own latents. rescale: how the generator's output is brought to [-1, 1]; 'minmax' stretches every image between its
    darkest and brightest value, as the reference does, 'clamp' clips.

    The reference pastes the result into the target through a softly eroded mask of face and mouth, from a face parser
    that is not part of this teacher. mask: such a parser, target crops (N, 3, H, H) to weights (N, 1, H, H) in [0, 1].
    Without it the whole crop is pasted with a soft border; hair and background are then StyleGAN2's reconstruction.
    Wrong files and options raise ValueError.
    """

    name = "megafs"
    FILES = {
        "encoder_and_transfer": "the {ftm,injection,lcr}_final.pth: a dict of `e` (HieRFE) and `s` (transfer module)",
        "generator": "the stylegan2-ffhq-config-f.pth: a dict with `g_ema`",
    }
    # Only the generator, which takes most of the time, runs in half precision: bf16 changes its image by 2 % of the
    # standard deviation, fp16 by 0.3 %. Rounded latents give another face, so encoder and transfer stay in float32.
    autocast = True

    def __init__(
        self,
        weights: Mapping[str, str | Path] | None = None,
        transfer: Literal["ftm", "injection", "lcr"] = "ftm",
        refine: bool = False,
        rescale: Literal["minmax", "clamp"] = "minmax",
        mask: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(weights, transfer=transfer, refine=refine, rescale=rescale, mask=network_hash(mask))
        for option, value, known in (("transfer", transfer, TRANSFERS), ("rescale", rescale, ("minmax", "clamp"))):
            if value not in known:
                raise ValueError(f"teacher '{self.name}': {option}: expected {' or '.join(known)}, got '{value}'")
        encoder, module = load_encoder_and_transfer(self.weights["encoder_and_transfer"], transfer)
        generator = load_stylegan2(self.weights["generator"])
        dim, options = encoder.options["dim"], generator.options
        for what, ours, theirs in (
            ("latents", sum(encoder.options["heads"]), generator.latents),
            ("dim", dim, options["latent_dim"]),
            ("channels at 4 pixels", dim, options["channels"][4]),
        ):
            if ours != theirs:
                raise ValueError(
                    f"teacher '{self.name}': {what}: {self.weights['generator']} takes {theirs}, "
                    f"{self.weights['encoder_and_transfer']} gives {ours}"
                )
        self._assemble(encoder, module, generator, refine, rescale, mask)

    def _assemble(
        self,
        encoder: HieRFE,
        transfer: nn.Module,
        generator: StyleGAN2,
        refine: bool = False,
        rescale: str = "minmax",
        mask: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.encoder, self.transfer, self.generator = encoder, transfer, generator
        self.crop, self.refine, self.rescale, self.mask = Crop("ffhq_512", SIZE), refine, rescale, mask

    def identity(self, source: Tensor, rows: list[dict] | None = None) -> tuple[Tensor, ...]:
        """The latents (N, L, D) of sources (N, 3, H, H)."""
        with _float32(source):
            return (self.encoder(self.crop.take(source))[0],)

    def swap(self, identity: tuple[Tensor, ...], target: Tensor, rows: list[dict] | None = None) -> Tensor:
        """Swaps (N, 3, H, H) of those latents onto targets (N, 3, H, H)."""
        with _float32(target):
            latents, structure = self.encoder(self.crop.take(target))
            latents = self.transfer(identity[0], latents)
        swap = self._draw(latents, structure, target)
        if self.refine:
            with _float32(target):
                latents, structure = self.encoder(self.crop.take(swap))
            swap = self._draw(latents, structure, target)
        return swap

    def _draw(self, latents: Tensor, structure: Tensor, target: Tensor) -> Tensor:
        """The generator's image of the latents, pasted into the targets."""
        image = self.generator(latents, structure).to(target.dtype)
        if self.rescale == "minmax":
            low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
            image = 2 * (image - low) / (high - low).clamp_min(1e-6) - 1
        image = image.clamp(-1, 1)
        size = target.shape[-1]
        if size < image.shape[-1]:  # pasting samples single points: fine texture would alias
            image = F.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=True)
        swap = self.crop.paste(image, target)
        if self.mask is None:
            return swap
        mask = self.mask(target)
        if mask.shape != (len(target), 1, size, size):
            expected = (len(target), 1, size, size)
            raise ValueError(f"teacher '{self.name}': mask: expected {expected}, got {tuple(mask.shape)}")
        return torch.lerp(target, swap, mask.to(target.dtype))


def _float32(images: Tensor) -> torch.autocast:
    return torch.autocast(images.device.type, enabled=False)


_TRANSFER_NAMES = {
    "idd_selectors": "source_gain",
    "idd_shifters": "source_shift",
    "att_selectors": "target_gain",
    "att_shifters": "target_shift",
}
_INJECTION_NAMES = {
    "0.idd_linears.0": "hidden",
    "0.idd_selectors": "gain",
    "0.idd_shifters": "shift",
    "0.att_bns": "normalize",
    "2": "out",
}


def original_to_ours(key: str) -> str:
    """Our name of a tensor of the original `e` or `s` (fpn.output2.0.weight -> laterals.1.0.weight); any other name
    unchanged."""
    if key == "weight":
        return "mix"
    if match := re.fullmatch(r"fpn\.backbone\.(.+)", key):
        return f"backbone.{match[1]}"
    if match := re.fullmatch(r"fpn\.output(\d)\.(.+)", key):
        return f"laterals.{int(match[1]) - 1}.{match[2]}"
    if match := re.fullmatch(r"mapping(\d)\.(\d+)\.convs\.(.+)", key):
        return f"heads.{int(match[1]) - 1}.{match[2]}.{match[3]}"
    if match := re.fullmatch(rf"blocks\.(\d+)\.({'|'.join(_TRANSFER_NAMES)})\.(.+)", key):
        return f"cells.{match[1]}.{_TRANSFER_NAMES[match[2]]}.{match[3]}"
    if match := re.fullmatch(rf"blocks\.(\d+)\.att_path(\d)\.0\.({'|'.join(_INJECTION_NAMES)})\.(\w+)", key):
        return f"cells.{match[1]}.{int(match[2]) - 1}.{_INJECTION_NAMES[match[3]]}.{match[4]}"
    return key


def load_encoder_and_transfer(path: str | Path, transfer: str) -> tuple[HieRFE, nn.Module]:
    """Both networks of a file {"e": ..., "s": ...}; optimiser states beside them stay unread.

    Raises ValueError naming the file and the first tensor that is missing, left over or of another shape.
    """
    parts = read_parts(path, ("e", "s"))
    marks = ["fpn.backbone.conv1.weight", "fpn.output1.0.weight", *(f"mapping{k}.0.convs.0.weight" for k in (1, 2, 3))]
    first, lateral, *_ = (tensor_of(parts["e"], key, 4, f"{path}: e: not a HieRFE") for key in marks)
    heads = tuple(len({key.split(".")[1] for key in parts["e"] if key.startswith(f"mapping{k}.")}) for k in (1, 2, 3))
    dim, width = lateral.shape[0], first.shape[0]
    encoder = build_with(lambda: HieRFE(heads, dim, width), parts["e"], f"{path}: e", original_to_ours)
    module = build_with(lambda: build_transfer(transfer, sum(heads), dim), parts["s"], f"{path}: s", original_to_ours)
    return encoder, module
