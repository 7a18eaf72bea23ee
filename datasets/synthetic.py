"""Write a folder of synthetic people: `python datasets/synthetic.py FOLDER [--people 100] [--images 4] [--size 256]`.

The folder has the layout of photographs (one subfolder per person) and a manifest.jsonl with identity, attributes,
pose, expression, landmarks and masks; distill/data/synthetic.py documents the rows. `--video N` writes videos of N
frames in place of pictures; their exact swaps are known frame by frame. The same command again continues where it was
stopped; other settings need another folder.
"""

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder must not be searched for `synthetic`

from swapcore import start

start.command(__name__, resumes=True)

import torch

from distill.data import synthetic
from swapcore import terminal
from swapcore.locks import folder_lock
from teachers.exact import FRAMES_PER_SECOND, LARGEST, OUTPUTS, SMALLEST


def main() -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("folder", type=Path, help="output folder")
    parser.add_argument("--people", type=terminal.whole(1), default=100, help="number of people; default: 100")
    parser.add_argument("--images", type=terminal.whole(1), help="of each person: pictures (default: 4), or videos (1)")
    text = f"write videos of FRAMES frames, {FRAMES_PER_SECOND} a second, in place of pictures"
    parser.add_argument("--video", type=terminal.whole(1), default=0, metavar="FRAMES", help=text)
    text = f"side in pixels, {SMALLEST} to {LARGEST}; default: 256"
    parser.add_argument("--size", type=terminal.whole(SMALLEST, LARGEST), default=256, help=text)
    text = "write these beside each picture, as NAME.extra.npz: " + ", ".join(OUTPUTS)
    parser.add_argument("--extra", nargs="+", choices=OUTPUTS, default=[], metavar="NAME", help=text)
    text = "slight blur and noise, as of a camera, in half of the pictures or videos"
    parser.add_argument("--sensor", action="store_true", help=text)
    parser.add_argument("--seed", type=terminal.whole(0), default=0, help="seed of people and pictures; default: 0")
    parser.add_argument("--split", default="train", help="train (default), val or test; no person is in two splits")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    return terminal.run_command(lambda: write(args))


def write(args: argparse.Namespace) -> None:
    images = args.images or (1 if args.video else 4)
    kind = synthetic.Kind(args.video, args.sensor, sorted(set(args.extra)))
    settings = {
        "renderer": synthetic.RENDERER, "split": args.split, "people": args.people, "images": images,
        "size": args.size, "seed": args.seed, "video": args.video, "extra": kind.extra, "sensor": args.sensor,
    }  # fmt: skip
    counts = {args.split: (args.people, images)}
    with folder_lock(args.folder):
        synthetic.check_settings(args.folder / "synthetic.json", settings)
        synthetic.write(args.folder, counts, args.size, args.seed, kind=kind, device=args.device)
    number, what = args.people * images, f" in {args.people * images} videos" if args.video else ""
    pictures = number * (args.video or 1)
    print(f"{pictures} pictures{what} of {args.people} people: {args.folder / 'manifest.jsonl'}")


if __name__ == "__main__":
    sys.exit(main())
