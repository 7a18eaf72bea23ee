"""What the identity numbers mean: the traits of a person, and the coefficients of the head's shapes.

All of it is computed in double precision on a few numbers per person, then rounded: a person's traits are the same
whatever the batch.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from .face import ASYMMETRIES, IDENTITY, OUTLINES, SLIDERS

# Means of sliders that differ between women (gender 0) and men (gender 1): added times (1 - gender).
FEMALE = {
    "eye_scale_incr": 0.30, "mouth_upperlip_height_incr": 0.16, "mouth_lowerlip_height_incr": 0.12,
    "chin_width_incr": -0.18, "nose_scale_horiz_incr": -0.14, "eyebrows_trans_up": 0.18, "eyebrows_trans_forward": -0.12,
    "chin_bones_incr": -0.12, "cheek_bones_incr": 0.10,
}  # fmt: skip
MALE = {"eyebrows_trans_forward": 0.10, "chin_prominent_incr": 0.08, "nose_scale_vert_incr": 0.06}


def normal_cdf(x: Tensor) -> Tensor:
    return torch.special.ndtr(x)


def smoothstep(low: float, high: float, x: Tensor) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def traits(identity: Tensor) -> dict[str, Tensor]:
    """Identity numbers (n, K) to traits: name -> (n, 1) float64 in plain units. Every number of IDENTITY has its trait.

    gender 0 female, 1 male; age 0 young adult, 1 old; african + asian + caucasian = 1; sliders in [-1, 1].
    """
    z = {name: identity[:, i : i + 1].double() for i, name in enumerate(IDENTITY)}
    t: dict[str, Tensor] = {}
    t["gender"] = gender = 0.06 + 0.88 * smoothstep(-0.35, 0.35, z["gender"])
    t["age"] = age = normal_cdf(z["age"]) ** 1.15
    origin = torch.cat([1.8 * z[name] for name in ("african", "asian", "caucasian")], 1).softmax(1)
    t["african"], t["asian"], t["caucasian"] = origin.split(1, 1)
    t["weight"] = (0.5 + 0.20 * z["weight"]).clamp(0, 1)
    t["muscle"] = (0.45 + 0.12 * gender + 0.18 * z["muscle"]).clamp(0, 1)
    shares = torch.cat([normal_cdf(z[name]) ** 3 for name in OUTLINES], 1)
    shares = 0.5 * shares / shares.sum(1, keepdim=True).clamp(min=1)
    t |= dict(zip(OUTLINES, shares.split(1, 1), strict=True))
    t |= {name: 0.12 * z[name].clamp(-2, 2) for name in ASYMMETRIES}
    for name, deviation in SLIDERS.items():
        mean = FEMALE.get(name, 0.0) * (1 - gender) + MALE.get(name, 0.0) * gender
        t[name] = (0.9 * deviation * z[name] + mean).clamp(-1, 1)
    return t | _paint(z, t)


def _paint(z: dict[str, Tensor], t: dict[str, Tensor]) -> dict[str, Tensor]:
    gender, age = t["gender"], t["age"]
    woman = 1 - gender
    flat = {name: normal_cdf(value) for name, value in z.items()}
    tone = (0.86 * t["african"] + 0.38 * t["asian"] + 0.20 * t["caucasian"] + 0.10 * z["tone"]).clamp(0.06, 1)
    man = smoothstep(0.5, 0.9, gender)
    beard = flat["beard"] ** 1.8 * man
    return {
        **{name: z[name].clamp(-2, 2) for name in
           ("undertone", "redness", "lip_hue", "brow_arch", "brow_length", "brow_warm", "brow_height", "texture")},
        "tone": tone,
        "iris_hue": flat["iris_hue"],
        "iris_light": (flat["iris_light"] ** 1.5 * (1 - tone) * 1.3 - 0.1).clamp(0, 1),
        "lip_dark": flat["lip_dark"],
        "freckles": ((z["freckles"] - 0.7) * 0.5).clamp(0, 1) * (1 - smoothstep(0.35, 0.5, tone)),
        "mole": smoothstep(0.35, 0.40, z["mole"]),
        "mole_x": 0.6 * (2 * flat["mole_x"] - 1),
        "mole_y": 6.35 + 0.70 * flat["mole_y"],
        "beard": beard,
        "moustache": (beard + 0.25 * z["moustache"]).clamp(0, 1) * man,
        "stubble": flat["stubble"] * man,
        "brow_thickness": (0.4 * z["brow_thickness"] + 1.1 * gender - 0.75).clamp(-1.5, 1.5),
        "brow_dark": (0.62 + 0.35 * tone + 0.18 * z["brow_dark"]).clamp(0.2, 1),
        "eye_bags": 0.65 * flat["eye_bags"] + 0.35 * age,
        "wrinkles": (age**1.3 + 0.12 * z["wrinkles"]).clamp(0, 1),
        "makeup": flat["makeup"] * woman,
        "lashes": (0.3 + 0.5 * woman + 0.12 * z["lashes"]).clamp(0, 1),
    }  # fmt: skip


def shape_weights(t: dict[str, Tensor]) -> dict[str, Tensor]:
    """Traits to weights of the head's shapes: name in the data file -> (n, 1) float64. Weights of zero are left out."""
    gender = {"female": 1 - t["gender"], "male": t["gender"]}
    age = {"young": 1 - t["age"], "old": t["age"]}
    weight, muscle = _thirds(t["weight"]), _thirds(t["muscle"])
    weights = {}
    for (g, gw), (a, aw) in itertools.product(gender.items(), age.items()):
        for (m, mw), (w, ww) in itertools.product(muscle.items(), weight.items()):
            weights[f"macro:{g}-{a}-{m}-{w}"] = gw * aw * mw * ww
        weights |= {f"race:{r}-{g}-{a}": gw * aw * t[r] for r in ("african", "asian", "caucasian")}
    for name in SLIDERS:
        weights[f"loc:{name}:+"], weights[f"loc:{name}:-"] = t[name].clamp(min=0), (-t[name]).clamp(min=0)
    weights |= {f"uns:{name}": t[name] for name in OUTLINES}
    for name in ASYMMETRIES:
        weights[f"uns:{name}:l"], weights[f"uns:{name}:r"] = t[name].clamp(min=0), (-t[name]).clamp(min=0)
    return weights


