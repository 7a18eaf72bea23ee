"""Grids of faces, and PNG files that say they were generated."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from distill.stage import whole_file

# IPTC's vocabulary for pictures made by a trained model: https://cv.iptc.org/newscodes/digitalsourcetype/
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
TOLD = "AI-generated: made by a face-swap network or a renderer of synthetic faces"
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


def grid(columns: dict[str, torch.Tensor], cell: int = 128) -> Image.Image:
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


def save_png(picture: Image.Image | torch.Tensor, path: str | Path) -> None:
    """Write a picture, or one (3, H, W) uint8 face, marked as AI-generated in XMP and in PNG text."""
    if isinstance(picture, torch.Tensor):
        picture = Image.fromarray(np.ascontiguousarray(picture.permute(1, 2, 0).cpu().numpy()))
    with whole_file(path) as temporary:
        marked(picture).save(temporary, "PNG")


def marked(picture: Image.Image) -> Image.Image:
    """A copy that, whoever saves it as PNG, says that it is AI-generated."""
    info = PngInfo()
    info.add_text("Software", "SwapDistill")
    info.add_text("Comment", TOLD)
    info.add_itxt("XML:com.adobe.xmp", XMP)
    copy = picture.copy()
    copy.save = partial(copy.save, pnginfo=info)
    return copy
