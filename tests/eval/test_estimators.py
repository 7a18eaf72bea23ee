"""eval.estimators: loading is strict, and the published networks repeat the figures known for real photographs."""

import hashlib
import json
import sys

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared
from PIL import Image
from safetensors.torch import save_file
from scipy.spatial.transform import Rotation

from eval.estimators import CARDS, Estimator, build_network, load_estimator, untrained_estimator
from eval.networks import (
    POSE_UNIT_DEG,
    FaceRegressor,
    euler_angles_deg,
    face_parameters_crop,
    fsanet_crop,
    inner_square,
)
from teachers.exact import pose_deg, render, sample_attributes, sample_identities

WEIGHTS = SHARED / "weights"
OUTPUTS = {"embedding", "pose", "expression", "perceptual", "features"}


def images(n=2, side=64):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def saved(card, tmp_path, change=lambda state: None):
    torch.manual_seed(1)
    network = build_network(CARDS[card]).eval()
    state = network.state_dict()
    change(state)
    save_file(state, tmp_path / CARDS[card].file)
    return network, tmp_path / CARDS[card].file


@pytest.mark.parametrize("name", CARDS)
def test_cards_say_where_weights_come_from(name):
    card = CARDS[name]
    assert card.name == name and card.crop and set(card.outputs) <= OUTPUTS
    for one in card.files:
        assert one.file and one.source and one.licence
        assert one.sha256 is None or len(one.sha256) in (8, 64)  # some publish the first eight digits only
        assert one.url is None or one.url.startswith("https://") and one.sha256


@needs_shared
@pytest.mark.parametrize("name", ["3ddfa_v2_mb05", "fsanet"])
def test_cards_know_their_files(name):
    for one in CARDS[name].files:
        assert hashlib.sha256((WEIGHTS / one.file).read_bytes()).hexdigest() == one.sha256


def test_regressor_is_small_and_position_counts():
    network = FaceRegressor(56).eval()
    assert 0.4e6 < sum(p.numel() for p in network.parameters()) < 1e6
    faces = images()
    assert network(faces).shape == (2, 56)
    assert not torch.allclose(network(faces), network(faces.roll(16, -1)), atol=1e-3)
    assert FaceRegressor(4, (8, 16), depth=2, input_size=32)(images(side=32)).shape == (2, 4)
    with pytest.raises(ValueError, match="multiple of 16"):
        FaceRegressor(4, input_size=60)
    with pytest.raises(ValueError, match="github.com/cleardusk"):
        build_network(CARDS["3ddfa_v2_mb05"])


def test_crops_cut_where_they_say():
    ramp = torch.arange(256.0).div(127.5).sub(1)
    across, down = (ramp * torch.ones(1, 3, 256, 1)), (ramp[:, None] * torch.ones(1, 3, 1, 256))
    pixel = lambda x: (x + 1) * 127.5  # noqa: E731
    square = pixel(inner_square(across)[0, 0, 5])
    assert square[0] == pytest.approx(26 + 204 / 128 - 0.5, abs=0.5)
    assert square[-1] == pytest.approx(229 - 204 / 128 + 0.5, abs=0.5)
    parameters = face_parameters_crop(across)[0, 0, 5] * 128 + 127.5
    assert torch.allclose(parameters[:119], 0.2 + 2.15 * torch.arange(119), atol=1e-3)
    parameters = face_parameters_crop(down)[0, 0, :, 5] * 128 + 127.5
    assert torch.allclose(parameters[:103], 33.6 + 2.15 * torch.arange(103), atol=1e-3)
    assert torch.allclose(parameters[104:], torch.zeros(16), atol=1e-3)  # black below the frame
    angles = fsanet_crop(across)[0, 0, 5] * 128 + 127.5
    assert angles[0] == pytest.approx(60 + 138 / 128 - 0.5, abs=1e-2)
    assert angles[-1] == pytest.approx(197 - 138 / 128 + 0.5, abs=1e-2)


def test_crops_turn_colours_only_where_they_say():
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 256, 256)
    assert inner_square(red)[0, :, 9, 9].tolist() == pytest.approx([1, -1, -1])
    for crop in (face_parameters_crop, fsanet_crop):
        assert crop(red)[0, :, 9, 9].tolist() == pytest.approx([-127.5 / 128, -127.5 / 128, 127.5 / 128])


@pytest.mark.parametrize("crop", [inner_square, face_parameters_crop, fsanet_crop])
def test_crops_fit_frames_of_any_size(crop):
    y, x = torch.meshgrid(torch.linspace(-2, 2, 512), torch.linspace(-2, 2, 512), indexing="ij")
    frame = torch.stack([x.sin(), y.cos(), (x + y).sin()])[None]
    small = torch.nn.functional.interpolate(frame, (256, 256), mode="area")
    assert (crop(frame) - crop(small)).abs().mean() < 0.02


