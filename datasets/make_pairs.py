"""Write a pair list for `python -m distill.evaluate SWAPPER --pairs LIST`:

    python datasets/make_pairs.py people FOLDER --out LIST      people with several photographs each, as LFW has them
    python datasets/make_pairs.py singles FOLDER --out LIST     one photograph a person, as CelebA-HQ and FFHQ
    python datasets/make_pairs.py synthetic FOLDER --out LIST   test people that datasets/synthetic.py or a run drew
    python datasets/make_pairs.py faceforensics ROOT --splits test.json --out LIST
    python datasets/make_pairs.py casia ROOT --pairs image_pairs_normal.txt --out LIST     the CASIA survey's benchmark
    python datasets/make_pairs.py celebahq FOLDER --out LIST    1000 targets and 1000 sources as REFace; also: ffhq
    python datasets/make_pairs.py csv FOLDER --pairs MINE.csv --out LIST    columns source and target

LIST is a folder; its pairs.json names pictures, people, gallery and skipped pictures with the reason.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder is no package

from swapcore import start

start.command(__name__)

from distill.config import ConfigError, check_weights
from distill.data.photos import Photos, read_manifest, scan
from distill.evaluate.pairs import ALIGNED, AS_GIVEN, SMALLEST, SYNTHETIC, by_people, by_singles, read, rendered, save
from swapcore import terminal, weights
from swapcore.files import check_folder
from swapcore.images import DataError, picture_side
from swapcore.locks import folder_lock


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    common = terminal.Parser(add_help=False)
    common.add_argument("folder", type=Path, metavar="FOLDER", help="pictures, or the root of FaceForensics++")
    common.add_argument("--out", type=Path, required=True, metavar="LIST", help="folder to write to")
    common.add_argument(
        "--resolution",
        type=terminal.whole(SMALLEST, 4096),
        default=256,
        help="side of the crops in pixels (default: 256)",
    )
    common.add_argument("--weights", nargs="+", default=[], metavar="FOLDER", help="folders to search for weight files")
    drawn = terminal.Parser(add_help=False)
    drawn.add_argument("--count", type=terminal.whole(1), default=1000, help="number of pairs (default: 1000)")
    drawn.add_argument("--seed", type=terminal.whole(0), default=0, help="seed of the pairs (default: 0)")
    for kind, text in (("people", "people with several photographs"), ("singles", "one photograph a person")):
        command = kinds.add_parser(kind, parents=[common, drawn], help=text)
        command.add_argument("--align", action="store_true", help="find and align the faces first (extra: video)")
    command = kinds.add_parser("synthetic", parents=[common, drawn], help="synthetic people, whose exact swap is known")
    command.add_argument("--split", default="test", help="split of the folder's manifest (default: test)")
    command = kinds.add_parser("faceforensics", parents=[common], help="FaceForensics++ by the field's protocol")
    command.add_argument(
        "--splits", type=Path, nargs="+", required=True, help="the data set's own train, val, test.json"
    )
    command.add_argument("--compression", default="c23", choices=("raw", "c23", "c40"))
    command.add_argument("--frames", type=terminal.whole(2), default=10, help="frames of each video (default: 10)")
    command.add_argument(
        "--swaps-of", metavar="METHOD", help="also write the swaps of this method, such as Deepfakes, to LIST/METHOD"
    )
    texts = {
        "casia": "pairs of CASIA-NLPRAI/face-swapping-survey; FOLDER holds faces and faces_landmarks",
        "celebahq": "pictures 28000 to 29999 as REFace pairs them",
        "ffhq": "pictures 68000 to 69999 as REFace pairs them",
        "csv": "one's own pairs: a CSV file with the columns source and target",
    }
    for kind, text in texts.items():
        command = kinds.add_parser(kind, parents=[common], help=text)
        command.add_argument("--align", action="store_true", help="align the pictures by landmarks (extra: video)")
        text = "folder of landmark files, PICTURE.txt with five lines `x y`; default: with --align the detector"
        command.add_argument("--landmarks", type=Path, metavar="FOLDER", help=text)
        text = "folder of parsing maps, grey pictures of classes named as the pictures; --protocol reface masks by them"
        command.add_argument("--masks", type=Path, metavar="FOLDER", help=text)
        if kind in ("casia", "csv"):
            command.add_argument("--pairs", type=Path, required=True, metavar="FILE", help="the pairs")
            text = "only every Nth pair of the file: all pictures of a list must fit into memory"
            command.add_argument("--every", type=terminal.whole(1), default=1, metavar="N", help=text)
        if kind == "csv":
            command.add_argument("--gallery", type=Path, metavar="FILE", help="CSV file: columns picture and person")
    args = parser.parse_args(arguments)
    return terminal.run_command(lambda: write_list(args))


def write_list(args: argparse.Namespace) -> None:
    check_folder(args.out)
    check_weights(args.weights)
    with folder_lock(args.out):
        path = KINDS.get(args.kind, folder_list)(args)
    pairs, skipped = read(path)
    print(f"{len(pairs)} pairs, gallery of {len(pairs.gallery)}, {len(skipped)} skipped, hash {pairs.hash}")
    for line in skipped[:5]:
        print(f"  skipped {line['what']}: {line['reason']}")
    print(path)


def folder_list(args: argparse.Namespace) -> Path:
    """Write pairs.json of a folder of pictures; returns its path."""
    if args.kind == "synthetic":
        photos = read_manifest(args.folder, args.split, args.resolution)
        if not photos.rows or "identity" not in photos.rows[0]:
            other = [split for split in ("train", "val", "test") if len(read_manifest(args.folder, split, 0))]
            raise DataError(
                f"{args.folder}: no synthetic people of split '{args.split}' in its manifest; "
                f"--split names another one, it has pictures of: {', '.join(other) or 'no split'}"
            )
        side = picture_side(photos.root / photos.rows[0]["file"])
        if side < args.resolution:
            raise DataError(
                f"{args.folder}: its pictures have {side} pixels a side, --resolution is {args.resolution}: give "
                f"--resolution {side}, or draw them with datasets/synthetic.py --size {args.resolution}"
            )
        dataset, skipped, alignment = SYNTHETIC, [], rendered()
    else:
        folder, skipped, alignment = args.folder, [], {"alignment": AS_GIVEN}
        if (folder / "manifest.jsonl").is_file():
            raise DataError(f"{folder}: holds synthetic people; use `synthetic`, not `{args.kind}`")
        if args.align:
            from distill.data import faces  # needs the extra `video`

            detector = _detector(args)
            folder, skipped = faces.align_folder(folder, args.out / "faces", args.resolution, detector)
            alignment = {"alignment": ALIGNED, **faces.detector_facts(detector)}
        rows, flawed = scan(folder, args.resolution // 2, "half of --resolution", "FOLDER")
        skipped += [dict(zip(("what", "reason"), line.split(": ", 1), strict=True)) for line in flawed]
        if args.kind == "singles":
            rows = [{**row, "person": str(i)} for i, row in enumerate(rows)]
        photos, dataset = Photos(folder, rows, args.resolution), args.folder.name
    draw = by_singles if args.kind == "singles" else by_people
    try:
        listing = draw(args.out.name, photos, args.count, args.seed, dataset)
    except ConfigError as error:
        if not skipped:
            raise
        first = "{what}: {reason}".format(**skipped[0])
        raise ConfigError(f"{error}; left out: {len(skipped)}, the first: {first}") from None
    listing["skipped"] = skipped
    listing["protocol"] |= alignment
    return save(listing, photos.root, args.out)


def faceforensics_list(args: argparse.Namespace) -> Path:
    """Write pairs.json of a copy of FaceForensics++; returns its path."""
    from distill.evaluate import faceforensics

    path = faceforensics.prepare(
        args.folder, args.splits, args.out, find_face=_detector(args), compression=args.compression, frames=args.frames,
        resolution=args.resolution,
    )  # fmt: skip
    if args.swaps_of:
        missing = faceforensics.finished_swaps(args.folder, args.swaps_of, path, args.out / args.swaps_of)
        for line in missing[:5]:
            print(f"  no swap of {line['what']}: {line['reason']}")
        print(f"{args.out / args.swaps_of}: {len(missing)} missing")
    return path


def chosen_list(args: argparse.Namespace) -> Path:
    """Write pairs.json of pairs that others chose; returns its path."""
    from distill.evaluate import listed

    pictures, landmarks = args.folder, args.landmarks
    if args.kind == "casia":
        pictures = args.folder / "faces" if (args.folder / "faces").is_dir() else args.folder
        beside = args.folder / "faces_landmarks"
        landmarks = landmarks or (beside if beside.is_dir() else None)
        chosen = listed.every(listed.casia(pictures, args.pairs), args.every)
        if landmarks is None:
            print(f"{beside}: no such folder, and no --landmarks: a detector finds the landmarks")
    elif args.kind == "csv":
        chosen = listed.every(listed.from_csv(args.pairs, args.gallery), args.every)
    else:
        chosen = listed.numbered(args.kind)
    detector = _detector(args) if landmarks is None and (args.align or args.kind == "casia") else None
    return listed.write(
        args.out.name, chosen, pictures, args.out, resolution=args.resolution, landmarks=landmarks,
        find_face=detector, aligned=args.align, masks=args.masks,
    )  # fmt: skip


def _detector(args: argparse.Namespace):
    from distill.data import faces

    return faces.Detector(weights.find(faces.YUNET, args.weights))


KINDS = {"faceforensics": faceforensics_list} | dict.fromkeys(("casia", "celebahq", "ffhq", "csv"), chosen_list)


if __name__ == "__main__":
    sys.exit(main())
