"""Laying a swap back into its picture: the inner face changes, in the target's colours, and nothing else."""

import tracemalloc

import numpy as np
import pytest

pytest.importorskip("cv2", reason='pip install -e ".[video]"')

import cv2
from helpers.portraits import PLACES, portraits

from distill.data import faces
from distill.swap.blend import egg, lay_back, mask_of, match_colours

SIDE = 96


@pytest.fixture(scope="module")
def scene():
    """A noisy picture (700, 900, 3) with a drawn face of 512 pixels, the face's landmarks, and its crop of SIDE."""
    rng = np.random.default_rng(0)
    image = np.full((700, 900, 3), 120, np.uint8)
    image[90:602, 200:712] = portraits(1, 512)[0][0]
    image = (image + rng.normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)
    points = PLACES * 512 + (200, 90)
    return image, points, faces.align(image, points, SIDE)


def ellipse(image, points):
    """Where the inner face lies in a picture, its border of two crop's pixels included: (H, W) bool."""
    to_image = faces.to_picture(points, 1)  # coordinates of the crop with its middle at 0
    turn = np.linalg.inv(to_image[:, :2])
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    u, v = np.einsum("ab,bhw->ahw", turn, np.stack([x - to_image[0, 2], y - to_image[1, 2]])) + 0.5
    near = np.maximum(np.abs(u - 0.5), np.abs(v - 0.5)) < 0.5
    return near & (egg(u, v) <= 1 + 2 / SIDE / 0.25)


