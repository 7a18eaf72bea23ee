"""Folders of aligned photographs, and the manifest of every data folder.

`manifest.jsonl` has one row per picture: `file` (absolute, or relative to the manifest's folder), `person` and `split`
(train, val, test). Rows of synthetic pictures also hold their parameters (synthetic.py).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from swapcore.files import write_text
from swapcore.images import SUFFIXES, DataError, decode

EXPECTED_TREE = """expected aligned face crops, one subfolder per person (or all in one flat folder):
    FOLDER/alice/001.jpg
    FOLDER/alice/002.jpg
    FOLDER/bob/portrait.png"""


@dataclass(frozen=True)
class Photos:
    """The pictures of one split: rows of a manifest, decoded on demand."""

    root: Path
    rows: list[dict[str, Any]]
    resolution: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def people(self) -> dict[str, list[int]]:
        """person -> indices of the person's pictures, both in the order of the manifest."""
        people: dict[str, list[int]] = {}
        for index, row in enumerate(self.rows):
            people.setdefault(row["person"], []).append(index)
        return people

    def load(self, indices: Sequence[int]) -> torch.Tensor:
        """Decode pictures: (n, 3, resolution, resolution) uint8 RGB. Raises DataError naming a damaged file."""
        with ThreadPoolExecutor(4) as pool:  # decoding releases the interpreter lock
            images = [*pool.map(lambda i: decode(self.root / self.rows[i]["file"], self.resolution), indices)]
        return torch.from_numpy(np.stack(images)) if images else torch.zeros(0, 3, *[self.resolution] * 2).byte()


def read_manifest(folder: str | Path, split: str, resolution: int) -> Photos:
    """One split of a folder that the data stage or datasets/synthetic.py wrote. Raises DataError."""
    path = Path(folder) / "manifest.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no manifest; run stage 'data' first")
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return Photos(path.parent, [r for r in rows if r["split"] == split], resolution)
    except (json.JSONDecodeError, KeyError) as error:
        raise DataError(f"{path}: damaged manifest ({error}); delete its folder and run again") from None


def write_manifest(folder: Path, rows: list[dict[str, Any]]) -> None:
    write_text(folder / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def scan(folder: str | Path, min_size: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Check every picture of a folder: rows (absolute `file`, `person`), and a line of text for each skipped picture.

    Each subfolder is one person; so is each picture in the folder itself. Raises DataError without usable pictures.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"data: {root}: no such folder; {EXPECTED_TREE}")
    files = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and not p.stem.endswith(".mask"))
    if not files:
        raise DataError(f"data: {root}: holds no picture ({', '.join(sorted(SUFFIXES))}); {EXPECTED_TREE}")
    with ThreadPoolExecutor(4) as pool:
        checks = pool.map(lambda path: _flaw(path, min_size), files)
        flaws = list(tqdm(checks, desc="check photos", total=len(files), unit="photo"))
    rows, skipped = [], []
    for path, flaw in zip(files, flaws, strict=True):
        relative = path.relative_to(root)
        if flaw:
            skipped.append(f"{relative}: {flaw}")
        else:
            person = relative.parts[0] if len(relative.parts) > 1 else relative.stem
            rows.append({"file": str(path.resolve()), "person": person})
    if not rows:
        raise DataError(f"data: {root}: none of {len(files)} pictures is usable; first: {skipped[0]}")
    return rows, skipped


def _flaw(path: Path, min_size: int) -> str | None:
    """The reason why a photograph cannot be used, or None."""
    try:
        with Image.open(path) as picture:
            if picture.mode != "RGB":
                return f"mode {picture.mode}, not RGB"
            if min(picture.size) < min_size:
                least = f"{min_size} (data.min_size, or half of --resolution)"
                return f"{picture.size[0]}x{picture.size[1]} pixels, smaller than {least}"
            if picture.size[0] != picture.size[1]:
                return f"{picture.size[0]}x{picture.size[1]} pixels, not a square crop"
            picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        return f"not a readable picture ({error})"
    return None


def register(exp, folder: Path, accelerator) -> dict[str, int]:
    """Check the photographs of an experiment, split the people into train, val and test, and write the manifest."""
    if not accelerator.is_main_process:
        return {}
    data = exp.data
    rows, skipped = scan(data.photos, data.min_size)
    counts = Counter(row["person"] for row in rows)
    people = sorted(counts)
    random.Random(exp.seed).shuffle(people)
    heldout, test = [], set()
    if data.heldout is not None:
        heldout, skipped_too = scan(data.heldout, data.min_size)
        skipped += skipped_too
        files = {row["file"] for row in rows}
        if both := [row["file"] for row in heldout if row["file"] in files]:
            raise DataError(f"data.heldout: {data.heldout}: lies within data.photos; {both[0]} is in both")
    else:
        eligible = [p for p in people if counts[p] >= 2]  # one picture for the gallery, another as source
        if "eval" in exp.stages and len(eligible) < data.test_people + 2:
            raise DataError(
                f"data.photos: {data.photos}: {len(eligible)} of {len(people)} people have two photographs or "
                f"more, too few for data.test_people={data.test_people}; lower it, or set data.heldout=FOLDER"
            )
        test = set(eligible[: data.test_people])
    val = set([p for p in people if p not in test][: data.val_people])
    if len(people) - len(test) - len(val) < 2:
        raise DataError(f"data.photos: {data.photos}: {len(people)} people are too few to split into train, val, test")
    splits = [{**r, "split": "test" if r["person"] in test else "val" if r["person"] in val else "train"} for r in rows]
    splits += [{**r, "split": "test"} for r in heldout]
    write_manifest(folder, splits)
    write_text(folder / "skipped.txt", "".join(line + "\n" for line in skipped))
    if skipped:
        accelerator.print(f"  skipped {len(skipped)} files, listed in {folder / 'skipped.txt'}; first: {skipped[0]}")
    images = {f"{split}_images": sum(r["split"] == split for r in splits) for split in ("train", "val", "test")}
    accelerator.print("  " + ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in images.items()))
    return {**images, "people": len({r["person"] for r in splits}), "skipped": len(skipped)}
