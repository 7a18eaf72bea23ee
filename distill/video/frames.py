"""Reading and writing of video frames, upright and in the film's own colours. Needs PyAV, of the extra `video`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from distill.video import containers
from distill.video.containers import Film, Kind
from distill.video.film import Colours, film_of, opened, rgb, turns
from swapcore import terminal
from swapcore.files import DiskFull, disk_full_named, whole_file
from swapcore.images import DataError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream


def count(path: str | Path) -> int:
    """Number of frames, by the header or else by the packets. Raises DataError naming an unreadable file."""
    av = _av()
    try:
        with opened(path) as container:
            stream = film_of(container, path)
            return stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    except (av.error.FFmpegError, IndexError, OSError) as error:
        raise DataError(f"{path}: not a readable video ({_short(error)})") from None


def read(path: str | Path, indices: Iterable[int]) -> dict[int, np.ndarray]:
    """Upright frames by number, (H, W, 3) uint8 RGB, decoded in one pass that ends with the last of them.

    Frames that the video does not have are absent from the result: files are often cut off. Raises DataError naming the
    file where none of the frames can be read, and for HDR.
    """
    av, requested = _av(), set(indices)
    frames: dict[int, np.ndarray] = {}
    flaw = None
    try:
        with opened(path) as container:
            stream = film_of(container, path)
            stream.thread_type = "AUTO"
            for number, frame in enumerate(container.decode(stream)):
                if number in requested:
                    frames[number] = rgb(frame, path)
                if len(frames) == len(requested):
                    break
    except (av.error.FFmpegError, IndexError, OSError) as error:
        flaw = _short(error)
    if requested and not frames:
        raise DataError(f"{path}: not a readable video ({flaw or 'it ends before the first requested frame'})")
    return frames


def stream(path: str | Path) -> Iterator[tuple[float, np.ndarray]]:
    """All frames of a video in their order: when each is shown, in seconds, and the upright frame (H, W, 3) uint8 RGB.

    A frame without a time of its own is shown at its number divided by the frame rate, 25 if that is unknown. Raises
    DataError naming the file where it cannot be read to its end, and for HDR.
    """
    av, source = _av(), Path(path)
    try:
        with opened(source) as reader:
            film = film_of(reader, source)
            film.thread_type = "AUTO"
            for number, frame in enumerate(_decode(reader, film, source)):
                time = number / (film.average_rate or 25) if frame.time is None else frame.time
                yield float(time), rgb(frame, source)
    except (av.error.FFmpegError, IndexError, OSError) as error:
        raise DataError(f"{source}: not a readable video ({_short(error)})") from None


def convert(
    source: str | Path, target: str | Path, change: Callable[[np.ndarray], np.ndarray],
    check: Callable[[], None] = lambda: None, clock: Callable[[float], None] = lambda _: None,
) -> Iterator[int]:  # fmt: skip
    """Write `source` to `target` with each upright frame (H, W, 3) uint8 RGB changed, whole or not at all.

    Every frame keeps its time, and the film its time base, colour tags and shape of pixels. The sound is copied, or
    encoded anew where the kind of file that the ending of `target` names cannot hold it. An odd side loses a line. The
    metadata say that the video is AI-generated. Yields the number of frames done. check: called after the last frame;
    what it raises is passed on, and `target` stays as it was. clock: called before each `change` with the frame's own
    time in seconds or, where the file names none, with its number divided by the frame rate. Raises DataError before
    the first frame for HDR, and for sound or a frame rate that `target` cannot hold; and for a source that cannot be
    read to its end. What was changed before such a failure is kept beside `target` without sound; the error says where.
    """
    av, source, target = _av(), Path(source), Path(target)
    kind = containers.kind_of(target)
    with whole_file(target) as temporary:
        film = Film(temporary.with_suffix(".nut"))
        try:
            rate = _checked(source, kind)
            try:
                with disk_full_named(target, temporary):
                    yield from _change(source, film, kind, rate, change, clock)
            except av.error.FFmpegError as error:
                raise DataError(f"{target}: cannot be encoded ({_short(error)})") from None
            except DataError as error:
                raise DataError(f"{error}{_keep(film, target, kind)}") from None
            check()
            _join(film, temporary, target, kind, source)
        finally:
            film.path.unlink(missing_ok=True)


def _checked(source: Path, kind: Kind) -> Fraction | None:
    """Raise DataError for what cannot be written; return the one frame rate where the file must have one."""
    av = _av()
    try:
        with opened(source) as reader:
            film_of(reader, source)
        containers.check_sound(source, kind)
        return None if kind.variable else containers.constant_rate(source)
    except (av.error.FFmpegError, IndexError, OSError) as error:
        raise DataError(f"{source}: not a readable video ({_short(error)})") from None


def _change(
    source: Path, film: Film, kind: Kind, rate: Fraction | None, change: Callable[[np.ndarray], np.ndarray],
    clock: Callable[[float], None],
) -> Iterator[int]:  # fmt: skip
    """Encode the changed frames into `film`, which is closed as a whole file even where the source ends in an error."""
    av = _av()
    with opened(source) as reader, av.open(str(film.path), "w", format="nut") as writer:
        video, out = film_of(reader, source), None
        video.thread_type = "AUTO"
        try:
            for frame in _decode(reader, video, source):
                before = rgb(frame, source)
                clock(float(film.frames / (video.average_rate or 25) if frame.time is None else frame.time))
                image = change(before.copy())  # which may write on it
                if out is None:
                    film.time_base = 1 / rate if rate else frame.time_base
                    film.colours = Colours.of(frame) if kind.tags else Colours.untagged()
                    if video.duration:
                        film.end = ((video.start_time or 0) + video.duration) * video.time_base
                    out = _encoder(writer, kind, video, frame, image.shape, film)
                changed = film.colours.frame(image, out.width, out.height, frame, before)
                changed.pts, changed.time_base = film.tick(frame, video.average_rate), film.time_base
                writer.mux(out.encode(changed))
                yield film.frames
        finally:
            if out is not None:
                writer.mux(out.encode(None))
    if not film.frames:
        raise DataError(f"{source}: a video without frames")


def _decode(reader: InputContainer, video: VideoStream, source: Path) -> Iterator[VideoFrame]:
    try:
        yield from reader.decode(video)
    except (_av().error.FFmpegError, IndexError) as error:
        raise DataError(f"{source}: not a readable video ({_short(error)})") from None


def _encoder(
    writer: OutputContainer, kind: Kind, video: VideoStream, frame: VideoFrame, shape: tuple[int, ...], film: Film
) -> VideoStream:
    name, options = kind.pictures
    out = writer.add_stream(name, rate=video.average_rate or 25, options=options)
    out.height, out.width = (side - side % 2 for side in shape[:2])
    context = out.codec_context
    context.time_base, context.max_b_frames = film.time_base, 0  # B-frames: times before 0, which AVI and NUT lack
    out.time_base = film.time_base
    film.colours.tag(context)
    if pixel := video.sample_aspect_ratio:
        pixel = 1 / pixel if turns(frame)[0] else pixel
        if kind.square:
            out.width = max(2 * round(out.width * pixel / 2), 2)
        else:
            film.pixel = context.sample_aspect_ratio = pixel
    return out


def _join(film: Film, temporary: Path, target: Path, kind: Kind, source: Path) -> None:
    try:
        with disk_full_named(target, temporary):
            containers.join(film, temporary, kind, source)
    except DiskFull as error:
        raise DiskFull(f"{error}{_keep(film, target, None)}") from error
    except Exception as error:  # of whatever kind: hours of work must not go with it
        message = f"{target}: pictures and sound cannot be put together ({_short(error)})"
        raise DataError(message + _keep(film, target, kind)) from error


def _keep(film: Film, target: Path, kind: Kind | None) -> str:
    """Keep the pictures beside `target`: as a file of the same kind, or as they are where that fails or no kind is
    given. Returns the end of the error's message; empty if there are no pictures."""
    if not film.frames:
        return ""
    kept = target.with_name(f"{target.stem}.pictures{target.suffix}")
    try:
        if kind is None:
            raise OSError("the disk is full")
        with whole_file(kept) as temporary:
            containers.join(film, temporary, kind, None)
    except Exception:  # the film itself is whole, in a format that players read
        kept = kept.with_suffix(".nut")
        os.replace(film.path, kept)
    return f"; the {film.frames} frames that were swapped are in {kept}, without sound"


def _av() -> ModuleType:
    try:
        import av
    except ImportError:
        raise DataError(f"reading videos needs PyAV: {terminal.install('video')}") from None
    return av


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
