"""SimSwap's networks against the reference outputs; its checkpoints; the teacher from file to swap."""

import warnings

import pytest
import torch
from helpers import goldens
from helpers.pickled_networks import as_original, original_classes
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import teachers
from swapcore import weights
from swapcore.images import IMAGENET_MEAN, IMAGENET_STD
from teachers import irse101
from teachers.irse101 import IRSE101, load_irse101
from teachers.simswap import SimSwapGenerator, Styled, load_generator


def count(network) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Both networks as the original's files hold them: names of tensors, and a pickled network of torch's older format
    beside the head that it was trained with."""
    folder = tmp_path_factory.mktemp("simswap")
    torch.save({f"module.{k}": t for k, t in goldens.fill("simswap_generator").items()}, folder / "latest_net_G.pth")
    with torch.device("meta"):
        encoder = IRSE101()
    encoder.load_state_dict(goldens.fill("simswap_arcface"), assign=True)
    path = folder / "arcface_checkpoint.tar"
    with original_classes() as package, warnings.catch_warnings(action="ignore"):
        content = {"epoch": 9, "model": nn.DataParallel(as_original(encoder, package))}
        content["metric_fc"] = package.ArcMarginModel()
        torch.save(content, path, _use_new_zipfile_serialization=False)
    return {"generator": folder / "latest_net_G.pth", "identity_encoder": path}


@torch.no_grad()
def test_generator_matches_the_reference(files):
    golden = goldens.load("simswap_generator")
    network = load_generator(files["generator"])
    target = goldens.image01("simswap.target", 1, 224)
    goldens.compare(golden, "image", network(target, goldens.unit_vectors("simswap.latent", 1, 512)))


@torch.no_grad()
def test_identity_encoder_matches_the_reference(files):
    golden = goldens.load("simswap_arcface")
    network = load_irse101(files["identity_encoder"])
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    faces = ((goldens.image01("simswap.face", 2, 112).double() - mean) / std).float()
    outputs = dict(zip(("embedding", "feature_map"), network(faces), strict=True))
    outputs["embedding_from224_nearest"] = network(irse101.prepare(goldens.image01("simswap.full224", 1, 224)))[0]
    assert outputs.keys() == {key.split("/")[0] for key in golden.files}
    for name, tensor in outputs.items():
        goldens.compare(golden, name, tensor)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_identity_encoder_may_be_a_plain_state_dict(tmp_path, suffix):
    state, path = goldens.fill("simswap_arcface"), tmp_path / f"arcface{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, path)
    else:
        save_file(state, path)
    loaded = load_irse101(path).state_dict()
    assert loaded.keys() == state.keys() and all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


def test_parameter_counts_of_the_variants():
    with torch.device("meta"):
        assert count(SimSwapGenerator(deep=True)) == 59_773_443
        assert count(SimSwapGenerator(512)) == 55_079_427
        assert count(SimSwapGenerator(512, deep=True)) == 55_079_427 + 59_773_443 - 55_051_779


def original_name(ours: str, first: int, last: int) -> str:
    """What the original calls a tensor of ours."""
    head, _, rest = ours.partition(".")
    if head in ("downs", "ups"):
        number, part, leaf = rest.split(".")
        index = (0 if part == "conv" else 1) + (head == "ups")
        return f"{head[:-1]}{int(number) + first if head == 'downs' else last - int(number)}.{index}.{leaf}"
    if head == "first":
        return f"first_layer.{1 if 'conv' in rest else 2}.{rest.split('.')[1]}"
    if head == "last":
        return f"last_layer.1.{rest}"
    number, which, part, leaf = rest.split(".")
    place = {"first": 1, "second": 2}[which]
    return f"BottleNeck.{number}.{part}{place}.{'1' if part == 'conv' else 'linear'}.{leaf}"


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A generator of 512 pixels in the original's layout."""
    torch.manual_seed(2)
    network, path = SimSwapGenerator(512), tmp_path_factory.mktemp("wide") / "550000_net_G.pth"
    torch.save({original_name(k, 0, 3): t for k, t in network.state_dict().items()}, path)
    return path


def test_variants_follow_from_the_tensors(tmp_path):
    for options, first, last in (({"deep": True}, 1, 4), ({"size": 512, "deep": True}, 0, 4)):
        network = SimSwapGenerator(**options)
        torch.save({original_name(k, first, last): t for k, t in network.state_dict().items()}, tmp_path / "g.pth")
        loaded = load_generator(tmp_path / "g.pth", **options)
        assert loaded.options == network.options
        assert all(torch.equal(t, loaded.state_dict()[k]) for k, t in network.state_dict().items())


def test_a_generator_of_another_variant_is_named(files, wide):
    with pytest.raises(ValueError, match=r"550000_net_G\.pth: size: expected 224, the file has 512"):
        load_generator(wide, size=224)
    with pytest.raises(ValueError, match=r"latest_net_G\.pth: deep: expected True, the file has False"):
        teachers.build("simswap", files, deep=True)


@torch.no_grad()
def test_normalised_weights_work_on_imagenet_units():
    torch.manual_seed(0)
    plain, normalised = SimSwapGenerator().eval(), SimSwapGenerator(normalised=True).eval()
    normalised.load_state_dict(plain.state_dict())
    x, e = torch.rand(1, 3, 32, 32), F.normalize(torch.rand(1, 512))
    assert torch.allclose((normalised(x, e).tanh() + 1) / 2, plain(x, e), atol=1e-6)


