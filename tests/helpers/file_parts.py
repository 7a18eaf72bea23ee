"""Random damage to the parts of which files of pictures and videos consist: boxes, chunks, segments and elements.

The bytes of a film or a picture are mostly compressed samples, where random damage hits. What a header says (sizes,
counts, times, numbers of codecs and colours) decides more, and is a few hundred bytes.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from helpers.mutations import damaged_bytes

# Boxes of MP4, MOV and AVIF that hold boxes, with the bytes before the first of them
BOXES = dict.fromkeys((b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"udta", b"dinf", b"iprp", b"ipco"), 0)
BOXES |= {b"meta": 4, b"stsd": 8, b"avc1": 78, b"mp4v": 78, b"mp4a": 28, b"sowt": 28}
ODD_NUMBERS = (
    0,
    1,
    2,
    3,
    5,
    16,
    18,
    255,
    256,
    1000,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    10**6,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
EBML_MASTERS = {bytes.fromhex(x) for x in "18538067 1549A966 1654AE6B AE E0 E1 55B0 1F43B675 1C53BB6B BB B7 A0".split()}
BODY = 600  # a longer part is samples, of which few inputs are enough


@dataclass(frozen=True)
class Part:
    """The places of a part in a file: its header with its size and name, and its body."""

    start: int
    body: int
    end: int
    size: slice  # the bytes that hold the size
    order: str  # of the bytes of numbers: "big" or "little"
    checked: bool = False  # whether a CRC-32 of name and body follows, as in PNG


def damaged_parts(rng: random.Random, content: bytes) -> bytes:
    """A file with one to three parts changed: another size or name, numbers overwritten, cut, removed, repeated, or
    swapped. As `damaged_bytes` where the file is of no kind that is known here, and at times anyway."""
    if rng.random() < 0.3:
        return damaged_bytes(rng, content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        parts = list(parts_of(content))
        if not parts:
            return damaged_bytes(rng, content)
        part = rng.choice([p for p in parts if p.end - p.body <= BODY] * 4 + parts)
        content = _damaged_part(rng, content, part, rng.choice(parts))
    return content


def parts_of(content: bytes) -> Iterator[Part]:
    """The parts of a file, those that hold others before what they hold."""
    if content[4:8] == b"ftyp":
        yield from _boxes(content, 0, len(content))
    elif content[:4] == b"RIFF":
        yield from _riff(content, 0, len(content))
    elif content[:4] == b"\x1a\x45\xdf\xa3":
        yield from _ebml(content, 0, len(content))
    elif content[:8] == b"\x89PNG\r\n\x1a\n":
        yield from _png(content)
    elif content[:2] == b"\xff\xd8":
        yield from _jpeg(content)
    elif content[:4] in (b"II*\0", b"MM\0*"):
        yield from _tiff(content)


def _damaged_part(rng: random.Random, content: bytes, part: Part, other: Part) -> bytes:
    kind = rng.randrange(9)
    changed = bytearray(content)
    if kind == 0:
        return content[: part.start] + content[part.end :]
    if kind == 1:
        return content[: part.end] + content[part.start :]
    if kind == 2 and other.start >= part.end:
        middle = content[part.end : other.start]
        first, second = content[part.start : part.end], content[other.start : other.end]
        return content[: part.start] + second + middle + first + content[other.end :]
    if kind == 3:
        return content[: rng.randrange(part.start, part.end + 1)]
    if kind == 4 and part.body < part.end:  # its size stays, so that what follows is taken for the rest
        first = rng.randrange(part.body, part.end)
        return content[:first] + content[min(part.end, first + rng.choice((1, 2, 4, 100))) :]
    if kind == 5:
        _overwrite(rng, changed, part.size.start, part.size.stop, part.order)
    elif kind == 6:
        changed[rng.randrange(part.start, max(part.body, part.start + 1))] ^= 1 << rng.randrange(8)
    elif part.body < part.end:
        width = rng.choice((1, 2, 4, 4, 8))
        first = part.body + rng.randrange(0, part.end - part.body, min(width, 4))
        _overwrite(rng, changed, first, min(first + width, part.end), part.order)
    if part.checked:
        changed[part.end - 4 : part.end] = struct.pack(">I", zlib.crc32(changed[part.start + 4 : part.end - 4]))
    return bytes(changed)


def _overwrite(rng: random.Random, content: bytearray, first: int, last: int, order: str) -> None:
    width = last - first
    before = int.from_bytes(content[first:last], order)
    number = rng.choice((*ODD_NUMBERS, before + 1, before - 1, 2 * before, rng.getrandbits(8 * width)))
    content[first:last] = (number % 256**width).to_bytes(width, order)


def _boxes(content: bytes, place: int, end: int) -> Iterator[Part]:
    while place + 8 <= end:
        size, name = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        last = min(place + size, end) if size >= 8 else end
        yield Part(place, place + 8, last, slice(place, place + 4), "big")
        if name in BOXES:
            yield from _boxes(content, place + 8 + BOXES[name], last)
        place = last


def _riff(content: bytes, place: int, end: int) -> Iterator[Part]:
    while place + 8 <= end:
        size, name = int.from_bytes(content[place + 4 : place + 8], "little"), content[place : place + 4]
        last = min(place + 8 + size + size % 2, end)
        yield Part(place, place + 8, last, slice(place + 4, place + 8), "little")
        if name in (b"RIFF", b"LIST"):
            yield from _riff(content, place + 12, last)
        place = last


def _ebml(content: bytes, place: int, end: int) -> Iterator[Part]:
    while place + 2 <= end:
        name = 9 - content[place].bit_length()
        first = content[place + name] if place + name < end else 0
        width = 9 - first.bit_length()
        if name > 4 or width > 8:
            return
        body = place + name + width
        size = int.from_bytes(content[place + name : body], "big") & (1 << 7 * width) - 1
        last = min(body + size, end)  # an unknown size is all ones, which reaches to the end
        yield Part(place, min(body, last), last, slice(place + name, min(body, last)), "big")
        if content[place : place + name] in EBML_MASTERS:
            yield from _ebml(content, body, last)
        place = max(last, place + 1)


def _png(content: bytes) -> Iterator[Part]:
    place = 8
    while place + 12 <= len(content):
        last = min(place + 12 + int.from_bytes(content[place : place + 4], "big"), len(content))
        yield Part(place, place + 8, last, slice(place, place + 4), "big", checked=True)
        place = last


def _jpeg(content: bytes) -> Iterator[Part]:
    place = 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        last = min(place + 2 + int.from_bytes(content[place + 2 : place + 4], "big"), len(content))
        yield Part(place, place + 4, last, slice(place + 2, place + 4), "big")
        if content[place + 1] == 0xDA:  # the samples follow
            return
        place = last


def _tiff(content: bytes) -> Iterator[Part]:
    """The entries of the first directory: tag, type, count and value. The count stands for the size."""
    order = "little" if content[:2] == b"II" else "big"
    place = int.from_bytes(content[4:8], order)
    for entry in range(int.from_bytes(content[place : place + 2], order)):
        start = place + 2 + 12 * entry
        if start + 12 <= len(content):
            yield Part(start, start + 8, start + 12, slice(start + 4, start + 8), order)
