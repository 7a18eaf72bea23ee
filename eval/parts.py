"""A swapper's networks, and the share of each in a growing quantity (time, operations)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn


def parts_of(swapper: Any) -> dict[str, nn.Module]:
    """The networks of a swapper: its `parts`; a module without them is one part; anything else has none."""
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


def lacks_networks(swapper: Any, pairs: Any = None, device: Any = None) -> str:
    """The reason why a swapper has neither size nor speed."""
    return "" if parts_of(swapper) or files_of(swapper) else "no swapper here has networks or files"


@contextmanager
def attributed(parts: dict[str, nn.Module], clock: Callable[[], float]) -> Iterator[dict[str, float]]:
    """How far `clock` advanced during the calls of each part; a part that is never called has no entry."""
    spent: dict[str, float] = {}
    started: dict[str, float] = {}

    def start(name: str) -> None:
        started[name] = clock()

    def stop(name: str) -> None:
        spent[name] = spent.get(name, 0.0) + clock() - started[name]

    handles = []
    try:
        for name, part in parts.items():
            handles.append(part.register_forward_pre_hook(lambda *_, name=name: start(name)))
            handles.append(part.register_forward_hook(lambda *_, name=name: stop(name)))
        yield spent
    finally:
        for handle in handles:
            handle.remove()
