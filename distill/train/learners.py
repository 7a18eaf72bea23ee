"""What the loop trains: a student, or a teacher of our own, FaceShifter's first and second stage.

The network of a trainee maps (target, *condition) to swaps at full, half and quarter resolution; the condition, an
embedding at least, comes from what is frozen.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import students
from distill import build
from distill.config import Experiment
from distill.data.triplet import Triplet
from distill.schema import Teacher
from distill.train import losses
from students.identity_encoder import IdentityEncoder
from teachers import faceshifter


class Student:
    """A student of students.STUDENTS."""

    file = "student.safetensors"

    def __init__(self, exp: Experiment, encoder: IdentityEncoder) -> None:
        self.exp, self.encoder = exp, encoder
        self.network = build.student(exp, encoder)
        self._plan = self.network

    def condition(self, source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """What the network is given beside the target (N, 3, R, R): the source's embedding first."""
        return students.condition(self.encoder, source, self._plan)

    def complete(self, batch: Triplet, condition: tuple[Tensor, ...], lacking: Tensor) -> Triplet:
        """The batch with the GT that the condition holds for samples `lacking` (n,) one; here, none."""
        return batch

    def save(self, network: nn.Module, path: Path, **facts: str) -> None:
        students.save(network, path, **facts)


class FirstStage:
    """FaceShifter's AEI-Net, in our frame and colours."""

    file = "teacher.safetensors"

    def __init__(self, exp: Experiment, encoder: IdentityEncoder) -> None:
        self.exp, self.encoder = exp, encoder
        self.network = Pyramid(build.aei_net(exp, encoder))

    def condition(self, source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        return (self.encoder(source),)

    def complete(self, batch: Triplet, condition: tuple[Tensor, ...], lacking: Tensor) -> Triplet:
        return batch

    def save(self, network: nn.Module, path: Path, **facts: str) -> None:
        faceshifter.save_faceshifter(path, network.network, None, **facts)


class SecondStage:
    """HEAR-Net on the frozen first stage: it sees the swap, and what the first stage loses of the target itself."""

    file = "teacher.safetensors"

    def __init__(self, exp: Experiment, encoder: IdentityEncoder, first: Path) -> None:
        self.exp, self.encoder = exp, encoder
        device = next(encoder.parameters()).device
        self.first = build.teacher(Teacher("faceshifter", weights={"generator": str(first)}), exp, "refine").to(device)
        self.network = Refinement(faceshifter.HEARNet(**exp.refine.options))

    def condition(self, source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """The source's embedding, the first stage's swap, and the error of its swap of the target with itself."""
        embedding = self.encoder(source)
        swap, own = self.first.first_stage(
            torch.cat([embedding, self.encoder(target)]), target.repeat(2, 1, 1, 1)
        ).chunk(2)
        return embedding, swap, target - own

    def complete(self, batch: Triplet, condition: tuple[Tensor, ...], lacking: Tensor) -> Triplet:
        """The first stage's swap is the GT of pairs of people: HEAR-Net must not change more than it has to."""
        gt = batch.gt.index_copy(0, lacking, condition[1][lacking].to(batch.gt.dtype))
        return batch._replace(gt=gt, with_gt=torch.ones_like(batch.with_gt))

    def save(self, network: nn.Module, path: Path, **facts: str) -> None:
        faceshifter.save_faceshifter(path, self.first.generator, network.network, **facts)


class Pyramid(nn.Module):
    """A network of one output scale, and what makes the two smaller ones of it: shrinking."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, target: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pyramid(self.network(target, embedding)[0])

    def attribute_maps(self, images: Tensor) -> list[Tensor]:
        return self.network.attribute_maps(images)


class Refinement(nn.Module):
    """HEAR-Net as the loop calls it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, target: Tensor, embedding: Tensor, swap: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return pyramid(self.network(torch.cat([swap, error], 1)))


def pyramid(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An image (N, 3, R, R) with its halves and quarters."""
    return image, losses.shrink(image, image.shape[-1] // 2), losses.shrink(image, image.shape[-1] // 4)


def trainee(exp: Experiment, encoder: IdentityEncoder, stage: str) -> Student | FirstStage | SecondStage:
    """What this stage (`train` or `refine`) of an experiment trains. Raises ConfigError."""
    if stage == "refine":
        return SecondStage(exp, encoder, exp.folder / "train" / FirstStage.file)
    return (FirstStage if exp.student.name == "faceshifter" else Student)(exp, encoder)
