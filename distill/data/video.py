"""Frames of videos, read and written. Wants PyAV, from the extra `video`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from swapcore.files import whole_file
from swapcore.images import DataError


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


def convert(
    source: str | Path, target: str | Path, change: Callable[[np.ndarray], np.ndarray], metadata: dict[str, str]
) -> Iterator[int]:
    """Write a video whose frames (H, W, 3) uint8 RGB are changed one by one, its sound as it was; whole or not at all.

    Yields the number of frames done. Raises DataError naming a source that cannot be read, however far it got.
    """
    av = _av()
    try:
        with av.open(str(source)) as read, whole_file(target) as temporary:
            video = read.streams.video[0]
            video.thread_type = "AUTO"
            with av.open(str(temporary), "w", format="mp4", options={"movflags": "use_metadata_tags"}) as written:
                written.metadata.update(metadata)
                out = written.add_stream("libx264", rate=video.average_rate or 25, options={"crf": "16"})
                out.pix_fmt, out.time_base = "yuv420p", video.time_base
                out.height, out.width = (side - side % 2 for side in (video.height, video.width))
                sound = read.streams.audio[:1]
                copies = {stream.index: written.add_stream_from_template(stream) for stream in sound}
                done = 0
                for packet in read.demux([video, *sound]):
                    if packet.stream.index in copies:
                        if packet.dts is not None:
                            packet.stream = copies[packet.stream.index]
                            written.mux(packet)
                        continue
                    for frame in packet.decode():
                        image = change(frame.to_ndarray(format="rgb24"))
                        fresh = av.VideoFrame.from_ndarray(image[: out.height, : out.width], format="rgb24")
                        fresh.pts, fresh.time_base = frame.pts, frame.time_base
                        written.mux(out.encode(fresh))
                        done += 1
                        yield done
                if not done:
                    raise DataError(f"{source}: a video without frames")
                written.mux(out.encode())
    except (av.error.FFmpegError, IndexError) as error:
        raise DataError(f"{source}: not a readable video ({_short(error)})") from None


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
