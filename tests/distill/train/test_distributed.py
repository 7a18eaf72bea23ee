"""Two processes on CPU compute what one computes with the double batch, synchronised batch normalisation included."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.nn import functional as F

import students
from distill.losses.discriminator import MultiScaleDiscriminator
from distill.train import batch_norm


class Toy(nn.Sequential):
    def __init__(self) -> None:
        first = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU()]
        second = [nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(4 * 60 * 60, 1)]
        super().__init__(*first, *second)


class Generator(nn.Module):
    """The paper's student, which has batch normalisation with and without affine parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.student = students.build("mobilefsgan", width=4, embedding_dim=6, resolution=64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        full, half, quarter = self.student(images, F.normalize(images[:, 0, 0, :6]))
        return sum(image.mean((1, 2, 3)) for image in (full, half, quarter))


class TimmGenerator(nn.Module):
    """A student whose backbone has normalisations with activations inside them."""

    def __init__(self) -> None:
        super().__init__()
        options = {"backbone": "mobilenetv4_conv_small_050", "width": 16, "embedding_dim": 6, "resolution": 64}
        self.student = students.build("timm_unet", **options)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.student(images, F.normalize(images[:, 0, 0, :6]))[0].square().mean((1, 2, 3))


class Critic(nn.Module):
    """The discriminator, whose weights are divided by a spectral norm that each pass moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.discriminator = MultiScaleDiscriminator(ndf=4, layers=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scales = [F.avg_pool2d(images, k) for k in (1, 2, 4)]
        return sum(logits.mean((1, 2, 3)) for logits in self.discriminator(scales))


NETWORKS = {"toy": Toy, "generator": Generator, "timm": TimmGenerator, "critic": Critic}


def network(name: str = "toy") -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name]().double()


def batch() -> torch.Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()


def gradients(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    model(images).tanh().mean().backward()
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}


def _half(rank: int, name: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = batch_norm.convert(network(name), torch.device("cpu"))
    wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    found = gradients(wrapped, batch()[rank * 2 : rank * 2 + 2])
    if rank == 0:
        torch.save({"gradients": found, "buffers": dict(model.named_buffers())}, f"{folder}/found.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_statistics_of_two_processes_equal_those_of_one(tmp_path, name):
    multiprocessing.spawn(_half, (name, str(tmp_path)), nprocs=2)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    alone = network(name)
    wanted = gradients(alone, batch())
    assert wanted.keys() == found["gradients"].keys()
    largest = max(g.abs().max() for g in wanted.values())
    for key, gradient in wanted.items():
        assert torch.allclose(gradient, found["gradients"][key], rtol=1e-7, atol=1e-9 * largest), key
    for key, buffer in alone.named_buffers():
        assert torch.allclose(buffer.double(), found["buffers"][key].double(), rtol=1e-9), key


def test_without_the_conversion_the_gradients_differ():
    """The test above can fail: batches normalised apart give another gradient."""
    model = network()
    wanted = gradients(network(), batch())
    for half in batch().split(2):
        (model(half).tanh().mean() / 2).backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    assert not torch.allclose(wanted["0.weight"], found["0.weight"], rtol=1e-3)


def test_converted_modules_keep_keys_values_and_results():
    model = MultiScaleDiscriminator(ndf=4, layers=2)
    images = [torch.randn(2, 3, s, s) for s in (64, 32, 16)]
    model.eval()
    before = [m.detach() for m in model(images)]
    keys = list(model.state_dict())
    converted = batch_norm.convert(model, torch.device("cpu"))
    assert list(converted.state_dict()) == keys
    assert any(isinstance(m, batch_norm.SyncBatchNorm) for m in converted.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, converted(images), strict=True))


def test_calibration_gives_each_layer_the_statistics_of_what_reaches_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    model[1].running_mean.fill_(99)
    batches = torch.randn(6, 8, 3, 5, 5) * 3 + 1
    batch_norm.calibrate(model, batches, model)
    assert not model.training and not model[1].training and model[1].momentum == 0.1
    with torch.no_grad():
        first = [model[0](b) for b in batches]
        assert torch.allclose(model[1].running_mean, torch.stack([b.mean((0, 2, 3)) for b in first]).mean(0), atol=1e-5)
        assert torch.allclose(model[1].running_var, torch.stack([b.var((0, 2, 3)) for b in first]).mean(0), rtol=1e-4)
        normalised = [(b - b.mean((0, 2, 3), keepdim=True)) / b.std((0, 2, 3), keepdim=True) for b in first]
    second = torch.stack([b.relu().mean((0, 2, 3)) for b in normalised]).mean(0)
    assert torch.allclose(model[3].running_mean, second, atol=1e-2)
    assert batch_norm.calibrate(nn.Linear(2, 2), (), model) is None  # nothing to do is no error
