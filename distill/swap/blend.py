"""Lay a swap back into its picture so that only the inner face changes: mask, colours at its border, fine detail."""

from __future__ import annotations

import functools

import numpy as np

from distill.data import faces

# The inner face in fractions of the canonical crop (swapcore/frame.py: eyes at 0.47, mouth at 0.73 from above): from
# above the brows to the chin and to the cheek bones, an egg, TAPER narrower per crop's side further down. Full up to
# FULL of its half axes.
CENTRE, HALF_AXES, TAPER, FULL = (0.498, 0.595), (0.28, 0.325), 0.35, 0.72
OPEN = (0.1, 0.5)  # a student's mask at which the swap begins to show, and from which on it shows alone
HOLE = 0.1  # of the crop's side: narrower holes of a student's mask do not count
RING_BLUR = 0.12  # of the crop's side: how far colours are compared around a place
COARSE = 32  # pixels of the crop's side at which colours are compared: they vary slowly
LEAST_OPEN = 0.2  # with less of the student's face in the swap, its colour is too uncertain
UNLIKE = 24.0  # levels of 255 from the usual difference: another thing, such as hair, instead of another tint
KEPT, KEPT_BLUR = 10.0, 0.02  # levels of change at which a third of the target's fine detail stays; of the crop's side
STRIP = 256  # rows at a time: floats of a whole face in a large photograph need much memory


def lay_back(
    image: np.ndarray, landmarks: np.ndarray, swap: np.ndarray, target: np.ndarray, own: np.ndarray | None = None
) -> np.ndarray:
    """A picture (H, W, 3) uint8 with the inner face of a swap instead of its own. Other pixels keep their bytes.

    landmarks: (5, 2) in pixels of the picture. swap, target: the canonical crops (S, S, 3) of the swap and of the
    picture, 0 to 255. own: the student's mask (S, S) in [0, 1], with which the swap is blended already; None for a
    student without. The picture itself is not changed. Raises ValueError on landmarks that do not form a face.

    A swap that equals its target changes nothing, however coarse the crops are: the picture is changed by the
    difference of both, and loses its own fine detail only where they differ.
    """
    swap, target = swap.astype(np.float32), target.astype(np.float32)
    drawn = np.ones(swap.shape[:2], np.float32) if own is None else own.astype(np.float32)
    mask = mask_of(len(swap), own)
    change = match_colours(swap, target, drawn, mask) - target
    lost = drawn * (1 - _alike(change))
    return _apply(image, landmarks, change, target, mask, lost)


def mask_of(size: int, own: np.ndarray | None = None) -> np.ndarray:
    """How much of a swap of `size` pixels shows, (size, size) float32 in [0, 1]: the inner face, and of it only where
    the student's own mask of this size is open.

    Its own mask leaves out hair before the face. Alone it would not do: students open it at the neck and along the
    outline of the hair as well. Narrow holes in it, such as eyes that the student half keeps, do not count: the student
    has blended its swap by the mask already, which would be weakened twice.
    """
    if own is None:
        return _inner_face(size)
    cv2, side = faces.opencv(), round(HOLE * size) | 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    filled = _blur(cv2.morphologyEx(own.astype(np.float32), cv2.MORPH_CLOSE, kernel), 0.01)
    return _inner_face(size) * _ramp((filled - OPEN[0]) / (OPEN[1] - OPEN[0]))


@functools.lru_cache(maxsize=2)
def _inner_face(size: int) -> np.ndarray:
    places = (np.arange(size, dtype=np.float32) + 0.5) / size
    inner = _ramp((1 - egg(places[None], places[:, None])) / (1 - FULL))
    inner.setflags(write=False)  # as it is kept for the next face
    return inner


