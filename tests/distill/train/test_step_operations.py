"""The step in few operations: it computes what the step of many operations computed, and asks nothing of the host."""

import json

import pytest
import torch
from helpers.goldens import FOLDER
from helpers.steps import RATE, SECTIONS, AsksTheHost, computed, noise, step_of, with_unscaled_styles
from torch import nn

from benchmarks import roofline
from distill.losses.discriminator import MultiScaleDiscriminator
from distill.losses.frozen import for_training
from distill.losses.grid import grid
from students.identity_encoder import CARDS, IdentityEncoder

# Of commit 8db3152: one pass per scale, a loop over parameters, spectral norms one by one. Three steps at CPU size.
BEFORE = json.loads((FOLDER / "training_step.json").read_text())


@pytest.mark.parametrize("name", SECTIONS)
def test_losses_gradients_and_averages_are_those_of_the_former_step(tmp_path, name):
    step, before = with_unscaled_styles(step_of(tmp_path, name, lr=RATE)), BEFORE[name]
    found = computed(step, noise())
    assert found["gradients"].keys() == before["gradients"].keys()
    largest = max(before["gradients"].values())
    for key, value in before["gradients"].items():
        assert found["gradients"][key] == pytest.approx(value, rel=1e-3, abs=1e-6 * largest), key
    # Adam divides gradients by their own size, so the rounding of tiny ones moves weights, a little.
    for number, terms in enumerate(before["terms"]):
        assert found["terms"][number].keys() == terms.keys()
        for key, value in terms.items():
            assert found["terms"][number][key] == pytest.approx(value, rel=1e-3), (number, key)
    assert step.state.step == 3 and found["moved"] == pytest.approx(before["moved"], rel=2e-2)
    assert found["buffers"] == pytest.approx(before["buffers"], rel=1e-3)


# Operations of a whole step (forward, backward, both optimisers, average): those of commit 8db3152, and the most now.
@pytest.mark.parametrize(
    ("name", "precision", "before", "most"),
    [("compact", "fp32", 2686, 1136), ("mobilefsgan", "fp32", 4705, 1659), ("mobilefsgan", "bf16", 5357, 2171)],
)
def test_a_step_has_few_operations(tmp_path, name, precision, before, most):
    step, batch = step_of(tmp_path, name, precision=precision), noise()
    step.learn(batch)  # the optimisers make their state
    with roofline.Operations(1e9, 1e9) as counted:
        step.learn(batch)
    assert counted.calls <= most * 1.02 and counted.calls < before / 2, counted.table(20)
    assert counted.calls == sum(phase.total() for phase in counted.names.values())
    assert counted.names["optimisers"] == {"_fused_adam_": 2} and counted.names["backward"]["convolution_backward"] > 30


@pytest.mark.parametrize(
    "work", [lambda x: x.item(), lambda x: torch.nonzero(x), lambda x: x[x > 0], lambda x: bool(x > 0)]
)
def test_questions_to_the_host_are_seen(work):
    with pytest.raises(AssertionError, match="the host waits"), AsksTheHost():
        work(torch.ones(()) if work(torch.ones(())) in (1, True) else torch.ones(3))


AGAINST_FOOLING = {"identity_disturbance": 1.0, "identity_fading": 1.0, "grid": 10.0, "perceptual": 1.0}


