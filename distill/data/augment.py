"""Augmentation: colour jitter, mirroring and pasted occlusions of FSTriplets, as in the original; and drawn objects
held before the faces of all other samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from swapcore.images import REC_601, DataError, decode, list_pictures, named, opened
from teachers import exact

JITTER_SHARE, JITTER, HUE = 0.3, 0.2, 0.01  # brightness, contrast, saturation 1 +- JITTER; hue +- HUE of a turn
GREY = np.array(REC_601)
OCCLUSION_SIDE = (64 / 256, 96 / 256)  # of the picture's side
KEPT_OCCLUSIONS = 1000  # 150 MB of them at 256 pixels


def augment(pictures: torch.Tensor, draws: Sequence[np.random.Generator], grey_share: float) -> torch.Tensor:
    """Mirror half of uint8 pictures (n, 3, H, W), make `grey_share` of them grey, jitter 30 %; returns a copy.

    Follows HoiM/MobileFSGAN @478175b, dataset/dataset.py. Differences: hue is a rotation about the grey axis, not a
    shift in HSV, so that all steps are one affine map of colours; values are clipped once, at the end.
    """
    out = pictures.clone()
    for i, rng in enumerate(draws):
        mirror, grey, jitter = rng.random(3) < (0.5, grey_share, JITTER_SHARE)
        if mirror:
            out[i] = out[i].flip(-1)
        if grey or jitter:
            pixels = out[i].flatten(1).float()
            matrix, offset = _colours(rng, pixels.mean(1).double().numpy(), grey, jitter)
            moved = torch.addmm(torch.from_numpy(offset).float()[:, None], torch.from_numpy(matrix).float(), pixels)
            out[i] = moved.round().clamp(0, 255).byte().view_as(out[i])
    return out


def _colours(rng: np.random.Generator, mean: np.ndarray, grey: bool, jitter: bool) -> tuple[np.ndarray, np.ndarray]:
    """The affine map of colours, (3, 3) and (3,), of one picture with this mean colour."""
    matrix, offset = np.tile(GREY, (3, 1)) if grey else np.eye(3), np.zeros(3)
    if jitter:
        brightness, contrast, saturation = rng.uniform(1 - JITTER, 1 + JITTER, 3)
        angle = 2 * math.pi * rng.uniform(-HUE, HUE)
        cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
        steps = (
            brightness * np.eye(3),
            contrast * np.eye(3),
            saturation * np.eye(3) + (1 - saturation) * np.tile(GREY, (3, 1)),
            math.cos(angle) * np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) / 3,
        )
        for step in rng.permutation(4):
            level = GREY @ (matrix @ mean + offset) if step == 1 else 0.0  # contrast pivots on the mean grey
            matrix, offset = steps[step] @ matrix, steps[step] @ offset + (1 - contrast) * level
    return matrix, offset


class Occlusions:
    """Pictures with an alpha channel, to be pasted over faces of `resolution` pixels. Raises DataError.

    As in the original's code (where their share is 0), they have 64 to 96 of 256 pixels and lie inside the picture.
    Differences: an alpha channel gives the transparency, not the colour white, and the rotation is random.
    """

    def __init__(self, folder: str | Path, resolution: int):
        root = Path(folder)
        self.files = list_pictures(root)[0]
        self.side = round(OCCLUSION_SIDE[1] * resolution)
        self.loaded: dict[int, torch.Tensor] = {}
        if not self.files:
            raise DataError(f"data.occlusions: {root}: {'holds no picture' if root.is_dir() else 'no such folder'}")
        for path in self.files:
            _refuse_opaque(path)

    def paste(self, images: torch.Tensor, draws: Sequence[np.random.Generator]) -> torch.Tensor:
        """Paste one occlusion at a random place, size and angle over all pictures of a sample (n, k, 3, H, W) uint8."""
        which = [int(rng.integers(len(self.files))) for rng in draws]
        overlays = torch.stack([self._load(i) for i in which])
        size, angle, x, y = np.array([rng.uniform((OCCLUSION_SIDE[0], 0, -1, -1), (OCCLUSION_SIDE[1], 1, 1, 1))
                                      for rng in draws]).T  # fmt: skip
        cos, sin = np.cos(2 * math.pi * angle) / size, np.sin(2 * math.pi * angle) / size
        x, y = x * (1 - size), y * (1 - size)
        grid = np.stack([cos, sin, -cos * x - sin * y, -sin, cos, sin * x - cos * y], 1).reshape(-1, 2, 3)
        shape = [len(images), 4, *images.shape[-2:]]
        grid = F.affine_grid(torch.from_numpy(grid).float(), shape, align_corners=False)
        overlay = F.grid_sample(overlays, grid, align_corners=False)[:, None]  # zero, hence transparent, outside
        pasted = images * (1 - overlay[:, :, 3:]) + 255 * overlay[:, :, :3]
        return pasted.round().clamp(0, 255).byte()

    def _load(self, index: int) -> torch.Tensor:
        """(4, side, side) float32 in 0 .. 1, colours multiplied by alpha, padded to a square."""
        if index not in self.loaded:
            if len(self.loaded) >= KEPT_OCCLUSIONS:
                self.loaded.clear()
            pixels = torch.from_numpy(decode(self.files[index], mode="RGBA")).float() / 255
            pixels = torch.cat([pixels[:3] * pixels[3:], pixels[3:]])
            height, width = pixels.shape[1:]
            x, y = max(height - width, 0), max(width - height, 0)
            pixels = F.pad(pixels, (x // 2, x - x // 2, y // 2, y - y // 2))[None]
            size = (self.side, self.side)
            self.loaded[index] = F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)[0]
        return self.loaded[index]


class HeldObjects:
    """Drawn objects (a microphone, a cup, a book, a scarf) that are laid over target and GT of a sample alike. A
    student then keeps what is before a face, even where its teacher paints over it.

    The objects are those of the drawn people, turned, scaled and shifted up and aside at random. `overlays`: (COUNT, 4,
    resolution, resolution) uint8, colours multiplied by the share of the pixel that the object covers, and that share.
    """

    COUNT = 256
    TURN, SCALE, ASIDE, UP = 0.5, (0.8, 1.25), 0.2, 0.35  # radians, times, and sides of the picture

    def __init__(self, resolution: int, seed: int, device: torch.device | None = None) -> None:
        attributes = exact.sample_attributes(self.COUNT, seed)
        attributes[:, exact.ATTRIBUTES.index("occluder")] = 1
        drawn = exact.held_objects(attributes, resolution)
        drawn = torch.cat([drawn[:, :3] * drawn[:, 3:], drawn[:, 3:]], dim=1)
        rng = np.random.default_rng((seed, 2))
        turn, scale, aside, up = rng.uniform(
            (-self.TURN, self.SCALE[0], -self.ASIDE, 0),
            (self.TURN, self.SCALE[1], self.ASIDE, self.UP),
            (self.COUNT, 4),
        ).T
        cos, sin = np.cos(turn) / scale, np.sin(turn) / scale
        grid = np.stack([cos, -sin, 2 * aside, sin, cos, 2 * up], 1).reshape(-1, 2, 3)
        grid = F.affine_grid(torch.from_numpy(grid).float(), list(drawn.shape), align_corners=False)
        # What leaves the picture below goes on where the object is moved up.
        moved = F.grid_sample(drawn, grid, padding_mode="border", align_corners=False)
        self.overlays = (255 * moved).round().clamp(0, 255).byte().to(device or torch.device("cpu"))

    def lay(self, images: torch.Tensor, rows: torch.Tensor, which: torch.Tensor, with_gt: torch.Tensor) -> None:
        """Lay objects `which` (k,) over target and GT of `rows` (k,) of images (n, 3, 3, H, W) uint8, in place. Without
        a GT (with_gt (n,), 0 or 1) that picture stays 0. Nothing waits for the device."""
        rows, which, with_gt = (t.to(images.device, non_blocking=True) for t in (rows, which, with_gt[rows]))
        overlay = self.overlays[which][:, None].float()
        pictures = images[rows, 1:] * (1 - overlay[:, :, 3:] / 255) + overlay[:, :, :3]
        pictures[:, 1] *= with_gt.view(-1, 1, 1, 1)
        images[rows, 1:] = pictures.round().clamp(0, 255).byte()


def _refuse_opaque(path: Path) -> None:
    with opened(path) as picture, named(path):
        mode = None if picture.has_transparency_data else picture.mode
    if mode:
        raise DataError(f"{path}: mode {mode}, not RGBA: an occlusion needs an alpha channel")
