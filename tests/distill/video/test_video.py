"""Videos as phones, cameras and screen recorders make them: read upright, and written again with nothing lost."""

from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av", reason='pip install -e ".[video]"')

import av
from helpers.videos import PHONE, beep, convert, fail, flat, onset, quarters, shown, times, write_film

from distill.video import film
from distill.video import frames as video
from swapcore.images import DataError

SIDE = 64


def end(path):
    """When the last frame of a silent film ends, in seconds."""
    with av.open(str(path)) as container:
        made = container.streams.video[0]
        if made.start_time is None or made.duration is None:  # Matroska counts from 0
            return Fraction(container.duration, 1_000_000)
        return (made.start_time + made.duration) * made.time_base


def time_base_of(path):
    with av.open(str(path)) as container:
        return container.streams.video[0].time_base


MIXED = [*range(0, 3750 * 6, 3750), *range(3750 * 6, 3750 * 6 + 3000 * 6, 3000)]  # 24, then 30 frames a second
SCREEN = [0, 16, 5000, 5016, 5033, 9000]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize(
    ("ticks", "time_base"),
    [
        (PHONE, Fraction(1, 1000)),
        (MIXED, Fraction(1, 90000)),
        (SCREEN, Fraction(1, 1000)),
        ([500, 533, 600], Fraction(1, 600)),
        ([1001 * i for i in (0, 1, 2, 4, 5)], Fraction(1, 30000)),
        ([0], Fraction(1, 1000)),
    ],
)
def test_every_frame_keeps_its_time(tmp_path, suffix, ticks, time_base):
    frames = [flat((i * 20, 90, 90)) for i in range(len(ticks))]
    write_film(tmp_path / "in.mp4", frames, ticks, time_base)
    assert convert(tmp_path / "in.mp4", tmp_path / f"out{suffix}") == list(range(1, len(ticks) + 1))
    before, after = times(tmp_path / "in.mp4"), times(tmp_path / f"out{suffix}")
    assert before == [tick * time_base for tick in ticks]
    exact = suffix in (".mp4", ".mov")
    assert len(after) == len(before)
    assert max(abs(a - b) for a, b in zip(after, before, strict=True)) <= (0 if exact else Fraction(1, 2000))
    assert abs(end(tmp_path / f"out{suffix}") - (ticks[-1] + 40) * time_base) <= (0 if exact else Fraction(1, 1000))
    if exact:
        assert time_base_of(tmp_path / f"out{suffix}") == time_base
    values = [image[..., 0].mean() for image in shown(tmp_path / f"out{suffix}")]
    assert np.allclose(values, [i * 20 for i in range(len(ticks))], atol=4)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
@pytest.mark.parametrize(
    ("name", "codec", "start"),
    [("in.mp4", "aac", 0), ("in.mov", "pcm_s16le", 0), ("in.mkv", "pcm_s16le", 8000), ("in.mkv", "flac", 0)],
)
def test_a_flash_and_a_beep_stay_together(tmp_path, suffix, name, codec, start):
    rate, steps = 16000, [40] * 30 if suffix == ".avi" else [33, 33, 70, 21] * 8
    ticks = [sum(steps[:i]) for i in range(len(steps))]
    flash = next(i for i, tick in enumerate(ticks) if tick >= 700)
    frames = [flat(250 if i >= flash else 10) for i in range(len(ticks))]
    samples = beep(1.2 - start / rate, ticks[flash] / 1000 - start / rate, rate)
    write_film(tmp_path / name, frames, ticks, sound=[(codec, samples, rate, start)])
    out = tmp_path / f"out{suffix}"
    convert(tmp_path / name, out)
    lit = [image.mean() > 128 for image in shown(out)].index(True)
    assert lit == flash
    before = onset(tmp_path / name) - float(times(tmp_path / name)[flash])
    after = onset(out) - float(times(out)[lit])
    assert abs(before) < 0.003 and abs(after - before) < 0.005


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_frames_that_are_stored_in_another_order_keep_their_times(tmp_path, suffix):
    frames = [flat((i * 20, 90, 90)) for i in range(len(PHONE))]
    write_film(tmp_path / "in.mp4", frames, PHONE, b_frames=3)
    convert(tmp_path / "in.mp4", tmp_path / f"out{suffix}")
    after = times(tmp_path / f"out{suffix}")
    assert after == times(tmp_path / "in.mp4") == [Fraction(tick, 1000) for tick in PHONE]
    assert np.allclose([i[..., 0].mean() for i in shown(tmp_path / f"out{suffix}")], np.arange(9) * 20, atol=4)


