"""Faces in pictures of any size: found, and aligned to the canonical crop. Wants OpenCV, from the extra `video`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from distill.data.photos import EXPECTED_TREE
from swapcore.files import sha256, whole_file
from swapcore.frame import CANONICAL, similarity
from swapcore.images import SUFFIXES, DataError, decode
from swapcore.weights import Card

YUNET = Card(
    name="yunet",
    file="yunet_n_dynamic.onnx",
    sha256="104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
    url=None,
    source="https://github.com/ShiqiYu/libfacedetection.train @0047ac2 onnx/yunet_n_dynamic.onnx",
    licence="Apache-2.0",
    note="Boxes and five points (Wu, Peng, Yu: YuNet, Machine Intelligence Research 2023).",
)
LARGEST = 640  # pixels; a larger picture is shrunk before it is searched

# An RGB picture (H, W, 3) uint8 to the five points (5, 2) of its largest face, in pixels, or None.
FindFace = Callable[[np.ndarray], np.ndarray | None]


class Detector:
    """YuNet on pictures of any size. `name` and `weight_hash` say which. Raises DataError without OpenCV."""

    name = YUNET.name

    def __init__(self, path: str | Path, score: float = 0.7) -> None:
        """path: the file of the card YUNET. score: the least that counts as a face, in [0, 1]."""
        cv2 = opencv()
        self.weight_hash = sha256(path)[:16]
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns of its own engine
        try:
            self._network = cv2.FaceDetectorYN.create(str(path), "", (LARGEST, LARGEST), score)
        except cv2.error as error:
            raise DataError(f"{path}: not a detector that OpenCV can read ({error.msg.strip()})") from None
        finally:
            cv2.utils.logging.setLogLevel(level)

    def __call__(self, image: np.ndarray) -> np.ndarray | None:
        """Eyes, nose tip, mouth corners of the largest face, left to right in the picture: (5, 2) float, or None."""
        return next(iter(self.all(image)), None)

    def all(self, image: np.ndarray) -> list[np.ndarray]:
        """The points of every face, the largest first."""
        cv2 = opencv()
        height, width = image.shape[:2]
        shrink = min(1.0, LARGEST / max(height, width))
        if shrink < 1:
            size = round(width * shrink), round(height * shrink)
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        self._network.setInputSize((image.shape[1], image.shape[0]))
        faces = self._network.detect(np.ascontiguousarray(image[..., ::-1]))[1]
        found = [] if faces is None else sorted(faces, key=lambda face: -face[2] * face[3])
        return [face[4:14].reshape(5, 2).astype(np.float64) / shrink for face in found]


def opencv() -> ModuleType:
    try:
        import cv2
    except ImportError:
        raise DataError("finding faces needs OpenCV: pip install swapdistill[video]") from None
    return cv2


def align(image: np.ndarray, points: np.ndarray, size: int) -> np.ndarray:
    """The canonical crop (size, size, 3) uint8 of a picture (H, W, 3) uint8 with five points (5, 2) in pixels.

    What lies outside the picture repeats its border. Raises ValueError on points that are no face.
    """
    cv2 = opencv()
    move = _to_crop(points, size)
    scale = float(np.hypot(*move[:, 0]))
    if scale < 0.5:  # a bilinear sample sees four pixels: a much larger face is averaged first
        image = cv2.resize(image, None, fx=2 * scale, fy=2 * scale, interpolation=cv2.INTER_AREA)
        move[:, :2] /= 2 * scale
    return cv2.warpAffine(image, _centred(move), (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def paste(crop: np.ndarray, image: np.ndarray, points: np.ndarray, feather: float = 0.12) -> np.ndarray:
    """A picture (H, W, 3) uint8 with an aligned crop (S, S, 3) uint8 laid back over the face of these points.

    The crop's border fades out over `feather` of its side, and all of it towards the corners, where no face is.
    """
    cv2 = opencv()
    size = len(crop)
    back = cv2.invertAffineTransform(_centred(_to_crop(points, size)))
    away = np.abs((np.arange(size) + 0.5) / size * 2 - 1)
    reach = 1 - np.maximum(np.hypot(away[:, None], away[None]) / 1.12, np.maximum(away[:, None], away[None]))
    mask = np.clip(reach / (2 * feather), 0, 1).astype(np.float32)
    mask = mask * mask * (3 - 2 * mask)  # no edge where the fading begins and ends
    height, width = image.shape[:2]
    laid = cv2.warpAffine(crop, back, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    share = cv2.warpAffine(mask, back, (width, height), flags=cv2.INTER_LINEAR)[..., None]
    return (image + share * (laid.astype(np.float32) - image)).round().astype(np.uint8)


def _to_crop(points: np.ndarray, size: int) -> np.ndarray:
    """(2, 3): places in the picture to places in its canonical crop. Raises ValueError on points that are no face."""
    points = torch.as_tensor(np.asarray(points))
    if points.shape != (5, 2) or not torch.isfinite(points).all() or points.std(0).min() < 1e-3:
        raise ValueError(f"points: expected five places of a face, got {points.tolist()}")
    return similarity(points, torch.tensor(CANONICAL) * size).numpy()


def _centred(move: np.ndarray) -> np.ndarray:
    """The same from and to numbers of pixels, whose centres lie half a pixel inside."""
    move = move.copy()
    move[:, 2] += move[:, :2].sum(1) / 2 - 0.5
    return move


def sideways(points: np.ndarray) -> float:
    """How far a face looks to the side: the nose's distance from the middle of the eyes along their line, in distances
    between the eyes. 0 is frontal, a profile is beyond 0.5."""
    left, right, nose = np.asarray(points, dtype=float)[:3]
    line = right - left
    length = float(np.hypot(*line))
    return abs(float((nose - (left + right) / 2) @ line)) / max(length, 1e-6) ** 2


def align_folder(
    folder: Path, out: Path, size: int, find: FindFace, progress: bool = True
) -> tuple[Path, list[dict[str, str]]]:
    """Align the largest face of every picture of a folder to OUT/<same name>.png; the folder OUT, and what was skipped.

    What is there already is not made again. Raises DataError where there is no picture or no face at all.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder}: no pictures; {EXPECTED_TREE}")
    skipped = []
    for path in tqdm(files, desc="align faces", unit="photo", disable=not progress):
        relative = path.relative_to(folder)
        target = out / relative.parent / f"{relative.name}.png"
        if target.is_file():
            continue
        try:
            image = np.ascontiguousarray(decode(path).transpose(1, 2, 0))
        except DataError:
            skipped.append({"what": str(relative), "reason": "not a readable picture"})
            continue
        points = find(image)
        if points is None:
            skipped.append({"what": str(relative), "reason": "no face found"})
            continue
        save(align(image, points, size), target)
    if len(skipped) == len(files):
        raise DataError(f"{folder}: no face in any of {len(files)} pictures; the first: {skipped[0]['what']}")
    return out, skipped


def save(image: np.ndarray, path: Path) -> None:
    """Write a crop (H, W, 3) uint8 as PNG, whole or not at all."""
    with whole_file(path) as temporary:
        Image.fromarray(image).save(temporary, "PNG")
