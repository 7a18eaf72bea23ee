"""The decoder of picture files as people have them: which are read, and how they become upright 8-bit sRGB."""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, features

from swapcore import terminal

HEIF = {".heic", ".heif", ".hif"}  # what phones write; read by the package pillow-heif
JPEG_2000 = {".jp2", ".j2k", ".jpx"}
SUFFIXES = set(".jpg .jpeg .jpe .jfif .png .apng .webp .bmp .gif .tif .tiff .mpo .tga .ppm .pgm".split())
SUFFIXES |= {".avif"} if importlib.util.find_spec("PIL._avif") else set()
SUFFIXES |= JPEG_2000 if features.check("jpg_2000") else set()
SUFFIXES |= HEIF if importlib.util.find_spec("pillow_heif") else set()
# Pictures and films that lie beside photographs; where they are not in SUFFIXES, they are named. Other files are not.
KNOWN = {".avif", *JPEG_2000, *HEIF} | set(
    ".3fr .arw .avifs .cr2 .cr3 .crw .dng .erf .exr .hdr .ico .iiq .jxl .jxr .kdc .mef .mos .mrw .nef .nrw .orf "
    ".pbm .pcx .pef .psb .psd .qoi .raf .raw .rw2 .rwl .sr2 .srf .srw .svg .x3f .xcf "
    ".avi .m4v .mkv .mov .mp4 .webm".split()
)
ANIMATIONS = {"GIF", "PNG", "WEBP", "AVIF"}  # more pictures in an MPO, TIFF or HEIF are depth maps, thumbnails, pages
LIMIT = "SWAPDISTILL_MAX_MEGAPIXELS"  # environment variable
LIMIT_MEGAPIXELS = 256  # the largest photographs of phones have 200
ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
PROFILE_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile -> mode of its pixels
# The errors of Pillow and its codecs on damaged files, beside those that say so.
UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError, MemoryError, AssertionError, TypeError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip


class DataError(ValueError):
    """Pictures are missing or damaged; the message names the file."""


def list_pictures(folder: str | Path, deep: bool = True) -> tuple[list[Path], list[Path]]:
    """The picture files of a folder, with `deep` also of its subfolders: (pictures, hidden ones), both sorted.

    A picture is hidden if its name or that of a subfolder begins with a dot: `._x.jpg` of macOS, files that are being
    written, `.Trash`. Masks (`x.mask.png`) are in neither list. Links to folders are followed. A folder that does not
    exist has none.
    """
    root = Path(folder)
    lists: tuple[list[Path], list[Path]] = ([], [])
    for path in sorted(path for path, flaw in _walk(root, deep) if flaw is None):
        if path.suffix.lower() in SUFFIXES and not path.stem.endswith(".mask"):
            lists[_is_hidden(path, root)].append(path)
    return lists


def unread_files(folder: str | Path) -> list[tuple[Path, str]]:
    """The pictures of a folder and its subfolders that `list_pictures` leaves out, each with the reason, sorted: by
    their ending, and what lies in folders that cannot be entered. Hidden files are not among them.
    """
    root, unread = Path(folder), []
    for path, flaw in sorted(_walk(root, True)):
        suffix = path.suffix.lower()
        if flaw is None and suffix in HEIF - SUFFIXES:
            flaw = f"HEIC needs pillow-heif: {terminal.install('heic')}"
        elif flaw is None and suffix in KNOWN - SUFFIXES:
            flaw = f"'{suffix}' is not read; save it as a JPEG or PNG"
        if flaw and not _is_hidden(path, root):
            unread.append((path, flaw))
    return unread


def _walk(folder: Path, deep: bool, above: frozenset = frozenset()) -> Iterator[tuple[Path, str | None]]:
    """The files of a folder, with None; and folders that cannot be entered, with the reason."""
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in above:
            yield folder, "a link to a folder that holds it"
            return
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        yield folder, f"not a readable folder ({error.strerror})"
        return
    above |= {(status.st_dev, status.st_ino)}
    for entry in entries:
        path = folder / entry.name
        if not (os.path.isdir(path) if entry.is_symlink() else entry.is_dir()):
            yield path, None
        elif deep:
            yield from _walk(path, deep, above)


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def decode(file: Any, resolution: int | None = None, mode: str | None = "RGB", name: str | None = None) -> np.ndarray:
    """A picture file or stream -> (channels, height, width) uint8, resized to a square if asked. Raises DataError.

    The picture is upright and in sRGB; see `developed` for the modes. An animation is refused.
    """
    with opened(file, name) as picture:
        picture = developed(picture, mode, name)
        if resolution is not None and picture.size != (resolution, resolution):
            picture = picture.resize((resolution, resolution), Image.Resampling.LANCZOS)
        pixels = np.asarray(picture)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None])


@contextmanager
def opened(file: Any, name: str | None = None, still: bool = True) -> Iterator[Image.Image]:
    """A picture file or stream of which only the header was read. Errors in the block are passed on; see `named`.

    Raises DataError, also for too many pixels and, where it must be `still`, for an animation.
    """
    name, limit = name or str(file), max_pixels()
    Image.MAX_IMAGE_PIXELS = limit  # Pillow's own limit, 179 megapixels, is smaller than photographs of phones
    _register_heif()
    with named(name):
        picture = Image.open(file)
    with picture:
        with named(name):
            if picture.width * picture.height > limit:
                raise Image.DecompressionBombError(f"{picture.width} x {picture.height} pixels")
            count = frame_count(picture) if still else 1
        if count > 1:
            raise DataError(f"{name}: an animation of {count} frames; save one of them as a still picture")
        yield picture


