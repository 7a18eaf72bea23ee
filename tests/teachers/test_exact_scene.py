"""Background, clothes, glasses and objects before the face: exact in any batch, and where they belong."""

import pytest
import torch

from teachers.exact import glasses, held, scene, worn

NAMES = (
    "background_kind", "background_hue", "background_saturation", "background_value", "background_phase", "clothes_hue",
    "clothes_saturation", "clothes_value", "collar", "glasses_shape", "glasses_dark", "occluder_kind", "occluder_x",
    "occluder_y", "occluder_hue", "ambient", "light_strength", "light_warmth", "light_azimuth", "light_elevation",
)  # fmt: skip


@pytest.fixture(scope="module")
def a() -> dict[str, torch.Tensor]:
    """Attributes of 24 pictures, of every kind."""
    numbers = torch.rand(24, len(NAMES), generator=torch.Generator().manual_seed(2))
    attributes = {name: numbers[:, k : k + 1] for k, name in enumerate(NAMES)} | {"occluder": torch.ones(24, 1)}
    for name in ("background_kind", "occluder_kind", "collar"):
        attributes[name] = torch.linspace(0, 0.999, 24)[:, None]
    return attributes | {
        "light_azimuth": 80 * (attributes["light_azimuth"] - 0.5),
        "light_elevation": torch.full((24, 1), 30.0),
    }


def some(a: dict[str, torch.Tensor], rows: list[int]) -> dict[str, torch.Tensor]:
    return {name: values[rows] for name, values in a.items()}


def head(count: int) -> torch.Tensor:
    """A round head of (V, 3) rest positions with a nose and a neck, as (count, V, 3)."""
    v = torch.randn(4000, 3, generator=torch.Generator().manual_seed(3))
    v = v / v.norm(dim=1, keepdim=True) * torch.tensor([0.72, 1.0, 0.95]) + torch.tensor([0.0, 7.3, 0.5])
    v[:200] = torch.tensor([0.0, 7.26, 1.5]) + 0.05 * v[:200] - 0.05 * torch.tensor([0.0, 7.3, 0.5])
    return v.expand(count, -1, -1)


@pytest.mark.parametrize("size", [31, 64, 150])
def test_background_is_the_same_in_any_batch_and_bounded(a, size):
    every = scene.background(a, size)
    assert every.shape == (3, 24, size * size) and every.min() >= 0 and every.max() <= 4
    for rows in ([0], [5, 6], [23, 1, 12]):
        assert torch.equal(scene.background(some(a, rows), size), every[:, rows])


def test_backgrounds_are_alike_at_every_size_and_differ_between_pictures(a):
    small, large = (scene.background(a, size).view(3, 24, size, size) for size in (64, 256))
    small, large = (torch.nn.functional.adaptive_avg_pool2d(image, 8) for image in (small, large))
    assert (small - large).abs().mean() < 0.02
    distance = (small[:, :, None] - small[:, None]).abs().mean((0, 3, 4)) + torch.eye(24)
    assert distance.min() > 0.005


def test_objects_are_the_same_in_any_batch_and_lie_low(a):
    colour, share = held.occluder(70, a)
    assert colour.shape == (3, 24, 70, 70) and share.shape == (24, 70, 70)
    assert torch.isfinite(colour).all() and colour.min() >= 0 and share.min() >= 0 and share.max() <= 1
    for rows in ([3], [8, 9], [22, 1]):
        one, other = held.occluder(70, some(a, rows))
        assert torch.equal(one, colour[:, rows]) and torch.equal(other, share[rows])
    covered = (share > 0.999).flatten(1).float().mean(1)
    assert covered.min() > 0.01 and covered.max() < 0.5
    assert share[:, :33].max() == 0, "eyes stay free"


def test_no_object_where_there_is_none(a):
    assert not held.occluder(40, a | {"occluder": torch.zeros(24, 1)})[1].any()


