"""What the renderer knows beside the colours: depth, normals, correspondence, segments, flow; and moving pictures."""

import math

import pytest
import torch
from helpers.drawn import changed, mean_person, plain
from torch import Tensor
from torch.nn import functional as F

from teachers.exact import (
    ATTRIBUTES,
    IDENTITY,
    OUTPUTS,
    SEGMENTS,
    Rendered,
    flow,
    render,
    sample_attributes,
    sample_identities,
    sample_sequence,
)

SIZE = 128
NOSE, EYE, CORNER = (0.0, 6.91, 1.68), (0.308, 7.284, 1.385), (0.253, 6.609, 1.42)  # dm, on the neutral mean head


def at(dense: Tensor, points: Tensor) -> Tensor:
    """Values (n, C) of dense (n, C, S, S) at points (n, 2), x and y in pixels."""
    x, y = points.floor().long().unbind(1)
    return dense[torch.arange(len(dense)), :, y, x]


def label(drawn: Rendered, *names: str) -> Tensor:
    """(n, 1, S, S) bool: pixels of the segments of those names."""
    return torch.isin(drawn.segmentation, torch.tensor([SEGMENTS.index(name) for name in names]))


def rows(mask: Tensor) -> Tensor:
    """The mean row (n,) of the pixels of a mask (n, 1, S, S), NaN where it is empty."""
    y = torch.arange(mask.shape[-1])[:, None] * mask
    return y.flatten(1).sum(1) / mask.flatten(1).sum(1)


@pytest.fixture(scope="module")
def people() -> Rendered:
    """40 people as they are drawn."""
    return render(sample_identities(40, 5), sample_attributes(40, 6), SIZE, OUTPUTS)


@pytest.fixture(scope="module")
def free() -> tuple[Tensor, Rendered]:
    """20 people who hide nothing, with open eyes, seen from the front: their attributes and pictures."""
    hide_nothing = dict(occluder=0, glasses=0, blink=0, hair_fringe=0, hair_length=0.2, pucker=0, smile=0, jaw=0)
    attributes = changed(sample_attributes(20, 7), **hide_nothing)
    attributes[:, :3] *= 0.5
    return attributes, render(sample_identities(20, 8), attributes, SIZE, OUTPUTS)


@pytest.fixture(scope="module")
def turns() -> Rendered:
    """The mean person at a yaw of -25, 0 and 25 degrees."""
    attributes = torch.cat([plain(yaw=yaw) for yaw in (-25, 0, 25)])
    return render(mean_person().expand(3, -1), attributes, SIZE, OUTPUTS)


# Depth


def test_depth_grows_with_the_distance_of_the_camera():
    attributes = torch.cat([plain(distance=distance) for distance in (9.0, 13.0, 18.0)])
    drawn = render(mean_person().expand(3, -1), attributes, SIZE, ["depth"])
    nose = at(drawn.depth, drawn.landmarks[:, 2])[:, 0]
    assert torch.allclose(nose - nose[0], torch.tensor([0.0, 4.0, 9.0]), atol=0.02)
    assert (nose < torch.tensor([9.0, 13.0, 18.0])).all(), "the nose is before the middle of the face"


def test_the_nose_is_nearer_than_the_eyes_and_the_eyes_than_the_ears(turns):
    depth, place = turns.depth[1, 0], turns.correspondence[1]
    nose, eye = (float(at(turns.depth, turns.landmarks[:, k])[1]) for k in (2, 0))
    ears = depth[(place[0].abs() > 0.78) & (place[1] > 6.9) & (place[1] < 7.5)]
    assert len(ears) > 20 and nose < eye - 0.2 and eye < ears.min() - 0.3
    assert nose == pytest.approx(float(depth.min()), abs=0.02)


def test_depth_is_known_where_there_is_something(people):
    empty = people.depth.isinf()
    assert torch.equal(empty, ~(people.depth < 30))
    seen = ~label(people, "occluder")
    assert torch.equal(empty & seen, label(people, "background"))


# Normals


def test_normals_have_unit_length_and_face_the_camera(people):
    length = people.normals.norm(dim=1, keepdim=True)
    head = length > 0
    assert (length[head] - 1).abs().max() < 1e-4
    assert people.normals[:, 2:][head].quantile(0.001) > -0.3, "perspective shows a little beyond the outline"
    assert head[label(people, "skin", "lips", "eyes", "brows")].all()
    assert not head[people.depth.isinf()].any()


def test_the_normal_of_the_nose_turns_with_the_head(turns):
    left, ahead, right = at(turns.normals, turns.landmarks[:, 2])
    assert ahead[2] > 0.9 and abs(float(ahead[0])) < 0.2
    sine = math.sin(math.radians(25))
    assert (right - left)[0] == pytest.approx(2 * sine, abs=0.35)


