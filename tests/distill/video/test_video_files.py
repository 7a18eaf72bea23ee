"""What video files hold: sound, containers, covers, damage; and nothing that was swapped is lost."""

import dataclasses
import errno
import os
import random
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av", reason='pip install -e ".[video]"')

import av
from helpers.mutations import damaged_bytes
from helpers.videos import PHONE, beep, convert, fail, flat, onset, quarters, shown, times, write_film

from distill.video import containers
from distill.video import frames as video
from swapcore.files import DiskFull
from swapcore.images import DataError

HOLDS = {
    ".mp4": ("mov,mp4", "h264", {"pcm_s16le": "aac", "aac": "aac", "libopus": "opus", "flac": "flac"}),
    ".mov": ("mov,mp4", "h264", {"pcm_s16le": "pcm_s16le", "aac": "aac", "libopus": "aac", "flac": "aac"}),
    ".mkv": ("matroska", "h264", {"pcm_s16le": "pcm_s16le", "aac": "aac", "libopus": "opus", "flac": "flac"}),
    ".webm": ("matroska,webm", "vp9", {"pcm_s16le": "opus", "aac": "opus", "libopus": "opus", "flac": "opus"}),
    ".avi": (
        "avi",
        "mpeg4",
        {"pcm_s16le": "pcm_s16le", "aac": "pcm_s16le", "libopus": "pcm_s16le", "flac": "pcm_s16le"},
    ),
}


@pytest.mark.parametrize("suffix", HOLDS)
@pytest.mark.parametrize("codec", ["pcm_s16le", "aac", "libopus", "flac"])
def test_a_file_holds_what_its_name_says(tmp_path, suffix, codec):
    source, out = tmp_path / "in.mkv", tmp_path / f"out{suffix.upper()}"
    sound = [(codec, beep(0.4, 0.2, 48000, channels), 48000, 0) for channels in (2, 1)]
    write_film(source, [quarters()] * 10, sound=sound)
    convert(source, out)
    form, pictures, sounds = HOLDS[suffix]
    with av.open(str(out)) as container:
        assert container.format.name.startswith(form)
        if suffix in (".mkv", ".webm", ".mov", ".mp4"):
            kind = {".mkv": b"matroska", ".webm": b"webm", ".mov": b"ftypqt  ", ".mp4": b"ftypisom"}[suffix]
            assert kind in out.read_bytes()[:64]
        assert [stream.codec_context.codec.canonical_name for stream in container.streams.video] == [pictures]
        assert [s.codec_context.codec.canonical_name for s in container.streams.audio] == [sounds[codec]] * 2
        assert [stream.codec_context.channels for stream in container.streams.audio] == [2, 1]
        assert "AI-generated" in str(container.metadata)
    assert [onset(out, i) for i in (0, 1)] == pytest.approx([0.2, 0.2], abs=0.01)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(("name", "codec"), [("in.avi", "mpeg4"), ("in.mov", "libx264"), ("in.mkv", "libx264")])
@pytest.mark.parametrize(("rate", "channels"), [(48000, 2), (44100, 1), (22050, 2), (96000, 6)])
def test_sound_of_cameras_is_encoded_anew(tmp_path, name, codec, rate, channels):
    samples = beep(0.4, 0.2, rate, channels)
    write_film(tmp_path / name, [quarters()] * 10, range(10), Fraction(1, 25), codec=codec, last=1,
               sound=[("pcm_s16le", samples, rate, 0)])  # fmt: skip
    for out, codec_name in (("out.mp4", "aac"), ("out.webm", "opus")):
        convert(tmp_path / name, tmp_path / out)
        assert onset(tmp_path / out) == pytest.approx(0.2, abs=0.01)
        with av.open(str(tmp_path / out)) as container:
            (stream,) = container.streams.audio
            assert (stream.codec_context.codec.canonical_name, stream.codec_context.channels) == (codec_name, channels)
    assert [len(shown(tmp_path / out)) for out in ("out.mp4", "out.webm")] == [10, 10]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi"])
