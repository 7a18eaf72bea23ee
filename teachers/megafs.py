"""MegaFS as a teacher: faces encoded, mixed and drawn again as StyleGAN2 latents (Zhu et al. 2021, arXiv:2105.04932).

Own implementation of the networks of zyainfal/One-Shot-Face-Swapping-on-Megapixels @f01b195 (CC BY-NC 4.0), reading
its checkpoints. `hierfe.py` encodes, the face transfer modules FTM, injection or LCR mix, `stylegan2.py` draws.
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
from swapcore.weights import load_strictly, read_parts

from .hierfe import SIZE, HieRFE
from .stylegan2 import load_stylegan2
from .teacher import Teacher

KEPT = 4  # the first latents are the target's, whatever the module
_SUB_BLOCKS = 3


class LCR(nn.Module):
    """Latent code replacement: the first latents of the target, the others of the source. No parameters."""

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Latents (N, L, D) of sources and targets to those of the swaps."""
        return torch.cat([target[:, :KEPT], source[:, KEPT:]], 1)


class TransferCell(nn.Module):
    """Source and target of one latent exchange what each keeps and gains, three times."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        for name in ("source_gain", "source_shift", "target_gain", "target_shift"):
            steps = (nn.Sequential(nn.Linear(2 * dim, dim // 2), nn.ReLU(), nn.Linear(dim // 2, dim)) for _ in "123")
            self.add_module(name, nn.ModuleList(steps))

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        for step in range(_SUB_BLOCKS):
            both = torch.cat([source, target], 1)  # of before the step, for the source and the target
            source = source * self.source_gain[step](both).sigmoid() + self.source_shift[step](both).tanh()
            target = target * self.target_gain[step](both).sigmoid() + self.target_shift[step](both).tanh()
        return source, target


class FTM(nn.Module):
    """The face transfer module: a cell per latent, whose two results are mixed by learned weights.

    66,196,480 parameters at its defaults. The reference's LeakyReLU(True) has slope 1: no activation at all.
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
    """The target's latent normalised, then scaled and shifted by the source's."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm1d(dim, affine=False)
        self.hidden, self.gain, self.shift = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        hidden = F.relu(self.hidden(source))
        return self.out(self.normalize(target) * (1 + self.gain(hidden)) + self.shift(hidden))


class Injection(nn.Module):
    """Two injection steps per latent, around a residual connection. 29,417,472 parameters at its defaults."""

    def __init__(self, latents: int = 18, dim: int = 512) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.ModuleList(InjectionStep(dim) for _ in range(2)) for _ in range(latents - KEPT))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Latents (N, L, D) of sources and targets to those of the swaps."""
        swapped = list(target[:, :KEPT].unbind(1))
        for i, (first, second) in enumerate(self.cells, KEPT):
            swapped.append(second(source[:, i], first(source[:, i], target[:, i])) + target[:, i])
        return torch.stack(swapped, 1)


TRANSFERS = ("ftm", "injection", "lcr")


def build_transfer(name: str, latents: int = 18, dim: int = 512) -> nn.Module:
    """The face transfer module 'ftm', 'injection' or 'lcr': latents (N, L, D) of sources and targets to (N, L, D).

    Raises ValueError for another name.
    """
    if name == "lcr":
        return LCR()
    if name not in TRANSFERS:
        raise ValueError(f"unknown face transfer module '{name}', known: {', '.join(TRANSFERS)}")
    return {"ftm": FTM, "injection": Injection}[name](latents, dim)


