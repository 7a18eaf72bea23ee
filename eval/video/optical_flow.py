"""Where pixels go from frame to frame: estimated by optical flow, and how well that follows the exact motion.

DIS: Kroeger et al., ECCV 2016 (arXiv:1603.03590), by OpenCV: the preset `medium`, but refined down to single pixels. On
synthetic people of 96 and 256 pixels that follows the exact motion with errors of 0.09 and 0.12 pixels; with the
preset's own finest scale these are 0.11 and 0.16. Without OpenCV, TV-L1 (Zach et al., DAGM 2007) by scikit-image, which
is slower; values by the two are not comparable, and the protocol names the method.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from swapcore.images import REC_601

# Sundaram et al., ECCV 2010: the way there and back ends where it began, or the pixel is hidden in one frame.
CONSISTENT = "|there + back|^2 < 0.01 (|there|^2 + |back|^2) + 0.5"


def estimated_motion(frames: Tensor) -> tuple[Tensor, Tensor, str]:
    """The motion between neighbours of frames (T, 3, H, W) uint8: (T - 1, 2, H, W) float32 pixels right and down;
    (T - 1, 1, H, W) bool, the pixels that both frames show, by the way there and back; and the name of the method."""
    shares = frames.new_tensor(REC_601, dtype=torch.float32)[:, None, None]
    grey = (frames.float() * shares).sum(1).round().byte().numpy()
    between, method = _estimator()
    there = torch.from_numpy(np.stack([between(a, b) for a, b in zip(grey[:-1], grey[1:], strict=True)]))
    back = torch.from_numpy(np.stack([between(b, a) for a, b in zip(grey[:-1], grey[1:], strict=True)]))
    returned = there + moved(back, there)
    limit = 0.01 * (there.square().sum(1, True) + moved(back, there).square().sum(1, True)) + 0.5
    return there, (returned.square().sum(1, True) < limit) & _inside(there), f"{method}; visible where {CONSISTENT}"


def moved(images: Tensor, motion: Tensor) -> Tensor:
    """Images (n, C, H, W) read where the motion (n, 2, H, W), in pixels, takes each pixel: bilinear, border repeated.

    Frame t + 1 read by the motion from t to t + 1 lies over frame t."""
    height, width = images.shape[2:]
    x = (torch.arange(width) + 0.5 + motion[:, 0]) * (2 / width) - 1
    y = (torch.arange(height)[:, None] + 0.5 + motion[:, 1]) * (2 / height) - 1
    return F.grid_sample(images.float(), torch.stack([x, y], -1), padding_mode="border", align_corners=False)


def staying(inner: Tensor, motion: Tensor) -> Tensor:
    """(T - 1, 1, H, W) bool: pixels of frame t that are in `inner` (T, 1, H, W) bool, and in frame t + 1, where the
    motion (T - 1, 2, H, W) takes them, as well: what is held before the face hides some."""
    return inner[:-1] & (moved(inner[1:], motion) > 0.99)


def mean_where(values: Tensor, where: Tensor) -> np.ndarray:
    """Mean of values (n, 1, H, W) over the pixels of each in `where` (bool, the same shape): (n,), NaN where none."""
    pixels = where.flatten(1).sum(1)
    return (torch.where(where, values, 0.0).flatten(1).sum(1) / pixels).numpy()  # 0 / 0 is NaN


def end_point_error(motion: Tensor, visible: Tensor, exact: Tensor, seen: Tensor) -> dict[str, float]:
    """How well an estimated motion (n, 2, H, W) follows the exact one, over the pixels that are truly `seen`.

    mean_px: mean distance of the ends (end-point error of Baker et al., IJCV 2011); zero_motion_px: that of no motion,
    which is the mean motion; called_visible_pct: the share of these pixels that the estimate calls visible.
    """
    if not seen.any():
        raise ValueError("no pixel is seen in two neighbouring frames; take frames that show the head")
    distance = (motion - exact).norm(dim=1, keepdim=True)
    return {
        "mean_px": float(distance[seen].mean()),
        "zero_motion_px": float(exact.norm(dim=1, keepdim=True)[seen].mean()),
        "called_visible_pct": float(100 * visible[seen].float().mean()),
    }


def _inside(motion: Tensor) -> Tensor:
    """(n, 1, H, W) bool: the pixel does not leave the picture."""
    height, width = motion.shape[2:]
    x, y = torch.arange(width) + 0.5 + motion[:, 0], torch.arange(height)[:, None] + 0.5 + motion[:, 1]
    return ((x > 0) & (x < width) & (y > 0) & (y < height))[:, None]


def _estimator() -> tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], str]:
    """(H, W) uint8 twice -> (2, H, W) float32; and its name with the version of the package."""
    try:
        import cv2
    except ImportError:
        return _tvl1()
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    return lambda a, b: dis.calc(a, b, None).transpose(
        2, 0, 1
    ), f"DIS, medium, finest scale 0 (OpenCV {cv2.__version__})"


def _tvl1() -> tuple[Callable[[np.ndarray, np.ndarray], np.ndarray], str]:
    import skimage
    from skimage.registration import optical_flow_tvl1

    def between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        rows, columns = optical_flow_tvl1(a / 255.0, b / 255.0)
        return np.stack([columns, rows]).astype(np.float32)

    return between, f"TV-L1 (scikit-image {skimage.__version__})"
