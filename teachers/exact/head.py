"""The head as a star-shaped surface, a radius over directions, and its intersection with rays.

Directions are charted stereographically from the front: (p, q) = (d_x, d_y) / (1 + d_z). The chart keeps angles. The
face lies within its unit disk, the ears near |p| = 1. It is sampled more finely near its centre, where the nose is.
Units: one head radius is 92.6 pixels of 256; x to the right of the picture, y up, z towards the viewer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .noise import interleaved

EDGE = 1.7  # the chart ends at |p|, |q| = EDGE, 119 degrees from the front
MARCH_STEPS = 8
START_RADIUS = 1.6  # of a sphere that contains every head


def smooth(a: float | Tensor, b: float | Tensor, x: Tensor) -> Tensor:
    """Smooth step: 0 up to a, 1 from b; descending if a > b."""
    t = ((x - a) / (b - a)).clamp_(0, 1)
    return (3 - 2 * t).mul_(t).mul_(t)


def bump(x: Tensor, y: Tensor, cx, cy, sx, sy) -> Tensor:
    """A hill of height 1 at (cx, cy), (1 - d2 / 4)^4: close to exp(-d2), of finite extent, in a fifth of the time."""
    dx, dy = (x - cx).div_(sx), (y - cy).div_(sy)
    return dx.square_().add_(dy.square_()).mul_(-0.25).add_(1).clamp_(min=0).square_().square_()


def ridge(x: Tensor, width) -> Tensor:
    """A line of height 1 along x = 0, with the profile of a bump."""
    return (x / width).square_().mul_(-0.25).add_(1).clamp_(min=0).square_().square_()


def unit_vector(vector: Tensor) -> Tensor:
    """(n, 3, H, W) normalised to unit length; F.normalize over channels takes ten times as long."""
    x, y, z = vector.unbind(1)
    return vector * (x * x + y * y + z * z).clamp_(min=1e-12).rsqrt_()[:, None]


def chart_to_grid(p: Tensor) -> Tensor:
    """Chart coordinate to texture coordinate in [-1, 1], finer near 0."""
    return 2 * p / (p.abs() + EDGE)


def grid_to_chart(m: Tensor) -> Tensor:
    return EDGE * m / (2 - m.abs())


@dataclass(frozen=True)
class Places:
    """Positions and sizes of each face's features in the chart, from identity and expression, (n, 1, 1) each."""

    eye_x: Tensor
    eye_y: Tensor
    eye_w: Tensor
    eye_h: Tensor
    nose_tip: Tensor
    nose_w: Tensor
    mouth_y: Tensor
    mouth_w: Tensor
    upper: Tensor
    lower: Tensor
    open: Tensor
    drop: Tensor
    smile: Tensor


def places(z: dict[str, Tensor], a: dict[str, Tensor]) -> Places:
    smile = a["smile"]
    opened = a["jaw"] * 0.055
    return Places(
        eye_x=0.213 * (1 + 0.075 * z["eye_spacing"]),
        eye_y=0.05 + 0.012 * z["eye_height"],
        eye_w=0.088 * (1 + 0.12 * z["eye_size"]),
        eye_h=0.040 * (1 + 0.10 * z["eye_size"]) * (1 + 0.24 * z["eye_open"]),
        nose_tip=-0.150 - 0.017 * z["nose_length"],
        nose_w=0.062 * (1 + 0.21 * z["nose_width"]),
        mouth_y=-0.335 - 0.017 * z["mouth_height"] - 0.006 * z["nose_length"] + 0.008 * smile,
        mouth_w=0.150 * (1 + 0.13 * z["mouth_width"]) * (1 + 0.13 * smile),
        upper=0.026 * (1 + 0.34 * z["upper_lip"]) * (1 - 0.15 * smile),
        lower=0.034 * (1 + 0.33 * z["lower_lip"]) * (1 - 0.12 * smile),
        open=opened,
        drop=a["jaw"] * 0.07,
        smile=smile,
    )


def hair_line(p: Tensor, a: dict[str, Tensor], strands: Tensor) -> Tensor:
    """The q of the hair's lower edge over the chart: forehead, temples, sideburns. Behind the ears all is hair."""
    ap = p.abs()
    fringe = smooth(0.60, 0.75, a["hair_fringe"]) * 0.19
    swept = 0.05 * torch.cos((p - (a["hair_part"] - 0.5) * 0.8) * 6)
    front = 0.40 + 0.12 * (a["hair_line"] - 0.5) + swept - fringe * smooth(0.75, 0.3, ap)
    side = -0.05 - 0.25 * smooth(0.5, 0.9, a["hair_length"])
    line = front + (side - front) * smooth(0.44, 0.80, ap)
    around_ear = 0.16 * smooth(0.6, 0.4, a["hair_length"])  # short hair leaves the ear free
    line = torch.maximum(line, around_ear - 4 * (ap - 1.0).abs().sub(0.13).clamp(min=0))
    line = line - 4 * smooth(1.15, 1.35, ap)
    return line + strands * 0.028 * smooth(0.95, 0.6, ap)


