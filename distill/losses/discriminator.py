"""The discriminators: one independent PatchGAN for each scale of a picture.

Own implementations. MobileFSGAN's (HoiM/MobileFSGAN @478175b, 2,107,923 parameters at its defaults) sees the
generator's own images at full, half and quarter resolution, so gradients enter at every scale. FaceShifter's
(taotaonice/FaceShifter @376b09e, 46,047,555 parameters) is wider, deeper and normalises every picture by itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
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


def normalised_weights(convs: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """The weights (O, I, k, k) of convolutions of one shape, each divided by its spectral norm.

    It computes what `spectral_norm` computes when a weight is read, with its tensors (original, _u and _v, which one
    power iteration moves on in training mode), but in a few operations for all convolutions together.
    """
    originals = [conv.parametrizations.weight.original for conv in convs]
    norms = [conv.parametrizations.weight[0] for conv in convs]
    outputs, inputs, height, width = originals[0].shape
    # Rows in the order of channels last, the layout that convolutions want. `_v` has the order of a contiguous weight.
    stacked = torch.stack([w.permute(0, 2, 3, 1) for w in originals])
    matrices = stacked.flatten(2)
    v = torch.stack([n._v.view(inputs, height, width).permute(1, 2, 0) for n in norms]).flatten(1).unsqueeze(2)
    with torch.autocast(matrices.device.type, enabled=False):
        if norms[0].training:
            with torch.no_grad():
                u = F.normalize(torch.bmm(matrices, v), dim=1, eps=norms[0].eps)
            # With u fixed, the norm of W^T u is u^T W v of the new v; so is its gradient, the outer product of u and v.
            product = torch.bmm(u.mT, matrices)
            sigma = torch.linalg.vector_norm(product, dim=2, keepdim=True)
            with torch.no_grad():
                v = product / sigma.clamp_min(norms[0].eps)
                v = v.view(-1, height, width, inputs).permute(0, 3, 1, 2).flatten(1)
                torch._foreach_copy_([t for n in norms for t in (n._u, n._v)], _alternate(u.flatten(1), v))
        else:
            u = torch.stack([n._u for n in norms]).unsqueeze(1)
            sigma = torch.bmm(u, torch.bmm(matrices, v))
        weights = stacked / sigma[..., None, None]
    kind = weights.device.type
    if torch.is_autocast_enabled(kind):  # one cast, where every convolution would make its own
        weights = weights.to(torch.get_autocast_dtype(kind))
    return weights.permute(0, 1, 4, 2, 3).unbind()


def _alternate(first: Tensor, second: Tensor) -> list[Tensor]:
    """Rows of two matrices: first, second, first, second, ..."""
    return [row for pair in zip(first.unbind(), second.unbind(), strict=True) for row in pair]


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

        r is about R / 2^layers + 3 (19, 11 and 7 from 256, 128 and 64 at the defaults). Raises ValueError on another
        number of images or another shape.
        """
        if len(images) != len(self.patches):
            raise ValueError(f"images: expected {len(self.patches)} scales, got {len(images)}")
        for scale, image in enumerate(images):
            if image.ndim != 4 or image.shape[1] != 3:
                raise ValueError(f"images[{scale}]: expected (N, 3, R, R), got {tuple(image.shape)}")
        maps = list(images)
        for layers in zip(*self.patches, strict=True):  # the same layer of every scale
            if parametrize.is_parametrized(layers[0]):
                weights = normalised_weights(layers)
                maps = [
                    F.conv2d(x, weight, layer.bias, layer.stride, layer.padding)
                    for layer, x, weight in zip(layers, maps, weights, strict=True)
                ]
            else:
                maps = [layer(x) for layer, x in zip(layers, maps, strict=True)]
        return maps


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
    check(options)
    own = {key: value for key, value in options.items() if key != "kind"}
    return DISCRIMINATORS[options.get("kind", "multi_scale")](**own)


def check(options: Mapping[str, Any]) -> None:
    """Raise ValueError where `build` does not know the kind or an option; it builds nothing."""
    kind = options.get("kind", "multi_scale")
    if kind not in DISCRIMINATORS:
        raise ValueError(f"unknown discriminator '{kind}', known: {', '.join(DISCRIMINATORS)}")
    try:
        inspect.signature(DISCRIMINATORS[kind]).bind(**{key: v for key, v in options.items() if key != "kind"})
    except TypeError as error:
        raise ValueError(f"discriminator '{kind}': {error}") from None
