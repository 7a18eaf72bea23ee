"""Every registered student keeps the contract of a generator."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import students

SMALL = {
    "mobilefsgan": {"width": 8},
    "compact": {"width": 16},
    "unet": {"width": 16},
    "timm_unet": {"width": 16},
    "mobilefaceswap": {"width": 8, "map_shape": [6, 4, 4]},
}
BORDERS = {"embedding_dim": 24, "resolution": 64}


def small(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    return students.build(name, **{**BORDERS, **SMALL[name], **options})


def inputs(name: str, resolution: int = 64) -> tuple[torch.Tensor, ...]:
    """Target, embedding and, where the student needs it, the identity map."""
    torch.manual_seed(1)
    both = torch.rand(2, 3, resolution, resolution) * 2 - 1, F.normalize(torch.randn(2, 24))
    return (*both, torch.randn(2, 6, 4, 4)) if getattr(students.STUDENTS[name], "needs_map", False) else both


@pytest.fixture(params=students.STUDENTS)
def name(request) -> str:
    return request.param


@pytest.mark.parametrize("resolution", [64, 96, 128])
def test_shapes_and_ranges(name, resolution):
    images = small(name, resolution=resolution)(*inputs(name, resolution))
    for scale, image in enumerate(images):
        assert image.shape == (2, 3, resolution >> scale, resolution >> scale)
        assert image.dtype == torch.float32 and image.abs().max() <= 1
    assert len(images) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_little_harm(name, dtype):
    network = small(name)
    wanted = network(*inputs(name))
    with torch.autocast("cpu", dtype):
        found = network(*inputs(name))
    for a, b in zip(found, wanted, strict=True):
        assert (a.float() - b).abs().mean() < 0.05 * b.abs().mean()
    sum(image.float().mean() for image in found).backward()


def test_rebuilt_from_its_options(name):
    generator = small(name)
    again = students.build(generator.name, **generator.options)
    again.load_state_dict(generator.state_dict(), strict=True)
    assert again.options == generator.options and generator.name == name


def test_built_for_an_identity_encoder(name):
    encoder = Encoder(24)
    encoder.map_shape = (6, 4, 4)
    generator = students.build_for(encoder, name, resolution=64, width=SMALL[name]["width"])
    assert generator.options == small(name).options
    with pytest.raises(ValueError, match="unknown student 'giant'"):
        students.build_for(encoder, "giant")


def test_a_new_student_is_one_entry_of_the_registry(tmp_path, monkeypatch):
    class Toy(nn.Conv2d):
        name = "toy"

        def __init__(self, width: int = 3, embedding_dim: int = 24) -> None:
            super().__init__(3, width, 1)
            self.options = {"width": width, "embedding_dim": embedding_dim}

    monkeypatch.setitem(students.STUDENTS, "toy", Toy)
    generator = students.build_for(Encoder(24), "toy", width=5)
    students.save(generator, tmp_path / "toy.safetensors")
    assert students.load(tmp_path / "toy.safetensors", "toy").weight.equal(generator.weight)
    with pytest.raises(ValueError, match="student 'toy' has no option 'resolution', known: width, embedding_dim"):
        students.build("toy", resolution=64)


def test_saved_and_loaded_is_the_same(name, tmp_path):
    generator, path = small(name), tmp_path / "student.safetensors"
    generator.train()(*inputs(name))
    students.save(generator, path, run="quickstart")
    loaded = students.load(path, expected=name)
    for one, other in zip(generator.eval()(*inputs(name)), loaded(*inputs(name)), strict=True):
        assert torch.equal(one, other)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["run"] == "quickstart" and file.metadata()["student"] == name
    assert [each.name for each in tmp_path.iterdir()] == ["student.safetensors"]


def test_gradients_reach_every_parameter_and_every_input(name):
    generator, given = small(name).train(), [tensor.requires_grad_() for tensor in inputs(name)]
    images = generator(*given)
    sum(image.square().mean() for image in images).backward()
    silent = [key for key, parameter in generator.named_parameters() if not parameter.grad.abs().sum() > 0]
    assert not silent
    assert all(tensor.grad.abs().sum() > 0 for tensor in given)


def test_it_learns(name):
    generator, given = small(name), inputs(name)
    wanted = torch.tensor([0.6, -0.2, 0.1]).view(1, 3, 1, 1)
    optimizer = torch.optim.Adam(generator.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = (generator(*given)[0] - wanted).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("heads", [False, True])
def test_smaller_swaps_of_a_unet_are_reduced_or_have_heads(heads):
    network = students.build("unet", width=16, heads=heads, **BORDERS)
    full, half, quarter = network(*inputs("unet"))
    assert torch.equal(half, F.avg_pool2d(full, 2)) == torch.equal(quarter, F.avg_pool2d(full, 4)) == (not heads)
    half.sum().backward()
    assert (network.decoder.heads[0].conv.weight.grad is None) == heads


def test_bad_inputs(name):
    generator, (target, embedding, *more) = small(name), inputs(name)
    with pytest.raises(ValueError, match=r"target: expected \(N, 3, 64, 64\), got \(2, 3, 32, 32\)"):
        generator(target[:, :, :32, :32], embedding, *more)
    with pytest.raises(ValueError, match=r"embedding: expected \(N, 24\), got \(2, 23\)"):
        generator(target, embedding[:, :23], *more)
    with pytest.raises(ValueError, match="batch sizes differ: 2 targets, 1 embeddings"):
        generator(target, embedding[:1], *more)


@pytest.mark.parametrize("wrong", [{"resolution": 100}, {"resolution": 32}, {"width": 0}, {"embedding_dim": 0}])
def test_bad_options(name, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        small(name, **wrong)


def test_unknown_names_list_the_known_ones(name):
    with pytest.raises(ValueError, match="unknown student 'giant', known: mobilefsgan, compact"):
        students.build("giant")
    with pytest.raises(ValueError, match=f"student '{name}' has no option 'depth', known: width, embedding_dim"):
        students.build(name, depth=3)


def test_bad_files(name, tmp_path):
    path, generator = tmp_path / "student.safetensors", small(name)
    with pytest.raises(FileNotFoundError, match=str(path)):
        students.load(path)
    path.write_bytes(b"no tensors here")
    with pytest.raises(ValueError, match=f"{path}: is text .*; download the file itself"):
        students.load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=f"{path}: not a saved student: its metadata lacks 'student'"):
        students.load(path)
    for header in (
        {"student": "giant", "options": "{}"},
        {"student": name, "options": "{"},
        {"student": name, "options": "3"},
    ):
        save_file(generator.state_dict(), path, metadata=header)
        with pytest.raises(ValueError, match=f"{path}: does not hold the student"):
            students.load(path)
    save_file(generator.state_dict(), path, metadata={"student": name, "options": '{"width": 24}'})
    with pytest.raises(ValueError, match=f"{path}: does not hold the student"):
        students.load(path)
    students.save(generator, path)
    with pytest.raises(ValueError, match=f"{path}: holds the student '{name}', expected 'giant'"):
        students.load(path, expected="giant")


@pytest.mark.parametrize("name", ["compact", "unet"])
def test_a_student_from_before_its_style_had_a_size_is_refused(tmp_path, name):
    """At width 64 its tensors have the same shapes, but another scale."""
    generator = students.build(name, width=64, resolution=64)
    old = {key: value for key, value in generator.options.items() if key != "style_dim"}
    path = tmp_path / "student.safetensors"
    save_file(generator.state_dict(), path, metadata={"student": name, "options": json.dumps(old)})
    with pytest.raises(ValueError, match=f"{path}: .* without the option style_dim; train it again"):
        students.load(path)


def test_a_style_is_as_wide_as_asked_and_by_default_at_least_128():
    for width, style_dim, expected in ((16, None, 128), (96, None, 192), (16, 24, 24)):
        generator = students.build("unet", width=width, resolution=64, style_dim=style_dim)
        assert generator.options["style_dim"] == generator.style[-1].out_features == expected
    with pytest.raises(ValueError, match="style_dim: expected at least 1, got 0"):
        students.build("unet", resolution=64, style_dim=0)
    style = generator.style(torch.nn.functional.normalize(torch.randn(64, 512, generator=torch.manual_seed(0))))
    assert 0.5 < style.std() < 2  # of the size that the blocks expect


def test_metadata_is_text(name, tmp_path):
    with pytest.raises(ValueError, match="metadata 'step'"):
        students.save(small(name), tmp_path / "student.safetensors", step=3)
    with pytest.raises(ValueError, match="metadata 'options'"):
        students.save(small(name), tmp_path / "student.safetensors", options="{}")
    assert not list(tmp_path.iterdir())


class Encoder(nn.Module):
    """Mean colours of a grid as an embedding."""

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(F.adaptive_avg_pool2d(images, (2, 4)).flatten(1))

    def embed(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self(images), F.adaptive_avg_pool2d(images, (4, 4)).repeat(1, 2, 1, 1)


def test_swapper(name):
    generator, encoder = small(name).eval(), Encoder(24)
    source, target = inputs(name)[0].flip(0), inputs(name)[0]
    swapper = students.StudentSwapper(generator, encoder).eval()
    with torch.no_grad():
        given = students.condition(encoder, source, generator)
        assert torch.equal(swapper(source, target), generator(target, *given)[0])
    assert swapper.parts == {"generator": generator, "identity_encoder": encoder}
    with pytest.raises(ValueError, match="embeddings: the generator takes 24 numbers, the identity encoder gives 25"):
        students.StudentSwapper(generator, Encoder(25))
