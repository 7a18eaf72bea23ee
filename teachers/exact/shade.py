"""Colours of the points of all materials: gathers what their painters need, and calls them."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from . import camera, eyes, glasses, hair_scalp, hair_shade, mesh, paint, raster, worn
from .curves import constant, dot, hue, mix, rgb
from .geometry import BODY, EYE_LEFT, GLASSES, HAIR, LASH, LENS, TEETH, TONGUE, Geometry, cap, scalp
from .masks import MASKS
from .mesh import unit
from .noise import interleaved
from .surface import Hits, Points, hits

Numbers = dict[str, Tensor]
SHADOW_STEPS = (0.04, 0.10, 0.19, 0.31)  # dm along the light
SHADOW_GRID, SHADOW_BLUR = 128, 5  # cells in a row of the map of hair, and of its box blur
SHADOW_BITS, SHADOW_ZERO = 16, 1024  # the map's depth: in 2 ** 16 steps of the raster, and such that it is positive


def light(exact: Numbers, a: Numbers) -> Numbers:
    """The lights of pictures, (3, n, 1) each: unit vectors key, half (between key and eye) and rim in the view; colours
    key_colour, rim_colour, sky and ground. They depend on attributes only."""
    key = camera.direction(exact["light_azimuth"], exact["light_elevation"])
    rim = camera.direction(exact["light_azimuth"] + 165, 0 * exact["light_azimuth"] + 17)
    warm, ambient = a["light_warmth"], a["ambient"]
    tint = torch.stack([1 + 0.10 * warm, 1 + 0 * warm, 1 - 0.14 * warm]).clamp(0.6, 1.4)
    around = hue(
        a["background_hue"], 0.05 + 0.22 * a["background_saturation"] * a["background_saturation"],
        0.28 + 0.55 * a["background_value"],
    )  # fmt: skip
    return {
        "key": key, "half": unit(key + rgb(0.0, 0.0, 1.0, like=warm)), "rim": rim,
        "key_colour": tint * a["light_strength"] * 2.6, "rim_colour": rgb(1.1, 1.1, 1.2, like=warm) * a["rim"],
        "sky": (rgb(0.96, 1.0, 1.06, like=warm) * 0.8 + 0.35 * around) * ambient * 1.5,
        "ground": (rgb(0.55, 0.45, 0.40, like=warm) * 0.5 + 0.30 * around) * ambient * 1.1,
    }  # fmt: skip


def colours(g: Geometry, p: Points, lit: Numbers, detail: float) -> Tensor:
    """Linear colours (3, N + 1) of the points; the last one is black and stands for no point."""
    out = torch.zeros(3, len(p.material) + 1, device=p.slot.device)
    lit = hair_shade.light_of_hair({**lit, "colour": lit["key_colour"]}, g.a, g.style)
    painters = {
        BODY: _body, EYE_LEFT: _eyes, TEETH: _teeth, TONGUE: _tongue, LASH: _lashes, HAIR: _strands, GLASSES: _frames,
    }  # fmt: skip
    for material, painter in painters.items():
        h = hits(p, material)
        if h is not None:
            out.index_copy_(1, h.write.view(-1), painter(g, p, h, lit, detail).expand(3, *h.write.shape).reshape(3, -1))
    out[:, -1] = 0
    return out


@lru_cache
def _skin(device: torch.device) -> Tensor:
    """What paint.Skin needs of each vertex: place, masks, occlusion and angle, (5 + len(MASKS), V)."""
    t = mesh.tables(device)
    return torch.cat([t.rest_rows, t.masks, t.occlusion[None], t.angle[None]])


def _body(g: Geometry, p: Points, h: Hits, lit: Numbers, detail: float) -> Tensor:
    grown = scalp(h.x.device)
    toward = g.view.unrotate(lit["key"].mT)
    visible = mesh.visibility(g.tables, toward[:, 0].double())
    line = hair_scalp.scalp_line(grown, g.a).T
    tangent = g.view.rotate(hair_scalp.scalp_tangent(grown, g.a, g.style).mT)
    places = (c.T for c in hair_scalp.scalp_places(grown, g.a, g.style))
    moving = h.moving(torch.stack([*g.normal, *tangent, visible, line, g.depth[: len(line)], *places]))
    visible, inside, depth, across, along = moving[6:]
    normal, tangent = unit(moving[:3]), unit(moving[3:6])
    open_ = _out_of_shadow(g, p, h, depth, lit)
    x, y, z, *masks, occlusion, angle = h.static(_skin(h.x.device))
    masks = torch.stack(masks)
    cavity = masks[MASKS.index("mouth")]
    shut = 1 - ((g.a["jaw"] - 0.02) * 10).clamp(0, 1)
    occlusion = torch.maximum(occlusion, cavity * (0.45 * shut))  # closed lips show no dark corners
    cavity.mul_(1 - 0.8 * shut)
    skin = paint.Skin(
        x, y, z, *normal, visible * open_, occlusion * (0.3 + 0.7 * open_), angle, inside, masks,
    )  # fmt: skip
    colour = paint.skin(skin, g.traits, g.a, lit, detail)
    share, strands, locks = hair_shade.scalp_mask(inside, across, along, skin.x, skin.y, g.a, g.style, min(1.0, detail))
    colour = mix(
        colour,
        hair_shade.shade_scalp(normal, tangent, inside, strands, locks, g.style, lit),
        share,
    )
    worn_share, cloth = worn.cloth(skin.x, skin.y, skin.z, g.a)
    direct = ((dot(normal, lit["key"]) + 0.15) * (1 / 1.15)).clamp_(min=0) * skin.visible * 0.42
    ambient = (lit["ground"] + (lit["sky"] - lit["ground"]) * (0.5 + 0.5 * normal[1])) * (skin.occlusion * 0.8)
    return mix(colour, cloth * (lit["key_colour"] * direct + ambient), worn_share)


def _out_of_shadow(g: Geometry, p: Points, h: Hits, depth: Tensor, lit: Numbers) -> Tensor:
    """Share (n, P) of the key light that hair lets through to points of the skin, dm towards the camera: the shadow map
    is looked up along the way to the light."""
    steps = constant(SHADOW_STEPS, h.x.device, 1)
    key, sides = lit["key"][:, :, None], 2 * g.view.per_dm.T[..., None]  # sides: of half the picture, per dm
    x, y = ((v[:, None] + 0.5) * (1 / p.size) - 1 for v in (h.x, h.y))  # of grid_sample: -1 to 1
    place = interleaved(x + key[0] * sides * steps, y - key[1] * sides * steps)
    cover, nearest = F.grid_sample(_shadow_map(p), place, align_corners=False).unbind(1)
    above = nearest / cover.clamp(min=1e-3) - (depth[:, None] + key[2] * steps)
    shadow = (cover * (above * 20).clamp(0, 1) * ((0.9 - above) * 3).clamp(0, 1)).amax(1)
    return 1 - 0.8 * (shadow * 1.4).clamp(max=1)


def _shadow_map(p: Points) -> Tensor:
    """(n, 2, S, S): the share of the pixels around each one that hair covers, and that share times the mean depth of
    the hair, dm towards the camera. Sums of whole numbers make both, so they are exact."""
    caster = p.kinds == HAIR
    steps = ((raster.FARTHEST - raster.depth_of(p.nearest)) >> SHADOW_BITS) + SHADOW_ZERO
    sums = torch.stack([caster.sum(1), torch.where(caster, steps, 0).sum(1)], 1).float().view(p.n, 2, p.size, p.size)
    pool = max(1, p.size // SHADOW_GRID)
    sums = F.avg_pool2d(sums, pool, divisor_override=1)
    count, total = F.avg_pool2d(sums, SHADOW_BLUR, 1, SHADOW_BLUR // 2, divisor_override=1).unbind(1)
    cover = count / (4 * SHADOW_BLUR * SHADOW_BLUR * pool * pool)
    depth = (total / count.clamp(min=1) - SHADOW_ZERO) / (raster.DEPTH_STEPS >> SHADOW_BITS)
    return torch.stack([cover, cover * depth], 1)


def _eyes(g: Geometry, p: Points, h: Hits, lit: Numbers, detail: float) -> Tensor:
    side = constant((1.0, -1.0), h.x.device)
    x, y = g.a["gaze_x"] * 0.45 - side * 0.03, (g.a["gaze_y"] * 0.3).expand(2, -1, -1)
    ahead = unit(torch.stack([x, y, torch.ones_like(x)]))
    return eyes.eyes(on_balls(g, h), ahead, g.view.turn[:, :, 0].permute(2, 0, 1), side, g.traits, g.a, lit)


def on_balls(g: Geometry, h: Hits) -> Tensor:
    """Unit directions (3, 2, n, P) from the centres of the eyeballs to their points, in the head's frame."""
    directions = cap(h.x.device)[0].T.contiguous()
    inside = [(v - g.start[EYE_LEFT]) % directions.shape[1] for v in h.vertex]
    return unit(h.blend(directions, inside))


