"""Small pictures of the kinds that phones, scanners and image editors write."""

import struct

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
# How a picture lies in the file for each EXIF orientation; it is the inverse of what a viewer does.
LAID = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
P3_TO_XYZ = [[0.5151, 0.2412, -0.0011], [0.2920, 0.6922, 0.0419], [0.1571, 0.0666, 0.7841]]  # columns, D50


def turned(path, pixels, value, **options):
    """A file whose pixels (H, W, 3) uint8 a viewer shows upright by the EXIF orientation `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture, exif = Image.fromarray(pixels), Image.Exif()
    exif[ORIENTATION] = value
    picture = picture.transpose(LAID[value]) if value in LAID else picture
    if path.suffix == ".tif":
        options["tiffinfo"] = {ORIENTATION: value}
    picture.save(path, **({"exif": exif} if path.suffix != ".tif" else {}), **options)
    return path


def animation(path, count, size=16, duration=(40, 80), alpha=False):
    """`count` frames of different greys; with `alpha` their left halves are transparent."""
    frames = []
    for i in range(count):
        frame = np.full((size, size, 4), (*[40 * i + 20] * 3, 255), np.uint8)
        frame[i, :, :3] = 255
        if alpha:
            frame[:, : size // 2, 3] = 0
        frames.append(Image.fromarray(frame if alpha else np.ascontiguousarray(frame[..., :3])))
    times = [duration[i % len(duration)] for i in range(count)]
    options = {"lossless": True} if path.suffix == ".webp" else {}
    if count > 1:
        options |= {"save_all": True, "append_images": frames[1:], "duration": times, "loop": 0}
    if path.suffix == ".gif" and alpha:
        options["disposal"] = 2
    frames[0].save(path, **options)
    return times


def p3_profile():
    """A small ICC profile of Display P3, with a gamma of 2.2 for its curve."""
    return _matrix_profile(P3_TO_XYZ, 2.2)


def white_rgb_profile():
    """The same primaries with a gamma of 1.8."""
    return _matrix_profile(P3_TO_XYZ, 1.8)


def _matrix_profile(columns, gamma):
    def fixed(value):
        return struct.pack(">i", round(value * 65536))

    def xyz(values):
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    text = b"P3 of a test\0"
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 78 + b"\0" * 1}
    tags |= {b"cprt": b"text\0\0\0\0none\0\0\0\0", b"wtpt": xyz((0.9642, 1, 0.8249))}
    tags |= {name: xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    tags |= {name: curve for name in (b"rTRC", b"gTRC", b"bTRC")}
    table, body, offset = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += struct.pack(">4sII", name, offset + len(body), len(content))
        body += content
    size = offset + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H4s4sI4sI8sI", 2024, 1, 1, 0, 0, 0, b"acsp", b"APPL", 0, b"none", 0, b"\0" * 8, 0)
    header += xyz((0.9642, 1, 0.8249))[8:]
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
