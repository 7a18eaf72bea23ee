"""What every teacher is: frozen, canonical crops in, canonical crops out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """A frozen face swapper. Sources and targets are canonical crops (N, 3, H, H) float32 RGB in [-1, 1], and so is
    the swap, in the target's size. What a teacher's network wants else (crop, size, colour order, range) it does
    itself.

    A subclass says what `FILES` it reads, and splits the work in two: `identity` is computed once per source and may
    be kept, `swap` is computed for every pair.
    """

    name: ClassVar[str]
    FILES: ClassVar[
        Mapping[str, str]
    ] = {}  # key of `weights` -> what that file is; optional ones start with "optional"
    needs_rows: ClassVar[bool] = False  # whether it must be given the manifest rows of the pictures
    autocast: ClassVar[bool] = False  # whether bf16 and fp16 autocast are harmless to it

    def __init__(self, weights: Mapping[str, str | Path] | None = None, **facts: Any) -> None:
        """Check the files. `facts` are what else the swaps depend on. Raises ValueError naming key and remedy."""
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

    @cached_property
    def weight_hash(self) -> str:
        """16 hexadecimal digits over the bytes of its files and its options: equal hash, equal swaps."""
        total = hashlib.sha256(json.dumps(self.facts, sort_keys=True, default=str).encode())
        for key in sorted(self.weights):
            with open(self.weights[key], "rb") as file:
                total.update(key.encode() + hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()[:16]

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Its networks by name, to be measured one by one."""
        return {name: child for name, child in self.named_children() if any(True for _ in child.parameters())}

    @property
    def files(self) -> dict[str, Path]:
        """What is measured in bytes where the networks are not modules: the files themselves."""
        return {} if self.parts else self.weights

    @property
    def device(self) -> torch.device:
        tensor = next(iter([*self.parameters(), *self.buffers()]), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def identity(self, source: Tensor, rows: list[dict] | None = None) -> tuple[Tensor, ...]:
        """What the teacher takes from sources (N, 3, H, H): tensors whose first dimension is N."""
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
        """Swap; rows are those of the manifest, for a teacher that `needs_rows`. Raises ValueError on other shapes."""
        for name, images in (("source", source), ("target", target)):
            if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
                raise ValueError(f"teacher '{self.name}': {name}: expected (N, 3, H, H), got {tuple(images.shape)}")
        if len(source) != len(target):
            raise ValueError(f"teacher '{self.name}': {len(source)} sources, {len(target)} targets")
        return self.swap(self.identity(source, source_rows), target, target_rows)


class NoFace(ValueError):
    """A teacher finds no face in some pictures; `index` lists their places in the batch."""

    def __init__(self, message: str, index: list[int]) -> None:
        super().__init__(message)
        self.index = index
