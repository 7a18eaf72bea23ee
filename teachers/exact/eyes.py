"""The colour of eyeballs, lashes, teeth and tongue at many points of many heads; shapes and rules as in paint.py."""

from __future__ import annotations

import torch
from torch import Tensor

from .curves import bump, dot, linear, ramp, rgb, rise, rises, smooth
from .noise import noise
from .paint import skin_tone

IRIS = linear([(86, 52, 32), (118, 74, 40), (140, 112, 62), (114, 120, 86), (106, 128, 146), (134, 156, 172)])
ENAMEL = linear([(238, 232, 220), (220, 206, 178)])
RADIUS = 0.415
"""Radius of the iris, in radii of the ball."""

Numbers = dict[str, Tensor]


def _frame(gaze: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors to the right and up of the gaze, (3, n, 1) each."""
    x, y, z = gaze
    side = torch.stack([z, 0 * z, -x]) / (x * x + z * z).sqrt()
    return side, torch.stack([y * side[2], z * side[0] - x * side[2], -y * side[0]])


def turned(local: Tensor, turn: Tensor) -> Tensor:
    """The vectors (3, ..., n, P) turned by the matrices (n, 3, 3), as plain sums: a matrix product is not exact."""
    t = turn.permute(1, 2, 0)[..., None]
    t = t.view(3, 3, *[1] * (local.ndim - 3), len(turn), 1)
    x, y, z = local
    return t[:, 0] * x + t[:, 1] * y + t[:, 2] * z


def _windows(reflected: Tensor, lights: Tensor, size: float, blur: tuple[float, float]) -> Tensor:
    """Square softboxes in two directions, lights (3, 2, 1, n, 1), of the edges `blur`, seen in the mirror direction
    (3, k, n, P): (2, k, n, P)."""
    reflected = reflected[:, None]
    side, up = _frame(lights)
    x, y = dot(reflected, side).abs_(), dot(reflected, up).abs_()
    edges = [(k, w + b, w - b) for k, (w, b) in enumerate((w, b) for w in (size, 1.15 * size) for b in blur)]
    box = rises((*x, *y), *edges).view(2, 2, *x.shape[1:])
    return box[0] * box[1] * (dot(reflected, lights) > 0)


def _iris(u: Tensor, v: Tensor, r: Tensor, z: Numbers, pupil: Tensor) -> Tensor:
    """Colour of iris and pupil: fibres, a dark ring outside, a warmer one inside, light that pools below."""
    fibre = noise(u * (0.5 / RADIUS) + 0.5, v * (0.5 / RADIUS) + 0.5, "iris")
    shade = 0.92 + 0.26 * fibre - 0.55 * v
    shade = shade * (1 - 0.80 * smooth(RADIUS - 0.12, RADIUS, r))
    own = ramp(IRIS, z["iris_light"] * 0.92 + 0.10 * (z["iris_hue"] - 0.5))[:, None]
    warm = rise(pupil + 0.13, pupil + 0.01, r) * (0.55 * z["iris_light"])
    colour = own * (1 + warm * (rgb(1.5, 0.85, 0.35, like=r) - 1))
    return colour * (shade.clamp_(min=0.1) * rise(pupil - 0.02, pupil + 0.022, r) + 0.012)


def eyes(local: Tensor, gaze: Tensor, turn: Tensor, side: Tensor, z: Numbers, a: Numbers, light: Numbers) -> Tensor:
    """Linear colour (3, k, n, P) of k eyeballs of each picture.

    local: unit directions (3, k, n, P) from their centres in the head's frame (y up, z to the front). gaze: unit
    directions (3, k, n, 1) in the same frame. turn: (n, 3, 3) from the head's frame to view space. side: (k, 1, 1), +1
    for the person's left eye (x > 0), -1 for the right. light: as in paint.skin.
    """
    light = {name: v[:, None] for name, v in light.items()}
    right, up = _frame(gaze)
    u, v, w = dot(local, right), dot(local, up), dot(local, gaze)
    r = (u * u + v * v).sqrt() + 2 * (w < 0)
    pupil = 0.150 + 0.03 * (0.45 - a["ambient"]) + 0.012 * (1 - z["iris_light"])
    inward = local[0] * -side
    veins = noise(local[0] * 1.1 + 0.3 * side, local[1] * 1.1, "medium")
    corner = smooth(0.40, 0.72, inward)
    pink = (
        corner * 0.9
        + rise(0.45, 0.95, r) * 0.18
        + 0.05 * veins * rise(0.4, 0.9, r)
        + 0.20 * smooth(-0.20, -0.31, local[1])
    )
    white = rgb(0.64, 0.605, 0.575, like=r) * (1 - 0.10 * z["age"] - 0.08 * z["tone"])
    white = white * (1 - pink.clamp_(0, 1) * rgb(0.18, 0.52, 0.48, like=r))
    inside = smooth(RADIUS + 0.022, RADIUS - 0.022, r)
    colour = white + (_iris(u, v, r, z, pupil) - white) * inside
    normal = turned(local, turn)
    lid = 0.33 - 0.5 * a["blink"].clamp(max=0.35) - 0.06 * a["squint"]
    shade = 1 - 0.60 * smooth(lid - 0.34, lid + 0.02, local[1]) - 0.30 * smooth(0.55, 0.95, local[0].abs())
    shade = shade - 0.12 * smooth(-0.15, -0.34, local[1])
    facing = ((dot(normal, light["key"]) + 0.35) * (1 / 1.35)).clamp_(0, 1)
    ambient = light["ground"] + (light["sky"] - light["ground"]) * (0.5 + 0.5 * normal[1])
    out = colour * (light["key_colour"] * 0.38 * facing + ambient * 0.70) * shade
    return out + _wet(normal, local, gaze, turn, r, shade, light, ambient)


def _wet(
    normal: Tensor, local: Tensor, gaze: Tensor, turn: Tensor, r: Tensor, shade: Tensor, light: Numbers, ambient: Tensor
) -> Tensor:
    """What the wet surface mirrors: a softbox in the cornea, a faint window beside it, sky."""
    bulge = 0.75 * (r < RADIUS + 0.03)
    ahead = turned(gaze, turn)
    cornea = normal + (normal - ahead) * bulge
    cornea = cornea / dot(cornea, cornea).sqrt()
    mirror = 2 * cornea[2] * cornea
    mirror = torch.stack([mirror[0], mirror[1], mirror[2] - 1])
    x, y, depth = light["key"]
    # The catch light stays on the cornea, above the pupil, wherever the light is: without one an eye looks dull.
    ahead = torch.stack([0.55 * x, 0.32 + 0.25 * y, 0.75 + 0 * y])
    lights = torch.stack([ahead, torch.stack([-x, 0.4 * y, depth + 0.35])], 1)
    box, fill = _windows(mirror, lights / dot(lights, lights).sqrt(), 0.16, (0.08, 0.14))
    box = box * 2.4 + fill * 0.11
    sky = (0.025 + 0.06 * rise(0.0, 0.6, mirror[1])) * shade
    lit = box * rise(0.36, 0.24, local[1])
    return light["key_colour"] * lit + ambient * sky


def lash_colour(z: Numbers) -> Tensor:
    """Colour (3, n, 1) of the lashes: dark brown, black with make-up; thin ones let the skin's shade through."""
    depth = (1 - 0.6 * z["makeup"]) * (1 - 0.6 * z["brow_dark"])
    hair = torch.stack([0.012 + 0.06 * depth, 0.010 + 0.04 * depth, 0.010 + 0.026 * depth])
    dense = (0.50 + 0.35 * z["lashes"] + 0.4 * z["makeup"]).clamp(0, 1)
    return hair + (skin_tone(z) * 0.22 - hair) * (1 - dense)


def _mouth_light(x: Tensor, z: Tensor, normal: Tensor, light: Numbers) -> Tensor:
    """Light (3, n, P) inside the mouth: it fades backwards and towards the corners."""
    deep = smooth(1.00, 1.42, z) * (1 - 0.85 * smooth(0.06, 0.25, x.abs())) + 0.05
    facing = (dot(normal, light["key"]) + 0.3).clamp_(0, 1.3)
    ambient = light["ground"] + (light["sky"] - light["ground"]) * (0.5 + 0.5 * normal[1])
    return (light["key_colour"] * 0.36 * facing + ambient * 0.72) * deep


def teeth(
    x: Tensor, y: Tensor, z: Tensor, normal: Tensor, traits: Numbers, a: Numbers, light: Numbers, detail: float
) -> Tensor:
    """Linear colour (3, n, P) at rest positions x, y, z (n, P), dm, and unit normals (3, n, P) in view space. detail as
    of paint.skin(): where a tooth is as small as two pixels, teeth are one band."""
    single = min(1.0, max(0.0, (detail - 0.3) * 2))
    upper = y > 6.555
    place = x.abs() * torch.where(upper, 1 / 0.066, 1 / 0.052)
    off = (place - place.round()).abs()  # 0 in a gap, 0.5 in the middle of a tooth
    gap = bump((off * 11).square_())
    round_ = (1 - 2 * off).square_()
    gum = torch.where(upper, rise(6.705, 6.73, y), rise(6.445, 6.42, y))
    enamel = ramp(ENAMEL, 0.2 + 0.6 * traits["age"])
    rgb_gum = rgb(0.42, 0.14, 0.13, like=x) * (1 - 0.45 * traits["tone"])
    colour = enamel + (rgb_gum - enamel) * gum
    lip = torch.where(upper, 0.46 + 0.44 * rise(6.715, 6.63, y), 0.34 + 0.20 * rise(6.44, 6.52, y))  # its shadow
    shade = (1 - (0.50 * single) * gap) * (1 - (0.22 * single) * round_) * lip
    lit = _mouth_light(x, z, normal, light) * shade
    h = dot(normal, light["half"]).clamp_(0, 1)
    h = h * h
    h = h * h
    h = h * h
    h = h * h
    return colour * lit + light["key_colour"] * (h * h * 0.10 * smooth(1.25, 1.42, z))


def tongue(x: Tensor, y: Tensor, z: Tensor, normal: Tensor, traits: Numbers, a: Numbers, light: Numbers) -> Tensor:
    """Linear colour (3, n, P) of the tongue, arguments as of teeth()."""
    bumps = noise(x * 2.2, z * 2.2, "medium")
    furrow = bump((x * (1 / 0.03)).square_())
    colour = rgb(0.30, 0.105, 0.10, like=x) * (0.9 + 0.07 * bumps - 0.18 * furrow)
    lit = _mouth_light(x, z, normal, light) * (0.30 + 0.70 * smooth(1.12, 1.45, z))
    h = dot(normal, light["half"]).clamp_(0, 1)
    h = h * h
    h = h * h
    h = h * h
    return colour * lit + light["key_colour"] * (h * h * 0.035 * (1 + 0.4 * bumps) * smooth(1.2, 1.4, z))
