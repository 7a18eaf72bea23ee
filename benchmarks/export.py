"""Export the original's networks to the formats of phones: sizes beside the printed ones, differences, times.

    python benchmarks/export.py --out FOLDER

The original's weights were never published. Random weights with the normalisation statistics of synthetic faces replace
them, which affects neither size nor speed. The weights of the masks are multiplied by 0.1, because random masks square
large features in every block until rounding errors decide pixels. The last two normalisations of the encoder keep their
initial statistics: they see one number per picture, and statistics of so few numbers would amplify rounding errors.
Identity is not measured, because nothing was learnt. The limit of int8 is one of identity, so its difference is only
reported; a gross one is refused.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from swapcore import start

start.command(__name__)

import torch

import students
from distill.export import convert
from distill.train import batch_norm
from students.export import targets
from students.identity_encoder import CARDS, IdentityEncoder
from students.mobilefsgan import DecoderBlock
from swapcore import terminal
from swapcore.images import to_float


def main() -> str | None:
    parser = terminal.parser(__doc__)
    parser.add_argument("--to", default="all", help=f"all, or some of {','.join(targets.TARGETS)}")
    parser.add_argument("--precision", default="all", help="all, or some of fp32,fp16,int8")
    parser.add_argument("--student", default="mobilefsgan", choices=students.STUDENTS)
    parser.add_argument("--size", type=terminal.whole(32, 4096), default=256, help="pixels; default: 256")
    parser.add_argument("--pairs", type=terminal.whole(1), default=32, help="pairs to compare on; default: 32")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="output folder")
    args = parser.parse_args()
    selected = targets.chosen(args.to.split(","), args.precision.split(","))
    pairs = convert.synthetic_pairs(args.size, args.pairs)
    student = fresh(args.student, args.size, to_float(pairs.source), to_float(pairs.target))
    refused = None
    try:
        convert.export(student, pairs, selected, args.out)
    except ValueError as error:
        refused = f"error: {error}"
    if (args.out / "equality.md").is_file():
        print((args.out / "equality.md").read_text(encoding="utf-8"))
    return refused


def fresh(name: str, size: int, source: torch.Tensor, target: torch.Tensor) -> students.StudentSwapper:
    """A student behind the original's MobileFaceNet; their normalisations have the statistics of these pictures."""
    torch.manual_seed(0)
    encoder = IdentityEncoder(CARDS["mobilefacenet_512"])
    student = students.StudentSwapper(students.build_for(encoder, name, resolution=size), encoder)
    for module in student.modules():
        if isinstance(module, DecoderBlock):
            module.mix.weight.data.mul_(0.1)
    parts = list(zip(source.split(8), target.split(8), strict=True))
    with torch.no_grad():
        batch_norm.calibrate(encoder, parts, lambda part: encoder(part[0]))
        for norm in (encoder.network.head[-1].bn, encoder.network.bn):
            norm.reset_running_stats()
        batch_norm.calibrate(student.generator, parts, lambda part: student(*part))
    student.name, student.weight_hash = name, f"fresh, seed 0, {size} px"
    return student.eval().requires_grad_(False)


if __name__ == "__main__":
    sys.exit(main())
