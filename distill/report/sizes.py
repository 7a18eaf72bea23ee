"""The original's size table, rebuilt: `python -m distill.report.sizes [--out FILE.md]`.

The printed table (HoiM/MobileFSGAN @478175b, README) mixes MB (10^6 bytes) with MiB (2^20) rounded up, and inference
weights with training state. Every network is built here, and the file that has the printed size is saved to a counter
of bytes. A second table has the inference weights alone, in one unit.
"""

from __future__ import annotations

from swapcore import start

start.command(__name__)

import io
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from students.mobilefacenet import MobileFaceNet
from students.mobilefaceswap import MobileFaceSwap
from students.mobilefsgan import MobileFSGAN
from swapcore.files import write_text
from swapcore.irse50 import IRSE50
from swapcore.terminal import markdown_table, parser, run_command
from teachers.faceshifter import AEINet, HEARNet
from teachers.hierfe import HieRFE
from teachers.irse101 import IRSE101
from teachers.megafs import FTM
from teachers.simswap import SimSwapGenerator
from teachers.stylegan2 import StyleGAN2

PUBLISHED = Path(__file__).with_name("published.yaml")
ARCMARGIN_CLASSES = 85_164  # of the margin head in the SimSwap checkpoint; this count gives the published file size
STYLEGAN2_DISCRIMINATOR = 29_012_513 + 256  # parameters of StyleGAN2's discriminator at 1024, which is not built here


class Counter(io.RawIOBase):
    """A file that only counts its bytes."""

    bytes = 0

    def write(self, content) -> int:
        self.bytes += len(content)
        return len(content)


def saved(content: Any, zipped: bool = True) -> int:
    """Bytes of `torch.save(content)`, in the current format or (not zipped) in the older one."""
    counter = Counter()
    torch.save(content, counter, _use_new_zipfile_serialization=zipped)
    return counter.bytes


State = dict[str, torch.Tensor]


def blank(build: Callable[[], nn.Module]) -> tuple[State, State]:
    """The state dict of a network, and the parameters in it. Values are not set, so they take no memory."""
    with torch.device("meta"):
        network = build()
    state = {key: torch.empty_like(tensor, device="cpu") for key, tensor in network.state_dict().items()}
    return state, {key: state[key] for key, _ in network.named_parameters()}


def _with_adam(state: State, parameters: State) -> Any:
    return {"weights": state, "adam": {k: [torch.empty_like(t), torch.empty_like(t)] for k, t in parameters.items()}}


def _with_sgd(state: State, parameters: State) -> Any:
    head = torch.empty(ARCMARGIN_CLASSES, 512)
    momentum = {k: torch.empty_like(t) for k, t in parameters.items()}
    return {"weights": state, "head": head, "momentum": [momentum, torch.empty_like(head)]}


def _with_copy_and_discriminator(state: State, parameters: State) -> Any:
    copy = {k: torch.empty_like(t) for k, t in state.items()}
    return {"g": state, "g_ema": copy, "d": torch.empty(STYLEGAN2_DISCRIMINATOR)}


def _alone(state: State, parameters: State) -> Any:
    return state


@dataclass(frozen=True)
class Part:
    """One file of a system: its network, and the content of the file behind the printed number."""

    build: Callable[[], nn.Module]
    content: Callable[[State, State], Any] = _alone
    zipped: bool = True  # torch.save's current format


PARTS: dict[tuple[str, str], Part] = {
    ("FaceShifter", "AEI-Net"): Part(AEINet),
    ("FaceShifter", "HEAR-Net"): Part(HEARNet),
    ("FaceShifter", "IR-SE-50"): Part(IRSE50),
    ("MegaFS", "HieRFE + FTM"): Part(lambda: nn.ModuleDict({"e": HieRFE(), "s": FTM()}), _with_adam, False),
    ("MegaFS", "StyleGAN2"): Part(StyleGAN2, _with_copy_and_discriminator),
    ("SimSwap", "IR-SE-101"): Part(IRSE101, _with_sgd, False),
    ("SimSwap", "generator"): Part(SimSwapGenerator, zipped=False),
    ("MobileFSGAN", "generator"): Part(MobileFSGAN),
    ("MobileFSGAN", "MobileFaceNet"): Part(MobileFaceNet, zipped=False),
    ("MobileFaceSwap", "IDN and weight generator"): Part(MobileFaceSwap),
}


@dataclass(frozen=True)
class Counted:
    """The cost of a swap: parameters, and 10^9 multiply-adds (torch.utils.flop_counter, halved) at a resolution."""

    parameters: int
    macs_g: float
    resolution: int