def _thirds(x: Tensor) -> dict[str, Tensor]:
    return {"min": (1 - 2 * x).clamp(min=0), "average": 1 - (2 * x - 1).abs(), "max": (2 * x - 1).clamp(min=0)}


def action_weights(a: dict[str, Tensor]) -> dict[str, Tensor]:
    """Attributes (n, 1) float64 to weights of the facial actions, by their name in the data file."""
    nil = 0.0
    smile, jaw, raised = a["smile"], a["jaw"], a["brow_raise"]
    blink = (a["blink"] + 0.25 * (-a["gaze_y"]).clamp(min=nil)).clamp(max=1)
    laughing = 0.5 * (smile - 0.4).clamp(min=nil) * smoothstep(0.02, 0.10, jaw)
    both = {
        "cheekSquint": 0.5 * smile, "mouthUpperUp": laughing, "eyeSquint": a["squint"], "mouthFrown": a["frown"],
        "noseSneer": a["sneer"], "browOuterUp": 0.7 * raised.clamp(min=nil), "browDown": (-raised).clamp(min=nil),
        "eyeBlink": blink, "eyeWide": 0.3 * a["gaze_y"].clamp(min=nil) + 0.2 * raised.clamp(min=nil),
    }  # fmt: skip
    one = {
        "mouthSmileLeft": (smile + a["smirk"]).clamp(min=nil), "mouthSmileRight": (smile - a["smirk"]).clamp(min=nil),
        "jawOpen": jaw, "mouthPucker": a["pucker"], "browInnerUp": 0.7 * raised.clamp(min=nil),
    }  # fmt: skip
    sided = {f"{name}{side}": value for name, value in both.items() for side in ("Left", "Right")}
    return {f"act:{name}": value for name, value in (one | sided).items()}
