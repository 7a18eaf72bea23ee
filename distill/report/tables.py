"""Tables of measured values, as text for a terminal and as HTML. The metrics in `eval` describe the columns and their
format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from eval import table_values
from eval.measured import check_column
from eval.metric import Value
from swapcore import terminal

ARROWS = {"higher": "↑", "lower": "↓", "target": "→←"}
Row = Mapping[str, Mapping[str, Any]]  # of metrics.json: Measured.as_dict() by key

_templates = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, **values: Any) -> Markup:
    """A file of templates/, filled in; text is escaped, Markup is not."""
    return Markup(_templates.get_template(template).render(values))


def columns(rows: Mapping[str, Row]) -> list[Value]:
    """The values that occur in any row. Raises ValueError where two rows measured a value by different protocols."""
    values = table_values(key for row in rows.values() for key in row)
    for value in values:
        check_column(value.key, {name: row[value.key] for name, row in rows.items() if value.key in row})
    return values


def heading(column: Any) -> str:
    """The title of a column, with an arrow: higher (↑), lower (↓) or a target value (→←) is better."""
    return f"{column.title} {ARROWS.get(column.better, '')}".rstrip()


def shares(value: Value, measured: Mapping[str, Any] | None) -> dict[str, float]:
    """The share of each network of a swapper, in alphabetical order; empty where it has only one."""
    parts = measured.get("details", {}).get("parts", {}) if value.parts and measured else {}
    return dict(sorted(parts.items())) if len(parts) > 1 else {}


def as_text(rows: Mapping[str, Row]) -> str:
    """The table for a terminal: metrics down, swappers across."""
    lines = [["", *rows]]
    for value in columns(rows):
        measured = [row.get(value.key) for row in rows.values()]
        lines.append([heading(value), *(value.format.format(cell["value"]) if cell else "–" for cell in measured)])
        networks = [" + ".join(map(value.format.format, shares(value, cell).values())) for cell in measured]
        if any(networks):
            lines.append(["  of its networks", *(network or "–" for network in networks)])
    return f"\n{terminal.text_table(lines)}\n"


def as_html(rows: Mapping[str, Row], trained: Sequence[str]) -> Markup:
    """The same table as HTML; intervals and shares are in small print, and the columns of `trained` stand out."""
    cells = {heading(value): [_cell(value, row.get(value.key)) for row in rows.values()] for value in columns(rows)}
    return render("values.html", names=list(rows), trained=trained, cells=cells)


def _cell(value: Value, measured: Mapping[str, Any] | None) -> tuple[str, list[str]]:
    """The text of a cell, and its lines of small print."""
    if measured is None:
        return "–", []
    text, details = value.format.format, measured.get("details", {})
    small = [" – ".join(map(text, measured["interval"]))] if measured.get("interval") else []
    if "p10" in details:
        small.append(f"runs {text(details['p10'])} – {text(details['p90'])}")
    small += [f"{network} {text(share)}" for network, share in shares(value, measured).items()]
    return text(measured["value"]), small
