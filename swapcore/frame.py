"""The canonical crop of a face, and the crops that other networks expect, taken from it and pasted back.

Every crop is an alignment of the same five points. One constant similarity transform therefore converts between two of
them for all pictures, differentiably. The templates are those of public face swappers (facefusion/facefusion,
face_helper's warp templates, read 2026-08).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Left eye, right eye, nose tip, left mouth corner, right mouth corner, as (x, y) fractions of the crop's side.
CANONICAL = ((0.37469, 0.47168), (0.62137, 0.47203), (0.49590, 0.62828), (0.38824, 0.73359), (0.60844, 0.73391))
TEMPLATES = {
    "canonical": CANONICAL,
    "arcface_112_v1": ((0.35473, 0.45659), (0.64527, 0.45659), (0.5, 0.61154), (0.37913, 0.77688), (0.62087, 0.77688)),
    "arcface_112_v2": (
        (0.34192, 0.46157),
        (0.65653, 0.45983),
        (0.50023, 0.64051),
        (0.37098, 0.8247),
        (0.63152, 0.82325),
    ),
    "arcface_128": ((0.36168, 0.40388), (0.63697, 0.40235), (0.5002, 0.56044), (0.3871, 0.72161), (0.61508, 0.72034)),
    "ffhq_512": ((0.37692, 0.46865), (0.62286, 0.46913), (0.50124, 0.61332), (0.39309, 0.72541), (0.61151, 0.7249)),
    "mtcnn_512": ((0.36563, 0.46734), (0.63305, 0.46586), (0.50019, 0.61943), (0.39033, 0.77599), (0.61179, 0.77476)),
}
# taotaonice/FaceShifter @376b09e: the ArcFace crop is rows and columns 19 to 236 of its 256.
TEMPLATES["faceshifter_256"] = tuple(
    ((218 * x + 19) / 256, (218 * y + 19) / 256) for x, y in TEMPLATES["arcface_112_v2"]
)


def inner_square(images: Tensor) -> Tensor:
    """Rows and columns 26 to 229 of 256 of canonical crops (N, C, H, H): the face with a narrow border."""
    size = images.shape[-1]
    # Rounded up with positive numbers only: torch.jit.trace, which ncnn needs, rounds negative quotients towards zero.
    first, end = (26 * size + 255) // 256, 230 * size // 256
    return images[:, :, first:end, first:end]


def similarity(source: Tensor, target: Tensor) -> Tensor:
    """The similarity transform (2, 3), float64, from points (K, 2) to points (K, 2) by least squares (Umeyama 1991)."""
    source, target = source.double(), target.double()
    a, b = source - source.mean(0), target - target.mean(0)
    cos, sin = (a * b).sum() / a.square().sum(), (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / a.square().sum()
    linear = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])])
    return torch.cat([linear, (target.mean(0) - linear @ source.mean(0))[:, None]], 1)


class Crop(nn.Module):
    """The crop of a template at `size` pixels: `take` cuts it out of canonical crops, `paste` puts it back."""

    def __init__(self, template: str, size: int, feather: float = 0.1) -> None:
        """feather: width of the soft border of a pasted crop, as a fraction of its side.

        Raises ValueError for an unknown template.
        """
        super().__init__()
        if template not in TEMPLATES:
            raise ValueError(f"unknown template '{template}', known: {', '.join(TEMPLATES)}")
        self.template, self.size = template, size
        to_crop = similarity(torch.tensor(CANONICAL), torch.tensor(TEMPLATES[template]))
        square = torch.cat([to_crop, torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)])
        self.register_buffer("to_crop", to_crop.float(), persistent=False)
        self.register_buffer("to_canonical", torch.linalg.inv(square)[:2].float(), persistent=False)
        ramp = torch.linspace(0, 1, size).minimum(torch.linspace(1, 0, size)) / max(feather, 1e-6)
        soft = ramp.clamp(0, 1) if template != "canonical" else torch.ones(size)
        self.register_buffer("mask", (soft[:, None] * soft[None])[None, None], persistent=False)

    def take(self, images: Tensor) -> Tensor:
        """Canonical crops (N, C, H, H) to crops (N, C, size, size), bilinear; outside, the border is repeated."""
        if self.template == "canonical":
            return _resize(images, self.size)
        return _sample(images, self.to_canonical, self.size)

    def paste(self, crops: Tensor, images: Tensor) -> Tensor:
        """Crops (N, 3, size, size) pasted into canonical crops (N, 3, H, H) with a soft border."""
        size = images.shape[-1]
        if self.template == "canonical":
            return _resize(crops, size)
        mask = _sample(self.mask.to(crops.dtype).expand(len(crops), -1, -1, -1), self.to_crop, size, "zeros")
        return images + mask * (_sample(crops, self.to_crop, size) - images)


def _sample(images: Tensor, transform: Tensor, size: int, padding: str = "border") -> Tensor:
    """Images resampled to (N, C, size, size): pixel p is the image at transform(p), in fractions of the side."""
    linear, shift = transform[:, :2], transform[:, 2]
    theta = torch.cat([linear, (2 * shift + linear.sum(1) - 1)[:, None]], 1)  # fractions of [0, 1] to [-1, 1]
    grid = F.affine_grid(theta[None].float(), [1, 1, size, size], align_corners=False).to(images.dtype)
    return F.grid_sample(images, grid.expand(len(images), -1, -1, -1), padding_mode=padding, align_corners=False)


def _resize(images: Tensor, size: int) -> Tensor:
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
