"""Face detection and alignment: pictures to canonical crops and back. Needs OpenCV, of the extra `video`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from distill.data.photos import EXPECTED_TREE, left_out
from swapcore import terminal
from swapcore.files import sha256
from swapcore.frame import CANONICAL, similarity
from swapcore.images import DataError, decode, list_pictures, read_made_from, save_png
from swapcore.onnx import content_sha256
from swapcore.weights import Card

YUNET = Card(
    name="yunet",
    file="yunet_n_dynamic.onnx",
    sha256="104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
    url=None,
    source="https://github.com/ShiqiYu/libfacedetection.train @0047ac2 onnx/yunet_n_dynamic.onnx",
    licence="Apache-2.0",
    note="BGR in; boxes and five landmarks out (Wu, Peng, Yu: YuNet, Machine Intelligence Research 2023).",
)
SEARCH_SIDE = 640  # pixels; a larger picture is shrunk before detection
OVERLAP = 160  # pixels of two tiles; a face that is larger was seen whole at the scale before
# A small face is looked at again with a side of so many pixels, and counts with this confidence. Of 48 faces of
# photographs, 16 to 30 pixels wide, all that were found at first had more than 0.85 then, of 8 false finds in textures
# one had.
CLOSE, SURE = 96, 0.8

Window = tuple[int, int, int, int]  # left, top, right, bottom in pixels

# An RGB picture (H, W, 3) uint8 -> the five landmarks (5, 2) of its largest face in pixels, or None.
FaceFinder = Callable[[np.ndarray], np.ndarray | None]


class Detector:
    """YuNet on pictures of any size. Pair lists record `name` and `weight_hash`. Raises DataError without OpenCV."""

    name = YUNET.name

    def __init__(self, path: str | Path, score: float = 0.7) -> None:
        """path: the file of the card YUNET. score: the lowest confidence of a face, in [0, 1]."""
        cv2 = opencv()
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns of its own engine
        try:
            self._network = cv2.FaceDetectorYN.create(str(path), "", (SEARCH_SIDE, SEARCH_SIDE), score)
        except cv2.error as error:
            raise DataError(f"{path}: not a detector that OpenCV can read ({error.msg.strip()})") from None
        finally:
            cv2.utils.logging.setLogLevel(level)
        self.weight_hash = content_sha256(path)[:16]

    def __call__(self, image: np.ndarray) -> np.ndarray | None:
        """Eyes, nose tip, mouth corners of the largest face, left to right in the picture: (5, 2) float, or None."""
        return next(iter(self.all(image)), None)

    def all(self, image: np.ndarray) -> list[np.ndarray]:
        """The landmarks of every face, the largest face first."""
        return [landmarks for landmarks, _ in self.scored(image)]

    def scored(self, image: np.ndarray) -> list[tuple[np.ndarray, float]]:
        """The landmarks and the confidence, in [0, 1], of every face, the largest face first.

        Where the picture, shrunk to 640 pixels, shows no face, it is searched in tiles of 640 pixels at twice the
        scale, and so on up to its own, until a face is found that a closer look confirms with at least 0.8, and at one
        scale more. So much smaller faces are not found beside one that is found early. Faces of 20 pixels are nearly
        always found, of 12 pixels half of them, of less than 10 none.
        """
        height, width = image.shape[:2]
        scale = min(1.0, SEARCH_SIDE / max(height, width))
        found = self._search(image, (0, 0, width, height), scale)
        last = bool(found)
        while scale < 1 and not last:
            last = bool(found)  # one scale more shows those faces of this size that were not seen yet
            scale = min(1.0, 2 * scale)
            found = _distinct([*found, *self._search_tiles(image, scale)])
        found = sorted(found, key=lambda face: -face[2] * face[3])
        return [(face[4:14].reshape(5, 2), float(face[14])) for face in found]

    def _search(self, image: np.ndarray, window: Window, scale: float) -> list[np.ndarray]:
        """The faces in a window of a picture, scaled: 15 numbers of YuNet each, in pixels of the picture."""
        cv2 = opencv()
        left, top, right, bottom = window
        seen = image[top:bottom, left:right]
        if scale != 1:
            shape = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
            seen = cv2.resize(seen, shape, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        self._network.setInputSize((seen.shape[1], seen.shape[0]))
        faces = self._network.detect(np.ascontiguousarray(seen[..., ::-1]))[1]
        if faces is None:
            return []
        faces = faces.astype(np.float64)
        faces[:, :14] /= scale
        faces[:, [0, *range(4, 14, 2)]] += left
        faces[:, [1, *range(5, 14, 2)]] += top
        return list(faces)

    def _search_tiles(self, image: np.ndarray, scale: float) -> list[np.ndarray]:
        """As `_search`, of the whole picture in tiles. Each find is looked at again, which drops most that is no face,
        and puts the landmarks of a small one right."""
        side, step = SEARCH_SIDE / scale, (SEARCH_SIDE - OVERLAP) / scale
        columns, rows = (_spans(length, side, step) for length in (image.shape[1], image.shape[0]))
        found = []
        for top, bottom in rows:
            for left, right in columns:
                found += self._search(image, (left, top, right, bottom), scale)
        closer = [self._look_closer(image, face, scale) for face in _distinct(found)]
        return _distinct([face for face in closer if face is not None])

    def _look_closer(self, image: np.ndarray, face: np.ndarray, scale: float) -> np.ndarray | None:
        """A face that was found at `scale`, found again in a window around it, with a side of CLOSE; or None."""
        side = float(face[2:4].max())
        scale = max(scale, CLOSE / side)
        x, y = face[:2] + face[2:4] / 2
        height, width = image.shape[:2]
        window = (
            max(0, int(x - 2 * side)), max(0, int(y - 2 * side)),
            min(width, math.ceil(x + 2 * side)), min(height, math.ceil(y + 2 * side)),
        )  # fmt: skip
        near = [again for again in self._search(image, window, scale) if again[14] >= SURE and _same(face, again)]
        return max(near, key=lambda again: again[14], default=None)


def _spans(length: int, side: float, step: float) -> list[tuple[int, int]]:
    """Begin and end of tiles of about `side` pixels that cover `length`, evenly, with at most `step` between begins."""
    side = min(length, math.ceil(side))
    count = 1 + math.ceil((length - side) / step)
    return [(begin, begin + side) for begin in np.linspace(0, length - side, count).round().astype(int).tolist()]


def _distinct(faces: list[np.ndarray]) -> list[np.ndarray]:
    """Without those that another tile has found as well: the most confident one of each face."""
    kept = []
    for face in sorted(faces, key=lambda face: -face[14]):
        if not any(_same(face, other) for other in kept):
            kept.append(face)
    return kept


def _same(face: np.ndarray, other: np.ndarray) -> bool:
    """Whether the middles of the landmarks of two finds are nearer than half a face."""
    distance = np.hypot(*(face[4:14] - other[4:14]).reshape(5, 2).mean(0))
    return bool(distance < max(*face[2:4], *other[2:4]) / 2)


def opencv() -> ModuleType:
    try:
        import cv2
    except ImportError:
        raise DataError(f"face detection needs OpenCV: {terminal.install('video')}") from None
    return cv2


def align(image: np.ndarray, landmarks: np.ndarray, size: int) -> np.ndarray:
    """The canonical crop (size, size, 3) uint8 of a picture (H, W, 3) uint8 with five landmarks (5, 2) in pixels.

    The picture's border is repeated outside it. Raises ValueError on landmarks that do not form a face.
    """
    cv2 = opencv()
    transform = _to_crop(landmarks, size)
    scale = float(np.hypot(*transform[:, 0]))
    if scale < 0.5:  # a bilinear sample reads four pixels: average a much larger face first
        image = cv2.resize(image, None, fx=2 * scale, fy=2 * scale, interpolation=cv2.INTER_AREA)
        transform[:, :2] /= 2 * scale
    transform = _between_pixel_centres(transform)
    return cv2.warpAffine(image, transform, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def paste(crop: np.ndarray, image: np.ndarray, landmarks: np.ndarray, feather: float = 0.12) -> np.ndarray:
    """A picture (H, W, 3) uint8 with an aligned crop (S, S, 3) uint8 pasted over the face of these landmarks.

    The crop fades out over `feather` of its side towards its border, and entirely towards its corners. The picture
    itself is not changed. So does the page of the export `web`; distill.swap changes the face alone (swap/blend.py).
    """
    cv2 = opencv()
    size = len(crop)
    to_image = to_picture(landmarks, size)
    distance = np.abs((np.arange(size) + 0.5) / size * 2 - 1)  # from the centre: 0, to the border: 1
    x, y = distance[None], distance[:, None]
    inside = 1 - np.maximum(np.hypot(y, x) / 1.12, np.maximum(y, x))
    mask = np.clip(inside / (2 * feather), 0, 1).astype(np.float32)
    mask = mask * mask * (3 - 2 * mask)  # smooth where the fading begins and ends
    pasted_image = image.copy()
    left, top, right, bottom = _covered(to_image, size, image.shape)
    if left >= right or top >= bottom:
        return pasted_image
    to_image[:, 2] -= left, top
    under, shape = pasted_image[top:bottom, left:right], (right - left, bottom - top)  # whole pictures may be too large
    pasted = cv2.warpAffine(crop, to_image, shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(mask, to_image, shape, flags=cv2.INTER_LINEAR)[..., None]
    under[:] = (under + weight * (pasted.astype(np.float32) - under)).round().astype(np.uint8)
    return pasted_image


def _covered(to_image: np.ndarray, size: int, shape: tuple[int, ...]) -> Window:
    """The part of a picture of this shape that a crop covers; empty (left >= right or top >= bottom) outside it."""
    corners = np.array([[-1, -1, 1], [size, -1, 1], [size, size, 1], [-1, size, 1]]) @ to_image.T
    left, top = np.floor(corners.min(0)).clip(0, shape[1::-1]).astype(int).tolist()
    right, bottom = np.ceil(corners.max(0) + 1).clip(0, shape[1::-1]).astype(int).tolist()
    return left, top, right, bottom


def to_picture(landmarks: np.ndarray, size: int) -> np.ndarray:
    """(2, 3): pixel indices of the canonical crop of `size` pixels to those of its picture. landmarks: (5, 2) in pixels
    of the picture. Raises ValueError on landmarks that do not form a face."""
    return opencv().invertAffineTransform(_between_pixel_centres(_to_crop(landmarks, size)))


def _to_crop(landmarks: np.ndarray, size: int) -> np.ndarray:
    """(2, 3): coordinates in the picture to coordinates in its canonical crop. Raises ValueError."""
    landmarks = torch.as_tensor(np.asarray(landmarks))
    if landmarks.shape != (5, 2) or not torch.isfinite(landmarks).all() or landmarks.std(0).min() < 1e-3:
        raise ValueError(f"landmarks: expected five points of a face, got {landmarks.tolist()}")
    return similarity(landmarks, torch.tensor(CANONICAL) * size).numpy()


def _between_pixel_centres(transform: np.ndarray) -> np.ndarray:
    """The same transform between pixel indices, whose centres lie at index + 0.5."""
    transform = transform.copy()
    transform[:, 2] += transform[:, :2].sum(1) / 2 - 0.5
    return transform


def nose_offset(landmarks: np.ndarray) -> float:
    """How far a face is turned to the side: distance of the nose from the middle of the eyes, along the line of the
    eyes, divided by the distance between the eyes. 0 is frontal, a profile is above 0.5."""
    left, right, nose = np.asarray(landmarks, dtype=float)[:3]
    line = right - left
    length = float(np.hypot(*line))
    return abs(float((nose - (left + right) / 2) @ line)) / max(length, 1e-6) ** 2


def detector_facts(find_face: FaceFinder) -> dict[str, str]:
    """Name and hash of a detector, for the protocol of a pair list and for the crops."""
    names = {"detector": ("name", "another"), "detector_hash": ("weight_hash", "")}
    return {key: getattr(find_face, attribute, default) for key, (attribute, default) in names.items()}


def keeps(crop: Path, made_from: Mapping[str, Any], remedy: str) -> bool:
    """Whether `crop` exists and was made from these facts. Raises DataError if it was made from others: crops of two
    sizes, detectors or pictures must not be mixed."""
    if not crop.is_file():
        return False
    before = read_made_from(crop)
    if before is None:
        raise DataError(f"{crop}: does not say from which picture it was made; {remedy}")
    for key in (*made_from, *before):
        if before.get(key) != made_from.get(key):
            then, now = before.get(key), made_from.get(key)
            raise DataError(f"{crop}: made from other inputs: {key} was {then}, now {now}; {remedy}")
    return True


def align_folder(folder: Path, out: Path, size: int, find_face: FaceFinder) -> tuple[Path, list[dict[str, str]]]:
    """Write the aligned largest face of every picture to OUT/<same name>.png. Returns OUT and the skipped pictures.

    Each crop says in a text of its PNG file from which picture (its sha256), at which size and by which detector it was
    made. Crops of the same are kept. Raises DataError where OUT holds other crops, where OUT lies in the folder, and
    where there is no picture or no face in any.
    """
    files, hidden = list_pictures(folder)
    if not files:
        raise DataError(f"{folder}: no pictures; {EXPECTED_TREE}")
    if out.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{out}: lies in {folder}, whose pictures are aligned; name a folder outside it with --out")
    remedy = f"name another --out, or delete {out}"
    crops = {path: out / path.parent.relative_to(folder) / f"{path.name}.png" for path in files}
    for crop in sorted({*list_pictures(out)[0]} - {*crops.values()}):
        raise DataError(f"{crop}: made from a picture that is not in {folder}; {remedy}")
    settings = {"size": size, **detector_facts(find_face)}
    made_from = {path: {**settings, "picture": sha256(path)[:16]} for path in files}
    missing = [path for path in files if not keeps(crops[path], made_from[path], remedy)]
    flawed = []
    for path in tqdm(missing, desc="align faces", unit="photo"):
        what = str(path.relative_to(folder))
        try:
            image = np.ascontiguousarray(decode(path).transpose(1, 2, 0))
        except DataError as error:
            flawed.append({"what": what, "reason": str(error).removeprefix(f"{path}: ").partition(" (")[0]})
            continue
        landmarks = find_face(image)
        if landmarks is None:
            flawed.append({"what": what, "reason": "no face found"})
            continue
        save_png(align(image, landmarks, size), crops[path], generated=False, made_from=made_from[path])
    if len(flawed) == len(files):
        raise DataError(f"{folder}: no face in any of {len(files)} pictures; the first: {flawed[0]['what']}")
    others = left_out(folder, hidden)
    return out, [*flawed, *({"what": str(path.relative_to(folder)), "reason": reason} for path, reason in others)]
