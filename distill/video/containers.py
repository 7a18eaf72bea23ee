"""The kinds of video files that are written, by their endings: what they hold, and pictures and sound put into them."""

from __future__ import annotations

import heapq
import io
import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from distill.video.film import Colours, film_of, opened
from swapcore.images import COMMENT, XMP, DataError

if TYPE_CHECKING:  # PyAV belongs to the extra `video`
    from av import Packet, VideoFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.filter import Graph
    from av.video.stream import VideoStream

    _Track = tuple[AudioStream, Graph | None]

FASTEST = 240  # frames a second; the thousandths of a second of a varying rate are not a rate
TOLERANCE = Fraction(2, 1000)  # seconds; files that count in thousandths round
TRIAL = 64  # packets of sound that are written before the first frame is swapped
LAYOUTS = ("mono", "stereo", "3.0", "4.0", "5.0", "5.1", "6.1", "7.1")
H264 = ("libx264", {"crf": "16"})
VP9 = ("libvpx-vp9", {"crf": "18", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"})
MPEG4 = ("mpeg4", {"flags": "+qscale", "global_quality": "236", "bf": "0"})  # 2 of 31; H.264 in AVI is shown late
PACKED = {"aac", "mp3", "ac3", "eac3", "alac"}
PCM = {f"pcm_{kind}" for kind in "u8 s16le s24le s32le f32le f64le".split()}
BIG_ENDIAN = {f"pcm_{kind}" for kind in "s16be s24be s32be".split()}
QUICKTIME = {f"pcm_{kind}" for kind in "s8 f32be f64be mulaw alaw".split()}


@dataclass(frozen=True)
class Kind:
    """A kind of file. pictures: encoder and its options. copied: the codecs whose sound is kept as it is. sound: the
    encoder of all other sound. variable: whether each frame has a time of its own. square: pictures are scaled to
    square pixels, since neither VP9 nor PyAV's writer of WebM says their shape. tags: whether it says the matrix and
    the range of colours; they are converted to those that players assume where it does not."""

    format: str
    copied: frozenset[str]
    sound: str = "aac"
    pictures: tuple[str, dict[str, str]] = H264
    variable: bool = True
    square: bool = False
    tags: bool = True
    options: dict[str, str] = field(default_factory=dict)

    def options_for(self, time_base: Fraction) -> dict[str, str]:
        """Options of the writer that keep the time base of the pictures, where the format can."""
        scale = {"video_track_timescale": str(time_base.denominator)} if self.format in ("mp4", "mov") else {}
        return {**self.options, **scale}


@dataclass
class Film:
    """A file of encoded pictures in the making. time_base: seconds per tick of the frames' times. last: the seconds for
    which the last frame is shown, None if unknown. frames: how many there are."""

    path: Path
    time_base: Fraction = Fraction(1, 1000)
    colours: Colours | None = None
    pixel: Fraction | None = None  # width to height
    end: Fraction | None = None  # where the source's film ends, if it says so
    last: Fraction | None = None
    frames: int = 0
    ticks: int | None = None  # of the last frame
    shift: Fraction | None = None  # seconds from the first time of a frame to the nearest tick

    def tick(self, frame: VideoFrame, rate: Fraction | None) -> int:
        """The time of the next frame in ticks: its own where it has one that comes after the last frame's."""
        step = 1 / (rate or 25)
        if frame.pts is None:
            ticks = 0 if self.ticks is None else self.ticks + round(step / self.time_base)
        else:
            time = frame.pts * frame.time_base
            if self.shift is None:
                self.shift = round(time / self.time_base) * self.time_base - time
            ticks = round((time + self.shift) / self.time_base)
        if self.ticks is not None:
            ticks = max(ticks, self.ticks + 1)
        before, self.ticks = self.ticks, ticks
        self.last = frame.duration * frame.time_base if frame.duration else step if before is None else None
        if self.last is None:
            self.last = (ticks - before) * self.time_base
        if self.end is not None and (left := self.end + (self.shift or 0) - ticks * self.time_base) > 0:
            self.last = left
        self.frames += 1
        return ticks


KINDS = {
    ".mp4": Kind("mp4", frozenset(PACKED | {"opus", "flac"}), options={"movflags": "use_metadata_tags"}),
    ".mov": Kind("mov", frozenset(PACKED | PCM | BIG_ENDIAN | QUICKTIME), options={"movflags": "use_metadata_tags"}),
    ".mkv": Kind("matroska", frozenset(PACKED | PCM | BIG_ENDIAN | {"mp2", "dca", "flac", "opus", "vorbis"})),
    ".webm": Kind("webm", frozenset({"opus", "vorbis"}), "libopus", VP9, square=True),
    # Its sound has no times, see _anew.
    ".avi": Kind("avi", frozenset(), "pcm_s16le", MPEG4, variable=False, tags=False),
}


def kind_of(path: str | Path) -> Kind:
    """The kind of file that an ending names. Raises DataError for another one."""
    try:
        return KINDS[Path(path).suffix.lower()]
    except KeyError:
        raise DataError(f"{path}: not a video by its ending; known: {', '.join(sorted(KINDS))}") from None


def constant_rate(path: str | Path) -> Fraction:
    """The frame rate on whose grid from the first frame on every frame of a video lies, for files that know only one
    rate. Raises DataError."""
    with opened(path) as container:
        film = film_of(container, path)
        rates = [r for r in (film.base_rate, film.average_rate, film.guessed_rate) if r and r <= FASTEST]
        times = [p.pts * p.time_base for p in container.demux(film) if p.size and p.pts is not None]
    first = min(times, default=0)
    for rate in rates:
        places = [round((time - first) * rate) for time in times]
        near = all(abs(time - first - place / rate) <= TOLERANCE for time, place in zip(times, places, strict=True))
        if near and len(set(places)) == len(places):
            return Fraction(rate)
    raise DataError(f"{path}: the frame rate varies, which AVI cannot hold; let OUT end in .mp4, .mkv or .mov")


def check_sound(source: str | Path, kind: Kind) -> None:
    """Write the beginning of the sound to memory as it will be written at the end. Raises DataError where it fails."""
    import av

    with opened(source) as reader:
        for stream in reader.streams.audio:
            if stream.codec_context is None:
                raise DataError(f"{source}: PyAV does not know the kind of its sound; {_without_sound()}")
        if not reader.streams.audio:
            return
        names = ", ".join(sorted({stream.codec_context.name for stream in reader.streams.audio}))
        try:
            with av.open(io.BytesIO(), "w", format=kind.format) as writer:
                for packet in itertools.islice(_sound(reader, add_sound(writer, kind, reader.streams.audio)), TRIAL):
                    writer.mux(packet)
        except (av.error.FFmpegError, ValueError) as error:
            flaw = " ".join(str(error).split())[:120]
            raise DataError(
                f"{source}: its sound ({names}) cannot be written as {kind.format} ({flaw}); let OUT end in .mkv, or "
                f"{_without_sound()}"
            ) from None


def join(film: Film, target: Path, kind: Kind, source: str | Path | None) -> None:
    """Put the pictures of `film` and the sound of `source`, None for none, into one file, marked as AI-generated.

    Raises what PyAV raises.
    """
    import av

    with ExitStack() as stack:
        pictures = stack.enter_context(av.open(str(film.path)))
        reader = source and stack.enter_context(opened(source))
        options = kind.options_for(film.time_base)
        writer = stack.enter_context(av.open(str(target), "w", format=kind.format, options=options))
        writer.metadata.update({"comment": COMMENT, "description": XMP})
        (stream,) = pictures.streams.video
        out = writer.add_stream_from_template(stream, opaque=True)
        out.time_base = film.time_base
        film.colours.tag(out.codec_context)  # NUT does not hold them all
        if film.pixel:
            out.codec_context.sample_aspect_ratio = film.pixel
        packets = [_pictures(pictures.demux(stream), out, film.last)]
        if reader and reader.streams.audio:
            packets.append(_sound(reader, add_sound(writer, kind, reader.streams.audio), film.shift or Fraction(0)))
        for packet in heapq.merge(*packets, key=lambda packet: packet.dts * packet.time_base):
            writer.mux(packet)


def add_sound(writer: OutputContainer, kind: Kind, streams: Iterable[AudioStream]) -> dict[int, _Track]:
    """Add a stream for each of sound, in the same order: index -> (the new stream, the filters before its encoder or
    None where the packets are copied)."""
    made: dict[int, _Track] = {}
    for stream in streams:
        if stream.codec_context.codec.canonical_name in kind.copied:
            made[stream.index] = writer.add_stream_from_template(stream), None
        else:
            made[stream.index] = _anew(writer, kind, stream)
        if language := stream.metadata.get("language"):
            made[stream.index][0].metadata["language"] = language
    return made


def _anew(writer: OutputContainer, kind: Kind, stream: AudioStream) -> _Track:
    """An encoder of sound, and filters that bring a stream to it: gaps become silence, since encoders close them. AVI
    knows no times of sound, so its sound begins at 0."""
    import av

    channels, rate, name = stream.codec_context.channels or 1, stream.codec_context.sample_rate or 48000, kind.sound
    if channels > len(LAYOUTS) or channels == 7:
        channels = 2
    rates = av.Codec(name, "w").audio_rates
    if rates:
        rate = min((r for r in rates if r >= rate), default=max(rates))
    out = writer.add_stream(name, rate=rate, layout=LAYOUTS[channels - 1])
    if not name.startswith("pcm"):
        out.bit_rate = 96_000 * channels
    graph = av.filter.Graph()
    from_zero = "" if kind.variable else ":first_pts=0"
    form = f"sample_fmts={out.format.name}:sample_rates={rate}:channel_layouts={LAYOUTS[channels - 1]}"
    graph.link_nodes(
        graph.add_abuffer(template=stream), graph.add("aresample", f"async=1:min_hard_comp=0.02{from_zero}"),
        graph.add("aformat", form), graph.add("abuffersink"),
    ).configure()  # fmt: skip
    return out, graph


def _pictures(packets: Iterable[Packet], out: VideoStream, last: Fraction | None) -> Iterator[Packet]:
    """The packets of the film, each as long as it is until the next one: the length of a file depends on it."""
    before = None
    for packet in packets:
        if not packet.size:
            continue
        packet.dts = packet.pts  # the film has no B-frames
        packet.stream = out
        if before is not None:
            before.duration = packet.pts - before.pts
            yield before
        before = packet
    if before is not None:
        if last is not None:
            before.duration = round(last / before.time_base)
        yield before


def _sound(reader: InputContainer, made: dict[int, _Track], shift: Fraction = Fraction(0)) -> Iterator[Packet]:
    """The packets of the sound. shift: seconds by which the pictures were moved; sound that is encoded anew goes along.
    Pictures of the kinds whose sound is copied keep their times."""
    for packet in reader.demux([reader.streams[index] for index in made]):
        out, graph = made[packet.stream.index]
        if graph is not None:
            for frame in packet.decode():
                if shift and frame.pts is not None:
                    frame.pts += round(shift / frame.time_base)
                graph.push(frame)
                yield from _encoded(out, graph)
        elif packet.size:
            packet.dts = packet.pts if packet.dts is None else packet.dts
            packet.stream = out
            yield packet
    for out, graph in made.values():
        if graph is not None:
            graph.push(None)
            yield from _encoded(out, graph)
            yield from out.encode(None)


def _encoded(out: AudioStream, graph: Graph) -> Iterator[Packet]:
    from av.error import BlockingIOError, EOFError

    while True:
        try:
            frame = graph.pull()
        except (BlockingIOError, EOFError):  # needs more of the source; has given everything
            return
        yield from out.encode(frame)


def _without_sound() -> str:
    return "take the sound out first: ffmpeg -i IN -an -c copy OUT.mkv"
