"""The value of grid_artifact: near 1 for blur and noise, above 1 for patterns of period 2 and 4."""

import numpy as np
import pytest
import torch
from helpers.toy_pairs import PEOPLE, changed, toy_pairs
from scipy.ndimage import gaussian_filter, zoom

from eval import METRICS
from eval.evaluation import Evaluation
from eval.grid_artifact import GRID, WINDOW, excess, spectrum, windows
from eval.pairs import Pairs
from eval.sharpness import luminance
from swapcore.images import to_uint8
from teachers.exact import render, sample_attributes, sample_identities

SIDE = 96
FACE = slice(16, 80)
ROW, COLUMN = np.mgrid[:SIDE, :SIDE]


def natural(seed):
    """Random pictures with the spectrum of photographs: amplitude 1 / frequency, standard deviation 40 levels."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    spectra = np.fft.fft2(rng.normal(size=(PEOPLE, SIDE, SIDE))) / np.maximum(frequency, 1 / SIDE)
    pictures = np.fft.ifft2(spectra).real
    return 128 + 25 * pictures / pictures.std((1, 2), keepdims=True)


def eight_bit(pictures):
    whole = torch.from_numpy(np.clip(np.round(pictures), 0, 255)).to(torch.uint8)
    return whole[:, None].expand(-1, 3, -1, -1).contiguous()


def blurred(pictures, pixels):
    return gaussian_filter(pictures, (0, pixels, pixels))


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    exact = natural(0)
    mask = torch.zeros(PEOPLE, 1, SIDE, SIDE, dtype=torch.bool)
    mask[:, :, FACE, FACE] = True
    return changed(
        toy_pairs(), source=eight_bit(natural(1)), target=eight_bit(natural(2)), exact=eight_bit(exact), mask=mask,
        gallery=eight_bit(natural(3)),
    )  # fmt: skip


def measured(pictures, pairs):
    swaps = pictures if isinstance(pictures, torch.Tensor) else eight_bit(pictures)
    return Evaluation(pairs).measure("by hand", ["grid_artifact"], swaps=swaps)["grid_artifact"]


def checkerboard(levels):
    return levels * (1 - 2.0 * ((ROW + COLUMN) % 2))


def stripes(levels):
    return levels * (1 - 2.0 * (COLUMN % 2))


def period_4(levels):
    return levels * np.array([1, 1, -1, -1])[ROW % 4] * np.array([1, 1, -1, -1])[COLUMN % 4]


def period_4_stripes(levels):
    return levels * np.array([1.0, 1, -1, -1])[ROW % 4]


def slow(seed):
    """A field that is smooth over the face, of both signs, with standard deviation 1."""
    field = gaussian_filter(np.random.default_rng(seed).normal(size=(PEOPLE, SIDE, SIDE)), (0, 8, 8))
    return field / field.std()


def signed_checkerboard(levels):
    return checkerboard(levels) * slow(8)


def shuffled(levels):
    """What a sub-pixel convolution by 2 leaves whose four outputs do not agree: each phase has its own slow field."""
    fields = np.stack([slow(10 + phase) for phase in range(4)])
    phase = 2 * (ROW % 2) + COLUMN % 2
    return levels * (np.take_along_axis(fields, phase[None, None] + 0 * fields[:1].astype(int), 0)[0] - fields.mean(0))


PATTERNS = (checkerboard, stripes, period_4, period_4_stripes, signed_checkerboard, shuffled)


def test_the_exact_swap_has_exactly_1(pairs):
    value = measured(pairs.exact, pairs)
    assert value.value == 1 and value.details == {"pairs_without": 0} and value.n == PEOPLE
    assert value.protocol["against"] == "the exact swap" and "16 pixels" in value.protocol["windows"]


@pytest.mark.parametrize("seed", [4, 5])
def test_another_picture_has_about_1(pairs, seed):
    assert measured(natural(seed), pairs).value == pytest.approx(1, abs=0.12)


@pytest.mark.parametrize("pixels", [0.5, 1, 2])
def test_blur_is_no_grid_and_no_merit(pairs, pixels):
    assert measured(blurred(natural(0), pixels), pairs).value == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("levels", [1, 3, 10])
def test_white_noise_is_no_grid(pairs, levels):
    noise = np.random.default_rng(7).normal(size=(PEOPLE, SIDE, SIDE)) * levels
    assert measured(natural(0) + noise, pairs).value == pytest.approx(1, abs=0.1)
    assert measured(blurred(natural(0), 1) + noise, pairs).value == pytest.approx(1, abs=0.2)


def test_sharpening_is_no_grid(pairs):
    sharper = 2 * natural(0) - blurred(natural(0), 1)
    assert measured(sharper, pairs).value == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
@pytest.mark.parametrize("pixels", [0, 1], ids=["sharp", "blurred"])
def test_patterns_of_a_grid_are_above_1_and_rise(pairs, pattern, pixels):
    plain = blurred(natural(0), pixels) if pixels else natural(0)
    found = [measured(plain + pattern(levels), pairs).value for levels in (0, 2, 4, 8)]
    assert found == sorted(set(found)) and found[2] > 1.1 * found[0] and found[3] > 1.2 * found[0], found


@pytest.fixture(scope="module")
def drawn():
    """24 drawn people, and the same pictures with the next person's face: target, exact swap and mask."""
    identity, attributes = sample_identities(24, seed=3), sample_attributes(24, seed=4)
    target, exact = render(identity, attributes, SIDE), render(identity.roll(1, 0), attributes, SIDE)
    return *(to_uint8(one.image) for one in (target, exact)), target.mask > 0.5