def test_normals_are_the_slopes_of_the_depth(turns):
    """A surface that gets farther to the right looks to the right; one that gets farther downwards looks down."""
    depth, normals = turns.depth[:, 0], turns.normals
    across = (depth[:, 1:-1, 2:] - depth[:, 1:-1, :-2]).flatten()
    down = (depth[:, 2:, 1:-1] - depth[:, :-2, 1:-1]).flatten()
    right, up, near = (normals[:, k, 1:-1, 1:-1].flatten() for k in range(3))
    smooth = (across.abs() < 0.2) & (down.abs() < 0.2) & (near > 0.4)
    for slope, normal in ((across, right), (down, -up)):
        pair = torch.stack([slope[smooth], (normal / near)[smooth]])
        assert torch.corrcoef(pair)[0, 1] > 0.9


# Correspondence


@pytest.mark.parametrize("landmark, place", [(0, EYE), (1, EYE), (2, NOSE), (3, CORNER), (4, CORNER)])
def test_landmarks_are_the_same_places_of_all_people(landmark, place, free):
    """The left of the picture is the right of the person: there x is negative."""
    side = torch.tensor([-1.0 if landmark in (0, 3) else 1.0, 1, 1])
    found = at(free[1].correspondence, free[1].landmarks[:, landmark])
    distance = (found - torch.tensor(place) * side).norm(dim=1)
    assert distance.nanmedian() < 0.05 and (distance < 0.12).float().mean() >= 0.9


def test_the_same_place_has_the_same_correspondence_in_every_pose(turns):
    for landmark, near in ((2, 0.05), (0, 0.08), (1, 0.08)):
        found = at(turns.correspondence, turns.landmarks[:, landmark])
        assert (found - found[1]).norm(dim=1).max() < near


def test_correspondence_is_known_where_normals_are(people):
    none = people.correspondence.isnan()
    assert torch.equal(none.all(1), none.any(1))
    assert torch.equal(none.all(1), (people.normals == 0).all(1))
    place = people.correspondence.permute(1, 0, 2, 3)[:, ~none.all(1)]
    assert place[0].abs().max() < 2.4 and place[1].min() > 4.7 and place[1].max() < 8.6


# Segmentation


def test_all_segments_appear(people):
    count = people.segmentation.flatten().long().bincount(minlength=len(SEGMENTS))
    assert len(count) == len(SEGMENTS) and (count > 0).all()
    share = count / count.sum()
    assert share[SEGMENTS.index("skin")] > 0.2 and share[SEGMENTS.index("brows")] < 0.03


def test_segments_lie_where_they_should(free):
    attributes, drawn = free
    brows, eyes, lips = (rows(label(drawn, name)) for name in ("brows", "eyes", "lips"))
    assert ((eyes - brows)[~brows.isnan()] > 3).all() and (lips - eyes > 20).all() and (~brows.isnan()).sum() > 15
    bald = attributes[:, ATTRIBUTES.index("bald")] > 0.5
    assert not label(drawn, "hair")[bald].any() and label(drawn, "hair")[~bald].flatten(1).any(1).all()
    cloth = rows(label(drawn, "cloth"))
    assert (cloth > lips)[~cloth.isnan()].all()
    assert not label(drawn, "glasses", "occluder").any()


def test_irises_are_eyes(free):
    for eye in (0, 1):
        assert at(label(free[1], "eyes"), free[1].landmarks[:, eye]).float().mean() > 0.9


def test_what_is_held_and_the_mask_agree_with_the_segments(people):
    assert torch.equal(label(people, "occluder"), people.occluder > 0)
    assert not people.mask[label(people, "background", "hair", "cloth", "occluder")].mean() > 0.02
    assert people.mask[label(people, "lips", "teeth", "mouth")].mean() > 0.9


def test_an_empty_picture_has_all_outputs():
    drawn = render(mean_person(), plain(shift_x=9.0), 32, OUTPUTS)
    assert drawn.depth.isinf().all() and drawn.depth.shape == (1, 1, 32, 32)
    assert drawn.normals.shape == (1, 3, 32, 32) and not drawn.normals.any()
    assert drawn.correspondence.shape == (1, 3, 32, 32) and drawn.correspondence.isnan().all()
    assert not drawn.segmentation.any() and not drawn.mask.any()


# Flow


