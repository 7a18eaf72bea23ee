"""Metrics of swapped videos against values known by hand, and what damaged clips are refused for."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from eval.estimators import Estimator
from eval.measured import unpacked
from eval.video import VIDEO_METRICS
from eval.video import optical_flow as flow
from eval.video.clip import Clip, Truth, inner_square
from eval.video.landmark_jitter import known_jitter
from eval.video.view import ClipView, merged, over_frames

SIDE, FRAMES = 32, 5
STEP = 51  # of 8 bits: 0.4 of values in [-1, 1]


def clip(target=None, **fields):
    """Five frames of one grey, 25 a second; the inner face is rows and columns 8 to 23."""
    target = torch.full((FRAMES, 3, SIDE, SIDE), 100, dtype=torch.uint8) if target is None else target
    inner = torch.zeros(len(target), 1, *target.shape[2:], dtype=torch.bool)
    inner[:, :, 8:24, 8:24] = True
    known = {
        "name": "a", "source": torch.zeros(3, SIDE, SIDE, dtype=torch.uint8), "target": target, "inner": inner,
        "seconds": np.arange(len(target)) / 25, "source_person": 0, "target_person": 1, "inner_from": "here",
    }  # fmt: skip
    return Clip(**{**known, **fields})


def at_rest(exact, **fields):
    """What is known of a clip in which nothing moves."""
    steps, side = len(exact) - 1, exact.shape[-1]
    motion, seen = torch.zeros(steps, 2, side, side), torch.ones(steps, 1, side, side, dtype=torch.bool)
    inner = torch.zeros(len(exact), 1, side, side, dtype=torch.bool)
    inner[:, :, 8:24, 8:24] = True
    points, pose = torch.zeros(len(exact), 5, 2), torch.zeros(len(exact), 3)
    return replace(Truth(exact, inner, motion, seen, motion, seen, points, points, pose), **fields)


def measured(metric, one, swap, **estimators):
    return VIDEO_METRICS[metric](ClipView(one, swap, "swapper", estimators, {}))


def estimator(network):
    return Estimator(network, name="by hand", weight_hash="none: exact")


def code(frames, numbers):
    """Frames whose first value is a number that an estimator reads."""
    frames = frames.clone()
    frames[:, 0, 0, 0] = torch.tensor(numbers, dtype=torch.uint8)
    return frames


def read_code(images):
    return ((images[:, 0, 0, 0] + 1) * 127.5).round()


def as_angle(images):
    """The number is an angle in degrees, the embedding its cosine and sine."""
    radians = read_code(images).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], 1)


def test_identity_over_time():
    one = clip()
    values = measured("identity_consistency", one, code(one.target, [0, 0, 60, 60, 60]), recogniser=estimator(as_angle))
    cosines = np.array([1, 1, 0.5, 0.5, 0.5])
    assert values["video_id_similarity"].value == pytest.approx(0.7)
    assert values["video_id_deviation"].value == pytest.approx(cosines.std())
    steady = values["video_id_steadiness"]
    assert steady.value == pytest.approx((1 + 0.5 + 1 + 1) / 4) and steady.n == FRAMES - 1
    assert values["video_id_similarity"].protocol["recogniser"]["name"] == "by hand"


def test_frames_that_do_not_follow_each_other_are_no_neighbours():
    """The step from the second to the third frame lasts three intervals: a frame is missing there."""
    one = clip(seconds=np.array([0, 1, 4, 5, 6]) / 25)
    assert one.joined.tolist() == [True, False, True, True]
    swap = code(one.target, [0, 0, 60, 60, 60])
    steady = measured("identity_consistency", one, swap, recogniser=estimator(as_angle))["video_id_steadiness"]
    assert steady.value == pytest.approx(1) and steady.n == 3
    brighter = one.target.clone()
    brighter[2:] += STEP
    assert measured("temporal_flicker", one, brighter)["flicker"].value == 0
    assert measured("background_consistency", one, brighter)["video_background_flicker"].value == 0
    assert measured("background_consistency", one, brighter)["video_background"].value == pytest.approx(0.4 * 3 / 5)


def test_a_swap_that_changes_its_brightness_flickers_by_as_much():
    one = clip()
    swap = one.target.clone()
    swap[1::2] += STEP
    values = measured("temporal_flicker", one, swap)
    assert values["flicker"].value == pytest.approx(0.4) == values["flicker_excess"].value
    assert "DIS" in values["flicker"].protocol["motion"] or "TV-L1" in values["flicker"].protocol["motion"]
    assert "flicker_exact" not in values  # nobody knows the exact motion of a film
    only_outside = one.target.clone()
    only_outside[1::2, :, :6] += STEP
    assert measured("temporal_flicker", one, only_outside)["flicker"].value == 0


def ramp(frames, step):
    """A slope of 2 a pixel that moves `step` pixels to the right from frame to frame."""
    x = torch.arange(SIDE) - step * torch.arange(frames)[:, None] + 20
    return (2 * x)[:, None, None].expand(frames, 3, SIDE, SIDE).byte().contiguous()


def test_the_motion_is_the_targets():
    """A target that moves right by two pixels a frame does not flicker; a swap that stays behind does, by two pixels'
    slope, and so does not one that moves along."""
    target, still = ramp(FRAMES, 2), ramp(1, 0).expand(FRAMES, -1, -1, -1).contiguous()
    moving = torch.tensor([2.0, 0.0])[None, :, None, None].expand(FRAMES - 1, 2, SIDE, SIDE)
    one = clip(target, truth=at_rest(still, motion=moving))
    values = measured("temporal_flicker", one, still)
    assert values["flicker_exact"].value == pytest.approx(4 / 127.5, abs=1e-6)
    assert values["flicker_exact_excess"].value == pytest.approx(4 / 127.5, abs=1e-6)
    assert values["flicker_own"].value == 0  # by the exact swap's motion, which is none here
    along = measured("temporal_flicker", one, target)
    assert along["flicker_exact"].value == pytest.approx(0, abs=1e-6) and along["flicker_exact_excess"].value == 0


def test_what_is_hidden_in_either_frame_does_not_count():
    swap = clip().target.clone()
    swap[1::2, :, 8:16] += STEP
    seen = torch.ones(FRAMES - 1, 1, SIDE, SIDE, dtype=torch.bool)
    seen[:, :, 8:16] = False
    one = clip(truth=at_rest(swap, seen=seen))
    assert measured("temporal_flicker", one, swap)["flicker_exact"].value == 0
    inner = one.inner.clone()
    inner[1::2, :, 8:16] = False  # something is held there in every second frame
    held = clip(inner=inner, truth=at_rest(swap))
    assert measured("temporal_flicker", held, swap)["flicker_exact"].value == 0
    assert "flicker_exact" not in measured("temporal_flicker", clip(truth=at_rest(swap, seen=~seen & seen)), swap)


def as_points(images):
    """Two landmarks, the number to the right of the middle of 256 pixels; 255 is no face."""
    number = read_code(images)
    x = torch.where(number == 255, torch.nan, 0.5 + number / 256)
    return torch.stack([torch.stack([x, torch.full_like(x, 0.5)], 1)] * 2, 1)


def test_landmarks_that_tremble_by_a_pixel_jitter_by_two():
    one = clip(code(clip().target, [0, 1, 2, 3, 4]))  # moves at one speed
    network = {"landmarks": estimator(as_points)}
    assert measured("landmark_jitter", one, one.target, **network)["landmark_jitter_px"].value == pytest.approx(0)
    values = measured("landmark_jitter", one, code(one.target, [0, 1, 0, 1, 0]), **network)
    assert values["landmark_jitter_px"].value == pytest.approx(2)
    assert values["landmark_jitter_excess_px"].value == pytest.approx(2)
    some = measured("landmark_jitter", one, code(one.target, [0, 1, 0, 1, 255]), **network)["landmark_jitter_px"]
    assert some.n == 2 and some.value == pytest.approx(2)
    assert measured("landmark_jitter", one, code(one.target, [0, 1, 255, 1, 0]), **network) == {}
    assert measured("landmark_jitter", one, one.target) == {}  # without a network


def test_jitter_is_that_of_places_in_frames_whatever_their_size():
    """The crop is half of the frame's side and moves along with the face by 4 pixels a frame: landmarks at rest in it
    move at one speed, and those that stay in the frame do not jitter though they move in the crop."""
    shift = torch.arange(FRAMES) * 4.0
    to_crop = torch.zeros(FRAMES, 2, 3, dtype=torch.float64)
    to_crop[:, 0, 0] = to_crop[:, 1, 1] = 1 / 16
    to_crop[:, 0, 2] = -shift / 16
    one = clip(to_crop=to_crop)
    rest = torch.full((FRAMES, 1, 2), 0.5)
    assert one.in_frames(rest)[:, 0].tolist() == [[128 + 64 * t, 128] for t in range(FRAMES)]  # 16 pixels are 256
    assert known_jitter(one) == {}
    there = one.in_frames(rest - torch.stack([shift / 16, 0 * shift], 1)[:, None])
    assert there[:, 0].tolist() == [[128.0, 128.0]] * FRAMES


def test_the_jitter_of_known_landmarks_is_in_pixels_of_256():
    points = torch.zeros(FRAMES, 5, 2)
    points[1::2, :, 0] = 1  # of 32: 8 of 256
    known = known_jitter(clip(truth=at_rest(clip().target, landmarks=points)))
    assert known == {"target": pytest.approx(16), "exact": 0}


def test_pose_jitter():
    def pose(images):
        return read_code(images)[:, None] * torch.tensor([[0.0, 3.0, 4.0]])

    one = clip()
    values = measured("pose_jitter", one, code(one.target, [0, 1, 0, 1, 0]), pose=estimator(pose))
    assert values["pose_jitter_deg"].value == pytest.approx(10) == values["pose_jitter_excess_deg"].value


def test_the_background_may_change_but_not_come_and_go():
    one = clip()
    steady = one.target + STEP
    values = measured("background_consistency", one, steady)
    assert values["video_background"].value == pytest.approx(0.4) and values["video_background_flicker"].value == 0
    steady[1::2] = one.target[1::2]
    values = measured("background_consistency", one, steady)
    assert values["video_background"].value == pytest.approx(0.4 * 3 / 5)
    assert values["video_background_flicker"].value == pytest.approx(0.4)
    inside = one.target.clone()
    inside[1::2, :, 8:24, 8:24] += STEP
    assert {v.value for v in measured("background_consistency", one, inside).values()} == {0}


def test_the_error_to_the_exact_swap_and_its_change():
    exact = ramp(FRAMES, 2)
    moving = torch.tensor([2.0, 0.0])[None, :, None, None].expand(FRAMES - 1, 2, SIDE, SIDE)
    one = clip(truth=at_rest(exact, exact_motion=moving))
    values = measured("exact_video_error", one, exact)
    assert {v.value for v in values.values()} == {0}
    swap = exact.clone()
    swap[2] += STEP
    values = measured("exact_video_error", one, swap)
    assert values["video_exact_error"].value == pytest.approx(0.4 / 5)
    assert values["video_exact_worst"].value == pytest.approx(0.4)
    assert values["video_error_flicker"].value == pytest.approx(0.4 * 2 / 4)  # it comes and goes: two steps of four
    frames = unpacked(values["video_exact_error"].details["frames"])
    assert frames.tolist() == pytest.approx([0, 0, 0.4, 0, 0])
    constant = measured("exact_video_error", one, exact + STEP)
    assert constant["video_exact_error"].value == pytest.approx(0.4) and constant["video_error_flicker"].value == 0
    assert "only synthetic people" in VIDEO_METRICS["exact_video_error"].lacks(clip())
    assert measured("exact_video_error", clip(), swap) == {}


def texture(side=96, shift=(0, 0)):
    """A smooth pattern, moved by a number of pixels."""
    y, x = np.mgrid[:side, :side].astype(float)
    x, y = x - shift[0], y - shift[1]
    waves = np.sin(x / 5) + np.sin(y / 7 + 1) + np.sin((x + y) / 9) + np.sin((x - 2 * y) / 17)
    return torch.from_numpy((waves * 25 + 128).round().astype(np.uint8)).expand(3, -1, -1)


def test_optical_flow_finds_a_known_shift():
    pytest.importorskip("cv2")
    frames = torch.stack([texture(), texture(shift=(2, -1)), texture(shift=(4, -2))])
    motion, visible, method = flow.estimated_motion(frames)
    exact = torch.tensor([2.0, -1.0])[None, :, None, None].expand_as(motion)
    inside = torch.zeros_like(visible)
    inside[:, :, 16:80, 16:80] = True
    found = flow.end_point_error(motion, visible, exact, inside)
    assert found["mean_px"] < 0.1 and found["zero_motion_px"] == pytest.approx(5**0.5)
    assert found["called_visible_pct"] == 100 and method.startswith("DIS")
    assert not visible[:, :, :, -1].any()  # leaves the picture
    with pytest.raises(ValueError, match="no pixel is seen"):
        flow.end_point_error(motion, visible, exact, ~inside & inside)


def test_without_opencv_another_flow_is_taken_and_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    motion, _, method = flow.estimated_motion(torch.stack([texture(48), texture(48, (1, 0))]))
    assert method.startswith("TV-L1 (scikit-image")
    assert motion[:, :, 12:36, 12:36].mean((0, 2, 3)).tolist() == pytest.approx([1, 0], abs=0.15)


def test_an_image_is_read_where_the_motion_leads():
    image = ramp(1, 0)
    there = flow.moved(image, torch.tensor([1.5, 0.0])[None, :, None, None].expand(1, 2, SIDE, SIDE))
    assert there[0, 0, 5, :10].tolist() == pytest.approx([40 + 2 * x + 3 for x in range(10)], abs=1e-3)


def test_canonical_crops_are_cut_where_the_transform_says():
    """A crop of 256 pixels, of which each is one of the frame's: rows from 10, columns from 20 on."""
    frames = torch.randint(0, 256, (3, 3, 300, 400), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    to_crop = torch.tensor([[1.0, 0.0, -20.0], [0.0, 1.0, -10.0]], dtype=torch.float64).expand(3, 2, 3) / 256
    inner = inner_square(to_crop, 300, 400)
    one = clip(frames, inner=inner, to_crop=to_crop)
    assert (one.crops(frames).int() - frames[:, :, 10:266, 20:276]).abs().max() <= 1
    expected = torch.zeros_like(inner)
    expected[:, :, 90:210, 88:208] = True
    assert torch.equal(inner, expected)


DAMAGED = [
    ({"target": torch.zeros(2, 3, SIDE, SIDE, dtype=torch.uint8)}, "2 frames; motion needs 3"),
    ({"target": torch.zeros(5, 3, SIDE, SIDE)}, "expected .T, 3, H, W. uint8"),
    ({"target": torch.zeros(5, 3, SIDE, 40, dtype=torch.uint8)}, "32 are no canonical crops"),
    ({"source": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, "source: expected a crop"),
    ({"inner": torch.zeros(FRAMES, 1, SIDE, SIDE, dtype=torch.bool)}, "frame 0 has no pixel of the inner face"),
    ({"seconds": np.array([0.0, 1, 1, 2, 3])}, "increasing times"),
    ({"joined": np.zeros(FRAMES - 1, bool)}, "no two frames follow"),
]


@pytest.mark.parametrize(("fields", "message"), DAMAGED, ids=[message for _, message in DAMAGED])
def test_damaged_clips_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=f"clip 'a': .*{message}"):
        clip(**fields)


def test_damaged_swaps_and_readings_are_refused_by_name():
    one = clip()
    with pytest.raises(ValueError, match="swapper 'swapper', clip 'a': expected .*uint8, got"):
        measured("temporal_flicker", one, one.target[:3])

    def broken(images):
        return torch.where(read_code(images)[:, None] == 7, torch.nan, 1.0)

    with pytest.raises(ValueError, match="recogniser 'by hand' on swap of clip 'a': NaN or infinite for frame 3"):
        measured("identity_consistency", one, code(one.target, [0, 0, 0, 7, 0]), recogniser=estimator(broken))


def test_each_clip_counts_once_however_long():
    protocol = {"where": "here"}
    short, long = (over_frames(np.full(n, v), protocol) for n, v in ((2, 1.0), (50, 0.0)))
    value = merged({"a": {"x": short}, "b": {"x": long}, "c": {}}, {"data": "toy"})["x"]
    assert value.value == 0.5 and value.n == 2 and np.isnan(value.each[2])
    assert value.protocol["data"] == "toy" and set(value.details["frames"]) == {"a", "b"}
    assert over_frames(np.array([np.nan, np.nan]), protocol) is None
    other = over_frames(np.ones(2), {"where": "elsewhere"})
    with pytest.raises(ValueError, match="x: clip 'b' was measured by .*elsewhere"):
        merged({"a": {"x": short}, "b": {"x": other}}, {})


def test_the_hash_is_of_what_is_measured():
    one = clip()
    assert one.hash == clip().hash != clip(seconds=np.arange(FRAMES) / 30).hash
    assert one.hash != clip(code(one.target, [1, 0, 0, 0, 0])).hash
