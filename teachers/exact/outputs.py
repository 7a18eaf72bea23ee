"""What the renderer knows beside the colours: masks, landmarks, and, on request, dense truth that no photograph has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from . import eyes, hair_scalp, mesh, paint, worn
from .geometry import BACK, BODY, EYE_LEFT, EYE_RIGHT, GLASSES, HAIR, LASH, TEETH, TONGUE, Geometry, scalp
from .masks import MASKS
from .mesh import unit
from .shade import on_balls
from .surface import Hits, Points, hits

SEGMENTS = (
    "background", "skin", "brows", "eyes", "lips", "mouth", "teeth", "hair", "glasses", "occluder", "cloth"
)  # fmt: skip
"""Values of the segmentation, by place: background 0, skin 1, and so on. Beards are skin, lashes are eyes; mouth: its
cavity and the tongue."""
HEAD = (BODY, EYE_LEFT, TEETH, TONGUE, LASH)  # as of hits()
SAME_PLACE = 0.05  # dm
EYEBALL = 0.14  # dm, radius on the mean head


def landmarks(g: Geometry) -> Tensor:
    """Left and right eye, nose tip, left and right mouth corner in the picture: (n, 5, 2) pixels x, y. A pixel's centre
    is at one half. The eyes are the fronts of the eyeballs; the mouth moves with the expression."""
    t = g.tables
    balls = torch.cat([g.head.eyes[:, :2], g.head.eyes[:, 2:] + g.head.radius[:, None]], 1)[:, :, 0]
    fronts = g.view.project(g.view.pose(balls.transpose(0, 1).flip(1)))[:2]
    fixed = (t.nose, t.corners[1], t.corners[0])
    points = [torch.cat([eye, *(v[k : k + 1] for k in fixed)]) for eye, v in zip(fronts, (g.x, g.y), strict=True)]
    return torch.stack(points).permute(2, 1, 0) / 2


def inner_face(g: Geometry, p: Points) -> Tensor:
    """(N + 1,) bool: points of the inner face, from brows to chin, with eyes and mouth."""
    inside = torch.zeros(len(p.material) + 1, dtype=torch.bool, device=p.slot.device)
    for material in (EYE_LEFT, EYE_RIGHT, TEETH, TONGUE, LASH):
        inside[:-1] |= p.material == material
    h = hits(p, BODY)
    if h is not None:
        inside.index_copy_(0, h.write.view(-1), (h.static(g.tables.inner_face) > 0).view(-1))
        inside[-1] = False
    return inside


def _per_pixel(p: Points, values: Tensor) -> Tensor:
    """Values of the points (C, N + 1) at the pixels' upper left samples: (n, C, size, size)."""
    upper_left = p.slot[0].view(-1)
    return torch.stack([v.index_select(0, upper_left).view(p.n, p.size, p.size) for v in values], 1)


def _dense(p: Points, channels: int, empty: float, parts: Iterable[tuple[Hits, Sequence[Tensor]]]) -> Tensor:
    """Values of several materials' points, (n, P) for each channel, at the pixels: (n, channels, size, size); `empty`
    elsewhere."""
    out = torch.full((channels, len(p.material) + 1), empty, device=p.slot.device)
    for h, values in parts:
        out.index_copy_(1, h.write.view(-1), torch.stack(tuple(values)).view(channels, -1))
    out[:, -1] = empty
    return _per_pixel(p, out)


def _every(p: Points, materials: Iterable[int]) -> list[tuple[int, Hits]]:
    """Of those materials that any picture shows, the points."""
    return [(m, h) for m in materials if (h := hits(p, m)) is not None]


def depth(g: Geometry, p: Points) -> Tensor:
    """(n, 1, size, size) dm from the camera along its axis; inf where nothing is."""
    back = {TEETH: BACK[mesh.TEETH], TONGUE: BACK[mesh.TONGUE]}
    parts = [
        (h, [g.view.distance.view(-1, 1) - h.moving(g.depth) - back.get(m, 0.0)])
        for m, h in _every(p, (*HEAD, HAIR, GLASSES))
    ]
    return _dense(p, 1, float("inf"), parts)


