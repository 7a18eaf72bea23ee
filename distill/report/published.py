"""The published numbers, distill/report/published.yaml: read, and checked that none of them lacks a source."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from distill.report import sizes

SURE = ("seen", "secondary")
KNOWN = {
    "": {"sizes", "size_notes", "sources", "protocols", "tables"},
    "column": {"title", "unit", "better", "digits", "requires"},
    "table": {"name", "title", "protocol", "source", "sure", "columns", "rows"},
    "row": {"system", "network", "unknown", "cells"},
    "cell": {"value", "source", "sure", "note", "also", "unknown"},
    "also": {"value", "source", "sure", "note"},
}


class PaperError(ValueError):
    """What is published or measured cannot be read; the message names the file and the key."""


def read(path: Path) -> dict[str, Any]:
    """published.yaml, checked: no unknown key, no number without source and confidence, no gap without a reason.

    Raises PaperError naming table, row and key.
    """
    try:
        book = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PaperError(f"{path}: cannot be read: {error}") from None
    if not isinstance(book, dict):
        raise PaperError(f"{path}: expected a mapping")
    _check_keys(path.name, book, "")
    for section in sorted(KNOWN[""] - book.keys()):
        raise PaperError(f"{path.name}: lacks '{section}'")
    names = set()
    for table in book["tables"]:
        where = f"{path.name}: table '{table.get('name', '?')}'"
        _check_keys(where, table, "table")
        for key in ("name", "title", "protocol", "columns", "rows"):
            if key not in table:
                raise PaperError(f"{where}: lacks '{key}'")
        if table["name"] in names:
            raise PaperError(f"{where}: there twice")
        names.add(table["name"])
        if table["protocol"] not in book["protocols"]:
            raise PaperError(f"{where}: unknown protocol '{table['protocol']}'")
        for name, column in table["columns"].items():
            _check_keys(f"{where}, column '{name}'", column, "column")
        systems = [row.get("system") for row in table["rows"]]
        for row in table["rows"]:
            at = f"{where}, row '{row.get('system', '?')}'"
            _check_keys(at, row, "row")
            if systems.count(row.get("system")) > 1 or "system" not in row:
                raise PaperError(f"{at}: expected one row of this name")
            if row.get("network") is not None and row["network"] not in sizes.COMPUTED:
                raise PaperError(f"{at}: unknown network '{row['network']}', known: {', '.join(sizes.COMPUTED)}")
            for metric in row.get("cells", {}):
                if metric not in table["columns"]:
                    raise PaperError(f"{at}: '{metric}' is no column, known: {', '.join(table['columns'])}")
            for metric in table["columns"]:
                _check_cell(f"{at}, '{metric}'", entry(table, row, metric), book["sources"])
    return book


def _check_keys(where: str, mapping: Mapping[str, Any], kind: str) -> None:
    for key in mapping:
        if key not in KNOWN[kind]:
            raise PaperError(f"{where}: unknown key '{key}', known: {', '.join(sorted(KNOWN[kind]))}")


def entry(table: Mapping[str, Any], row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """A cell as written, completed from its row (why it is unknown) and its table (source, confidence)."""
    found = row.get("cells", {}).get(metric)
    found = dict(found) if isinstance(found, dict) else {"value": found}
    if found.get("value") is None:
        return {"unknown": row.get("unknown")} | found
    return {key: table[key] for key in ("source", "sure") if key in table} | found


def _check_cell(where: str, cell: Mapping[str, Any], sources: Mapping[str, Any]) -> None:
    _check_keys(where, cell, "cell")
    for also in cell.get("also", ()):
        _check_keys(f"{where}, also", also, "also")
    if cell.get("value") is None:
        if not isinstance(cell.get("unknown"), str):
            raise PaperError(f"{where}: no number, and no reason under 'unknown'")
        return
    for value in (cell, *cell.get("also", ())):
        if not isinstance(value.get("value"), int | float) or not math.isfinite(value["value"]):
            raise PaperError(f"{where}: expected a number, got {value.get('value')!r}")
        if value.get("source", cell.get("source")) not in sources:
            raise PaperError(f"{where}: a number without a known source, known: {', '.join(sources)}")
        if value.get("sure", cell.get("sure")) not in SURE:
            raise PaperError(f"{where}: 'sure' is {' or '.join(SURE)}, got {value.get('sure', cell.get('sure'))!r}")
