"""The window of a video around its face: the same part of every frame, and of every frame of its swap.

A window is what metrics of whole frames need: small, at rest, and with the face in it. Needs OpenCV and, for video
files, PyAV, of the extra `video`. A folder of pictures, in the order of their names, counts as a video too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.data.faces import FaceFinder, opencv
from distill.video import containers, frames
from swapcore.frame import CANONICAL, similarity
from swapcore.images import DataError, decode, list_pictures

FACE = 256  # pixels; larger faces are shrunk to this side of their canonical crop
LARGEST = 1 << 30  # bytes of the windows of one video
PICTURES_PER_SECOND = 25  # of a folder of pictures
JUMP = 0.5  # of the side of a face's crop; from one frame to the next, a larger step is another face, or a cut
SAME_SHAPE = 0.01  # of the ratio of width to height


@dataclass(frozen=True, eq=False)
class Window:
    """A part of T frames of a video in which one sees its face; frames without a face are left out.

    places: (T,) numbers of the frames, of `count` in all. seconds: (T,) float64, when these are shown. shape: height
    and width of whole frames. box: left, top, right, bottom. size: height and width of the window as it is cut, shrunk
    where the face is large. to_crop: (T, 2, 3) float64, pixels of the window to fractions of the canonical crop.
    joined: (T - 1,) bool, whether no frame was left out before the next one, and its face is where this one was. times:
    (count,) of all frames.
    """

    path: Path
    count: int
    places: np.ndarray
    seconds: np.ndarray
    shape: tuple[int, int]
    box: tuple[int, int, int, int]
    size: tuple[int, int]
    to_crop: Tensor
    joined: np.ndarray
    times: np.ndarray

    def cut(self, images: Iterable[np.ndarray]) -> Tensor:
        """The windows (T, 3, h, w) uint8 of all `count` frames (H, W, 3) uint8, given in their order."""
        windows = np.empty((len(self.places), *self.size, 3), np.uint8)
        numbers = {int(place): i for i, place in enumerate(self.places)}
        for place, image in enumerate(images):
            if place in numbers:
                windows[numbers[place]] = self._cut(image)
        return torch.from_numpy(windows).permute(0, 3, 1, 2).contiguous()

    def _cut(self, image: np.ndarray) -> np.ndarray:
        left, top, right, bottom = self.box
        part = image[top:bottom, left:right]
        if part.shape[:2] == self.size:
            return part
        cv2 = opencv()
        return cv2.resize(part, self.size[::-1], interpolation=cv2.INTER_AREA)

    def changed(self, change: Callable[[float, np.ndarray], np.ndarray]) -> Tensor:
        """The windows of the video's frames, each changed as a whole: (seconds, (H, W, 3) uint8) -> the same shape."""
        return self.cut(change(time, image) for time, image in islice(read(self.path), self.count))

    def of_swap(self, path: Path, whole: bool) -> tuple[Tensor, str]:
        """The same windows of a swapped video, and a note on how it was fitted; empty if it was not.

        whole: `count` are all frames of the target, and the swap must have as many. Raises DataError where numbers,
        times or shapes of frames differ: pictures that do not belong together would be compared.
        """
        times, note = [], ""

        def fitted() -> Iterator[np.ndarray]:
            nonlocal note
            for place, (time, image) in enumerate(read(path)):
                if place == self.count and not whole:
                    return
                times.append(time)
                if place < self.count:
                    image, note = self._fitted(image, path)
                    yield image

        windows = self.cut(fitted())
        if len(times) != self.count:
            short = f"--frames {min(len(times), self.count)} measures the first ones, if they belong together"
            raise DataError(
                f"{path}: {len(times)} frames, but {self.path} has {self.count}{'' if whole else ' or more'}; a swap "
                f"needs one frame for each frame of its target; {short}"
            )
        late = np.abs(np.subtract(times, times[0]) - (self.times - self.times[0]))
        if late.max() > np.median(np.diff(self.times)) / 2:
            place = int(late.argmax())
            raise DataError(
                f"{path}: another frame rate than {self.path}: frame {place} is shown after "
                f"{times[place] - times[0]:.3f} s, not {self.times[place] - self.times[0]:.3f} s; write the swap with "
                f"the times of its target"
            )
        return windows, note

    def _fitted(self, image: np.ndarray, path: Path) -> tuple[np.ndarray, str]:
        """A swap's frame in the size of the target's. Raises DataError for another shape."""
        height, width = self.shape
        own = image.shape[:2]
        if own == self.shape:
            return image, ""
        sizes = f"{own[1]} x {own[0]} pixels, the target {width} x {height}"
        if 0 <= height - own[0] <= 1 and 0 <= width - own[1] <= 1:  # encoders need even sides
            pad = ((0, height - own[0]), (0, width - own[1]), (0, 0))
            return np.pad(image, pad, mode="edge"), f"{path.name}: {sizes}: the missing line was repeated"
        if abs(own[1] / own[0] * height / width - 1) > SAME_SHAPE:
            raise DataError(f"{path}: {sizes}: another shape; write the swap in the size of its target, uncropped")
        cv2 = opencv()
        shrinks = own[0] > height
        kind = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return cv2.resize(image, (width, height), interpolation=kind), f"{path.name}: {sizes}: resized"