def normals(g: Geometry, p: Points) -> Tensor:
    """(n, 3, size, size) unit normals of the head in the view (right, up, to the camera); 0 elsewhere."""
    t, parts = g.tables, []
    vertex = g.normal.index_copy(1, t.lashes, g.normal.index_select(1, t.lash_root))  # lashes: of their roots
    for m, h in _every(p, HEAD):
        if m == EYE_LEFT:
            local = on_balls(g, h)
            value = eyes.turned(local, g.view.turn[:, :, 0].permute(2, 0, 1))
        else:
            value = unit(h.moving(vertex))
        parts.append((h, value))
    return _dense(p, 3, 0.0, parts)


def correspondence(g: Geometry, p: Points) -> Tensor:
    """(n, 3, size, size) dm: where on the neutral mean head this point of the head lies; NaN elsewhere. The same place
    of two people, or of two pictures of one person, has the same value."""
    parts = []
    for m, h in _every(p, HEAD):
        if m == EYE_LEFT:
            value = g.tables.eye_centres.T[..., None, None] + EYEBALL * on_balls(g, h)
        else:
            value = h.static(g.tables.rest_rows)
        parts.append((h, value))
    return _dense(p, 3, float("nan"), parts)


def segmentation(g: Geometry, p: Points, occluder: Tensor) -> Tensor:
    """(n, 1, size, size) uint8, values as in SEGMENTS. occluder: (n, 1, size, size) bool."""
    label = torch.zeros(len(p.material) + 1, dtype=torch.uint8, device=p.slot.device)
    simple = {EYE_LEFT: "eyes", EYE_RIGHT: "eyes", LASH: "eyes", TEETH: "teeth", TONGUE: "mouth", HAIR: "hair",
              GLASSES: "glasses"}  # fmt: skip
    for material, name in simple.items():
        label[:-1][p.material == material] = SEGMENTS.index(name)
    h = hits(p, BODY)
    if h is not None:
        label.index_copy_(0, h.write.view(-1), _parts_of_skin(g, h).view(-1))
    label[-1] = SEGMENTS.index("background")
    return torch.where(occluder, SEGMENTS.index("occluder"), _per_pixel(p, label[None]))


def _parts_of_skin(g: Geometry, h: Hits) -> Tensor:
    """Labels (n, P) uint8 of points of the body."""
    rest = h.static(g.tables.rest_rows)
    lip, mouth = (h.static(g.tables.masks[MASKS.index(name)]) for name in ("lip", "mouth"))
    line = h.moving(hair_scalp.scalp_line(scalp(h.x.device), g.a).T)
    label = torch.full_like(h.write, SEGMENTS.index("skin"), dtype=torch.uint8)
    chosen = {
        "lips": lip > 0, "mouth": mouth > 0.5, "brows": paint.brow(*rest, g.traits) > 0.3,
        "hair": line > 0, "cloth": worn.cloth(*rest, g.a)[0] > 0.5,
    }  # fmt: skip
    for name, where in chosen.items():
        label[where] = SEGMENTS.index(name)
    return label


def flow(first: Geometry, second: Geometry, p: Points, other: Points) -> tuple[Tensor, Tensor]:
    """Where the head's points of the first picture are in the second: motion (n, 2, size, size) in pixels x, y, 0 where
    the first shows no head, and (n, 1, size, size) bool: the point is seen in both."""
    moved = []
    for _, h in _every(p, HEAD):
        x, y, z = (h.moving(v) for v in (second.x, second.y, second.depth))
        nearest = other.at(other.depth(), x.floor().long(), y.floor().long(), float("-inf"))
        seen = (nearest - z).abs() < SAME_PLACE
        moved.append((h, [(x - h.moving(first.x)) / 2, (y - h.moving(first.y)) / 2, seen.float()]))
    dense = _dense(p, 3, 0.0, moved)
    return dense[:, :2], dense[:, 2:] > 0.5
