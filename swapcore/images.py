"""Pictures: decoded, brought to [-1, 1] and back, drawn in grids, and written as PNG files marked as AI-generated."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from swapcore.files import whole_file

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# IPTC's vocabulary for pictures made by a trained model: https://cv.iptc.org/newscodes/digitalsourcetype/
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMMENT = "AI-generated: made by a face-swap network or a renderer of synthetic faces"
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


class DataError(ValueError):
    """Pictures are missing or damaged; the message names the file."""


def decode(file: Any, resolution: int | None = None, mode: str = "RGB", name: str | None = None) -> np.ndarray:
    """A picture file or stream -> (channels, height, width) uint8, resized to a square if asked. Raises DataError."""
    try:
        with Image.open(file) as picture:
            picture = picture.convert(mode)
            if resolution is not None and picture.size != (resolution, resolution):
                picture = picture.resize((resolution, resolution), Image.Resampling.LANCZOS)
            pixels = np.asarray(picture)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{name or file}: not a readable picture ({error})") from None
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None])


def to_float(images: Tensor) -> Tensor:
    """uint8 images in [0, 255] to float32 in [-1, 1]. Raises ValueError on another type."""
    if images.dtype != torch.uint8:
        raise ValueError(f"images: expected uint8, got {images.dtype}")
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Float images in [-1, 1] to uint8 as a file would hold them: rounded, clipped outside the range.

    Raises ValueError on integers and on NaN or infinite values.
    """
    if not images.is_floating_point():
        raise ValueError(f"images: expected floats in [-1, 1], got {images.dtype}")
    if not torch.isfinite(images).all():
        raise ValueError("images: NaN or infinite values; no picture can hold them")
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid(columns: dict[str, Tensor], cell: int = 128) -> Image.Image:
    """Columns of (n, 3, H, W) uint8 faces under their titles, one row per sample, each face `cell` pixels wide."""
    from matplotlib import font_manager  # only where something is drawn: it is slow to import

    rows = min(len(images) for images in columns.values())
    gap, top = max(2, cell // 32), 26
    sheet = Image.new("RGB", (len(columns) * (cell + gap) + gap, top + rows * (cell + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 13)
    for x, (title, images) in enumerate(columns.items()):
        left = gap + x * (cell + gap)
        pen.text((left + cell / 2, top / 2), title, fill="black", anchor="mm", font=font)
        for y in range(rows):
            face = Image.fromarray(np.ascontiguousarray(images[y].permute(1, 2, 0).numpy()))
            if face.size != (cell, cell):
                face = face.resize((cell, cell), Image.Resampling.BICUBIC)
            sheet.paste(face, (left, top + y * (cell + gap)))
    return sheet


def save_png(picture: Image.Image | Tensor, path: str | Path) -> None:
    """Write a picture, or one (3, H, W) uint8 face, marked as AI-generated in XMP and in PNG text."""
    if isinstance(picture, Tensor):
        picture = Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy()))
    with whole_file(path) as temporary:
        marked(picture).save(temporary, "PNG")


def marked(picture: Image.Image) -> Image.Image:
    """A copy that, whoever saves it as PNG, says that it is AI-generated."""
    info = PngInfo()
    info.add_text("Software", "SwapDistill")
    info.add_text("Comment", COMMENT)
    info.add_itxt("XML:com.adobe.xmp", XMP)
    copy = picture.copy()
    copy.save = partial(copy.save, pnginfo=info)
    return copy
