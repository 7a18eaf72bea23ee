"""Images: uint8 <-> float in [-1, 1], grids of faces, PNG files marked if AI-generated; the names of decoding.py."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional as F

from swapcore.decoding import SUFFIXES, DataError, decode, list_pictures, named, opened, picture_side, unread_files
from swapcore.files import whole_file

__all__ = [
    "SUFFIXES", "DataError", "decode", "grid", "list_pictures", "marked", "named", "opened", "picture_side", "png_mark",
    "read_made_from", "resized", "save_png", "to_float", "to_uint8", "unread_files",
]  # fmt: skip

REC_601 = (0.299, 0.587, 0.114)  # of red, green and blue in the luminance: ITU-R BT.601
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# IPTC's vocabulary for pictures made by a trained model: https://cv.iptc.org/newscodes/digitalsourcetype/
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
COMMENT = "AI-generated: made by a face-swap network or a renderer of synthetic faces"
MADE_FROM = "MadeFrom"  # name of the PNG text of a crop that says from which file and how it was made
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def resized(images: Tensor, size: int) -> Tensor:
    """(n, 3, H, W) uint8 images as (n, 3, size, size), by the filter that `decode` uses."""
    if images.shape[2:] == (size, size):
        return images
    pictures = [Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy())) for image in images]
    arrays = [np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS)) for picture in pictures]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def scaled(images: Tensor, size: int | None) -> Tensor:
    """(N, 3, H, H) float images as (N, 3, size, size), on their device. None: as they are."""
    if size in (None, images.shape[-1]):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def to_float(images: Tensor) -> Tensor:
    """uint8 images in [0, 255] to float32 in [-1, 1]. Raises ValueError on another type."""
    if images.dtype != torch.uint8:
        raise ValueError(f"images: expected uint8, got {images.dtype}")
    return images.float().div_(127.5).sub_(1)  # in place: batches are large


def to_uint8(images: Tensor, check: bool = True) -> Tensor:
    """Float images in [-1, 1] to uint8 as a file would hold them: rounded, clipped outside the range.

    Raises ValueError on integers and, with `check`, on NaN or infinite values; the check makes the host wait for a GPU.
    """
    if not images.is_floating_point():
        raise ValueError(f"images: expected floats in [-1, 1], got {images.dtype}")
    if check and not torch.isfinite(images).all():
        raise ValueError("images: NaN or infinite values; no picture can hold them")
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid(columns: dict[str, Tensor], cell: int = 128) -> Image.Image:
    """Columns of (n, 3, H, W) uint8 faces under their titles, one row per sample, each face `cell` pixels wide."""
    from matplotlib import font_manager  # imported here because it is slow

    rows = min(len(images) for images in columns.values())
    gap, top = max(2, cell // 32), 26
    sheet = Image.new("RGB", (len(columns) * (cell + gap) + gap, top + rows * (cell + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 13)
    widest = max(font.getlength(title) for title in columns)
    if widest > cell:
        font = font.font_variant(size=max(7, int(13 * cell / widest)))
    for x, (title, images) in enumerate(columns.items()):
        left = gap + x * (cell + gap)
        pen.text((left + cell / 2, top / 2), title, fill="black", anchor="mm", font=font)
        for y in range(rows):
            face = Image.fromarray(np.ascontiguousarray(images[y].permute(1, 2, 0).numpy()))
            if face.size != (cell, cell):
                face = face.resize((cell, cell), Image.Resampling.BICUBIC)
            sheet.paste(face, (left, top + y * (cell + gap)))
    return sheet


def save_png(
    picture: Image.Image | Tensor | np.ndarray, path: str | Path, generated: bool = True, compress_level: int = 6,
    made_from: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write a picture, a uint8 tensor (3, H, W) or a uint8 array (H, W, 3) or (H, W) as PNG, atomically.

    `generated` pictures are marked as AI-generated in XMP and in PNG text. Pass False for a photograph that is only
    decoded, resized or cropped, and for a mask. made_from: JSON-able facts that `read_made_from` returns.
    """
    if isinstance(picture, Tensor):
        picture = np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy())
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    info = png_mark() if generated else PngInfo()
    if made_from is not None:
        info.add_text(MADE_FROM, json.dumps(made_from, sort_keys=True))
    with whole_file(path) as temporary:
        picture.save(temporary, "PNG", compress_level=compress_level, pnginfo=info)


def read_made_from(path: str | Path) -> dict[str, Any] | None:
    """The facts that `save_png` wrote into a PNG file, or None where it has none. Raises DataError."""
    with opened(path) as picture, named(path):  # reads the chunks before the pixels only
        return json.loads(picture.info[MADE_FROM]) if MADE_FROM in picture.info else None


def marked(picture: Image.Image) -> Image.Image:
    """A copy whose `save` adds the AI-generated mark to the PNG, for a library that calls `save` itself (MLflow)."""
    copy = picture.copy()
    copy.save = partial(copy.save, pnginfo=png_mark())
    return copy


def png_mark() -> PngInfo:
    """The PNG texts that say that a picture is AI-generated."""
    info = PngInfo()
    info.add_text("Software", "SwapDistill")
    info.add_text("Comment", COMMENT)
    info.add_itxt("XML:com.adobe.xmp", XMP)
    return info