def _teeth(g: Geometry, p: Points, h: Hits, lit: Numbers, detail: float) -> Tensor:
    return eyes.teeth(*h.static(g.tables.rest_rows), unit(h.moving(g.normal)), g.traits, g.a, lit, detail)


def _tongue(g: Geometry, p: Points, h: Hits, lit: Numbers, detail: float) -> Tensor:
    return eyes.tongue(*h.static(g.tables.rest_rows), unit(h.moving(g.normal)), g.traits, g.a, lit)


def _lashes(g: Geometry, p: Points, h: Hits, lit: Numbers, detail: float) -> Tensor:
    return eyes.lash_colour(g.traits)


def _strands(g: Geometry, p: Points, h: Hits, lit: Numbers, detail: float) -> Tensor:
    """Vertices of cards are (cards, segments + 1, 2): a vertex's number gives its card and its place along it."""
    n = len(g.cards.used)
    points = g.cards.used.shape[2] + 1
    node = [torch.div(v - g.start[HAIR], 2, rounding_mode="floor") for v in h.vertex]
    row = torch.arange(n, device=h.x.device)[:, None]
    directions = [g.view.rotate(v.permute(3, 1, 2, 0).reshape(3, -1, n)) for v in (g.cards.normal, g.cards.tangent)]
    table = torch.cat([*directions, g.cards.open.permute(1, 2, 0).reshape(1, -1, n)])
    values = h.blend(table.flatten(1), [k * n + row for k in node])
    normal, tangent = unit(values[:3]), unit(values[3:6])
    across = h.weighted([((v - g.start[HAIR]) & 1) * 2.0 - 1 for v in h.vertex])
    along = h.weighted([(k % points).float() / (points - 1) for k in node])
    card = torch.div(node[0], points, rounding_mode="floor")
    seed = g.cards.seed.T.reshape(-1).index_select(0, (card * n + row).view(-1)).view(card.shape)
    return hair_shade.shade(normal, tangent, across, along, seed, values[6], lit)


