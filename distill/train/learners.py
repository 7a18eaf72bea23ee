"""The learners: each holds the network that a stage trains, its frozen inputs and the name of its file.

The `net` of a learner maps (target, *condition) to swaps at full, half and quarter resolution. The first element of the
condition is the source's embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import students
from distill.config import ConfigError
from distill.data.triplet import Triplet
from distill.losses import terms as losses
from students.identity_encoder import IdentityEncoder
from teachers import faceshifter


class Learner:
    """A network `net` in training on the embeddings of a frozen `encoder`. `save` writes it to a file named `file`."""

    file = "teacher.safetensors"

    def __init__(self, encoder: IdentityEncoder, net: nn.Module) -> None:
        self.encoder, self.net = encoder, net

    def condition(self, source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """The frozen inputs of the network, from images (N, 3, R, R): the embeddings (N, D) first."""
        return students.condition(self.encoder, source, self.net)

    def complete(self, batch: Triplet, condition: tuple[Tensor, ...]) -> Triplet:
        """The batch; a subclass may add ground truth, from the condition, to its samples without it. Here it is
        returned unchanged."""
        return batch

    def set_resolution(self, net: nn.Module, resolution: int) -> None:
        """Let `net`, the learner's network or its EMA, take pictures of another resolution from now on. Raises
        ValueError where it cannot."""
        raise ValueError("a teacher in training has one resolution")

    def save(self, net: nn.Module, path: Path, **metadata: str) -> None:
        """Write `net`, the learner's network or its EMA, whole or not at all."""
        raise NotImplementedError


class StudentLearner(Learner):
    """A student of students.STUDENTS."""

    file = "student.safetensors"

    def __init__(self, name: str, encoder: IdentityEncoder, resolution: int, options: Mapping[str, Any]) -> None:
        """Raises ValueError for an unknown name, ValueError or TypeError for wrong options."""
        super().__init__(encoder, students.build_for(encoder, name, **{"resolution": resolution, **options}))

    def set_resolution(self, net: nn.Module, resolution: int) -> None:
        students.set_resolution(net, resolution)

    def save(self, net: nn.Module, path: Path, **metadata: str) -> None:
        students.save(net, path, **metadata)


class AEINetLearner(Learner):
    """The first stage of FaceShifter, in our frame and colours."""

    def __init__(self, name: str, encoder: IdentityEncoder, resolution: int, options: Mapping[str, Any]) -> None:
        """Raises ValueError or TypeError for wrong options."""
        shapes = {"resolution": resolution, "embedding_dim": encoder.card.embedding_dim}
        super().__init__(encoder, Pyramid(faceshifter.AEINet(**{**shapes, **options})))

    def save(self, net: nn.Module, path: Path, **metadata: str) -> None:
        faceshifter.save_faceshifter(path, net.network, None, **metadata)


class HEARNetLearner(Learner):
    """The second stage of FaceShifter: HEAR-Net on the frozen first stage."""

    def __init__(
        self, first: faceshifter.FaceShifterTeacher, encoder: IdentityEncoder, options: Mapping[str, Any]
    ) -> None:
        """Raises ConfigError for wrong options."""
        super().__init__(encoder, refiner(options))
        self.first = first

    def condition(self, source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """The source's embedding, the first stage's swap, and the target minus its swap onto itself."""
        embedding = self.encoder(source)
        embeddings = torch.cat([embedding, self.encoder(target)])
        swap, own = self.first.first_stage(embeddings, target.repeat(2, 1, 1, 1)).chunk(2)
        return embedding, swap, target - own

    def complete(self, batch: Triplet, condition: tuple[Tensor, ...]) -> Triplet:
        """For pairs of people, the first stage's swap is the GT: HEAR-Net must change as little as possible."""
        gt = torch.where(batch.with_gt.view(-1, 1, 1, 1) > 0, batch.gt, condition[1].to(batch.gt.dtype))
        return batch._replace(gt=gt, with_gt=torch.ones_like(batch.with_gt))

    def save(self, net: nn.Module, path: Path, **metadata: str) -> None:
        faceshifter.save_faceshifter(path, self.first.generator, net.network, **metadata)


# student.name -> stage -> learner. Every other name trains a student of students.STUDENTS, in stage `train` alone.
LEARNERS = {"faceshifter": {"train": AEINetLearner, "refine": HEARNetLearner}}


def learner_of(name: str, stage: str = "train") -> type[Learner]:
    """The class of the learner for a student.name in a stage. Raises KeyError where the name has no such stage."""
    return LEARNERS.get(name, {"train": StudentLearner})[stage]


class Pyramid(nn.Module):
    """A network of one output scale, whose output is shrunk to the two smaller ones."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, target: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pyramid(self.network(target, embedding)[0])

    def attribute_maps(self, images: Tensor) -> list[Tensor]:
        return self.network.attribute_maps(images)


class Refiner(nn.Module):
    """HEAR-Net with the inputs and outputs of a learner's network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, target: Tensor, embedding: Tensor, swap: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pyramid(self.network(torch.cat([swap, error], 1)))


def refiner(options: Mapping[str, Any]) -> Refiner:
    """HEAR-Net with refine.options. Raises ConfigError."""
    try:
        return Refiner(faceshifter.HEARNet(**options))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"refine.options: {error}") from None


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Networks of the block have parameters with a shape and no values, and are made in an instant."""
    with torch.device("meta"), _NoValues():
        yield


class _NoValues(TorchFunctionMode):
    """Leaves out the initial values of parameters. On the device `meta` drawing them imports torch._dynamo, which would
    take every command two seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        options = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return options["tensor"] if "tensor" in options else args[0]
        return function(*args, **options)


def pyramid(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An image (N, 3, R, R) with its halves and quarters."""
    return image, losses.shrink(image, image.shape[-1] // 2), losses.shrink(image, image.shape[-1] // 4)