def find(path: Path, find_face: FaceFinder, most: int | None = None) -> Window:
    """The window of the first `most` frames of a video, None for all. Raises DataError naming the file."""
    times, landmarks, shape = [], [], None
    for time, image in islice(read(path), most):
        if shape not in (None, image.shape[:2]):
            raise DataError(f"{path}: frame {len(times)} has another size than the first; make them one size")
        shape = image.shape[:2]
        times.append(time)
        landmarks.append(find_face(image))
    places = np.array([i for i, points in enumerate(landmarks) if points is not None], dtype=int)
    if len(places) < 3:
        raise DataError(
            f"{path}: a face in {len(places)} of {len(times)} frames; motion needs three frames with a face"
        )
    if not (np.diff(times) > 0).all():
        raise DataError(f"{path}: frames are not shown one after the other; write the video again")
    canonical = torch.tensor(CANONICAL)
    to_crop = torch.stack([similarity(torch.as_tensor(landmarks[i]), canonical) for i in places])
    linear, shift = to_crop[:, :, :2], to_crop[:, :, 2]
    back = torch.linalg.inv(linear)
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    corners = (corners - shift[:, None]) @ back.transpose(1, 2)  # (T, 4, 2) in pixels of a frame
    side = back[:, :, 0].norm(dim=1)
    centre = corners.mean(1)
    joined = ((centre[1:] - centre[:-1]).norm(dim=1) < JUMP * torch.minimum(side[1:], side[:-1])).numpy()
    joined &= np.diff(places) == 1  # by the times alone, every other frame would be a film of half the rate
    height, width = shape
    left, top = (max(0, int(v)) for v in corners.amin((0, 1)).floor())
    right, bottom = (min(end, int(v)) for v, end in zip(corners.amax((0, 1)).ceil(), (width, height), strict=True))
    scale = min(1.0, FACE / float(side.median()))
    size = max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale))
    if len(places) * 3 * size[0] * size[1] > LARGEST:
        raise DataError(
            f"{path}: {len(places)} frames of {size[1]} x {size[0]} pixels around the face need more than 1 GB; "
            f"measure the first ones with --frames N, or a shorter video"
        )
    each = torch.tensor([(right - left) / size[1], (bottom - top) / size[0]], dtype=torch.float64)
    moved = linear @ torch.tensor([float(left), float(top)], dtype=torch.float64) + shift
    return Window(
        path, len(times), places, np.array(times)[places], (height, width), (left, top, right, bottom), size,
        torch.cat([linear * each, moved[..., None]], 2), joined, np.array(times),
    )  # fmt: skip


def read(path: Path) -> Iterator[tuple[float, np.ndarray]]:
    """The frames of a video file, or of a folder of pictures: seconds, (H, W, 3) uint8 RGB. Raises DataError."""
    if not path.exists():
        raise DataError(f"{path}: no such video")
    if not path.is_dir():
        containers.kind_of(path)
        yield from frames.stream(path)
        return
    pictures = list_pictures(path, deep=False)[0]
    if not pictures:
        raise DataError(f"{path}: no pictures; expected the frames of a video, in the order of their names")
    for number, picture in enumerate(pictures):
        yield number / PICTURES_PER_SECOND, np.ascontiguousarray(decode(picture).transpose(1, 2, 0))