def test_recogniser_gives_unit_embeddings(tmp_path):
    network, path = saved("synthetic_recogniser", tmp_path)
    estimator = load_estimator("synthetic_recogniser", path)
    outputs = network(inner_square(images()))
    assert torch.allclose(estimator(images()), torch.nn.functional.normalize(outputs), atol=1e-6)
    assert estimator.weight_hash == hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    facts = estimator.as_dict()
    assert facts["crop"] and facts["colour_order"] == "rgb" and "network" not in facts
    assert not any(p.requires_grad for p in estimator.network.parameters())
    assert estimator.to("cpu") is estimator


def test_pose_network_gives_degrees_and_expression(tmp_path):
    network, path = saved("synthetic_pose", tmp_path)
    outputs = network(inner_square(images()))
    pose, expression = (load_estimator("synthetic_pose", path, output)(images()) for output in ("pose", "expression"))
    assert torch.allclose(pose, outputs[:, :3] * POSE_UNIT_DEG, atol=1e-5)
    assert torch.allclose(expression, outputs[:, 3:], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state.pop("head.bias"), r"head\.bias: expected shape \(64,\), found none"),
        (lambda state: state.update(extra=torch.zeros(2)), r"extra: expected no such tensor, found shape \(2,\)"),
        (lambda state: state.update({"head.bias": torch.zeros(57)}), r"head\.bias: expected shape \(64,\), found"),
        (lambda state: state["head.bias"].fill_(torch.nan), r"head\.bias: NaN"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path, change, says):
    _, path = saved("synthetic_recogniser", tmp_path, change)
    with pytest.raises(ValueError, match=f"synthetic_recogniser.safetensors: .*{says}"):
        load_estimator("synthetic_recogniser", path)


@pytest.mark.parametrize("name", ["junk.safetensors", "junk.pth"])
def test_unreadable_files_are_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match=f"{name}: is text .*; download the file itself"):
        load_estimator("synthetic_recogniser", tmp_path / name)


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(ValueError, match="unknown estimator 'hopenet', known: .*fsanet"):
        load_estimator("hopenet", tmp_path)
    with pytest.raises(ValueError, match="gives pose, not 'expression'"):
        load_estimator("fsanet", tmp_path, "expression")
    with pytest.raises(ValueError, match="expected 2 paths, got 1"):
        load_estimator("3ddfa_v2_mb05", tmp_path / "one.pth")
    with pytest.raises(ValueError, match="no such file"):
        load_estimator("synthetic_pose", tmp_path / "none.safetensors")


def test_estimators_need_a_hash_and_evaluation_mode():
    with pytest.raises(ValueError, match="hash"):
        Estimator(lambda x: x, name="nameless", weight_hash="")
    with pytest.raises(ValueError, match="training mode"):
        Estimator(FaceRegressor(4), name="learning", weight_hash="00")


def test_euler_angles_of_known_rotations():
    """Any scale and translation; rotations by scipy: roll about z, then yaw about -y, then pitch about x."""
    wanted = torch.tensor([[0.0, 0, 0], [30, 0, 0], [0, -20, 0], [0, 0, 10], [-40, 15, -25]])
    angles = wanted * torch.tensor([-1.0, 1, 1])
    matrix = Rotation.from_euler("ZYX", angles[:, [2, 0, 1]].numpy(), degrees=True).as_matrix()
    matrix = np.concatenate([matrix * 0.003, np.full((5, 3, 1), 7.0)], axis=2).reshape(5, 12)
    parameters = torch.cat([torch.from_numpy(matrix).float(), torch.zeros(5, 50)], dim=1)
    assert torch.allclose(euler_angles_deg(parameters), wanted, atol=1e-3)


