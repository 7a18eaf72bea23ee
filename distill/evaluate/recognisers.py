"""Measure how well recognisers and identity encoders distinguish photographed people, before using one:

    python -m distill.evaluate.recognisers NAME [NAME ...] --photos FOLDER
    python -m distill.evaluate.recognisers synthetic_recogniser foamliu_128 --photos FOLDER --weights WEIGHTS

FOLDER holds aligned face crops with one subfolder per person, or a manifest.jsonl. In the one-shot column, the gallery
is the first photograph of each person by file name; the mean and deviation over other galleries stand beside it.
"""

from __future__ import annotations

from swapcore import start

start.command(__name__)

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from distill import build, config
from distill.data.photos import Photos, read_manifest, scan
from eval.estimators import Estimator
from eval.measured import Measured
from eval.recogniser_sanity import recogniser_sanity
from swapcore import terminal
from swapcore.files import write_json
from swapcore.images import DataError, to_float

SMALLEST = 64  # pixels; smaller photographs are skipped
HEADINGS = ("same/different AUC", "nearest top-1 %", "one-shot top-1 %", "over galleries %", "weights")


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="a card of eval/cards.py or students/identity_encoder.py"
    )
    parser.add_argument("--photos", type=Path, required=True, metavar="FOLDER", help="aligned face crops")
    parser.add_argument("--split", default="test", help="part of a manifest: train, val or test; default: test")
    parser.add_argument("--weights", nargs="+", default=[], metavar="FOLDER", help="folders to search for weight files")
    parser.add_argument(
        "--resolution", type=terminal.whole(32, 4096), default=256, help="side in pixels of the crops; default: 256"
    )
    parser.add_argument("--flip", action="store_true", help="append embeddings of mirrored images")
    parser.add_argument("--batch-size", type=terminal.whole(1), default=32, help="images per forward pass; default: 32")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write every value with its protocol")
    args = parser.parse_args(arguments)
    return terminal.run_command(lambda: _command(args))


def _command(args: argparse.Namespace) -> None:
    estimators = {name: recogniser(name, args.weights, args.flip) for name in dict.fromkeys(args.names)}
    photos, skipped = read_people(args.photos, args.split, args.resolution)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: dict[str, dict[str, Any]] = {}
    for name, estimator in estimators.items():
        values = measure(estimator, photos, device, args.batch_size)
        rows[name] = {key: value.as_dict() for key, value in values.items()}
    if args.out:
        write_json(args.out, {"photos": str(args.photos), "skipped": skipped, "rows": rows})
    print(f"{len(photos.people)} people, {len(photos)} photographs; in brackets: 95 % by bootstrap over photographs\n")
    print(terminal.text_table([["", *HEADINGS], *([name, *_cells(row)] for name, row in rows.items())]))
    if skipped:
        print(f"skipped {len(skipped)} files; first: {skipped[0]}")


def recogniser(name: str, folders: Sequence[str] = (), flip: bool = False) -> Estimator:
    """A recogniser or identity encoder by name. Raises ConfigError that lists the known names, WeightsError."""
    chosen = {"eval.recogniser": name, "eval.metrics": ["id_retrieval"], "eval.flip": flip, "weights": list(folders)}
    return build.estimators(config.default("recognisers", chosen.items())).need("recogniser")


def read_people(folder: Path, split: str, resolution: int) -> tuple[Photos, list[str]]:
    """The photographs of a folder of people, or of one split of a manifest; and a line for each skipped one."""
    if (folder / "manifest.jsonl").is_file():
        photos = read_manifest(folder, split, resolution)
        if not len(photos):
            raise DataError(f"{folder / 'manifest.jsonl'}: no picture of split '{split}'; choose another with --split")
        return photos, []
    rows, skipped = scan(folder, SMALLEST, "the smallest that recognisers are measured on", "--photos")
    return Photos(folder, rows, resolution), skipped


def measure(estimator: Estimator, photos: Photos, device: Any = "cpu", batch_size: int = 32) -> dict[str, Measured]:
    """The values of eval.recogniser_sanity for the photographs."""
    estimator.to(device)
    embeddings = []
    with torch.inference_mode(), tqdm(total=len(photos), desc=estimator.name, unit="photo") as bar:
        for start in range(0, len(photos), batch_size):
            images = photos.load(range(start, min(start + batch_size, len(photos))))
            embeddings.append(estimator(to_float(images.to(device))).float().cpu())
            bar.update(len(images))
    protocol = {**estimator.protocol("recogniser"), "resolution": photos.resolution}
    return recogniser_sanity(torch.cat(embeddings), [row["person"] for row in photos.rows], protocol)


def _cells(row: dict[str, Any]) -> list[str]:
    """The values under HEADINGS as text."""
    one_shot = row["one_shot_top1_pct"]
    return [
        f"{row['same_different_auc']['value']:.4f}",
        _with_interval(row["nearest_neighbour_top1_pct"]),
        _with_interval(one_shot),
        "{mean_over_all_galleries:.1f} +- {deviation_over_galleries:.1f}".format(**one_shot["details"]),
        one_shot["protocol"]["recogniser"]["weight_hash"],
    ]


def _with_interval(value: dict[str, Any]) -> str:
    interval = "" if value["interval"] is None else " [{:.1f}, {:.1f}]".format(*value["interval"])
    return f"{value['value']:.1f}{interval}"


if __name__ == "__main__":
    sys.exit(main())
