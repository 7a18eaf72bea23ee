"""Write a folder of synthetic people: `python datasets/synthetic.py FOLDER [--people 100] [--images 4] [--size 256]`.

The folder has the layout of photographs (one subfolder per person) and a manifest.jsonl with identity, attributes,
pose, expression, landmarks and masks; distill/data/synthetic.py documents the rows. The same command again continues
where it was stopped; another size, seed, split or number needs another folder.
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


def main() -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("folder", type=Path, help="output folder")
    parser.add_argument("--people", type=terminal.whole(1), default=100, help="number of people; default: 100")
    parser.add_argument("--images", type=terminal.whole(1), default=4, help="pictures of each person; default: 4")
    parser.add_argument("--size", type=terminal.whole(1, 4096), default=256, help="side in pixels; default: 256")
    parser.add_argument("--seed", type=terminal.whole(0), default=0, help="seed of people and pictures; default: 0")
    parser.add_argument("--split", default="train", help="train (default), val or test; no person is in two splits")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    return terminal.run_command(lambda: write(args))


def write(args: argparse.Namespace) -> None:
    settings = {key: getattr(args, key) for key in ("split", "people", "images", "size", "seed")}
    counts = {args.split: (args.people, args.images)}
    with folder_lock(args.folder):
        synthetic.check_settings(args.folder / "synthetic.json", {**settings, "renderer": synthetic.RENDERER_HASH})
        synthetic.write(args.folder, counts, args.size, args.seed, device=args.device)
    print(f"{args.people * args.images} pictures of {args.people} people: {args.folder / 'manifest.jsonl'}")


if __name__ == "__main__":
    sys.exit(main())
