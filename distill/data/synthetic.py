"""Synthetic people and pictures of them, drawn with teachers/exact, with inner-face masks and a manifest.

    FOLDER/manifest.jsonl                      one row per picture
    FOLDER/train/p00012/1.png  1.mask.png      second picture of person 12 of the training people

A row holds `file`, `mask`, `person`, `split`, `identity` (K numbers), `attributes` (A numbers), `pose_deg` (yaw, pitch,
roll), `expression` (E numbers), `landmarks` (5 x (x, y) in pixels). Identity and attributes are rounded to four
decimals before they are drawn, so rendering a row again gives its picture. Pictures are marked as AI-generated, masks
are not.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from distill.data.photos import ROW, write_manifest
from swapcore.files import read_record, read_rows, write_record, write_text
from swapcore.images import DataError, list_pictures, save_png, to_uint8
from teachers.exact import ExactTeacher, expression, pose_deg, render, sample_attributes, sample_identities

CHUNK_PICTURES = 64  # a resumed command repeats at most one chunk per process
RENDERER_HASH = ExactTeacher().weight_hash


def people(split: str, seed: int, count: int, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Parameters of `count` people with `images` pictures each: identity (count, K), attributes (count * images, A).

    Each split has its own seeds, so no two splits share a person.
    """
    identity = sample_identities(count, zlib.crc32(f"{split} people {seed}".encode()))
    attributes = sample_attributes(count * images, zlib.crc32(f"{split} photos {seed}".encode()))
    return torch.from_numpy(_rounded(identity)).float(), torch.from_numpy(_rounded(attributes)).float()


def draw(exp, folder: Path, accelerator) -> dict[str, int]:
    """Draw the splits of an experiment into `folder`; returns the images of each. Each process draws its own chunks."""
    data = exp.data
    counts = {
        "train": (data.train_people, data.train_images),
        "val": (data.val_people, data.test_images),
        "test": (data.test_people, data.test_images),
    }
    write(
        folder, counts, data.resolution, exp.seed, part=accelerator.process_index, parts=accelerator.num_processes,
        device=accelerator.device, progress=accelerator.is_main_process, wait=accelerator.wait_for_everyone,
    )  # fmt: skip
    return {f"{split}_images": n * m for split, (n, m) in counts.items()}


def write(
    folder: str | Path, counts: dict[str, tuple[int, int]], size: int, seed: int, *,
    part: int = 0, parts: int = 1, device: Any = "cpu", progress: bool = True, wait=lambda: None,
) -> None:  # fmt: skip
    """Draw `counts` = {split: (people, images per person)} at `size` pixels. Finished chunks are kept.

    Process number `part` of `parts` draws every `parts`-th chunk; the first writes the manifest after `wait`.
    """
    folder = Path(folder)
    chunks = [
        (split, start, min(start + CHUNK_PICTURES, n * m))
        for split, (n, m) in counts.items()
        for start in range(0, n * m, CHUNK_PICTURES)
    ]
    parameters = {split: people(split, seed, n, m) for split, (n, m) in counts.items()}
    todo = [c for c in chunks[part::parts] if not _rows_file(folder, c).is_file()]
    with tqdm(total=sum(b - a for _, a, b in todo), desc="draw faces", unit="image", disable=not progress) as bar:
        for chunk in todo:
            _draw_chunk(folder, chunk, parameters[chunk[0]], counts[chunk[0]][1], size, device)
            bar.update(chunk[2] - chunk[1])
    wait()
    if part == 0:
        rows = [row for c in chunks for row in read_rows(_rows_file(folder, c), ROW)]
        write_manifest(folder, rows)


def check_settings(record: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a command into `record`, beside the pictures that it draws and keeps.

    Raises DataError where that folder holds pictures of other settings, or of an unknown origin: they would be kept.
    """
    folder = record.parent
    if record.is_file():
        before = read_record(record)
        for key in (*settings, *before):
            if before.get(key) != settings.get(key):
                then, now = before.get(key), settings.get(key)
                raise DataError(
                    f"{record}: made with other settings: {key} was {then}, now {now}; name another folder, or delete "
                    f"{folder}"
                )
    elif pictures := list_pictures(folder)[0]:
        raise DataError(f"{pictures[0]}: was not drawn by this command; name another folder than {folder}")
    write_record(record, settings)


def _rows_file(folder: Path, chunk: tuple[str, int, int]) -> Path:
    return folder / "rows" / f"{chunk[0]}-{chunk[1]:07d}.jsonl"


def _draw_chunk(folder, chunk, parameters, images_per_person: int, size: int, device) -> None:
    """Draw pictures chunk[1] .. chunk[2] of a split. Their rows are written last: the file marks a finished chunk."""
    split, start, stop = chunk
    index = torch.arange(start, stop)
    identity, attributes = parameters[0][index // images_per_person], parameters[1][index]
    drawn = render(identity.to(device), attributes.to(device), size)
    images = to_uint8(drawn.image).cpu()
    masks = drawn.mask[:, 0].gt(0.5).mul(255).byte().cpu().numpy()
    columns = {
        "identity": identity,
        "attributes": attributes,
        "pose_deg": pose_deg(attributes),
        "expression": expression(attributes),
        "landmarks": drawn.landmarks.cpu(),
    }
    rows = []
    for i, picture in enumerate(index.tolist()):
        person = f"p{picture // images_per_person:05d}"
        stem = f"{split}/{person}/{picture % images_per_person}"
        save_png(images[i], folder / f"{stem}.png", compress_level=1)
        save_png(masks[i], folder / f"{stem}.mask.png", generated=False, compress_level=1)
        row = {"file": f"{stem}.png", "mask": f"{stem}.mask.png", "person": f"{split}-{person}", "split": split}
        rows.append(row | {name: _rounded(column[i]).tolist() for name, column in columns.items()})
    write_text(_rows_file(folder, chunk), "".join(json.dumps(row) + "\n" for row in rows))


def _rounded(numbers: torch.Tensor) -> np.ndarray:
    return np.round(numbers.double().numpy(), 4)
