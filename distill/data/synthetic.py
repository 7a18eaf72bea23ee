"""Synthetic people and pictures or videos of them, drawn with teachers/exact, with inner-face masks and a manifest.

    FOLDER/manifest.jsonl                                one row per picture, or per frame of a video
    FOLDER/train/p00012/1.png  1.mask.png                second picture of person 12 of the training people
    FOLDER/test/p00012/0/00007.png  00007.mask.png       eighth frame of the first video of person 12 of the test people
    FOLDER/test/p00012/0/00007.extra.npz                 dense truth of that frame, on request; beside pictures as well

A row holds `file`, `mask`, `person`, `split`, `renderer`, `identity` (K numbers), `attributes` (A numbers), `pose_deg`
(yaw, pitch, roll), `expression` (E numbers), `landmarks` (5 x (x, y) in pixels); of a video also `video` and `frame`,
its number in the video, 25 a second; and `extra`, the name of the .npz file, where there is one. Identity and
attributes are rounded to four decimals before they are drawn, so rendering a row again gives its picture: of a frame as
well, and with the identity of any other row it is the exact swap. Pictures are marked as AI-generated, masks and dense
truth are not.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from distill.data.photos import ROW, write_manifest
from distill.stage import stop_if_asked, time_is_over
from swapcore.files import read_record, read_rows, whole_file, write_record, write_text
from swapcore.images import DataError, list_pictures, save_png, to_uint8
from teachers.exact import (
    RENDERER,
    Rendered,
    expression,
    pose_deg,
    render,
    sample_attributes,
    sample_identities,
    sample_sequence,
)

CHUNK_PICTURES = 64  # a resumed command repeats at most one chunk per process
PIXELS_AT_ONCE = 1 << 22  # that one call draws: 64 pictures of 256 pixels
LENGTH_STEP = 1 / 2048  # dm, 0.05 mm: lengths of dense truth are whole numbers of it, which halves their files


@dataclass(frozen=True)
class Kind:
    """What is drawn of every person. frames: of each video, 0 for single pictures. sensor: half of the pictures or
    videos have a slight blur, and half noise. extra: names of teachers.exact.OUTPUTS, written beside each picture."""

    frames: int = 0
    sensor: bool = False
    extra: Sequence[str] = ()


PICTURES = Kind()


def people(split: str, seed: int, count: int, images: int, sensor: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Parameters of `count` people with `images` pictures each: identity (count, K), attributes (count * images, A).

    Each split has its own seeds, so no two splits share a person.
    """
    identity = sample_identities(count, zlib.crc32(f"{split} people {seed}".encode()))
    attributes = sample_attributes(count * images, zlib.crc32(f"{split} photos {seed}".encode()), sensor)
    return torch.from_numpy(_rounded(identity)).float(), torch.from_numpy(_rounded(attributes)).float()


def frames_of(split: str, seed: int, number: int, frames: int, sensor: bool = False) -> torch.Tensor:
    """Attributes (frames, A) of video `number` of a split; its first frames are those of a shorter one."""
    attributes = sample_sequence(frames, zlib.crc32(f"{split} video {number} {seed}".encode()), sensor)
    return torch.from_numpy(_rounded(attributes)).float()


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
        over=lambda: time_is_over(exp),
    )  # fmt: skip
    stop_if_asked(exp, accelerator, f"in stage data of {exp.name}")
    return {f"{split}_images": n * m for split, (n, m) in counts.items()}


