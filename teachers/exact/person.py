"""What the numbers mean: the traits of a person, and the weights of the head's shapes.

All of it is computed in double precision on a few numbers per picture, and then rounded, so it does not depend on the
batch.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .face import ASYMMETRIES, BUILD, IDENTITY, OUTLINES, PAINT, SLIDERS

# Means of sliders: those that differ between women and men, without which the two look too much alike, and those that
# keep young faces from looking like children.
FEMALE = {
    "eye_scale_incr": 0.20, "mouth_upperlip_height_incr": 0.20, "mouth_lowerlip_height_incr": 0.18,
    "mouth_upperlip_volume_incr": 0.12, "mouth_lowerlip_volume_incr": 0.12, "chin_width_incr": -0.24,
    "chin_bones_incr": -0.18, "chin_height_incr": -0.08, "nose_scale_horiz_incr": -0.18, "nose_scale_vert_incr": -0.08,
    "nose_hump_incr": -0.10, "nose_width2_incr": -0.10, "eyebrows_trans_up": 0.20, "eyebrows_trans_forward": -0.16,
    "eyebrows_angle_up": 0.08, "cheek_bones_incr": 0.12, "head_scale_horiz_incr": -0.06, "neck_scale_horiz_incr": -0.10,
    "forehead_nubian_incr": 0.03,
}  # fmt: skip
MALE = {
    "eyebrows_trans_forward": 0.12, "chin_prominent_incr": 0.10, "nose_scale_vert_incr": 0.06, "chin_bones_incr": 0.08,
    "eyebrows_trans_up": -0.06,
}  # fmt: skip
ADULT = {
    "head_age_incr": 0.22, "chin_height_incr": 0.16, "chin_prominent_incr": 0.08, "nose_scale_vert_incr": 0.12,
    "eye_scale_incr": -0.08, "cheek_volume_incr": -0.12, "head_fat_incr": -0.10, "forehead_scale_vert_incr": -0.12,
}  # fmt: skip
CALM = 0.85  # times the sliders' deviations: all sliders far out at once make a caricature
ENDS = {"gender": ("female", "male"), "age": ("young", "old"), "third": ("min", "average", "max")}
ORIGINS = ("african", "asian", "caucasian")
SHAPES = (
    *(
        f"macro:{'-'.join(kind)}"
        for kind in itertools.product(ENDS["gender"], ENDS["age"], ENDS["third"], ENDS["third"])
    ),
    *(f"race:{origin}-{g}-{a}" for g, a, origin in itertools.product(ENDS["gender"], ENDS["age"], ORIGINS)),
    *(f"loc:{name}:{end}" for end in "+-" for name in SLIDERS),
    *(f"uns:{name}" for name in OUTLINES),
    *(f"uns:{name}:{side}" for side in "lr" for name in ASYMMETRIES),
)
"""The shapes that identity drives. A slider has one for each direction, an asymmetry one for each side."""
ACTIONS = (
    "mouthSmileLeft", "mouthSmileRight", "jawOpen", "mouthPucker", "browInnerUp", "cheekSquintLeft", "cheekSquintRight",
    "mouthUpperUpLeft", "mouthUpperUpRight", "eyeSquintLeft", "eyeSquintRight", "mouthFrownLeft", "mouthFrownRight",
    "noseSneerLeft", "noseSneerRight", "browOuterUpLeft", "browOuterUpRight", "browDownLeft", "browDownRight",
    "eyeBlinkLeft", "eyeBlinkRight", "eyeWideLeft", "eyeWideRight",
)  # fmt: skip
"""The facial actions that the expression drives."""
_PLACE = {name: i for i, name in enumerate(IDENTITY)}


@dataclass
class Person:
    """Traits of n persons. traits: names of BUILD and PAINT -> (n, 1) float64 in plain units: gender 0 female, 1 male;
    age 0 young adult, 1 old; african + asian + caucasian = 1.
    outlines, asymmetries and sliders: (n, K) of OUTLINES, ASYMMETRIES and SLIDERS, in [-1, 1]."""

    traits: dict[str, Tensor]
    outlines: Tensor
    asymmetries: Tensor
    sliders: Tensor


def smoothstep(low: float, high: float, x: Tensor) -> Tensor:
    """0 below low, 1 above high, with level ends."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * torch.rsub(t, 3, alpha=2)


