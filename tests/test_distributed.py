"""Two processes on CPU compute what one computes with the double batch, synchronised batch normalisation included."""

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn

from distill import sync_batch_norm
from distill.discriminator import MultiScaleDiscriminator


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.LeakyReLU(),
        nn.Conv2d(8, 4, 3),
        nn.BatchNorm2d(4, affine=False),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 12 * 12, 1)).double()


def batch() -> torch.Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()


def gradients(model: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    model(images).tanh().mean().backward()
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}


def _half(rank: int, store: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = sync_batch_norm.convert(network(), torch.device("cpu"))
    wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    found = gradients(wrapped, batch()[rank * 2 : rank * 2 + 2])
    if rank == 0:
        torch.save({"gradients": found, "buffers": dict(model.named_buffers())}, f"{folder}/found.pt")
    dist.destroy_process_group()


def test_gradients_and_statistics_of_two_processes_equal_those_of_one(tmp_path):
    multiprocessing.spawn(_half, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    alone = network()
    wanted = gradients(alone, batch())
    assert wanted.keys() == found["gradients"].keys()
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0 and torch.allclose(gradient, found["gradients"][name], rtol=1e-9, atol=1e-12), (
            name
        )
    for name, buffer in alone.named_buffers():
        assert torch.allclose(buffer.double(), found["buffers"][name].double(), rtol=1e-9), name


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
    converted = sync_batch_norm.convert(model, torch.device("cpu"))
    assert list(converted.state_dict()) == keys
    assert any(isinstance(m, sync_batch_norm.SyncBatchNorm) for m in converted.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, converted(images), strict=True))
