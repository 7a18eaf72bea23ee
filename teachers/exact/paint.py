"""The colour of bare skin at many points of many heads: tone, blood, marks, lips, brows, beard, age lines, light.

Points are rows (n, P) of n pictures, colours (3, n, P), numbers of a picture (n, 1) and its colours (3, n, 1). All of
it is exact arithmetic (see curves.py), so a point has the same colour in any batch. Regions that do not depend on the
person come from the vertices (masks.py). Lengths are decimetres on the rest mesh.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .curves import bump, hue, linear, mix, ramp, rgb, rise, smooth
from .masks import MASKS
from .noise import noise

SKIN = linear([(233, 199, 181), (221, 181, 159), (200, 156, 130), (168, 122, 95), (126, 86, 66), (84, 58, 48)])
HAIR = linear([(206, 176, 130), (164, 126, 84), (120, 80, 48), (78, 51, 34), (46, 33, 26), (26, 23, 22)])

Numbers = dict[str, Tensor]


@dataclass
class Skin:
    """What skin() reads of the surface, (n, P) each.

    x, y, z: rest position, dm. nx, ny, nz: unit normal in view space. visible: share of the key light that arrives,
    0..1. occlusion: open share of the sky, 0..1. angle: atan2(x, z + .15) of the rest position. scalp: > 0 inside the
    hair, dm. masks: (len(MASKS), n, P), see masks.py.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    nx: Tensor
    ny: Tensor
    nz: Tensor
    visible: Tensor
    occlusion: Tensor
    angle: Tensor
    scalp: Tensor
    masks: Tensor


def skin_tone(z: Numbers) -> Tensor:
    """Colour (3, n, 1) of the skin without marks: tone 0 light .. 1 dark, undertone > 0 warmer."""
    warm = z["undertone"]
    tone = ramp(SKIN, z["tone"])
    return tone * torch.stack([1 + 0.015 * warm, 1 + 0.005 * warm, 1 - 0.05 * warm])


def _pigment(dark: Tensor, warm: Tensor, grey: Tensor) -> Tensor:
    """Colour (3, n, 1) of hair on the face: dark 0 blond .. 1 black, warm > 0 reddish, grey 0..1."""
    colour = ramp(HAIR, dark) * torch.stack([1 + 0.16 * warm, 1 + 0 * warm, 1 - 0.13 * warm])
    silver = 0.20 + 0.30 * (1 - dark)
    return colour + (torch.stack([silver, silver * 0.98, silver * 0.95]) - colour) * (grey * 0.8)


def brow_tone(z: Numbers, a: Numbers) -> Tensor:
    """Colour (3, n, 1) of brows and beard: half the person's own, half the hair's, so that they never clash."""
    dark = 0.5 * (0.25 + 0.72 * z["brow_dark"]) + 0.5 * a["hair_dark"].clamp(min=0.15)
    return _pigment(
        dark.clamp(0, 1),
        0.5 * (z["brow_warm"] + a["hair_warm"]),
        a["hair_grey"] * 0.6 + 0.5 * (z["age"] - 0.5).clamp(min=0),
    )


def _lines(p: Skin, m: dict[str, Tensor], z: Numbers, a: Numbers) -> tuple[Tensor, Tensor, Tensor]:
    """Depth 0..1 of creases and folds, and the tilt (right, up) of the normal that they cause."""
    own = z["lip_hue"] * 0.61 + z["brow_arch"] * 0.37 + z["mole_x"]
    deep, slope = noise(m["crease_u"] + own, m["crease_v"] + own * 1.7, "crease", "slope")
    age = z["wrinkles"]
    effort = (a["brow_raise"].abs() + a["smile"] * 0.4 + a["squint"] * 0.4).clamp(0, 1)
    depth = m["crease"] * (age * (0.8 + 0.5 * effort) + 0.07 * effort)
    line = deep * depth
    f = m["fold"] * (1 / 0.032)
    groove = bump(f * f)
    strength = 0.10 + 0.55 * age + 0.22 * a["smile"] * (0.4 + age)
    tilt = slope * depth
    push = groove * f * strength
    side = torch.where(p.x > 0, push, -push)
    return line + 0.40 * groove * strength, side * -0.22, tilt * 0.14 - push * 0.17