def of_drawn(swaps, drawn):
    """The mean factor of the swaps over those people."""
    (_, exact, mask), found = drawn, []
    for swap, other, chosen in zip(swaps, exact, windows(mask), strict=True):
        if chosen.any():
            found.append(excess(*(spectrum(light, chosen) for light in luminance(torch.stack([swap, other])))))
    assert len(found) > 20
    return float(np.mean(found))


def test_faces_are_what_the_docstring_says(drawn):
    target, exact, _ = drawn
    pictures = exact.double().numpy()

    def as_pictures(values):
        return torch.from_numpy(np.clip(np.round(values), 0, 255)).to(torch.uint8)

    assert of_drawn(target, drawn) == pytest.approx(1, abs=0.1)
    for pixels in (0.5, 1, 2.5, 4):
        soft = as_pictures(gaussian_filter(pictures, (0, 0, pixels, pixels)))
        assert of_drawn(soft, drawn) == pytest.approx(1, abs=0.2)
    noise = np.random.default_rng(5).normal(size=pictures.shape)
    assert of_drawn(as_pictures(pictures + 3 * noise), drawn) == pytest.approx(1, abs=0.05)
    found = [of_drawn(as_pictures(pictures + checkerboard(levels)), drawn) for levels in (1, 2, 4)]
    assert found == pytest.approx([1.19, 1.37, 1.59], abs=0.07)


@pytest.mark.parametrize("waves", [2, 6])
def test_patterns_of_other_periods_are_no_grid(pairs, waves):
    wave = 8 * np.cos(2 * np.pi * COLUMN * waves / 16)
    assert measured(natural(0) + wave, pairs).value < 1.05


def test_pixels_enlarged_by_a_whole_factor_leave_gaps(pairs):
    small = zoom(blurred(natural(0), 1), (1, 0.5, 0.5), order=1)
    assert measured(small.repeat(2, 1).repeat(2, 2), pairs).value < 0.9


def test_a_picture_without_anything_is_finite(pairs):
    assert 0.5 < measured(np.full((PEOPLE, SIDE, SIDE), 90.0), pairs).value < 1.5
    blank = changed(pairs, exact=eight_bit(np.full((PEOPLE, SIDE, SIDE), 90.0)))
    assert measured(blank.exact, blank).value == 1
    assert measured(90 + checkerboard(4)[None] + np.zeros((PEOPLE, 1, 1)), blank).value > 2


