"""The models that are exported from a student, and the description of a runtime.

    generator          target (1, 3, R, R), embedding (1, D) [, identity_map (1, C, h, w)]  ->  swap (1, 3, R, R)
    identity_encoder   source (1, 3, R, R)  ->  embedding (1, D) [, identity_map]
    whole              source, target  ->  swap

All images are canonical crops in [-1, 1]. An app that keeps the source runs the identity encoder once, and the
generator on every frame. Normalisations are folded (`fold.py`); the outputs at half and quarter resolution are omitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import StudentSwapper, condition
from .fold import explicit_norms, folded

Run = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]  # a loaded file: inputs by name -> outputs by name


@dataclass(frozen=True)
class Model:
    """A module in evaluation mode, example inputs by name, and the names of its outputs."""

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """A runtime: how a model becomes a file, and how that file is run on this machine.

    write(model, path, precision, metadata) -> path. load(path, output names, threads) -> Run. files(path): all files
    that an app ships. runs_in, feed: for the card, the program that ran the file here and how it takes its inputs.
    packages: imported by write and load; extra: the extra of this project that installs them. timed: whether `load`
    runs the file as a device would, so that its speed is meaningful. batch: pictures per call in the comparison.
    compare: for a target without write and load, replaces `equality.compare`.
    """

    suffix: str
    precisions: Sequence[str]
    runs_in: str
    feed: str
    write: Callable[[Model, Path, str, Mapping[str, str]], Path] | None = None
    load: Callable[[Path, Sequence[str], int], Run] | None = None
    packages: tuple[str, ...] = ()
    extra: str | None = None
    files: Callable[[Path], list[Path]] = lambda path: [path]
    timed: bool = True
    batch: int = 1
    compare: Callable | None = None

    def size_bytes(self, path: Path) -> int:
        """Bytes of all files that an app ships of a model."""
        return sum(file.stat().st_size for file in self.files(path))


class _Generator(nn.Module):
    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, target: Tensor, *identity: Tensor) -> Tensor:
        return self.generator(target, *identity)[0]


class _Encoder(nn.Module):
    def __init__(self, encoder: nn.Module, needs_map: bool) -> None:
        super().__init__()
        self.encoder, self.needs_map = encoder, needs_map

    def forward(self, source: Tensor) -> tuple[Tensor, ...]:
        return condition(self.encoder, source, self)


def lerp(start: Tensor, end: Tensor, weight: Tensor) -> Tensor:
    """torch.lerp in operations that every converter knows."""
    return start + weight * (end - start)


def program(model: Model) -> torch.export.ExportedProgram:
    """A model as torch.export's graph, without the operations that most converters have no rule for."""
    graph = torch.export.export(explicit_norms(model.module), tuple(model.inputs.values()))
    return graph.run_decompositions({torch.ops.aten.lerp.Tensor: lerp})


def models(swapper: StudentSwapper, fold: bool = True) -> dict[str, Model]:
    """The three models of a student by name, with folded or original normalisations.

    Raises ValueError for a student in training mode.
    """
    if swapper.training:
        raise ValueError("a student in training mode cannot be exported; call .eval()")
    generator, encoder = swapper.generator, swapper.identity_encoder
    if fold:
        generator, encoder = folded(generator), folded(encoder)
    needs_map, side = getattr(generator, "needs_map", False), generator.options["resolution"]
    image = torch.zeros(1, 3, side, side)
    identity = {"embedding": torch.zeros(1, generator.options["embedding_dim"])}
    if needs_map:
        identity["identity_map"] = torch.zeros(1, *encoder.map_shape)
    whole = StudentSwapper(generator, encoder).eval()
    # Two tensors for two images: torch.export silently merges two inputs that are the same tensor.
    every = (
        Model("generator", _Generator(generator), {"target": image, **identity}, ("swap",)),
        Model("identity_encoder", _Encoder(encoder, needs_map), {"source": image}, tuple(identity)),
        Model("whole", whole, {"source": image, "target": image.clone()}, ("swap",)),
    )
    for model in every:
        model.module.eval()
        if fold:
            model.module.requires_grad_(False)
    return {model.name: model for model in every}
