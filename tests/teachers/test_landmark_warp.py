"""The classical swap: its landmarks on real photographs, its warp against scikit-image's, its blending by hand."""

import json

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared
from PIL import Image
from skimage.color import lab2rgb, rgb2lab
from skimage.transform import PiecewiseAffineTransform, warp
from torch.nn import functional as F

from students.identity_encoder import load_identity_encoder
from teachers import landmark_warp as lw
from teachers.exact import render, sample_attributes, sample_identities
from teachers.landmark_warp import MEAN_SHAPE, LandmarkWarpTeacher
from teachers.landmarks import MIRRORED, LandmarkNetwork, Landmarks, five_points
from teachers.teacher import NoFace

WEIGHTS = SHARED / "weights" / "3ddfa_v2_mb05_120x120.pth"


def smooth(n: int, size: int, seed: int = 0) -> torch.Tensor:
    """Pictures (n, 3, size, size) without sharp edges, in [-1, 1]."""
    drawn = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(drawn, (size, size), mode="bicubic", align_corners=False).clamp(-1, 1)


def shapes(n: int, seed: int = 0) -> torch.Tensor:
    """Landmarks (n, 68, 2) of faces that differ a little."""
    generator = torch.Generator().manual_seed(seed)
    return MEAN_SHAPE + 0.004 * torch.randn(n, 68, 2, generator=generator).clamp(-2, 2)


def closed(points: torch.Tensor) -> torch.Tensor:
    """The same faces with their lips together."""
    points = points.clone()
    points[:, [67, 66, 65]] = points[:, [61, 62, 63]] + 0.002
    return points


