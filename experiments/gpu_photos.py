"""Make a folder of aligned photographs small enough to travel to a GPU: `python experiments/gpu_photos.py FOLDER OUT`

OUT gets every picture of FOLDER, in the same subfolders, as JPEG of 128 px, and at most 30 MB: what may be sent to such
a machine is 64 MB in all. JPEG loses a little; results on such copies are not those on the originals.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from swapcore import start

start.command(__name__)

from PIL import Image

from swapcore import terminal
from swapcore.files import whole_folder
from swapcore.images import decode, list_pictures

MB = 1_000_000


def shrink(folder: Path, out: Path, size: int, quality: int, most_mb: float) -> tuple[int, int]:
    """Write the copies; returns their number and bytes. Raises ValueError where FOLDER has no pictures or one that is
    not square, OUT exists, or the copies are too large; nothing is left in OUT then."""
    pictures, _ = list_pictures(folder)
    if not pictures:
        raise ValueError(f"{folder}: no pictures; expected one subfolder of aligned crops per person")
    if out.exists():
        raise ValueError(f"{out}: exists already; name a new folder")
    written = 0
    with whole_folder(out) as temporary:
        for number, path in enumerate(pictures):
            copy = temporary / path.relative_to(folder).with_name(f"{path.stem}_{path.suffix[1:]}.jpg")
            copy.parent.mkdir(parents=True, exist_ok=True)
            pixels = decode(path)
            if pixels.shape[1] != pixels.shape[2]:
                raise ValueError(f"{path}: {pixels.shape[2]}x{pixels.shape[1]} pixels, not a square crop; remove it")
            picture = Image.fromarray(pixels.transpose(1, 2, 0))
            picture.resize((size, size), Image.Resampling.LANCZOS).save(copy, quality=quality, subsampling=0)
            written += copy.stat().st_size
            if written > most_mb * MB:
                raise ValueError(
                    f"{out}: {most_mb:g} MB are full after {number} of {len(pictures)} pictures; "
                    f"take fewer pictures, or lower --quality or --size"
                )
    return len(pictures), written


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="aligned photographs, one subfolder per person")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder for the copies")
    parser.add_argument("--size", type=terminal.whole(32, 1024), default=128, help="pixels; default: 128")
    parser.add_argument("--quality", type=terminal.whole(1, 100), default=92, help="of the JPEG files; default: 92")
    parser.add_argument("--mb", type=terminal.number(above=0), default=30.0, help="most megabytes; default: 30")
    args = parser.parse_args(arguments)
    return terminal.run_command(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    count, written = shrink(args.folder, args.out, args.size, args.quality, args.mb)
    print(f"{args.out}: {count} pictures, {written / MB:.1f} MB")


if __name__ == "__main__":
    sys.exit(main())