def test_outside_the_face_nothing_counts(pairs):
    swaps = pairs.exact.clone()
    swaps[:, :, :16] = swaps[:, :, 80:] = 0
    swaps[:, :, :, :16] = 255
    assert measured(swaps, pairs).value == 1


def test_without_exact_swaps_the_target_is_the_reference(pairs):
    photographs = changed(pairs, exact=None)
    value = measured(pairs.target, photographs)
    assert value.value == 1 and value.protocol["against"] == "the target"


def test_the_power_of_the_grid_known_by_hand():
    """Power 9 times as high at one of nine frequencies: the geometric mean is the ninth root of 9. A factor on all, and
    one that grows with the frequency as a quadratic in its cosine, change nothing."""
    flat = torch.ones(WINDOW, WINDOW, dtype=torch.float64)
    assert excess(flat, flat) == 1 and excess(5 * flat, flat) == pytest.approx(1)
    for place in GRID:
        swap = flat.clone()
        swap[place] = 9
        assert excess(swap, flat) == pytest.approx(9 ** (1 / 9)) == pytest.approx(1 / excess(flat, swap))
    cosine = torch.cos(2 * torch.pi * torch.arange(WINDOW, dtype=torch.float64) / WINDOW)
    smooth = (1 - 2 * cosine[:, None] + 3 * cosine[None] ** 2 + cosine[:, None] * cosine[None]).exp()
    assert excess(smooth, flat) == pytest.approx(1)


@pytest.mark.parametrize(("u", "v"), [(4, 0), (8, 8), (4, 12)])
def test_the_window_spreads_a_frequency_over_its_neighbours_alone(u, v):
    row, column = torch.meshgrid(torch.arange(32.0).double(), torch.arange(32.0).double(), indexing="ij")
    wave = torch.cos(2 * torch.pi * (u * row + v * column) / WINDOW)
    inner = torch.ones(1, 1, 32, 32, dtype=torch.bool)
    power = spectrum(wave, windows(inner)[0])
    power = power - power.min()
    lit = {(int(a), int(b)) for a, b in (power > 1e-9 * power.max()).nonzero()}
    near = {((s * u + i) % 16, (s * v + j) % 16) for s in (1, -1) for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert lit == near and power[u, v] == power.max()


def test_windows_lie_in_the_face():
    inner = torch.zeros(3, 1, 40, 40, dtype=torch.bool)
    inner[0, 0, 4:20, 8:24] = True  # one window
    inner[1, 0, 4:24, 8:24] = True  # two, one under the other
    inner[2, 0, 4:18, 8:24] = True  # two rows too few
    found = windows(inner)
    assert [each.nonzero().tolist() for each in found] == [[[1, 2]], [[1, 2], [2, 2]], [[1, 2]]]
    inner[2, 0, 4:14, 8:24], inner[2, 0, 14:18] = True, False
    assert not windows(inner)[2].any()
    assert windows(torch.ones(1, 1, 15, 15, dtype=torch.bool)).numel() == 0


def test_pairs_without_a_window_are_left_out_and_a_list_of_them_says_why(pairs):
    mask = pairs.mask.clone()
    mask[3] = False
    mask[3, 0, 20:30, 20:30] = True
    part = changed(pairs, mask=mask)
    value = measured(pairs.exact, part)
    assert value.n == PEOPLE - 1 and value.details == {"pairs_without": 1} and np.isnan(value.each[3])
    mask[:] = mask[3]
    none = changed(pairs, mask=mask)
    assert Evaluation(none).measure("by hand", ["grid_artifact"], swaps=pairs.exact) == {}
    reason = METRICS["grid_artifact"].lacks(None, none, torch.device("cpu"))
    assert reason == "no inner face holds a window of 16 pixels"
