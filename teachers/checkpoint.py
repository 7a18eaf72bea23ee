"""Reading other people's checkpoints: safely, out of their wrappers, and onto our networks without a remainder."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

WRAPPERS = ("state_dict", "model_state_dict", "net_state_dict", "model", "generator", "netG", "net", "params")


def read(path: str | Path, wrappers: tuple[str, ...] = WRAPPERS) -> dict[str, Tensor]:
    """The tensors of a .safetensors or torch file by name, out of wrappers {"state_dict": ...} and the like.

    Nothing of the file is executed. Raises ValueError where the file is not readable, or holds no tensors by name.
    """
    path = Path(path)
    content = _content(path)
    return content if path.suffix == ".safetensors" else unwrap(content, str(path), wrappers)


def read_parts(path: str | Path, names: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """The state dicts that a torch file holds side by side under those names, as {"generator": ..., "encoder": ...}.

    What else is in the file, as the states of optimizers, is not brought into memory. Raises ValueError as `read` does,
    and where a name is missing; a state dict may be empty.
    """
    content = _content(Path(path), mmap=True)
    parts = {}
    for name in names:
        part = content.get(name) if isinstance(content, Mapping) else None
        if not isinstance(part, Mapping):
            raise ValueError(f"{path}: expected a state dict under '{name}', got {_told(content)}")
        state = unwrap(part, f"{path}: {name}", ()) if part else {}
        parts[name] = {key: tensor.clone() for key, tensor in state.items()}
    return parts


def _content(path: Path, mmap: bool = False) -> object:
    """What is in a .safetensors or torch file."""
    try:
        return load_file(path) if path.suffix == ".safetensors" else _load(path, mmap)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: not a weight file that can be read without executing it ({reason})") from None


class _Opaque:
    """Stands for an object of a class that is not ours to import: what a trainer stored beside its tensors."""

    def __init__(self, *_arguments: object) -> None:
        """Forget them."""

    def __setstate__(self, _state: object) -> None:
        """Forget it."""


def _load(path: Path, mmap: bool) -> object:
    """torch.load without executing anything. Of hyperparameters and callbacks, as Lightning stores them, remains that
    they were there. `mmap` works for the files of torch 1.6 and later, which are zip archives."""
    mmap = mmap and zipfile.is_zipfile(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(path):
            raise
    foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    with torch.serialization.safe_globals([(_Opaque, name) for name in foreign]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def unwrap(content: object, where: str, wrappers: tuple[str, ...] = WRAPPERS) -> dict[str, Tensor]:
    """Names -> tensors, wrappers and the `module.` of data-parallel training taken off."""
    for _ in range(2):
        for wrapper in wrappers:
            if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise ValueError(f"{where}: expected names of tensors (a state dict), got {_told(content)}")
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}


def fit(
    network: nn.Module,
    state: Mapping[str, Tensor],
    where: str,
    rename: Callable[[str], str] = str,
    assign: bool = False,
) -> None:
    """Load tensors whose names `rename` turns into ours; nothing may be missing, left over or of another shape.

    Raises ValueError naming the file and the first tensor that does not fit. Counters of batch normalisation, which
    old checkpoints lack, may be absent. With `assign` the tensors become the network's own, without a second copy: the
    network may then be built on the meta device.
    """
    expected = network.state_dict()
    named = {rename(key): (key, tensor) for key, tensor in state.items()}
    for key, tensor in expected.items():
        if key not in named and key.endswith("num_batches_tracked"):
            named[key] = (key, torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor)
    for key in [*expected, *named]:
        theirs, tensor = named.get(key, (key, None))
        wanted = f"shape {tuple(expected[key].shape)}" if key in expected else "no such tensor"
        found = "none" if tensor is None else f"shape {tuple(tensor.shape)}"
        if key not in expected or tensor is None or tensor.shape != expected[key].shape:
            raise ValueError(
                f"{where}: not the weights of {type(network).__name__}: {theirs}: expected {wanted}, found {found}"
            )
    network.load_state_dict({key: named[key][1].to(expected[key].dtype) for key in expected}, assign=assign)


def _told(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a mapping with the keys {', '.join(map(str, list(content)[:6]))}" if content else "nothing"
    return type(content).__name__
