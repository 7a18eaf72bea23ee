"""A training step at CPU size on a batch of noise, with and without GT, and what it computes.

PYTHONPATH=. python tests/helpers/steps.py FILE     # writes what they compute as JSON
"""

import json
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.append(str(Path(__file__).resolve().parent.parent))

from distill import build, config, estimate, run
from distill.data.triplet import Triplet
from distill.train.step import Step, build_networks
from helpers.line import experiment
from students.identity_encoder import CARDS, IdentityEncoder
from students.modulated import Style

CPU, RATE = torch.device("cpu"), 1e-4
SECTIONS = {
    "compact": {"student": {"name": "compact", "options": {"width": 8, "style_dim": 16}}},
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


class AsksTheHost(TorchDispatchMode):
    """Fails on operations whose result or shape the host must wait for."""

    NAMES = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "masked_select", "unique", "equal", "argwhere")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._overloadpacket.__name__
        masks = [i for i in args[1] if i is not None and i.dtype == torch.bool] if name.startswith("index") else []
        assert not masks and not name.startswith(self.NAMES), f"the host waits for {function}"
        return function(*args, **(kwargs or {}))


def step_of(folder: Path, name: str, loss: dict | None = None, **train) -> Step:
    sections = {**SECTIONS[name], "train": train, "loss": {**SECTIONS[name].get("loss", {}), **(loss or {})}}
    exp = config.load(experiment(folder, **sections))
    with mock.patch.object(build, "identity_encoder", random_encoder):
        return Step(exp, build_networks(exp, CPU), run.new_accelerator(exp))


def with_unscaled_styles(step: Step) -> Step:
    """The same functions; the first layer of each style takes the unit embedding as it is, as at commit 8db3152."""
    for network in (step.state.net, step.state.ema):
        for style in (module for module in network.modules() if isinstance(module, Style)):
            with torch.no_grad():
                style[0].weight.mul_(style.gain)
            style.gain = 1.0
    return step


def random_encoder(*_) -> IdentityEncoder:
    """An encoder of random weights: the recorded numbers shall not change when the shipped one is trained again."""
    torch.manual_seed(7)
    encoder = IdentityEncoder(CARDS["synthetic_identity"]).requires_grad_(False)
    for _ in range(20):  # its batch normalisation must fit, or all embeddings are nearly equal
        encoder(torch.rand(16, 3, 64, 64) * 2 - 1)
    encoder.eval()
    encoder.weight_hash = "random"
    torch.manual_seed(0)
    return encoder


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


def computed(step: Step, batch: Triplet) -> dict:
    """What three steps compute: gradients of the first, terms of the others, how far the average of the weights has
    moved, and a sum over the buffers."""
    first = [p.detach().double().clone() for p in step.state.ema.parameters()]
    gradients = first_gradients(step, batch)
    terms = [{}, *({key: value.item() for key, value in step.learn(batch).items()} for _ in range(2))]
    networks = (step.state.net, step.state.discriminator)
    buffers = [b.double().abs().sum() for n in networks for k, b in n.named_buffers() if "num_batches" not in k]
    return {
        "gradients": gradients,
        "terms": terms,
        "moved": sum(
            (p.double() - o).abs().sum().item() for p, o in zip(step.state.ema.parameters(), first, strict=True)
        ),
        "buffers": sum(buffers).item(),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        places = {name: Path(tempfile.mkdtemp(dir=folder)) for name in SECTIONS}
        found = {
            name: computed(with_unscaled_styles(step_of(place, name, lr=RATE)), noise())
            for name, place in places.items()
        }
    Path(sys.argv[1]).write_text(json.dumps(found, indent=1) + "\n")
