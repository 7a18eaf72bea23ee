"""Pictures as people have them: orientation, transparency, depth, profiles, animations, size, endings, links."""

import io
import os

import numpy as np
import pytest
from helpers.odd_pictures import animation, p3_profile, turned, white_rgb_profile
from PIL import Image, ImageCms

from swapcore import decoding
from swapcore.decoding import DataError, decode, list_pictures, picture_side, unread_files


def still(height=24, width=40):
    """A picture (height, width, 3) uint8 without symmetry that survives JPEG."""
    y, x = np.mgrid[:height, :width]
    x, y = x * 255 // (width - 1), y * 255 // (height - 1)
    return np.stack([x, y, 255 - x], -1).astype(np.uint8)


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_all_orientations_are_applied(tmp_path, value, ending):
    pixels = still()
    options = {"lossless": True} if ending == "webp" else {"quality": 95, "subsampling": 0} if ending == "jpg" else {}
    path = turned(tmp_path / f"a.{ending}", pixels, value, **options)
    read = decode(path).transpose(1, 2, 0)
    assert read.shape == pixels.shape
    assert np.abs(read.astype(int) - pixels).max() <= (12 if ending == "jpg" else 0)
    assert picture_side(path) == pixels.shape[1]
    assert decode(path, 8).shape == (3, 8, 8) and decode(path, mode="L").shape == (1, *pixels.shape[:2])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("content", [b"", b"II*\x00\xff\xff\xff\xff", b"MM" + b"\x7f" * 50])
def test_damaged_exif_data_turn_nothing(tmp_path, content):
    Image.fromarray(still()).save(tmp_path / "a.jpg", exif=b"Exif\x00\x00" + content)
    assert decode(tmp_path / "a.jpg").shape == (3, 24, 40)
    for value in (0, 9, 700):
        exif = Image.Exif()
        exif[decoding.ORIENTATION] = value
        Image.fromarray(still()).save(tmp_path / "b.png", exif=exif)
        assert (decode(tmp_path / "b.png").transpose(1, 2, 0) == still()).all()


def test_transparent_pixels_are_white_or_keep_their_alpha(tmp_path):
    """What was cut away does not come back: RGBA, grey with alpha, a palette and a colour that means transparent."""
    cut = np.full((4, 4, 4), (200, 10, 60, 255), np.uint8)
    cut[0, 0, 3], cut[1, 1, 3] = 0, 51
    Image.fromarray(cut).save(tmp_path / "cut.png")
    Image.fromarray(cut).save(tmp_path / "cut.webp", lossless=True, exact=True)
    Image.fromarray(cut).convert("LA").save(tmp_path / "grey.png")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 200, 10, 60])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "palette.png", transparency=0)
    keyed = Image.new("RGB", (4, 4), (200, 10, 60))
    keyed.putpixel((0, 0), (9, 9, 9))
    keyed.save(tmp_path / "keyed.png", transparency=(9, 9, 9))
    for name in ("cut.png", "cut.webp", "palette.png", "keyed.png"):
        image = decode(tmp_path / name)
        assert image[:, 0, 0].tolist() == [255] * 3 and image[:, 2, 2].tolist() == [200, 10, 60], name
        for mode in ("RGBA", None):
            image = decode(tmp_path / name, mode=mode)
            assert image.shape == (4, 4, 4) and image[3, 0, 0] == 0 and image[:, 2, 2].tolist() == [200, 10, 60, 255]
    assert decode(tmp_path / "cut.png")[:, 1, 1].tolist() == [244, 206, 216]  # a fifth of it, the rest is white
    assert decode(tmp_path / "grey.png")[:, 0, 0].tolist() == [255] * 3
    assert decode(tmp_path / "grey.png", mode="L")[0, 0, 0] == 255
    Image.fromarray(still()).save(tmp_path / "opaque.png")
    assert decode(tmp_path / "opaque.png", mode=None).shape == (3, 24, 40)