def _image(resolution: int) -> Tensor:
    return torch.empty(1, 3, resolution, resolution)


def _counted(resolution: int, *steps: tuple[nn.Module, tuple[Tensor, ...]]) -> Counted:
    """Each step is a network and its inputs."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for network, inputs in steps:
            network.eval()(*inputs)
    parameters = sum(p.numel() for network, _ in steps for p in network.parameters())
    return Counted(parameters, counter.get_total_flops() / 2e9, resolution)


def _idn() -> Counted:
    """The network that runs for each frame: its kernels come from the source, its two heads have their own weights."""
    network, target = MobileFaceSwap().eval(), _image(224)
    with torch.no_grad():
        kernels = network.kernels(torch.empty(1, 512), torch.empty(1, 512, 7, 7))
        with FlopCounterMode(display=False) as counter:
            network.swap(target, kernels)
    heads = sum(p.numel() for part in (network.rgb, network.mask) for p in part.parameters())
    biases = sum(kernel.shape[1] for part in kernels for kernel in part)  # of its convolutions; no code sets them
    return Counted(kernels.count + heads + biases, counter.get_total_flops() / 2e9, 224)


COMPUTED: dict[str, Callable[[], Counted]] = {
    "MobileFaceSwap IDN": _idn,
    "MobileFSGAN generator": lambda: _counted(256, (MobileFSGAN(), (_image(256), torch.empty(1, 512)))),
    "SimSwap with its identity encoder": lambda: _counted(
        224, (SimSwapGenerator(), (_image(224), torch.empty(1, 512))), (IRSE101(), (_image(112),))
    ),
    "FaceShifter AEI-Net with IR-SE-50": lambda: _counted(
        256, (AEINet(), (_image(256), torch.empty(1, 512))), (IRSE50(), (_image(112),))
    ),
}


@cache
def counted(name: str) -> Counted:
    """One of COMPUTED, counted from shapes on the device `meta`, which computes nothing."""
    with torch.device("meta"):
        return COMPUTED[name]()


@cache
def measure() -> list[dict[str, Any]]:
    """A row for each file: printed value, size of the rebuilt file, parameters, inference weights in MB."""
    book = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    printed = {(row["system"], row["part"]): row for row in book["sizes"]["rows"]}
    rows = []
    for (system, name), part in PARTS.items():
        state, parameters = blank(part.build)
        count = sum(tensor.numel() for tensor in parameters.values())
        row = {"system": system, "part": name, "parameters": count, "inference_mb": saved(state) / 1e6}
        if (system, name) in printed:
            size = saved(part.content(state, parameters), part.zipped)
            row |= printed[system, name] | {"mb": size / 1e6, "mib": size / 2**20}
        rows.append(row)
    return rows


def rebuilt(row: dict[str, Any]) -> float | None:
    """Our number in the unit of the printed cell; None where no file has the printed size."""
    if row["unit"] is None:
        return None
    return row["mb"] if row["unit"] == "MB" else float(math.ceil(row["mib"]))


def tables(rows: list[dict[str, Any]]) -> str:
    """Both tables as Markdown."""
    printed = [["system", "file", "printed", "ours", "what the printed number is"]]
    for row in (row for row in rows if "printed" in row):
        ours = f"{row['mb']:.1f} MB = {row['mib']:.1f} MiB"
        explained = f"{row['unit']} of the {row['file']}" if row["unit"] else "no public architecture gives it"
        printed.append([row["system"], row["part"], f"{row['printed']:.1f}", ours, explained])
    totals = [["system", "inference weights, MB", "parameters"]]
    for system in dict.fromkeys(row["system"] for row in rows):
        parts = [row for row in rows if row["system"] == system]
        each = " + ".join(f"{row['inference_mb']:.1f}" for row in parts)
        total = f"**{sum(row['inference_mb'] for row in parts):.1f}**"
        parameters = f"{sum(row['parameters'] for row in parts):,}"
        totals.append([system, f"{each} = {total}" if len(parts) > 1 else total, parameters])
    return f"{markdown_table(printed)}\n\n{markdown_table(totals)}\n"


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--out", type=Path, help="Markdown file to write as well")
    args = options.parse_args()
    return run_command(lambda: show(args.out))


def show(out: Path | None) -> None:
    text = tables(measure())
    print(text)
    if out:
        write_text(out, text)


if __name__ == "__main__":
    sys.exit(main())
