"""The film of a video file: which stream it is, its frames as upright RGB, and RGB as frames of the film's colours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from swapcore.images import DataError

if TYPE_CHECKING:  # PyAV belongs to the extra `video`
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.plane import VideoPlane
    from av.video.stream import VideoStream

# Numbers of ITU-T H.273, which every container uses
RGB, BT709, UNSPECIFIED, BT470BG, SMPTE170M = 0, 1, 2, 5, 6
MATRICES = {RGB, BT709, UNSPECIFIED, 4, BT470BG, SMPTE170M, 7, 9}  # those that the scaler knows; 9: BT.2020
HDR = {16: "PQ", 18: "HLG"}  # by transfer
LIMITED, FULL = 1, 2
EXACT = 2 | 0x40000 | 0x2000 | 0x4000  # bilinear, exact rounding, and colours at full width both ways
STILL = {"mjpeg", "png", "bmp", "gif", "webp", "tiff"}
TO_SDR = (
    "ffmpeg -i IN -vf zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable,"
    "zscale=t=bt709:m=bt709:r=tv,format=yuv420p -c:a copy OUT.mp4"
)


def opened(path: str | Path) -> InputContainer:
    """A video file to read. Texts in it may be no UTF-8, as in many AVI files. Raises PyAV's errors."""
    import av

    return av.open(str(path), metadata_errors="replace")


def film_of(container: InputContainer, path: str | Path) -> VideoStream:
    """The stream that is the film: not a cover picture or thumbnail. Raises DataError where there is none, and for HDR.

    Pictures of a format for stills beside a film count as covers even where the file does not call them so.
    """
    from av.stream import Disposition

    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    films = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not films:
        what = "only a cover picture" if container.streams.video else "no pictures"
        raise DataError(f"{path}: not a readable video (it holds {what})")
    films = [stream for stream in films if stream.codec_context is not None]
    if not films:
        raise DataError(f"{path}: not a readable video (PyAV has no decoder for its pictures)")
    films = [stream for stream in films if stream.name not in STILL] or films
    film = next((stream for stream in films if stream.disposition & Disposition.default), films[0])
    refuse_hdr(film.codec_context.color_trc, film.codec_context.colorspace, path)
    return film


def refuse_hdr(transfer: int, matrix: int, path: str | Path) -> None:
    """Raise DataError for the transfer of HDR and for a matrix that cannot be converted to RGB: they need a choice of
    tone mapping, which nobody but the user can make."""
    if transfer in HDR or matrix not in MATRICES:
        kind = f"HDR ({HDR[transfer]})" if transfer in HDR else f"of colour matrix {matrix}"
        raise DataError(f"{path}: is {kind}, which is not read; convert it to SDR first: {TO_SDR}")


