"""Sharpness: the gradient energy of the swap inside the face, as a share of the reference's.

The reference is the exact swap where it is known, else the target: a swap shows another person, but as sharply as the
target. Gradient energy is a usual measure of focus (Tenengrad: Tenenbaum, 1970; compared by Pertuz et al., Pattern
Recognition 2013). Noise has it too, so the same metric also measures where the gradients lie: their correlation with
the exact swap's, which noise and wrong edges lower.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from swapcore.images import REC_601

from .exact_match import PSNR_CAP_DB
from .measured import Measured, mean_of
from .metric import Metric, Value, View
from .pairs import Pairs, inner_face, inner_face_source


def luminance(images: Tensor) -> Tensor:
    """(n, 3, H, W) uint8 RGB to luminance by Rec. 601, (n, H, W) float64 in [0, 1]."""
    return torch.einsum("c,nchw->nhw", torch.tensor(REC_601, dtype=torch.float64), images.double()) / 255


def reference(pairs: Pairs) -> tuple[Tensor, str]:
    """The pictures that a swap is compared with, (N, 3, H, H) uint8, and their name in protocols: the exact swaps, or
    the targets where those are unknown."""
    return (pairs.target, "the target") if pairs.exact is None else (pairs.exact, "the exact swap")


def counted(inner: Tensor) -> Tensor:
    """The pixels of an inner face (n, 1, H, W) bool whose right and lower neighbours belong to it too, (n, H, W)."""
    inner = pad(inner[:, 0], (0, 1, 0, 1))
    return inner[:, :-1, :-1] & inner[:, :-1, 1:] & inner[:, 1:, :-1]


def gradients(images: Tensor, where: Tensor) -> Tensor:
    """Forward differences of the luminance in x and y, (n, 2, H, W) float64; 0 outside `where` (n or 1, H, W) bool."""
    light = luminance(images)
    x = pad(light[:, :, 1:] - light[:, :, :-1], (0, 1))
    y = pad(light[:, 1:] - light[:, :-1], (0, 0, 0, 1))
    return torch.stack([x, y], 1) * where[:, None]


def sharpness(view: View) -> dict[str, Measured]:
    """sharpness: energy of the swap's gradients / energy of the reference's, of each pair, then the mean over pairs;
    from 0, 1 is the reference's own. Pairs whose reference has no energy are left out and counted in the details.

    Where the exact swap is known also gradient_correlation: the sum of (swap's gradient . exact swap's) / the root of
    the product of both energies, in [-1, 1], 1 for the exact swap, 0 for a swap without any gradient, since it has none
    of the exact swap's; and face_psnr_db: PSNR over the same pixels, in decibels, at most 99.
    """
    pairs = view.pairs
    compared, against = reference(pairs)
    found = torch.cat(list(_compared(view, compared)))
    own, other, product, pixels, square = found.unbind(1)
    protocol = {**view.protocol(), "against": against, "where": f"the inner face, {inner_face_source(pairs)}"}
    of_gradients = {
        "luminance": "Rec. 601",
        "gradient": "forward differences; of pixels with their right and lower neighbours in the inner face",
    }
    has, values = other > 0, {}
    counts = {"pairs_without": int((~has).sum())}
    if has.any():
        values["sharpness"] = mean_of(own[has] / other[has], {**protocol, **of_gradients}, counts, has)
    if pairs.exact is None:
        return values
    if has.any():
        same = product / (own * other).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        values["gradient_correlation"] = mean_of(same[has], {**protocol, **of_gradients}, counts, has)
    if (seen := pixels > 0).any():
        psnr = (10 * torch.log10(255**2 / (square / (3 * pixels)))).clamp(max=PSNR_CAP_DB)
        counts = {"pairs_without": int((~seen).sum()), "identical_pairs": int((square[seen] == 0).sum())}
        values["face_psnr_db"] = mean_of(psnr[seen], {**protocol, "cap_db": PSNR_CAP_DB}, counts, seen)
    return values


def _compared(view: View, compared: Tensor) -> Iterator[Tensor]:
    """Of each batch (n, 5) float64: gradient energies of swap and reference, the sum of their products, the number of
    pixels, and the sum of the squared differences of their 8-bit values."""
    inner = inner_face(view.pairs).expand(len(compared), -1, -1, -1)
    columns = (images.split(view.batch_size) for images in (view.swaps, compared, inner))
    for swap, other, face in zip(*columns, strict=True):
        where = counted(face)
        a, b = gradients(swap, where), gradients(other, where)
        square = (swap.double() - other.double()).square() * where[:, None]
        sums = [v.flatten(1).sum(1) for v in (a * a, b * b, a * b, where.double(), square)]
        yield torch.stack(sums, 1)


SHARPNESS = Metric(
    sharpness,
    (
        Value("sharpness", "sharpness", "of the reference's", "{:.3f}", "target"),
        Value("gradient_correlation", "gradient correlation", "", "{:.3f}", "higher"),
        Value("face_psnr_db", "face PSNR dB", "dB", "{:.2f}", "higher"),
    ),
)
