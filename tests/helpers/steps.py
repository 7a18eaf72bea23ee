"""A training step at CPU size on a batch of noise, with and without GT, and what it computes."""

from pathlib import Path

import torch

from distill import config, estimate, run
from distill.data.triplet import Triplet
from distill.train.step import Step, build_networks
from helpers.line import experiment

CPU = torch.device("cpu")
SECTIONS = {
    "compact": {"student": {"name": "compact", "options": {"width": 8}}},
    "mobilefsgan": {
        "student": {"name": "mobilefsgan", "options": {"width": 4}},
        "loss": {
            "identity": [20, 20, 20], "adversarial_batch": "sum", "reconstruction": [10, 0, 0],
            "reconstruction_kind": "original",
        },
    },
    "faceshifter": {
        "student": {"name": "faceshifter", "options": {"width": 2}},
        "loss": {
            "adversarial": [1, 1, 1], "attribute": 10, "identity": [5, 0, 0], "reconstruction": [10, 0, 0],
            "reconstruction_norm": "l2", "perceptual": 0,
            "discriminator": {"kind": "pyramid", "ndf": 2, "layers": 2},
        },
    },
}  # fmt: skip


def step_of(folder: Path, name: str, **train) -> Step:
    exp = config.load(experiment(folder, **{**SECTIONS[name], "train": train}))
    return Step(exp, build_networks(exp, CPU), run.new_accelerator(exp))


def noise() -> Triplet:
    """Four samples: two without GT, one whose target is the real picture."""
    torch.manual_seed(0)
    batch = estimate.noise(4, 64)
    batch.with_gt[1:3] = 0
    batch.gt[1:3] = 0
    batch.src_as_true[2] = False
    return batch


def first_gradients(step: Step, batch: Triplet) -> dict[str, float]:
    """Sums of the absolute gradients of a step, by the first two parts of the parameters' names."""
    found: dict[str, float] = {}
    handles = []
    for optimiser, network in (
        (step.state.optimiser, step.state.net), (step.state.optimiser_d, step.state.discriminator),
    ):  # fmt: skip

        def keep(inner, _arguments, _options, network=network) -> None:
            for name, parameter in network.named_parameters():
                key = ".".join(name.split(".")[:2])
                found[key] = found.get(key, 0) + parameter.grad.double().abs().sum().item()

        handles.append(optimiser.optimizer.register_step_pre_hook(keep))
    step.learn(batch)
    for handle in handles:
        handle.remove()
    return found
