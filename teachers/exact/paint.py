"""Colours of the head at points of the chart: skin, brows, eyes, lips, beard, hair. They are computed per pixel, so
that edges are sharp at any resolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .head import Places, bump, ridge, smooth
from .noise import noise


@dataclass
class Surface:
    """The unlit surface: linear colour (n, 3, H, W), gloss and highlights of the wet eye, (n, H, W) each."""

    colour: Tensor
    gloss: Tensor
    wet: Tensor


def mix(a: Tensor, b: Tensor, share: Tensor) -> Tensor:
    """Blend colours a and b, (n, 3, H, W) or (n, 3, 1, 1), by the share (n, H, W) of b."""
    return a + (b - a) * share[:, None]


def rgb(*channels) -> Tensor:
    """Three channels (n, 1, 1) to a colour (n, 3, 1, 1)."""
    return torch.stack(torch.broadcast_tensors(*channels), 1)


def ramp(x: Tensor, colours: list[tuple[float, float, float]]) -> Tensor:
    """x (n, 1, 1) in [0, 1] to colours (n, 3, 1, 1), linear between the given stops."""
    stops = torch.tensor(colours, device=x.device)
    place = x.clamp(0, 0.9999) * (len(colours) - 1)
    low = place.floor().long()
    t = (place - low)[..., None]
    return (stops[low] * (1 - t) + stops[low + 1] * t).permute(0, 3, 1, 2)


def unit(x: Tensor) -> Tensor:
    """Standard normal numbers to uniform ones in [0, 1]."""
    return 0.5 * (1 + torch.erf(x / 2**0.5))


SKIN = [
    (0.74, 0.51, 0.41),
    (0.70, 0.45, 0.33),
    (0.62, 0.37, 0.25),
    (0.48, 0.27, 0.165),
    (0.34, 0.18, 0.11),
    (0.17, 0.085, 0.055),
]
IRIS = [
    (0.10, 0.05, 0.025),
    (0.22, 0.11, 0.04),
    (0.26, 0.21, 0.07),
    (0.14, 0.24, 0.12),
    (0.12, 0.26, 0.32),
    (0.16, 0.32, 0.58),
]
HAIR = [
    (0.012, 0.010, 0.010),
    (0.045, 0.026, 0.016),
    (0.12, 0.065, 0.032),
    (0.30, 0.18, 0.075),
    (0.52, 0.38, 0.19),
    (0.50, 0.49, 0.47),
]


def skin_tone(z: dict[str, Tensor]) -> Tensor:
    base = ramp(unit(z["skin_tone"]), SKIN)
    warm, red = z["skin_undertone"] * 0.075, z["skin_redness"] * 0.075
    return base * torch.exp(rgb(red + 0 * warm, warm * 0.4 - red * 0.7, -warm - red * 0.5))


def hair_colour(a: dict[str, Tensor]) -> Tensor:
    warm = a["hair_warm"] * 0.16
    return ramp(a["hair_dark"] ** 1.6, HAIR) * torch.exp(rgb(warm, warm * 0.1, -warm))


def paint(p: Tensor, q: Tensor, z, a, f: Places, hair: Tensor, strands: Tensor, px: float) -> Surface:
    """The surface at chart points (n, H, W); px is the size of a pixel in the chart."""
    ap = p.abs()
    side = torch.where(p >= 0, 1.0, -1.0)
    fq = q + f.drop * smooth(f.mouth_y, f.mouth_y - 0.06, q)
    own = p * 0.42 + z["mole_side"] * 0.37 + 0.5, q * 0.42 + z["freckles"] * 0.29 + z["age"] * 0.23
    clouds, spots = noise(*own, "clouds", "spots")
    grain = noise(p * 1.1 + z["mole_side"], q * 1.1 + z["beard"], "grain")
    tone = skin_tone(z)
    fair = (1 - unit(z["skin_tone"])).clamp(0.15, 1)

    # Skin: mottled, redder on cheeks and nose, darker around the eyes, freckles, a mole, the shade of a beard.
    colour = tone * torch.exp((clouds * 0.05 + grain * 0.028)[:, None])
    flush = bump(ap, q, 0.31, -0.17, 0.15, 0.11) + 0.8 * bump(ap, q, 0, f.nose_tip, 0.09, 0.06)
    flush = flush * (0.10 + 0.06 * z["skin_redness"]).clamp(min=0) * fair
    colour = colour * torch.exp(torch.stack([flush * 0.4, -flush * 1.1, -flush * 0.9], 1))
    around = bump(ap, q, f.eye_x - 0.02, f.eye_y - 0.035, 0.10, 0.045)
    colour = colour * (1 - around * (0.10 + 0.14 * z["eye_bags"]).clamp(min=0))[:, None]
    speckled = smooth(0.35, 0.75, spots) * smooth(0.2, 1.6, z["freckles"] + 0.8) * bump(ap, q, 0.18, -0.10, 0.34, 0.19)
    colour = colour * (1 - speckled[:, None] * torch.tensor([0.48, 0.62, 0.66], device=p.device).view(1, 3, 1, 1))
    mole_x = 0.30 * torch.tanh(z["mole_side"] * 1.5)
    mole = smooth(0.028, 0.016, torch.hypot(p - mole_x, q + 0.23 - 0.1 * torch.sin(z["mole_side"] * 4)))
    colour = mix(colour, tone * 0.22, mole * 0.9)
    old = (z["age"] * 0.5 + 0.25).clamp(min=0)
    lines = torch.sin((q - 0.30 - 0.02 * torch.cos(ap * 5)) * 95) * bump(ap, q, 0, 0.31, 0.26, 0.07)
    crow = torch.sin((q - f.eye_y) * 130 + ap * 20) * bump(ap, q, f.eye_x + f.eye_w + 0.05, f.eye_y, 0.045, 0.05)
    fold = bump(ap, q, 0.075 + 0.13 * ((f.nose_tip - q) / 0.2).clamp(0, 1.2), f.nose_tip - 0.09, 0.011, 0.08)
    crease = (old + 0.25 * f.smile.clamp(min=0)) * fold * 0.30 + old * (
        lines.clamp(min=0) * 0.20 + crow.clamp(min=0) * 0.16
    )
    bag = bump(ap, q + 0.10 * (ap - f.eye_x) ** 2, f.eye_x - 0.01, f.eye_y - f.eye_h - 0.028, f.eye_w * 0.9, 0.008)
    crease = crease + bag * (0.12 + 0.13 * z["eye_bags"]).clamp(min=0)
    colour = colour * (1 - crease.clamp(0, 0.7))[:, None]

    hairy = ramp((0.34 - 0.14 * z["brow_darkness"]).clamp(0, 0.8), HAIR)  # the beard belongs to the identity
    jaw = smooth(-0.20, -0.36, fq - 0.25 * smooth(0.25, 0.62, ap)) * smooth(1.0, 0.75, ap)
    jaw = jaw * (1 - 0.9 * bump(ap, fq, 0, f.mouth_y, f.mouth_w * 0.95, 0.055))
    stubble = smooth(-0.1, 1.5, z["beard"]) * jaw * (0.82 + 0.07 * grain + 0.08 * clouds).clamp(0, 1)
    tash = bump(ap, q, 0.06, (f.nose_tip + f.mouth_y) / 2 - 0.015, 0.10, 0.034)
    stubble = stubble + smooth(0.1, 1.5, z["moustache"]) * tash * (0.9 + 0.15 * grain)
    colour = mix(colour, hairy * (1 + 0.12 * grain[:, None]), stubble.clamp(0, 0.92))
    nostril = bump(ap, q, f.nose_w * 0.50, f.nose_tip - 0.034, 0.021 * (1 + 0.38 * z["nostrils"]), 0.011)
    colour = colour * (1 - 0.78 * nostril)[:, None]
    gloss = 0.30 + 0.25 * bump(ap, q, 0, 0.0, 0.12, 0.5) - 0.3 * stubble.clamp(0, 1)

    # Lips: two curves that meet in a line. When the jaw drops, teeth and the dark mouth appear between them.
    along = (p / f.mouth_w).clamp(-1.3, 1.3)
    arch = (1 - along * along).clamp(min=0)
    curl = (0.018 * f.smile + 0.015 * z["mouth_corners"]) * along * along * 1.5
    middle = f.mouth_y + curl
    bow = 1 - (0.38 + 0.28 * z["cupid_bow"]).clamp(0, 0.95) * ridge(along, 0.16)
    top = middle + f.upper * 1.15 * arch.sqrt() * bow * (0.75 + 0.25 * arch)
    gap_low = middle - f.open * arch.sqrt()
    bottom = gap_low - f.lower * 1.15 * arch.sqrt()
    inside = smooth(1.02, 0.93, along.abs())
    lips = smooth(bottom - px, bottom + px, q) * smooth(top + px, top - px, q) * inside
    hue = torch.exp(rgb(0.10 + 0.04 * z["lip_hue"], -0.44 - 0.13 * z["lip_hue"], -0.32 - 0.02 * z["lip_hue"]))
    lip = tone.clamp(min=0.10) * hue * torch.exp(-0.10 - 0.20 * z["lip_dark"])[:, None]
    grooves = 1 + 0.06 * torch.sin(along * 60) * arch
    colour = mix(colour, lip * grooves[:, None], lips * 0.92)
    open_mask = smooth(gap_low - px, gap_low + px, q) * smooth(middle + px, middle - px, q) * inside
    open_mask = open_mask * smooth(0.004, 0.012, f.open)
    tooth = (
        smooth(-0.030, -0.020, q - middle) * (1 - 0.35 * (torch.cos(p * 150) > 0.93)) * smooth(0.95, 0.5, along.abs())
    )
    mouth = mix(
        rgb(*[x + 0 * f.open for x in (0.06, 0.012, 0.012)]), rgb(*[x + 0 * f.open for x in (0.80, 0.74, 0.64)]), tooth
    )
    colour = mix(colour, mouth.expand_as(colour), open_mask)
    line = ridge(q - middle, 0.0065 + 0.6 * px) * inside * (1 - smooth(0.004, 0.02, f.open))
    colour = colour * (1 - 0.62 * line)[:, None]
    gloss = gloss + 0.55 * lips * (1 - open_mask)

    # Brows: a tapering arc of strands.
    ex, ey = f.eye_x, f.eye_y
    t = (ap - ex + 0.105) / (0.20 * (1 + 0.20 * z["brow_length"]))
    arc = ey + 0.095 + 0.018 * z["brow_height"] + 0.018 * a["brow_raise"]
    arc = arc + (0.030 + 0.015 * z["brow_arch"]) * (1 - (2 * t - 1.25) ** 2) + 0.034 * z["brow_tilt"] * (t - 0.5)
    half = 0.0155 * (1 + 0.40 * z["brow_thickness"]) * (1.15 - 0.75 * t.clamp(0, 1) ** 2)
    hairs = noise(p * 2.2 + q * side * 1.1, q * 0.9, "strands")
    brow = (
        smooth(half * 1.5, half * 0.45, (q - arc + 0.004 * hairs).abs())
        * smooth(-0.06, 0.08, t)
        * smooth(1.06, 0.82, t)
    )
    dark = ramp((0.34 - 0.17 * z["brow_darkness"]).clamp(0, 0.8), HAIR)
    colour = mix(colour, dark, (brow * (0.80 + 0.16 * hairs)).clamp(0, 0.95))

    # Eyes: an almond between the lids; eyeball, iris, pupil, lashes, the lid's crease.
    u = (ap - ex) / f.eye_w
    v = q - ey - (0.016 * z["eye_tilt"] + 0.008) * u
    dome = (1 - u * u).clamp(min=0)
    lift = (1 - a["blink"]) * f.eye_h
    upper = lift * dome**0.62 * (1 - 0.10 * u) * 1.08 - 0.010 * a["blink"] * dome
    lowl = -0.62 * f.eye_h * dome**0.75 * (1 - 0.6 * a["blink"]) * (1 + 0.15 * u)
    opened = smooth(lowl - px, lowl + px, v) * smooth(upper + px, upper - px, v) * (u.abs() < 1)
    iris_r = 0.0395
    gx, gy = ap - ex - side * a["gaze_x"] * 0.020, v - 0.004 - a["gaze_y"] * 0.009
    rho = torch.hypot(gx, gy) / iris_r
    angle = torch.atan2(gy, gx + 1e-6)
    fibres = 0.22 * torch.sin(angle * 17 + 3 * torch.sin(angle * 5)) * smooth(0.4, 0.7, rho)
    iris = ramp(unit(z["iris_hue"]), IRIS) * torch.exp(0.50 * z["iris_light"])[:, None]
    ringed = (
        iris * (1.25 + fibres + 0.5 * smooth(0.75, 0.45, rho))[:, None] * (1 - 0.75 * smooth(0.78, 1.0, rho))[:, None]
    )
    shade = (1 - 0.55 * smooth(0.030, 0.0, upper - v)) * (1 - 0.35 * smooth(0.6, 1.0, u.abs()))
    white = rgb(*[x + 0 * ex for x in (0.74, 0.71, 0.68)])
    ball = mix(white.expand_as(colour), ringed, smooth(1.0 + px / iris_r, 1.0 - px / iris_r, rho))
    ball = mix(ball, ball * 0 + 0.004, smooth(0.44 + px / iris_r, 0.44 - px / iris_r, rho))
    corner = smooth(0.80, 1.0, -u * 1.0) * 0.6
    ball = mix(ball, tone * rgb(*[x + 0 * ex for x in (1.1, 0.62, 0.58)]), corner)
    colour = mix(colour, ball * shade[:, None], opened)
    lash = ridge(v - upper - 0.003, 0.0075 + 0.5 * px) * smooth(1.10, 0.9, u.abs())
    colour = colour * (1 - 0.86 * lash)[:, None]
    lowlash = ridge(v - lowl + 0.002, 0.005 + 0.5 * px) * smooth(1.0, 0.8, u.abs())
    colour = colour * (1 - 0.34 * lowlash)[:, None]
    fold_y = upper + 0.017 + 0.012 * z["lid_crease"] + 0.010 * a["blink"]
    lid = ridge(v - fold_y, 0.0055 + 0.5 * px) * smooth(1.15, 0.75, u.abs())
    colour = colour * (1 - lid * (0.34 + 0.26 * z["lid_crease"]).clamp(0, 0.85))[:, None]

    # Hair: strands from the parting, some in another shade.
    locks = hair_colour(a) * torch.exp(0.42 * strands + 0.12 * clouds)[:, None]
    colour = mix(colour, locks, hair)
    gloss = gloss * (1 - hair) + hair * (0.55 + 0.35 * strands).clamp(min=0)
    catch = bump(gx, gy, 0.012, 0.013, 0.0085 + 0.5 * px, 0.0085 + 0.5 * px) * opened
    catch = catch * (1 - hair)
    return Surface(colour, gloss * (1 - 0.6 * opened), catch)
