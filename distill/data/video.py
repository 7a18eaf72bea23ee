"""Reading and writing of video frames. Needs PyAV, of the extra `video`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np

from swapcore import terminal
from swapcore.files import whole_file
from swapcore.images import COMMENT, XMP, DataError


def count(path: str | Path) -> int:
    """Number of frames, by the header or else by the packets. Raises DataError naming an unreadable file."""
    av = _av()
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    except (av.error.FFmpegError, IndexError, OSError) as error:
        raise DataError(f"{path}: not a readable video ({_short(error)})") from None


def read(path: str | Path, indices: Iterable[int]) -> dict[int, np.ndarray]:
    """Frames by number, (H, W, 3) uint8 RGB, decoded in one pass that ends with the last of them.

    Frames that the video does not have are absent from the result: files are often cut off. Raises DataError naming the
    file where none of the frames can be read.
    """
    av, requested = _av(), set(indices)
    frames: dict[int, np.ndarray] = {}
    flaw = None
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number in requested:
                    frames[number] = frame.to_ndarray(format="rgb24")
                if len(frames) == len(requested):
                    break
    except (av.error.FFmpegError, IndexError, OSError) as error:
        flaw = _short(error)
    if requested and not frames:
        raise DataError(f"{path}: not a readable video ({flaw or 'it ends before the first requested frame'})")
    return frames


def convert(source: str | Path, target: str | Path, change: Callable[[np.ndarray], np.ndarray]) -> Iterator[int]:
    """Write `source` to `target` with each frame (H, W, 3) uint8 RGB changed and the sound copied, whole or not at all.

    The metadata say that the video is AI-generated. Yields the number of frames done. Raises DataError naming a source
    that cannot be read to its end.
    """
    av = _av()
    try:
        with av.open(str(source)) as reader, whole_file(target) as temporary:
            video = reader.streams.video[0]
            video.thread_type = "AUTO"
            with av.open(str(temporary), "w", format="mp4", options={"movflags": "use_metadata_tags"}) as writer:
                writer.metadata.update({"comment": COMMENT, "description": XMP})
                out = writer.add_stream("libx264", rate=video.average_rate or 25, options={"crf": "16"})
                out.pix_fmt, out.time_base = "yuv420p", video.time_base
                out.height, out.width = (side - side % 2 for side in (video.height, video.width))
                sound = reader.streams.audio[:1]
                copies = {stream.index: writer.add_stream_from_template(stream) for stream in sound}
                done = 0
                for packet in reader.demux([video, *sound]):
                    if packet.stream.index in copies:
                        if packet.dts is not None:
                            packet.stream = copies[packet.stream.index]
                            writer.mux(packet)
                        continue
                    for frame in packet.decode():
                        image = change(frame.to_ndarray(format="rgb24"))
                        changed = av.VideoFrame.from_ndarray(image[: out.height, : out.width], format="rgb24")
                        changed.pts, changed.time_base = frame.pts, frame.time_base
                        writer.mux(out.encode(changed))
                        done += 1
                        yield done
                if not done:
                    raise DataError(f"{source}: a video without frames")
                writer.mux(out.encode())
    except (av.error.FFmpegError, IndexError) as error:
        raise DataError(f"{source}: not a readable video ({_short(error)})") from None


def _av() -> ModuleType:
    try:
        import av
    except ImportError:
        raise DataError(f"reading videos needs PyAV: {terminal.install('video')}") from None
    return av


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
