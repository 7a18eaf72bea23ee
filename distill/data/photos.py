"""Folders of aligned photographs, and the manifest of every data folder.

`manifest.jsonl` has one row per picture: `file` (absolute, or relative to the manifest's folder), `person` and `split`
(train, val, test). Rows of photographs also hold `pixels`, the hash of the decoded picture, by which copies are found;
rows of synthetic pictures hold their parameters (synthetic.py).
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from distill.data.cache import files_signature
from distill.data.renderer import refuse_others
from swapcore.decoding import developed
from swapcore.files import bytes_hash, read_rows, write_text
from swapcore.images import SUFFIXES, DataError, decode, list_pictures, opened, unread_files

EXPECTED_TREE = """expected aligned face crops, one subfolder per person (or all in one flat folder):
    FOLDER/alice/001.jpg
    FOLDER/alice/002.jpg
    FOLDER/bob/portrait.png"""
HIDDEN, COPY = "a hidden file", "the same picture as"  # reasons to skip a file


# Fields of every row of a manifest.
ROW = {"file": str, "person": str, "split": str}


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

    def signature(self) -> str:
        """Changes where a picture does."""
        return files_signature([self.root / row["file"] for row in self.rows])


def read_manifest(folder: str | Path, split: str, resolution: int) -> Photos:
    """One split of a folder that the data stage or datasets/synthetic.py wrote. Raises DataError, also where another
    renderer drew its people, and FileError."""
    path = Path(folder) / "manifest.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: no manifest; run stage 'data' first")
    rows = read_rows(path, ROW)
    refuse_others(path, rows)
    return Photos(path.parent, [row for row in rows if row["split"] == split], resolution)


def write_manifest(folder: Path, rows: list[dict[str, Any]]) -> None:
    write_text(folder / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def scan(
    folder: str | Path, min_size: int, limit: str = "data.min_size", key: str = "data.photos"
) -> tuple[list[dict[str, Any]], list[str]]:
    """Check every picture of a folder: rows (absolute `file`, `person`, `pixels`), and a line of text for each skipped
    picture.

    Each subfolder is one person; so is each picture in the folder itself, called by its stem, or by its whole name
    where a subfolder or another picture has that stem. A picture with the pixels of an earlier one is skipped, whosever
    it is: it would be its own gallery, or show one face as two people. key, limit: what messages call the folder and
    `min_size`. Raises DataError without usable pictures.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"{key}: {root}: no such folder; {EXPECTED_TREE}")
    files, hidden = list_pictures(root)
    if not files:
        others = [f"; {path.relative_to(root)}: {flaw}" for path, flaw in left_out(root, hidden)[:1]]
        raise DataError(
            f"{key}: {root}: holds no picture ({', '.join(sorted(SUFFIXES))}){''.join(others)}; {EXPECTED_TREE}"
        )
    with ThreadPoolExecutor(4) as pool:
        checks = pool.map(lambda path: _check(path, min_size, limit), files)
        checked = list(tqdm(checks, desc="check photos", total=len(files), unit="photo"))
    rows, skipped, first = [], [f"{path.relative_to(root)}: {flaw}" for path, flaw in left_out(root, hidden)], {}
    names = Counter(path.stem for path in files if path.parent == root)
    names.update({path.relative_to(root).parts[0] for path in files if path.parent != root})
    for path, (pixels, flaw) in zip(files, checked, strict=True):
        relative = path.relative_to(root)
        alone = relative.stem if names[relative.stem] == 1 else relative.name
        person = relative.parts[0] if len(relative.parts) > 1 else alone
        if not flaw and pixels in first:
            flaw = f"{COPY} {first[pixels]}"
        if flaw:
            skipped.append(f"{relative}: {flaw}")
        else:
            first[pixels] = relative
            rows.append({"file": str(path.resolve()), "person": person, "pixels": pixels})
    if not rows:
        raise DataError(f"{key}: {root}: none of {len(files)} pictures is usable; first: {skipped[-len(files)]}")
    # Names that are no UTF-8, as in old archives, could not be written.
    return rows, [os.fsencode(line).decode(errors="backslashreplace") for line in skipped]


def lie_elsewhere(folder: Path, roots: Iterable[str | None]) -> bool:
    """Whether the manifest in `folder` names photographs that do not lie in one of `roots`: these were moved, or the
    project was."""
    places = [Path(root).resolve() for root in roots if root is not None]
    rows = read_rows(folder / "manifest.jsonl", ROW)
    return not all(any(Path(row["file"]).is_relative_to(place) for place in places) for row in rows)


def left_out(root: Path, hidden: Sequence[Path]) -> list[tuple[Path, str]]:
    """The hidden pictures of a folder and the files that are no readable pictures by their ending, with the reason."""
    return [*((path, HIDDEN) for path in hidden), *unread_files(root)]


def _check(path: Path, min_size: int, limit: str) -> tuple[str | None, str | None]:
    """The hash of a photograph's pixels, and the reason why it cannot be used; one of them is None."""
    try:
        with opened(path) as picture:
            if picture.mode != "RGB":
                return None, f"mode {picture.mode}, not RGB"
            size = f"{picture.size[0]}x{picture.size[1]} pixels"
            if min(picture.size) < min_size:
                return None, f"{size}, smaller than {min_size} ({limit})"
            if picture.size[0] != picture.size[1]:
                return None, f"{size}, not a square crop"
            return bytes_hash(developed(picture).tobytes()), None
    except DataError as error:
        return None, str(error).removeprefix(f"{path}: ")


def register(exp, folder: Path, accelerator) -> dict[str, int]:
    """Check the photographs of an experiment, split the people into train, val and test, and write the manifest."""
    if not accelerator.is_main_process:
        return {}
    data = exp.data
    rows, skipped = scan(data.photos, data.min_size)
    counts = Counter(row["person"] for row in rows)
    people = sorted(counts)
    random.Random(exp.seed).shuffle(people)
    heldout, test, leaks = [], set(), 0
    if data.heldout is not None:
        heldout, skipped_too = scan(data.heldout, data.min_size, key="data.heldout")
        skipped += skipped_too
        leaks = _leaks(data, rows, heldout)
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
    if leaks:
        accelerator.print(
            f"  ! {leaks} test pictures are also training pictures (data.allow_leaks): values mean little"
        )
    images = {f"{split}_images": sum(r["split"] == split for r in splits) for split in ("train", "val", "test")}
    accelerator.print("  " + ", ".join(f"{v} {k.replace('_', ' ')}" for k, v in images.items()))
    copies = sum(f": {COPY} " in line for line in skipped)
    people = len({r["person"] for r in splits})
    return {**images, "people": people, "skipped": len(skipped), "copies": copies, "leaks": leaks}


def _leaks(data, rows: list[dict[str, Any]], heldout: list[dict[str, Any]]) -> int:
    """The number of pictures of data.heldout whose pixels are also in data.photos.

    Raises DataError if there are any and `data.allow_leaks` is not set.
    """
    training = {row["pixels"]: row["file"] for row in rows}
    both = [(row["file"], training[row["pixels"]]) for row in heldout if row["pixels"] in training]
    if both and not data.allow_leaks:
        raise DataError(
            f"data.heldout: {data.heldout}: {len(both)} of {len(heldout)} pictures are also in data.photos, so the "
            f"evaluation would show faces of the training; the first: {both[0][0]} is {both[0][1]}; take them out of "
            f"one folder, or set data.allow_leaks=true"
        )
    return len(both)