def _steps(*steps: tuple[float, float, Tensor]) -> Tensor:
    """smoothstep() of several (low, high, x (n, 1)) at once: (K, n, 1)."""
    low, high, x = zip(*steps, strict=True)
    x = torch.stack(x)
    wide = tuple(b - a for a, b in zip(low, high, strict=True))
    t = ((x - _double(low, x.device)) / _double(wide, x.device)).clamp(0, 1)
    return t * t * torch.rsub(t, 3, alpha=2)


@lru_cache
def _double(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device=device)[:, None, None]


def _columns(identity: Tensor, names) -> Tensor:
    """Neighbouring columns of identity (n, K), as double precision."""
    names = tuple(names)
    return identity[:, _PLACE[names[0]] : _PLACE[names[-1]] + 1].double()


def person(identity: Tensor) -> Person:
    """The traits of identity (n, K)."""
    z = dict(zip(BUILD, _columns(identity, BUILD).split(1, 1), strict=True))
    gender = 0.06 + 0.88 * smoothstep(-0.35, 0.35, z["gender"])
    age = 0.15 + 0.85 * torch.special.ndtr(z["age"]) ** 1.1
    origin = (1.8 * torch.cat([z[name] for name in ORIGINS], 1)).softmax(1)
    traits = {
        "gender": gender, "age": age, **dict(zip(ORIGINS, origin.split(1, 1), strict=True)),
        "weight": (0.5 + 0.20 * z["weight"]).clamp(0, 1),
        "muscle": (0.45 + 0.12 * gender + 0.18 * z["muscle"]).clamp(0, 1),
    }  # fmt: skip
    shares = torch.special.ndtr(_columns(identity, OUTLINES)) ** 3
    deviation, female, male, adult = (
        _double(tuple(values.get(name, 0.0) for name in SLIDERS), identity.device)[:, 0, 0]
        for values in (SLIDERS, FEMALE, MALE, ADULT)
    )
    sliders = _columns(identity, SLIDERS) * (CALM * deviation) + female * (1 - gender) + male * gender + adult
    return Person(
        traits | _paint(_columns(identity, PAINT), traits),
        0.5 * shares / shares.sum(1, keepdim=True).clamp(min=1),
        0.12 * _columns(identity, ASYMMETRIES).clamp(-2, 2),
        sliders.clamp(-1, 1),
    )