def radius(p: Tensor, q: Tensor, z: dict[str, Tensor], a: dict[str, Tensor], f: Places, strands: Tensor):
    """Radius of the head over the chart, and share of hair in [0, 1], (n, H, W) each."""
    ap = p.abs()
    s = 1 + p * p + q * q
    dx, dy, dz = 2 * p / s, 2 * q / s, (2 - s) / s
    width = 0.745 * (1 + 0.055 * z["skull_width"])
    up = 1.27 * (1 + 0.065 * z["skull_height"])
    down = 1.13 * (1 + 0.07 * z["face_length"]) * (1 + 0.050 * z["chin_length"]) * (1 + 0.9 * f.drop)
    low = smooth(0.1, -0.9, dy)
    width = width * (1 - (0.20 - 0.05 * z["jaw_width"]) * low)
    height = down + (up - down) * smooth(-0.25, 0.25, dy)
    r = ((dx / width) ** 2 + (dy / height) ** 2 + (dz / 0.93) ** 2).rsqrt()

    fq = q + f.drop * smooth(f.mouth_y, f.mouth_y - 0.06, q)  # everything below the mouth moves with the jaw
    r = r + (0.02 + 0.040 * z["forehead_bulge"]) * bump(ap, q, 0, 0.30, 0.30, 0.14)
    r = r - (0.035 + 0.034 * z["temple_hollow"]) * bump(ap, q, 0.55, 0.22, 0.16, 0.20)
    r = r + (0.045 + 0.026 * z["brow_ridge"]) * bump(ap, q, 0.19, 0.145 + 0.01 * z["brow_height"], 0.17, 0.05)
    r = r - (0.085 + 0.027 * z["eye_depth"]) * bump(ap, q, f.eye_x - 0.02, f.eye_y, 0.115, 0.062)
    r = r + 0.040 * bump(ap, q, f.eye_x, f.eye_y, f.eye_w * 0.95, f.eye_h * 1.5)
    cheek = f.smile.clamp(min=0)
    r = r + (0.035 + 0.022 * z["cheekbone_forward"]) * bump(ap, q, 0.33, -0.05, 0.15, 0.085)
    r = r + 0.030 * (1 + z["cheekbone_width"]) * bump(ap, q, 0.62, -0.06, 0.18, 0.13)
    r = r + (0.010 + 0.030 * z["cheek_fullness"] + 0.02 * cheek) * bump(ap, q, 0.30, -0.24, 0.15, 0.14)
    r = r + 0.042 * (0.4 + z["jaw_width"]) * bump(ap, fq, 0.50, -0.46, 0.20, 0.22)
    r = r + 0.060 * z["jaw_corner"] * bump(ap, fq, 0.46, -0.62, 0.12, 0.12)
    r = r + 0.045 * bump(ap, q, 0, f.mouth_y, 0.17, 0.10)
    r = r - 0.028 * bump(ap, fq, 0, f.mouth_y - 0.095, 0.13, 0.030)
    chin_w = 0.13 * (1 + 0.30 * z["chin_width"])
    r = r + (0.070 + 0.038 * z["chin_forward"]) * bump(ap, fq, 0, -0.525 - 0.02 * z["chin_length"], chin_w, 0.085)

    # The nose: a ridge that rises and widens towards the tip, the tip itself, wings, and a sharp lower edge.
    tip = f.nose_tip
    along = ((0.10 - q) / (0.10 - tip)).clamp(0, 1)
    ridge_w = 0.036 * (1 + 0.18 * z["bridge_width"]) + (f.nose_w * 0.62 - 0.036) * along * along
    lift = 0.055 + 0.025 * z["bridge_height"] + (0.175 + 0.028 * z["tip_up"]) * along**1.35
    edge = 0.034 + 0.013 * z["tip_up"].clamp(-2, 2)
    lower = smooth(tip - 0.045, tip - 0.045 + edge, q)
    r = r + lift * ridge(ap, ridge_w) * lower * smooth(0.19, 0.06, q)
    tip_w = 0.038 * (1 + 0.30 * z["tip_size"])
    r = r + (0.045 + 0.024 * z["tip_size"]) * bump(ap, q, 0, tip + 0.010 * z["tip_up"], tip_w, 0.032)
    r = r + (0.075 + 0.030 * z["nostrils"]) * bump(ap, q, f.nose_w * 0.90, tip + 0.006, 0.026, 0.026)

    # Lips, folds of age, ears.
    r = r + 0.030 * (1 + 0.3 * z["upper_lip"]) * bump(ap, q, 0, f.mouth_y + f.upper * 0.6, f.mouth_w * 0.75, f.upper)
    r = r + 0.036 * (1 + 0.3 * z["lower_lip"]) * bump(ap, fq, 0, f.mouth_y - f.lower * 0.6, f.mouth_w * 0.65, f.lower)
    r = r - 0.018 * bump(ap, q, 0, f.mouth_y - f.open * 0.5, f.mouth_w, 0.010 + f.open * 0.5)
    old = (0.35 + 0.5 * z["age"]).clamp(min=0) + 0.6 * cheek
    fold = 0.075 + 0.13 * ((tip - q) / 0.2).clamp(0, 1.2)
    r = r - 0.012 * old * bump(ap, q, fold, tip - 0.09, 0.016, 0.09)
    ear = 1 + 0.32 * z["ear_size"]
    r = r + (0.14 + 0.065 * z["ear_out"]) * bump(ap, q, 1.02, 0.0, 0.085, 0.17 * ear)

    thick = (0.05 + 0.16 * a["hair_volume"]) * (1 - a["bald"]) * (1 - 0.55 * smooth(0.6, 1.0, ap))
    line = hair_line(p, a, strands)
    covered = smooth(-0.02, 0.14, q - line) * (1 - a["bald"])
    r = r + thick * covered * (0.9 + 0.13 * strands * smooth(1.0, 0.6, ap))
    return r, covered


