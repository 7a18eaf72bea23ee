"""Draw the sheets of docs/benchmark.md, or with --student that of README.md:

    python experiments/sheets.py [--out docs/benchmark]
    python experiments/sheets.py --student STUDENT.safetensors [--seed 1] --out docs/benchmark

people.png: 36 people. swaps.png: sources, targets, exact swaps. worst.png: large angles, open mouths, hard light, and
identity numbers at their ends. outputs.png: one person with depth, normals, correspondence, segmentation and flow.
video.png: every fifth frame of a sequence, of two people. version_1.png is no output: the old renderer drew it.
student.png: sources, targets, exact swaps and the student's swaps, at its resolution, of people that no training sees;
another seed draws others.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from swapcore import start

start.command(__name__)

import torch
from torch import Tensor
from torch.nn import functional as F

from distill import config
from distill.evaluate.swappers import load_student
from swapcore import terminal
from swapcore.images import save_png, to_uint8
from teachers.exact import (
    ATTRIBUTES,
    OUTPUTS,
    SEGMENTS,
    flow,
    render,
    sample_attributes,
    sample_identities,
    sample_sequence,
)  # fmt: skip

SEED, SIZE, GAP = 2026, 160, 4
PEOPLE = 10  # columns of student.png
# Attributes that are set in each row of the worst cases.
WORST = (
    {"yaw": 35, "pitch": -15}, {"yaw": -35, "pitch": 15}, {"jaw": 0.5, "smile": 1, "brow_raise": 0.8},
    {"light_azimuth": 80, "ambient": 0.28}, {"light_elevation": 65, "light_azimuth": -70}, {},
)  # fmt: skip


def sheet(images: Tensor, columns: int) -> Tensor:
    """Pictures (n, 3, S, S) in [-1, 1] as one (3, H, W), with white gaps."""
    cells = F.pad(images, (GAP // 2,) * 4, value=1.0).split(columns)
    return torch.cat([torch.cat(list(row), 2) for row in cells], 1)


def people() -> Tensor:
    return sheet(render(sample_identities(36, SEED), sample_attributes(36, SEED + 1), SIZE).image, 6)


def swaps() -> Tensor:
    sources, targets = (sample_identities(8, SEED + k) for k in (2, 3))
    own, others = (sample_attributes(8, SEED + k) for k in (4, 5))
    rows = [(sources, own), (targets, others), (sources, others)]
    return sheet(torch.cat([render(i, a, SIZE).image for i, a in rows]), 8)


def worst() -> Tensor:
    identity = sample_identities(8, SEED + 6)
    rows = []
    for k, changes in enumerate(WORST):
        attributes = sample_attributes(8, SEED + 7)
        for name, value in ({"occluder": 0} | changes).items():
            attributes[:, ATTRIBUTES.index(name)] = value
        ends = (identity * 9).clamp(-2.5, 2.5) if k == len(WORST) - 1 else identity
        rows.append(render(ends, attributes, SIZE).image)
    return sheet(torch.cat(rows), 8)


def outputs() -> Tensor:
    identity, frames = sample_identities(1, SEED + 8), sample_sequence(40, SEED + 9)
    drawn = render(identity, frames[:1], 256, extra=OUTPUTS)
    motion, seen = flow(identity, frames[:1], frames[39:], 256)
    near = drawn.depth.clamp(max=16)
    depth = (1 - (near - near.min()) / (near.max() - near.min())) * 2 - 1
    place = torch.nan_to_num((drawn.correspondence - torch.tensor([0, 6.9, 0.6]).view(1, 3, 1, 1)) / 1.6, nan=-1)
    generator = torch.Generator().manual_seed(3)
    palette = torch.rand(len(SEGMENTS), 3, generator=generator) * 2 - 1
    labels = palette[drawn.segmentation[0, 0].long()].permute(2, 0, 1)[None]
    moved = torch.cat([motion / 20, seen.float() * 2 - 1], 1)
    cells = [drawn.image, depth.expand(-1, 3, -1, -1), drawn.normals, place, labels, moved]
    return sheet(torch.cat(cells).clamp(-1, 1), 6)


def video() -> Tensor:
    frames = sample_sequence(60, SEED + 10)[::5]
    persons = sample_identities(2, SEED + 11)
    return sheet(torch.cat([render(p.expand(len(frames), -1), frames, 112).image for p in persons]), len(frames))


def student(path: Path, seed: int) -> Tensor:
    swapper = load_student(path, config.default("sheets", [])).eval()
    size = swapper.generator.options["resolution"]
    sources, targets = (sample_identities(PEOPLE, seed + k) for k in (12, 13))
    own, others = (sample_attributes(PEOPLE, seed + k) for k in (14, 15))
    rows = [render(i, a, size).image for i, a in [(sources, own), (targets, others), (sources, others)]]
    with torch.inference_mode():
        rows.append(swapper(rows[0], rows[1]).clamp(-1, 1))
    return sheet(torch.cat(rows), PEOPLE)


def main() -> None:
    parser = terminal.parser(__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmark", help="default: docs/benchmark")
    parser.add_argument("--student", type=Path, metavar="FILE", help="draw student.png alone, with its swaps")
    parser.add_argument("--seed", type=terminal.whole(0), default=SEED, help=f"of student.png; default: {SEED}")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.student:
        save_png(to_uint8(student(args.student, args.seed)[None])[0], args.out / "student.png", compress_level=9)
        print(args.out / "student.png")
        return
    for draw in (people, swaps, worst, outputs, video):
        path = args.out / f"{draw.__name__}.png"
        save_png(to_uint8(draw()[None])[0], path, compress_level=9)
        print(path)


if __name__ == "__main__":
    sys.exit(terminal.run_command(main))
