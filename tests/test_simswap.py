"""SimSwap's networks against the reference outputs; its checkpoints; the teacher from file to swap."""

import json

import goldens
import pytest
import torch
from torch.nn import functional as F

import teachers
from teachers import checkpoint, irse101, simswap
from teachers.irse101 import IRSE101, load_irse101
from teachers.simswap import SimSwapGenerator, load_generator


def count(network) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Both networks in the original's own layout, with wrappers that trainers put around."""
    folder = tmp_path_factory.mktemp("simswap")
    torch.save({f"module.{k}": t for k, t in goldens.fill("simswap_generator").items()}, folder / "latest_net_G.pth")
    torch.save({"state_dict": goldens.fill("simswap_arcface")}, folder / "arcface.pth")
    return {"generator": folder / "latest_net_G.pth", "identity_encoder": folder / "arcface.pth"}


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
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (irse101.IMAGENET_MEAN, irse101.IMAGENET_STD)
    )
    faces = ((goldens.image01("simswap.face", 2, 112).double() - mean) / std).float()
    outputs = dict(zip(("embedding", "map"), network(faces), strict=True))
    whole = irse101.prepare(goldens.image01("simswap.full224", 1, 224))
    outputs["whole"] = network(whole)[0]
    names = sorted({key.split("/")[0] for key in golden.files})
    assert len(names) == 3
    for name in names:
        tensor = (
            outputs["map"] if len(golden[f"{name}/shape"]) == 4 else outputs["whole" if "224" in name else "embedding"]
        )
        goldens.compare(golden, name, tensor)


@pytest.mark.parametrize(
    ("name", "build", "rename"),
    [
        ("simswap_generator", SimSwapGenerator, simswap._renamer({})),
        ("simswap_arcface", IRSE101, str),
    ],
)
def test_every_tensor_of_the_original_has_its_place(name, build, rename):
    with torch.device("meta"):
        expected = build().state_dict()
    entries = json.loads((goldens.FOLDER / f"{name}.json").read_text())["entries"]
    theirs = {rename(key): (tuple(shape), dtype) for key, shape, dtype, *_ in entries}
    assert theirs == {k: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for k, t in expected.items()}


def test_parameter_counts():
    with torch.device("meta"):
        assert count(SimSwapGenerator()) == 55_051_779
        assert count(SimSwapGenerator(deep=True)) == 59_773_443
        assert count(SimSwapGenerator(512)) == 55_079_427
        assert count(IRSE101()) == 52_193_215


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


@pytest.mark.parametrize(("options", "first", "last"), [({"deep": True}, 1, 4), ({"size": 512}, 0, 3)])
def test_variants_are_told_by_their_tensors(tmp_path, options, first, last):
    network = SimSwapGenerator(**options)
    torch.save({original_name(k, first, last): t for k, t in network.state_dict().items()}, tmp_path / "g.pth")
    loaded = load_generator(tmp_path / "g.pth")
    assert loaded.options == network.options
    assert all(torch.equal(t, loaded.state_dict()[k]) for k, t in network.state_dict().items())


@torch.no_grad()
def test_normalised_weights_work_on_imagenet_units():
    torch.manual_seed(0)
    plain, normalised = SimSwapGenerator().eval(), SimSwapGenerator(normalised=True).eval()
    normalised.load_state_dict(plain.state_dict())
    x, e = torch.rand(1, 3, 32, 32), F.normalize(torch.rand(1, 512))
    assert torch.allclose((normalised(x, e).tanh() + 1) / 2, plain(x, e), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("size", [96, 256])
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
    with pytest.raises(ValueError, match="unexpected keyword argument 'deep'"):
        teachers.build("simswap", files, deep=True)


def test_wrong_shapes_and_options_are_named():
    with torch.device("meta"):
        network = SimSwapGenerator()
        with pytest.raises(ValueError, match=r"target: expected \(N, 3, S, S\)"):
            network(torch.zeros(1, 3, 100, 100), torch.zeros(1, 512))
        with pytest.raises(ValueError, match=r"embedding: expected \(1, 512\)"):
            network(torch.zeros(1, 3, 64, 64), torch.zeros(2, 512))
        with pytest.raises(ValueError, match=r"faces: expected \(N, 3, 112, 112\)"):
            IRSE101()(torch.zeros(1, 3, 96, 96))
    for options in ({"size": 256}, {"size": 512, "deep": True}):
        with pytest.raises(ValueError, match="size|deep"):
            SimSwapGenerator(**options)


def test_the_reader_is_the_one_of_all_teachers(files):
    assert checkpoint.read(files["generator"]).keys() == goldens.fill("simswap_generator").keys()
