"""The renderer of synthetic faces: determinism, independence, geometry, and the exact swap."""

import json

import pytest
import torch
from conftest import ROOT
from torch.nn import functional as F

import teachers
from teachers.exact import (
    ATTRIBUTES,
    EXPRESSION,
    IDENTITY,
    VERSION,
    expression,
    pose_deg,
    render,
    sample_attributes,
    sample_identities,
)

GOLDEN = ROOT / "tests" / "goldens" / "exact_faces.json"


def plain(**changes: float) -> torch.Tensor:
    """(1, A): a bald face that looks straight ahead, evenly lit, with some attributes set."""
    values = dict.fromkeys(ATTRIBUTES, 0.0) | {
        "scale": 1,
        "light_strength": 1,
        "ambient": 0.5,
        "bald": 1,
        "light_elevation": 20,
    }
    return torch.tensor([[(values | changes)[name] for name in ATTRIBUTES]])


def mean_person() -> torch.Tensor:
    return torch.zeros(1, len(IDENTITY))


def thumbnails() -> torch.Tensor:
    return F.adaptive_avg_pool2d(render(sample_identities(4, 5), sample_attributes(4, 6), 64).image, 4)


def test_pixels_are_those_of_this_version():
    """Other pixels are another teacher: raise VERSION, write the golden anew, train the benchmark's networks again."""
    golden = json.loads(GOLDEN.read_text())
    assert golden["version"] == VERSION
    assert (thumbnails() - torch.tensor(golden["thumbnails"])).abs().max() < 0.01


def test_numbers_are_many_spread_and_independent_of_how_many_are_drawn():
    assert len(IDENTITY) >= 40 and len(set(IDENTITY)) == len(IDENTITY) and len(set(ATTRIBUTES)) == len(ATTRIBUTES)
    many, few = sample_identities(2000, 3), sample_identities(5, 3)
    assert torch.equal(many[:5], few) and torch.equal(sample_attributes(2000, 3)[:5], sample_attributes(5, 3))
    assert not torch.equal(few, sample_identities(5, 4))
    assert many.abs().max() <= 2.5 and (many.std(0) - 1).abs().max() < 0.1 and many.mean(0).abs().max() < 0.1
    pose = pose_deg(sample_attributes(2000, 3))
    assert ((pose.std(0) - torch.tensor([15.0, 8.0, 5.0])).abs() < 1).all()
    shown = expression(sample_attributes(2000, 3))
    assert shown.shape == (2000, len(EXPRESSION)) and shown.abs().max() <= 1
    both = torch.cat([many, sample_attributes(2000, 3)[:, :20]], 1).T
    assert torch.corrcoef(both)[: len(IDENTITY), len(IDENTITY) :].abs().max() < 0.12


def test_same_numbers_same_pixels_whatever_the_batch():
    identity, attributes = sample_identities(6, 1), sample_attributes(6, 2)
    batch = render(identity, attributes, 48)
    assert all(torch.equal(a, b) for a, b in zip(batch, render(identity, attributes, 48), strict=True))
    for i in range(6):
        alone = render(identity[i : i + 1], attributes[i : i + 1], 48)
        assert (alone.image - batch.image[i : i + 1]).abs().max() < 1e-3
        assert torch.equal(alone.mask, batch.mask[i : i + 1])


def test_outputs_keep_their_contract():
    drawn = render(sample_identities(8, 1), sample_attributes(8, 2), 64)
    assert drawn.image.shape == (8, 3, 64, 64) and drawn.image.dtype == torch.float32
    assert drawn.image.min() >= -1 and drawn.image.max() <= 1 and drawn.image.std() > 0.1
    assert drawn.mask.shape == (8, 1, 64, 64) and set(drawn.mask.unique().tolist()) == {0.0, 1.0}
    assert drawn.landmarks.shape == (8, 5, 2)


def test_the_mean_face_lies_on_the_canonical_crop():
    x, y = render(mean_person(), plain(), 256).landmarks[0].unbind(-1)
    wanted_x, wanted_y = (
        torch.tensor([95.9, 159.1, 127, 99.4, 155.8]),
        torch.tensor([120.8, 120.8, 160.8, 187.8, 187.8]),
    )
    assert (x - wanted_x).abs().max() < 8 and (y - wanted_y).abs().max() < 8
    assert abs(float(x[1] - x[0]) - 63) < 5


@pytest.mark.parametrize("name, axis, landmark", [("yaw", 0, 2), ("pitch", 1, 2)])
def test_pose_turns_the_face_the_right_way(name, axis, landmark):
    """Yaw turns the nose to the right of the picture, pitch lifts it: against the eyes, which stay nearly in place."""
    rest, turned = (render(mean_person(), plain(**{name: angle}), 128).landmarks[0] for angle in (0, 20))
    moved = (turned[landmark] - turned[:2].mean(0)) - (rest[landmark] - rest[:2].mean(0))
    assert moved[axis] * (1 if name == "yaw" else -1) > 3


