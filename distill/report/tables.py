"""Tables of measured values, as text for a terminal and as HTML. The metrics in `eval` describe the columns and their
format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from distill.evaluate.differences import Row
from eval import table_values
from eval.measured import check_column
from eval.metric import Value
from swapcore import terminal

ARROWS = {"higher": "↑", "lower": "↓", "target": "→←"}
SURE, UNSURE, CAUTION = "*", "~", "!"

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


def mark(difference: Mapping[str, Any] | None) -> str:
    """The mark of a value by its difference (plain types) to the reference; empty where there is none."""
    return "" if difference is None else SURE if difference["sure"] else UNSURE


def marks_legend(reference: str, seeds: bool = False) -> str:
    """The meaning of the marks of a table."""
    units = "by pairs, by people and by seeds" if seeds else "by pairs and by people"
    return (
        f"{SURE} surely differs from {reference}: the 95 % intervals of the difference {units} exclude 0; "
        f"{UNSURE} may not differ, or has too few pairs or people to tell"
    )


def unit_of(measured: Mapping[str, Any]) -> str:
    """The unit of a value's interval; older results, which do not say so, drew pairs."""
    return measured["protocol"].get("interval", {}).get("unit", "pairs")


def notes(content: Mapping[str, Any]) -> list[str]:
    """Lines under the table of a metrics.json: the meaning of the marks, the cautions, the metrics without a value, and
    the rows taken over from another commit, other packages or other hardware."""
    rows, now, lines = content["rows"], content["environment"], []
    if content.get("differences"):
        lines.append(marks_legend(content["differences"]["reference"]))
    named: dict[str, list[str]] = {}  # the rows of each caution
    for value in columns(rows):
        for name, row in rows.items():
            if text := row.get(value.key, {}).get("caution"):
                named.setdefault(f"{value.title}: {text}", []).append(name)
    lines += [f"{CAUTION} {text} ({', '.join(names)})" for text, names in named.items()]
    lines += [f"not measured: {what}: {why}" for what, why in grouped(content.get("not_measured", {})).items()]
    for name, then in content.get("environments", {}).items():
        if other := [f"{key} {then.get(key)}" for key in now if then.get(key) != now[key]]:
            lines.append(f"{name}: taken over, measured with {', '.join(other)}")
    return lines


def grouped(reasons: Mapping[str, str]) -> dict[str, str]:
    """Reasons by what has them; all of one reason together, with commas."""
    by_reason: dict[str, list[str]] = {}
    for what, reason in reasons.items():
        by_reason.setdefault(reason, []).append(what)
    return {", ".join(what): reason for reason, what in by_reason.items()}


def as_text(rows: Mapping[str, Row], differences: Mapping[str, Any] | None = None) -> str:
    """The table for a terminal: metrics down, swappers across. differences: those of metrics.json, shown as marks."""
    values, lines = columns(rows), []
    signs = {v.key: [_signs(row.get(v.key), differences, name, v) for name, row in rows.items()] for v in values}
    margin = max((len(each) for row in signs.values() for each in row), default=0)
    for value in values:
        text, measured = value.format.format, [row.get(value.key) for row in rows.values()]
        cells = [text(cell["value"]) if cell else "–" for cell in measured]
        lines.append([heading(value), *(f"{a}{b:<{margin}}" for a, b in zip(cells, signs[value.key], strict=True))])
        ends = [cell.get("interval") if cell else None for cell in measured]
        if any(ends):
            unit = next(unit_of(cell) for cell in measured if cell and cell.get("interval"))
            lines.append([f"  95 % by {unit}", *("–".join(map(text, each)) if each else "–" for each in ends)])
        networks = [" + ".join(map(text, shares(value, cell).values())) for cell in measured]
        if any(networks):
            lines.append(["  of its networks", *(network or "–" for network in networks)])
    return f"\n{terminal.text_table([['', *rows], *lines])}\n"


def as_markdown(rows: Mapping[str, Row], differences: Mapping[str, Any] | None = None, link: str = "") -> str:
    """The same table as Markdown, with the intervals in brackets. link: where every value leads, if anywhere."""
    lines = [["", *rows]]
    for value in columns(rows):
        text, cells = value.format.format, []
        for name, measured in ((name, row.get(value.key)) for name, row in rows.items()):
            shown = text(measured["value"]) if measured else "–"
            shown = f"[{shown}]({link})" if measured and link else shown
            ends = f" ({' – '.join(map(text, measured['interval']))})" if measured and measured.get("interval") else ""
            cells.append(f"{shown}{_signs(measured, differences, name, value)}{ends}")
        lines.append([heading(value), *cells])
    return terminal.markdown_table(lines)


def _signs(measured: Mapping[str, Any] | None, differences: Mapping[str, Any] | None, name: str, value: Value) -> str:
    """The mark of a cell and the sign of its caution after a space; empty where it has neither."""
    if measured is None:
        return ""
    marked = mark(differences["rows"].get(name, {}).get(value.key)) if differences else ""
    signs = marked + (CAUTION if measured.get("caution") else "")
    return f" {signs}" if signs else ""


def as_html(rows: Mapping[str, Row], trained: Sequence[str], differences: Mapping[str, Any] | None = None) -> Markup:
    """The same table as HTML; intervals and shares are in small print, and the columns of `trained` stand out."""
    cells = {
        heading(value): [
            _cell(value, row.get(value.key), _signs(row.get(value.key), differences, name, value))
            for name, row in rows.items()
        ]
        for value in columns(rows)
    }
    return render("values.html", names=list(rows), trained=trained, cells=cells)


def _cell(value: Value, measured: Mapping[str, Any] | None, signs: str) -> tuple[str, list[str]]:
    """The text of a cell, and its lines of small print."""
    if measured is None:
        return "–", []
    text, details = value.format.format, measured.get("details", {})
    small = [" – ".join(map(text, measured["interval"]))] if measured.get("interval") else []
    if "p10" in details:
        small.append(f"runs {text(details['p10'])} – {text(details['p90'])}")
    small += [f"{network} {text(share)}" for network, share in shares(value, measured).items()]
    return text(measured["value"]) + signs, small
