"""The metrics.json files of runs and evaluations, whose values stand beside published numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.report.published import PaperError
from swapcore.weights import ROOT

PAIRS = ("name", "hash", "count", "gallery")


@dataclass(frozen=True)
class Result:
    """A metrics.json. origins: path and commit by swapper. rows: Measured.as_dict() by swapper and key."""

    origins: Mapping[str, str]
    experiment: str
    pairs: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any]]


def find_results(paths: Sequence[Path]) -> list[Path]:
    """The metrics.json of files, of runs' folders, and of folders of runs. Raises PaperError where there is none."""
    files: list[Path] = []
    for path in map(Path, paths):
        own = [p for p in (path, path / "metrics.json", path / "eval" / "metrics.json") if p.is_file()][:1]
        is_run = (path / "experiment.yaml").is_file()  # an evaluation by protocols has folders beside its own table
        inside = own if own and (is_run or path.is_file()) else own + sorted(path.glob("*/metrics.json"))
        if not inside:
            raise PaperError(f"{path}: no such file, and no metrics.json in it or in its folders")
        files += inside
    return list(dict.fromkeys(files))


def read_result(path: Path) -> Result:
    """Raises PaperError naming the file where it is damaged or is not a metrics.json."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        pairs, rows, commit = content["pairs"], content["rows"], content["environment"]["commit"]
        values = [value for row in rows.values() for value in row.values()]
        if not all(isinstance(v["value"], int | float) and isinstance(v["protocol"], dict) for v in values):
            raise TypeError("each value needs a number and a protocol")
        pairs = {key: pairs[key] for key in PAIRS} | pairs
        where = path.resolve().relative_to(ROOT) if path.resolve().is_relative_to(ROOT) else path
        commits = {name: content.get("environments", {}).get(name, {}).get("commit", commit) for name in rows}
        origins = {name: f"{where} @{of_row[:10]}" for name, of_row in commits.items()}
        return Result(origins, content["experiment"], pairs, rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PaperError(f"{path}: not the metrics.json of an evaluation ({type(error).__name__}: {error})") from None
