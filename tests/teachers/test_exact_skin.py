"""Skin, eyes, teeth and tongue: the same point has the same colour in any batch, and the colours are sane."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from teachers.exact import eyes, masks, paint

TRAITS = (
    "gender age tone undertone redness texture lip_hue lip_dark brow_arch brow_length brow_height brow_thickness "
    "brow_dark brow_warm freckles mole mole_x mole_y beard moustache stubble eye_bags wrinkles makeup lashes iris_hue "
    "iris_light"
).split()
ATTRIBUTES = "brow_raise smile squint blink ambient hair_dark hair_warm hair_grey bald hair_length".split()
PICTURES, POINTS = 3, 1001


def _unit(*shape: int, generator: torch.Generator) -> Tensor:
    x = torch.randn(3, *shape, generator=generator)
    return x / x.norm(dim=0)


@pytest.fixture(scope="module")
def scene() -> SimpleNamespace:
    generator = torch.Generator().manual_seed(3)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    low, size = torch.tensor([-0.8, 5.8, 0.0]), torch.tensor([1.6, 2.6, 1.6])
    rest = uniform(PICTURES * POINTS, 3) * size + low
    x, y, z = rest.T.reshape(3, PICTURES, POINTS)
    nx, ny, nz = _unit(PICTURES, POINTS, generator=generator)
    points = SimpleNamespace(
        x=x,
        y=y,
        z=z,
        nx=nx,
        ny=ny,
        nz=nz,
        visible=uniform(PICTURES, POINTS),
        occlusion=uniform(PICTURES, POINTS),
        angle=torch.atan2(x, z + 0.15),
        scalp=uniform(PICTURES, POINTS) - 0.8,
        masks=masks.vertex_masks(rest).T.reshape(-1, PICTURES, POINTS),
    )
    light = {name: _unit(PICTURES, 1, generator=generator) for name in ("key", "half", "rim")}
    light |= {name: uniform(3, PICTURES, 1) for name in ("key_colour", "rim_colour", "sky", "ground")}
    return SimpleNamespace(
        points=points,
        traits={name: uniform(PICTURES, 1) for name in TRAITS},
        attributes={name: uniform(PICTURES, 1) for name in ATTRIBUTES},
        light=light,
        gaze=_unit(PICTURES, 1, generator=generator),
        turn=torch.linalg.qr(torch.randn(PICTURES, 3, 3, generator=generator))[0],
        normal=torch.stack([nx, ny, nz]),
    )


def _part(scene: SimpleNamespace, i: int, points: slice) -> SimpleNamespace:
    """Some points of one picture alone."""
    return SimpleNamespace(
        points=SimpleNamespace(**{k: v[..., i : i + 1, points].contiguous() for k, v in vars(scene.points).items()}),
        traits={k: v[i : i + 1] for k, v in scene.traits.items()},
        attributes={k: v[i : i + 1] for k, v in scene.attributes.items()},
        light={k: v[:, i : i + 1] for k, v in scene.light.items()},
        gaze=scene.gaze[:, i : i + 1],
        turn=scene.turn[i : i + 1],
        normal=scene.normal[:, i : i + 1, points].contiguous(),
    )


def _skin(s: SimpleNamespace) -> Tensor:
    return paint.skin(s.points, s.traits, s.attributes, s.light, 1.0)


def _eye(s: SimpleNamespace) -> Tensor:
    local, gaze, side = s.normal[:, None], s.gaze[:, None], torch.ones(1, 1, 1)
    return eyes.eyes(local, gaze, s.turn, side, s.traits, s.attributes, s.light)[:, 0]


def _teeth(s: SimpleNamespace) -> Tensor:
    return eyes.teeth(s.points.x, s.points.y, s.points.z, s.normal, s.traits, s.attributes, s.light, 1.0)


def _tongue(s: SimpleNamespace) -> Tensor:
    return eyes.tongue(s.points.x, s.points.y, s.points.z, s.normal, s.traits, s.attributes, s.light)


@pytest.mark.parametrize("colour", [_skin, _eye, _teeth, _tongue])
def test_a_point_has_the_same_bytes_in_any_batch(scene, colour):
    together = colour(scene)
    assert together.shape == (3, PICTURES, POINTS)
    for i in range(PICTURES):
        for points in (slice(0, POINTS), slice(3, 50), slice(17, 22), slice(POINTS - 1, POINTS)):
            assert torch.equal(colour(_part(scene, i, points))[:, 0], together[:, i, points])


@pytest.mark.parametrize("colour", [_skin, _eye, _teeth, _tongue])
def test_colours_are_finite_and_not_negative(scene, colour):
    values = colour(scene)
    assert values.isfinite().all() and values.min() >= 0 and values.max() < 20


def test_masks_are_symmetric_and_lie_where_they_should():
    rest = torch.tensor([[0.0, 6.62, 1.58], [0.44, 6.97, 1.2], [-0.44, 6.97, 1.2], [0.2, 6.35, 1.4], [0.0, 8.4, 0.3]])
    field = dict(zip(masks.MASKS, masks.vertex_masks(rest).T, strict=True))
    assert field["lip"][0] > 0.03 and field["lip"][1] < -0.05
    assert field["blush"][1] == field["blush"][2] > 0.5
    assert field["beard"][3] > 0.9 and field["beard"][4] == 0


def test_brows_follow_the_hair_by_half(scene):
    own = paint.brow_tone(scene.traits, scene.attributes)
    fair = paint.brow_tone(scene.traits, scene.attributes | {"hair_dark": torch.zeros(PICTURES, 1)})
    assert (fair >= own).all()
