"""The numbers of a synthetic face: its identity, and the attributes, which describe the rest of the picture.

Both are sampled independently, so that any identity can be rendered with any attributes: the exact swap.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .hair_styles import hair_attributes

BUILD = ("gender", "age", "african", "asian", "caucasian", "weight", "muscle")  # shapes of the whole head
OUTLINES = ("head_round", "head_oval", "head_square", "head_rectangular", "head_triangular", "head_invertedtriangular",
            "head_diamond")  # fmt: skip
ASYMMETRIES = ("asym_brown_1", "asym_eye_1", "asym_eye_5", "asym_nose_1", "asym_mouth_1", "asym_jaw_1")
# Local shapes and their deviation, in units of the slider whose ends are -1 and 1. Names are those of the data file.
SLIDERS = {
    "cheek_trans_up": 0.26, "cheek_volume_incr": 0.30, "cheek_inner_incr": 0.26, "cheek_bones_incr": 0.28,
    "chin_jaw_drop_incr": 0.19, "chin_height_incr": 0.17, "chin_prominent_incr": 0.25, "chin_bones_incr": 0.28,
    "chin_width_incr": 0.28, "chin_cleft_incr": 0.25, "chin_prognathism_incr": 0.12,
    "ear_lobe_incr": 0.25, "ear_scale_incr": 0.20, "ear_wing_incr": 0.22, "ear_shape_triangle": 0.15,
    "eyebrows_angle_up": 0.25, "eyebrows_trans_up": 0.25, "eyebrows_trans_forward": 0.17,
    "eye_corner1_up": 0.26, "eye_corner2_up": 0.26, "eye_height1_incr": 0.22, "eye_height2_incr": 0.22,
    "eye_height3_incr": 0.22, "eye_scale_incr": 0.26, "eye_push1_out": 0.17, "eye_push2_out": 0.17,
    "eye_eyefold_up": 0.26, "eye_eyefold_angle_up": 0.22, "eye_bag_incr": 0.26, "eye_bag_height_incr": 0.22,
    "eye_trans_up": 0.19, "eye_trans_out": 0.19, "eye_epicanthus_out": 0.17,
    "forehead_temple_incr": 0.22, "forehead_trans_forward": 0.20, "forehead_scale_vert_incr": 0.14,
    "forehead_nubian_incr": 0.08,
    "head_scale_vert_incr": 0.18, "head_scale_depth_incr": 0.18, "head_scale_horiz_incr": 0.19, "head_fat_incr": 0.24,
    "head_age_incr": 0.09, "head_back_scale_depth_incr": 0.18,
    "mouth_scale_horiz_incr": 0.26, "mouth_scale_depth_incr": 0.22, "mouth_trans_up": 0.17, "mouth_angles_up": 0.24,
    "mouth_cupidsbow_incr": 0.28, "mouth_upperlip_height_incr": 0.25, "mouth_upperlip_volume_incr": 0.26,
    "mouth_lowerlip_height_incr": 0.25, "mouth_lowerlip_volume_incr": 0.26, "mouth_lowerlip_width_incr": 0.24,
    "mouth_philtrum_volume_incr": 0.25, "mouth_laugh_lines_out": 0.25,
    "neck_scale_horiz_incr": 0.14, "neck_double_incr": 0.16, "measure_neck_circ_incr": 0.08,
    "nose_scale_vert_incr": 0.22, "nose_scale_horiz_incr": 0.24, "nose_scale_depth_incr": 0.22, "nose_trans_up": 0.18,
    "nose_curve_convex": 0.24, "nose_hump_incr": 0.26, "nose_greek_incr": 0.22, "nose_width1_incr": 0.22,
    "nose_width2_incr": 0.22, "nose_width3_incr": 0.24, "nose_flaring_incr": 0.24, "nose_nostrils_angle_up": 0.24,
    "nose_point_width_incr": 0.26, "nose_point_up": 0.17, "nose_base_up": 0.22, "nose_volume_incr": 0.24,
}  # fmt: skip
GEOMETRY = (*BUILD, *OUTLINES, *ASYMMETRIES, *SLIDERS)
PAINT = (
    "tone", "undertone", "redness", "iris_hue", "iris_light", "lip_hue", "lip_dark", "freckles", "mole", "mole_x",
    "mole_y", "beard", "moustache", "stubble", "brow_thickness", "brow_arch", "brow_length", "brow_height", "brow_dark",
    "brow_warm", "eye_bags", "wrinkles", "texture", "makeup", "lashes",
)  # fmt: skip
IDENTITY = (*GEOMETRY, *PAINT)

ATTRIBUTES = (
    "yaw", "pitch", "roll", "shift_x", "shift_y", "scale", "distance",
    "jaw", "smile", "brow_raise", "blink", "gaze_x", "gaze_y", "pucker", "frown", "squint", "sneer", "smirk",
    "light_azimuth", "light_elevation", "light_strength", "light_warmth", "ambient", "rim",
    "background_kind", "background_hue", "background_saturation", "background_value", "background_phase",
    "hair_length", "hair_volume", "hair_line", "hair_fringe", "hair_part", "hair_back", "hair_curl", "hair_dark",
    "hair_warm", "hair_grey", "hair_phase", "bald",
    "clothes_hue", "clothes_saturation", "clothes_value", "collar",
    "glasses", "glasses_shape", "glasses_dark", "occluder", "occluder_kind", "occluder_x", "occluder_y", "occluder_hue",
    "blur", "noise", "noise_phase",
)  # fmt: skip

EXPRESSION = ("jaw", "smile", "brow_raise", "blink", "gaze_x", "gaze_y", "pucker", "frown")
_PLACE = {name: i for i, name in enumerate(ATTRIBUTES)}


def sample_identities(n: int, seed: int) -> Tensor:
    """(n, K) float32, each number standard normal, clipped to +-2.5. Person i of a seed does not depend on n."""
    numbers = np.random.default_rng(seed).standard_normal((n, len(IDENTITY)), dtype=np.float32)
    return torch.from_numpy(np.clip(numbers, -2.5, 2.5))


def sample_attributes(n: int, seed: int, sensor: bool = False) -> Tensor:
    """(n, A) float32: angles in degrees, lengths in decimetres, shifts in sides of the picture, flags 0 or 1, hues and
    phases in [0, 1). With `sensor`, half of the pictures have a slight blur, and half noise. Picture i of a seed does
    not depend on n."""
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((n, 2, len(ATTRIBUTES)))
    flat = torch.special.ndtr(torch.from_numpy(numbers[:, 1])).numpy()
    normal = {name: np.clip(numbers[:, 0, i], -2.3, 2.3) for name, i in _PLACE.items()}
    flat = {name: flat[:, i] for name, i in _PLACE.items()}
    columns = {
        **flat, **_pose(normal), **_expression(normal, flat), **_light(normal, flat), **_hair(numbers),
        "glasses": flat["glasses"] > 0.87, "occluder": flat["occluder"] > 0.94,
        "blur": np.maximum(0, flat["blur"] * 2 - 1) * sensor, "noise": np.maximum(0, flat["noise"] * 2 - 1) * sensor,
    }  # fmt: skip
    return torch.from_numpy(np.stack([columns[name] for name in ATTRIBUTES], 1).astype(np.float32))


def _pose(normal: dict) -> dict:
    """The deviations of yaw, pitch and roll are 15, 7 and 4.5 degrees."""
    return {
        "yaw": normal["yaw"] * 15, "pitch": normal["pitch"] * 7, "roll": normal["roll"] * 4.5,
        "shift_x": normal["shift_x"] * 0.010, "shift_y": normal["shift_y"] * 0.010,
        "scale": 1 + normal["scale"] * 0.02, "distance": 13 + normal["distance"] * 2,
    }  # fmt: skip


def _expression(normal: dict, flat: dict) -> dict:
    """One of seven moods: two smiles, surprise, displeasure, pursed lips, a laugh, rest."""
    mood = np.floor(flat["smirk"] * 8)  # also 7: rest

    def within(name: str, low: float, high: float, *moods: int) -> np.ndarray:
        return np.where(np.isin(mood, moods), low + (high - low) * flat[name], 0)

    smile = within("smile", 0.3, 0.9, 0, 1) + within("smile", 0.5, 1.0, 5)
    eyes = np.clip(normal["gaze_x"] * 0.35 - normal["yaw"] * 0.25, -1, 1)
    return {
        "smile": smile, "squint": 0.5 * smile, "sneer": within("sneer", 0, 0.35, 3),
        "jaw": within("jaw", 0, 0.12, 0, 1) + within("jaw", 0.1, 0.5, 2) + within("jaw", 0.12, 0.32, 5),
        "brow_raise": np.clip(
            within("brow_raise", 0, 0.8, 2) - within("brow_raise", 0.1, 0.7, 3) + 0.15 * normal["brow_raise"], -1, 1
        ),
        "frown": within("frown", 0.15, 0.65, 3), "pucker": within("pucker", 0.15, 0.42, 4),
        "blink": np.where(flat["blink"] > 0.95, 1.0, flat["blink"] * 0.18), "smirk": 0.12 * normal["smirk"],
        "gaze_x": eyes, "gaze_y": np.clip(normal["gaze_y"] * 0.22, -1, 1),
    }  # fmt: skip


def _light(normal: dict, flat: dict) -> dict:
    return {
        "light_azimuth": normal["light_azimuth"] * 34, "light_elevation": 28 + normal["light_elevation"] * 14,
        "light_strength": 0.72 + 0.34 * flat["light_strength"], "light_warmth": normal["light_warmth"],
        "ambient": 0.30 + 0.30 * flat["ambient"], "rim": np.maximum(0, normal["rim"] * 0.5),
    }  # fmt: skip


def _hair(numbers: np.ndarray) -> dict:
    """One of the styles of hair_styles.py. numbers: (n, 2, A) as in sample_attributes()."""
    own = [i for name, i in _PLACE.items() if name.startswith(("hair_", "bald"))]
    chances = torch.special.ndtr(torch.from_numpy(numbers[:, :, own].reshape(len(numbers), -1)))[:, :14]
    return {name: column[:, 0].numpy() for name, column in hair_attributes(chances).items()}


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
