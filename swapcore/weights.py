"""Weight files: described by a card, located, verified, downloaded, read without executing them, and loaded strictly.

A card's file is searched in the given folders, in those of $SWAPDISTILL_WEIGHTS (joined by the system's path
separator), among the weights shipped with the packages and in the cache. If it is in none of them, it is downloaded
from the card's URL into the cache. Its sha256 is always checked.
"""

from __future__ import annotations

import os
import pickle
import socket
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from swapcore.files import sha256, whole_file

ROOT = Path(__file__).resolve().parent.parent
PACKAGED = (ROOT / "students" / "weights", ROOT / "eval" / "weights")
# Keys under which public checkpoints nest their state dict.
WRAPPERS = ("state_dict", "model_state_dict", "net_state_dict", "model", "generator", "netG", "net", "params")
TIMEOUT_S = 30


@dataclass(frozen=True, kw_only=True)
class Card:
    """Origin and licence of a weight file.

    file: its name, None if nobody published the weights. sha256: all 64 digits, or the first ones if only those
    are published (torchvision: eight). url: where to download it, None if it must be fetched by hand. source: the
    project and the commit that it comes from.
    """

    name: str
    file: str | None
    sha256: str | None
    url: str | None
    source: str
    licence: str
    note: str = ""


class WeightsError(ValueError):
    """A weight file is missing or differs from its card; the message says how to get the right one."""


def cache_folder() -> Path:
    """The folder of downloaded weights: $XDG_CACHE_HOME/swapdistill, by default ~/.cache/swapdistill."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "swapdistill"


def search_folders(folders: Iterable[str | Path] = ()) -> list[Path]:
    """The folders that `find` searches, in their order; `folders` come first."""
    listed = [Path(f) for f in os.environ.get("SWAPDISTILL_WEIGHTS", "").split(os.pathsep) if f]
    return [*map(Path, folders), *listed, *PACKAGED, cache_folder()]


def find(card: Card, folders: Iterable[str | Path] = ()) -> Path:
    """The path of the card's file, downloaded if necessary, its sha256 checked.

    Raises WeightsError if the file is in no folder and has no URL, if the download fails, and if a file of that name
    has another sha256.
    """
    if card.file is None:
        raise WeightsError(f"weights '{card.name}': nobody published them. {card.note}")
    places = search_folders(folders)
    for place in places:
        path = place / card.file
        if path.is_file():
            _verify(path, card)
            return path
    if card.url:
        return _download(card)
    raise WeightsError(
        f"weights '{card.name}': {card.file} is in none of {', '.join(map(str, places))}; "
        f"get it from {card.source} (licence: {card.licence}, sha256 {card.sha256}) and put it there, "
        f"or name its folder with weights=[FOLDER], --weights FOLDER or SWAPDISTILL_WEIGHTS"
    )


def _verify(path: Path, card: Card) -> None:
    actual = sha256(path)
    if card.sha256 and not actual.startswith(card.sha256):
        raise WeightsError(
            f"{path}: sha256 is {actual}, but the weights '{card.name}' have {card.sha256}: damaged or another file; "
            f"delete it and get it again from {card.url or card.source}"
        )


def _download(card: Card) -> Path:
    """Download the card's file into the cache, verified before it appears there."""
    path, timeout_s = cache_folder() / card.file, socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)  # torch.hub sets no timeout: a dead connection would block for ever
    try:
        with whole_file(path) as temporary:
            torch.hub.download_url_to_file(card.url, str(temporary))
            _verify(temporary, card)
    except OSError as error:  # URLError, HTTPError and timeouts are OSErrors
        raise WeightsError(
            f"weights '{card.name}': download of {card.url} failed ({error}); get the file by hand "
            f"(sha256 {card.sha256}) and put it into {cache_folder()}"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout_s)
    return path


def read_state(path: str | Path, wrappers: tuple[str, ...] = WRAPPERS) -> dict[str, Tensor]:
    """The state dict of a .safetensors or torch file, on the CPU; in a torch file it may be nested under `wrappers`.

    Nothing in the file is executed. Raises ValueError if the file is not readable or holds no state dict.
    """
    path = Path(path)
    content = _read(path)
    return content if path.suffix == ".safetensors" else unwrap(content, path, wrappers)


