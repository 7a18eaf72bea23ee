"""The numbers of a synthetic face: its identity, and the attributes, which describe the rest of the picture.

Both are sampled independently, so that any identity can be rendered with any attributes: the exact swap.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

IDENTITY = (
    # skull and outline
    "skull_width", "skull_height", "face_length", "forehead_bulge", "temple_hollow", "cheekbone_width",
    "cheekbone_forward", "cheek_fullness", "jaw_width", "jaw_corner", "chin_width", "chin_length", "chin_forward",
    "ear_size", "ear_out", "neck_width",
    # eyes and brows
    "brow_ridge", "eye_spacing", "eye_height", "eye_size", "eye_open", "eye_tilt", "eye_depth", "lid_crease",
    "brow_thickness", "brow_arch", "brow_height", "brow_length", "brow_tilt", "brow_darkness",
    # nose and mouth
    "nose_length", "nose_width", "bridge_height", "bridge_width", "tip_size", "tip_up", "nostrils",
    "mouth_height", "mouth_width", "upper_lip", "lower_lip", "cupid_bow", "mouth_corners",
    # colours and marks
    "skin_tone", "skin_undertone", "skin_redness", "iris_hue", "iris_light", "lip_hue", "lip_dark", "freckles",
    "mole_side", "beard", "moustache", "age", "eye_bags",
)  # fmt: skip

ATTRIBUTES = (
    "yaw", "pitch", "roll", "shift_x", "shift_y", "scale",
    "jaw", "smile", "brow_raise", "blink", "gaze_x", "gaze_y",
    "light_azimuth", "light_elevation", "light_strength", "light_warmth", "ambient",
    "background_kind", "background_hue", "background_saturation", "background_value", "background_phase",
    "hair_length", "hair_volume", "hair_line", "hair_fringe", "hair_part", "hair_dark", "hair_warm", "hair_phase",
    "bald",
    "clothes_hue", "clothes_value", "collar",
    "glasses", "glasses_shape", "glasses_dark", "occluder", "occluder_kind", "occluder_x", "occluder_y", "occluder_hue",
)  # fmt: skip

EXPRESSION = ("jaw", "smile", "brow_raise", "blink", "gaze_x", "gaze_y")
_PLACE = {name: i for i, name in enumerate(ATTRIBUTES)}


def sample_identities(n: int, seed: int) -> Tensor:
    """(n, K) float32, each number standard normal, clipped to +-2.5. Person i of a seed does not depend on n."""
    numbers = np.random.default_rng(seed).standard_normal((n, len(IDENTITY)), dtype=np.float32)
    return torch.from_numpy(np.clip(numbers, -2.5, 2.5))


def sample_attributes(n: int, seed: int) -> Tensor:
    """(n, A) float32: angles in degrees, shifts in head radii, flags 0 or 1, phases and hues in [0, 1).

    Picture i of a seed does not depend on n.
    """
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((n, 2, len(ATTRIBUTES)))
    flat, normal = 0.5 * (1 + np.vectorize(math.erf)(normal[:, 1] / 2**0.5)), np.clip(normal[:, 0], -2.3, 2.3)
    columns = {
        "yaw": normal[:, 0] * 15, "pitch": normal[:, 1] * 8, "roll": normal[:, 2] * 5,
        "shift_x": normal[:, 3] * 0.02, "shift_y": normal[:, 4] * 0.02, "scale": 1 + normal[:, 5] * 0.025,
        "jaw": np.clip(flat[:, 6] * 1.7 - 0.7, 0, 1), "smile": flat[:, 7] * 1.5 - 0.5, "brow_raise": flat[:, 8] * 2 - 1,
        "blink": np.where(flat[:, 9] > 0.93, 1.0, flat[:, 9] * 0.3),
        "gaze_x": flat[:, 10] * 2 - 1, "gaze_y": flat[:, 11] * 2 - 1,
        "light_azimuth": normal[:, 12] * 35, "light_elevation": 25 + normal[:, 13] * 18,
        "light_strength": 0.75 + flat[:, 14] * 0.45, "light_warmth": normal[:, 15],
        "ambient": 0.35 + flat[:, 16] * 0.25,
        "bald": (flat[:, 30] > 0.93).astype(float), "glasses": (flat[:, 34] > 0.88).astype(float),
        "occluder": (flat[:, 37] > 0.94).astype(float), "hair_warm": normal[:, 28],
    }  # fmt: skip
    numbers = np.stack([columns.get(name, flat[:, i]) for i, name in enumerate(ATTRIBUTES)], 1)
    return torch.from_numpy(numbers.astype(np.float32))


def attribute(attributes: Tensor, name: str) -> Tensor:
    """The column of that name, (n,)."""
    return attributes[:, _PLACE[name]]


def pose_deg(attributes: Tensor) -> Tensor:
    """Yaw, pitch and roll in degrees, (n, 3). Positive yaw turns the face to the right of the picture, positive pitch
    up, positive roll clockwise in the picture."""
    return attributes[:, :3]


def expression(attributes: Tensor) -> Tensor:
    """The numbers of EXPRESSION, (n, E) in [-1, 1]."""
    return torch.stack([attribute(attributes, name) for name in EXPRESSION], 1)
