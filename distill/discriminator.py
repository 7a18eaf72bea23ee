"""The discriminator of multi-scale gradients: one PatchGAN for each of the generator's output scales.

Own implementation of the network of HoiM/MobileFSGAN @478175b (2,107,923 parameters at its defaults). The three are
independent and see the generator's own images at full, half and quarter resolution, so gradients enter at every scale.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


def _patch_gan(ndf: int, layers: int) -> nn.Sequential:
    channels = [3, *(ndf << level for level in range(layers + 1))]
    modules: list[nn.Module] = []
    for level, (inputs, outputs) in enumerate(zip(channels, channels[1:], strict=False)):
        stride = 2 if level < layers else 1
        modules.append(spectral_norm(nn.Conv2d(inputs, outputs, 4, stride, padding=2)))
        if level:
            modules.append(nn.BatchNorm2d(outputs))
        modules.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*modules, spectral_norm(nn.Conv2d(channels[-1], 1, 4, padding=2)))


class MultiScaleDiscriminator(nn.Module):
    """Options: ndf, channels of the first layer, doubled at every further one; layers of stride 2; scales.

    The vectors of the spectral norm are buffers, so a resumed run continues with the same power iteration.
    Raises ValueError on an option below 1.
    """

    def __init__(self, ndf: int = 16, layers: int = 4, scales: int = 3) -> None:
        super().__init__()
        for option, value in (("ndf", ndf), ("layers", layers), ("scales", scales)):
            if value < 1:
                raise ValueError(f"{option}: expected at least 1, got {value}")
        self.options = {"ndf": ndf, "layers": layers, "scales": scales}
        self.patches = nn.ModuleList(_patch_gan(ndf, layers) for _ in range(scales))

    def forward(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Images (N, 3, R, R), (N, 3, R/2, R/2), ... in [-1, 1], one per scale, to logit maps (N, 1, r, r) of each.

        r is R / 2^layers + 3 (19, 11 and 7 from 256, 128 and 64 at the defaults). Raises ValueError on another number
        of images or another shape.
        """
        if len(images) != len(self.patches):
            raise ValueError(f"images: expected {len(self.patches)} scales, got {len(images)}")
        for scale, image in enumerate(images):
            if image.ndim != 4 or image.shape[1] != 3:
                raise ValueError(f"images[{scale}]: expected (N, 3, R, R), got {tuple(image.shape)}")
        return [patch(image) for patch, image in zip(self.patches, images, strict=True)]


_SPECTRAL_NORM = {
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}


def original_to_ours(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of HoiM/MobileFSGAN @478175b, with its older names of the spectral norm, under our names.

    Raises ValueError for a key the original does not have.
    """
    state = {}
    for key, tensor in checkpoint.items():
        match = re.fullmatch(r"(?:module\.)?discriminator_(256|128|64)\.model\.(\d+)\.(\w+)", key)
        if not match:
            raise ValueError(f"not a tensor of a MobileFSGAN discriminator: {key}")
        scale = ("256", "128", "64").index(match[1])
        state[f"patches.{scale}.{match[2]}.{_SPECTRAL_NORM.get(match[3], match[3])}"] = tensor
    return state
