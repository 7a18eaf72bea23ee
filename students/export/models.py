"""What is exported of a student: its generator, its identity encoder, and both as one model.

    generator          target (1, 3, R, R), embedding (1, D) [, identity_map (1, C, h, w)]  ->  swap (1, 3, R, R)
    identity_encoder   source (1, 3, R, R)  ->  embedding (1, D) [, identity_map]
    whole              source, target  ->  swap

All images are canonical crops in [-1, 1]. An application that keeps the source runs the encoder once, and the generator
for every frame. Normalisations are folded (`fold.py`) and the outputs at half and quarter resolution left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import StudentSwapper, condition
from .fold import folded, spelled_out

Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]  # what a loaded file is: inputs by name -> outputs by name


@dataclass(frozen=True)
class Model:
    """A module in evaluation mode, examples of its inputs by name, the names of its outputs."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


class _Generator(nn.Module):
    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, target: Tensor, *given: Tensor) -> Tensor:
        return self.generator(target, *given)[0]


class _Encoder(nn.Module):
    def __init__(self, encoder: nn.Module, needs_map: bool) -> None:
        super().__init__()
        self.encoder, self.needs_map = encoder, needs_map

    def forward(self, source: Tensor) -> tuple[Tensor, ...]:
        return condition(self.encoder, source, self)


def lerp(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """torch.lerp of operations that every converter knows."""
    return start + weight * (end - start)


def program(model: Model) -> torch.export.ExportedProgram:
    """A model's graph of torch's operations, without those that most converters have no rule for."""
    graph = torch.export.export(spelled_out(model.module), tuple(model.inputs.values()))
    return graph.run_decompositions({torch.ops.aten.lerp.Tensor: lerp})


def models(swapper: StudentSwapper, fold: bool = True) -> dict[str, Model]:
    """The three models of a student, by name; with `fold` their normalisations are folded, else they are the student's
    own. Raises ValueError for one in training mode."""
    if swapper.training:
        raise ValueError("a student in training mode cannot be exported; call .eval()")
    generator, encoder = swapper.generator, swapper.identity_encoder
    if fold:
        generator, encoder = folded(generator), folded(encoder)
    needs_map, side = getattr(generator, "needs_map", False), generator.options["resolution"]
    image = torch.zeros(1, 3, side, side)
    given = {"embedding": torch.zeros(1, generator.options["embedding_dim"])}
    if needs_map:
        given["identity_map"] = torch.zeros(1, *encoder.map_shape)
    whole = StudentSwapper(generator, encoder).eval()
    # Two tensors for two images: torch.export silently takes one tensor that is given twice for one input.
    made = (
        Model("generator", _Generator(generator), {"target": image, **given}, ("swap",)),
        Model("identity_encoder", _Encoder(encoder, needs_map), {"source": image}, tuple(given)),
        Model("whole", whole, {"source": image, "target": image.clone()}, ("swap",)),
    )
    for model in made:
        model.module.eval()
        if fold:
            model.module.requires_grad_(False)
    return {model.name: model for model in made}