def moved(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Identity and attributes of n pictures, and other attributes, which are turned, shifted and smile."""
    first = changed(sample_attributes(n, 12), occluder=0, glasses=0, hair_length=0.2, blink=0)
    second = first.clone()
    for name, change in {"yaw": 7.0, "pitch": -4.0, "roll": 3.0, "shift_x": 0.02, "scale": 0.02, "smile": 0.2}.items():
        second[:, ATTRIBUTES.index(name)] += change
    return sample_identities(n, 11), first, second


def follow(values: Tensor, motion: Tensor) -> Tensor:
    """The second picture's values (n, C, S, S) where the first picture's points are in it."""
    size = values.shape[-1]
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    place = torch.stack([x + motion[:, 0], y + motion[:, 1]], -1) / size * 2 - 1
    return F.grid_sample(values, place, align_corners=False)


def test_the_second_picture_along_the_flow_is_the_first():
    identity, first, second = moved(6)
    a, b = (render(identity, attributes, SIZE) for attributes in (first, second))
    motion, seen = flow(identity, first, second, SIZE)
    assert motion.shape == (6, 2, SIZE, SIZE) and seen.shape == (6, 1, SIZE, SIZE) and seen.dtype == torch.bool
    face = seen * a.mask
    assert face.mean() > 0.15

    def error(other: Tensor) -> float:
        return float(((a.image - other).abs() * face).sum() / face.sum() / 3)

    assert error(follow(b.image, motion)) < 0.08 < 0.5 * error(b.image)


def test_along_the_flow_the_correspondence_stays():
    identity, first, second = moved(6)
    a, b = (render(identity, attributes, SIZE, ["correspondence"]).correspondence for attributes in (first, second))
    motion, seen = flow(identity, first, second, SIZE)
    apart = (a - follow(b, motion)).norm(dim=1, keepdim=True)[seen]
    apart = apart[~apart.isnan()]
    assert len(apart) > 20000 and apart.median() < 0.03 and apart.quantile(0.95) < 0.15


def test_the_flow_of_landmarks_is_their_difference():
    identity, first, second = moved(12)
    a, b = (render(identity, attributes, SIZE).landmarks for attributes in (first, second))
    motion, seen = flow(identity, first, second, SIZE)
    for landmark in (0, 1, 2):
        wanted = (b - a)[:, landmark]
        known = at(seen, a[:, landmark])[:, 0]
        assert known.sum() >= 8 and wanted.abs().max() > 2
        assert (at(motion, a[:, landmark]) - wanted)[known].abs().max() < 0.5


def test_nothing_moves_between_equal_attributes():
    identity, first, _ = moved(6)
    motion, seen = flow(identity, first, first, SIZE)
    drawn = render(identity, first, SIZE, ["normals"])
    head = drawn.normals.any(1, keepdim=True)
    assert motion.abs().max() < 0.01
    assert not (seen & ~head).any() and seen[head].float().mean() > 0.99


def test_flow_does_not_depend_on_the_batch():
    identity, first, second = moved(4)
    together, alone = flow(identity, first, second, 64), flow(identity[2:3], first[2:3], second[2:3], 64)
    assert all(torch.equal(a[2:3], b) for a, b in zip(together, alone, strict=True))


@pytest.mark.parametrize(
    "identity, other, said",
    [
        (mean_person(), torch.zeros(1, 3), r"attributes: expected \(n, "),
        (mean_person(), plain().expand(2, -1), "1 identities for 2"),
        (mean_person() * float("nan"), plain(), "not finite"),
    ],
)
def test_flow_refuses_bad_numbers(identity, other, said):
    with pytest.raises(ValueError, match=said):
        flow(identity, plain(), other, 64)


# Moving pictures


def column(attributes: Tensor, name: str) -> Tensor:
    return attributes[:, ATTRIBUTES.index(name)]


def test_a_sequence_moves_smoothly_within_its_limits():
    most = {"yaw": 2.5, "pitch": 1.5, "roll": 0.8, "shift_x": 0.002, "shift_y": 0.002, "scale": 0.002, "smile": 0.12}
    for seed in range(6):
        frames = sample_sequence(250, seed)
        assert frames.shape == (250, len(ATTRIBUTES)) and frames.dtype == torch.float32 and frames.isfinite().all()
        for name, step in most.items():
            assert column(frames, name).diff().abs().max() < step, name
            assert column(frames, name).std() > 0, name
        for name, limit in {"yaw": 35, "pitch": 15, "roll": 11, "gaze_x": 1, "gaze_y": 1, "brow_raise": 1}.items():
            assert column(frames, name).abs().max() <= limit, name
        for name in ("jaw", "smile", "blink", "pucker", "squint"):
            assert 0 <= column(frames, name).min() and column(frames, name).max() <= 1, name
        still = [name for name in ATTRIBUTES if name.startswith(("hair", "light", "background", "clothes", "glasses"))]
        assert all(len(column(frames, name).unique()) == 1 for name in still)


def test_people_blink_now_and_then():
    closed = torch.stack([column(sample_sequence(250, seed), "blink") > 0.9 for seed in range(8)])
    blinks = (closed[:, 1:] & ~closed[:, :-1]).sum(1)
    assert blinks.min() >= 1 and blinks.max() <= 8 and closed.float().mean() < 0.1


def test_a_shorter_sequence_is_the_beginning_of_a_longer_one():
    long = sample_sequence(200, 3)
    for frames in (1, 2, 24, 25, 77, 199):
        assert torch.equal(sample_sequence(frames, 3), long[:frames])
    assert not torch.equal(long, sample_sequence(200, 4))


def test_neighbouring_frames_look_alike():
    frames = sample_sequence(12, 1)
    images = render(sample_identities(1, 1).expand(12, -1), frames, 64).image
    steps = images.diff(dim=0).abs().mean((1, 2, 3))
    assert 0 < steps.max() < 0.08


def test_a_sequence_has_a_frame():
    with pytest.raises(ValueError, match="frames: expected at least 1, got 0"):
        sample_sequence(0, 1)
    assert sample_sequence(1, 1).shape == (1, len(ATTRIBUTES)) and len(IDENTITY) > 0
