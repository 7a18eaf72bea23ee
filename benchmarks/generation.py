"""Swaps per second of every teacher network, in bf16 and fp32, and the share of time outside its forward:

python benchmarks/generation.py                                    # full width at native resolution: for a GPU
python benchmarks/generation.py simswap_224 --precisions fp32 --batch 2 --pairs 4
python benchmarks/generation.py --quick                            # narrow networks: does everything run?

Weights are random, which does for timing and for nothing else: the swaps are noise. The classes, their crops and the
stage around them are those that real weights go through; `benchmarks/pseudo_gt.py` times teachers with weights.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from accelerate import Accelerator

from benchmarks import pseudo_gt as stage
from distill.data import prepare as data
from distill.pseudo_gt.quality import DTYPES
from distill.schema import Data, Experiment, PseudoGT, Teacher
from swapcore.hardware import environment
from teachers import faceshifter, megafs, simswap
from teachers.aei_net import AEINet
from teachers.hearnet import HEARNet
from teachers.hierfe import HieRFE
from teachers.irse50 import IRSE50
from teachers.irse101 import IRSE101
from teachers.stylegan2 import StyleGAN2


class Embedder(torch.nn.Module):
    """IR-SE-50 behind the crop that FaceShifter gives it: canonical crops of 256 pixels to unit embeddings."""

    def __init__(self, network: IRSE50) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-1] != 256:
            images = torch.nn.functional.interpolate(images, (256, 256), mode="bilinear", align_corners=False)
        return self.network(faceshifter.arcface_112(images))[0]


def _faceshifter(folder: Path, quick: bool, refined: bool) -> faceshifter.FaceShifterTeacher:
    """AEI-Net with IR-SE-50, with HEAR-Net where `refined`, at 256 pixels."""
    width, path = 8 if quick else 64, folder / f"faceshifter-{refined}.safetensors"
    refiner = HEARNet(width).eval() if refined else None
    faceshifter.save_faceshifter(path, AEINet(width=width).eval(), refiner)
    encoder = IRSE50().eval()
    teacher = faceshifter.FaceShifterTeacher(
        {"generator": path}, lambda faces: encoder(faceshifter.arcface_112(faces))[0]
    )
    teacher.identity_network = encoder  # so that it moves with the teacher and is counted
    teacher._embed = lambda images, native: teacher.identity_encoder(images)
    return teacher


def _simswap(folder: Path, size: int) -> simswap.SimSwapTeacher:
    """The generator of that size with IR-SE-101."""
    networks = {"load_generator": lambda *_: simswap.SimSwapGenerator(size).eval()}
    networks["load_irse101"] = lambda *_: IRSE101().eval()
    with patch.multiple(simswap, **networks):
        return simswap.SimSwapTeacher({part: _empty(folder) for part in simswap.SimSwapTeacher.FILES})


def _megafs(folder: Path, quick: bool) -> megafs.MegaFSTeacher:
    """HieRFE, face transfer module and StyleGAN2."""
    if quick:
        encoder, size, channels, dim = HieRFE((2, 4, 4), 32, 4), 64, {4: 32, 8: 16, 16: 16, 32: 8, 64: 8}, 32
    else:
        encoder, size, channels, dim = HieRFE(), 1024, None, 512
    transfer, generator = (
        megafs.build_transfer("ftm", sum(encoder.options["heads"]), dim),
        StyleGAN2(size, channels, dim),
    )
    networks = {"load_encoder_and_transfer": lambda *_: (encoder.eval(), transfer.eval())}
    networks["load_stylegan2"] = lambda *_: generator.eval()
    with patch.multiple(megafs, **networks):
        return megafs.MegaFSTeacher({part: _empty(folder) for part in megafs.MegaFSTeacher.FILES})


def _empty(folder: Path) -> Path:
    path = folder / "random"
    path.touch()
    return path


# name -> (native resolution, what builds it in a folder, narrow or not)
NETWORKS: dict[str, tuple[int, Callable]] = {
    "faceshifter": (256, lambda folder, quick: _faceshifter(folder, quick, refined=False)),
    "faceshifter_refined": (256, lambda folder, quick: _faceshifter(folder, quick, refined=True)),
    "simswap_224": (224, lambda folder, quick: _simswap(folder, 224)),
    "simswap_512": (512, lambda folder, quick: _simswap(folder, 512)),
    "megafs": (1024, lambda folder, quick: _megafs(folder, quick)),
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; all by default")
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=["bf16", "fp32"])
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--people", type=int, default=16, help="synthetic people, two pictures each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="64 px, 4 pairs, narrow networks where they may be")
    parser.add_argument("--out", type=Path, help="JSON with everything that was found")
    args = parser.parse_args(arguments)
    for name in args.networks:
        if name not in NETWORKS:
            parser.error(f"unknown network '{name}'; known: {', '.join(NETWORKS)}")
    if args.quick:
        args.pairs, args.batch, args.people = 4, 2, 3
    torch.set_num_threads(args.threads)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    facts, rows = environment(), []
    where = facts["gpu"] if accelerator.device.type == "cuda" else f"{facts['processor']}, {args.threads} threads"
    print(f"torch {torch.__version__}, {where}, commit {facts['commit'][:10]}, random weights, batch {args.batch}")
    for name in args.networks or NETWORKS:
        native, build = NETWORKS[name]
        size = 64 if args.quick else native
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            teacher = build(Path(folder), args.quick).eval().requires_grad_(False)
            people = Data(resolution=size, train_people=args.people, val_people=2, test_people=2, test_images=2)
            exp = Experiment(name="benchmark", runs=folder, stages=("data", "pseudo_gt"), data=people)
            data.run(exp, accelerator, stage.Quiet())
            for precision in args.precisions:
                settings = PseudoGT(
                    teachers=(Teacher(teacher.name, label=name),), pairs=args.pairs, shard_size=args.pairs,
                    batch_size=args.batch, precision=precision, destination=f"{folder}/{precision}",
                )  # fmt: skip
                timed = Experiment(**{**vars(exp), "pseudo_gt": settings})
                row = {"network": name, "size": size, "precision": precision, "parameters": _count(teacher)}
                rows.append({**row, **stage.timings(timed, accelerator.device, teacher)})
                print(f"{size:5} px {precision} {stage.say(name, rows[-1])}", flush=True)
    if args.out:
        args.out.write_text(json.dumps({"rows": rows, "environment": facts}, indent=1) + "\n")


def _count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


if __name__ == "__main__":
    main()