class MegaFSTeacher(Teacher):
    """MegaFS of the original files; width, number of latents and resolution are read from the tensors.

    `transfer` is the face transfer module that the first file holds. `refine` encodes the swap once more and draws it
    from its own latents. `rescale` brings the generator's output to [-1, 1]: 'minmax' stretches every image between
    its darkest and its brightest value, as the reference does; 'clamp' cuts what is outside.

    The reference lays the result into the target by a softly eroded mask of face and mouth, from the labels of
    CelebAMask-HQ. That needs a face parser, which is not part of this teacher: `mask` is one, target crops
    (N, 3, H, H) to weights (N, 1, H, H) in [0, 1]. Without it the whole crop is laid in with a soft border, so that
    hair and background are StyleGAN2's reconstruction of them. Wrong files and options raise ValueError.
    """

    name = "megafs"
    FILES = {
        "encoder_and_transfer": "the {ftm,injection,lcr}_final.pth: a dict of `e` (HieRFE) and `s` (transfer module)",
        "generator": "the stylegan2-ffhq-config-f.pth: a dict with `g_ema`",
    }
    # Of the generator alone, which does most of the work: bf16 moves its image by 2 % of its standard deviation, fp16
    # by 0.3 %. Roundings of the latents would be drawn as another face, so what makes them stays in float32.
    autocast = True

    def __init__(
        self,
        weights: Mapping[str, str | Path] | None = None,
        transfer: Literal["ftm", "injection", "lcr"] = "ftm",
        refine: bool = False,
        rescale: Literal["minmax", "clamp"] = "minmax",
        mask: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        masked = getattr(mask, "weight_hash", None) or getattr(mask, "__qualname__", type(mask).__qualname__)
        super().__init__(weights, transfer=transfer, refine=refine, rescale=rescale, mask=masked)
        for option, value, known in (("transfer", transfer, TRANSFERS), ("rescale", rescale, ("minmax", "clamp"))):
            if value not in known:
                raise ValueError(f"teacher '{self.name}': {option}: expected {' or '.join(known)}, got '{value}'")
        self.encoder, self.transfer = load_encoder_and_transfer(self.weights["encoder_and_transfer"], transfer)
        self.generator = load_stylegan2(self.weights["generator"])
        made = {"latents": sum(self.encoder.options["heads"]), "dim": self.encoder.options["dim"]}
        made["channels at 4 pixels"] = made["dim"]
        options = self.generator.options
        taken = (self.generator.latents, options["latent_dim"], options["channels"][4])
        for (what, ours), theirs in zip(made.items(), taken, strict=True):
            if ours != theirs:
                raise ValueError(
                    f"teacher '{self.name}': {what}: {self.weights['generator']} takes {theirs}, "
                    f"{self.weights['encoder_and_transfer']} makes {ours}"
                )
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
        """What the generator makes of latents, laid into the targets."""
        image = self.generator(latents, structure).to(target.dtype)
        if self.rescale == "minmax":
            low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
            image = 2 * (image - low) / (high - low).clamp_min(1e-6) - 1
        image = image.clamp(-1, 1)
        size = target.shape[-1]
        if size < image.shape[-1]:  # pasting samples single points: without this, fine texture would alias
            image = F.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=True)
        swap = self.crop.paste(image, target)
        if self.mask is None:
            return swap
        mask = self.mask(target)
        if mask.shape != (len(target), 1, size, size):
            wanted = (len(target), 1, size, size)
            raise ValueError(f"teacher '{self.name}': mask: expected {wanted}, got {tuple(mask.shape)}")
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
    """Our name of a tensor of the original `e` or `s`: fpn.output2.0.weight -> laterals.1.0.weight. Others stay."""
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
    """Both networks of a file {"e": ..., "s": ...}; states of optimizers beside them stay unread.

    Raises ValueError naming the file and the first tensor that is missing, left over or of another shape.
    """
    parts = read_parts(path, ("e", "s"))
    marks = ["fpn.backbone.conv1.weight", "fpn.output1.0.weight", *(f"mapping{k}.0.convs.0.weight" for k in (1, 2, 3))]
    for key in marks:
        if key not in parts["e"] or parts["e"][key].ndim != 4:
            found = f"shape {tuple(parts['e'][key].shape)}" if key in parts["e"] else "none"
            raise ValueError(f"{path}: e: not a HieRFE: {key}: expected four dimensions, found {found}")
    first, lateral = parts["e"][marks[0]], parts["e"][marks[1]]
    heads = tuple(len({key.split(".")[1] for key in parts["e"] if key.startswith(f"mapping{k}.")}) for k in (1, 2, 3))
    with torch.device("meta"):
        encoder = HieRFE(heads, lateral.shape[0], first.shape[0])
        module = build_transfer(transfer, sum(heads), lateral.shape[0])
    load_strictly(encoder, parts["e"], f"{path}: e", original_to_ours, assign=True)
    load_strictly(module, parts["s"], f"{path}: s", original_to_ours, assign=True)
    return encoder, module