def read_header(path: str | Path) -> dict[str, str]:
    """The metadata of a .safetensors file, text by key. Raises ValueError if the file cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from None


def read_parts(path: str | Path, names: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """The state dicts that a torch file holds side by side, by their names: {"generator": ..., "encoder": ...}.

    All other content, such as optimiser states, is not read into memory. Raises ValueError as `read_state` does, and if
    a name is missing. A state dict may be empty.
    """
    content = _read(Path(path), mmap=True)
    parts = {}
    for name in names:
        part = content.get(name) if isinstance(content, Mapping) else None
        if not isinstance(part, Mapping):
            raise ValueError(f"{path}: expected a state dict under '{name}', got {_describe(content)}")
        state = unwrap(part, f"{path}: {name}", ()) if part else {}
        parts[name] = {key: tensor.clone() for key, tensor in state.items()}
    return parts


def unwrap(content: object, where: str | Path, wrappers: tuple[str, ...] = WRAPPERS) -> dict[str, Tensor]:
    """The state dict in the content of a checkpoint, without wrappers and without the `module.` of data-parallel
    training. Raises ValueError, naming `where`, if there is none."""
    for _ in range(2):
        for wrapper in wrappers:
            if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(isinstance(t, Tensor) for t in content.values()):
        raise ValueError(f"{where}: expected tensors by name (a state dict), got {_describe(content)}")
    return {key.removeprefix("module."): tensor for key, tensor in content.items()}


def tensor_of(state: Mapping[str, Tensor], key: str, dimensions: int, where: str) -> Tensor:
    """The tensor `key`, whose shape gives a loader an option. Raises ValueError if it is absent or has another rank."""
    if key not in state or state[key].ndim != dimensions:
        raise ValueError(f"{where}: {key}: expected {dimensions} dimensions, found {_shape(state.get(key))}")
    return state[key]


def load_strictly(
    network: nn.Module,
    state: Mapping[str, Tensor],
    where: str | Path,
    rename: Callable[[str], str] = str,
    *,
    name: str | None = None,
    assign: bool = False,
    finite: bool = False,
) -> None:
    """Load tensors into a network; none may be missing, left over or of another shape.

    `rename` maps a name in the file to the network's. Only the counters of batch normalisation, which old checkpoints
    lack, may be absent. `name`: the name of the weights in messages, by default the network's class. With `assign` the
    tensors become the network's parameters without a copy, so it may be built on the meta device. With `finite` NaN and
    infinite values are refused. Raises ValueError naming `where` (the file) and the first wrong tensor.
    """
    weights = f"'{name}'" if name else type(network).__name__
    expected = network.state_dict()
    renamed = {rename(key): (key, tensor) for key, tensor in state.items()}
    for key, tensor in expected.items():
        if key not in renamed and key.endswith("num_batches_tracked"):
            renamed[key] = (key, torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor)
    for key in [*expected, *renamed]:
        original_key, tensor = renamed.get(key, (key, None))
        if key not in expected or tensor is None or tensor.shape != expected[key].shape:
            required = f"shape {tuple(expected[key].shape)}" if key in expected else "no such tensor"
            fault = f"expected {required}, found {_shape(tensor)}"
            raise ValueError(f"{where}: not the weights of {weights}: {original_key}: {fault}")
        if finite and not torch.isfinite(tensor).all():
            raise ValueError(f"{where}: damaged weights of {weights}: {original_key}: NaN or infinite values")
    network.load_state_dict({key: renamed[key][1].to(expected[key].dtype) for key in expected}, assign=assign)


def build_with(
    build: Callable[[], nn.Module], state: Mapping[str, Tensor], where: str | Path, rename: Callable[[str], str] = str
) -> nn.Module:
    """The network that `build` returns, loaded strictly. The tensors become its parameters without a copy.

    `build` runs on the meta device, so a network with buffers that no file holds cannot be built this way.
    """
    with torch.device("meta"):
        network = build()
    load_strictly(network, state, where, rename, assign=True)
    return network


class _Opaque:
    """Stand-in for an object of another class that a trainer stored beside its tensors; its content is dropped."""

    def __init__(self, *_arguments: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...


def _read(path: Path, mmap: bool = False) -> object:
    """The content of a .safetensors or torch file. Raises ValueError."""
    try:
        return load_file(path) if path.suffix == ".safetensors" else _torch_load(path, mmap)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path}: not a weight file that can be read without executing it ({reason})") from None


def _torch_load(path: Path, mmap: bool) -> object:
    """torch.load without executing anything. Objects of other classes, such as Lightning's hyperparameters, become
    `_Opaque`. `mmap` applies to the files of torch 1.6 and later, which are zip archives."""
    zipped = zipfile.is_zipfile(path)
    mmap = mmap and zipped
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError:
        if not zipped:
            raise
    foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    with torch.serialization.safe_globals([(_Opaque, name) for name in foreign]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _describe(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a mapping with the keys {', '.join(map(str, list(content)[:6]))}" if content else "nothing"
    return type(content).__name__


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"shape {tuple(tensor.shape)}"
