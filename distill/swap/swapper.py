"""Swap faces in whole pictures: find the faces, align them, swap them with a student and lay them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import students
from distill import build
from distill.config import ConfigError, Experiment
from distill.data import faces
from distill.evaluate import swappers
from distill.swap.blend import lay_back
from distill.swap.reference import Person
from distill.swap.smoothing import Smoother
from swapcore.images import DataError, decode, to_float, to_uint8


class Swapper:
    """Swaps faces in pictures (H, W, 3) uint8 RGB of any size. A picture without a face to swap stays as it is.

    student: .safetensors or .onnx file. source: photograph whose largest face gives the identity. count: how many of
    the largest faces are swapped, None for all. reference: photograph of a person; with it, only the face with the
    highest cosine to it is swapped, by the student's identity encoder, and only where the cosine is at least
    `similarity` (by default as measured for the encoder). smooth: the pictures are frames of a video, and
    landmarks are smoothed over time; `at` names the time of the next one. Raises ConfigError, DataError, ValueError.

    Counts so far: `pictures`, `swapped` faces, pictures that are `faceless`, and those that show only `strangers`.
    """

    def __init__(
        self, student: Path, exp: Experiment, detector: faces.Detector, source: Path, count: int | None,
        reference: Path | None = None, similarity: float | None = None, smooth: bool = False,
    ) -> None:  # fmt: skip
        if student.suffix == ".onnx":
            self.network = swappers.OnnxStudent(student, exp, None)
            self.size, self.encoder = self.network.resolution, self.network.encoder
            encoder_name = self.network.session.metadata.get("identity_encoder")
        elif student.suffix == ".safetensors":
            self.network = swappers.load_student(student, exp)
            self.size, self.encoder = self.network.generator.options["resolution"], self.network.identity_encoder
            encoder_name = self.encoder.card.name
        else:
            raise ConfigError(f"{student}: expected a student's .safetensors, or its whole.onnx or generator.onnx")
        self.detector, self.count = detector, count
        self.smoother, self.time = Smoother() if smooth else None, 0.0
        self.pictures = self.swapped = self.faceless = self.strangers = 0
        image, points = self._largest_face(source, "source")
        self.source, self.person, self.reference = _crops(image, [points], self.size), None, reference
        if reference is not None:
            self.encoder = self.encoder or build.identity_encoder(exp, encoder_name)  # a whole.onnx only names its own
            image, points = self._largest_face(reference, "reference")
            self.person = Person(self._embed(image, [points])[0], self.encoder.card.name, similarity)

    def at(self, time: float) -> None:
        """The time of the next picture in its video, in seconds."""
        self.time = time

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        self.pictures += 1
        found = self.detector.all(image)
        if self.smoother is not None:
            found = self.smoother(found, self.time, image)
        chosen = self._choose(image, found)
        if not chosen:
            return image
        targets = _crops(image, chosen, self.size)
        swaps, masks = self._swap(self.source.expand(len(targets), -1, -1, -1), targets)
        for number, points in enumerate(chosen):
            own = None if masks is None else masks[number, 0].numpy()
            image = lay_back(image, points, _pixels(swaps[number]), _pixels(targets[number]), own)
        self.swapped += len(chosen)
        return image

    def unchanged(self) -> str:
        """What was not swapped so far and why, in a line; empty where every picture was."""
        reasons = [f"{self.faceless} without a face"] * bool(self.faceless)
        if self.strangers:
            reasons.append(
                f"{self.strangers} in which no face has a cosine of {self.person.least:g} to {self.reference}"
            )
        left = f"{self.faceless + self.strangers} of {self.pictures} frames stay as they are"
        return f"{left}: {', '.join(reasons)}" if reasons else ""

    def nobody(self, where: str = "") -> str:
        """Why no face was swapped at all. where: such as " in any frame"."""
        if not self.strangers:
            return f"no face found{where}"
        return (
            f"nobody resembles {self.reference}{where}: the highest cosine is {self.person.nearest:.2f}, below "
            f"{self.person.least:g}; --similarity sets another limit"
        )

    def _swap(self, sources: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
        """Swaps in [-1, 1], and the student's own masks; None from an exported student, which does not return them."""
        if isinstance(self.network, students.StudentSwapper):
            swaps, masks = self.network.with_mask(sources, targets)
        else:
            swaps, masks = self.network(sources, targets), None
        return swaps.clamp(-1, 1), masks

    def _choose(self, image: np.ndarray, landmarks: list[np.ndarray]) -> list[np.ndarray]:
        if not landmarks:
            self.faceless += 1
            return []
        if self.person is None:
            return landmarks[: self.count]
        found = self.person.among(self._embed(image, landmarks))
        self.strangers += found is None
        return [] if found is None else [landmarks[found]]

    @torch.inference_mode()
    def _embed(self, image: np.ndarray, landmarks: list[np.ndarray]) -> Tensor:
        return self.encoder(_crops(image, landmarks, max(self.size, 128)))

    def _largest_face(self, path: Path, role: str) -> tuple[np.ndarray, np.ndarray]:
        image = read_photograph(path)
        points = self.detector(image)
        if points is None:
            raise DataError(f"{path}: no face found; the {role} must show one")
        return image, points


def read_photograph(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return np.ascontiguousarray(decode(path).transpose(1, 2, 0))


def _crops(image: np.ndarray, landmarks: list[np.ndarray], size: int) -> Tensor:
    """The aligned crops (n, 3, size, size) in [-1, 1] of the faces with these landmarks."""
    crops = np.stack([faces.align(image, points, size).transpose(2, 0, 1) for points in landmarks])
    return to_float(torch.from_numpy(crops))


def _pixels(image: Tensor) -> np.ndarray:
    """(3, S, S) in [-1, 1] to (S, S, 3) uint8. Raises ValueError on NaN."""
    return to_uint8(image).permute(1, 2, 0).numpy()
