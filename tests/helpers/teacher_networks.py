"""The teachers' networks beside the tensors of their reference checkpoints, and small ones for fast tests."""

import json
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from helpers import goldens
from swapcore import irse50
from swapcore.weights import build_with
from teachers import aei_net, hearnet, megafs, simswap
from teachers.hierfe import HieRFE
from teachers.irse101 import IRSE101
from teachers.stylegan2 import StyleGAN2


class Reference(NamedTuple):
    build: Callable[[], nn.Module]
    rename: Callable[[str], str]  # name in the reference's checkpoint -> ours
    parameters: int


# By the name of the golden.
REFERENCES = {
    "faceshifter_aei": Reference(aei_net.AEINet, aei_net.original_to_ours, 184_343_381),
    "mindslab_aei": Reference(
        lambda: aei_net.AEINet("mindslab", embedding_dim=256), aei_net.original_to_ours, 439_313_606
    ),
    "faceshifter_hearnet": Reference(hearnet.HEARNet, hearnet.original_to_ours, 16_663_043),
    "arcface_irse50": Reference(irse50.IRSE50, irse50.original_to_ours, 43_797_696),
    "simswap_generator": Reference(simswap.SimSwapGenerator, simswap._renamer({}), 55_051_779),
    "simswap_arcface": Reference(IRSE101, str, 52_193_215),
    "megafs_hierfe": Reference(HieRFE, megafs.original_to_ours, 242_013_248),
    "megafs_ftm": Reference(lambda: megafs.build_transfer("ftm"), megafs.original_to_ours, 66_196_480),
    "megafs_injection": Reference(lambda: megafs.build_transfer("injection"), megafs.original_to_ours, 29_417_472),
    "megafs_stylegan2": Reference(StyleGAN2, str, 30_370_060),
}


def entries(golden: str) -> list[list]:
    """Name, shape, type, ... of every tensor of the reference."""
    return json.loads((goldens.FOLDER / f"{golden}.json").read_text())["entries"]


def on_meta(golden: str) -> nn.Module:
    with torch.device("meta"):
        return REFERENCES[golden].build()


def filled(golden: str) -> nn.Module:
    """The network with the golden's weights, through the loader of checkpoints."""
    reference = REFERENCES[golden]
    return build_with(reference.build, goldens.fill(golden), golden, reference.rename).eval()


def originals(network: nn.Module, golden: str) -> dict[str, Tensor]:
    """The tensors of a network of any width or depth under the names of the reference."""
    state, rename = network.state_dict(), REFERENCES[golden].rename
    named = {entry[0]: state[rename(entry[0])] for entry in entries(golden) if rename(entry[0]) in state}
    assert len(named) == len(state)
    return named


def lively(network: nn.Module) -> nn.Module:
    """Linear layers that are nearly zero at the start would hide the embedding."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5)
    return network.eval()


DIM, CHANNELS = 16, {4: 16, 8: 12, 16: 8, 32: 6}  # of the small StyleGAN2


def small_stylegan2(seed: int = 0, resolution: int = 32) -> StyleGAN2:
    """With noise and biases that a fresh network has at zero."""
    torch.manual_seed(seed)
    generator = StyleGAN2(resolution, CHANNELS if resolution == 32 else {**CHANNELS, 64: 4}, DIM)
    for name, parameter in generator.named_parameters():
        if name.endswith("noise.weight"):
            nn.init.constant_(parameter, 0.3)
        elif name.endswith("bias") and "modulation" not in name:
            nn.init.normal_(parameter, std=0.3)
    return generator.eval().requires_grad_(False)


def latents(seed: int, count: int = 3, length: int = 8) -> Tensor:
    return torch.randn(count, length, DIM, generator=torch.Generator().manual_seed(seed))
