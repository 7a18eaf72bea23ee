"""Photographs and animations on their way through `distill.swap`, with a swap that paints a square."""

import tracemalloc

import numpy as np
import pytest
from helpers.marks import is_marked
from helpers.odd_pictures import animation, p3_profile, turned
from PIL import Image

from distill.config import ConfigError
from distill.swap import photograph
from distill.swap.photograph import FORMATS, save_photograph, swap_frames
from swapcore.decoding import decode, opened


def paint(image):
    assert image.dtype == np.uint8 and image.shape[2] == 3
    image = image.copy()
    image[4:8, 4:8] = (10, 200, 30)
    return image


def through(target, out):
    frames, options = swap_frames(target, out, paint)
    save_photograph(frames[0], out, **options)
    return out


@pytest.mark.parametrize("ending", sorted(set(FORMATS) - {".gif"}))
def test_a_photograph_comes_back_upright_in_srgb_and_says_so(tmp_path, ending):
    pixels = np.full((24, 40, 3), (184, 87, 54), np.uint8)
    pixels[:, 20:] = (130, 130, 130)
    target = turned(tmp_path / "in.png", pixels, 6, icc_profile=p3_profile())
    out = through(target, tmp_path / f"out{ending}")
    read = decode(out).transpose(1, 2, 0).astype(int)
    assert read.shape == pixels.shape
    # Lossy formats mix the colours of neighbours: look inside of areas.
    assert np.abs(read[18, 10] - (200, 79, 38)).max() <= 4 and np.abs(read[5, 6] - (10, 200, 30)).max() <= 24
    assert np.abs(read[:, 26:] - 130).max() <= 3
    with Image.open(out) as picture:
        assert b"sRGB" in picture.info["icc_profile"].replace(b"\0", b"")
        assert picture.getexif().get(0x0112, 1) == 1
    if ending in (".png", ".apng"):
        assert is_marked(out)
    assert b"trainedAlgorithmicMedia" in out.read_bytes()


@pytest.mark.parametrize("ending", [".png", ".webp", ".tif", ".jpg"])
def test_transparency_is_kept_where_the_format_has_it(tmp_path, ending):
    cut = np.full((16, 16, 4), (200, 10, 60, 255), np.uint8)
    cut[:, :2, 3], cut[12:, :, 3], cut[6, 6, 3] = 0, 51, 51
    Image.fromarray(cut).save(tmp_path / "cut.png")
    out = through(tmp_path / "cut.png", tmp_path / f"out{ending}")
    read = decode(out, mode=None)
    if ending == ".jpg":
        assert read.shape[0] == 3 and (read[:, 10, 0] > 240).all(), "white where it was cut away"
        return
    assert (read[3] == cut[..., 3]).all()
    over_white = decode(out).transpose(1, 2, 0).astype(int)
    tolerance = 30 if ending == ".webp" else 1
    assert np.abs(over_white[5, 5] - (10, 200, 30)).max() <= tolerance
    if ending != ".webp":
        assert (read[:3, 13, 8] == (200, 10, 60)).all(), "a pixel that no swap touched keeps its colour"
        assert (read[:3, 10, 0] == 255).all(), "nothing of what was cut away is left"