class Head:
    """A batch of heads: look-up of radius, normal and occlusion by direction, and ray marching."""

    def __init__(self, z, a, f: Places, size: int, strand_noise):
        device = f.eye_x.device
        axis = torch.linspace(-1, 1, size, device=device)
        chart = grid_to_chart(axis)
        q, p = torch.meshgrid(chart, chart, indexing="ij")
        p, q = p[None].expand(len(f.eye_x), -1, -1), q[None].expand(len(f.eye_x), -1, -1)
        self.r, hair = radius(p, q, z, a, f, strand_noise(p, q))
        s = 1 + p * p + q * q
        surface = torch.stack([2 * p / s, 2 * q / s, (2 - s) / s], 1) * self.r[:, None]
        dp = F.pad(surface[..., 2:] - surface[..., :-2], (1, 1, 0, 0), mode="replicate")
        dq = F.pad(surface[..., 2:, :] - surface[..., :-2, :], (0, 0, 1, 1), mode="replicate")
        normal = unit_vector(torch.linalg.cross(dp, dq, dim=1))
        k = max(3, size // 14) | 1
        blurred = F.avg_pool2d(
            F.avg_pool2d(self.r[:, None], k, 1, k // 2, count_include_pad=False), k, 1, k // 2, count_include_pad=False
        )
        occlusion = ((blurred - self.r[:, None]) * 9).clamp(-0.4, 1)
        self.maps = torch.cat([normal, occlusion], 1)

    @staticmethod
    def chart(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points, (n, H, W) each, to chart coordinates p, q and distance from the centre."""
        distance = (x * x + y * y + z * z).clamp_(min=1e-8).sqrt_()
        scale = (distance + z).clamp_(min=0.02).reciprocal_()
        return x * scale, y * scale, distance

    def look(self, maps: Tensor, p: Tensor, q: Tensor) -> Tensor:
        """Maps (n, C, M, M) sampled at chart points (n, H, W): (n, C, H, W)."""
        grid = interleaved(chart_to_grid(p), chart_to_grid(q))
        return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)

    def height(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Height of points above the surface, along their direction: (n, H, W)."""
        p, q, distance = self.chart(x, y, z)
        return distance.sub_(self.look(self.r[:, None], p, q)[:, 0])

    def march(self, origin: list[Tensor], direction: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Intersections of parallel rays with the head as x, y, z (n, H, W), and each ray's smallest height above it.

        Rays start on a sphere around the head; origins lie in the plane through its centre.
        """
        t = -(START_RADIUS**2 - sum(o * o for o in origin)).clamp_(min=0).sqrt_()
        gap = self.height(*(o + t * d for o, d in zip(origin, direction, strict=True)))
        closest, step = gap.clone(), 0.85 * gap
        for _ in range(MARCH_STEPS - 1):
            t = t + step
            before, gap = gap, self.height(*(o + t * d for o, d in zip(origin, direction, strict=True)))
            torch.minimum(closest, gap, out=closest)
            # Secant steps: at a slanted surface the height is a small part of the remaining distance.
            slope = step.div_(torch.where((before - gap).abs() < 1e-6, 1e-6, before - gap)).clamp_(0.5, 2.2)
            step = slope.mul_(gap)
        t = t + step
        return [o + t * d for o, d in zip(origin, direction, strict=True)], closest
