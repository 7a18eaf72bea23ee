"""How well recognisers and identity encoders tell photographed people apart, before one of them judges or trains:

    python -m distill.evaluate.recognisers NAME [NAME ...] --photos FOLDER [--weights FOLDER ...] [--out FILE.json]

FOLDER holds aligned face crops, a subfolder a person, or a manifest.jsonl, of which --split is read. The gallery of
one-shot is everybody's first photograph by file name; mean and deviation over other choices stand beside it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from distill import build, config
from distill.config import ConfigError
from distill.data.photos import Photos, read_manifest, scan
from eval.estimators import Estimator
from eval.measured import Measured
from eval.recogniser_sanity import recogniser_sanity
from swapcore.files import write_json
from swapcore.images import DataError, to_float

SMALLEST = 64  # pixels; below, scan leaves a photograph out
MARGIN = "between brackets: 95 % by bootstrap over photographs"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME", help="of a recogniser's or identity encoder's card")
    parser.add_argument("--photos", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--split", default="test", help="of a manifest; default: test")
    parser.add_argument("--weights", nargs="+", default=[], metavar="FOLDER", help="where weight files are looked for")
    parser.add_argument("--resolution", type=int, default=256, help="side in pixels of the canonical crops")
    parser.add_argument("--flip", action="store_true", help="embeddings of image and mirror image, concatenated")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="every value with what it depends on")
    args = parser.parse_args(arguments)
    try:
        return _measure(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _measure(args: argparse.Namespace) -> int:
    if args.resolution < 32 or args.batch_size < 1:
        raise ConfigError("--resolution must be 32 or more, --batch-size 1 or more")
    estimators = {name: recogniser(name, args.weights, args.flip) for name in dict.fromkeys(args.names)}
    photos, skipped = read_people(args.photos, args.split, args.resolution)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: dict[str, dict[str, Any]] = {}
    for name, estimator in estimators.items():
        values = measure(estimator, photos, device, args.batch_size)
        rows[name] = {key: value.as_dict() for key, value in values.items()}
    if args.out:
        write_json(args.out, {"photos": str(args.photos), "skipped": skipped, "rows": rows})
    print(table(rows, len(photos.people), len(photos)))
    if skipped:
        print(f"skipped {len(skipped)} files; first: {skipped[0]}")
    return 0


def recogniser(name: str, folders: Sequence[str] = (), flip: bool = False) -> Estimator:
    """The recogniser or identity encoder of that name. Raises ConfigError listing the known, WeightsError."""
    chosen = {"eval.recogniser": name, "eval.metrics": ["id_retrieval"], "eval.flip": flip, "weights": list(folders)}
    exp = config.default("recognisers", chosen.items())
    return build.estimators(exp).need("recogniser")


def read_people(folder: Path, split: str, resolution: int) -> tuple[Photos, list[str]]:
    """The photographs of a folder of people or of one split of a manifest, and a line for each that was left out."""
    if (folder / "manifest.jsonl").is_file():
        photos = read_manifest(folder, split, resolution)
        if not len(photos):
            raise DataError(f"{folder / 'manifest.jsonl'}: no picture of split '{split}'; choose another with --split")
        return photos, []
    rows, skipped = scan(folder, SMALLEST)
    return Photos(folder, rows, resolution), skipped


def measure(estimator: Estimator, photos: Photos, device: Any = "cpu", batch_size: int = 32) -> dict[str, Measured]:
    """The quality of a recogniser on photographs of people; see eval.recogniser_sanity."""
    estimator.to(device)
    embeddings = []
    with torch.inference_mode(), tqdm(total=len(photos), desc=estimator.name, unit="photo") as bar:
        for start in range(0, len(photos), batch_size):
            images = photos.load(range(start, min(start + batch_size, len(photos))))
            embeddings.append(estimator(to_float(images.to(device))).float().cpu())
            bar.update(len(images))
    protocol = {"recogniser": estimator.as_dict(), "flip": estimator.flip, "resolution": photos.resolution}
    return recogniser_sanity(torch.cat(embeddings), [row["person"] for row in photos.rows], protocol)


def table(rows: dict[str, dict[str, Any]], people: int, photographs: int) -> str:
    """Recognisers down, their values across, as text."""
    width = max(10, *(len(name) for name in rows))
    heads = ("same/different AUC", "nearest top-1 %", "one-shot top-1 %", "over galleries %", "weights")
    lines = [f"{people} people, {photographs} photographs; {MARGIN}", ""]
    lines.append(" ".join([f"{'':{width}}", *(f"{head:>22}" for head in heads)]).rstrip())
    for name, row in rows.items():
        one_shot = row["one_shot_top1_pct"]
        cells = [
            f"{row['same_different_auc']['value']:.4f}",
            _with_interval(row["nearest_neighbour_top1_pct"]),
            _with_interval(one_shot),
            "{mean_over_all_galleries:.1f} +- {deviation_over_galleries:.1f}".format(**one_shot["details"]),
            one_shot["protocol"]["recogniser"]["weight_hash"],
        ]
        lines.append(" ".join([f"{name:{width}}", *(f"{cell:>22}" for cell in cells)]))
    return "\n".join(lines)


def _with_interval(value: dict[str, Any]) -> str:
    if value["interval"] is None:
        return f"{value['value']:.1f}"
    low, high = value["interval"]
    return f"{value['value']:.1f} [{low:.1f}, {high:.1f}]"


if __name__ == "__main__":
    sys.exit(main())
