"""The contract of all teachers: frozen networks that take canonical crops and return canonical crops."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from swapcore.files import sha256


class Teacher(nn.Module):
    """A frozen face swapper. Source, target and swap are canonical crops (N, 3, H, H), float32 RGB in [-1, 1], the swap
    in the target's size. A teacher whose network expects another crop, size, colour order or range converts itself.

    A subclass lists the `FILES` it reads and splits the swap in two: `identity` is computed once per source and may be
    cached, `swap` is computed for every pair.
    """

    name: ClassVar[str]
    FILES: ClassVar[Mapping[str, str]] = {}  # key of `weights` -> description; optional files begin with "optional"
    needs_rows: ClassVar[bool] = False  # whether it needs the manifest rows of the pictures
    autocast: ClassVar[bool] = False  # whether it may run under bf16 and fp16 autocast

    def __init__(self, weights: Mapping[str, str | Path] | None = None, **facts: Any) -> None:
        """weights: paths by the keys of FILES. facts: options that change the swaps.

        Raises ValueError naming the key and the remedy if a key is unknown or a file is missing.
        """
        super().__init__()
        self.weights = {key: Path(path) for key, path in (weights or {}).items()}
        known = ", ".join(f"weights.{key} ({what})" for key, what in self.FILES.items()) or "no weights"
        for key in self.weights:
            if key not in self.FILES:
                raise ValueError(f"teacher '{self.name}': unknown weights.{key}; it takes {known}")
        for key, what in self.FILES.items():
            if key not in self.weights and not what.startswith("optional"):
                raise ValueError(f"teacher '{self.name}': weights.{key} is missing: the path of {what}")
        for key, path in self.weights.items():
            if not path.is_file():
                raise ValueError(
                    f"teacher '{self.name}': weights.{key}: {path} is not a file; expected {self.FILES[key]}"
                )
        self.facts = facts

    @classmethod
    def untrained(cls, *networks: nn.Module) -> Self:
        """A teacher around networks that come from no file, for benchmarks: its swaps are noise.

        networks: the arguments of the subclass's `_assemble`. The weight hash is "untrained". No experiment can name
        such a teacher: `teachers.build` reads files.
        """
        teacher = cls.__new__(cls)
        nn.Module.__init__(teacher)
        teacher.weights, teacher.facts, teacher.weight_hash = {}, {}, "untrained"
        teacher._assemble(*networks)
        return teacher.eval().requires_grad_(False)

    def _assemble(self, *networks: nn.Module) -> None:
        """Set the networks of this teacher and everything derived from them, such as the crop."""
        raise NotImplementedError

    @cached_property
    def weight_hash(self) -> str:
        """16 hexadecimal digits over the bytes of all files in `read_from` and its options: equal hash, equal swaps."""
        total = hashlib.sha256(json.dumps(self.facts, sort_keys=True, default=str).encode())
        for name, path in sorted(self.read_from.items()):
            total.update(name.encode() + bytes.fromhex(sha256(path)))
        return total.hexdigest()[:16]

    @property
    def read_from(self) -> dict[str, Path]:
        """All files that its networks are read from, by name. A subclass whose files name other files adds those."""
        return self.weights

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Its networks by name; the evaluation counts their parameters."""
        return {name: child for name, child in self.named_children() if any(True for _ in child.parameters())}

    @property
    def files(self) -> dict[str, Path]:
        """The files whose bytes the evaluation counts if `parts` is empty."""
        return {} if self.parts else self.read_from

    def identity(self, source: Tensor, rows: list[dict] | None = None) -> tuple[Tensor, ...]:
        """The identity of sources (N, 3, H, H): tensors whose first dimension is N."""
        raise NotImplementedError

    def swap(self, identity: tuple[Tensor, ...], target: Tensor, rows: list[dict] | None = None) -> Tensor:
        """Swaps (N, 3, H, H) of those identities onto targets (N, 3, H, H)."""
        raise NotImplementedError

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_rows: list[dict] | None = None,
        target_rows: list[dict] | None = None,
    ) -> Tensor:
        """Swaps (N, 3, H, H); the rows are those of the manifest, for a teacher that `needs_rows`.

        Raises ValueError on other shapes.
        """
        for name, images in (("source", source), ("target", target)):
            if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
                raise ValueError(f"teacher '{self.name}': {name}: expected (N, 3, H, H), got {tuple(images.shape)}")
        if len(source) != len(target):
            raise ValueError(f"teacher '{self.name}': {len(source)} sources, {len(target)} targets")
        return self.swap(self.identity(source, source_rows), target, target_rows)


def network_hash(network: Any) -> str:
    """The hash of a network that is an option, for the facts of its teacher: its `weight_hash`, else a hash over its
    tensors. A function without tensors is known by its name alone."""
    if getattr(network, "weight_hash", None):
        return network.weight_hash
    if not isinstance(network, nn.Module):
        return getattr(network, "__qualname__", type(network).__qualname__)
    total = hashlib.sha256(type(network).__qualname__.encode())
    for name, tensor in sorted(network.state_dict().items()):
        total.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.detach().cpu().double().numpy().tobytes())
    return total.hexdigest()[:16]


class NoFace(ValueError):
    """A teacher detects no face in some pictures; `index` lists their positions in the batch."""

    def __init__(self, message: str, index: list[int]) -> None:
        super().__init__(message)
        self.index = index


def swaps_of_faces(teacher: Teacher, source: Tensor, target: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """The swaps of those `samples` (n,) of a batch in which the teacher finds a face, and their positions."""
    while len(samples):
        try:
            return teacher(source[samples], target[samples]), samples
        except NoFace as error:
            if not error.index:
                raise
            samples = samples[[i for i in range(len(samples)) if i not in set(error.index)]]
    return target[samples], samples