@torch.no_grad()
def test_weights_of_the_later_training_code_see_what_they_were_trained_on(files):
    plain, later = (teachers.build("simswap", files, normalised=flag) for flag in (False, True))
    assert plain.weight_hash != later.weight_hash
    torch.manual_seed(3)
    source = F.interpolate(torch.rand(1, 3, 24, 24) * 2 - 1, (128, 128), mode="bicubic").clamp(-1, 1)
    crop = (later.crop.take(source) + 1) / 2
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    units = (crop - mean) / std
    for teacher, mode in ((plain, "nearest"), (later, "bicubic")):
        wanted = F.normalize(teacher.identity_encoder(F.interpolate(units, (112, 112), mode=mode))[0])
        assert torch.allclose(teacher.identity(source)[0], wanted, atol=1e-5)
    swap = later.swap(identity := later.identity(source), source)
    wanted = later.crop.paste((later.generator(units, *identity) * std + mean).mul(2).sub(1).clamp(-1, 1), source)
    assert torch.allclose(swap, wanted, atol=1e-4)


@torch.no_grad()
def test_the_teacher_of_512_pixels_sees_the_crop_of_its_authors(files, wide):
    teacher = teachers.build("simswap", {**files, "generator": wide}, size=512)
    assert (teacher.crop.template, teacher.crop.size) == ("ffhq_512", 512)
    torch.manual_seed(4)
    source, target = torch.rand(2, 1, 3, 256, 256) * 2 - 1
    swap = teacher(source, target)
    assert swap.shape == target.shape and swap.isfinite().all() and swap.abs().max() <= 1


@torch.no_grad()
@pytest.mark.parametrize("size", [128, 256])
def test_the_teacher_takes_and_gives_canonical_crops(files, size):
    teacher = teachers.build("simswap", files)
    torch.manual_seed(1)
    small = torch.rand(3, 3, 12, 12) * 2 - 1
    source, target = (F.interpolate(x, (size, size), mode="bilinear") for x in (small[:2], small[1:]))
    swap = teacher(source, target)
    assert swap.shape == target.shape and swap.isfinite().all() and swap.abs().max() <= 1
    corners = swap[..., :2, :2] - target[..., :2, :2]
    assert corners.abs().max() < 0.05, "the crop is laid into the frame"
    assert (swap - target).abs().mean() > 0.01
    identity = teacher.identity(source)
    assert identity[0].shape == (2, 512) and torch.allclose(identity[0].norm(dim=1), torch.ones(2), atol=1e-5)
    assert torch.allclose(teacher.swap(identity, target)[1:], teacher(source[1:], target[1:]), atol=2e-4)


@torch.no_grad()
def test_maps_beyond_half_precision_are_normalised():
    torch.manual_seed(5)
    layer = Styled(16)
    layer.conv.weight *= 3000  # maps of thousands: they fit into float16, their squares do not
    x, embedding = torch.randn(1, 16, 28, 28), goldens.unit_vectors("simswap.latent", 1, 512)
    assert 2000 < layer.conv(x).abs().max() < 60000
    wanted = layer(x, embedding)
    with torch.autocast("cpu", torch.float16):
        found = layer(x, embedding)
    assert found.dtype == torch.float32 and (found - wanted).std() < 0.01 * wanted.std()
    exact, shift = layer.double()(x.double(), embedding.double()), layer.style(embedding.double())[:, 16:]
    assert (exact.mean((2, 3)) - shift).abs().max() < 1e-12, "double precision is kept"


@torch.no_grad()
def test_half_precision_does_little_harm(files):
    teacher = teachers.build("simswap", files)
    torch.manual_seed(1)
    pair = [F.interpolate(torch.rand(1, 3, 12, 12) * 2 - 1, (96, 96), mode="bilinear") for _ in range(2)]
    wanted = teacher(*pair)
    with torch.autocast("cpu", torch.bfloat16):
        found = teacher(*pair)
    assert found.dtype == torch.float32 and (found - wanted).abs().mean() < 0.05 * (wanted - pair[1]).abs().mean()


def test_foreign_files_are_named(tmp_path, files):
    with pytest.raises(ValueError, match=r"latest_net_G.pth: not the weights of IRSE101: .*expected"):
        teachers.build("simswap", {**files, "identity_encoder": files["generator"]})
    state = goldens.fill("simswap_generator")
    del state["up2.1.bias"]
    torch.save(state, tmp_path / "g.pth")
    with pytest.raises(ValueError, match=r"g.pth: not the weights of SimSwapGenerator: ups.1.conv.bias: .*found none"):
        load_generator(tmp_path / "g.pth")
    with pytest.raises(ValueError, match="weights.identity_encoder is missing: the path of arcface_checkpoint.tar"):
        teachers.build("simswap", {"generator": files["generator"]})
    with pytest.raises(ValueError, match="unexpected keyword argument 'depth'"):
        teachers.build("simswap", files, depth=4)


def test_wrong_shapes_and_options_are_named():
    with torch.device("meta"):
        network = SimSwapGenerator()
        for shape in ((1, 3, 100, 100), (1, 3, 64, 96), (1, 3, 8, 8), (1, 4, 64, 64), (3, 64, 64)):
            with pytest.raises(ValueError, match=r"target: expected \(N, 3, S, S\), S a multiple of 8 from 16 on"):
                network(torch.zeros(shape), torch.zeros(1, 512))
        with pytest.raises(ValueError, match=r"embedding: expected \(1, 512\)"):
            network(torch.zeros(1, 3, 64, 64), torch.zeros(2, 512))
        with pytest.raises(ValueError, match=r"faces: expected \(N, 3, 112, 112\)"):
            IRSE101()(torch.zeros(1, 3, 96, 96))
    with pytest.raises(ValueError, match="size: expected one of 224, 512, got 256"):
        SimSwapGenerator(256)


def test_the_reader_is_the_one_of_all_teachers(files):
    assert weights.read_state(files["generator"]).keys() == goldens.fill("simswap_generator").keys()
