"""The original's networks in the formats of phones: sizes beside the printed ones, difference from PyTorch, time:

python benchmarks/export.py --out FOLDER

Nobody published their weights, so these are fresh, with the statistics of synthetic faces; they decide neither size nor
speed. The masks start small: fresh ones square what is too large, block after block, until the last bit of a number
decides a pixel. The encoder's last two normalisations, which get one number a picture, stay fresh: statistics of so few
would enlarge what the pictures differ in, and all rounding with it. Identities are not judged, as nothing was learnt:
of int8, which is judged by them, the difference is told, and refused only where it is gross.
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

import students
from distill.export import convert
from distill.train import batch_norm
from students.export import targets
from students.identity_encoder import CARDS, IdentityEncoder, build_network
from students.mobilefsgan import DecoderBlock
from swapcore.images import to_float


def main() -> str | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", default="all", help=f"all, or of {','.join(targets.TARGETS)}")
    parser.add_argument("--precision", default="all", help="all, or of fp32,fp16,int8")
    parser.add_argument("--student", default="mobilefsgan", choices=students.STUDENTS)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=32, help="compared on so many")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    wanted = targets.chosen(args.to.split(","), args.precision.split(","))
    pairs = convert.synthetic_pairs(args.size, args.pairs)
    student = fresh(args.student, args.size, to_float(pairs.source), to_float(pairs.target))
    refused = None
    try:
        convert.export(student, pairs, wanted, args.out)
    except ValueError as error:
        refused = f"error: {error}"
    print((args.out / "equality.md").read_text(encoding="utf-8"))
    return refused


def fresh(name: str, size: int, source: torch.Tensor, target: torch.Tensor) -> students.StudentSwapper:
    """A student behind the original's MobileFaceNet, both with the statistics that these pictures give."""
    torch.manual_seed(0)
    card = CARDS["mobilefacenet_512"]
    network = build_network(card)
    encoder = IdentityEncoder(network, card)
    options = {"resolution": size, "embedding_dim": card.embedding_dim}
    if getattr(students.STUDENTS[name], "needs_map", False):
        options["map_shape"] = list(encoder.map_shape)
    student = students.StudentSwapper(students.build(name, **options), encoder)
    for module in student.modules():
        if isinstance(module, DecoderBlock):
            module.mix.weight.data.mul_(0.1)
    parts = list(zip(source.split(8), target.split(8), strict=True))
    with torch.no_grad():
        batch_norm.calibrate(encoder, parts, lambda part: encoder(part[0]))
        for norm in (network.head[-1].bn, network.bn):
            norm.reset_running_stats()
        batch_norm.calibrate(student.generator, parts, lambda part: student(*part))
    student.name, student.weight_hash = name, f"fresh, seed 0, {size} px"
    return student.eval().requires_grad_(False)


if __name__ == "__main__":
    sys.exit(main())