def write(
    folder: str | Path, counts: dict[str, tuple[int, int]], size: int, seed: int, *, kind: Kind = PICTURES,
    part: int = 0, parts: int = 1, device: Any = "cpu", progress: bool = True, wait=lambda: None, over=lambda: False,
) -> None:  # fmt: skip
    """Draw `counts` = {split: (people, images or videos per person)} at `size` pixels. Finished chunks are kept.

    Process number `part` of `parts` draws every `parts`-th chunk; the first writes the manifest after `wait`. Once
    `over`, no further chunk is begun, and no manifest is written where chunks are missing.
    """
    folder, frames = Path(folder), kind.frames or 1
    chunks = [
        (split, start, min(start + CHUNK_PICTURES, n * m * frames))
        for split, (n, m) in counts.items()
        for start in range(0, n * m * frames, CHUNK_PICTURES)
    ]
    todo = [c for c in chunks[part::parts] if not _rows_file(folder, c).is_file()]
    parameters = {split: people(split, seed, *counts[split], kind.sensor) for split in {c[0] for c in todo}}
    with tqdm(total=sum(b - a for _, a, b in todo), desc="draw faces", unit="image", disable=not progress) as bar:
        for split, start, stop in todo:
            if over():
                break
            index, (identity, attributes), videos = torch.arange(start, stop), parameters[split], counts[split][1]
            if kind.frames:
                first, last = start // frames, (stop - 1) // frames
                moving = [frames_of(split, seed, video, frames, kind.sensor) for video in range(first, last + 1)]
                attributes = torch.cat(moving)[index - first * frames]
            else:
                attributes = attributes[index]
            names = [_name(split, picture, videos, kind) for picture in index.tolist()]
            rows = []
            for own in index.sub(start).split(max(1, PIXELS_AT_ONCE // size**2)):
                numbers = identity[index[own] // (videos * frames)], attributes[own]
                rows += _draw(folder, [names[i] for i in own.tolist()], *numbers, size, kind.extra, device)
            # The rows are written last: the file marks a finished chunk.
            write_text(_rows_file(folder, (split, start, stop)), "".join(json.dumps(row) + "\n" for row in rows))
            bar.update(stop - start)
    wait()
    if part == 0 and all(_rows_file(folder, c).is_file() for c in chunks):
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


def _name(split: str, picture: int, per_person: int, kind: Kind) -> dict[str, Any]:
    """The part of a row that names picture number `picture` of a split."""
    number, frame = divmod(picture, kind.frames or 1)
    person, own = divmod(number, per_person)
    stem = f"{split}/p{person:05d}/{own}" + (f"/{frame:05d}" if kind.frames else "")
    row = {"file": f"{stem}.png", "mask": f"{stem}.mask.png", "person": f"{split}-p{person:05d}", "split": split}
    return row | ({"video": own, "frame": frame} if kind.frames else {}) | {"renderer": RENDERER}


def _draw(
    folder: Path, names: list[dict], identity: torch.Tensor, attributes: torch.Tensor, size: int,
    extra: Collection[str], device: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """Draw pictures, with masks and `extra` beside them; returns their rows."""
    drawn = render(identity.to(device), attributes.to(device), size, extra)
    images = to_uint8(drawn.image).cpu()
    masks = drawn.mask[:, 0].gt(0.5).mul(255).byte().cpu().numpy()
    dense = dense_truth(drawn, extra)
    columns = {
        "identity": identity,
        "attributes": attributes,
        "pose_deg": pose_deg(attributes),
        "expression": expression(attributes),
        "landmarks": drawn.landmarks.cpu(),
    }
    rows = []
    for i, row in enumerate(names):
        save_png(images[i], folder / row["file"], compress_level=1)
        save_png(masks[i], folder / row["mask"], generated=False, compress_level=1)
        if dense:
            row = row | {"extra": row["file"].removesuffix(".png") + ".extra.npz"}
            with whole_file(folder / row["extra"]) as temporary, open(temporary, "wb") as file:
                np.savez_compressed(file, **{name: values[i] for name, values in dense.items()})
        rows.append(row | {name: _rounded(column[i]).tolist() for name, column in columns.items()})
    return rows


def dense_truth(drawn: Rendered, names: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays of .extra.npz files: depth (n, S, S) and correspondence (n, 3, S, S) float32 in dm, normals
    (n, 3, S, S) float16, segmentation (n, S, S) uint8. teachers/exact/render.py says what they hold.

    float16 is precise enough for normals (0.03 degrees) but not for lengths: near 13 dm its step is 0.8 mm. Those are
    float32, rounded to LENGTH_STEP.
    """
    arrays = {name: getattr(drawn, name).cpu().numpy() for name in sorted(names)}
    for name, values in arrays.items():
        if name in ("depth", "correspondence"):
            arrays[name] = np.round(values / LENGTH_STEP) * np.float32(LENGTH_STEP)
        elif name == "normals":
            arrays[name] = values.astype(np.float16)
    return {name: values[:, 0] if values.shape[1] == 1 else values for name, values in arrays.items()}


def _rounded(numbers: torch.Tensor) -> np.ndarray:
    return np.round(numbers.double().numpy(), 4)
