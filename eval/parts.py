"""A swapper's networks, and how anything that grows (time, operations) is shared out among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn


def parts_of(swapper: Any) -> dict[str, nn.Module]:
    """The networks a swapper consists of: its `parts`; a module without them is one part; anything else has none."""
    parts = getattr(swapper, "parts", None)
    if parts is not None:
        return dict(parts)
    if isinstance(swapper, nn.Module) and any(True for _ in swapper.parameters()):
        return {getattr(swapper, "name", None) or "network": swapper}
    return {}


def files_of(swapper: Any) -> dict[str, Path]:
    """The saved files of a swapper's parts, by part. Raises ValueError on a missing file."""
    files = {name: Path(path) for name, path in getattr(swapper, "files", {}).items()}
    for name, path in files.items():
        if not path.is_file():
            raise ValueError(f"{path}: no such file, given as the saved '{name}' of a swapper")
    return files


@contextmanager
def shared_out(parts: dict[str, nn.Module], clock: Callable[[], float]) -> Iterator[dict[str, float]]:
    """How far `clock` went on during the calls of each part; a part that is never called has no entry."""
    spent: dict[str, float] = {}
    started: dict[str, float] = {}
    handles = []

    def start(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            started[name] = clock()

        return hook

    def stop(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            spent[name] = spent.get(name, 0.0) + clock() - started[name]

        return hook

    try:
        for name, part in parts.items():
            handles += [part.register_forward_pre_hook(start(name)), part.register_forward_hook(stop(name))]
        yield spent
    finally:
        for handle in handles:
            handle.remove()