def test_grey_of_16_bits_is_scaled(tmp_path):
    values = np.array([[0, 128, 129, 257], [256, 32768, 65407, 65535]], np.uint16)
    scaled = [[0, 0, 1, 1], [1, 128, 255, 255]]
    for ending in ("png", "tif", "pgm"):
        Image.fromarray(values).save(tmp_path / f"deep.{ending}")
        assert decode(tmp_path / f"deep.{ending}", mode="L")[0].tolist() == scaled, ending
        assert decode(tmp_path / f"deep.{ending}")[1].tolist() == scaled
    Image.fromarray(values).save(tmp_path / "clear.png", transparency=128)
    assert decode(tmp_path / "clear.png", mode=None)[3].tolist() == [[255, 0, 255, 255], [255] * 4]
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"float.tif: not a readable picture \(mode F: its white is unknown; save it"):
        decode(tmp_path / "float.tif")


def test_colours_are_converted_by_their_profile(tmp_path):
    """Display P3 becomes sRGB: the orange of the issue; the same in grey, with alpha, in a palette, and where it is
    damaged or of another colour space."""
    orange, read = (184, 87, 54), (200, 79, 38)
    profile = p3_profile()
    Image.new("RGB", (8, 8), orange).save(tmp_path / "a.png", icc_profile=profile)
    Image.new("RGBA", (8, 8), (*orange, 128)).save(tmp_path / "alpha.png", icc_profile=profile)
    Image.new("RGB", (8, 8), orange).quantize().save(tmp_path / "palette.png", icc_profile=profile)
    Image.new("RGB", (8, 8), orange).save(tmp_path / "a.jpg", icc_profile=profile, quality=100, subsampling=0)
    for name in ("a.png", "alpha.png", "palette.png", "a.jpg"):
        colour = decode(tmp_path / name, mode="RGBA")[:, 0, 0]
        assert np.abs(colour[:3].astype(int) - read).max() <= 2, (name, colour)
    assert decode(tmp_path / "alpha.png", mode=None)[3, 0, 0] == 128
    Image.new("L", (8, 8), 100).save(tmp_path / "grey.png", icc_profile=profile)
    assert np.abs(decode(tmp_path / "grey.png").astype(int) - 100).max() <= 1, "greys are the same in both"
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for name, other in {"damaged": profile[:200], "lab": lab}.items():
        Image.new("RGB", (8, 8), orange).save(tmp_path / f"{name}.png", icc_profile=other)
        assert decode(tmp_path / f"{name}.png")[:, 0, 0].tolist() == list(orange)
    for options in ({}, {"icc_profile": profile}):
        Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "other.tif", **options)
        assert decode(tmp_path / "other.tif")[:, 0, 0].tolist() == [255, 0, 0]


