"""Swaps per second of every teacher network, in bf16 and fp32, and the share of time outside its forward:

python benchmarks/generation.py                                    # full width at native resolution: for a GPU
python benchmarks/generation.py simswap_224 --precisions fp32 --batch 2 --pairs 4
python benchmarks/generation.py --quick                            # narrow networks, to check that everything runs

The weights are random, so the swaps are noise and only the times mean something. Classes, crops and the stage around
them are the same as with real weights. `benchmarks/pseudo_gt.py` times teachers with weights.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from swapcore import start

start.command(__name__)

import torch
from accelerate import Accelerator

from benchmarks import pseudo_gt as stage
from distill.data import prepare as data
from distill.pseudo_gt.quality import DTYPES
from distill.schema import Data, Experiment, PseudoGT
from distill.schema import Teacher as TeacherSpec
from distill.tracking import Tracker
from swapcore import terminal
from swapcore.hardware import environment
from swapcore.irse50 import IRSE50
from teachers import Teacher
from teachers.faceshifter import AEINet, FaceShifterTeacher, HEARNet
from teachers.hierfe import HieRFE
from teachers.irse101 import IRSE101
from teachers.megafs import MegaFSTeacher, build_transfer
from teachers.simswap import SimSwapGenerator, SimSwapTeacher
from teachers.stylegan2 import StyleGAN2


def _faceshifter(quick: bool, *, refined: bool = False) -> FaceShifterTeacher:
    """AEI-Net with IR-SE-50, and HEAR-Net if `refined`."""
    width = 8 if quick else 64
    return FaceShifterTeacher.untrained(AEINet(width=width), IRSE50(), HEARNet(width) if refined else None)


def _simswap(size: int) -> SimSwapTeacher:
    """The generator of that size with IR-SE-101."""
    return SimSwapTeacher.untrained(SimSwapGenerator(size), IRSE101())


def _megafs(quick: bool) -> MegaFSTeacher:
    """HieRFE, face transfer module and StyleGAN2."""
    if not quick:
        return MegaFSTeacher.untrained(HieRFE(), build_transfer("ftm"), StyleGAN2())
    channels = {4: 32, 8: 16, 16: 16, 32: 8, 64: 8}
    return MegaFSTeacher.untrained(HieRFE((2, 4, 4), 32, 4), build_transfer("ftm", 10, 32), StyleGAN2(64, channels, 32))


# name -> (native resolution, function that builds the teacher, narrow if its argument is true)
NETWORKS: dict[str, tuple[int, Callable[[bool], Teacher]]] = {
    "faceshifter": (256, _faceshifter),
    "faceshifter_refined": (256, partial(_faceshifter, refined=True)),
    "simswap_224": (224, lambda quick: _simswap(224)),
    "simswap_512": (512, lambda quick: _simswap(512)),
    "megafs": (1024, _megafs),
}


def main(arguments: list[str] | None = None) -> None:
    parser = terminal.parser(__doc__)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; all by default")
    parser.add_argument("--precisions", nargs="+", choices=DTYPES, default=["bf16", "fp32"], help="default: bf16 fp32")
    parser.add_argument("--pairs", type=terminal.whole(1), default=256, help="pairs to swap; default: 256")
    parser.add_argument("--batch", type=terminal.whole(1), default=16, help="pairs per forward pass; default: 16")
    parser.add_argument("--people", type=terminal.whole(1), default=16, help="synthetic people, two pictures each")
    parser.add_argument("--threads", type=terminal.whole(1, 1024), default=1, help="CPU threads; default: 1")
    parser.add_argument("--quick", action="store_true", help="64 px, 4 pairs, narrow networks where possible")
    parser.add_argument("--out", type=Path, help="JSON file for all results")
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
            teacher = build(args.quick)
            people = Data(resolution=size, train_people=args.people, val_people=2, test_people=2, test_images=2)
            exp = Experiment(name="benchmark", runs=folder, stages=("data", "pseudo_gt"), data=people)
            data.run(exp, accelerator, Tracker(exp, enabled=False))
            for precision in args.precisions:
                settings = PseudoGT(
                    teachers=(TeacherSpec(teacher.name, label=name),), pairs=args.pairs, shard_size=args.pairs,
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