def test_roll_turns_clockwise():
    left, right = render(mean_person(), plain(roll=20), 128).landmarks[0][:2]
    assert right[1] - left[1] > 5


def test_mirrored_pose_is_the_mirrored_picture():
    """Of a person without a mole or speckles, but for textures: left and right are one formula."""
    quiet = plain(light_azimuth=0.0, hair_part=0.5)
    for name in ("background_phase", "hair_phase"):
        quiet[0, ATTRIBUTES.index(name)] = 0.0
    right, left = quiet.clone(), quiet.clone()
    right[0, 0], left[0, 0] = 18, -18
    a, b = render(mean_person(), right, 64), render(mean_person(), left, 64)
    assert (a.mask - b.mask.flip(-1)).abs().mean() < 0.02
    assert (a.landmarks[0, 2, 0] + b.landmarks[0, 2, 0] - 64).abs() < 0.5


def test_the_mask_covers_the_inner_face_and_leaves_out_what_hides_it():
    open_face, hidden = (
        render(mean_person(), plain(occluder=k, occluder_kind=0.9, occluder_y=0.2), 64) for k in (0, 1)
    )
    eyes, mouth = open_face.landmarks[0, :2].round().long(), open_face.landmarks[0, 3:].float().mean(0).round().long()
    for x, y in [*eyes.tolist(), mouth.tolist()]:
        assert open_face.mask[0, 0, y, x] == 1
    assert 0.15 < open_face.mask.mean() < 0.5
    assert hidden.mask[0, 0, mouth[1], mouth[0]] == 0 and hidden.mask.sum() < open_face.mask.sum()


def test_identity_changes_the_face_and_not_the_picture_around_it():
    attributes = sample_attributes(1, 9)
    a, b = (render(sample_identities(1, seed), attributes, 64).image for seed in (1, 2))
    corners = torch.cat([(a - b)[..., :6, :6], (a - b)[..., :6, -6:]], -1)
    assert corners.abs().max() < 1e-4 and (a - b)[..., 20:50, 20:44].abs().mean() > 0.05


@pytest.mark.parametrize("number", range(len(IDENTITY)), ids=IDENTITY)
def test_every_identity_number_shows(number):
    low, high = mean_person(), mean_person()
    low[0, number], high[0, number] = -2, 2
    change = (render(low, plain(), 64).image - render(high, plain(), 64).image).abs()
    assert change.max() > 0.04  # five of 256 grey levels at 64 pixels


def test_a_small_picture_is_the_large_one_shrunk():
    identity, attributes = sample_identities(4, 1), sample_attributes(4, 2)
    small, large = render(identity, attributes, 64), render(identity, attributes, 256)
    shrunk = F.interpolate(large.image, (64, 64), mode="area")
    assert (small.image - shrunk).abs().mean() < 0.05
    assert (small.landmarks * 4 - large.landmarks).abs().max() < 2


@pytest.mark.parametrize(
    "identity, attributes, size, said",
    [
        (torch.zeros(2, 3), plain(), 64, r"identity: expected \(n, "),
        (mean_person(), torch.zeros(1, 3), 64, r"attributes: expected \(n, "),
        (mean_person().expand(2, -1), plain(), 64, "2 identities for 1"),
        (mean_person() * float("nan"), plain(), 64, "identity: holds numbers that are not finite"),
        (mean_person(), plain(), 8, "size: expected at least 16"),
    ],
)
def test_bad_numbers_are_refused(identity, attributes, size, said):
    with pytest.raises(ValueError, match=said):
        render(identity, attributes, size)


def row(identity, attributes):
    return {"file": "x.png", "identity": identity.tolist(), "attributes": attributes.tolist()}


def test_the_exact_teacher_draws_identity_of_the_source_with_attributes_of_the_target():
    identity, attributes = sample_identities(2, 1), sample_attributes(2, 2)
    rows = [row(i, a) for i, a in zip(identity, attributes, strict=True)]
    pictures = render(identity, attributes, 48).image
    teacher = teachers.build("exact")
    assert (teacher(pictures, pictures, rows, rows) - pictures).abs().max() < 1e-3, "a face on itself is itself"
    swap = teacher(pictures, pictures.flip(0), rows, rows[::-1])
    assert (swap - render(identity, attributes.flip(0), 48).image).abs().max() < 1e-3


def test_the_exact_teacher_refuses_photographs():
    images = torch.zeros(1, 3, 48, 48)
    teacher = teachers.build("exact")
    good = row(mean_person()[0], plain()[0])
    with pytest.raises(ValueError, match="needs the manifest rows"):
        teacher(images, images)
    with pytest.raises(ValueError, match="photo.jpg has no 'identity'"):
        teacher(images, images, [{"file": "photo.jpg"}], [good])
    with pytest.raises(ValueError, match="1 pictures, 2 rows"):
        teacher(images, images, [good, good], [good])
    with pytest.raises(ValueError, match="unknown teacher 'exakt', known: exact"):
        teachers.build("exakt")
