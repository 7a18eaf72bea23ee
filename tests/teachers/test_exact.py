"""The renderer of synthetic faces: determinism, independence, geometry, and the exact swap."""

import importlib
import json
import math

import pytest
import torch
from helpers.drawn import GOLDEN, changed, mean_person, plain, thumbnails
from torch.nn import functional as F

import teachers
from benchmarks import roofline
from swapcore.frame import CANONICAL
from teachers.exact import (
    ATTRIBUTES,
    EXPRESSION,
    GEOMETRY,
    IDENTITY,
    OUTPUTS,
    PAINT,
    SEGMENTS,
    VERSION,
    Rendered,
    expression,
    flow,
    occluder_mask,
    pose_deg,
    render,
    sample_attributes,
    sample_identities,
)

MOST_OPERATIONS = 8400  # of a call at 64 px that draws everything: 8,210; 14,922 before, at commit bef7c1e
RENDERER = importlib.import_module("teachers.exact.render")  # the package's name `render` is the function


def varied(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of n pictures, of which the second wears glasses, the third holds something and the fourth is bald."""
    attributes = sample_attributes(n, 2, sensor=True)
    for row, name in enumerate(("glasses", "occluder", "bald"), 1):
        attributes[row, ATTRIBUTES.index(name)] = 1
    return sample_identities(n, 1), attributes


def same(a: Rendered, b: Rendered, rows=slice(None)) -> bool:
    """Whether b has the bytes of some rows of a."""
    return all(torch.equal(x[rows].nan_to_num(-7), y.nan_to_num(-7)) for x, y in zip(a, b, strict=True))


def test_pixels_are_those_of_this_version():
    """Other pixels are another teacher: raise VERSION, write the golden anew with `PYTHONPATH=. python
    tests/helpers/drawn.py`, and train the benchmark's networks again."""
    golden = json.loads(GOLDEN.read_text())
    assert golden["version"] == VERSION
    assert (thumbnails() - torch.tensor(golden["thumbnails"])).abs().max() < 0.01


def test_every_tensor_is_made_on_the_device_of_the_numbers():
    """A tensor made without a device would be one of `meta` here, and of the CPU beside a GPU's: both fail."""
    identity, attributes = varied(8)
    before = render(identity, attributes, 48, extra=OUTPUTS)
    torch.set_default_device("meta")
    try:
        after = render(identity, attributes, 48, extra=OUTPUTS)
        flow(identity, attributes, attributes.flip(0).clone(), 48)
        occluder_mask(attributes, 48)
    finally:
        torch.set_default_device(None)
    assert same(before, after)


def test_numbers_have_names_of_their_own():
    assert IDENTITY == (*GEOMETRY, *PAINT) and len(set(IDENTITY)) == len(IDENTITY) >= 100
    assert len(set(ATTRIBUTES)) == len(ATTRIBUTES) and set(EXPRESSION) < set(ATTRIBUTES)
    assert not set(IDENTITY) & set(ATTRIBUTES)


def test_numbers_do_not_depend_on_how_many_are_drawn():
    many, few = sample_identities(300, 3), sample_identities(5, 3)
    assert torch.equal(many[:5], few) and torch.equal(sample_attributes(300, 3)[:5], sample_attributes(5, 3))
    assert not torch.equal(few, sample_identities(5, 4))
    assert not torch.equal(sample_attributes(5, 3), sample_attributes(5, 4))


def test_numbers_are_spread_as_they_say():
    identity, attributes = sample_identities(2000, 3), sample_attributes(2000, 3)
    assert identity.abs().max() <= 2.5
    assert (identity.std(0) - 1).abs().max() < 0.1 and identity.mean(0).abs().max() < 0.1
    assert ((pose_deg(attributes).std(0) - torch.tensor([15.0, 7.0, 4.5])).abs() < 0.7).all()
    shown = expression(attributes)
    assert shown.shape == (2000, len(EXPRESSION)) and shown.abs().max() <= 1 and (shown.std(0) > 0.03).all()
    share = dict(zip(ATTRIBUTES, attributes.mean(0).tolist(), strict=True))
    for name, wanted in {"glasses": 0.13, "occluder": 0.06, "bald": 0.05}.items():
        assert share[name] == pytest.approx(wanted, abs=0.02)
    moving = attributes[:, attributes.std(0) > 0]
    both = torch.corrcoef(torch.cat([identity, moving], 1).T)
    assert both[: len(IDENTITY), len(IDENTITY) :].abs().max() < 0.12, "identity tells nothing about the attributes"


def test_only_the_sensor_blurs_and_only_where_it_is_asked_for():
    still, sensor = sample_attributes(400, 3), sample_attributes(400, 3, sensor=True)
    different = {name for name, a, b in zip(ATTRIBUTES, still.T, sensor.T, strict=True) if not torch.equal(a, b)}
    assert different == {"blur", "noise"}
    for name in different:
        column = ATTRIBUTES.index(name)
        assert not still[:, column].any() and 0.4 < (sensor[:, column] > 0).float().mean() < 0.6


@pytest.mark.parametrize("size", [64, 130])
def test_same_numbers_same_bytes_whatever_the_batch(size):
    identity, attributes = varied(5)
    batch = render(identity, attributes, size, OUTPUTS)
    assert same(batch, render(identity, attributes, size, OUTPUTS))
    for rows in ([0], [1], [2], [3], [4, 2]):
        assert same(batch, render(identity[rows], attributes[rows], size, OUTPUTS), rows), rows


def test_same_bytes_in_any_chunks(monkeypatch):
    identity, attributes = varied(5)
    whole = render(identity, attributes, 64, OUTPUTS)
    for pictures in (1, 2):
        monkeypatch.setattr(RENDERER, "CHUNK_PIXELS", pictures * 64 * 64)
        assert same(whole, render(identity, attributes, 64, OUTPUTS))


def test_a_call_has_few_operations_whatever_the_batch(monkeypatch):
    """Of pictures with all that there is to draw: every background and object, glasses, blur and noise. A GPU waits for
    the host, which launches each of them; views are not launched."""
    monkeypatch.setattr(RENDERER, "CHUNK_PIXELS", 24 * 64 * 64)
    kinds = torch.linspace(0, 0.99, 8)
    identity, attributes = sample_identities(8, 1), changed(
        sample_attributes(8, 2, sensor=True), background_kind=kinds, occluder_kind=kinds, occluder=1, glasses=1,
        glasses_dark=kinds, bald=0, jaw=0.3, blur=0.5, noise=0.5,
    )  # fmt: skip
    render(identity, attributes, 64)  # makes the tables
    calls = []
    for times in (1, 3):
        with roofline.Operations(1e9, 1e9) as counted:
            render(identity.repeat(times, 1), attributes.repeat(times, 1), 64)
        calls.append(counted.calls)
        assert counted.calls <= MOST_OPERATIONS, counted.table(20)
    assert calls[0] == calls[1]


def test_same_bytes_with_one_thread_or_two():
    identity, attributes = varied(4)
    drawn, threads = {}, torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            drawn[count] = render(identity, attributes, 130, OUTPUTS)
    finally:
        torch.set_num_threads(threads)
    assert same(drawn[1], drawn[2])


@pytest.mark.parametrize("size, n", [(64, 6), (96, 4), (130, 4), (512, 1)])
def test_outputs_keep_their_contract(size, n):
    identity, attributes = (numbers[-n:] for numbers in varied(6))
    drawn = render(identity, attributes, size, OUTPUTS)
    assert drawn.image.shape == (n, 3, size, size) and drawn.image.dtype == torch.float32
    assert drawn.image.min() >= -1 and drawn.image.max() <= 1 and drawn.image.std() > 0.1
    for flags in (drawn.mask, drawn.occluder):
        assert flags.shape == (n, 1, size, size) and flags.dtype == torch.float32
        assert set(flags.unique().tolist()) <= {0.0, 1.0}
    assert not (drawn.mask * drawn.occluder).any()
    assert drawn.landmarks.shape == (n, 5, 2) and drawn.landmarks.isfinite().all()
    assert drawn.depth.shape == (n, 1, size, size) and drawn.depth.min() > 5
    assert drawn.normals.shape == drawn.correspondence.shape == (n, 3, size, size)
    assert drawn.segmentation.shape == (n, 1, size, size) and drawn.segmentation.dtype == torch.uint8
    assert drawn.segmentation.max() < len(SEGMENTS)


def test_dense_outputs_come_on_request():
    drawn = render(mean_person(), plain(), 32, ["depth"])
    assert drawn.depth is not None
    assert drawn.normals is None and drawn.correspondence is None and drawn.segmentation is None


def test_the_mean_face_lies_on_the_canonical_crop():
    wanted = torch.tensor(CANONICAL) * 256
    found = render(mean_person(), plain(), 256).landmarks[0]
    assert (found - wanted).abs().max() < 5 and abs(float(found[1, 0] - found[0, 0]) - 63) < 3
    others = render(sample_identities(40, 7), plain().expand(40, -1), 64).landmarks * 4
    assert (others - wanted).abs().mean() < 4 and (others - wanted).abs().max() < 20


@pytest.mark.parametrize("name, axis, sign", [("yaw", 0, 1), ("pitch", 1, -1)])
def test_pose_turns_the_face_the_right_way(name, axis, sign):
    """Yaw turns the nose to the right of the picture, pitch lifts it: against the eyes, which stay nearly in place."""
    turned = torch.cat([plain(**{name: angle}) for angle in (-20, 0, 20)])
    points = render(mean_person().expand(3, -1), turned, 128).landmarks
    nose = (points[:, 2] - points[:, :2].mean(1))[:, axis] * sign
    assert nose[1] - nose[0] > 3 and nose[2] - nose[1] > 3


def test_roll_shift_scale_and_distance():
    changes = {}, {"roll": 20.0}, {"shift_x": 0.1, "shift_y": 0.05}, {"scale": 1.2}, {"distance": 7.0}
    attributes = torch.cat([plain(**change) for change in changes])
    rest, rolled, shifted, larger, near = render(mean_person().expand(5, -1), attributes, 128).landmarks
    across = rolled[1] - rolled[0]
    assert math.degrees(math.atan2(across[1], across[0])) == pytest.approx(20, abs=1), "clockwise"
    assert torch.allclose(shifted - rest, torch.tensor([12.8, 6.4]), atol=1e-3)
    assert (larger[1] - larger[0])[0] / (rest[1] - rest[0])[0] == pytest.approx(1.2, abs=0.01)
    assert (near[2] - near[:2].mean(0))[1] > (rest[2] - rest[:2].mean(0))[1], "a near nose looks larger"


def test_mirrored_pose_is_the_mirrored_face():
    """Of a person without a mole or speckles, but for textures: left and right are one formula."""
    turned = torch.cat([plain(yaw=angle) for angle in (18, -18)])
    drawn = render(mean_person().expand(2, -1), turned, 64)
    assert (drawn.mask[0] - drawn.mask[1].flip(-1)).abs().mean() < 0.02
    mirrored = drawn.landmarks[1, [1, 0, 2, 4, 3]] * torch.tensor([-1.0, 1.0]) + torch.tensor([64.0, 0.0])
    assert (drawn.landmarks[0] - mirrored).abs().max() < 0.2


def test_landmarks_lie_on_what_they_name():
    """Of 40 people who hide nothing: eyes on eyes, nose tips on skin, mouth corners beside lips."""
    free = changed(sample_attributes(40, 8), occluder=0, glasses=0, blink=0, hair_fringe=0, hair_length=0.2)
    drawn = render(sample_identities(40, 8), free, 128, ["segmentation"])
    labels = F.one_hot(drawn.segmentation[:, 0].long(), len(SEGMENTS)).permute(0, 3, 1, 2).float()
    near = F.max_pool2d(labels, 5, 1, 2)
    seen = pose_deg(free)[:, 0].abs() < 20
    assert seen.sum() > 25

    def share(table: torch.Tensor, points: torch.Tensor, name: str) -> float:
        """Of the places (n, 2) of each picture that have a label."""
        x, y = points.floor().long().unbind(1)
        return float(table[torch.arange(40), SEGMENTS.index(name), y, x][seen].mean())

    for eye in (0, 1):
        assert share(labels, drawn.landmarks[:, eye], "eyes") > 0.9
    assert share(labels, drawn.landmarks[:, 2], "skin") == 1
    for corner in (3, 4):
        assert share(near, drawn.landmarks[:, corner], "lips") > 0.95
        assert share(labels, drawn.landmarks[:, corner], "background") == 0


def test_the_mask_covers_the_inner_face_and_leaves_out_what_hides_it():
    held = plain(occluder=1, occluder_kind=0.9, occluder_y=0.8)
    free, hidden = (render(mean_person(), attributes, 64) for attributes in (plain(), held))
    eyes, mouth = free.landmarks[0, :2].long(), free.landmarks[0, 3:].mean(0).long()
    for x, y in [*eyes.tolist(), mouth.tolist()]:
        assert free.mask[0, 0, y, x] == 1
    assert 0.15 < free.mask.mean() < 0.5
    assert not free.mask[0, 0, :15].any() and not free.mask[0, 0, :, :4].any()
    assert hidden.mask[0, 0, mouth[1], mouth[0]] == 0 and hidden.occluder[0, 0, mouth[1], mouth[0]] == 1
    assert (hidden.mask <= free.mask).all() and hidden.mask.sum() < free.mask.sum()


def test_what_is_held_looks_the_same_whoever_holds_it():
    attributes = changed(sample_attributes(8, 3), occluder=[1, 1, 1, 1, 1, 1, 0, 0])
    first, second = (render(sample_identities(8, seed), attributes, 64) for seed in (1, 2))
    mask = occluder_mask(attributes, 64)
    assert mask.dtype == torch.bool and torch.equal(mask.float(), first.occluder)
    assert torch.equal(first.occluder, second.occluder)
    assert (mask.flatten(1).any(1) == torch.tensor([True] * 6 + [False] * 2)).all()
    assert not ((first.image - second.image) * first.occluder)[mask.expand(-1, 3, -1, -1)].abs().gt(2 / 255).any()


def test_identity_changes_the_face_and_nothing_of_the_background():
    attributes = sample_attributes(6, 9)
    first, second = (render(sample_identities(6, seed), attributes, 64, ["segmentation"]) for seed in (1, 2))
    outside = 1 - F.max_pool2d(((first.segmentation > 0) | (second.segmentation > 0)).float(), 5, 1, 2)
    assert outside.mean() > 0.1
    difference = (first.image - second.image).abs()
    assert (difference * outside).max() == 0
    assert (difference * first.mask * second.mask).sum() / (3 * (first.mask * second.mask).sum()) > 0.05


# What an identity number needs in the person or picture to be seen.
MAN, WOMAN, MOLE = {"gender": 2.0}, {"gender": -2.0}, {"mole": 2.0}
NEEDS = {
    "beard": MAN, "moustache": MAN, "stubble": MAN, "makeup": WOMAN, "mole": {"mole_x": -1.0}, "mole_x": MOLE,
    "mole_y": MOLE, "freckles": {"caucasian": 2.0, "african": -2.0, "asian": -2.0},
}  # fmt: skip


@pytest.fixture(scope="module")
def change_by_identity() -> torch.Tensor:
    """(K, S, S): how much each number changes the picture from -2 to 2, in channels' largest difference."""
    people = [mean_person(**NEEDS.get(name, {}) | {name: value}) for value in (-2.0, 2.0) for name in IDENTITY]
    low, high = render(torch.cat(people), plain(yaw=20).expand(len(people), -1), 64).image.chunk(2)
    return (low - high).abs().amax(1)


@pytest.mark.parametrize("number", range(len(IDENTITY)), ids=IDENTITY)
def test_every_identity_number_shows(number, change_by_identity):
    assert change_by_identity[number].max() > 0.04  # five of 256 grey levels at 64 pixels


# Of each attribute its two values, where they are not 0 and 1, and what it needs in the picture to be seen.
GLASSES, HELD, HAIR = {"glasses": 1.0}, {"occluder": 1.0, "occluder_kind": 0.3}, {"bald": 0.0}
RANGES = dict.fromkeys(("yaw", "pitch", "roll"), (-10, 10)) | {
    "scale": (0.95, 1.05), "distance": (9, 17), "shift_x": (0, 0.05), "shift_y": (0, 0.05), "light_azimuth": (-40, 40),
    "light_elevation": (5, 50), "hair_volume": (0.02, 0.12), "hair_line": (-0.5, 1.5), "hair_part": (-0.3, 0.3),
    "hair_length": (0.1, 1.2), "background_kind": (0.1, 0.7), "occluder_kind": (0.1, 0.9), "background_phase": (0, 0.4),
    "hair_phase": (0, 0.4), "noise_phase": (0, 0.4), "light_strength": (0.7, 1.1), "pucker": (0, 0.4),
    "clothes_hue": (0, 0.5), "background_hue": (0, 0.5), "glasses_shape": (0.1, 0.6), "occluder_hue": (0.1, 0.5),
}  # fmt: skip
PARTS = {
    "hair_": HAIR, "hair_grey": HAIR | {"hair_dark": 0.9}, "hair_part": HAIR | {"hair_length": 0.35},
    "hair_back": HAIR | {"hair_length": 0.35}, "bald": HAIR, "glasses_": GLASSES, "occluder_": HELD,
    "clothes_": {"clothes_saturation": 0.8}, "background_hue": {"background_saturation": 1.0}, "noise_": {"noise": 1.0},
}  # fmt: skip


def needed(name: str) -> dict[str, float]:
    """What PARTS says of the longest beginning of a name."""
    return PARTS.get(max((part for part in PARTS if name.startswith(part)), key=len, default=""), {})


@pytest.fixture(scope="module")
def change_by_attribute() -> torch.Tensor:
    pictures = [plain(**needed(name) | {name: RANGES.get(name, (0, 1))[end]}) for end in (0, 1) for name in ATTRIBUTES]
    low, high = render(mean_person().expand(len(pictures), -1), torch.cat(pictures), 64).image.chunk(2)
    return (low - high).abs().amax(1)


@pytest.mark.parametrize("number", range(len(ATTRIBUTES)), ids=ATTRIBUTES)
def test_every_attribute_shows(number, change_by_attribute):
    assert change_by_attribute[number].max() > 0.04


def test_a_small_picture_is_the_large_one_shrunk():
    identity, attributes = sample_identities(4, 1), sample_attributes(4, 2)
    small, large = render(identity, attributes, 64), render(identity, attributes, 256)
    shrunk = F.interpolate(large.image, (64, 64), mode="area")
    assert (small.image - shrunk).abs().mean() < 0.05
    assert (small.mask - F.interpolate(large.mask, (64, 64), mode="area")).abs().mean() < 0.03
    assert (small.landmarks * 4 - large.landmarks).abs().max() < 0.01


@pytest.mark.parametrize(
    "identity, attributes, size, extra, said",
    [
        (torch.zeros(2, 3), plain(), 64, (), r"identity: expected \(n, "),
        (torch.zeros(len(IDENTITY)), plain(), 64, (), r"identity: expected \(n, "),
        (mean_person(), torch.zeros(1, 3), 64, (), r"attributes: expected \(n, "),
        (mean_person().expand(2, -1), plain(), 64, (), "2 identities for 1"),
        (mean_person()[:0], plain()[:0], 64, (), "identity: no rows"),
        (mean_person() * float("nan"), plain(), 64, (), "identity: holds numbers that are not finite"),
        (mean_person(), plain() / 0, 64, (), "attributes: holds numbers that are not finite"),
        (mean_person(), plain(), 8, (), "size: expected 16 to 1024 pixels, got 8"),
        (mean_person(), plain(), 2048, (), "size: expected 16 to 1024 pixels, got 2048"),
        (mean_person(), plain(), 64, ["depth", "dept"], "extra: unknown dept; known: depth, "),
    ],
)
def test_bad_numbers_are_refused(identity, attributes, size, extra, said):
    with pytest.raises(ValueError, match=said):
        render(identity, attributes, size, extra)


def row(identity, attributes):
    return {"file": "x.png", "identity": identity.tolist(), "attributes": attributes.tolist()}


def test_the_exact_teacher_draws_identity_of_the_source_with_attributes_of_the_target():
    identity, attributes = sample_identities(2, 1), sample_attributes(2, 2)
    rows = [row(i, a) for i, a in zip(identity, attributes, strict=True)]
    pictures = render(identity, attributes, 48).image
    teacher = teachers.build("exact")
    assert teacher.weight_hash == f"renderer-{VERSION}"
    assert torch.equal(teacher(pictures, pictures, rows, rows), pictures), "a face on itself is itself"
    swap = teacher(pictures, pictures.flip(0), rows, rows[::-1])
    assert torch.equal(swap, render(identity, attributes.flip(0), 48).image)
    drawn = teacher.drawn(rows, rows[::-1], 48, extra=("segmentation",))
    assert torch.equal(drawn.image, swap) and drawn.segmentation is not None and drawn.depth is None


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
    with pytest.raises(ValueError, match="2 pictures, 1 rows"):
        teacher.drawn([good, good], [good], 48)
    with pytest.raises(ValueError, match="photo.jpg has no 'attributes'"):
        teacher.drawn([good], [{"file": "photo.jpg"}], 48)
    with pytest.raises(ValueError, match="unknown teacher 'exakt', known: exact"):
        teachers.build("exakt")


@pytest.mark.gpu
def test_a_gpu_draws_what_a_cpu_draws():
    identity, attributes = varied(6)
    cpu, gpu = render(identity, attributes, 130), render(identity.cuda(), attributes.cuda(), 130)
    difference = (gpu.image.cpu() - cpu.image).abs().amax(1)
    assert (difference < 2 / 255).float().mean() > 0.999  # the range of a picture is 2
    assert (gpu.mask.cpu() == cpu.mask).float().mean() > 0.999
    assert (gpu.landmarks.cpu() - cpu.landmarks).abs().max() < 0.05