def test_clothes_are_the_same_in_any_batch_and_below_the_chin(a):
    points = head(24)
    points = torch.cat([points, points - torch.tensor([0.0, 1.6, 0.3])], 1)[:, :7777]
    x, y, z = points.unbind(2)
    share, colour = worn.cloth(x, y, z, a)
    assert colour.shape == (3, *x.shape) and colour.min() >= 0 and colour.max() <= 1.5
    for rows in ([0], [9, 20]):
        one, other = worn.cloth(x[rows], y[rows], z[rows], some(a, rows))
        assert torch.equal(one, share[rows]) and torch.equal(other, colour[:, rows])
    assert share[y > 6.75].max() == 0 and share[(y < 5.1)].min() == 1
    push = worn.cloth_push(points[0], a)
    assert push.shape == share.shape and push.min() >= 0 and 0.02 < push.max() < 0.2 and push[y > 6.6].max() == 0


def test_glasses_are_the_same_in_any_batch_and_clear_of_the_face(a):
    vertices, eyes = head(24), torch.tensor([[0.308, 7.284, 1.20], [-0.308, 7.284, 1.20]]).expand(24, -1, -1)
    where = glasses.fit(vertices[0])
    worn_ = glasses.glasses(vertices, eyes, a, where)
    assert worn_.points.shape == worn_.normals.shape == (24, glasses.COUNT, 3)
    assert (worn_.normals.norm(dim=2) - 1).abs().max() < 1e-4
    for rows in ([0], [9, 20]):
        part = glasses.glasses(vertices[rows], eyes[rows], some(a, rows), where)
        assert all(torch.equal(one, every[rows]) for one, every in zip(part, worn_, strict=True))
    rims = worn_.points[:, : 2 * glasses.AROUND * glasses.SECTION]
    assert rims[..., 2].min() > vertices[0, where.face, 2].min()
    mirrored = worn_.points * torch.tensor([-1.0, 1, 1])
    assert (torch.cdist(worn_.points[0], mirrored[0]).min(1).values < 0.02).float().mean() > 0.9
    faces = torch.cat([glasses.FRAME_FACES, glasses.LENS_FACES])
    assert faces.min() == 0 and faces.max() == glasses.COUNT - 1 == len(glasses.HEIGHT) - 1


def test_triangles_of_glasses_face_outwards(a):
    vertices, eyes = head(24), torch.tensor([[0.308, 7.284, 1.20], [-0.308, 7.284, 1.20]]).expand(24, -1, -1)
    points, normals = glasses.glasses(vertices, eyes, a, glasses.fit(vertices[0]))
    for faces in (glasses.FRAME_FACES, glasses.LENS_FACES):
        p, q, r = (points[0][faces[:, k]] for k in range(3))
        across = torch.linalg.cross(q - p, r - p)
        agrees = (across * normals[0][faces].mean(1)).sum(1) > 0
        assert agrees.float().mean() > 0.95


def test_lens_and_frame_colours(a):
    generator = torch.Generator().manual_seed(4)
    normal = torch.randn(3, 24, 501, generator=generator)
    normal = normal / normal.norm(dim=0)
    light = torch.tensor([0.5, 0.5, 0.7]).view(3, 1, 1).expand(-1, 24, -1)
    height = torch.zeros(24, 501)
    colour, share = glasses.lens(*normal, height, light, a)
    assert torch.isfinite(colour).all() and share.min() >= 0 and share.max() < 1
    one, other = glasses.lens(*normal[:, [7]], height[[7]], light[:, [7]], some(a, [7]))
    assert torch.equal(one, colour[:, [7]]) and torch.equal(other, share[[7]])
    dark = a["glasses_dark"][:, 0] > glasses.SUNGLASSES
    assert share[dark].min() > 0.5 and share[~dark].median() < 0.3
    frame, metal = glasses.frame_colour(a)
    assert frame.shape == (3, 24, 1) and metal.shape == (24, 1) and frame.min() >= 0 and frame.max() <= 1
