"""Lossless codecs of pictures in one table: size, time to encode and to decode, and whether two threads run side by
side. Of `benchmarks/loader.py`."""

from __future__ import annotations

import importlib
import io
import statistics
import sys
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_png, encode_png


class Codec(NamedTuple):
    """A picture (H, W, 3) uint8 RGB -> bytes, and back."""

    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]


def _pillow(**options: int) -> Callable[[np.ndarray], bytes]:
    def encode(picture: np.ndarray) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "PNG", **options)
        return stream.getvalue()

    return encode


def _pillow_decode(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


def _torchvision_decode(content: bytes) -> np.ndarray:
    pixels = torch.from_numpy(np.frombuffer(bytearray(content), np.uint8))
    return decode_png(pixels, ImageReadMode.RGB).permute(1, 2, 0).numpy()


def _torchvision(picture: np.ndarray) -> bytes:
    return encode_png(torch.from_numpy(picture).permute(2, 0, 1).contiguous(), 1).numpy().tobytes()


def _packed(compress: Callable[[bytes], bytes], expand: Callable[[bytes], bytes], side: int) -> Codec:
    """The raw bytes of a square picture, compressed."""
    return Codec(
        lambda picture: compress(picture.tobytes()),
        lambda content: np.frombuffer(expand(content), np.uint8).reshape(side, side, 3),
    )


def codecs(side: int) -> dict[str, Codec]:
    """All that are installed, by name, for square pictures of `side` pixels."""
    found = {f"Pillow PNG level {n}": Codec(_pillow(compress_level=n), _pillow_decode) for n in (0, 1, 6)}
    found["Pillow PNG level 1, runs"] = Codec(_pillow(compress_level=1, compress_type=zlib.Z_RLE), _pillow_decode)
    found["Pillow PNG level 1, read by torchvision"] = Codec(_pillow(compress_level=1), _torchvision_decode)
    found["torchvision PNG level 1"] = Codec(_torchvision, _torchvision_decode)
    found["raw"] = _packed(bytes, bytes, side)
    found["zlib of raw, level 1"] = _packed(lambda content: zlib.compress(content, 1), zlib.decompress, side)
    if cv2 := _import("cv2"):
        level = [cv2.IMWRITE_PNG_COMPRESSION, 1]
        found["OpenCV PNG level 1"] = Codec(
            lambda picture: cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]), level)[1].tobytes(),
            lambda content: cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1],
        )
    if arrow := _import("pyarrow"):
        size = side * side * 3
        found["zstd of raw (pyarrow)"] = _packed(
            lambda content: arrow.compress(content, "zstd", asbytes=True),
            lambda content: arrow.decompress(content, size, "zstd", asbytes=True), side,
        )  # fmt: skip
    if zstd := _import("zstandard"):
        found["zstd of raw"] = _packed(zstd.compress, zstd.decompress, side)
    if jpeg := _import("simplejpeg"):
        found["simplejpeg quality 95"] = Codec(lambda p: jpeg.encode_jpeg(p, 95), jpeg.decode_jpeg)
    return found


def measure(pictures: Sequence[np.ndarray], repeats: int = 3) -> list[dict[str, Any]]:
    """A row of each codec: kB and ms of processor time of a picture, how much faster two threads are than one, and
    whether another thread runs meanwhile. `lossless`: the pictures come back as they were. Medians of `repeats`."""
    found, times, rows = codecs(pictures[0].shape[0]), {}, []
    contents = {name: [codec.encode(picture) for picture in pictures] for name, codec in found.items()}
    with ThreadPoolExecutor(2) as pool:
        for _ in range(repeats):  # the codecs take turns
            for name, codec in found.items():
                for work, items in (("encode", pictures), ("decode", contents[name])):
                    function = getattr(codec, work)
                    alone, cpu = _seconds(lambda f=function, i=items: [f(item) for item in i])
                    both, _ = _seconds(lambda f=function, i=items: list(pool.map(f, i)))
                    times.setdefault((name, work), []).append((cpu, alone / both))
    for name, codec in found.items():
        row = {"codec": name, "kb": statistics.mean(map(len, contents[name])) / 1e3}
        for work, items in (("encode", pictures), ("decode", contents[name])):
            cpu, ratio = (statistics.median(column) for column in zip(*times[name, work], strict=True))
            row |= {f"{work}_ms": 1e3 * cpu / len(pictures), f"{work}_two_threads": ratio}
            row[f"{work}_leaves_lock"] = leaves_lock(getattr(codec, work), items)
        same = [np.array_equal(codec.decode(c), p) for c, p in zip(contents[name], pictures, strict=True)]
        rows.append({**row, "lossless": all(same)})
    return rows


def leaves_lock(work: Callable[[Any], Any], items: Sequence[Any]) -> bool:
    """Whether another thread of Python runs within calls of `work`. A busy machine does not change the answer: threads
    do not take turns here, so the other one runs only where `work` leaves the interpreter's lock."""
    interval, calls = sys.getswitchinterval(), []

    def call() -> None:
        for item in [*items] * 3:
            started = time.perf_counter()
            work(item)
            calls.append((started, time.perf_counter()))

    thread, moments = threading.Thread(target=call), []
    sys.setswitchinterval(1000)
    try:
        thread.start()
        while thread.is_alive():
            time.sleep(0)
            moments.append(time.perf_counter())
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    return any(started < moment < ended for started, ended in calls for moment in moments)


def text(rows: Sequence[dict[str, Any]]) -> str:
    columns = " ".join(f"{f'{work}':>12} {'2 threads':>9} {'lock':>6}" for work in ("encode", "decode"))
    lines = [f"{'codec':40} {'kB':>6} {columns}"]
    for row in rows:
        work = " ".join(
            f"{row[f'{w}_ms']:9.2f} ms {row[f'{w}_two_threads']:7.2f} x "
            f"{'leaves' if row[f'{w}_leaves_lock'] else 'holds':>6}"
            for w in ("encode", "decode")
        )
        lines.append(f"{row['codec']:40} {row['kb']:6.1f} {work}{'' if row['lossless'] else '  not lossless'}")
    return "\n".join(lines)


def _seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Of the clock, and of the processor."""
    started, before = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - before


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
