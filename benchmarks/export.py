"""Export the original's networks to the formats of phones: sizes beside the printed ones, differences, times.

    python benchmarks/export.py --out FOLDER

Their weights were never published. These are fresh ones with the statistics of synthetic faces, which affects neither
size nor speed. The masks start small: fresh masks square large features, block after block, until the last bit of a
number decides a pixel. The last two normalisations of the encoder see one number per picture and stay fresh: statistics
of so few numbers would amplify the differences between pictures, and all rounding with them. Identities are not
measured, as nothing was learnt. For int8, whose limit is one of identities, the difference is only reported; a gross
one is refused.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from accelerate import Accelerator

import students
from distill import config
from distill.data import prepare as data
from distill.evaluate import pairs
from distill.export import convert as export
from distill.tracking import Tracker
from distill.train import batch_norm
from students.export import targets
from students.identity_encoder import CARDS, IdentityEncoder
from students.mobilefsgan import DecoderBlock
from swapcore.images import to_float


def main() -> str | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", default="all", help=f"all, or some of {','.join(targets.TARGETS)}")
    parser.add_argument("--precision", default="all", help="all, or some of fp32,fp16,int8")
    parser.add_argument("--student", default="mobilefsgan", choices=students.STUDENTS)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=32, help="number of pairs to compare on")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args()
    wanted = targets.chosen(args.to.split(","), args.precision.split(","))
    with tempfile.TemporaryDirectory() as folder:
        people = {"train_people": 2, "val_people": 2, "test_people": 32, "test_images": 2, "resolution": args.size}
        exp = config.default("export", [("runs", folder), ("eval.pairs", args.pairs), ("data", people)])
        data.run(exp, Accelerator(cpu=True), Tracker(exp, enabled=False))
        listed = pairs.test_pairs(exp)[0]
    student = fresh(args.student, args.size, to_float(listed.source), to_float(listed.target))
    refused = None
    try:
        export.export(student, listed, wanted, args.out, judge=None)
    except ValueError as error:
        refused = f"error: {error}"
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