def on_the_whole_picture(pixels, swapper):
    """What `photograph._swapped` is to give for (H, W, 4), computed at once."""
    alpha = pixels[..., 3:].astype(np.float32) / 255
    flat = (pixels[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    swap = swapper(flat)
    own = ((swap - 255 * (1 - alpha)) / np.maximum(alpha, 1 / 255)).round().clip(0, 255).astype(np.uint8)
    own = np.where((swap == flat).all(-1, keepdims=True), pixels[..., :3], own)
    own = np.where(pixels[..., 3:] == 0, 255, own).astype(np.uint8)
    return np.concatenate([own, pixels[..., 3:]], -1), swap


FACES = [[], [(0, 0)], [(300, 20), (590, 30)], [(40, 40)]]  # row and column


@pytest.mark.parametrize("places", FACES)
@pytest.mark.parametrize("height", [1, 255, 256, 257, 600])
def test_transparent_pictures_have_the_same_bytes_in_parts_as_at_once(places, height):
    rng = np.random.default_rng(height)
    pixels = rng.integers(0, 256, (height, 48, 4), dtype=np.uint8)
    pixels[:, :9, 3], pixels[:, 30:34, 3], pixels[::7, :, 3] = 0, 255, 1
    noise = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)

    def swapper(image):
        swap = image.copy()
        for row, column in places:
            part = swap[row : row + 12, column : column + 12]
            part[:] = noise[: part.shape[0], : part.shape[1]]
        return swap if places else image

    whole, flat = on_the_whole_picture(pixels, swapper)
    frame = Image.fromarray(pixels)
    assert (np.asarray(photograph._swapped(frame, swapper, "PNG")) == whole).all()
    assert (np.asarray(photograph._swapped(frame, swapper, "JPEG")) == flat).all()


def test_a_large_transparent_photograph_needs_little_more_than_its_bytes():
    frame = Image.new("RGBA", (1500, 1000), (200, 10, 60, 128))
    tracemalloc.start()
    try:
        photograph._swapped(frame, paint, "PNG")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * 4 * 1500 * 1000  # as floats at once: 10.5 times


@pytest.mark.parametrize("source", ["gif", "png", "webp"])
@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
@pytest.mark.parametrize("alpha", [False, True])
def test_all_frames_of_an_animation_are_swapped(tmp_path, source, ending, alpha):
    times = animation(tmp_path / f"in.{source}", 4, alpha=alpha)
    out = through(tmp_path / f"in.{source}", tmp_path / f"out.{ending}")
    with opened(out, still=False) as picture:
        assert picture.n_frames == 4 and picture.info.get("loop") == 0
        for number, time in enumerate(times):
            picture.seek(number)
            frame = np.asarray(picture.convert("RGBA")).astype(int)
            assert picture.info["duration"] == time
            assert np.abs(frame[6, 6, :3] - (10, 200, 30)).max() < 40 or alpha
            assert np.abs(frame[14, 14, :3] - (40 * number + 20)).max() < 12
            assert (frame[14, 2, 3] == 0) == alpha
    assert b"trainedAlgorithmicMedia" in out.read_bytes()


PLAYS = {".gif": [(None, 1), (0, 0), (1, 2), (70, 71)], ".webp": [(0, 0), (1, 1), (3, 3)], ".png": [(0, 0), (2, 2)]}


@pytest.mark.parametrize("source", PLAYS)
@pytest.mark.parametrize("ending", PLAYS)
def test_an_animation_is_shown_as_often_in_every_format(tmp_path, source, ending):
    """A GIF counts the repetitions after the first time, the others the times; 0 is for ever."""
    frames = [Image.new("RGB", (16, 16), (60 * i, 0, 0)) for i in range(3)]
    for loop, plays in PLAYS[source]:
        more = {} if loop is None else {"loop": loop}
        frames[0].save(tmp_path / f"in{source}", save_all=True, append_images=frames[1:], duration=40, **more)
        with opened(through(tmp_path / f"in{source}", tmp_path / f"out{ending}"), still=False) as picture:
            written = {1: None, 0: 0}.get(plays, plays - 1) if ending == ".gif" else plays
            assert picture.n_frames == 3 and picture.info.get("loop") == written


def test_an_animation_is_not_cut_to_one_frame(tmp_path):
    animation(tmp_path / "in.gif", 3)
    for ending, kind in (("jpg", "JPEG"), ("tif", "TIFF")):
        with pytest.raises(ConfigError, match=rf"in.gif is an animation of 3 frames, and {kind} holds one; take .gif"):
            through(tmp_path / "in.gif", tmp_path / f"out.{ending}")
    for ending in ("bmp", "jp2", "heic", "ppm"):
        with pytest.raises(ConfigError, match=rf"out.{ending}: {ending.upper()} (cannot say|is not written)"):
            through(tmp_path / "in.gif", tmp_path / f"out.{ending}")
