"""Weight files: found by their card, verified, downloaded, read safely and loaded onto networks without a remainder.

A card's file is searched in the folders given, $SWAPDISTILL_WEIGHTS (folders joined by the system's path separator),
the weights shipped with the packages and the cache; then it is downloaded from the card's URL into the cache. The
sha256 is always checked.
"""

from __future__ import annotations

import os
import pickle
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from swapcore.files import sha256, whole_file

ROOT = Path(__file__).resolve().parent.parent
WRAPPERS = ("state_dict", "model_state_dict", "net_state_dict", "model", "generator", "netG", "net", "params")
PACKAGED = (ROOT / "students" / "weights", ROOT / "eval" / "weights")


@dataclass(frozen=True, kw_only=True)
class Card:
    """Where a weight file comes from and what it may be used for.

    file is None where nobody published the weights. sha256 may be its first digits, where no more are published.
    """

    name: str
    file: str | None
    sha256: str | None
    url: str | None
    source: str
    licence: str
    note: str = ""


class WeightsError(ValueError):
    """A weight file is missing or is not the one its card describes; the message says how to get the right one."""


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "swapdistill"


def search_folders(folders: Iterable[str | Path] = ()) -> list[Path]:
    """Where weights are looked for, in this order."""
    listed = [Path(f) for f in os.environ.get("SWAPDISTILL_WEIGHTS", "").split(os.pathsep) if f]
    return [*map(Path, folders), *listed, *PACKAGED, cache_folder()]


def find(card, folders: Iterable[str | Path] = ()) -> Path:
    """Path of the file of `card` (fields name, file, sha256, url, source, licence), its sha256 checked.

    Raises WeightsError with what to get from where if it is nowhere, and if a file of that name has another sha256.
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


def _verify(path: Path, card) -> None:
    found = sha256(path)
    if card.sha256 and not found.startswith(card.sha256):  # torchvision publishes the first eight digits only
        raise WeightsError(
            f"{path}: sha256 is {found}, but the weights '{card.name}' have {card.sha256}: damaged or another file; "
            f"delete it and get it again from {card.url or card.source}"
        )


def _download(card) -> Path:
    path = cache_folder() / card.file
    try:
        with whole_file(path) as temporary:
            with urllib.request.urlopen(card.url, timeout=30) as reply, open(temporary, "wb") as file:
                total = int(reply.headers.get("Content-Length", 0)) or None
                with tqdm(total=total, unit="B", unit_scale=True, desc=f"download {card.file}") as bar:
                    while block := reply.read(1 << 20):
                        file.write(block)
                        bar.update(len(block))
            _verify(temporary, card)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise WeightsError(
            f"weights '{card.name}': download of {card.url} failed ({error}); get the file by hand "
            f"(sha256 {card.sha256}) and put it into {cache_folder()}"
        ) from None
    return path


def read_state(path: str | Path, wrappers: tuple[str, ...] = WRAPPERS) -> dict[str, Tensor]:
    """The tensors of a .safetensors or torch file by name, out of wrappers {"state_dict": ...} and the like.

    Nothing of the file is executed. Raises ValueError where the file is not readable, or holds no tensors by name.
    """
    path = Path(path)
    content = _content(path)
    return content if path.suffix == ".safetensors" else unwrap(content, str(path), wrappers)


def read_parts(path: str | Path, names: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """The state dicts that a torch file holds side by side under those names, as {"generator": ..., "encoder": ...}.

    Everything else, as the states of optimisers, stays out of memory. Raises ValueError as `read_state` does, and where
    a name is missing; a state dict may be empty.
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


def load_strictly(
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
