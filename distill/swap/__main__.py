"""Swap faces in photographs and videos with a student:

    python -m distill.swap SOURCE TARGET -o OUT --student student.safetensors
    python -m distill.swap SOURCE TARGET -o OUT --student whole.onnx --faces all
    python -m distill.swap SOURCE TARGET -o OUT --student student.safetensors --reference PHOTO

SOURCE is a photograph; its largest face gives the identity. TARGET is a photograph, an animation or a video. Its
largest face is swapped; --faces swaps more faces, and --reference swaps the person of PHOTO only: frames that do not
show this person stay as they are, and are counted. Only the inner face changes, in the colours of the face around it;
all other pixels stay. A video keeps its sound, the time of each frame and its colour tags, and comes out upright; its
faces are followed smoothly from frame to frame (--no-smooth: each frame on its own). The metadata of OUT say that it is
AI-generated. Use pictures of people who agreed to it: see Consent in the README.
"""

from __future__ import annotations

from swapcore import start

start.command(__name__)

import argparse
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm

from distill import build, config
from distill.config import ConfigError
from distill.data import faces
from distill.swap.photograph import check_writable, save_photograph, swap_frames
from distill.swap.swapper import Swapper
from distill.video import containers
from distill.video import frames as video
from students.identity_encoder import CARDS as ENCODERS
from swapcore import terminal, weights
from swapcore.files import remove_leftovers
from swapcore.images import SUFFIXES, DataError

VIDEOS = set(containers.KINDS)


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="photograph of the person to show")
    parser.add_argument("target", type=Path, metavar="TARGET", help="photograph or video to change")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="file to write")
    parser.add_argument(
        "--student", type=Path, required=True, metavar="FILE", help=".safetensors or .onnx of a student of photographs"
    )
    parser.add_argument(
        "--faces", type=count_of, default=1, metavar="largest|all|N", help="largest (default), all, or the N largest"
    )
    parser.add_argument("--reference", type=Path, metavar="PHOTO", help="swap only the person of this photograph")
    parser.add_argument(
        "--similarity", type=cosine_of, metavar="COSINE",
        help="with --reference: least cosine of the person's faces; default: as measured for the identity encoder",
    )  # fmt: skip
    parser.add_argument(
        "--smooth", action=argparse.BooleanOptionalAction,
        help="smooth the places of faces over time; default: in videos, not in animations",
    )  # fmt: skip
    parser.add_argument("--weights", nargs="+", default=[], metavar="FOLDER", help="folders to search for weight files")
    args = parser.parse_args(arguments)
    return terminal.run_command(lambda: swap(args))


def swap(args: argparse.Namespace) -> None:
    if args.similarity is not None and args.reference is None:
        raise ConfigError("--similarity: compares faces with the photograph of --reference; name one")
    kind = _kind(args.target)
    if kind != _kind(args.out):
        raise ConfigError(f"-o {args.out}: {args.target} is a {kind}, so OUT must have the ending of a {kind} too")
    if kind == "photograph":
        check_writable(args.out)
    inputs = filter(None, (args.source, args.target, args.reference, args.student))
    if args.out.exists() and any(path.exists() and args.out.samefile(path) for path in inputs):
        raise ConfigError(f"-o {args.out}: would replace an input; name another file")
    for path in filter(None, (args.source, args.target, args.reference)):
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
    if not args.student.is_file():
        raise ConfigError(f"--student: {args.student}: no such file; docs/photographs.md says how to train a student")
    exp = config.default("swap", [("weights", args.weights)])
    config.check_weights(exp.weights)
    encoder = build.encoder_of(args.student)
    if encoder == "synthetic_identity":
        notice = "learnt from drawn people, and swaps photographs badly; docs/photographs.md says what to train instead"
        print(f"{args.student}: {notice}", file=sys.stderr)
    needed = [faces.YUNET, *([ENCODERS[encoder]] if encoder in ENCODERS else [])]
    detector = faces.Detector(weights.find_all(needed, exp.weights)[0])
    smooth = kind == "video" if args.smooth is None else args.smooth
    swapper = Swapper(args.student, exp, detector, args.source, args.faces, args.reference, args.similarity, smooth)
    if args.out.parent.is_dir():
        remove_leftovers(args.out.parent.glob(f".{args.out.stem}.*"))
    if kind == "photograph":
        frames, options = swap_frames(args.target, args.out, swapper, swapper.at)
        check_swapped(args.target, swapper)
        save_photograph(frames[0], args.out, **options)
    else:
        with tqdm(total=video.count(args.target), desc="swap", unit="frame") as bar:
            check = partial(check_swapped, args.target, swapper, " in any frame")
            for _ in video.convert(args.target, args.out, swapper, check, swapper.at):
                bar.update()
    if unchanged := swapper.unchanged():
        print(unchanged, file=sys.stderr)
    print(args.out)


def check_swapped(target: Path, swapper: Swapper, where: str = "") -> None:
    """Raise DataError where no face was swapped: nothing is written then. where: such as " in any frame"."""
    if not swapper.swapped:
        raise DataError(f"{target}: {swapper.nobody(where)}")


def count_of(faces: str) -> int | None:
    """The number of faces that --faces names, None for all."""
    if faces in ("largest", "all"):
        return 1 if faces == "largest" else None
    try:
        return terminal.whole(1)(faces)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"largest, all, or a number: {error}") from None


def cosine_of(text: str) -> float:
    """The value of --similarity, in [-1, 1]."""
    value = terminal.number()(text)
    if not -1 <= value <= 1:
        raise argparse.ArgumentTypeError(f"a cosine lies between -1 and 1, got {text}")
    return value


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return "photograph"
    if suffix in VIDEOS:
        return "video"
    known = ", ".join(sorted(SUFFIXES | VIDEOS))
    raise ConfigError(f"{path}: neither a photograph nor a video by its ending; known: {known}")


if __name__ == "__main__":
    sys.exit(main())
