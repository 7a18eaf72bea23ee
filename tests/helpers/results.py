"""Compare the results in two folders that the same commands wrote: shards and exported files byte by byte, weights and
pictures number by number, every value of metrics.json and of MLflow. Values that depend on the clock, on memory or on
the commit are left out.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open

MEASURED_AFRESH = ("latency", "memory", "minutes", "seconds", "per_second", "environment", "commit")  # parts of keys
CHECK = "content_digest"  # swapcore.files.CHECK; same_as_before.py must import the product of another checkout
ADDED = {("index.json", "generated"): True}  # (file, key): value that this checkout writes and the earlier did not
DERIVED = ("eval", "export", "report")  # their inputs.json may change: these stages derive files and run again at once
TEXT = {".html", ".md", ".txt"}  # for people: only that the file is there


def sort_metadata(path: Path) -> None:
    """Write a weight file with its metadata in alphabetical order. safetensors writes them in a random order, so that
    the hash of the file would be another one each time, and with it the inputs of all that uses the file."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(size)
    if text != content[8 : 8 + size]:
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def compare(before: Path, now: Path, only: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str]]]:
    """Name and differences of every file of two folders; pictures of one stage are one item. Links are not followed.

    `only`: the subfolders to look at.
    """
    pictures: dict[str, list[str]] = {}
    files = {side: set(relevant_files(side, only)) for side in (before, now)}
    for name in sorted(files[before] | files[now]):
        if name not in files[now] or name not in files[before]:
            differences = ["only in the first folder" if name in files[before] else "only in the second folder"]
        else:
            differences = compare_files(before / name, now / name)
        if name.endswith(".png"):
            group = "/".join(Path(name).parts[:-1][:4])
            pictures.setdefault(group, []).extend(f"{Path(name).name} {line}" for line in differences)
        else:
            yield name, differences
    for group, differences in pictures.items():
        yield f"{group}/*.png", differences


def relevant_files(folder: Path, only: tuple[str, ...]) -> Iterator[str]:
    for place, subfolders, names in os.walk(folder):
        relative = Path(place).relative_to(folder)
        subfolders[:] = [s for s in subfolders if s != "mlruns"]  # named by the random number of an MLflow run
        if only and relative.parts and relative.parts[0] not in only or only and not relative.parts:
            continue
        for name in names:
            record = name in ("inputs.json", "done.json") and relative.name in DERIVED
            lock = name.endswith(".lock")
            if not record and not lock and name not in ("mlflow_run.json", "output.log", "finished.json"):
                yield str(relative / name)


def compare_files(before: Path, now: Path) -> list[str]:
    """Differences in a line each; none where both files hold the same results."""
    kind = before.suffix
    if kind in TEXT or before.name == "comparison.png":  # a plot, whose labels may be worded anew
        return []
    if kind == ".png":
        same = np.array_equal(np.asarray(Image.open(before)), np.asarray(Image.open(now)))
        return [] if same else ["other pixels"]
    if kind == ".safetensors":
        return differing(weights(before), weights(now))
    if kind == ".pt":
        contents = [torch.load(path, map_location="cpu", weights_only=True) for path in (before, now)]
        # The random state counts the networks that were built. No network draws from it while it learns.
        kept = [{k: v for k, v in flatten(c).items() if k != "seconds" and k[:4] != "rng."} for c in contents]
        return differing(*kept)
    if kind == ".json":
        contents = [results(json.loads(path.read_text()), path.name) for path in (before, now)]
        return differing(*contents)
    if kind == ".db":
        return differing(mlflow(before), mlflow(now))
    return [] if before.read_bytes() == now.read_bytes() else ["other bytes"]


def weights(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        metadata = {f"metadata {key}": value for key, value in (file.metadata() or {}).items()}
        return {key: file.get_tensor(key) for key in file.keys()} | metadata  # noqa: SIM118 - no mapping


def results(tree: Any, name: str) -> dict[str, Any]:
    """The values of a JSON file by their paths, without those that every run measures afresh."""
    flat = {k: v for k, v in flatten(tree).items() if not any(part in k for part in MEASURED_AFRESH)}
    flat = {k: v for k, v in flat.items() if k != CHECK and (ADDED.get((name, k)) != v or v is None)}
    if name in ("card.json", "proof.json"):  # numbers and hashes; their text is for people
        flat = {k: v for k, v in flat.items() if not isinstance(v, str) or len(v) == 64}
        flat = {k: v for k, v in flat.items() if not k.endswith((".ms", "_ms", ".ratio"))}
    if name == "metrics.json":  # `keys` say when to measure again; warnings are text for people
        flat = {k: None if k.startswith(("keys.", "verdicts.")) else v for k, v in flat.items()}
    return flat


def mlflow(path: Path) -> dict[str, Any]:
    """Metrics, parameters and our own tags of all runs of a database."""
    database = sqlite3.connect(path)
    try:
        rows: dict[str, Any] = {}
        for name, key, step, value in database.execute(
            "SELECT runs.name, key, step, value FROM metrics JOIN runs USING (run_uuid)"
        ):
            rows[f"{name} metric {key} at {step}"] = value
        for kind in ("params", "tags"):
            for name, key, value in database.execute(
                f"SELECT runs.name, key, value FROM {kind} JOIN runs USING (run_uuid)"
            ):
                rows[f"{name} {kind} {key}"] = value
    finally:
        database.close()
    left_out = (*MEASURED_AFRESH, "tags mlflow.", "tags swapdistill.key", "env.")
    kept = {k: v for k, v in rows.items() if not any(part in k for part in left_out)}
    return kept


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested dicts and lists by their paths."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else None
    if pairs is None:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in pairs:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    lines = [f"{key} is gone" for key in before.keys() - now.keys()]
    lines += [f"{key} is new" for key in now.keys() - before.keys()]
    for key in before.keys() & now.keys():
        a, b = before[key], now[key]
        tensors = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
        if not (torch.equal(a, b) and a.dtype == b.dtype if tensors else a == b):
            lines.append(f"{key} has other values" if tensors else f"{key} was {a!r}, is {b!r}")
    return sorted(lines)