def egg(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How far places, in fractions of the crop's side, lie from the middle of the inner face: 1 at its border."""
    across, down = x - CENTRE[0], y - CENTRE[1]
    return np.hypot(across / (HALF_AXES[0] * (1 - TAPER * down)), down / HALF_AXES[1])


def match_colours(swap: np.ndarray, target: np.ndarray, drawn: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A swap (S, S, 3) whose colours agree with the target's where the mask (S, S) begins and ends.

    The student's face and the target are compared in that ring. Their difference, blurred over the whole face, is added
    to the face. drawn: how much of the swap is the student's face, (S, S) in [0, 1]; the rest is the target already.
    """
    cv2 = faces.opencv()
    layers = target - swap, drawn, mask
    difference, seen, ring = (cv2.resize(each, (COARSE, COARSE), interpolation=cv2.INTER_AREA) for each in layers)
    ring = 4 * ring * (1 - ring) * np.clip(seen / LEAST_OPEN - 1, 0, 1)
    counted = ring > 0.25
    if not counted.any():
        return swap
    difference /= np.maximum(seen, LEAST_OPEN)[..., None]  # of the face before it was blended
    # Hair, glasses and the edges of a face that lies elsewhere are no tint: they differ from the usual difference.
    usual = np.median(difference[counted], 0)
    ring /= 1 + (_largest(difference - usual) / UNLIKE) ** 2
    tint = _blur(ring[..., None] * difference, RING_BLUR) / np.maximum(_blur(ring, RING_BLUR), 1e-6)[..., None]
    tint = cv2.resize(tint, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return swap + drawn[..., None] * tint


def _alike(change: np.ndarray) -> np.ndarray:
    """(S, S) in [0, 1]: 1 where a change (S, S, 3), in levels of 255, is none."""
    return np.exp(-((_blur(_largest(change), KEPT_BLUR) / KEPT) ** 2))


def _largest(levels: np.ndarray) -> np.ndarray:
    """The largest absolute value of three channels: (S, S, 3) to (S, S). numpy's max over so short an axis is slow."""
    red, green, blue = np.abs(np.moveaxis(levels, 2, 0))
    return np.maximum(np.maximum(red, green), blue)


def _apply(
    image: np.ndarray, landmarks: np.ndarray, change: np.ndarray, target: np.ndarray, mask: np.ndarray, lost: np.ndarray
) -> np.ndarray:
    """The picture + mask * (change - lost * its own detail finer than the crop)."""
    cv2 = faces.opencv()
    layers = change, target, np.dstack([mask, lost])
    to_image = faces.to_picture(landmarks, len(mask))
    scale = float(np.hypot(*to_image[:, 0]))
    if scale < 0.5:  # a sample reads four pixels: average first where the face has fewer than the crop
        size = max(2, round(2 * scale * len(mask)))
        layers = tuple(cv2.resize(layer, (size, size), interpolation=cv2.INTER_AREA) for layer in layers)
        to_image = faces.to_picture(landmarks, size)
    changed = image.copy()
    left, top, right, bottom = _covered(layers[2][..., 0], to_image, image.shape)
    for begin in range(top, bottom if left < right else top, STRIP):
        end = min(begin + STRIP, bottom)
        place = to_image - [[0, 0, left], [0, 0, begin]]
        part = changed[begin:end, left:right]
        step, crop = (_warped(layer, place, part.shape, cv2.INTER_CUBIC) for layer in layers[:2])
        weight, loss = cv2.split(_warped(layers[2], place, part.shape, cv2.INTER_LINEAR, outside=0))
        step -= loss[..., None] * (part - crop)
        step *= weight[..., None]
        step += part
        part[:] = np.rint(np.clip(step, 0, 255, out=step), out=step)
    return changed


def _warped(
    layers: np.ndarray, place: np.ndarray, shape: tuple[int, ...], method: int, outside: int | None = None
) -> np.ndarray:
    """Layers of a crop as they lie in a part of the picture. outside: their value there; by default their border's."""
    cv2 = faces.opencv()
    border = cv2.BORDER_REPLICATE if outside is None else cv2.BORDER_CONSTANT
    return cv2.warpAffine(layers, place, shape[1::-1], flags=method, borderMode=border, borderValue=outside or 0)


def _covered(mask: np.ndarray, to_image: np.ndarray, shape: tuple[int, ...]) -> faces.Window:
    """The part of a picture of this shape that an open mask covers; empty (left >= right or top >= bottom) if none."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return 0, 0, 0, 0
    x, y = (columns[0] - 1, columns[-1] + 1), (rows[0] - 1, rows[-1] + 1)
    corners = np.array([[a, b, 1] for a in x for b in y]) @ to_image.T
    left, top = np.floor(corners.min(0)).clip(0, shape[1::-1]).astype(int).tolist()
    right, bottom = np.ceil(corners.max(0) + 1).clip(0, shape[1::-1]).astype(int).tolist()
    return left, top, right, bottom


def _blur(layers: np.ndarray, share: float) -> np.ndarray:
    """Layers (S, S) or (S, S, C) blurred by a Gaussian whose deviation is this share of their side."""
    cv2 = faces.opencv()
    return cv2.GaussianBlur(layers, (0, 0), share * len(layers), borderType=cv2.BORDER_REFLECT_101)


def _ramp(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth in between and at both ends."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
