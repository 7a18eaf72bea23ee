"""Teachers: frozen face swappers, built by name with the paths of their weights. Their contract is in `teacher.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .exact import ExactTeacher
from .faceshifter import FaceShifterTeacher
from .landmark_warp import LandmarkWarpTeacher
from .megafs import MegaFSTeacher
from .onnx import OnnxTeacher
from .simswap import SimSwapTeacher
from .teacher import NoFace, Teacher, swaps_of_faces

__all__ = ["TEACHERS", "NoFace", "Teacher", "build", "swaps_of_faces"]

TEACHERS = {
    "exact": ExactTeacher,
    "landmark_warp": LandmarkWarpTeacher,
    "faceshifter": FaceShifterTeacher,
    "simswap": SimSwapTeacher,
    "megafs": MegaFSTeacher,
    "onnx": OnnxTeacher,
}


def build(name: str, weights: Mapping[str, str | Path] | None = None, **options) -> Teacher:
    """A frozen teacher in evaluation mode.

    `weights` are paths by the keys of the class's FILES. Raises ValueError for an unknown name, a missing file, a file
    of another network, and an unknown option.
    """
    if name not in TEACHERS:
        raise ValueError(f"unknown teacher '{name}', known: {', '.join(TEACHERS)}")
    try:
        teacher = TEACHERS[name](weights, **options)
    except TypeError as error:
        raise ValueError(f"teacher '{name}': {error}") from None
    return teacher.eval().requires_grad_(False)