@pytest.mark.parametrize("name", SECTIONS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("loss", [{}, AGAINST_FOOLING])
def test_a_step_asks_nothing_of_the_host(tmp_path, name, precision, loss):
    step, batch = step_of(tmp_path, name, loss, precision=precision), noise()
    step.state.set_rates()
    with AsksTheHost():
        step.compute(batch)


def test_the_identity_encoder_sees_disturbed_swaps_and_the_perceptual_loss_does_not(tmp_path):
    """And with both off, nothing is drawn: older runs go on as they were."""
    plain, other = step_of(tmp_path, "compact"), step_of(tmp_path, "compact", AGAINST_FOOLING)
    assert plain.shares_maps and not other.shares_maps
    before, found = torch.get_rng_state(), {}
    for name, step in {"plain": plain, "other": other}.items():
        torch.manual_seed(3)
        found[name] = step.generator(noise())[0]
    assert found["plain"].keys() | {"grid"} == found["other"].keys() and found["other"]["grid"] > 0
    for term, value in found["plain"].items():
        same = found["other"][term].item() == pytest.approx(value.item(), rel=1e-4)
        assert same == (term != "identity"), term
    torch.set_rng_state(before)
    plain.generator(noise())
    drawn = torch.get_rng_state()
    noise()  # seeds anew, and draws what it drew
    assert torch.equal(drawn, torch.get_rng_state())


def test_the_grid_is_that_beyond_gt_or_the_target(tmp_path):
    step = step_of(tmp_path, "compact", {"grid": 1.0})
    batch = noise().on_device(torch.device("cpu"))
    wanted = [
        grid(own, reference, step.patterns)
        for own, reference in ((batch.source, batch.gt), (batch.source, batch.target))
    ]
    weight = torch.tensor([0.5, 0.5, 0.5, 0.5])  # of truth alone
    swaps = [batch.source, *([batch.source[:, :, ::2, ::2]] * 2)]
    found = step.generator_terms(swaps, batch._replace(weight=weight), torch.rand(4, 64), {}, [])
    each = torch.where(batch.with_gt > 0, 0.5 * wanted[0], wanted[1])
    assert found["grid"].item() == pytest.approx(each.mean().item())


def test_the_gt_of_the_second_stage_is_chosen_on_the_device():
    from distill.train.learners import HEARNetLearner

    swaps = torch.rand(4, 3, 64, 64)
    batch = noise().on_device(torch.device("cpu"))
    with AsksTheHost():
        done = HEARNetLearner.complete(None, batch, (None, swaps))
    assert torch.equal(done.gt[1:3], swaps[1:3]) and torch.equal(done.gt[[0, 3]], batch.gt[[0, 3]])
    assert done.with_gt.tolist() == [1, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compact", "mobilefsgan"])
def test_forward_and_losses_are_one_graph_and_compute_the_same(tmp_path, name):
    """No break: what a compiler or a CUDA graph cannot take would raise."""
    eager, compiled = (step_of(tmp_path, name) for _ in range(2))
    batch = noise()

    def whole(step):
        def work(batch):
            terms, swaps, real = step.generator(batch)
            return terms | {"discriminator": step.discriminator(real, [swap.detach() for swap in swaps])}

        return work

    wanted = whole(eager)(batch)
    found = torch.compile(whole(compiled), backend="aot_eager", fullgraph=True, dynamic=False)(batch)
    torch._dynamo.reset()
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert found[key].item() == pytest.approx(value.item(), rel=1e-5, abs=1e-6), key
    for key, buffer in eager.state.discriminator.named_buffers():  # both moved their power iteration on
        assert torch.allclose(buffer, compiled.state.discriminator.get_buffer(key), atol=1e-5), key


@pytest.mark.parametrize("training", [True, False])
def test_spectral_norms_together_are_those_of_torch(training):
    torch.manual_seed(0)
    networks = [MultiScaleDiscriminator(ndf=4, layers=2).to(memory_format=torch.channels_last) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    images = [torch.rand(2, 3, s, s, requires_grad=True) for s in (64, 32, 16)]
    gradients = []
    for network, pass_ in zip(networks, (networks[0], lambda x: _one_by_one(networks[1], x)), strict=True):
        network.train(training)
        for _ in range(2):
            logits = pass_(images)
        parameters = [*network.parameters(), *images]
        gradients.append(torch.autograd.grad(sum(each.square().sum() for each in logits), parameters))
    largest = max(wanted.abs().max().item() for wanted in gradients[1])  # a bias before a norm has rounding alone
    for own, wanted in zip(*gradients, strict=True):
        assert torch.allclose(own, wanted, rtol=1e-3, atol=1e-4 * largest)
    assert largest > 3
    for key, buffer in networks[1].named_buffers():
        assert torch.allclose(networks[0].get_buffer(key), buffer, atol=1e-5), key


def _one_by_one(network: nn.Module, images: list[torch.Tensor]) -> list[torch.Tensor]:
    """Every layer reads its weight through torch's own parametrisation."""
    return [patch(image) for patch, image in zip(network.patches, images, strict=True)]


@pytest.mark.parametrize("card", ["synthetic_identity", "mobilefacenet_512"])
def test_frozen_encoders_are_folded_without_a_change(card):
    torch.manual_seed(0)
    encoder = IdentityEncoder(CARDS[card]).eval().requires_grad_(False)
    for module in encoder.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    folded, images = for_training(encoder), [torch.rand(2, 3, s, s) * 2 - 1 for s in (64, 32)]
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters())
    wanted = torch.cat([encoder(image) for image in images])
    assert torch.allclose(folded.embeddings(*images), wanted, atol=1e-5)
    maps, embeddings = folded.features_and_embeddings(*images)
    assert torch.allclose(embeddings, wanted, atol=1e-5)
    for own, map_ in zip(maps, encoder.features(images[0]), strict=True):
        assert torch.allclose(own[:2], map_, atol=1e-4 * map_.abs().max().item())
    half = for_training(encoder, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert (half(images[0]) * wanted[:2]).sum(1).min() > 0.98
    assert for_training(len) is len, "a function has no layers to fold"