def test_a_gap_in_sound_that_is_encoded_anew_stays_a_gap(tmp_path):
    """A screen recording of Matroska with a pause: the encoder of AAC alone would move what follows forward."""
    write_film(tmp_path / "in.mkv", [flat(90)] * 40, sound=[("pcm_s16le", beep(0.5, 9), 16000, 0)])
    second = [("pcm_s16le", beep(0.3, 0.1), 16000, 16000)]
    write_film(tmp_path / "late.mkv", [flat(90)] * 40, sound=second)
    with av.open(str(tmp_path / "in.mkv")) as one, av.open(str(tmp_path / "late.mkv")) as two:
        with av.open(str(tmp_path / "gap.mkv"), "w") as joined:
            film = joined.add_stream_from_template(one.streams.video[0])
            sound = joined.add_stream_from_template(one.streams.audio[0])
            for container in (one, two):
                for packet in container.demux():
                    if packet.size and (packet.stream.type == "audio" or container is one):
                        packet.stream = sound if packet.stream.type == "audio" else film
                        joined.mux(packet)
    assert onset(tmp_path / "gap.mkv") == pytest.approx(1.1, abs=0.003)
    for name in ("out.mp4", "out.webm", "out.avi"):
        convert(tmp_path / "gap.mkv", tmp_path / name)
        assert onset(tmp_path / name) == pytest.approx(1.1, abs=0.006)


