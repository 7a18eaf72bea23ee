"""The teacher FaceShifter: files of our own and of the originals, each swapping as its networks do."""

import argparse
import json

import pytest
import torch
from helpers import goldens
from helpers.teacher_networks import lively, originals
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet101

from swapcore.frame import Crop
from swapcore.irse50 import load_irse50
from teachers import aei_net
from teachers.faceshifter import AEINet, FaceShifterTeacher, HEARNet, arcface_112, read_metadata, save_faceshifter


def faces(name: str, size: int, count: int = 2) -> torch.Tensor:
    return goldens.image(name, count, size)


class MeanColours(nn.Module):
    """Canonical crops to unit embeddings: the colours of a coarse grid."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(F.adaptive_avg_pool2d(images, 2).flatten(1))


# The teacher, from files of our own


def own_file(path, refiner: bool, layout: str = "taotaonice"):
    torch.manual_seed(1)
    generator = lively(AEINet(layout, width=4, embedding_dim=12, resolution=64))
    refining = lively(HEARNet(width=4)) if refiner else None
    save_faceshifter(path, generator, refining, identity_encoder="mean_colours", steps="3")
    return generator, refining


@torch.no_grad()
@pytest.mark.parametrize("layout", aei_net.LAYOUTS)
@pytest.mark.parametrize("refiner", [False, True])
def test_own_files_swap_as_their_networks_do(tmp_path, refiner, layout):
    generator, refining = own_file(tmp_path / "teacher.safetensors", refiner, layout)
    encoder, source, target = MeanColours(), faces("s", 64), faces("t", 64)
    teacher = FaceShifterTeacher({"generator": tmp_path / "teacher.safetensors"}, encoder).eval()
    expected = generator(target, encoder(source))[0]
    assert torch.allclose(teacher.first_stage(encoder(source), target), expected, atol=1e-6)
    if refiner:
        own = generator(target, encoder(target))[0]
        expected = refining(torch.cat([expected, target - own], 1))
    swap = teacher(source, target)
    assert torch.allclose(swap, expected, atol=1e-6)
    assert not torch.allclose(swap, teacher(source.flip(0), target), atol=1e-3)
    assert list(teacher.parts) == ["generator", "refiner"][: 1 + refiner]
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.safetensors"]


@torch.no_grad()
def test_own_files_swap_at_any_canonical_size(tmp_path):
    own_file(tmp_path / "t.safetensors", refiner=True)
    teacher = FaceShifterTeacher({"generator": tmp_path / "t.safetensors"}, MeanColours()).eval()
    for size in (48, 64, 128):
        swap = teacher(faces("s", size), faces("t", size))
        assert swap.shape == (2, 3, size, size) and swap.dtype == torch.float32 and swap.abs().max() <= 1


@torch.no_grad()
def test_batches_and_single_pictures_agree(tmp_path):
    own_file(tmp_path / "t.safetensors", refiner=True)
    teacher = FaceShifterTeacher({"generator": tmp_path / "t.safetensors"}, MeanColours()).eval()
    source, target = faces("s", 64, 3), faces("t", 64, 3)
    alone = torch.cat([teacher(source[i : i + 1], target[i : i + 1]) for i in range(3)])
    assert torch.allclose(teacher(source, target), alone, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_harmless(tmp_path, dtype):
    own_file(tmp_path / "t.safetensors", refiner=True)
    teacher = FaceShifterTeacher({"generator": tmp_path / "t.safetensors"}, MeanColours()).eval()
    swap = teacher(faces("s", 64), faces("t", 64))
    with torch.autocast("cpu", dtype):
        half = teacher(faces("s", 64), faces("t", 64))
    assert teacher.autocast and half.dtype == torch.float32
    assert 0 < (half - swap).abs().mean() < 0.02


def test_metadata_says_what_a_file_needs(tmp_path):
    own_file(tmp_path / "t.safetensors", refiner=True)
    metadata = read_metadata(tmp_path / "t.safetensors")
    assert metadata["teacher"] == "faceshifter" and metadata["identity_encoder"] == "mean_colours"
    assert json.loads(metadata["options"])["resolution"] == 64 and json.loads(metadata["refiner_options"])["width"] == 4
    assert read_metadata(tmp_path / "absent.pth") == {}
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"broken\.safetensors: is text"):
        read_metadata(tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match="metadata 'options'"):
        save_faceshifter(tmp_path / "t.safetensors", AEINet(width=2, resolution=64), options="")
    with pytest.raises(ValueError, match="metadata 'steps'"):
        save_faceshifter(tmp_path / "t.safetensors", AEINet(width=2, resolution=64), steps=3)


def test_own_files_must_fit(tmp_path):
    path = tmp_path / "t.safetensors"
    own_file(path, refiner=False)
    with pytest.raises(ValueError, match=r"t\.safetensors needs the identity encoder .*: mean_colours"):
        FaceShifterTeacher({"generator": path})
    with pytest.raises(ValueError, match=r"leave weights\.refiner out"):
        FaceShifterTeacher({"generator": path, "refiner": path}, MeanColours())
    with pytest.raises(ValueError, match=r"weights\.generator is missing"):
        FaceShifterTeacher({}, MeanColours())
    with pytest.raises(ValueError, match=r"t\.safetensors takes embeddings \(N, 12\).*gives \(2, 3\)"):
        FaceShifterTeacher({"generator": path}, lambda images: images.mean((2, 3))).identity(faces("s", 64))
    state, metadata = load_file(path), read_metadata(path)
    key = "generator.blocks.2.aads.1.mask.weight"
    for change, message in (
        ({key: None}, r"bad\.safetensors.*blocks\.2\.aads\.1\.mask\.weight: expected shape \(1, .*found none"),
        ({key: torch.zeros(1)}, r"bad\.safetensors.*aads\.1\.mask\.weight: expected .*found shape \(1,\)"),
        ({"encoder.x": torch.zeros(1)}, r"bad\.safetensors: encoder\.x: no such tensor"),
    ):
        changed = {k: t for k, t in {**state, **change}.items() if t is not None}
        save_file(changed, tmp_path / "bad.safetensors", metadata)
        with pytest.raises(ValueError, match=message):
            FaceShifterTeacher({"generator": tmp_path / "bad.safetensors"}, MeanColours())
    save_file(state, tmp_path / "bad.safetensors", {**metadata, "options": '{"depth": 3}'})
    with pytest.raises(ValueError, match=r"bad\.safetensors: options of the generator: .*depth"):
        FaceShifterTeacher({"generator": tmp_path / "bad.safetensors"}, MeanColours())


# The teacher, from checkpoints of the originals


@pytest.fixture(scope="module")
def taotaonice(tmp_path_factory):
    """The files of a taotaonice teacher of width 4, and what is in them."""
    folder = tmp_path_factory.mktemp("taotaonice")
    torch.manual_seed(2)
    generator, refiner = lively(AEINet(width=4)), lively(HEARNet(width=4))
    encoder = goldens.fill("arcface_irse50")
    state = {f"module.{key}": tensor for key, tensor in originals(generator, "faceshifter_aei").items()}
    torch.save({"state_dict": state, "epoch": 3}, folder / "G_latest.pth")
    torch.save(originals(refiner, "faceshifter_hearnet"), folder / "hear.pth")
    torch.save(encoder, folder / "irse50.pth")
    return folder, generator, refiner


def files(folder, *, refiner: bool = True) -> dict:
    both = {"generator": folder / "G_latest.pth", "identity_encoder": folder / "irse50.pth"}
    return {**both, "refiner": folder / "hear.pth"} if refiner else both


@torch.no_grad()
@pytest.mark.parametrize("refiner", [False, True])
def test_taotaonice_files_swap_in_their_own_crop_and_colours(taotaonice, refiner):
    folder, generator, refining = taotaonice
    teacher, encoder = FaceShifterTeacher(files(folder, refiner=refiner)).eval(), load_irse50(folder / "irse50.pth")
    source, target, crop = faces("s", 96, 1), faces("t", 96, 1), Crop("faceshifter_256", 256)
    bgr_source, bgr_target = crop.take(source)[:, [2, 1, 0]], crop.take(target)[:, [2, 1, 0]]
    identity, own = (encoder(arcface_112(bgr))[0] for bgr in (bgr_source, bgr_target))
    assert torch.allclose(teacher.identity(source)[0], identity, atol=1e-5)
    bgr = generator(bgr_target, identity)[0]
    if refiner:
        bgr = refining(torch.cat([bgr, bgr_target - generator(bgr_target, own)[0]], 1))
    expected = crop.paste(bgr[:, [2, 1, 0]], target)
    swap = teacher(source, target)
    assert swap.shape == target.shape and torch.allclose(swap, expected, atol=1e-5)
    assert list(teacher.parts) == ["generator", "identity_network", "refiner"][: 2 + refiner]


@torch.no_grad()
def test_an_encoder_that_is_given_replaces_the_original_one(tmp_path):
    generator = lively(AEINet(width=2, embedding_dim=12))
    torch.save(originals(generator, "faceshifter_aei"), tmp_path / "G.pth")
    teacher = FaceShifterTeacher({"generator": tmp_path / "G.pth"}, MeanColours(), layout="taotaonice").eval()
    assert teacher(faces("s", 64, 1), faces("t", 64, 1)).shape == (1, 3, 64, 64)
    with pytest.raises(ValueError, match=r"weights\.identity_encoder is missing: the path of the IR-SE-50"):
        FaceShifterTeacher({"generator": tmp_path / "G.pth"})
    with pytest.raises(ValueError, match=r"G\.pth: layout: expected 'mindslab', found the tensors of 'taotaonice'"):
        FaceShifterTeacher({"generator": tmp_path / "G.pth"}, MeanColours(), layout="mindslab")


@torch.no_grad()
def test_mindslab_checkpoint_of_lightning(tmp_path):
    torch.manual_seed(3)
    generator = lively(AEINet("mindslab", width=4, embedding_dim=8))
    encoder = resnet101(num_classes=8).eval()
    state = originals(generator, "mindslab_aei") | {f"Z.{k}": t for k, t in encoder.state_dict().items()}
    state["D.model.0.weight"] = torch.zeros(3)
    beside = {"epoch": 1, "hyper_parameters": argparse.Namespace(width=4), "callbacks": {argparse.Action: {"best": 1}}}
    torch.save({"state_dict": state, **beside}, tmp_path / "epoch.ckpt")
    teacher = FaceShifterTeacher({"generator": tmp_path / "epoch.ckpt"}).eval()
    source, target, crop = faces("s", 96, 1), faces("t", 96, 1), Crop("ffhq_512", 256)
    small = F.interpolate((crop.take(source) + 1) / 2, (112, 112), mode="bilinear", align_corners=False)
    identity = F.normalize(encoder(small))
    assert torch.allclose(teacher.identity(source)[0], identity, atol=1e-5)
    expected = crop.paste(generator(crop.take(target), identity)[0], target)
    assert torch.allclose(teacher(source, target), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"weights\.refiner goes with a generator of taotaonice only"):
        FaceShifterTeacher({"generator": tmp_path / "epoch.ckpt", "refiner": tmp_path / "epoch.ckpt"})
    without = {key: tensor for key, tensor in state.items() if not key.startswith("Z.")}
    torch.save({"state_dict": without}, tmp_path / "epoch.ckpt")
    with pytest.raises(ValueError, match=r"epoch\.ckpt.*ResNet: conv1\.weight: expected .*found none"):
        FaceShifterTeacher({"generator": tmp_path / "epoch.ckpt"})


class Exploit:
    """What a malicious file holds: unpickling it writes a file."""

    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def test_what_lies_beside_the_tensors_is_not_executed(tmp_path):
    state = originals(AEINet(width=2, embedding_dim=12), "faceshifter_aei")
    torch.save({"state_dict": state, "hparams": Exploit(tmp_path / "written")}, tmp_path / "G.pth")
    with pytest.raises(ValueError, match=r"G\.pth: refused, nothing was executed: it names builtins\.exec"):
        FaceShifterTeacher({"generator": tmp_path / "G.pth"}, MeanColours())
    assert [path.name for path in tmp_path.iterdir()] == ["G.pth"]


def test_foreign_checkpoints_are_named(tmp_path, taotaonice):
    folder, generator, _ = taotaonice
    path, state = tmp_path / "G.pth", originals(generator, "faceshifter_aei")
    key = "generator.AADBlk5.AAD3.conv_h.weight"
    for change, message in (
        ({key: None}, r"G\.pth: .*blocks\.4\.aads\.2\.mask\.weight: expected shape \(1, 32, 1, 1\), found none"),
        ({key: torch.zeros(1, 64, 1, 1)}, rf"G\.pth: .*{key}: expected .*found shape \(1, 64, 1, 1\)"),
        ({"encoder.conv8.0.weight": torch.zeros(1)}, r"G\.pth: .*conv8\.0\.weight: expected no such tensor"),
        ({"encoder.conv1.0.weight": torch.zeros(16, 3, 4, 4)}, r"G\.pth: .*expected .*found shape"),
        ({"encoder.conv1.0.weight": None}, r"G\.pth: not an AEI-Net: expected .*G\.convt\.weight.*, found encoder"),
    ):
        torch.save({k: t for k, t in {**state, **change}.items() if t is not None}, path)
        with pytest.raises(ValueError, match=message):
            FaceShifterTeacher({"generator": path, "identity_encoder": folder / "irse50.pth"})
    for name, message in (
        ("refiner", r"irse50\.pth: not a HEAR-Net: down1\.0\.weight"),
        ("identity_encoder", r"hear\.pth: not the weights of IRSE50: stem\.0\.weight: .*found none"),
    ):
        swapped = {"refiner": folder / "irse50.pth", "identity_encoder": folder / "hear.pth"}
        with pytest.raises(ValueError, match=message):
            FaceShifterTeacher({**files(folder), name: swapped[name]})
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"text\.pth: is text"):
        FaceShifterTeacher({"generator": tmp_path / "text.pth"})
