"""Muon: orthogonal steps, torch's own as the reference, Adam for what is no matrix, and the step around it."""

import pytest
import torch
from helpers.line import experiment, in_process, same_state
from helpers.steps import CPU, AsksTheHost, noise, step_of
from torch import nn

import students
from distill import config, estimate, run
from distill.train.capture import Snapshot
from distill.train.muon import Muon, is_matrix, orthogonal

BETAS = (0.9, 0.99)


@pytest.mark.parametrize("shape", [(3, 16, 144), (1, 48, 16), (2, 24, 40)])
def test_steps_are_nearly_orthogonal_and_do_not_depend_on_the_batch(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    found = orthogonal(matrices)
    values = torch.linalg.svdvals(found)
    assert found.shape == shape and 0.6 < values.min() and values.max() < 1.3
    for own, one in zip(matrices, found, strict=True):
        assert torch.allclose(orthogonal(own[None])[0], one, atol=1e-5)
        assert torch.allclose(orthogonal(7 * own[None])[0], one, atol=1e-5), "the size of a gradient does not count"
    assert torch.equal(orthogonal(torch.zeros(1, 16, 20)), torch.zeros(1, 16, 20))


def test_the_direction_is_that_of_the_exact_polar_factor():
    matrix = torch.randn(24, 60, generator=torch.Generator().manual_seed(1))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    exact = u @ v
    assert nn.functional.cosine_similarity(orthogonal(matrix[None]).flatten(), exact.flatten(), 0) > 0.97


@pytest.mark.parametrize("shape", [(24, 32), (48, 16)])
def test_matrices_move_as_with_torchs_muon(shape):
    """torch computes in bfloat16, so the steps agree to some percent."""
    torch.manual_seed(0)
    first = torch.randn(shape)
    own, other = nn.Parameter(first.clone()), nn.Parameter(first.clone())
    mine = Muon([own], 1e-3, 0.01, BETAS)
    theirs = torch.optim.Muon([other], 0.01, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        own.grad = torch.randn(shape)
        other.grad = own.grad.clone()
        mine.step()
        theirs.step()
    moved, wanted = own.detach() - first, other.detach() - first
    assert (moved - wanted).norm() < 0.05 * wanted.norm()
    assert moved.square().mean().sqrt() == pytest.approx(3 * 0.2 * 0.01, rel=0.5), "steps have the size of Adam's"


def test_kernels_are_matrices_and_the_rest_is_adams():
    torch.manual_seed(0)
    kernel, bias, depthwise = nn.Parameter(torch.randn(16, 4, 3, 3)), nn.Parameter(torch.randn(16)), None
    depthwise = nn.Parameter(torch.randn(32, 1, 5, 5))
    idle, same = nn.Parameter(torch.randn(20, 20)), [nn.Parameter(p.detach().clone()) for p in (bias, depthwise)]
    flat = nn.Parameter(kernel.detach().flatten(1).clone())
    before = idle.detach().clone()
    optimiser = Muon([kernel, bias, depthwise, idle], 1e-3, 3e-3, BETAS)
    adam, matrix = torch.optim.Adam(same, 1e-3, BETAS, fused=True), Muon([flat], 1e-3, 3e-3, BETAS)
    assert [len(group["params"]) for group in optimiser.param_groups] == [2, 2]
    for _ in range(3):
        for parameter in (kernel, bias, depthwise):
            parameter.grad = torch.randn_like(parameter)
        flat.grad, same[0].grad, same[1].grad = kernel.grad.flatten(1), bias.grad, depthwise.grad
        for one in (optimiser, adam, matrix):
            one.step()
    assert torch.equal(bias, same[0]) and torch.equal(depthwise, same[1])
    assert torch.allclose(kernel.flatten(1), flat, atol=1e-6) and torch.equal(idle, before)


@pytest.mark.parametrize("name", students.STUDENTS)
def test_most_weights_of_a_student_are_matrices(name):
    network = students.STUDENTS[name]()
    matrices = sum(p.numel() for p in network.parameters() if is_matrix(p))
    assert not any(is_matrix(p) for p in network.parameters() if p.ndim < 2 or min(p.shape[0], p[0].numel()) < 16)
    assert matrices > 0.5 * sum(p.numel() for p in network.parameters())


def test_a_run_goes_on_bit_for_bit(tmp_path):
    train = {"optimiser": "muon", "warmup_steps": 2}
    stages = "stages=[data, pseudo_gt, train]"
    straight = in_process(experiment(tmp_path, "straight", train=train), stages)
    path = experiment(tmp_path, "pieces", train=train)
    in_process(path, stages, "train.steps=2")
    same_state(straight, in_process(path, stages))
    with pytest.raises(Exception, match="name"):
        in_process(path, stages, "train.optimiser=adam")


def test_a_loaded_step_lies_where_the_parameters_lie():
    optimiser = Muon([nn.Parameter(torch.zeros(3))], 1e-3, 3e-3, BETAS)
    optimiser.param_groups[0]["params"][0].grad = torch.ones(3)
    optimiser.step()
    moved = Muon([nn.Parameter(torch.zeros(3, device="meta"))], 1e-3, 3e-3, BETAS)
    moved.load_state_dict(optimiser.state_dict())
    (state,) = moved.state.values()
    assert {value.device.type for value in state.values()} == {"meta"}


def test_both_rates_rise_and_fall(tmp_path):
    rates = {"optimiser": "muon", "lr": 1e-3, "lr_matrices": 4e-3, "warmup_steps": 4, "lr_final": 0.1, "steps": 8}
    step = step_of(tmp_path, "compact", **rates)
    step.state.set_rates()
    assert [group["lr"] for group in step.state.optimiser.param_groups] == pytest.approx([2.5e-4, 1e-3])
    step.state.make_capturable()
    for number, share in ((4, 0.55), (8, 0.1)):  # half way, and at the end
        step.state.step = number
        step.state.set_rates()
        found = [group["lr"].item() for group in step.state.optimiser.param_groups]
        assert found == pytest.approx([1e-3 * share, 4e-3 * share])


def test_rates_in_tensors_give_the_same_steps(tmp_path):
    """A graph reads the rates from the device."""
    settings = {"optimiser": "muon", "lr": 1e-3, "warmup_steps": 3, "steps": 5}
    plain, tensors = (step_of(tmp_path, "compact", **settings) for _ in range(2))
    tensors.state.make_capturable()
    batch = noise()
    for _ in range(3):
        wanted, found = plain.learn(batch), tensors.learn(batch)
        assert all(found[key].item() == pytest.approx(value.item(), rel=1e-3) for key, value in wanted.items())
    for own, other in zip(plain.state.net.parameters(), tensors.state.net.parameters(), strict=True):
        assert torch.allclose(own, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_asks_nothing_of_the_host_and_a_warm_up_leaves_no_trace(tmp_path, precision):
    plain, warmed = (step_of(tmp_path, "compact", optimiser="muon", precision=precision) for _ in range(2))
    batch = noise()
    snapshot = Snapshot(warmed.state, CPU)
    warmed.state.set_rates()
    with AsksTheHost():
        warmed.compute(batch)
    snapshot.restore()
    for _ in range(2):
        wanted, found = plain.learn(batch), warmed.learn(batch)
        assert all(torch.equal(found[key], value) for key, value in wanted.items())
    for own, other in zip(plain.state.net.parameters(), warmed.state.net.parameters(), strict=True):
        assert torch.equal(own, other)


def test_the_estimate_counts_one_moment_of_a_matrix(tmp_path):
    megabytes = {}
    for name in ("adam", "muon"):
        student = {"name": "compact", "options": {"width": 96}}
        exp = config.load(experiment(tmp_path, name, student=student, train={"optimiser": name}))
        (line,) = [line for line in estimate.run(exp, run.new_accelerator(exp)) if "optimisers" in line]
        megabytes[name] = float(line.split()[1].replace(",", ""))
    weights = sum(
        p.numel() for p in students.STUDENTS["compact"](width=96, embedding_dim=64, resolution=64).parameters()
    )
    assert megabytes["adam"] - megabytes["muon"] == pytest.approx(4e-6 * weights, rel=0.1)