def test_a_rate_that_varies_does_not_fit_avi(tmp_path):
    write_film(tmp_path / "in.mp4", [flat(90)] * len(PHONE), PHONE)
    with pytest.raises(DataError, match="the frame rate varies, which AVI cannot hold; let OUT end in .mp4"):
        convert(tmp_path / "in.mp4", tmp_path / "out.avi")
    write_film(
        tmp_path / "even.mp4", [flat(i * 20) for i in range(5)], [0, 3000, 6000, 12000, 15000], Fraction(1, 90000)
    )
    convert(tmp_path / "even.mp4", tmp_path / "out.avi")  # one frame is left out, but the rate is one
    assert times(tmp_path / "out.avi") == [Fraction(i, 30) for i in (0, 1, 2, 4, 5)]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_film_that_was_taken_sideways_is_read_and_written_upright(tmp_path, degrees, mirrored):
    lying = quarters()
    expected = np.rot90(lying, degrees // 90)
    expected = expected[:, ::-1] if mirrored else expected
    write_film(tmp_path / "in.mp4", [lying] * 3, turn=(degrees, mirrored))
    assert video.count(tmp_path / "in.mp4") == 3
    seen = []
    for name in ("out.mp4", "out.webm"):
        convert(tmp_path / "in.mp4", tmp_path / name, lambda image: seen.append(image) or image)
        with av.open(str(tmp_path / name)) as container:
            frame = next(container.decode(video=0))
            assert frame.rotation == 0 and frame.side_data.get("DISPLAYMATRIX") is None
            plain = frame.to_ndarray(format="rgb24")
        for image in (video.read(tmp_path / "in.mp4", [1])[1], seen[-1], plain):
            assert image.shape == expected.shape and image.flags.c_contiguous
            assert np.median(np.abs(image.astype(int) - expected)) <= 2


def test_a_film_without_a_turn_stays_as_it_is(tmp_path):
    write_film(tmp_path / "in.mp4", [quarters()])
    assert np.median(np.abs(video.read(tmp_path / "in.mp4", [0])[0].astype(int) - quarters())) <= 2


@pytest.mark.parametrize(("degrees", "expected"), [(0, Fraction(4, 3)), (90, Fraction(3, 4))])
def test_pixels_that_are_not_square_keep_their_shape(tmp_path, degrees, expected):
    write_film(tmp_path / "in.mp4", [quarters()] * 2, turn=(degrees, False), pixel=Fraction(4, 3))
    for name in ("out.mp4", "out.mkv", "out.webm"):
        convert(tmp_path / "in.mp4", tmp_path / name)
        with av.open(str(tmp_path / name)) as container:
            made = container.streams.video[0]
            height, width = (48, 64) if degrees == 0 else (64, 48)
            assert made.height == height
            if name == "out.webm":
                assert made.sample_aspect_ratio == 1 and abs(made.width - width * expected) <= 1
            else:
                assert made.sample_aspect_ratio == expected and made.width == width


def test_an_odd_side_loses_one_line(tmp_path):
    odd = quarters(49, 65)
    write_film(tmp_path / "in.mkv", [odd] * 2, codec="ffv1", pixels="bgr0")
    assert video.read(tmp_path / "in.mkv", [1])[1].shape == odd.shape
    for name in ("out.mp4", "out.webm"):
        convert(tmp_path / "in.mkv", tmp_path / name)
        (image, _) = shown(tmp_path / name)
        assert image.shape == (48, 64, 3)
        assert np.median(np.abs(image.astype(int) - odd[:48, :64])) <= 2


BT709, BT601, BT2020, FULL = (1, 1, 1, 1), (6, 1, 6, 6), (9, 1, 14, 9), (1, 2, 1, 1)
COLOURS = [(200, 79, 38), (20, 160, 90), (60, 60, 190), (120, 120, 120), (235, 235, 235)]


def luma(path):
    """The tags of the first frame, and Y of its middle, as stored."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        tags = frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_trc) == (tags[0], tags[2])
        return tags, int(film.plane(frame.planes[0])[frame.height // 2, frame.width // 2])


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize("tags", [BT709, BT601, BT2020, FULL, (5, 1, 6, 5), (2, 0, 2, 2)])
def test_colours_keep_their_numbers_and_their_tags(tmp_path, tags, suffix):
    for number, colour in enumerate(COLOURS):
        source, out = tmp_path / f"{number}.mp4", tmp_path / f"{number}out{suffix}"
        write_film(source, [flat(colour)] * 2, colours=tags)
        convert(source, out)
        (before, y), (after, y_after) = luma(source), luma(out)
        assert abs(y - y_after) <= 1, colour
        assert before == tags and after[0] == tags[0] and after[2:] == tags[2:]
        assert after[1] == tags[1] or tags[1] == 0 and after[1] == 1  # VP9 always names a range
        seen = video.read(source, [0])[0].astype(int)
        assert np.abs(seen - colour).max() <= 4  # the encoder of the source rounds
        assert np.abs(video.read(out, [0])[0] - seen).max() <= 2, colour


@pytest.mark.parametrize("tags", [None, BT709, BT601, BT2020, FULL, (5, 2, 6, 6)])
def test_colours_are_converted_for_avi_which_has_no_tags(tmp_path, tags):
    for colour in COLOURS:
        write_film(tmp_path / "in.mkv", [flat(colour)] * 2, range(2), Fraction(1, 25), colours=tags, last=1)
        convert(tmp_path / "in.mkv", tmp_path / "out.avi")
        seen, after = (np.median(video.read(tmp_path / name, [0])[0], (0, 1)) for name in ("in.mkv", "out.avi"))
        assert luma(tmp_path / "out.avi")[0] == (2, 0, 2, 2)
        assert np.abs(after - seen).max() <= 3, colour


@pytest.mark.parametrize(
    ("width", "height", "hd"), [(1278, 16, False), (1280, 16, True), (16, 576, False), (16, 578, True)]
)
@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_film_that_names_no_matrix_is_read_and_written_as_players_show_it(tmp_path, width, height, hd, suffix):
    source, out = tmp_path / "in.mkv", tmp_path / f"out{suffix}"
    for matrix in (1, 5):
        for colour in COLOURS[:2]:
            images = [flat(colour, height, width)] * 2
            write_film(source, images, range(2), Fraction(1, 25), last=1, matrix=matrix)
            seen = video.read(source, [0])[0].astype(int)
            assert (np.abs(seen - colour).max() <= 4) == (matrix == (1 if hd else 5)), (matrix, colour)
            convert(source, out)
            assert luma(out)[0] == (2, 0, 2, 2)
            assert abs(luma(out)[1] - luma(source)[1]) <= 1
            assert np.abs(video.read(out, [0])[0] - seen).max() <= 2


def test_a_film_that_a_turn_makes_high_is_shown_in_the_same_colours(tmp_path):
    """Players take it for HD once it stands."""
    for colour in COLOURS[:3]:
        write_film(tmp_path / "in.mp4", [flat(colour, 16, 640)] * 2, turn=(90, False))
        convert(tmp_path / "in.mp4", tmp_path / "out.mp4")
        before, after = (video.read(tmp_path / name, [0])[0].astype(int) for name in ("in.mp4", "out.mp4"))
        assert after.shape == before.shape == (640, 16, 3)
        assert np.abs(before - colour).max() <= 4 and np.abs(after - before).max() <= 2


def test_ten_bits_become_eight_with_the_same_colours(tmp_path):
    write_film(tmp_path / "in.mkv", [flat(COLOURS[0])] * 2, colours=BT709, pixels="yuv420p10le")
    convert(tmp_path / "in.mkv", tmp_path / "out.mp4")
    assert luma(tmp_path / "out.mp4")[0] == BT709
    assert np.abs(video.read(tmp_path / "out.mp4", [0])[0].astype(int) - COLOURS[0]).max() <= 3


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_hdr_is_refused_before_the_first_frame(tmp_path, transfer, name, suffix):
    source = tmp_path / f"in{suffix}"
    write_film(source, [flat(90)] * 3, colours=(9, 1, transfer, 9))
    for attempt in (video.count, lambda p: video.read(p, [0]), lambda p: convert(p, tmp_path / "out.mp4", fail)):
        with pytest.raises(DataError, match=rf": is HDR \({name}\), which is not read; convert it .*tonemap"):
            attempt(source)
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


def test_what_is_not_changed_stays_as_it_was_stored(tmp_path):
    """Outside the face, the pictures do not go through RGB."""
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    image = np.kron(noise, np.ones((8, 8, 1), np.uint8))
    write_film(tmp_path / "in.mkv", [image] * 2, colours=BT709, quality="1", turn=(90, False))

    def change(picture):
        changed = picture.copy()
        changed[20:40, 20:40] = (250, 250, 250)
        return changed

    convert(tmp_path / "in.mkv", tmp_path / "out.mp4", change)
    before, after = video.read(tmp_path / "in.mkv", [0])[0].astype(int), video.read(tmp_path / "out.mp4", [0])[0]
    assert after[24:36, 24:36].min() >= 246
    outside = np.ones(before.shape[:2], bool)
    outside[16:44, 16:44] = False
    assert np.abs(after - before)[outside].mean() <= 2


def test_a_picture_that_is_not_changed_is_not_converted(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    write_film(tmp_path / "in.mp4", [noise], colours=BT709)
    with av.open(str(tmp_path / "in.mp4")) as container:
        frame = next(container.decode(video=0))
    image = film.rgb(frame, "in.mp4")
    made = film.Colours.of(frame).frame(image, SIDE, SIDE, frame, image)
    assert all((film.plane(a) == film.plane(b)).all() for a, b in zip(frame.planes, made.planes, strict=True))
    changed = image.copy()
    changed[10, 21] ^= 255
    made = film.Colours.of(frame).frame(changed, SIDE, SIDE, frame, image)
    for was, now, places in zip(
        frame.planes, made.planes, [(slice(10, 12), slice(20, 22)), (5, 10), (5, 10)], strict=True
    ):
        was, now = (film.plane(x) for x in (was, now))
        assert (was[places] != now[places]).any()
        now = now.copy()
        now[places] = was[places]
        assert (was == now).all()


@pytest.mark.parametrize("start", [17, 60, 90])
def test_a_film_that_begins_between_two_frames_of_its_rate_fits_avi_with_its_sound(tmp_path, start):
    frames, ticks = [flat(250 if i >= 20 else 10) for i in range(30)], [start + 40 * i for i in range(30)]
    write_film(tmp_path / "in.mkv", frames, ticks, sound=[("pcm_s16le", beep(1.4, ticks[20] / 1000), 16000, 0)])
    convert(tmp_path / "in.mkv", tmp_path / "out.avi")
    after = times(tmp_path / "out.avi")
    assert set(np.diff(after[1:])) == {Fraction(1, 25)} and after[0] == 0  # AVI shows the first frame from 0 on
    assert abs(after[1] - Fraction(ticks[1], 1000)) <= Fraction(1, 50)
    lit = [image.mean() > 128 for image in shown(tmp_path / "out.avi")].index(True)
    assert lit == 20 and onset(tmp_path / "out.avi") == pytest.approx(float(after[lit]), abs=0.005)
