"""The discriminators: one independent PatchGAN for each scale of a picture.

Own implementations. MobileFSGAN's (HoiM/MobileFSGAN @478175b, 2,107,923 parameters at its defaults) sees the
generator's own images at full, half and quarter resolution, so gradients enter at every scale. FaceShifter's
(taotaonice/FaceShifter @376b09e, 46,047,555 parameters) is wider, deeper and normalises every picture by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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


def _normalised_patch_gan(ndf: int, layers: int) -> nn.Sequential:
    channels = [ndf << min(level, 3) for level in range(layers)]
    modules: list[nn.Module] = [nn.Conv2d(3, ndf, 4, 2, padding=2), nn.LeakyReLU(0.2)]
    for level, outputs in enumerate([*channels[1:], channels[-1]]):
        stride = 2 if level + 1 < layers else 1
        modules += [nn.Conv2d(channels[level], outputs, 4, stride, padding=2), nn.InstanceNorm2d(outputs)]
        modules.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*modules, nn.Conv2d(channels[-1], 1, 4, padding=2))


class MultiScaleDiscriminator(nn.Module):
    """PatchGANs. ndf: channels of the first layer, doubled in each further one. layers: how many have stride 2.

    The vectors of the spectral norm are buffers, so a resumed run continues with the same power iteration.
    Raises ValueError on an option below 1.
    """

    patch_gan = staticmethod(_patch_gan)
    per_picture = False  # whether every logit depends on its own picture alone

    def __init__(self, ndf: int = 16, layers: int = 4, scales: int = 3) -> None:
        super().__init__()
        self.options = {"ndf": ndf, "layers": layers, "scales": scales}
        for option, value in self.options.items():
            if value < 1:
                raise ValueError(f"{option}: expected at least 1, got {value}")
        self.patches = nn.ModuleList(self.patch_gan(ndf, layers) for _ in range(scales))

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


class PyramidDiscriminator(MultiScaleDiscriminator):
    """FaceShifter's, taotaonice/FaceShifter @376b09e. Channels are doubled up to eight times ndf. Its logit maps
    are 7, 5 and 4 pixels wide from images of 256, 128 and 64 at the defaults."""

    patch_gan = staticmethod(_normalised_patch_gan)
    per_picture = True

    def __init__(self, ndf: int = 64, layers: int = 6, scales: int = 3) -> None:
        super().__init__(ndf, layers, scales)


DISCRIMINATORS = {"multi_scale": MultiScaleDiscriminator, "pyramid": PyramidDiscriminator}


def build(options: Mapping[str, Any]) -> nn.Module:
    """A discriminator of DISCRIMINATORS by `kind` (default: multi_scale), with its other options.

    Raises ValueError for an unknown kind (it lists the known kinds), an unknown option or a wrong value.
    """
    kind = options.get("kind", "multi_scale")
    if kind not in DISCRIMINATORS:
        raise ValueError(f"unknown discriminator '{kind}', known: {', '.join(DISCRIMINATORS)}")
    try:
        return DISCRIMINATORS[kind](**{key: value for key, value in options.items() if key != "kind"})
    except TypeError as error:
        raise ValueError(f"discriminator '{kind}': {error}") from None
