"""Renders the numbers of a face: picture, inner-face mask and landmarks, at any resolution, on CPU or GPU."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .face import ATTRIBUTES, IDENTITY
from .head import Head, Places, hair_line, places, smooth, unit_vector
from .noise import noise
from .paint import mix, paint
from .scene import background, behind, glasses, occluder

VERSION = 1  # of the pictures: increase it when any pixel changes, and train the networks of the benchmark again
PIXELS_PER_UNIT = 92.6 / 256  # head radius in sides of the picture; the eyes of the mean face are 63 of 256 apart
CHUNK_PIXELS = 50_000  # rendered at once on a CPU; they fit in its cache
CHUNK_PIXELS_GPU = 8_000_000
FACE_POINT = (0.0, -0.30, 0.86)  # fixed as the head turns, as the inner face is in aligned photographs


class Rendered(NamedTuple):
    """image: (n, 3, S, S) float32 RGB in [-1, 1]. mask: (n, 1, S, S), 1 on the visible skin from brows to chin, else 0.
    landmarks: (n, 5, 2) pixels x, y of left and right eye, nose tip, left and right mouth corner in the picture."""

    image: Tensor
    mask: Tensor
    landmarks: Tensor


@torch.no_grad()
def render(identity: Tensor, attributes: Tensor, size: int = 256) -> Rendered:
    """Render n faces from identity (n, K) and attributes (n, A) at size x size, on the device of the numbers.

    Raises ValueError on other shapes, on NaN, and on a size below 16.
    """
    for name, numbers, names in (("identity", identity, IDENTITY), ("attributes", attributes, ATTRIBUTES)):
        if numbers.ndim != 2 or numbers.shape[1] != len(names):
            raise ValueError(f"{name}: expected (n, {len(names)}), got {tuple(numbers.shape)}")
        if not torch.isfinite(numbers).all():
            raise ValueError(f"{name}: holds numbers that are not finite")
    if len(identity) != len(attributes):
        raise ValueError(f"{len(identity)} identities for {len(attributes)} sets of attributes")
    if size < 16:
        raise ValueError(f"size: expected at least 16 pixels, got {size}")
    fine = drawn_size(size)
    step = max(1, (CHUNK_PIXELS_GPU if identity.is_cuda else CHUNK_PIXELS) // fine**2)
    parts = [
        _draw(i.float(), a.float(), size, fine)
        for i, a in zip(identity.split(step), attributes.split(step), strict=True)
    ]
    return Rendered(*(torch.cat(column) for column in zip(*parts, strict=True)))


def drawn_size(size: int) -> int:
    """The size at which pictures are rendered before they are shrunk, which smooths edges: larger for small ones."""
    return round(size * (1.0 if size >= 192 else 1.125 if size >= 96 else 1.25))


def rotation(a: dict[str, Tensor]) -> Tensor:
    """The rotation from head to picture (n, 3, 3): yaw, then pitch, then roll."""
    yaw, pitch, roll = (a[k].flatten() * math.pi / 180 for k in ("yaw", "pitch", "roll"))
    one, nil = torch.ones_like(yaw), torch.zeros_like(yaw)

    def matrix(*rows):
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    about_y = matrix((yaw.cos(), nil, yaw.sin()), (nil, one, nil), (-yaw.sin(), nil, yaw.cos()))
    about_x = matrix((one, nil, nil), (nil, pitch.cos(), pitch.sin()), (nil, -pitch.sin(), pitch.cos()))
    about_z = matrix((roll.cos(), roll.sin(), nil), (-roll.sin(), roll.cos(), nil), (nil, nil, one))
    return about_z @ about_x @ about_y


def dot(a, b) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _draw(identity: Tensor, attributes: Tensor, size: int, fine: int) -> tuple[Tensor, Tensor, Tensor]:
    n, device = len(identity), identity.device
    z = {name: identity[:, i].view(n, 1, 1) for i, name in enumerate(IDENTITY)}
    a = {name: attributes[:, i].view(n, 1, 1) for i, name in enumerate(ATTRIBUTES)}
    f = places(z, a)
    turn = rotation(a)

    def strands(p: Tensor, q: Tensor) -> Tensor:
        flow = p / (1.5 + q.clamp(min=-0.6)) + (a["hair_part"] - 0.5) + 0.05 * torch.sin(3 * q + 9 * a["hair_phase"])
        clumps = noise(flow * 0.42 + a["hair_phase"] * 5, q * 0.10 + a["hair_phase"], "strands")
        return 0.75 * clumps + 0.45 * noise(flow * 1.25, q * 0.20, "strands")

    head = Head(z, a, f, max(64, min(160, fine // 2)), strands)

    # Position of the head's centre in the picture.
    x, y, px = _plane(a, fine)
    point = torch.tensor(FACE_POINT, device=device)
    moved = point[:2] - (turn @ point)[:, :2]
    cx, cy = moved[:, 0].view(n, 1, 1), moved[:, 1].view(n, 1, 1)

    # Intersect the pixels' rays with the head, in the head's own frame.
    def in_head(v: Tensor) -> list[Tensor]:  # the inverse of a rotation is its transpose
        return [c.view(n, 1, 1) for c in (v.view(-1, 1, 3) @ turn)[:, 0].expand(n, 3).unbind(-1)]

    right, up, view = (in_head(torch.eye(3, device=device)[k].expand(n, 3)) for k in range(3))
    u, v = x - cx, y - cy
    origin = [u * r + v * t for r, t in zip(right, up, strict=True)]
    hit, gap = head.march(origin, [-c for c in view])
    share = smooth(1.2 * px, 0.1 * px, gap)
    p, q, _ = head.chart(*hit)
    looked = head.look(head.maps, p, q)
    normal, occlusion = list(unit_vector(looked[:, :3]).unbind(1)), looked[:, 3]

    # Colour and light: a key light with soft shadow, ambient light from the sky, specular shine.
    hair_strands = strands(p, q)
    covered = smooth(-0.01, 0.05, q - hair_line(p, a, hair_strands)) * (1 - a["bald"])
    chart_px = px * 0.55
    surface = paint(p, q, z, a, f, covered, hair_strands, chart_px)
    azimuth, elevation = a["light_azimuth"] * math.pi / 180, a["light_elevation"] * math.pi / 180
    key = torch.stack([azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos()], -1)
    key = in_head(key)
    facing = dot(normal, key)
    lit = torch.ones_like(facing)
    for distance in (0.07, 0.16, 0.30):
        above = head.height(*(h + m * 0.02 + k * distance for h, m, k in zip(hit, normal, key, strict=True)))
        lit = torch.minimum(lit, smooth(-0.30 * distance, 0.12 * distance, above))
    warmth = a["light_warmth"] * 0.10
    glow = torch.exp(torch.stack([warmth, 0 * warmth, -warmth], 1)) * a["light_strength"][:, None] * 1.25
    wrap = torch.tensor([0.30, 0.17, 0.12], device=device).view(1, 3, 1, 1)
    soft = ((facing[:, None] + wrap) / (1 + wrap)).clamp(min=0)
    shadow = lit[:, None] ** torch.tensor([0.75, 1.0, 1.08], device=device).view(1, 3, 1, 1)
    open_sky = (1 - 0.85 * occlusion.clamp(-0.1, 1)) * (0.72 + 0.28 * dot(normal, up))
    half = [k + w for k, w in zip(key, view, strict=True)]
    shine = dot(normal, half).clamp(min=0) / dot(half, half).sqrt()
    broad = shine**14
    shine = (0.10 * broad + 0.16 * broad**3.4) * surface.gloss.clamp(min=0) * lit
    rim = (1 - dot(normal, view).clamp(0, 1)) ** 3 * 0.10
    light = soft * shadow * glow + (a["ambient"] * open_sky)[:, None]
    face = surface.colour * light + (shine + rim * a["ambient"])[:, None] * glow
    face = face + surface.wet[:, None] * (0.35 + 0.4 * a["light_strength"])[:, None]

    skin = (share > 0.5) & (covered < 0.5)
    if a["glasses"].any():
        frame, lens = glasses(p, q, a, chart_px)
        frame, lens = frame * (1 - covered), lens * (1 - covered)
        tint = a["glasses_dark"] ** 4
        face = mix(face, face * (0.92 - 0.75 * tint)[:, None] + 0.02, lens)
        rims = (0.015 + 0.10 * a["glasses_shape"] * (1 - a["glasses_dark"]))[:, None] + 0.35 * shine[:, None]
        face = mix(face, rims.expand_as(face), frame)
        skin = skin & (frame < 0.5) & (lens * tint < 0.6)

    # Everything else, from back to front.
    scene = background(x, y, a) * (0.55 + 0.45 * a["ambient"] / 0.6)[:, None]
    scene = behind(scene, x, y, z, a, (cx, cy), px)
    scene = mix(scene, face, share)
    if a["occluder"].any():
        thing, before = occluder(x, y, a, px)
        scene = mix(scene, thing, before)
        skin = skin & (before < 0.5)
    scene = scene * (1 - 0.10 * (x * x + y * y) / 1.9)[:, None]
    picture = (1 - torch.exp(-1.42 * scene.clamp(min=0))).clamp(1e-5, 1) ** (1 / 2.2)
    image = F.interpolate(picture, (size, size), mode="bilinear", antialias=True) * 2 - 1

    inner = skin & (torch.hypot(p * 1.12, (q + 0.16) * 0.98) < 0.61) & (q < f.eye_y + 0.19)
    mask = (F.interpolate(inner[:, None].float(), (size, size), mode="bilinear", antialias=True) > 0.5).float()
    return image, mask, _landmarks(head, turn, f, a, moved, size)


def occluder_mask(attributes: Tensor, size: int) -> Tensor:
    """The opaque pixels of objects held in front of the face, (n, 1, size, size) bool, of attributes (n, 42).

    Glasses do not count: their lenses show the face. Raises ValueError on attributes of another shape.
    """
    if attributes.ndim != 2 or attributes.shape[1] != len(ATTRIBUTES):
        raise ValueError(f"attributes: expected (n, {len(ATTRIBUTES)}), got {tuple(attributes.shape)}")
    fine = drawn_size(size)
    masks = []
    for some in attributes.float().split(max(1, CHUNK_PIXELS // fine**2)):
        a = {name: some[:, i].view(-1, 1, 1) for i, name in enumerate(ATTRIBUTES)}
        x, y, px = _plane(a, fine)
        share = occluder(x, y, a, px)[1]
        masks.append(F.interpolate(share[:, None], (size, size), mode="bilinear", antialias=True) > 0.999)
    return torch.cat(masks)


def _plane(a: dict[str, Tensor], fine: int) -> tuple[Tensor, Tensor, float]:
    """x and y of the pixels (n, fine, fine) and the side of a pixel, in radii of the head."""
    axis = ((torch.arange(fine, device=a["scale"].device) + 0.5) / fine - 0.5) / PIXELS_PER_UNIT
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    x = (x[None].expand(len(a["scale"]), -1, -1) - a["shift_x"]) / a["scale"]
    y = (y[None].expand(len(a["scale"]), -1, -1) - a["shift_y"]) / a["scale"]
    return x, y, 1 / (PIXELS_PER_UNIT * fine)


def _landmarks(head: Head, turn: Tensor, f: Places, a, moved: Tensor, size: int) -> Tensor:
    n = len(turn)
    zero = torch.zeros_like(f.eye_x)
    corner_y = f.mouth_y + 0.02 * f.smile
    p = torch.cat([-f.eye_x, f.eye_x, zero, -f.mouth_w, f.mouth_w], 2)[:, 0]
    q = torch.cat([f.eye_y, f.eye_y, f.nose_tip, corner_y, corner_y], 2)[:, 0]
    r = head.look(head.r[:, None], p[:, None], q[:, None])[:, 0, 0]
    s = 1 + p * p + q * q
    points = torch.stack([2 * p / s, 2 * q / s, (2 - s) / s], -1) * r[..., None]
    flat = (points @ turn.transpose(1, 2))[..., :2] + moved[:, None]
    flat = flat * a["scale"].view(n, 1, 1) + torch.stack([a["shift_x"].view(n, 1), a["shift_y"].view(n, 1)], -1)
    return (flat * torch.tensor([1.0, -1.0], device=flat.device) * PIXELS_PER_UNIT + 0.5) * size
