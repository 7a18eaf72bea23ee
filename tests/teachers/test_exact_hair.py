"""Hair of the drawn people, on a round head: shapes, ranges, and no dependence on the rest of the batch."""

import numpy as np
import pytest
import torch

from teachers.exact.hair import grow
from teachers.exact.hair_scalp import (
    CARDS,
    PANELS,
    scalp,
    scalp_line,
    scalp_places,
    scalp_push,
    scalp_tangent,
    style,
)
from teachers.exact.hair_shade import hair_colour, light_of_hair, opaque, scalp_mask, shade, shade_scalp
from teachers.exact.hair_styles import ORDER, STYLES, hair_attributes


def ball():
    """A head-sized ellipsoid: vertices (V, 3), triangles (F, 3)."""
    rows, columns = 24, 36
    up = np.linspace(0.02, np.pi - 0.02, rows)[:, None]
    round_ = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    x, y, z = np.sin(up) * np.sin(round_), np.cos(up) + 0 * round_, np.sin(up) * np.cos(round_)
    points = np.stack([0.74 * x, 7.4 + 1.08 * y, 0.5 + 0.98 * z], -1).reshape(-1, 3)
    faces = []
    for i in range(rows - 1):
        for j in range(columns):
            a, b = i * columns + j, i * columns + (j + 1) % columns
            faces += [[a, a + columns, b], [b, a + columns, b + columns]]
    return torch.tensor(points, dtype=torch.float32), torch.tensor(faces)


@pytest.fixture(scope="module")
def head():
    rest, faces = ball()
    return rest, scalp(rest, faces)


def attributes(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    a = hair_attributes(torch.rand(n, 14, generator=g))
    return a | {"yaw": torch.rand(n, 1, generator=g) * 70 - 35, "pitch": torch.rand(n, 1, generator=g) * 30 - 15}


def people(rest, n):
    return rest + 0.05 * torch.randn(n, *rest.shape, generator=torch.Generator().manual_seed(1))


def light(n):
    g = torch.Generator().manual_seed(2)
    vectors = {k: torch.nn.functional.normalize(torch.randn(3, n, 1, generator=g), dim=0) for k in ("key", "half")}
    return vectors | {k: torch.rand(3, n, 1, generator=g) for k in ("colour", "sky", "ground")}


def test_styles_stay_in_their_ranges():
    a = hair_attributes(torch.rand(4000, 14, generator=torch.Generator().manual_seed(3)))
    own = torch.cat([a[k] for k in ORDER], 1)
    ranges = torch.tensor([row[1:] for row in STYLES.values()])
    inside = ((own[:, None] >= ranges[..., 0] - 1e-5) & (own[:, None] <= ranges[..., 1] + 1e-5)).all(2)
    assert inside.any(1).all() and inside.any(0).all()
    assert 0.02 < a["bald"].mean() < 0.09
    for name in ("hair_dark", "hair_grey", "hair_phase"):
        assert a[name].min() >= 0 and a[name].max() <= 1


def test_cards_have_the_shapes_promised(head):
    rest, tables = head
    a = attributes(6)
    a["bald"][0] = 1
    r = grow(tables, people(rest, 6), a, style(a), 100, 4)
    assert r.points.shape == (6, 100, 5, 2, 3) and r.used.shape == (6, 100, 4) and r.used.dtype == torch.bool
    assert r.normal.shape == r.tangent.shape == (6, 100, 5, 3) and r.open.shape == (6, 100, 5)
    assert torch.isfinite(r.points).all() and not r.used[0].any() and r.used[1:].any()
    assert (r.normal.norm(dim=3) - 1).abs().max() < 1e-4 and (r.tangent.norm(dim=3) - 1).abs().max() < 1e-4
    assert r.seed.min() >= 0 and r.seed.max() < 1


@pytest.mark.parametrize("count, segments", [(PANELS, 6), (CARDS + 1, 6), (CARDS, 2)])
def test_wrong_counts_are_refused(head, count, segments):
    rest, tables = head
    with pytest.raises(ValueError, match="count"):
        grow(tables, people(rest, 1), attributes(1), style(attributes(1)), count, segments)


def test_no_picture_depends_on_the_others(head):
    rest, tables = head
    n, v = 5, people(rest, 5)
    a = attributes(n)
    combed = style(a)
    whole = grow(tables, v, a, combed, 150, 5)
    for i in range(n):
        own = {k: x[i : i + 1] for k, x in a.items()}
        own_style = style(own)
        alone = grow(tables, v[i : i + 1], own, own_style, 150, 5)
        for name in ("points", "normal", "tangent", "open", "seed", "used"):
            assert torch.equal(getattr(alone, name)[0], getattr(whole, name)[i]), name
        assert torch.equal(scalp_line(tables, own)[0], scalp_line(tables, a)[i])
        assert torch.equal(scalp_push(tables, own, own_style)[0], scalp_push(tables, a, combed)[i])
        assert torch.equal(scalp_tangent(tables, own, own_style)[:, 0], scalp_tangent(tables, a, combed)[:, i])
        assert torch.equal(scalp_places(tables, own, own_style)[1][0], scalp_places(tables, a, combed)[1][i])


def test_no_point_depends_on_the_others():
    n, p, k = 3, 1000, 333
    g = torch.Generator().manual_seed(4)
    normal, tangent = (torch.nn.functional.normalize(torch.randn(3, n, p, generator=g), dim=0) for _ in range(2))
    u, t, seed, open_ = torch.rand(4, n, p, generator=g)
    a = attributes(n)
    combed = style(a)
    lit = light_of_hair(light(n), a, combed)

    def both(s):
        mask, strands, locks = scalp_mask(open_[:, s] - 0.5, u[:, s], t[:, s], u[:, s], t[:, s] + 7.5, a, combed, 1.0)
        under = shade_scalp(normal[..., s], tangent[..., s], open_[:, s], strands, locks, combed, lit)
        card = u[:, s] * 2 - 1, t[:, s], seed[:, s], open_[:, s]
        return mask, under, shade(normal[..., s], tangent[..., s], *card, lit)

    for whole, part in zip(both(slice(0, p)), both(slice(0, k)), strict=True):
        assert torch.equal(whole[..., :k], part)
        assert torch.isfinite(whole).all() and whole.min() >= 0
    there = opaque(u[0] * 2 - 1, t[0], seed[0])
    assert there.dtype == torch.bool and 0.2 < there.float().mean() < 0.95
    assert opaque(torch.tensor([-1.0, 1.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.999])).shape == (2,)


def test_bald_heads_have_no_hair(head):
    _, tables = head
    a = attributes(2) | {"bald": torch.ones(2, 1)}
    assert (scalp_line(tables, a) == -1).all() and (scalp_push(tables, a, style(a)) == 0).all()


def test_hair_gets_lighter_from_black_to_blond():
    plain = torch.zeros(5, 1)
    one = {"hair_warm": plain, "hair_grey": plain, "hair_dark": torch.linspace(1, 0, 5)[:, None]}
    colour = hair_colour(one)
    assert colour.shape == (3, 5, 1) and (colour[:, 1:] > colour[:, :-1]).all()