def turns(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """What the file says is to be done to show a frame upright: (swap rows and columns, then mirror left and right,
    then mirror top and bottom). Other angles than quarter turns count as the nearest one."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()  # x' = a x + c y, y' = b x + d y
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def upright(image: np.ndarray, turn: tuple[bool, bool, bool]) -> np.ndarray:
    """(H, W, 3) turned by the result of `turns`, contiguous."""
    swapped, mirrored, upside_down = turn
    image = image.transpose(1, 0, 2) if swapped else image
    return np.ascontiguousarray(image[:: -1 if upside_down else 1, :: -1 if mirrored else 1])


def rgb(frame: VideoFrame, path: str | Path) -> np.ndarray:
    """An upright frame, (H, W, 3) uint8 RGB, by the matrix and range that the frame names.

    A film that names no matrix is read by the one that players assume. Raises DataError for HDR.
    """
    refuse_hdr(frame.color_trc, frame.colorspace, path)
    untagged = frame.colorspace == UNSPECIFIED and not frame.format.is_rgb
    options = {"src_colorspace": assumed(frame.width, frame.height)} if untagged else {}
    return upright(frame.to_ndarray(format="rgb24", **options), turns(frame))


def assumed(width: int, height: int) -> int:
    """The matrix by which players show a film of this size, as stored, that names none: BT.709 for HD, else BT.601.

    It is mpv's rule; Chromium takes BT.709 from a height of 720 on. FFmpeg's own scaler always takes BT.601.
    """
    return BT709 if width >= 1280 or height > 576 else BT470BG


@dataclass(frozen=True)
class Colours:
    """The colour tags of a film, numbers of H.273; range: 0 unspecified, 1 limited, 2 full."""

    matrix: int
    range: int
    transfer: int
    primaries: int

    @classmethod
    def of(cls, frame: VideoFrame) -> Colours:
        """The tags of a frame. A film in RGB gets the matrix of BT.709, since it is written as YUV."""
        full = frame.format.name.startswith("yuvj")
        matrix, range_ = frame.colorspace, FULL if full else frame.color_range
        if matrix == RGB or frame.format.is_rgb:
            matrix, range_ = BT709, LIMITED
        return cls(matrix, range_, frame.color_trc, frame.color_primaries)

    @classmethod
    def untagged(cls) -> Colours:
        """Those of a file that has no place for tags."""
        return cls(UNSPECIFIED, 0, UNSPECIFIED, UNSPECIFIED)

    def matrix_of(self, width: int, height: int) -> int:
        """The matrix for the scaler, for pictures of this size as stored."""
        if self.matrix == UNSPECIFIED:
            return assumed(width, height)
        return BT470BG if self.matrix == SMPTE170M else self.matrix

    def tag(self, thing) -> None:
        """Write the tags on a frame or a codec context."""
        thing.colorspace, thing.color_range = self.matrix, self.range
        thing.color_trc, thing.color_primaries = self.transfer, self.primaries

    def frame(
        self, image: np.ndarray, width: int, height: int, source: VideoFrame | None = None,
        before: np.ndarray | None = None,
    ) -> VideoFrame:  # fmt: skip
        """(H, W, 3) uint8 RGB as a frame in yuv420p of these colours, without the last line of an odd side, scaled.

        source, before: the frame that the picture was made from, and that frame in RGB. Where both are the same, what
        is stored stays, without the rounding of RGB and back.
        """
        import av

        even = image[: image.shape[0] & ~1, : image.shape[1] & ~1]
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        made = picture.reformat(
            width=width, height=height, format="yuv420p", src_color_range=FULL, dst_color_range=self.range,
            dst_colorspace=self.matrix_of(width, height), interpolation=EXACT,
        )  # fmt: skip
        alike = source is not None and source.format.name in ("yuv420p", "yuvj420p")
        if alike:
            stored = Colours.of(source)
            alike = stored.matrix_of(source.width, source.height) == self.matrix_of(width, height)
            alike = alike and (stored.range == FULL) == (self.range == FULL)
        if alike and image.shape == before.shape == (height, width, 3):
            red, green, blue = np.moveaxis(
                image != before, 2, 0
            )  # numpy's any over so short an axis takes 10 times as long
            _keep_unchanged(made, source, red | green | blue)
        self.tag(made)
        return made


def plane(stored: VideoPlane) -> np.ndarray:
    """The samples (H, W) uint8 of a plane of 8 bits, as a view."""
    return np.frombuffer(stored, np.uint8).reshape(stored.height, stored.line_size)[:, : stored.width]


def _keep_unchanged(made: VideoFrame, source: VideoFrame, changed: np.ndarray) -> None:
    """Give `made` the samples of `source` in blocks of two by two pixels without a changed one. changed: (H, W)."""
    rows = changed[::2] | changed[1::2]
    blocks = rows[:, ::2] | rows[:, 1::2]
    turn = turns(source)
    for place, (old, new) in enumerate(zip(source.planes, made.planes, strict=True)):
        mask = blocks if place else np.repeat(np.repeat(blocks, 2, 0), 2, 1)
        upright_old = upright(plane(old)[..., None], turn)[..., 0]
        np.copyto(plane(new), upright_old, where=~mask)