def _paint(numbers: Tensor, t: dict[str, Tensor]) -> dict[str, Tensor]:
    """The traits of PAINT. Beards, brows, lips and make-up differ between women and men, wrinkles come with age, and
    the skin's tone with the origin."""
    z = dict(zip(PAINT, numbers.clamp(-2, 2).split(1, 1), strict=True))
    flat = dict(zip(PAINT, torch.special.ndtr(numbers).split(1, 1), strict=True))
    gender, age = t["gender"], t["age"]
    woman = 1 - gender
    tone = (0.86 * t["african"] + 0.38 * t["asian"] + 0.22 * t["caucasian"] + 0.10 * z["tone"]).clamp(0.05, 1)
    man, feminine, bearded, alone, shaven, pale, mole = _steps(
        (0.5, 0.9, gender), (0.5, 0.9, woman), (0.60, 0.64, flat["beard"]), (0.80, 0.84, flat["moustache"]),
        (0.9, 0.92, flat["moustache"]), (0.35, 0.45, tone), (0.35, 0.40, z["mole"]),
    )  # fmt: skip
    beard = bearded * (0.45 + 0.55 * (flat["beard"] - 0.6) / 0.4).clamp(0, 1) * man
    alone = alone * 0.8 * man
    plain = ("undertone", "redness", "lip_hue", "brow_warm")
    return {
        **{name: z[name] for name in plain}, "tone": tone,
        "redness": z["redness"] + 0.3 * (gender + age) * (1 - tone), "texture": 0.7 * z["texture"],
        "iris_hue": flat["iris_hue"], "iris_light": (1.3 * flat["iris_light"] ** 1.5 * (1 - tone) - 0.1).clamp(0, 1),
        "lip_dark": flat["lip_dark"],
        "freckles": (0.5 * z["freckles"] - 0.25).clamp(0, 1) * (1 - pale),
        "mole": mole, "mole_x": 0.6 * (2 * flat["mole_x"] - 1),
        "mole_y": 6.35 + 0.70 * flat["mole_y"],
        "beard": beard * (1 - shaven), "moustache": torch.maximum(beard, alone),
        "stubble": (man * (0.42 + 0.28 * z["stubble"])).clamp(0, 1),
        "brow_thickness": (-0.45 + gender + 0.4 * z["brow_thickness"]).clamp(-1.5, 1.5),
        "brow_arch": 0.5 * woman - 0.3 * gender + 0.6 * z["brow_arch"], "brow_length": z["brow_length"],
        "brow_height": z["brow_height"] + 0.4 * woman,
        "brow_dark": (0.55 + 0.4 * tone + 0.16 * z["brow_dark"]).clamp(0.1, 1),
        "eye_bags": (0.24 + 0.5 * age + 0.16 * z["eye_bags"]).clamp(0, 1),
        "wrinkles": (1.05 * (age - 0.06) + 0.1 * z["wrinkles"]).clamp(0, 1),
        "makeup": (feminine * (0.35 + 0.3 * z["makeup"])).clamp(0, 1),
        "lashes": (0.25 + 0.45 * woman + 0.15 * z["lashes"]).clamp(0, 1),
    }  # fmt: skip


def shape_weights(p: Person) -> Tensor:
    """Weights (n, K) float64 of SHAPES."""
    gender, age = (torch.cat([1 - p.traits[name], p.traits[name]], 1) for name in ("gender", "age"))
    kind = _outer(gender, age)
    origin = torch.cat([p.traits[name] for name in ORIGINS], 1)
    return torch.cat([
        _outer(_outer(kind, _thirds(p.traits["muscle"])), _thirds(p.traits["weight"])), _outer(kind, origin),
        p.sliders.clamp(min=0), (-p.sliders).clamp(min=0), p.outlines,
        p.asymmetries.clamp(min=0), (-p.asymmetries).clamp(min=0),
    ], 1)  # fmt: skip


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """All products of a (n, k) and b (n, m), (n, k * m)."""
    return (a[:, :, None] * b[:, None]).flatten(1)


def _thirds(x: Tensor) -> Tensor:
    return torch.cat([(1 - 2 * x).clamp(min=0), 1 - (2 * x - 1).abs(), (2 * x - 1).clamp(min=0)], 1)


def action_weights(a: dict[str, Tensor]) -> Tensor:
    """Weights (n, K) float64 of ACTIONS, from attributes (n, 1) float64."""
    smile, jaw, raised = a["smile"], a["jaw"], a["brow_raise"]
    up, down = raised.clamp(min=0), (-raised).clamp(min=0)
    laughing = 0.5 * (smile - 0.4).clamp(min=0) * smoothstep(0.02, 0.10, jaw)
    blink = (a["blink"] + 0.25 * (-a["gaze_y"]).clamp(min=0)).clamp(max=1)
    wide = 0.3 * a["gaze_y"].clamp(min=0) + 0.2 * up
    sides = [0.5 * smile, laughing, a["squint"], a["frown"], a["sneer"], 0.7 * up, down, blink, wide]
    one = [(smile + a["smirk"]).clamp(min=0), (smile - a["smirk"]).clamp(min=0), jaw, a["pucker"], 0.7 * up]
    return torch.cat(one + [v for value in sides for v in (value, value)], 1)
