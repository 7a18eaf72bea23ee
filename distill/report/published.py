"""The published numbers, distill/report/published.yaml: read, and checked that none of them lacks a source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from distill.report import sizes

SURE = ("seen", "secondary")
KEYS = {
    "book": {"sizes", "size_notes", "sources", "protocols", "tables"},
    "column": {"title", "unit", "better", "digits", "requires"},
    "table": {"name", "title", "protocol", "source", "sure", "columns", "rows"},
    "row": {"system", "network", "unknown", "cells"},
    "cell": {"value", "source", "sure", "note", "also", "unknown"},
    "also": {"value", "source", "sure", "note"},
}


class PaperError(ValueError):
    """A published or measured number cannot be read; the message names the file and the key."""


def read(path: Path) -> dict[str, Any]:
    """Read and check published.yaml: known keys, a source and confidence for each number, a reason for each gap.

    Raises PaperError naming table, row and key.
    """
    try:
        book = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PaperError(f"{path}: cannot be read: {error}") from None
    _require(isinstance(book, dict), f"{path}: expected a mapping")
    _check_keys(path.name, book, "book", required=sorted(KEYS["book"]))
    names = [table.get("name") for table in book["tables"]]
    for table in book["tables"]:
        where = f"{path.name}: table '{table.get('name', '?')}'"
        _check_keys(where, table, "table", required=("name", "title", "protocol", "columns", "rows"))
        _require(names.count(table["name"]) == 1, f"{where}: expected one table of this name")
        _require(table["protocol"] in book["protocols"], f"{where}: unknown protocol '{table['protocol']}'")
        for name, column in table["columns"].items():
            _check_keys(f"{where}, column '{name}'", column, "column")
        systems = [row.get("system") for row in table["rows"]]
        for row in table["rows"]:
            at, network = f"{where}, row '{row.get('system', '?')}'", row.get("network")
            _check_keys(at, row, "row", required=("system",))
            _require(systems.count(row["system"]) == 1, f"{at}: expected one row of this name")
            known = ", ".join(sizes.COMPUTED)
            _require(network is None or network in sizes.COMPUTED, f"{at}: unknown network '{network}', known: {known}")
            for metric in row.get("cells", {}):
                known = ", ".join(table["columns"])
                _require(metric in table["columns"], f"{at}: '{metric}' is no column, known: {known}")
            for metric in table["columns"]:
                _check_cell(f"{at}, '{metric}'", entry(table, row, metric), book["sources"])
    return book


def entry(table: Mapping[str, Any], row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """A cell as written, completed from its row (why it is unknown) and its table (source, confidence)."""
    cell = row.get("cells", {}).get(metric)
    cell = dict(cell) if isinstance(cell, dict) else {"value": cell}
    if cell.get("value") is None:
        return {"unknown": row.get("unknown")} | cell
    return {key: table[key] for key in ("source", "sure") if key in table} | cell


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise PaperError(message)


def _check_keys(where: str, mapping: Mapping[str, Any], kind: str, required: tuple[str, ...] | list[str] = ()) -> None:
    for key in mapping:
        _require(key in KEYS[kind], f"{where}: unknown key '{key}', known: {', '.join(sorted(KEYS[kind]))}")
    for key in required:
        _require(key in mapping, f"{where}: lacks '{key}'")


def _check_cell(where: str, cell: Mapping[str, Any], sources: Mapping[str, Any]) -> None:
    _check_keys(where, cell, "cell")
    for also in cell.get("also", ()):
        _check_keys(f"{where}, also", also, "also")
    if cell.get("value") is None:
        _require(isinstance(cell.get("unknown"), str), f"{where}: no number, and no reason under 'unknown'")
        return
    for part in (cell, *cell.get("also", ())):
        number, (source, sure) = part.get("value"), (part.get(key, cell.get(key)) for key in ("source", "sure"))
        finite = isinstance(number, int | float) and math.isfinite(number)
        _require(finite, f"{where}: expected a number, got {number!r}")
        _require(source in sources, f"{where}: a number without a known source, known: {', '.join(sources)}")
        _require(sure in SURE, f"{where}: 'sure' is {' or '.join(SURE)}, got {sure!r}")