def _frames(g: Geometry, p: Points, h: Hits, lit: Numbers, detail: float) -> Tensor:
    normal = _of_glasses(g, h, g.glasses.normals)
    colour, metal = glasses.frame_colour(g.a)
    facing = dot(normal, lit["key"]).clamp(min=0)
    shine = dot(normal, lit["half"]).clamp(min=0)
    for _ in range(5):
        shine = shine * shine
    ambient = lit["ground"] + (lit["sky"] - lit["ground"]) * (0.5 + 0.5 * normal[1])
    mirrored = ambient * (0.4 + 0.9 * (normal[1] > 0.2) * metal)
    return colour * (lit["key_colour"] * (facing * 0.4) + ambient * 0.7 + mirrored * metal) + lit["key_colour"] * (
        shine * (0.06 + 0.30 * metal)
    )


def lenses(g: Geometry, p: Points, lit: Numbers) -> tuple[Tensor, Tensor]:
    """Linear colour (3, N + 1) of the points of lenses, and its share (1, N + 1) over what is behind."""
    out = torch.zeros(4, len(p.material) + 1, device=p.slot.device)
    h = hits(p, LENS)
    if h is not None:
        normal = unit(_of_glasses(g, h, g.glasses.normals))  # twice unit, as ever: it rounds
        height = h.blend(glasses.HEIGHT.to(h.x.device), [v - g.start[GLASSES] for v in h.vertex])
        colour, share = glasses.lens(*normal, height, lit["key"], g.a)
        out.index_copy_(1, h.write.view(-1), torch.stack([*colour, share]).view(4, -1))
        out[:, -1] = 0
    return out[:3], out[3:]


def _of_glasses(g: Geometry, h: Hits, vectors: Tensor) -> Tensor:
    """Unit vectors (3, n, P) interpolated from those of the glasses' vertices, (3, G, n)."""
    n = len(g.a["glasses"])
    row = torch.arange(n, device=h.x.device)[:, None]
    index = [(v - g.start[GLASSES]) * n + row for v in h.vertex]
    return unit(h.blend(vectors.flatten(1), index))