@contextmanager
def named(name: str | Path) -> Iterator[None]:
    """Turns the errors of a block in which Pillow reads a damaged or too large picture into DataError."""
    try:
        yield
    except Image.DecompressionBombError as error:
        limit = f"more than {max_pixels() // 10**6} megapixels; set {LIMIT} to read it"
        raise DataError(f"{name}: {limit} ({error})") from None
    except UNREADABLE as error:
        raise DataError(f"{name}: not a readable picture ({error or type(error).__name__})") from None


def max_pixels() -> int:
    """The most pixels of a picture, from $SWAPDISTILL_MAX_MEGAPIXELS. Raises DataError where that is no number."""
    text = os.environ.get(LIMIT) or str(LIMIT_MEGAPIXELS)
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**6):
        raise DataError(f"{LIMIT}={text}: expected a whole number of megapixels, 1 or more")
    return int(text) * 10**6


def frame_count(picture: Image.Image) -> int:
    """The number of frames of an animation; 1 for any other picture."""
    return picture.n_frames if picture.format in ANIMATIONS and getattr(picture, "is_animated", False) else 1


def picture_side(path: str | Path) -> int:
    """The width of an upright picture in pixels. Raises DataError."""
    with opened(path) as picture, named(path):
        return picture.height if orientation(picture) >= 5 else picture.width


def developed(picture: Image.Image, mode: str | None = "RGB", name: str | None = None) -> Image.Image:
    """The current frame of an open picture: upright, in sRGB, 8 bits a channel.

    mode: RGB and L lay transparent pixels over white; RGBA keeps them; None is RGBA where the picture has transparency,
    else RGB. Grey of 16 bits is scaled. Raises DataError for damaged pixels, and for some
    whose white is unknown (32 bits, floats). name: of a stream, for its message. The result may be `picture` itself.
    """
    with named(name or picture.filename):
        return _developed(picture, mode)


def _developed(picture: Image.Image, mode: str | None) -> Image.Image:
    picture.load()
    turn, profile = TURNS.get(orientation(picture)), picture.info.get("icc_profile")
    if picture.mode.startswith(("I", "F")):
        picture = _eight_bits(picture)
    transparent = picture.has_transparency_data
    if transparent and picture.mode not in ("RGBA", "LA"):
        picture = picture.convert("RGBA")
    if profile:
        picture = _to_srgb(picture, profile)
    mode = mode or ("RGBA" if transparent else "RGB")
    if transparent and mode != "RGBA" and picture.getchannel("A").getextrema()[0] < 255:
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    picture = picture if picture.mode == mode else picture.convert(mode)  # which would copy it
    return picture if turn is None else picture.transpose(turn)


def orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, that is left to apply; 1 where there is none, or the EXIF data are damaged."""
    if picture.format == "TIFF":  # Pillow applies it on reading
        return 1
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except UNREADABLE:  # viewers show such a picture as it lies
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Grey of 12 or 16 bits as L, or LA where one grey value means transparent. Raises ValueError on other types."""
    tags = getattr(picture, "tag_v2", {})
    white = 4095 if tags.get(258) == (12,) else 65535
    if not (picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))):
        raise ValueError(f"mode {picture.mode}: its white is unknown; save it with 8 or 16 bits a channel")
    values = np.asarray(picture).astype(np.uint32)
    grey = ((values * 255 + white // 2) // white).clip(0, 255).astype(np.uint8)
    if tags.get(262) == 0:  # TIFF: white is zero
        grey = 255 - grey
    result = Image.fromarray(grey)
    if isinstance(clear := picture.info.get("transparency"), int):
        result.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return result


def _to_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """The picture with its colours converted from a profile to sRGB; unchanged where the profile is sRGB, is damaged,
    or is one of another colour space."""
    mode, transform = _transform(profile)
    if transform is None or (picture.mode == "CMYK") != (mode == "CMYK"):
        return picture
    if (mode == "L" and picture.mode not in ("1", "L", "LA")) or picture.mode == "LAB":
        return picture
    alpha = picture.getchannel("A") if picture.mode in ("RGBA", "LA") else None
    picture = ImageCms.applyTransform(picture.convert(mode), transform)
    if alpha is not None:
        picture.putalpha(alpha)
    return picture


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode of a profile's pixels and the transform to sRGB; None where it would change no colour by more than 1."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = PROFILE_MODES.get(source.profile.xcolor_space, "")
        if not mode:
            return "", None
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (OSError, ImageCms.PyCMSError):  # viewers take a damaged profile for sRGB
        return "", None
    if mode == "RGB":  # most profiles are sRGB: such pictures keep their bytes, and cost nothing
        levels = np.linspace(0, 255, 16).round().astype(np.uint8)
        colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(64, 64, 3)
        after = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform))
        if np.abs(after.astype(int) - colours).max() <= 1:
            return mode, None
    return mode, transform


@functools.cache
def srgb_profile() -> bytes:
    """The ICC profile of sRGB, for files that are written."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@functools.cache
def _register_heif() -> None:
    if ".heic" in SUFFIXES:
        import pillow_heif  # only where it is installed

        pillow_heif.register_heif_opener()
