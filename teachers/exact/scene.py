"""The surroundings of the head: background, hair behind it, neck, clothes, glasses, objects in front of the face."""

from __future__ import annotations

import torch
from torch import Tensor

from .head import ridge, smooth
from .noise import noise
from .paint import hair_colour, mix, rgb, skin_tone


def hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Hue, saturation and value, (n, 1, 1) each in [0, 1], to colours (n, 3, 1, 1)."""
    channels = [
        (1 + saturation * (((hue * 6 + k) % 6 - 3).abs() - 1).clamp(0, 1) - saturation) * value for k in (0, 4, 2)
    ]
    return rgb(*channels)


def background(x: Tensor, y: Tensor, a: dict[str, Tensor]) -> Tensor:
    """Colours (n, 3, H, W) of a gradient, a blurred room, foliage or lights out of focus, by background_kind."""
    kind, phase = a["background_kind"], a["background_phase"]
    base = hsv(a["background_hue"], 0.15 + 0.5 * a["background_saturation"], 0.08 + 0.55 * a["background_value"] ** 2)
    other = hsv((a["background_hue"] + 0.08 + 0.35 * phase) % 1, 0.5 * a["background_saturation"], 0.06 + 0.5 * phase)
    wide = noise(x * 0.16 + phase * 7, y * 0.16 + phase * 3, "clouds")
    tilt = torch.cos(phase * 6.3) * x + torch.sin(phase * 6.3) * y
    colour = mix(base.expand(-1, -1, *x.shape[1:]), other, smooth(-1.2, 1.2, tilt + 0.25 * wide))
    room, lights, foliage = (kind > 0.3) & (kind < 0.6), kind >= 0.8, (kind >= 0.6) & (kind < 0.8)
    if room.any():
        frame = smooth(0.02, 0.10, torch.sin(x * (1.5 + 2 * phase) + phase * 9) + 0.15) * smooth(-0.9, -0.7, y)
        colour = mix(colour, other * 1.5, frame * 0.55 * room)
    if lights.any():
        u, v = x / 0.55 + phase * 9, y / 0.55 + phase * 5
        chance = torch.sin(u.floor() * 12.99 + v.floor() * 78.23 + phase * 40) * 437.5
        chance = chance - chance.floor()
        disc = torch.hypot(u - u.floor() - 0.5, v - v.floor() - 0.5) - 0.16 * chance
        lamp = hsv((a["background_hue"] + 0.1) % 1, 0.55 + 0 * phase, 0.9 + 0 * phase)
        colour = mix(colour, lamp, smooth(0.30, 0.24, disc) * smooth(0.35, 0.9, chance) * 0.5 * lights)
    grain = 0.12 * wide
    if foliage.any():
        grain = grain + 0.5 * foliage * noise(x * 0.35 + phase, y * 0.35, "clouds")
    return colour * torch.exp(grain)[:, None]


def behind(colour: Tensor, x: Tensor, y: Tensor, z, a, centre: tuple[Tensor, Tensor], px: float) -> Tensor:
    """Draw long hair, neck and clothes over the background. centre: of the head, in the picture."""
    cx, cy = centre
    u, v = x - cx, y - cy
    end = 0.35 - 2.1 * a["hair_length"]
    wide = 0.80 + 0.20 * a["hair_volume"] + 0.10 * smooth(0.2, -1.0, v)
    wave = 0.05 * torch.sin(v * 5 + a["hair_phase"] * 9)
    strands = noise((u + wave) * 0.55 + a["hair_phase"] * 3, v * 0.16, "strands")
    shape = (u / wide).abs() ** 2.4 + ((v - 0.2).clamp(min=0) / 1.25) ** 2.4
    hair = smooth(1.03, 0.97, shape + 0.03 * strands) * smooth(end - 0.10, end + 0.02, v + 0.06 * strands)
    hair = hair * (1 - a["bald"])
    locks = hair_colour(a) * (0.62 * torch.exp(0.45 * strands) * (0.45 + 0.55 * smooth(0.35, 0.9, u.abs())))[:, None]
    colour = mix(colour, locks, hair)

    width = 0.44 * (1 + 0.16 * z["neck_width"]) + 0.16 * smooth(-1.05, -1.6, v)
    across = (u / width).clamp(-1, 1)
    side = torch.sin(a["light_azimuth"] * 0.0175)
    shade = (1 - across**2).clamp(min=0.02).sqrt() * (0.75 + 0.35 * across * side)
    under = 0.30 + 0.45 * smooth(-1.05, -1.55, v)
    neck = smooth(width + px, width - px, u.abs()) * smooth(-0.2, -0.4, v)
    colour = mix(colour, skin_tone(z) * (shade * under)[:, None], neck)

    cloth = hsv(a["clothes_hue"], 0.25 + 0.4 * a["collar"], 0.04 + 0.5 * a["clothes_value"] ** 2)
    weave = noise(x * 0.3 + a["clothes_hue"], y * 0.3, "clouds") * 0.14
    open_v = 0.10 + 0.22 * a["collar"]
    edge = -1.30 - 0.16 * (u.abs() - 0.5).clamp(min=0) - open_v * smooth(0.46, 0.0, u.abs())
    worn = smooth(edge + px, edge - px, v)
    rim = ridge(v - edge + 0.03, 0.02) * 0.35
    light = 0.75 + 0.25 * (u * side).clamp(-1, 1)
    return mix(colour, cloth * (torch.exp(weave) * light * (1 - rim))[:, None], worn)


def glasses(p: Tensor, q: Tensor, a: dict[str, Tensor], px: float):
    """Shares (n, H, W) of frame and lens over the chart; glasses are attributes, not identity."""
    ap = p.abs()
    power = 2 + 3 * a["glasses_shape"]
    u, v = (ap - 0.215) / 0.142, (q - 0.035) / (0.092 + 0.02 * (1 - a["glasses_shape"]))
    d = (u.abs() ** power + v.abs() ** power + 1e-6) ** (1 / power)
    rim = smooth(0.13 + px * 7, 0.09, (d - 1).abs())
    bridge = smooth(0.018 + px, 0.012, (q - 0.055 - 0.02 * (1 - (ap / 0.08) ** 2)).abs()) * (ap < 0.085)
    arm = smooth(0.018 + px, 0.012, (q - 0.07).abs()) * smooth(0.345, 0.36, ap) * smooth(1.0, 0.95, ap)
    return torch.maximum(rim, torch.maximum(bridge, arm)) * a["glasses"], smooth(1.0, 0.95, d) * a["glasses"]


def occluder(x: Tensor, y: Tensor, a: dict[str, Tensor], px: float):
    """Colour (n, 3, H, W) and share (n, H, W) of an object in front of the face: microphone, fingers or scarf, by
    occluder_kind."""
    kind = a["occluder_kind"]
    cx, cy = (a["occluder_x"] - 0.5) * 0.9, -0.45 - 0.45 * a["occluder_y"]
    u, v = x - cx, y - cy
    tilt = (a["occluder_x"] - 0.5) * 1.2
    along, across = v + u * tilt, u - v * tilt
    ball = smooth(0.27 + px, 0.27 - px, torch.hypot(u, v))
    rod = smooth(0.12 + px, 0.12 - px, across.abs()) * smooth(0.0, -0.02, along)
    finger = (across / 0.13).round().clamp(-1.5, 1.5)
    fingers = smooth(0.062 + px, 0.062 - px, (across - finger * 0.13).abs()) * smooth(
        0.28, 0.24, along - 0.05 * torch.cos(finger * 1.3)
    )
    folds = noise(x * 0.25 + kind, y * 0.9, "strands")
    scarf = smooth(cy + 0.02, cy - 0.02, y + 0.08 * x * x + 0.01 * folds)
    mic, hand = kind < 0.34, (kind >= 0.34) & (kind < 0.67)
    share = torch.where(mic, torch.maximum(ball, rod), torch.where(hand, fingers, scarf)) * a["occluder"]
    round_ = torch.where(
        mic, 1 - (torch.hypot(u, v) / 0.27).clamp(0, 1) ** 2, 1 - ((across - finger * 0.13) / 0.07).clamp(-1, 1) ** 2
    )
    cloth = hsv(a["occluder_hue"], 0.55 + 0 * kind, 0.45 + 0 * kind) * torch.exp(0.22 * folds)[:, None]
    metal = (
        rgb(0.05 + 0 * kind, 0.05 + 0 * kind, 0.06 + 0 * kind)
        * (0.5 + 1.6 * round_ * (0.7 + 0.3 * torch.sin(along * 120) * torch.sin(across * 120)))[:, None]
    )
    glove = hsv(a["occluder_hue"], 0.35 + 0 * kind, 0.35 + 0 * kind) * (0.45 + 0.75 * round_)[:, None]
    where = [k[:, None].expand_as(cloth) for k in (mic, hand)]
    return torch.where(where[0], metal, torch.where(where[1], glove, cloth)), share
