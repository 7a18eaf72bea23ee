"""State dicts of the original discriminators under the names of ours, to compare the networks."""

import re
from collections.abc import Mapping

from torch import Tensor

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


def pyramid_original_to_ours(checkpoint: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of taotaonice/FaceShifter @376b09e's discriminator under the names of `PyramidDiscriminator`.

    The original stores the network of the smallest scale first. Raises ValueError for a key it does not have.
    """
    matches = {key: re.fullmatch(r"(?:module\.)?layer(\d+)\.(\d+\.\w+)", key) for key in checkpoint}
    for key, match in matches.items():
        if not match:
            raise ValueError(f"not a tensor of a FaceShifter discriminator: {key}")
    last = max((int(match[1]) for match in matches.values()), default=0)
    return {f"patches.{last - int(matches[key][1])}.{matches[key][2]}": tensor for key, tensor in checkpoint.items()}
