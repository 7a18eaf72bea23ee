"""Small video files: plain ones, and such as phones and cameras make."""

from fractions import Fraction

import numpy as np
import pytest

from distill.video import frames as video

PHONE = [0, 33, 66, 100, 171, 204, 240, 900, 933]  # thousandths of a second


def write_video(path, frames, fps=25):
    """Write frames (H, W, 3) uint8 RGB of one size with even sides. Skips the test without the package av."""
    av = pytest.importorskip("av", reason='pip install -e ".[video]"')
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, _ = frames[0].shape
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def write_film(
    path, frames, ticks=None, time_base=Fraction(1, 1000), *, codec="libx264", quality="8", turn=None, colours=None,
    sound=(), cover=None, b_frames=0, last=40, pixel=None,
    pixels="yuv420p", title=None, matrix=5,
):  # fmt: skip
    """Write frames (H, W, 3) uint8 RGB in the format of the ending.

    ticks: the time of each frame in units of time_base, default 40 apart. turn: (degrees, mirror left and right), the
    display matrix. colours: (matrix, range, transfer, primaries), numbers of H.273. sound: (codec, samples (channels,
    n) float32, rate, start in samples) of each stream. cover: a picture (H, W, 3) as a stream before the film. last:
    for how many ticks the last frame is shown (without B-frames). pixel: its width to its
    height. pixels: their format. matrix: of a film whose tags
    name none.
    """
    av = pytest.importorskip("av", reason='pip install -e ".[video]"')
    height, width, _ = frames[0].shape
    options = {"video_track_timescale": str(time_base.denominator)} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=options) as container:
        packets = []
        if title:
            container.metadata["title"] = title
        if cover is not None:
            still = container.add_stream("mjpeg", rate=25, width=cover.shape[1], height=cover.shape[0])
            still.pix_fmt = "yuvj420p"
        crf = {"libx264": {"crf": quality}, "libvpx-vp9": {"crf": quality, "b": "0"}}.get(codec, {})
        stream = container.add_stream(codec, rate=25, width=width, height=height, options=crf)
        stream.codec_context.time_base, stream.codec_context.max_b_frames = time_base, b_frames
        stream.pix_fmt = pixels
        if pixel:
            stream.codec_context.sample_aspect_ratio = pixel
        if turn:
            stream.set_display_rotation(turn[0], hflip=turn[1])
        if colours:
            matrix = colours[0] if colours[0] in (1, 4, 7, 9) else matrix
            context = stream.codec_context
            context.colorspace, context.color_range, context.color_trc, context.color_primaries = colours
        tracks = [container.add_stream(name, rate=rate, layout=_layout(x)) for name, x, rate, _ in sound]
        if cover is not None:
            packets += still.encode(av.VideoFrame.from_ndarray(cover, format="rgb24").reformat(format="yuvj420p"))
            packets += still.encode(None)
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
                format=pixels, dst_colorspace=matrix, src_color_range=2, dst_color_range=colours[1] if colours else 1
            )
            picture.pts, picture.time_base = ticks[i] if ticks else 40 * i, time_base
            if colours:
                picture.colorspace, picture.color_range, picture.color_trc, picture.color_primaries = colours
            packets += stream.encode(picture)
        packets += stream.encode(None)
        if not b_frames:
            film = [packet for packet in packets if packet.stream is stream]
            for packet, after in zip(film, [*(p.pts for p in film[1:]), film[-1].pts + last], strict=True):
                packet.duration = after - packet.pts
        for track, (_, samples, rate, start) in zip(tracks, sound, strict=True):
            for place in range(0, samples.shape[1], 1024):
                part = np.ascontiguousarray(samples[:, place : place + 1024])
                block = av.AudioFrame.from_ndarray(part, format="fltp", layout=_layout(samples))
                block.sample_rate, block.pts, block.time_base = rate, start + place, Fraction(1, rate)
                packets += track.encode(block)
            packets += track.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)


def _layout(samples):
    return {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]


def times(path):
    """The times of the frames of the film, in seconds, exact."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        film = next(s for s in container.streams.video if s.name != "mjpeg")
        return [frame.pts * frame.time_base for frame in container.decode(film)]


def heard(path, index=0):
    """The sound as (first channel float32, rate), with silence where the file has none, from time 0 on."""
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        stream = container.streams.audio[index]
        rate = stream.codec_context.sample_rate
        samples = np.zeros(60 * rate, np.float32)
        end = 0
        convert = av.AudioResampler("fltp", "mono", rate)
        for frame in container.decode(stream):
            start = round(frame.pts * frame.time_base * rate)
            for block in convert.resample(frame):
                values = block.to_ndarray()[0]
                values = values[max(-start, 0) :]
                samples[max(start, 0) : max(start, 0) + len(values)] = values
                start = end = max(start, 0) + len(values)
        return samples[:end], rate


def onset(path, index=0):
    """When the sound begins, in seconds."""
    samples, rate = heard(path, index)
    return float(np.argmax(np.abs(samples) > 0.15)) / rate


def beep(seconds, at, rate=16000, channels=1):
    """(channels, n) float32: silence, and from `at` seconds on a tone of 1 kHz."""
    t = np.arange(round(seconds * rate)) / rate
    return np.repeat((0.5 * np.sin(2 * np.pi * 1000 * t) * (t >= at)).astype(np.float32)[None], channels, 0)


def flat(colour, height=64, width=64):
    """A picture of one colour."""
    return np.full((height, width, 3), colour, np.uint8)


def quarters(height=48, width=64):
    """A picture that no turn maps to itself."""
    image = flat((200, 40, 40), height, width)
    image[: height // 2, : width // 2] = (40, 180, 40)
    image[height // 2 :, : width // 2] = (40, 60, 200)
    image[height // 2 :, width // 2 :] = (220, 220, 60)
    return image


def convert(source, target, change=lambda image: image):
    """The numbers that `video.convert` gives."""
    return list(video.convert(source, target, change))


def shown(path):
    """All frames."""
    return list(video.read(path, range(99)).values())


def fail(image):
    """A change of a frame that must not be tried."""
    raise AssertionError("a frame was changed")