def test_a_cover_is_not_the_film(tmp_path, suffix):
    cover, frames = flat((250, 10, 10), 32, 32), [flat((10, 10, 250))] * 5
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    source = tmp_path / f"in{suffix}"
    write_film(source, frames, range(5), Fraction(1, 25), codec=codec, cover=cover, last=1)
    with av.open(str(source)) as container:
        assert container.streams.video[0].name == "mjpeg"
    convert(source, tmp_path / "out.mp4")
    for path in (source, tmp_path / "out.mp4"):
        assert video.count(path) == 5
        assert [image.shape for image in shown(path)] == [(64, 64, 3)] * 5
        assert shown(path)[0][..., 2].mean() > 200


def test_a_file_without_a_film_is_named(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        track = container.add_stream("aac", rate=16000, layout="mono")
        block = av.AudioFrame.from_ndarray(beep(0.2, 0), format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = 16000, 0, Fraction(1, 16000)
        container.mux(track.encode(block))
        container.mux(track.encode(None))
    for attempt in (video.count, lambda p: video.read(p, [0]), lambda p: convert(p, tmp_path / "out.mp4")):
        with pytest.raises(DataError, match=r"sound.mp4: not a readable video \(it holds no pictures\)"):
            attempt(tmp_path / "sound.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["sound.mp4"]


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (b"V_MPEG4/ISO/AVC", r"not a readable video \(PyAV has no decoder for its pictures\)"),
        (b"A_PCM/INT/LIT", "PyAV does not know the kind of its sound; take the sound out first: ffmpeg"),
    ],
)
def test_a_codec_that_nobody_knows_is_named_before_the_first_frame(tmp_path, known, message):
    write_film(tmp_path / "in.mkv", [quarters()] * 5, sound=[("pcm_s16le", beep(0.2, 0.1), 16000, 0)])
    content = (tmp_path / "in.mkv").read_bytes()
    assert known in content
    (tmp_path / "in.mkv").write_bytes(content.replace(known, known[:-3] + b"XYZ"))
    with pytest.raises(DataError, match=f"in.mkv: {message}"):
        convert(tmp_path / "in.mkv", tmp_path / "out.mp4", fail)


def test_a_title_in_another_code_page_does_not_matter(tmp_path):
    write_film(
        tmp_path / "in.avi", [quarters()] * 3, range(3), Fraction(1, 25), codec="mpeg4", last=1, title="Cafe 12345"
    )
    content = (tmp_path / "in.avi").read_bytes()
    assert content.count(b"Cafe 12345") == 1
    (tmp_path / "in.avi").write_bytes(content.replace(b"Cafe 12345", b"Caf\xe9 12345"))
    assert video.count(tmp_path / "in.avi") == len(shown(tmp_path / "in.avi")) == 3
    assert convert(tmp_path / "in.avi", tmp_path / "out.mp4") == [1, 2, 3]


def test_another_ending_is_refused_before_the_first_frame(tmp_path):
    write_film(tmp_path / "in.mp4", [quarters()])
    with pytest.raises(DataError, match=r"out.ogv: not a video by its ending; known: .avi, .mkv, .mov, .mp4, .webm"):
        convert(tmp_path / "in.mp4", tmp_path / "out.ogv", fail)


def test_sound_that_cannot_be_written_is_refused_before_the_first_frame(tmp_path, monkeypatch):
    write_film(tmp_path / "in.mkv", [quarters()] * 5, sound=[("pcm_s16le", beep(0.2, 0.1), 16000, 0)])
    known = dataclasses.replace(containers.KINDS[".webm"], copied=frozenset({"pcm_s16le"}))  # WebM takes no PCM
    monkeypatch.setitem(containers.KINDS, ".webm", known)
    with pytest.raises(
        DataError, match=r"in.mkv: its sound \(pcm_s16le\) cannot be written as webm .*out first: ffmpeg"
    ):
        convert(tmp_path / "in.mkv", tmp_path / "out.webm", fail)
    assert [p.name for p in tmp_path.iterdir()] == ["in.mkv"]


def test_pictures_are_kept_where_the_sound_fails_at_the_end(tmp_path, monkeypatch):
    write_film(tmp_path / "in.mp4", [flat(i * 20) for i in range(9)], PHONE, sound=[("aac", beep(1, 0.5), 16000, 0)])
    (tmp_path / "out.mp4").write_bytes(b"before")
    real = containers.add_sound

    def later(writer, kind, streams):
        if isinstance(writer.name, str) and writer.name.startswith(str(tmp_path)):
            raise ValueError("no room for sound")
        return real(writer, kind, streams)

    monkeypatch.setattr(containers, "add_sound", later)
    with pytest.raises(
        DataError, match=r"no room for sound\); the 9 frames that were swapped are in .*out.pictures.mp4"
    ):
        convert(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert times(tmp_path / "out.pictures.mp4") == times(tmp_path / "in.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4", "out.pictures.mp4"]


def test_pictures_are_kept_as_they_are_where_no_file_of_the_kind_can_be_made(tmp_path, monkeypatch):
    write_film(tmp_path / "in.mp4", [flat(i * 20) for i in range(9)], PHONE)

    def join(*arguments):
        raise RuntimeError("no muxer")

    monkeypatch.setattr(containers, "join", join)
    with pytest.raises(DataError, match=r"no muxer\); the 9 frames that were swapped are in .*out.pictures.nut"):
        convert(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert times(tmp_path / "out.pictures.nut") == [Fraction(tick, 1000) for tick in PHONE]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.pictures.nut"]


def test_pictures_are_kept_on_a_disk_that_is_full_at_the_end(tmp_path, monkeypatch):
    write_film(tmp_path / "in.mp4", [flat(i * 20) for i in range(9)], PHONE)

    def join(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(containers, "join", join)
    with pytest.raises(
        DiskFull, match=r"out.mp4: cannot be written: No space .*; the 9 frames .* in .*out.pictures.nut"
    ):
        convert(tmp_path / "in.mp4", tmp_path / "out.mp4")
    assert len(times(tmp_path / "out.pictures.nut")) == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.pictures.nut"]


def test_what_was_swapped_before_a_damaged_place_is_kept(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), dtype=np.uint8)
    write_film(tmp_path / "whole.mkv", list(noise), codec="ffv1")
    content = bytearray((tmp_path / "whole.mkv").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 6000] = bytes(6000)
    (tmp_path / "in.mkv").write_bytes(content)
    done = []
    try:
        for number in video.convert(tmp_path / "in.mkv", tmp_path / "out.mp4", lambda image: image):
            done.append(number)
    except DataError as error:
        assert f"the {done[-1]} frames that were swapped are in {tmp_path / 'out.pictures.mp4'}" in str(error)
        assert len(times(tmp_path / "out.pictures.mp4")) == done[-1] >= 5
    else:  # the decoder went on behind the damage
        assert len(times(tmp_path / "out.mp4")) == done[-1] >= 10


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
def test_a_damaged_file_is_read_or_named_and_leaves_nothing_unfinished(tmp_path, suffix):
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(suffix, "libx264")
    track = {".mp4": "aac", ".webm": "libopus"}.get(suffix, "pcm_s16le")
    source, whole = tmp_path / f"in{suffix}", tmp_path / f"whole{suffix}"
    frames = [flat(i * 20, 32, 32) for i in range(8)]
    write_film(
        whole, frames, range(8), Fraction(1, 25), codec=codec, last=1, sound=[(track, beep(0.3, 0.1, 48000), 48000, 0)]
    )
    ended, out = [], tmp_path / "out.mp4"
    for seed in range(16):
        source.write_bytes(damaged_bytes(random.Random(seed), whole.read_bytes()))
        for attempt in (video.count, lambda path: video.read(path, [0, 5]), lambda path: convert(path, out)):
            try:
                attempt(source)
                ended.append("read")
            except DataError as error:
                assert str(error).startswith((f"{source}: ", f"{out}: ")), error
                ended.append("named")
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert set(ended) == {"read", "named"}
