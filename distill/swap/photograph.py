"""Photographs and animations that `distill.swap` reads and writes: with their transparency, in sRGB, marked."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from distill.config import ConfigError
from swapcore.decoding import developed, frame_count, named, opened, srgb_profile
from swapcore.files import whole_file
from swapcore.images import COMMENT, SOURCE_TYPE, XMP, png_mark

# Formats that can say that a picture is AI-generated, by the ending of a file.
FORMATS = {
    ".png": "PNG", ".apng": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".webp": "WEBP",
    ".tif": "TIFF", ".tiff": "TIFF", ".avif": "AVIF", ".gif": "GIF",
}  # fmt: skip
MOVING = {"PNG", "WEBP", "GIF", "AVIF"}
OPAQUE = {"JPEG"}  # formats without transparency: transparent pixels become white
XMP_TAG = 700  # of TIFF
STRIP = 256  # rows
MOST_PLAYS = 65535  # which WebP can count


def check_writable(path: Path) -> None:
    """Raises ConfigError for an ending whose format cannot be written, or cannot say how the picture was made."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        reason = "cannot say that a picture is AI-generated" if suffix == ".bmp" else "is not written"
        raise ConfigError(f"-o {path}: {suffix[1:].upper()} {reason}; take .png, .jpg or .webp")


def swap_frames(
    target: Path,
    out: Path,
    swapper: Callable[[np.ndarray], np.ndarray],
    clock: Callable[[float], None] = lambda _: None,
) -> tuple[list[Image.Image], dict[str, Any]]:
    """Swap a photograph, or every frame of an animation: the upright pictures in sRGB, and options for
    `save_photograph` that keep their times and repetitions.

    swapper: (H, W, 3) uint8 -> the same. Transparency is kept where the format of `out` has it: faces are searched and
    swapped on white. clock: called before each frame with its time in seconds: how long those before it are shown.
    Raises DataError, and ConfigError where `out` cannot hold an animation.
    """
    check_writable(out)
    kind = FORMATS[out.suffix.lower()]
    with opened(target, still=False) as picture:
        with named(target):
            count = frame_count(picture)
        if count > 1 and kind not in MOVING:
            raise ConfigError(
                f"-o {out}: {target} is an animation of {count} frames, and {kind} holds one; take .gif, .webp or .png"
            )
        frames, times = [], []
        with tqdm(total=count, desc="swap", unit="frame", disable=count == 1) as bar:
            for frame, time in _frames(picture, count):
                clock(sum(times) / 1000)
                frames.append(_swapped(frame, swapper, kind))
                times.append(time)
                bar.update()
        if count == 1:
            return frames, {}
        plays = _plays(picture)
    return frames, {"save_all": True, "append_images": frames[1:], "duration": times, **_repeated(plays, kind)}


def _plays(picture: Image.Image) -> int:
    """How often an animation is shown, 0 for ever. A GIF counts the repetitions after the first time, if there are any;
    others count the times."""
    loop = picture.info.get("loop")
    if picture.format == "GIF":
        return 1 if loop is None else loop and loop + 1
    return loop or 0


def _repeated(plays: int, kind: str) -> dict[str, int]:
    """The option of Pillow that writes `plays` in a format."""
    plays = min(plays, MOST_PLAYS)
    if kind == "GIF":
        return {} if plays == 1 else {"loop": plays and plays - 1}
    return {"loop": plays}


def _frames(picture: Image.Image, count: int) -> Iterator[tuple[Image.Image, float]]:
    """The frames, RGB or RGBA, and how long each is shown, in ms."""
    first = 1 if picture.info.get("default_image") else 0  # of a PNG: shown only where animations are not
    for number in range(first, count):
        if count > 1:
            with named(picture.filename):
                picture.seek(number)
        frame = developed(picture, None)
        yield frame, picture.info.get("duration", 0)


def _swapped(frame: Image.Image, swapper: Callable[[np.ndarray], np.ndarray], kind: str) -> Image.Image:
    pixels = np.array(frame)  # a copy that may be written to
    if frame.mode == "RGB":
        return Image.fromarray(swapper(pixels))
    flat = _on_white(pixels)
    swap = swapper(flat)
    if kind in OPAQUE:
        return Image.fromarray(swap)
    changed = _changed(swap, flat)
    _lay_under_white(pixels[changed], swap[changed], flat[changed])
    pixels[..., :3][pixels[..., 3] == 0] = 255  # what was cut away must not come back
    return Image.fromarray(pixels)


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 laid over white: (H, W, 3) uint8. In strips, as floats of a whole photograph need much memory."""
    flat = np.empty((*pixels.shape[:2], 3), np.uint8)
    for top in range(0, len(pixels), STRIP):
        part = pixels[top : top + STRIP]
        alpha = part[..., 3:].astype(np.float32) / 255
        flat[top : top + STRIP] = (part[..., :3] * alpha + 255 * (1 - alpha)).round()
    return flat


def _changed(swap: np.ndarray, flat: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of the smallest rectangle in which two pictures (H, W, 3) differ; empty if nowhere."""
    differs = swap != flat
    spans = []
    for along in (differs.reshape(len(differs), -1).any(1), differs.any(0).any(1)):
        places = np.flatnonzero(along)
        spans.append(slice(places[0], places[-1] + 1) if len(places) else slice(0))
    return spans[0], spans[1]


def _lay_under_white(pixels: np.ndarray, swap: np.ndarray, flat: np.ndarray) -> None:
    """Give `pixels` (H, W, 4) the colours from which laying over white makes the swap. flat: what that made of them
    before; where the swap is the same, they keep their own."""
    alpha = pixels[..., 3:].astype(np.float32) / 255
    own = ((swap - 255 * (1 - alpha)) / np.maximum(alpha, 1 / 255)).round().clip(0, 255).astype(np.uint8)
    np.copyto(pixels[..., :3], own, where=(swap != flat).any(-1, keepdims=True))


def save_photograph(picture: Image.Image | np.ndarray, path: Path, **options: Any) -> None:
    """Write a picture, or (H, W, 3) uint8, in the format of the path's ending, with the profile of sRGB, marked as
    AI-generated. Raises ConfigError for a format that cannot say it."""
    check_writable(path)
    kind = FORMATS[path.suffix.lower()]
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    if kind == "GIF":  # has no profile
        options |= {"comment": f"{COMMENT}; {SOURCE_TYPE}".encode()}
        if picture.mode == "RGBA":
            options |= {"disposal": 2}  # else a transparent pixel shows the frame before
    else:
        options |= {"icc_profile": srgb_profile()}
        mark = {"PNG": {"pnginfo": png_mark()}, "TIFF": {"tiffinfo": {XMP_TAG: XMP.encode()}}}
        options |= mark.get(kind, {"xmp": XMP.encode()})
    if kind in ("JPEG", "WEBP", "AVIF"):
        options |= {"quality": 95}
    if kind == "WEBP" and picture.mode == "RGBA":
        options |= {"kmax": 1}  # libwebp writes the differences of lossy frames without their transparency
    content = io.BytesIO()  # Pillow's JPEG writer does not notice that the end of a file is missing on a full disk
    picture.save(content, kind, **options)
    with whole_file(path) as temporary:
        temporary.write_bytes(content.getvalue())