def test_pictures_in_srgb_keep_their_bytes(tmp_path):
    """Experiments must not change: with the profile of sRGB or none, and with an alpha channel that is opaque."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for name, options in {"plain": {}, "srgb": {"icc_profile": decoding.srgb_profile()}}.items():
        Image.fromarray(noise).save(tmp_path / f"{name}.png", **options)
        assert (decode(tmp_path / f"{name}.png").transpose(1, 2, 0) == noise).all()
    Image.fromarray(noise).convert("RGBA").save(tmp_path / "opaque.png")
    assert (decode(tmp_path / "opaque.png").transpose(1, 2, 0) == noise).all()


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_an_animation_is_refused_by_name(tmp_path, ending):
    animation(tmp_path / f"a.{ending}", 3)
    with pytest.raises(DataError, match=rf"a.{ending}: an animation of 3 frames; save one of them as a still picture"):
        decode(tmp_path / f"a.{ending}")
    animation(tmp_path / f"one.{ending}", 1)
    assert decode(tmp_path / f"one.{ending}").shape[0] == 3


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_of_pixels_is_an_option(tmp_path, monkeypatch):
    Image.new("L", (2000, 1000)).save(tmp_path / "a.png")
    monkeypatch.setenv(decoding.LIMIT, "2")
    assert decode(tmp_path / "a.png", 8, "L").shape == (1, 8, 8)
    for size in ((2001, 1000), (3000, 3000)):  # Pillow warns of the first and refuses the second
        Image.new("L", size).save(tmp_path / "b.png")
        with pytest.raises(DataError, match="b.png: more than 2 megapixels; set SWAPDISTILL_MAX_MEGAPIXELS to read it"):
            decode(tmp_path / "b.png")
    for bad in ("0", "-1", "many", "1e3", "9999999"):
        monkeypatch.setenv(decoding.LIMIT, bad)
        with pytest.raises(DataError, match="SWAPDISTILL_MAX_MEGAPIXELS=.*: expected a whole number"):
            decode(tmp_path / "a.png")
    monkeypatch.delenv(decoding.LIMIT)
    Image.new("1", (20000, 10000)).save(tmp_path / "large.png")  # 200 megapixels, which Pillow alone refuses
    with decoding.opened(tmp_path / "large.png") as picture:
        assert picture.size == (20000, 10000)


@pytest.mark.parametrize("ending", sorted(decoding.SUFFIXES - decoding.HEIF))
def test_every_known_ending_is_read(tmp_path, ending):
    kind = {".apng": "PNG", ".jfif": "JPEG", ".jpe": "JPEG", ".pgm": "PPM", ".j2k": "JPEG2000", ".jpx": "JPEG2000"}
    Image.fromarray(still()).save(tmp_path / f"a{ending.upper()}", kind.get(ending))
    assert decode(tmp_path / f"a{ending.upper()}").shape == (3, 24, 40)
    assert list_pictures(tmp_path) == ([tmp_path / f"a{ending.upper()}"], [])


def test_heic_is_read_where_its_package_is_installed(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif", reason='pip install -e ".[heic]"')
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = 6
    sideways = Image.fromarray(still()).transpose(Image.Transpose.ROTATE_90)
    pillow_heif.register_heif_opener()
    sideways.save(tmp_path / "a.heic", "HEIF", quality=95, exif=exif.tobytes())
    assert list_pictures(tmp_path)[0] and not unread_files(tmp_path)
    read = decode(tmp_path / "a.heic").transpose(1, 2, 0)
    assert read.shape == (24, 40, 3) and np.abs(read.astype(int) - still()).mean() < 6
    Image.new("RGB", (64, 64), (184, 87, 54)).save(tmp_path / "b.heic", quality=100, icc_profile=p3_profile())
    assert np.abs(decode(tmp_path / "b.heic")[:, 9, 9].astype(int) - (200, 79, 38)).max() <= 4


def test_files_of_other_endings_are_named(tmp_path):
    names = ["a.png", "b/raw.CR2", "b/notes.txt", "b/1.mask.png", ".git/x.cr2", "noending", "b/1.mp4", "c.heic"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    unread = {path.relative_to(tmp_path).as_posix(): reason for path, reason in unread_files(tmp_path)}
    heic = unread.pop("c.heic", None)
    assert (heic is None) == (".heic" in decoding.SUFFIXES) and (heic is None or "[heic]" in heic)
    assert unread == {"b/1.mp4": "'.mp4' is not read; save it as a JPEG or PNG", "b/raw.CR2": unread["b/raw.CR2"]}


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    people, store = tmp_path / "people", tmp_path / "store"
    for path in (people / "alice" / "1.png", store / "bob" / "1.png", people / ".Trash" / "2.png"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    (people / "bob").symlink_to(store / "bob")
    (people / ".ipynb_checkpoints").symlink_to(store / "bob")
    (people / "alice" / "again").symlink_to(people)
    (store / "bob" / "self").symlink_to(store / "bob" / "self")
    (people / "gone").symlink_to(store / "absent")
    listed = [[p.relative_to(people).as_posix() for p in paths] for paths in list_pictures(people)]
    assert listed == [["alice/1.png", "bob/1.png"], [".Trash/2.png", ".ipynb_checkpoints/1.png"]]
    unread = {path.relative_to(people).as_posix(): reason for path, reason in unread_files(people)}
    assert unread.pop("alice/again") == "a link to a folder that holds it"
    assert not unread, "a broken link without an ending is no picture"
    if os.geteuid() != 0:
        (people / "alice").chmod(0)
        try:
            assert (people / "alice", "not a readable folder (Permission denied)") in unread_files(people)
        finally:
            (people / "alice").chmod(0o755)


def test_a_profile_is_built_once(tmp_path):
    profile = white_rgb_profile()
    stream = io.BytesIO()
    Image.fromarray(still()).save(stream, "PNG", icc_profile=profile)
    decoding._transform.cache_clear()
    for _ in range(3):
        decode(io.BytesIO(stream.getvalue()), name="a.png")
    assert decoding._transform.cache_info().misses == 1