@pytest.fixture(scope="module")
def photographs():
    """Twelve photographs of twelve people, yaws of all sizes, and their rows of the index."""
    rows = [json.loads(line) for line in (SHARED / "faces" / "index.jsonl").read_text().splitlines()]
    first = {row["identity"]: row for row in rows if row.get("split") == "heldout"}
    rows = sorted(first.values(), key=lambda row: row["yaw"])[:: max(1, len(first) // 12)][:12]
    faces = np.stack([np.asarray(Image.open(SHARED / "faces" / row["file"]).convert("RGB")) for row in rows])
    return torch.from_numpy(faces).permute(0, 3, 1, 2) / 127.5 - 1, rows


def known(rows):
    """The index has the angles as 3DDFA_V2 counts them."""
    return -torch.tensor([[row[angle] for angle in ("yaw", "pitch", "roll")] for row in rows])


def shared_estimator(name, output=None):
    return load_estimator(name, [WEIGHTS / one.file for one in CARDS[name].files], output)


@needs_shared
def test_3ddfa_repeats_the_known_angles(photographs):
    faces, rows = photographs
    with torch.inference_mode():
        error = (shared_estimator("3ddfa_v2_mb05", "pose")(faces) - known(rows)).abs()
    assert len(rows) == 12 and known(rows)[:, 0].abs().max() > 15
    assert error.max() < 0.5 and error.mean() < 0.1


@needs_shared
def test_3ddfa_repeats_the_known_expressions(photographs):
    faces, rows = photographs
    with torch.inference_mode():
        error = (
            shared_estimator("3ddfa_v2_mb05", "expression")(faces) - torch.tensor([row["exp"] for row in rows])
        ).abs()
    assert error.shape == (12, 10) and error.max() < 0.1 and error.mean() < 0.01


@needs_shared
def test_fsanet_agrees_with_3ddfa(photographs):
    pytest.importorskip("onnxruntime")
    faces, rows = photographs
    estimator = shared_estimator("fsanet")
    angles = estimator(faces)
    yaw, pitch, roll = (torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(angles.T, known(rows).T, strict=True))
    assert angles.shape == (12, 3) and yaw > 0.85 and pitch > 0.5 and roll > 0, (yaw, pitch, roll)
    assert torch.allclose(estimator(faces[3:4]), angles[3:4], atol=1e-4)


@needs_shared
def test_other_files_are_refused(tmp_path):
    main, scale = (WEIGHTS / one.file for one in CARDS["3ddfa_v2_mb05"].files)
    with pytest.raises(
        ValueError, match="mobilefacenet_foamliu.pt: '3ddfa_v2_mb05': not the weights of FaceParameters: conv1"
    ):
        load_estimator("3ddfa_v2_mb05", [WEIGHTS / "mobilefacenet_foamliu.pt", scale])
    np.savez(tmp_path / "scale.npz", mean=np.zeros(61), std=np.ones(62))
    with pytest.raises(ValueError, match="scale.npz: expected arrays mean and std of 62 numbers .*61"):
        load_estimator("3ddfa_v2_mb05", [main, tmp_path / "scale.npz"])
    with pytest.raises(ValueError, match="arrays mean and std"):
        load_estimator("3ddfa_v2_mb05", [main, main])


@pytest.fixture
def junk_onnx(tmp_path):
    paths = [tmp_path / one.file for one in CARDS["fsanet"].files]
    for path in paths:
        path.write_bytes(b"junk")
    return paths


def test_unreadable_onnx_files_are_named(junk_onnx):
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match="fsanet-1x1-iter-688590.onnx: is text"):
        load_estimator("fsanet", junk_onnx)


def test_fsanet_without_onnxruntime_is_named(junk_onnx, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match="needs onnxruntime: pip install"):
        load_estimator("fsanet", junk_onnx)


@pytest.mark.parametrize(("name", "output"), [(c.name, output) for c in CARDS.values() for output in c.outputs])
def test_networks_without_files_are_untrained(name, output):
    if name in ("fsanet", "inception_fid"):
        with pytest.raises(ValueError, match=f"'{name}' cannot be built without its file"):
            untrained_estimator(name, output)
        return
    if name.startswith("lpips"):
        pytest.importorskip("lpips", reason="pip install -e .")
    estimator = untrained_estimator(name, output)
    assert estimator.weight_hash == "untrained" and not estimator.network.training
    couple = (images(), images()) if output == "perceptual" else (images(),)
    with torch.inference_mode():
        readings = estimator(*couple, parsing=torch.full_like(couple[0][:, :1], 6, dtype=torch.uint8))
    shape = {"pose": (2, 3), "perceptual": (2,)}.get(output)
    shape = (2, 198) if name == "hopenet_reliableswap" else shape
    assert torch.isfinite(readings).all() and (shape is None or readings.shape == shape)


@needs_shared
@pytest.mark.parametrize("name", ["3ddfa_v2_mb05", "fsanet"])
def test_angles_have_the_signs_of_the_drawn_people(name):
    if name == "fsanet":
        pytest.importorskip("onnxruntime")
    attributes = sample_attributes(24, 1)
    truth = pose_deg(attributes)
    with torch.inference_mode():
        read = shared_estimator(name)(render(sample_identities(24, 1), attributes, 128).image)
    correlation = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(read.T, truth.T, strict=True)]
    assert min(correlation) > 0.5, correlation