def _marks(p: Skin, m: dict[str, Tensor], z: Numbers, grain: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """How much blood and how much brown pigment stand out over the plain tone, (n, P) each."""
    pore, spots, medium, wide, blots = grain
    tone, age = z["tone"], z["age"]
    pale = (1 - tone).clamp(min=0.15)
    blood = m["blush"] * ((0.62 + 0.30 * z["redness"]).clamp(min=0.1) * (0.3 + 0.7 * pale))
    blood = blood * (1 + 0.25 * medium) + wide * (0.07 * pale) + m["rim"] * 0.45
    tired = 0.22 + 0.45 * z["eye_bags"]
    brown = m["socket"] * (tired * (0.35 + 0.5 * tone)) + m["bag"] * (0.10 + 0.45 * z["eye_bags"])
    brown = brown + medium * (0.025 + 0.02 * z["texture"] + 0.05 * age) - wide * 0.035 - pore * 0.024
    cheeks = bump(((p.x.abs() - 0.22) * 3.0).square_() + ((p.y - 7.02) * 4.0).square_())
    brown = brown + cheeks * spots * (z["freckles"] * 1.1)
    late = (age - 0.45).clamp(min=0) * 0.7 * (0.3 + pale)
    brown = brown + blots * rise(-0.2, 1.2, medium + wide) * late
    dx, dy = p.x - z["mole_x"], p.y - z["mole_y"]
    near = bump((dx * dx + dy * dy) * (1 / 0.011**2))
    return blood, brown + near * (z["mole"] * 0.75) * (p.z > 0.95)


def _lip_tone(z: Numbers, tone: Tensor) -> Tensor:
    """Colour (3, n, 1) of the lips: the skin's own tone with more blood; lipstick where the make-up is strong."""
    h, dark = z["lip_hue"], z["lip_dark"]
    deep = z["tone"]
    own = tone * torch.stack(
        [
            0.96 - 0.14 * dark - 0.12 * deep,
            0.55 + 0.04 * h + 0.10 * deep - 0.08 * dark,
            0.58 + 0.05 * h + 0.08 * deep - 0.10 * dark,
        ]
    )
    pinker = torch.stack([0.34 + 0 * h, 0.13 + 0.01 * h, 0.115 + 0.01 * h])
    own = own + (pinker - own) * (0.30 - 0.12 * deep)
    stick = hue(0.978 + 0.013 * h + 0 * dark, 0.62 + 0.12 * dark, 0.72 - 0.20 * dark - 0.14 * deep)
    worn = ((z["makeup"] - 0.35) * 1.3).clamp(0, 0.75)
    return own + (stick - own) * worn


def _lips(
    colour: Tensor, p: Skin, m: dict[str, Tensor], z: Numbers, tone: Tensor, strand: Tensor
) -> tuple[Tensor, Tensor]:
    """The colour with lips and cavity of the mouth, and the share of the lips (n, P)."""
    edge = m["lip"] + 0.0022 * strand - 0.010 * z["age"]
    lip = smooth(-0.012, 0.020, edge)
    seam = (p.y - 6.612) + 0.32 * (p.x * p.x)
    upper = rise(-0.02, 0.03, seam)
    closed = bump(seam * seam * (1 / 0.011**2))
    shade = 1 - 0.10 * upper - 0.45 * closed + 0.032 * strand - 0.18 * rise(0.016, 0.0, edge)
    inner = m["mouth"]
    share = torch.maximum(lip * (0.80 + 0.1 * z["makeup"]), inner)
    shade = shade * (1 - 0.62 * inner)
    return mix(colour, _lip_tone(z, tone) * shade, share), lip


def brow(x: Tensor, y: Tensor, ahead: Tensor, z: Numbers) -> Tensor:
    """Cover 0..1 of the eyebrows without the noise of single hairs, at rest positions x, y, ahead (n, P)."""
    across, along = _brow_place(x, y, z)
    return _brow(ahead, z, torch.zeros_like(x), across, along, torch.zeros_like(x))


def _brow(ahead: Tensor, z: Numbers, strand: Tensor, across: Tensor, along: Tensor, pore: Tensor) -> Tensor:
    """Cover 0..1 of the eyebrow; across: place over the brow's middle, dm; along: 0 inner .. 1 outer end."""
    width = (
        (0.031 + 0.009 * z["brow_thickness"])
        * (1 - 0.60 * rise(0.35, 1.05, along))
        * (0.72 + 0.28 * rise(-0.08, 0.18, along))
    )
    far = (across / width).abs() + 0.22 * strand + 0.08 * pore
    body = rise(1.35, 0.35, far) * rise(-0.10, 0.16, along + 0.04 * strand) * rise(1.08, 0.80, along + 0.03 * strand)
    thick = 0.76 + 0.12 * z["brow_thickness"]
    return (body * (thick + 0.18 * strand)).clamp_(0, 0.95) * (ahead > 0.95)


def _brow_place(x: Tensor, y: Tensor, z: Numbers) -> tuple[Tensor, Tensor]:
    along = (x.abs() - 0.125) / (0.44 + 0.025 * z["brow_length"])
    rest = (along - 0.62) * 1.25
    top = (0.040 + 0.013 * z["brow_arch"]) * (1 - rest * rest) - 0.030 * rise(0.7, 1.2, along)
    return y - (7.425 + 0.011 * z["brow_height"]) - top, along


def _beard(m: dict[str, Tensor], z: Numbers, strand: Tensor, pore: Tensor, medium: Tensor) -> tuple[Tensor, Tensor]:
    """Cover 0..1 by hair, and the shadow 0..1 of roots and shaven stubble below it."""
    full = m["beard"] * z["beard"]
    want = torch.maximum(full, m["moustache"] * z["moustache"])
    loose = want + want * (1.25 - want) * (0.26 * strand + 0.20 * medium + 0.10 * pore)
    cover = smooth(0.03, 0.88, loose) * (0.88 + 0.05 * strand).clamp_(0.5, 0.95)
    grown = torch.maximum(m["beard"], m["moustache"] * 0.9)
    shadow = grown * (z["stubble"] * (0.34 + 0.05 * pore + 0.05 * strand)).clamp(0, 0.6)
    return cover, torch.maximum(shadow, want * 0.55)


def _lit(
    p: Skin,
    normal: tuple[Tensor, Tensor, Tensor],
    colour: Tensor,
    gloss: Tensor,
    pit: Tensor,
    light: Numbers,
    z: Numbers,
) -> Tensor:
    """Wrapped diffuse light with red bleeding into the shadow, ambient light, two highlights, rim light."""
    nx, ny, nz = normal
    key, half = light["key"], light["half"]
    facing = nx * key[0] + ny * key[1] + nz * key[2]
    dark = z["tone"]
    soft = 0.34 - 0.14 * dark
    # Red light spreads furthest below the skin, so the fine bumps do not show in it.
    red = p.nx * key[0] + p.ny * key[1] + p.nz * key[2]
    red = ((red * 0.65 + facing * 0.35 + soft) * (1 / (1 + soft))).clamp_(0, 1)
    other = ((facing + 0.12) * (1 / 1.12)).clamp_(0, 1)
    red, other = red * (0.35 * red + 0.65), other * (0.35 * other + 0.65)
    seen = (p.visible * 1.25 - 0.1).clamp_(0, 1)
    red, other = red * (seen * (1.30 - 0.30 * seen)), other * seen
    open_ = p.occlusion.clamp(0.02, 1) * pit
    red_open = open_ * (1.28 - 0.28 * open_)
    up = 0.5 + 0.5 * ny
    ambient = light["ground"] + (light["sky"] - light["ground"]) * up
    bright = torch.stack([red, other, other]).mul_(light["key_colour"] * 0.40)
    bright.add_(ambient * torch.stack([red_open, open_, open_]).mul_(0.85))
    out = colour * bright
    h = (nx * half[0] + ny * half[1] + nz * half[2]).clamp_(0, 1)
    h = h * h
    h = h * h
    h = h * h
    h = h * h
    wide = h * (0.045 + 0.015 * dark)
    h = h * h
    sharp = h * h * (0.10 + 0.05 * dark)
    graze = (1 - nz).clamp_(0, 1)
    graze = graze * graze
    graze = graze * graze
    glint = (wide + sharp * gloss) * gloss * seen * open_ * (facing > 0) * (1 + 2 * graze)
    out.add_(light["key_colour"] * 0.8 * glint)
    out.add_(ambient * (graze * open_).mul_(0.10))
    rim = light["rim"]
    edge = (nx * rim[0] + ny * rim[1] + nz * rim[2]).clamp_(0, 1) * rise(0.2, 0.7, p.occlusion)
    return out.add_(colour * light["rim_colour"] * edge)


def skin(p: Skin, z: Numbers, a: Numbers, light: Numbers, detail: float) -> Tensor:
    """Linear colour (3, n, P) of bare skin: face, ears, neck, shoulders, the inside of the mouth and a shaven scalp.

    light: unit vectors in view space `key`, `half` (between key and eye), `rim`, and colours `key_colour`,
    `rim_colour`, `sky` and `ground`, all (3, n, 1). detail: min(1, size / 256), to 2 at 512: fine grain fades with it.
    Hair and cloth cover it later.
    """
    m = dict(zip(MASKS, p.masks.unbind(0), strict=True))
    u = p.angle * 1.3
    y = p.y + 0.1 * p.z
    fine = min(1.0, detail)
    # Blotches, freckles and lines lie elsewhere on every person: the noise is moved by some of the traits.
    own = z["undertone"] * 0.53 + z["texture"] * 0.41 + z["mole_y"]
    pore, pore_x, pore_y, spots = noise(u * 1.25 + own, y * 1.25, "pore", "pore_x", "pore_y", "spots")
    medium, wide, blots = noise(u * 0.4 + own, y * 0.4, "medium", "wide", "spots")
    across, along = _brow_place(p.x, p.y, z)
    high = p.y > 7.2
    shear = p.x.abs() + across * 1.2 * (1 - along.clamp(0, 1.2) * 1.6)
    strand = noise(
        torch.where(high, shear * 2.9, u * 3.7 + medium * 0.022),
        torch.where(high, across * 0.8 + along * 0.5, p.y * 3.3),
        "streak",
    )
    pore = pore * fine
    line, right, lift = _lines(p, m, z, a)
    blood, brown = _marks(p, m, z, (pore, spots, medium, wide, blots))
    brown = brown + line * 0.26
    tone = skin_tone(z)
    taken = blood * rgb(0.03, 0.24, 0.20, like=u) + brown * rgb(0.42, 0.52, 0.56, like=u)
    colour = tone * (1 - taken).clamp_(0.03, 1.3)
    colour, lip = _lips(colour, p, m, z, tone, strand)
    colour = _makeup(colour, p, m, z, a)
    hair = brow_tone(z, a)
    cover, shadow = _beard(m, z, strand, pore, medium)
    shaven = (0.42 - 0.30 * a["bald"]) * (0.3 + 0.7 * a["hair_dark"])
    shadow = torch.maximum(shadow, rise(-0.02, 0.12, p.scalp) * (shaven + 0.04 * pore))
    colour = colour * (1 - shadow * rgb(0.80, 0.68, 0.60, like=u))
    cover = torch.maximum(cover, _brow(p.z, z, strand, across, along, pore))
    colour = mix(colour, hair * (0.88 + 0.26 * strand + 0.08 * medium).clamp_(0.35, 1.5), cover)
    coarse = 0.45 + 0.20 * z["texture"].clamp(min=-1) + 0.35 * z["age"] + 0.15 * z["gender"] - 0.20 * z["tone"]
    rough = (1 - 0.8 * lip) * (fine * coarse)
    nx = p.nx + pore_x * (rough * 0.052) + medium * (rough * 0.012) + right
    ny = p.ny + pore_y * (rough * 0.052) + wide * (rough * 0.012) + lift + strand * lip * (0.03 * fine)
    length = 1 / (nx * nx + ny * ny + p.nz * p.nz).sqrt_()
    normal = (nx * length, ny * length, p.nz * length)
    gloss = m["gloss"] + 0.35 * m["rim"] + 0.06 * pore - 0.12 * z["age"]
    gloss = gloss * (1 - 0.8 * cover - 0.3 * shadow) + lip * (0.18 + 0.35 * z["makeup"])
    under = rise(-0.20, 0.03, p.scalp) * (0.42 * smooth(0.05, 0.30, a["hair_length"]))  # the hair hides some sky
    return _lit(p, normal, colour, gloss.clamp_(min=0), (1 - 0.30 * line) * (1 - under), light, z)


def _makeup(colour: Tensor, p: Skin, m: dict[str, Tensor], z: Numbers, a: Numbers) -> Tensor:
    """Dark lashes' roots for all, liner and shadow on the upper lid with the make-up."""
    ey = p.y - 7.284
    ex = p.x.abs() - 0.308
    above = rise(-0.01, 0.02, ey)
    dense = 0.30 + 0.25 * z["lashes"] + 0.4 * z["makeup"] + 0.4 * a["blink"]  # closed lids meet in a dark line
    liner = m["rim"] * above * dense.clamp(0, 0.9)
    worn = ((z["makeup"] - 0.4) * 1.1).clamp(0, 0.6)
    lid = bump((ex * 5.5).square_() + ((ey - 0.07) * 20).square_()) * worn
    return colour * (1 - liner * rgb(0.80, 0.85, 0.87, like=ey) - lid * rgb(0.45, 0.62, 0.58, like=ey)).clamp_(0.05, 1)