def photographs(split: str, n: int, seed: int = 0) -> tuple[torch.Tensor, list[dict]]:
    rows = [json.loads(line) for line in (SHARED / "faces" / "index.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["file"].startswith(split)]
    rows = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))[:n]]
    pixels = np.stack([np.asarray(Image.open(SHARED / "faces" / row["file"])) for row in rows])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1, rows


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A weight file of the right layout, whose landmarks mean nothing; for what is done with known landmarks."""
    path = tmp_path_factory.mktemp("weights") / "landmarks.pth"
    torch.manual_seed(0)
    state = {f"module.{key}": tensor for key, tensor in LandmarkNetwork().state_dict().items()}
    torch.save({"state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def teacher(untrained):
    return LandmarkWarpTeacher({"landmarks": untrained}).eval()


@pytest.fixture(scope="module")
def trained():
    return LandmarkWarpTeacher({"landmarks": WEIGHTS}).eval()


# The warp


@pytest.mark.filterwarnings("ignore:`estimate` is deprecated")
def test_the_warp_is_that_of_scikit_image():
    size = 80
    image = smooth(1, size)
    target, source = (lw.mesh_points(shapes(1, seed), 0.3) for seed in (1, 2))
    triangles = lw.triangulate(target[0])
    place = lw.locate(target, triangles, size)
    ours = F.grid_sample(image, lw.grid(place, source, triangles), padding_mode="border", align_corners=False)
    transform = PiecewiseAffineTransform()
    transform.estimate(target[0].double().numpy() * size - 0.5, source[0].double().numpy() * size - 0.5)
    theirs = warp(image[0].permute(1, 2, 0).numpy(), transform, order=1, mode="edge", preserve_range=True)
    inside = place.inside[0] & (F.max_pool2d((~place.inside).float(), 3, 1, 1)[0] == 0)
    difference = (ours[0].permute(1, 2, 0) - torch.from_numpy(theirs).float())[inside].abs()
    assert inside.sum() > 1200
    assert difference.max() < 1e-3


def test_every_triangle_shows_its_face_in_the_mean_shape_and_the_mouth_is_one_of_them(teacher):
    mean = lw.mesh_points(MEAN_SHAPE[None], teacher.forehead)[0]
    assert (lw.double_area(mean[teacher.triangles]) > 0).all()
    assert teacher.mouth_inside.sum() == 6  # a polygon of eight corners
    assert set(teacher.triangles.flatten().tolist()) == set(range(78))


def test_the_mesh_has_no_holes_even_where_it_folds(teacher):
    points = shapes(3)
    points[1, :, 0] = 0.5 + 0.5 * (points[1, :, 0] - 0.5) - 0.9 * (points[1, :, 1] - 0.6).square()
    points[2, 27:36, 0] -= 0.2  # the nose over the cheek, as in a profile
    place = lw.locate(lw.mesh_points(points, 0.3), teacher.triangles, 96)
    areas = lw.double_area(lw.mesh_points(points, 0.3)[:, teacher.triangles])
    assert (areas[2] < 0).sum() > 5
    for inside in place.inside.numpy():
        for row in inside[np.flatnonzero(inside.any(1))[2:-2]]:
            found = np.flatnonzero(row)
            assert len(found) == found[-1] - found[0] + 1
    assert (place.weights[place.inside] > -1e-3).all()
    torch.testing.assert_close(
        place.weights[place.inside].sum(1), torch.ones(int(place.inside.sum())), atol=1e-4, rtol=0
    )


def test_a_face_laid_on_itself_is_itself(teacher):
    images, points = smooth(2, 96), shapes(2)
    swap = teacher.lay(images, points, images, points)
    assert (swap - images).abs().max() < 5e-3


def test_it_follows_the_source_wherever_it_is_in_its_picture(teacher):
    target, target_points, points = smooth(1, 96, 1), shapes(1, 1), shapes(1, 2)
    source = smooth(1, 96, 2)
    swap = teacher.lay(source, points, target, target_points)
    moved = teacher.lay(source.roll((-3, 5), (2, 3)), points + torch.tensor([5, -3]) / 96, target, target_points)
    assert (moved - swap).abs().max() < 2e-3
    smaller = F.interpolate(F.pad(source, (96, 0, 96, 0)), (96, 96), mode="area")  # in a corner, at half the size
    scaled = teacher.lay(smaller, 0.5 + points / 2, target, target_points)
    assert (scaled - swap).abs().mean() < 0.01
    assert (swap - target).abs().mean() > 0.05


def test_sizes_of_source_and_target_may_differ(teacher):
    large, small = smooth(1, 160, 3), F.interpolate(smooth(1, 160, 3), (80, 80), mode="area")
    target, points = smooth(1, 96, 4), shapes(2)
    swaps = [teacher.lay(source, points[:1], target, points[1:]) for source in (large, small)]
    assert swaps[0].shape == target.shape
    assert (swaps[0] - swaps[1]).abs().mean() < 0.01


# What is laid where


@pytest.mark.parametrize("feather", [0.0, 0.025, 0.1])
def test_outside_the_face_the_target_stays(untrained, feather):
    teacher = LandmarkWarpTeacher({"landmarks": untrained}, feather=feather)
    target, points = smooth(1, 96, 1), shapes(2)
    swap = teacher.lay(-target, points[:1], target, points[1:])
    inside = lw.locate(lw.mesh_points(points[1:], teacher.forehead), teacher.triangles, 96).inside[:, None]
    assert torch.equal(swap[~inside.expand_as(swap)], target[~inside.expand_as(swap)])
    assert (swap - target).abs()[inside.expand_as(swap)].mean() > 0.05


def test_soft_masks_stay_within_and_rise_to_one():
    inside = torch.zeros(1, 64, 64, dtype=torch.bool)
    inside[:, 10:50, 12:64] = True  # up to the right border: a picture's end is no edge of a face
    mask = lw.soft_inside(inside, 5)
    assert mask.min() >= 0 and mask.max() <= 1 + 1e-6
    assert (mask[~inside[:, None]] == 0).all()
    assert mask[0, 0, 30, 40] > 0.999 and mask[0, 0, 30, 63] > 0.999
    assert 0 < mask[0, 0, 11, 40] < 0.1 and (mask[0, 0, 10:30, 40].diff() >= -1e-6).all()


def test_a_mouth_that_opens_in_the_target_only_keeps_its_inside(teacher):
    target, points = smooth(1, 128, 1), MEAN_SHAPE[None]
    source = -target
    middle = (slice(None), slice(None), 96, 64)  # between the lips
    assert lw.mouth_opening(points) > lw.OPEN > lw.mouth_opening(closed(points))
    kept = teacher.lay(source, closed(points), target, points)
    taken = teacher.lay(source, points, target, points)
    torch.testing.assert_close(kept[middle], target[middle])
    assert (taken[middle] - target[middle]).abs().max() > 0.05


@pytest.mark.parametrize("turned", ["left", "right"])
def test_the_half_that_is_turned_away_is_filled_from_the_other(untrained, turned):
    teacher = LandmarkWarpTeacher({"landmarks": untrained}, colour="none")
    away = (MEAN_SHAPE[:, 0] > 0.5) if turned == "right" else (MEAN_SHAPE[:, 0] < 0.5)
    points = MEAN_SHAPE.clone()
    points[away, 0] = 0.5 + 0.15 * (points[away, 0] - 0.5)
    picture = torch.full((1, 3, 128, 128), -1.0)
    picture[..., :64] = 1.0
    source = picture if turned == "right" else -picture  # bright is the half that is seen
    swap = teacher.lay(source, points[None], torch.zeros(1, 3, 128, 128), MEAN_SHAPE[None])
    assert swap[0, :, 72, 42].mean() > 0.9 and swap[0, :, 72, 86].mean() > 0.9
    frontal = teacher.lay(source, MEAN_SHAPE[None], torch.zeros(1, 3, 128, 128), MEAN_SHAPE[None])
    assert frontal[0, :, 72, [42, 86]].mean(0).sign().sum() == 0


def test_lab_is_that_of_scikit_image():
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    images[0, :, 0, :4] = torch.tensor([[-1.0, 1.0, -0.98, 0.2]])
    lab = lw.rgb_to_lab(images)
    theirs = rgb2lab(((images + 1) / 2).permute(0, 2, 3, 1).double().numpy())
    np.testing.assert_allclose(lab.permute(0, 2, 3, 1).numpy(), theirs, atol=2e-3)
    np.testing.assert_allclose(
        lw.lab_to_rgb(lab).permute(0, 2, 3, 1).numpy(), lab2rgb(theirs).astype(np.float32) * 2 - 1, atol=2e-3
    )


@pytest.mark.parametrize("colour", ["lab", "rgb"])
def test_colours_become_those_of_the_target_under_the_mask(colour):
    before = lw.rgb_to_lab if colour == "lab" else torch.clone
    target, images = 0.4 * smooth(2, 48, 1) + 0.2, 0.4 * smooth(2, 48, 2) - 0.2
    mask = torch.zeros(2, 1, 48, 48)
    mask[..., 8:40, 8:40] = 1
    inner = (..., slice(8, 40), slice(8, 40))
    found, wanted = (before(x)[inner].flatten(2) for x in (lw.transfer_colour(images, target, mask, colour), target))
    torch.testing.assert_close(found.mean(2), wanted.mean(2), atol=0.02 * wanted.std(), rtol=0.01)
    torch.testing.assert_close(found.std(2), wanted.std(2), rtol=0.05, atol=0.01)
    assert torch.equal(lw.transfer_colour(images, target, mask, "none"), images)


def test_a_plain_source_does_not_blow_up(teacher):
    target, points = smooth(1, 64, 1), shapes(2)
    swap = teacher.lay(torch.zeros(1, 3, 64, 64), points[:1], target, points[1:])
    assert torch.isfinite(swap).all() and swap.abs().max() <= 1


def test_a_batch_is_the_pairs_one_by_one(teacher):
    source, target, theirs, ours = smooth(3, 64, 1), smooth(3, 64, 2), shapes(3, 1), shapes(3, 2)
    together = teacher.lay(source, closed(theirs), target, ours)
    for i in range(3):
        one = slice(i, i + 1)
        alone = teacher.lay(source[one], closed(theirs[one]), target[one], ours[one])
        torch.testing.assert_close(together[one], alone, atol=1e-3, rtol=0)
    assert teacher.lay(source[:0], theirs[:0], target[:0], ours[:0]).shape == (0, 3, 64, 64)


# Files and options


def test_options_and_files_are_checked(untrained, tmp_path):
    for options, message in (
        ({"colour": "cmyk"}, "expected lab, rgb, none, got 'cmyk'"),
        ({"feather": -0.1}, "expected feather"),
        ({"forehead": 0.0}, "expected feather within"),
    ):
        with pytest.raises(ValueError, match=message):
            LandmarkWarpTeacher({"landmarks": untrained}, **options)
    with pytest.raises(ValueError, match="weights.landmarks is missing.*3ddfa_v2"):
        LandmarkWarpTeacher()
    torch.save({"conv1.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"other.pth: not the weights of LandmarkNetwork: conv1.weight: expected shape"
    ):
        LandmarkWarpTeacher({"landmarks": tmp_path / "other.pth"})
    state = LandmarkNetwork().state_dict()
    del state["fc_lm.bias"]
    torch.save(state, tmp_path / "incomplete.pth")
    with pytest.raises(ValueError, match="fc_lm.bias: expected shape .136,., found none"):
        Landmarks(tmp_path / "incomplete.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match="text.pth: is text"):
        Landmarks(tmp_path / "text.pth")


def test_the_hash_knows_the_options(untrained):
    hashes = {LandmarkWarpTeacher({"landmarks": untrained}, **o).weight_hash for o in ({}, {"feather": 0.1})}
    assert len(hashes) == 2


def test_mirroring_twice_changes_nothing():
    assert [MIRRORED[i] for i in MIRRORED] == list(range(68))
    mirrored = torch.stack([1 - MEAN_SHAPE[:, 0], MEAN_SHAPE[:, 1]], 1)[MIRRORED]
    assert (mirrored - MEAN_SHAPE).abs().max() < 0.01


# Real photographs


@needs_shared
def test_landmarks_are_where_a_detector_finds_them(trained):
    images, rows = photographs("heldout", 60)
    points = trained.landmarks(images).detach()
    assert points.shape == (60, 68, 2) and points.dtype == torch.float32
    detected = torch.tensor([row["lm"] for row in rows])
    off = (five_points(points) * 256 - 0.5 - detected).norm(dim=2)
    assert off.mean() < 3.2 and off[:, :2].mean() < 2
    nose = (points[:, 30, 0] - points[:, [0, 16], 0].mean(1)).numpy()
    assert np.corrcoef(nose, [row["yaw"] for row in rows])[0, 1] < -0.9
    mirrored = trained.landmarks(images.flip(3)).detach()[:, MIRRORED]
    mirrored[..., 0] = 1 - mirrored[..., 0]
    assert (mirrored - points).norm(dim=2).mean() * 256 < 3
    half = trained.landmarks(F.interpolate(images, (128, 128), mode="area")).detach()
    assert (half - points).norm(dim=2).mean() * 256 < 3


@needs_shared
@pytest.mark.parametrize("size", [96, 256, 320])
def test_pictures_without_a_face_are_named(trained, size):
    images, _ = photographs("train", 6)
    images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
    images[1] = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images[4] = 0.3
    images[5] = float("nan")
    with pytest.raises(NoFace) as caught:
        trained.landmarks(images)
    assert caught.value.index == [1, 4, 5]
    with pytest.raises(NoFace, match="3 of 6 pictures: 1, 4, 5"):
        trained(images[[0, 0, 0, 0, 0, 0]], images)
    with pytest.raises(NoFace):
        trained(images, images[[0, 0, 0, 0, 0, 0]])


@needs_shared
def test_swaps_of_photographs_look_like_the_source(trained):
    source, source_rows = photographs("heldout", 24, seed=1)
    target, target_rows = photographs("heldout", 24, seed=2)
    other = [a["identity"] != b["identity"] for a, b in zip(source_rows, target_rows, strict=True)]
    source, target = source[other], target[other]
    swap = trained(source, target)
    assert swap.shape == target.shape and not swap.requires_grad
    encoder = load_identity_encoder("foamliu_128", SHARED / "weights" / "mobilefacenet_foamliu.pt")
    of_source, of_target, of_swap = map(encoder, (source, target, swap))
    to_source, copied = (of_swap * of_source).sum(1).mean(), (of_target * of_source).sum(1).mean()
    assert copied < 0.1 and to_source > 0.35 and to_source > (of_swap * of_target).sum(1).mean() + 0.1
    assert (swap - target)[:, :, :40].abs().max() == 0  # the hair
    one = trained(source[:1], target[:1])
    torch.testing.assert_close(one, swap[:1], atol=2e-2, rtol=0)
    torch.testing.assert_close(trained(source[:4], source[:4]), source[:4], atol=0.12, rtol=0)


@needs_shared
def test_it_works_on_synthetic_faces(trained):
    images = render(sample_identities(24, 3), sample_attributes(24, 4), size=128).image
    points, found = trained.landmarks.find(images)
    assert found.float().mean() > 0.8
    images = images[found]
    swap = trained(images, images.roll(1, 0))
    assert torch.isfinite(swap).all() and (swap - images.roll(1, 0)).abs().mean() > 0.01