@pytest.mark.parametrize("own", [None, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("scale", [0.06, 0.5, 1.0])
def test_a_swap_that_is_its_target_changes_no_byte_at_any_scale(scene, own, scale):
    """Neither detail finer than the crop is lost, nor are colours corrected that agree already."""
    image, points, _ = scene
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    crop = faces.align(image, points * scale, SIDE)
    own = None if own is None else np.full((SIDE, SIDE), own, np.float32)
    assert (lay_back(image, points * scale, crop, crop, own) == image).all()


@pytest.mark.parametrize("own", [None, 1.0])
@pytest.mark.parametrize(("turn", "shift"), [(0, (0, 0)), (0.6, (60, -40)), (0, (420, -330)), (0, (5000, 0))])
def test_outside_of_the_inner_face_every_byte_stays(scene, own, turn, shift):
    """Also of a turned face, across the border and outside of the picture."""
    image, points, _ = scene
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = (points - points.mean(0)) @ rotation.T + points.mean(0) + shift
    crop, before = faces.align(image, points, SIDE), image.copy()
    swap = np.random.default_rng(1).integers(0, 256, crop.shape, dtype=np.uint8)
    own = None if own is None else np.full((SIDE, SIDE), own, np.float32)
    made = lay_back(image, points, swap, crop, own)
    changed, inner = (made != before).any(2), ellipse(image, points)
    assert not (changed & ~inner).any() and (image == before).all()
    assert changed.sum() > 0.6 * inner.sum() or shift[0] == 5000


def test_where_the_student_closes_its_mask_every_byte_stays(scene):
    """Hair before the forehead: the mask's closed part lies inside of the inner face."""
    image, points, crop = scene
    own = np.ones((SIDE, SIDE), np.float32)
    own[:, : SIDE // 2] = 0.05
    made = lay_back(image, points, 255 - crop, crop, own)
    changed = (made != image).any(2)
    middle = 200 + 256
    assert not changed[:, : middle - 20].any() and changed[:, middle + 20 :].any()


def test_a_face_of_another_tint_gets_the_colours_around_it(scene):
    """A seam would show at once: the swap is the target, darker and redder by tens of levels."""
    image, points, crop = scene
    tinted = crop.astype(np.float32) * 0.8 + (30, -10, -25)
    for own in (None, np.full((SIDE, SIDE), 0.999, np.float32)):
        made = lay_back(image, points, tinted.clip(0, 255), crop, own).astype(float)
        plain = lay_uncorrected(image, points, tinted.clip(0, 255), crop)
        inner = ellipse(image, points)
        assert np.abs(made - image)[inner].mean() < 0.3 * np.abs(plain - image)[inner].mean()


def lay_uncorrected(image, points, swap, crop):
    """The same without correction of colours, as whole pictures at once."""
    place, shape = faces.to_picture(points, SIDE), image.shape[1::-1]
    weight = cv2.warpAffine(mask_of(SIDE), place, shape)[..., None]
    over = cv2.warpAffine(swap.astype(np.float32) - crop, place, shape, borderMode=cv2.BORDER_REPLICATE)
    return image + weight * over


def test_the_correction_has_known_values():
    """A constant tint is removed wholly; of a half blended swap, the half that shows; a patch of hair is none."""
    mask = mask_of(SIDE)
    target = np.full((SIDE, SIDE, 3), 150, np.float32)
    for drawn in (1.0, 0.5):
        opened = np.full((SIDE, SIDE), drawn, np.float32)
        swap = target + drawn * np.array([20.0, -15, 5], np.float32)
        assert np.abs(match_colours(swap, target, opened, mask) - target).max() < 0.01
    full, dark = np.ones((SIDE, SIDE), np.float32), target.copy()
    dark[: SIDE // 3] -= 120  # bangs of the target that the student does not draw
    corrected = match_colours(target, dark, full, mask)
    assert np.abs(corrected - target)[SIDE // 2 :].max() < 6
    assert (match_colours(target + 30, target, full * 0.1, mask) == target + 30).all(), "too little shows to compare"
    closed = np.zeros_like(mask)
    assert (match_colours(target + 30, target, full, closed) == target + 30).all(), "nothing shows at all"


def test_the_correction_is_smooth_and_leaves_the_features():
    """It follows light from one side, and an eye drawn in the middle stays as dark as it is."""
    mask, full = mask_of(SIDE), np.ones((SIDE, SIDE), np.float32)
    target = np.repeat(np.linspace(100, 180, SIDE, dtype=np.float32)[None, :, None], SIDE, 0).repeat(3, 2)
    swap = np.full_like(target, 140)
    swap[55:60, 45:50] = 40
    corrected = match_colours(swap, target, full, mask)
    row = corrected[50, :, 0]
    assert row[70] - row[26] > 25 and np.abs(np.diff(row)).max() < 2.5
    assert 90 < corrected[50, 47, 0] - corrected[57, 47, 0] < 110


def test_the_mask_is_the_inner_face_and_follows_the_students_own():
    mask = mask_of(256)
    inside = np.array([*PLACES, (0.38, 0.41), (0.62, 0.41)])  # with the brows
    x, y = (inside * 256).astype(int).T
    assert (mask[y, x] == 1).all()
    hair, ear, neck, corner = mask[20, 128], mask[128, 30], mask[250, 128], mask[0, 0]
    assert hair == ear == neck == corner == 0 and mask.dtype == np.float32
    assert np.abs(np.diff(mask, axis=0)).max() < 0.1
    assert (mask_of(256, np.ones((256, 256))) == mask).all() and not mask_of(256, np.zeros((256, 256))).any()
    assert not mask_of(256, np.full((256, 256), 0.1)).any() and (mask_of(256, np.full((256, 256), 0.5)) == mask).all()
    half = mask_of(256, np.full((256, 256), 0.3))[140, 128]
    assert half == pytest.approx(0.5, abs=0.01)


def test_narrow_holes_of_the_students_mask_do_not_weaken_its_eyes_twice():
    own = np.ones((256, 256))
    own[112:128, 80:112] = own[112:128, 144:176] = 0.2  # eyes that the student half keeps
    assert (mask_of(256, own) == mask_of(256)).all()
    own[96:176, 60:140] = 0.0  # a hand
    assert mask_of(256, own)[136, 100] == 0


def test_detail_stays_where_the_face_does_and_goes_where_it_changes(scene):
    image, points, crop = scene
    swap = crop.copy()
    swap[60:75, 30:66] = (swap[60:75, 30:66] * 0.4 + 20).astype(np.uint8)  # another mouth
    made = lay_back(image, points, swap, crop).astype(float)
    fine = [x - cv2.GaussianBlur(x, (0, 0), 3) for x in (image.astype(float), made)]

    def kept(rows, columns):
        before, after = (x[90 + rows.start : 90 + rows.stop, 200 + columns.start : 200 + columns.stop] for x in fine)
        return after.std() / before.std()

    assert kept(slice(225, 265), slice(300, 330)) > 0.9  # the cheek below an eye
    assert kept(slice(350, 380), slice(200, 320)) < 0.6


def test_a_large_face_needs_little_more_than_a_copy_of_its_picture():
    scene, crop = np.full((3000, 4000, 3), 90, np.uint8), np.full((64, 64, 3), 90, np.uint8)
    tracemalloc.start()
    try:
        made = lay_back(scene, PLACES * 2600 + (700, 200), np.full_like(crop, 200), crop)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made[2000, 2000, 0] != 90 or (made == 90).all()  # a constant tint is matched away
    assert scene.nbytes <= peak < 2 * scene.nbytes


def test_a_large_face_has_no_line_where_one_strip_ends(scene):
    crop = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image = np.full((2000, 1800, 3), 128, np.uint8)
    grey = np.full_like(crop, 128)
    made = lay_back(image, PLACES * 1700 + 50, crop, grey).astype(int)
    steps = np.abs(np.diff(made, axis=0)).mean((1, 2))
    rows = np.flatnonzero(steps)
    beside = (steps[:-2] + steps[2:]) / 2
    assert len(rows) > 900 and (steps[1:-1] - beside).max() < 0.5


def test_points_that_form_no_face_are_refused(scene):
    image, _, crop = scene
    with pytest.raises(ValueError, match="expected five points of a face"):
        lay_back(image, np.zeros((5, 2)), crop, crop)
