"""Identity encoders against the reference's own numbers and on real photographs."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT, SHARED, needs_shared
from helpers import goldens
from PIL import Image
from safetensors.torch import save_file

from students.identity_encoder import ARCHITECTURES, CARDS, IdentityEncoder, SmallResNet, load_identity_encoder
from students.mobilefacenet import MobileFaceNet, original_to_ours

REAL = [name for name, card in CARDS.items() if name in ("foamliu_128", "xiaoccer_128")]


def fresh(card, seed: int = 0) -> IdentityEncoder:
    torch.manual_seed(seed)
    return IdentityEncoder(card).eval()


def test_embeddings_equal_the_reference():
    encoder = fresh(CARDS["mobilefacenet_512"])
    encoder.network.load_state_dict(original_to_ours(goldens.fill("mobilefacenet")), strict=True)
    golden = goldens.load("mobilefacenet")
    with torch.no_grad():
        faces = goldens.image("mobilefacenet.face", 2, 112)
        goldens.compare(golden, "face112", F.normalize(encoder.network(faces)))
        for pixels, crop in ((256, "26_230"), (128, "13_115"), (64, "7_57")):
            images = goldens.image(f"mobilefacenet.full{pixels}", 2, pixels)
            goldens.compare(golden, f"from{pixels}_crop{crop}", encoder(images))


def test_size(tmp_path):
    # torch.save writes the name of the file once per tensor: a short name, as the published sizes have.
    network = MobileFaceNet()
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_200_512
    torch.save(network.state_dict(), tmp_path / "e.pth")
    assert (tmp_path / "e.pth").stat().st_size / 1e6 == pytest.approx(4.97, abs=0.01)


@pytest.mark.parametrize("name", CARDS)
@pytest.mark.parametrize("size", [64, 128, 256])
def test_every_card_gives_unit_embeddings_and_gradients(name, size):
    card = CARDS[name]
    encoder = fresh(card)
    images = (torch.rand(2, 3, size, size) * 2 - 1).requires_grad_()
    embeddings = encoder(images)
    assert embeddings.shape == (2, card.embedding_dim) and encoder.embedding_dim == card.embedding_dim
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))
    assert encoder.prepare(images).shape == (2, 3, *card.input_size)
    embeddings[:, 0].sum().backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("crop", ["arcface", "sphereface"])
@pytest.mark.parametrize("size", [64, 128, 256])
def test_affine_crops_put_the_landmarks_on_the_template(crop, size):
    # Mean landmarks of the canonical frame and the 112 x 112 template of ArcFace; SphereFace's is 8 columns narrower.
    frame = torch.tensor([(95.92, 120.75), (159.07, 120.84), (126.95, 160.84), (99.39, 187.80), (155.76, 187.88)])
    template = torch.tensor([(38.29, 51.70), (73.53, 51.50), (56.03, 71.74), (41.55, 92.37), (70.73, 92.20)])
    narrower = 8 if crop == "sphereface" else 0
    options = {"embedding_dim": 8, "input_size": (112, 112 - narrower)}
    card = dataclasses.replace(CARDS["xiaoccer_128"], crop=crop, options=options, std=(0.5, 0.5, 0.5))
    # A frame whose first two channels are its own coordinates says where every pixel of the crop was taken.
    line = (torch.arange(size) + 0.5) * 256 / size - 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    taken = fresh(card).prepare(torch.stack([x, y, x])[None] / 256)[0, :2] * 256
    column, row = (template - torch.tensor([narrower, 0])).round().long().T
    off = taken[:, row, column].T - frame
    # A similarity fits the mean exactly and the nose, which lies higher in the template, to within 6 px of 256.
    assert off.mean(0).norm() < 1 and off.norm(dim=1).max() < 6


def test_colour_order_and_range():
    grey = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 64, 64)
    card = dataclasses.replace(CARDS["synthetic_identity"], mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    rgb = fresh(card).prepare(grey)[0, :, 0, 0]
    bgr = fresh(dataclasses.replace(card, colour_order="bgr")).prepare(grey)[0, :, 0, 0]
    torch.testing.assert_close(rgb, torch.tensor([-2.0, 0.0, 0.5]))
    torch.testing.assert_close(bgr, torch.tensor([2.0, 0.0, -0.5]))


@pytest.mark.parametrize(("width", "size", "dims"), [(0.5, (64, 64), 56), (0.3, (96, 80), 7), (2.0, (112, 112), 512)])
def test_width_is_rounded_to_eight_and_the_last_kernel_follows_the_input(width, size, dims):
    network = MobileFaceNet(dims, width, size).eval()
    assert network(torch.rand(1, 3, *size)).shape == (1, dims)
    assert all(m.out_channels % 8 == 0 for m in network.modules() if isinstance(m, torch.nn.Conv2d))


def test_small_resnet_follows_its_input():
    assert SmallResNet(12, 8, (80, 64)).eval()(torch.rand(3, 3, 80, 64)).shape == (3, 12)


@pytest.mark.parametrize("name", CARDS)
def test_saved_weights_come_back_frozen(name, tmp_path):
    encoder, path = fresh(CARDS[name]), tmp_path / "encoder.safetensors"
    save_file(encoder.network.state_dict(), path)
    loaded = load_identity_encoder(name, path)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(images), encoder(images))
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


def test_cards_say_what_they_are():
    for name, card in CARDS.items():
        assert card.name == name and card.architecture in ARCHITECTURES and card.source and card.licence
        assert card.sha256 is None or len(card.sha256) == 64


def test_bad_names_and_files(tmp_path):
    with pytest.raises(ValueError, match="unknown identity encoder 'arc', known: mobilefacenet_512, foamliu_128"):
        load_identity_encoder("arc", "x.pt")
    with pytest.raises(ValueError, match="python -m distill.pretrain identity_encoder"):
        load_identity_encoder("mobilefacenet_512", None)
    with pytest.raises(ValueError, match="unknown architecture 'vit', known: mobilefacenet, small_resnet"):
        IdentityEncoder(dataclasses.replace(CARDS["foamliu_128"], architecture="vit"))
    for suffix in ("safetensors", "pt"):
        path = tmp_path / f"broken.{suffix}"
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match=f"{path}: is text .*; download the file itself"):
            load_identity_encoder("foamliu_128", path)
    path = tmp_path / "list.pt"
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=rf"{path}: expected tensors by name \(a state dict\), got list"):
        load_identity_encoder("foamliu_128", path)


def test_weights_of_another_architecture(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file(SmallResNet(56, 24).state_dict(), path)
    with pytest.raises(
        ValueError, match=rf"{path}: .*'foamliu_128': stem\.0\.conv\.weight: expected shape \(64, 3, 3, 3\)"
    ):
        load_identity_encoder("foamliu_128", path)
    state = IdentityEncoder(CARDS["xiaoccer_128"]).network.state_dict()
    save_file({**state, "extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="extra: expected no such tensor, found shape"):
        load_identity_encoder("xiaoccer_128", path)


@pytest.mark.parametrize("shape", [(2, 3, 64, 48), (2, 1, 64, 64), (3, 64, 64), (2, 3, 15, 15)])
def test_bad_images(shape):
    with pytest.raises(ValueError, match="images: expected"):
        fresh(CARDS["synthetic_identity"])(torch.zeros(shape))


@pytest.fixture(scope="module")
def photographs() -> tuple[torch.Tensor, np.ndarray]:
    """Three photographs each of the 40 held-out people."""
    rows = [json.loads(line) for line in (SHARED / "faces" / "index.jsonl").read_text().splitlines()]
    people: dict[str, list[str]] = {}
    for row in rows:
        if row["split"] == "heldout":
            people.setdefault(row["identity"], []).append(row["file"])
    chosen = [(person, file) for person, files in people.items() for file in files[:3]]
    pixels = [np.asarray(Image.open(SHARED / "faces" / file)) for _, file in chosen]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 127.5 - 1, np.array(
        [person for person, _ in chosen]
    )


@needs_shared
@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("size", [256, 128])
def test_real_weights_know_people(name, size, photographs):
    images, people = photographs
    encoder = load_identity_encoder(name, SHARED / "weights" / CARDS[name].file)
    counted = sum(parameter.numel() for parameter in encoder.parameters())
    assert counted == {"foamliu_128": 999_936, "xiaoccer_128": 999_552}[name]
    images = F.avg_pool2d(images, 256 // size)
    with torch.no_grad():
        embeddings = torch.cat([encoder(batch) for batch in images.split(40)])
    gallery = np.arange(0, len(people), 3)
    probes = np.setdiff1d(np.arange(len(people)), gallery)
    nearest = (embeddings[probes] @ embeddings[gallery].T).argmax(1).numpy()
    assert (people[gallery][nearest] == people[probes]).mean() >= 0.95


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_embeddings_are_of_unit_length_under_autocast_too(dtype):
    encoder = load_identity_encoder("synthetic_identity", ROOT / "students/weights/synthetic_identity.safetensors")
    faces = torch.rand(2, 3, 64, 64) * 2 - 1
    wanted = encoder(faces)
    with torch.autocast("cpu", dtype):
        for found in (encoder(faces), encoder.embed(faces)[0]):
            assert found.dtype == torch.float32
            assert torch.allclose(found.norm(dim=1), torch.ones(2), atol=1e-6)
            assert ((found * wanted).sum(1) > 0.999).all()
