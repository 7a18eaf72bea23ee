"""Weight files: described by a card, located, verified, downloaded, read without executing them, and loaded strictly.

A card's file is searched in the given folders, in those of $SWAPDISTILL_WEIGHTS (joined by the system's path
separator), among the weights shipped with the packages and in the cache. If it is in none of them, it is downloaded
from the card's URL into the cache. Its sha256 is always checked.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import socket
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from swapcore.files import remove_leftovers, sha256, whole_file
from swapcore.weights import kinds, pickled

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGED = (ROOT / "students" / "weights", ROOT / "eval" / "weights")
# Entries in which public checkpoints keep the state dict of the network, or of the generator among others; in lower
# case. The EMA of an entry has "ema" in its name, before or after it, or no other name.
ENTRIES = (
    "state_dict", "model_state_dict", "net_state_dict", "model", "module", "generator", "netg", "net_g", "gen", "g",
    "net", "network", "params", "weights",
)  # fmt: skip
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
    return Path(os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "swapdistill"


def search_folders(folders: Iterable[str | Path] = ()) -> list[Path]:
    """The folders that `find` searches, in their order; `folders` come first. `~` is the home folder."""
    listed = [f for f in os.environ.get("SWAPDISTILL_WEIGHTS", "").split(os.pathsep) if f]
    return [*(Path(os.path.expanduser(f)) for f in (*folders, *listed)), *PACKAGED, cache_folder()]


def find(card: Card, folders: Iterable[str | Path] = ()) -> Path:
    """The path of the card's file, downloaded if necessary, its sha256 checked.

    Raises WeightsError if the file is in no folder and has no URL, if the download fails, and if a file of that name
    has another sha256.
    """
    return find_all([card], folders)[0]


def find_all(cards: Iterable[Card], folders: Iterable[str | Path] = ()) -> list[Path]:
    """The paths of several cards' files, as `find` gives them. One WeightsError names all that must be fetched by hand,
    before anything is downloaded, or all downloads that fail."""
    cards, places = list(cards), search_folders(folders)
    files = {card.file: [p / card.file for p in places if (p / card.file).is_file()] for card in cards if card.file}
    problems = {}  # by card, each once
    for card in cards:
        if card.file is None:
            problems[card.name] = f"weights '{card.name}': nobody published them. {card.note}"
        elif not files[card.file] and not card.url:
            known = f", sha256 {card.sha256}" if card.sha256 else ""
            problems[card.name] = (
                f"weights '{card.name}': {card.file} is missing; get it from {card.source} "
                f"(licence: {card.licence}{known})"
            )
    if problems:
        raise WeightsError(
            f"{'; '.join(problems.values())}; weights are searched in {', '.join(map(str, places))}, and in the "
            f"folders of weights=[FOLDER], --weights FOLDER or SWAPDISTILL_WEIGHTS"
        )
    for card in cards:
        for path in files[card.file][:1]:
            _verify(path, card)
    for card in cards:
        if not files[card.file]:
            try:
                files[card.file] = [_download(card)]
            except WeightsError as error:
                problems[card.name] = str(error)
    if problems:
        raise WeightsError("; ".join(problems.values()))
    return [files[card.file][0] for card in cards]


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
    remove_leftovers(path.parent.glob(f".{path.stem}.*"))
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


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a .safetensors or torch file, on the CPU; its content decides which of them it is.

    `unwrap` describes the contents that are accepted. Nothing in the file is executed. Raises ValueError if the file is
    not readable or holds no state dict.
    """
    path = Path(path)
    return _read(path, lambda content: unwrap(content, path))


def read_header(path: str | Path) -> dict[str, str]:
    """The metadata of a .safetensors file, text by key. Raises ValueError if the file cannot be read."""
    if kinds.kind_of(path).name != kinds.SAFETENSORS:
        raise ValueError(kinds.refusal(path, kinds.SAFETENSORS))
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from None


