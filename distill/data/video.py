"""Frames of videos, read and written. Wants PyAV, from the extra `video`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from distill.data.photos import DataError
from distill.stage import whole_file


def count(path: str | Path) -> int:
    """Number of frames, as the container says or its packets tell. Raises DataError naming an unreadable file."""
    av = _av()
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    except (av.error.FFmpegError, IndexError, OSError) as error:
        raise DataError(f"{path}: not a readable video ({_short(error)})") from None


def read(path: str | Path, indices: Iterable[int]) -> dict[int, np.ndarray]:
    """Frames by number, (H, W, 3) uint8 RGB, decoded in one pass that ends with the last of them.

    A frame that the video turns out not to have is absent: files are often cut off. Raises DataError naming the file
    where it cannot be read at all, or breaks before the first of the frames.
    """
    av, wanted = _av(), set(indices)
    found: dict[int, np.ndarray] = {}
    flaw = None
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number in wanted:
                    found[number] = frame.to_ndarray(format="rgb24")
                if len(found) == len(wanted):
                    break
    except (av.error.FFmpegError, IndexError, OSError) as error:
        flaw = _short(error)
    if wanted and not found:
        raise DataError(f"{path}: not a readable video ({flaw or 'it ends before the first frame asked for'})")
    return found


def write(path: str | Path, frames: Sequence[np.ndarray], fps: int = 25) -> None:
    """Write frames (H, W, 3) uint8 RGB of even sides as H.264, whole or not at all. Raises ValueError."""
    av = _av()
    shapes = {frame.shape for frame in frames}
    if len(shapes) != 1 or any(side % 2 for side in next(iter(shapes))[:2]):
        raise ValueError(f"{path}: frames: expected one even size, got {sorted(shapes)}")
    height, width, _ = shapes.pop()
    with whole_file(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _av() -> ModuleType:
    try:
        import av
    except ImportError:
        raise DataError("reading videos needs PyAV: pip install swapdistill[video]") from None
    return av


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
