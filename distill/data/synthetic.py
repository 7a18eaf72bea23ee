"""People and photos drawn with teachers/exact: pictures, inner-face masks, and a manifest of all that is known of them.

    FOLDER/manifest.jsonl                      one row per picture
    FOLDER/train/p00012/1.png  1.mask.png      second picture of person 12 of the training people

A row: `file`, `mask`, `person`, `split`, `identity` (K numbers), `attributes` (A numbers), `pose_deg` (yaw, pitch,
roll), `expression` (E numbers), `landmarks` (5 x (x, y) in pixels). Identity and attributes are written with four
decimals and drawn with exactly those, so rendering a row again gives its picture.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from distill.data.photos import write_manifest
from swapcore.files import whole_file, write_text
from teachers.exact import ExactTeacher, expression, pose_deg, render, sample_attributes, sample_identities

CHUNK_PICTURES = 64  # the grain of resuming
RENDERER_HASH = ExactTeacher().weight_hash


def people(split: str, seed: int, count: int, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of `count` people with `images` pictures each: identity (count, K), attributes (count * images, A).

    Every split draws from its own seeds, so that no person of one is in another.
    """
    identity = sample_identities(count, zlib.crc32(f"{split} people {seed}".encode()))
    attributes = sample_attributes(count * images, zlib.crc32(f"{split} photos {seed}".encode()))
    return _four_decimals(identity), _four_decimals(attributes)


def draw(exp, folder: Path, accelerator) -> dict[str, int]:
    """Draw the splits of an experiment into `folder`; each process draws its own chunks, finished ones are kept."""
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
    """Draw `counts` = {split: (people, images per person)} at `size` pixels, this process every `parts`-th chunk."""
    folder = Path(folder)
    chunks = [
        (split, start, min(start + CHUNK_PICTURES, n * m))
        for split, (n, m) in counts.items()
        for start in range(0, n * m, CHUNK_PICTURES)
    ]
    numbers = {split: people(split, seed, n, m) for split, (n, m) in counts.items()}
    mine = [c for i, c in enumerate(chunks) if i % parts == part]
    todo = [c for c in mine if not _rows_file(folder, c).is_file()]
    with tqdm(total=sum(b - a for _, a, b in todo), desc="draw faces", unit="image", disable=not progress) as bar:
        for chunk in todo:
            _draw_chunk(folder, chunk, numbers[chunk[0]], counts[chunk[0]][1], size, device)
            bar.update(chunk[2] - chunk[1])
    wait()
    if part == 0:
        rows = [json.loads(line) for c in chunks for line in _rows_file(folder, c).read_text().splitlines()]
        write_manifest(folder, rows)


def _rows_file(folder: Path, chunk: tuple[str, int, int]) -> Path:
    return folder / "rows" / f"{chunk[0]}-{chunk[1]:07d}.jsonl"


def _draw_chunk(folder, chunk, numbers, images_per_person: int, size: int, device) -> None:
    """Draw pictures chunk[1] .. chunk[2] of a split; their rows are written last, as the mark of a whole chunk."""
    split, start, stop = chunk
    index = torch.arange(start, stop)
    identity, attributes = numbers[0][index // images_per_person], numbers[1][index]
    drawn = render(identity.to(device), attributes.to(device), size)
    pixels = drawn.image.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    masks = drawn.mask[:, 0].gt(0.5).mul(255).byte().cpu().numpy()
    poses, expressions, landmarks = pose_deg(attributes), expression(attributes), drawn.landmarks.cpu()
    rows = []
    for i, picture in enumerate(index.tolist()):
        person = f"p{picture // images_per_person:05d}"
        stem = f"{split}/{person}/{picture % images_per_person}"
        save_png(folder / f"{stem}.png", pixels[i])
        save_png(folder / f"{stem}.mask.png", masks[i])
        rows.append(
            {
                "file": f"{stem}.png",
                "mask": f"{stem}.mask.png",
                "person": f"{split}-{person}",
                "split": split,
                "identity": _listed(identity[i]),
                "attributes": _listed(attributes[i]),
                "pose_deg": _listed(poses[i]),
                "expression": _listed(expressions[i]),
                "landmarks": _listed(landmarks[i]),
            }
        )
    write_text(_rows_file(folder, chunk), "".join(json.dumps(row) + "\n" for row in rows))


def save_png(path: Path, pixels: np.ndarray) -> None:
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, "PNG", compress_level=1)


def _four_decimals(numbers: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.round(numbers.double().numpy(), 4)).float()


def _listed(numbers: torch.Tensor) -> list:
    return np.round(numbers.double().numpy(), 4).tolist()