def write_state(path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors and metadata as .safetensors, atomically. Equal ones give equal bytes, and so one hash."""
    content = save({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, dict(metadata or {}))
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    if metadata:  # which the library writes in a random order
        header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns tensors to 8 bytes
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(content)[8 + size :])


def read_parts(path: str | Path, names: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """The state dicts that a torch file holds side by side, by their names: {"generator": ..., "encoder": ...}.

    All other content, such as optimiser states, is not read into memory. Raises ValueError as `read_state` does, and if
    a name is missing. A state dict may be empty.
    """

    def select(content: object) -> dict[str, dict[str, Tensor]]:
        parts = {}
        for name in names:
            part = content.get(name) if isinstance(content, Mapping) else None
            if not isinstance(part, Mapping):
                raise ValueError(f"{path}: expected a state dict under '{name}', got {_describe(content)}")
            parts[name] = unwrap(part, f"{path}: {name}") if part else {}
        return parts

    parts = _read(Path(path), select, mmap=True)
    return {name: {key: tensor.clone() for key, tensor in state.items()} for name, state in parts.items()}


def unwrap(content: object, where: str | Path) -> dict[str, Tensor]:
    """The state dict in the content of a checkpoint: alone, beside other values, or nested in entries.

    Of several entries, the one that ENTRIES names is taken, and its EMA rather than itself, if the EMA has as many
    tensors. An entry of another name is taken if no other entry holds tensors. Where there was a choice, a line on
    stderr says what was taken. Arrays become tensors. Prefixes of wrappers are removed: `module.` of data-parallel
    training and `_orig_mod.` of torch.compile, once or more often. Raises ValueError, naming `where`, if there is no
    state dict, or several between which no rule decides.
    """
    taken: list[str] = []
    while isinstance(content, Mapping) and "param_groups" not in content:
        entries = {n: value for n, value in content.items() if "optim" not in str(n).lower() and _holds_tensors(value)}
        if _tensors(content):  # only an entry of a known name is then more than a part of a state dict
            entries = {name: value for name, value in entries.items() if _is_plain(name) or _is_average(name)}
        if not entries:
            break
        name = _choose(entries, where)
        if len(entries) > 1:
            others = ", ".join(str(other) for other in entries if other != name)
            print(f"{where}: takes the weights of '{name}', not {others}", file=sys.stderr)
        taken.append(str(name))
        content = entries[name]
    tensors = _tensors(content) if isinstance(content, Mapping) else {}
    if not tensors:
        found = _describe(content) + (f" in '{'.'.join(taken)}'" if taken else "")
        raise ValueError(f"{where}: expected tensors by name (a state dict), got {found}; give the file of a network")
    return _without_prefixes(tensors)


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors and arrays among the values of a mapping."""
    arrays = {
        key: torch.from_numpy(value.astype(value.dtype.newbyteorder("=")))
        for key, value in content.items()
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" and value.dtype != np.uint16
    }
    return {str(k): arrays.get(k, v) for k, v in content.items() if isinstance(v, Tensor) or k in arrays}


def _holds_tensors(value: object, depth: int = 3) -> bool:
    """Whether an entry is a state dict, or holds one; the state of an optimiser is none."""
    if not isinstance(value, Mapping) or "param_groups" in value:
        return False
    return bool(_tensors(value)) or depth > 0 and any(_holds_tensors(inner, depth - 1) for inner in value.values())


def _choose(entries: Mapping[Any, Any], where: str | Path) -> Any:
    """The name of the entry that is taken. Raises ValueError where no rule decides."""
    plain = [name for name in entries if _is_plain(name)]
    averages = [name for name in entries if _is_average(name)]
    for candidates in (averages, plain, list(entries)):
        different = [name for name in candidates if not _same(entries[name], entries[candidates[0]])]
        if different:
            names = ", ".join(f"'{name}'" for name in (candidates[0], *different))
            raise ValueError(f"{where}: holds several networks ({names}); save the right one in a file of its own")
        if candidates and (candidates is not averages or _complete(entries, candidates[0], plain)):
            return candidates[0]
    raise AssertionError("entries are never empty")


def _is_plain(name: Any) -> bool:
    return str(name).lower() in ENTRIES


def _is_average(name: Any) -> bool:
    """Whether a name is that of the EMA of one of ENTRIES, such as params_ema, or ema alone."""
    words = [word for word in re.split(r"[_.\- ]", str(name).lower()) if word]
    return "ema" in words and "_".join(word for word in words if word != "ema") in ("", *ENTRIES)


def _complete(entries: Mapping[Any, Any], average: Any, plain: list[Any]) -> bool:
    """Whether an EMA has as many tensors as the plain entries; some trainers average parameters only."""
    return len(_tensors(entries[average])) >= max((len(_tensors(entries[name])) for name in plain), default=0)


def _same(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> bool:
    """Whether two entries are one: the same names, views of the same numbers."""
    if a is b:
        return True
    a, b = _tensors(a), _tensors(b)
    return a.keys() == b.keys() != set() and all(a[k].data_ptr() == b[k].data_ptr() for k in a)


def _without_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of the network that a wrapper held."""
    state = {re.sub(r"(^|\.)_orig_mod\.", r"\1", key): tensor for key, tensor in state.items()}
    # n_averaged is the counter of torch.optim.swa_utils.AveragedModel.
    while all(key.startswith("module.") or key == "n_averaged" for key in state):
        inner = {key.removeprefix("module."): tensor for key, tensor in state.items() if key != "n_averaged"}
        if not inner:
            break
        state = inner
    return state


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


def _read(path: Path, select: Callable[[object], Any], mmap: bool = False) -> Any:
    """What `select` takes from the content of a .safetensors or torch file. `mmap` leaves other content of a zip
    archive (torch 1.6 and later) on the disk. Raises ValueError."""
    kind = kinds.kind_of(path).name
    if kind not in (kinds.SAFETENSORS, kinds.TORCH):
        raise ValueError(kinds.refusal(path, "a PyTorch or safetensors file"))
    try:
        if kind == kinds.SAFETENSORS:
            content = load_file(path)
        elif mmap and zipfile.is_zipfile(path):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:
            with open(path, "rb") as file:  # torch decides by the ending of a path, not by the content
                content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # it names other classes than those of tensors
        return pickled.read(path, select)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: damaged ({_short(error)}); download it again") from None
    return select(content)


def _short(error: Exception) -> str:
    """The message of an error in one line, without colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    return " ".join(text.split())[:200] or type(error).__name__


def _describe(content: object) -> str:
    if isinstance(content, Mapping):
        kind = "the state of an optimiser" if "param_groups" in content else "a mapping"
        return f"{kind} with the keys {', '.join(map(str, list(content)[:6]))}" if content else "nothing"
    return type(content).__name__


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"shape {tuple(tensor.shape)}"
