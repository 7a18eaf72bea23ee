"""The tables of the paper as Markdown, as one HTML page and as CSV."""

from __future__ import annotations

import csv as comma_separated
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from distill.report.paper import Cell, Table
from distill.report.tables import heading, render
from eval.metric import Value
from swapcore.files import write_text
from swapcore.terminal import markdown_table

FIELDS = (
    "table", "system", "metric", "published", "unit", "published_source", "sure", "measured", "interval_low",
    "interval_high", "difference", "state", "protocol", "measured_from", "note",
)  # fmt: skip
LONG = ("system", "published", "ours", "difference", "unit", "explanation")
LEGEND = (
    "Bold: measured here, beside the published value where the protocol is the same (difference: ours less published). "
    "Plain: quoted from the given source. unknown: nobody could verify a number. seen: the number was read in its "
    "source. secondary: the source quotes the number from elsewhere."
)


def write(folder: Path, tables: Sequence[Table]) -> list[Path]:
    """paper.md, paper.html and paper.csv; the paths of the files."""
    return _write(folder, {"paper.md": markdown(tables), "paper.html": html(tables), "paper.csv": csv(tables)})


def write_field(folder: Path, tables: Sequence[Table]) -> list[Path]:
    """field.md, whose values link to the text of their protocol, and field.csv; the paths of the files."""
    return _write(folder, {"field.md": field_markdown(tables), "field.csv": csv(tables)})


def _write(folder: Path, pages: dict[str, str]) -> list[Path]:
    for name, text in pages.items():
        write_text(folder / name, text)
    return [folder / name for name in pages]


def summary(tables: Sequence[Table]) -> str:
    """The number of cells that are measured, quoted and unknown."""
    text = _counts(tables)
    if not any(table.name.startswith("measured_") for table in tables):
        text += " They show published numbers and computed sizes only, since no results were given (see --results)."
    return text


def _counts(tables: Sequence[Table]) -> str:
    states = [cell.state for table in tables for cell in table.cells()]
    counts = ", ".join(f"{states.count(state)} {state}" for state in ("measured", "quoted", "unknown"))
    return f"{len(states)} cells in {len(tables)} tables: {counts}."


def csv(tables: Sequence[Table]) -> str:
    """One line for each cell, FIELDS in the first. Numbers have all digits, or are empty where there is none."""
    stream = io.StringIO()
    writer = comma_separated.DictWriter(stream, FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        protocol = "; ".join(f"{key}: {text}" for key, text in table.protocol.items())
        for system, row in table.rows.items():
            for metric, cell in row.items():
                low, high = cell.interval or (None, None)
                other = "Ours was measured under another protocol." if cell.other else ""
                writer.writerow(vars(cell) | {
                    "table": table.name, "system": system, "metric": metric, "interval_low": low,
                    "interval_high": high, "difference": cell.difference, "state": cell.state,
                    "protocol": f"{table.protocol_name}. {protocol}", "note": f"{cell.note} {other}".strip(),
                })  # fmt: skip
    return stream.getvalue()


def markdown(tables: Sequence[Table]) -> str:
    """Every table under its protocol, with numbered remarks."""
    lines = ["# The paper's tables", "", LEGEND, "", summary(tables), ""]
    for table in tables:
        lines += [f"## {table.title}", "", *(f"- {key}: {text}" for key, text in _facts(table)), ""]
        lines += [table_markdown(table), ""]
    return "\n".join(lines)


def field_markdown(tables: Sequence[Table]) -> str:
    """Every protocol with its text and its tables, in each of which all values are by this protocol and link to it."""
    lines = ["# The field, protocol by protocol", "", LEGEND, "", field_summary(tables), ""]
    for name in dict.fromkeys(table.protocol_name for table in tables):
        own = [table for table in tables if table.protocol_name == name]
        lines += [f"## {name}", "", *(f"- {key}: {text}" for key, text in _facts(replace(own[0], source=""))), ""]
        for table in own:
            source = [f"Published in {table.source}.", ""] if table.source else []
            lines += [f"### {table.title}", "", *source, table_markdown(table, link=f"#{name}"), ""]
    return "\n".join(lines)


def field_summary(tables: Sequence[Table]) -> str:
    """The number of protocols, and of cells that are measured, quoted and unknown."""
    protocols = len({table.protocol_name for table in tables})
    return f"{protocols} protocols; no two share a table. {_counts(tables)}"


def table_markdown(table: Table, link: str = "") -> str:
    """One table alone, with its remarks. link: the target of every value, if there is one."""
    rows, remarks = _entries(table)
    lines = [markdown_table([[_as_markdown(entry, link) for entry in row] for row in rows])]
    if remarks:
        lines += ["", *(f"[{number}] {text}  " for number, text in enumerate(remarks, 1))]
    return "\n".join(lines)


def html(tables: Sequence[Table]) -> str:
    """One page that refers to no other file."""
    contents = []
    for table in tables:
        rows, remarks = _entries(table)
        contents.append({"title": table.title, "facts": _facts(table), "rows": rows, "remarks": remarks})
    return render("paper.html", tables=contents, summary=summary(tables), legend=LEGEND)


class Entry(NamedTuple):
    """A cell as shown. kind: the state of a value, or `words`. remarks: their numbers."""

    text: str
    kind: str = ""
    small: str = ""
    remarks: tuple[int, ...] = ()


def _as_markdown(entry: Entry, link: str = "") -> str:
    text = f"**{entry.text}**" if entry.kind == "measured" else entry.text
    if link and entry.kind in ("measured", "quoted"):
        text = f"[{text}]({link})"
    numbers = "".join(f"[{number}]" for number in entry.remarks)
    return " ".join(filter(None, (text, entry.small and f"({entry.small})", numbers)))


def _entries(table: Table) -> tuple[list[list[Entry]], list[str]]:
    """Rows of a table, the headings first, and the remarks on them."""
    remarks: dict[str, int] = {}
    if table.long:
        rows = [_long(LONG)]
        for system, row in table.rows.items():
            for column in table.columns:
                cell = row[column.key]
                ours = "" if cell.measured is None else _number(cell.measured, _digits(cell, column))
                texts = system, _published(cell, column), ours, _difference(cell, column), cell.unit, cell.note
                rows.append(_long(texts, cell.state))
        return rows, []
    heads = [Entry(heading(c), small=c.unit if c.unit != "unknown" else "") for c in table.columns]
    rows = [[Entry(""), *heads]]
    for system, row in table.rows.items():
        line = [Entry(system)]
        for column in table.columns:
            if (cell := row.get(column.key)) is None:
                line.append(Entry("–"))
                continue
            numbers = tuple(remarks.setdefault(text, len(remarks) + 1) for text in _remarks(cell, table.source))
            line.append(Entry(_shown(cell, column), cell.state, _small_print(cell, column), numbers))
        rows.append(line)
    return rows, list(remarks)


def _long(texts: Sequence[str], state: str = "") -> list[Entry]:
    """A line of LONG, whose third text is ours and whose last two are words."""
    return [Entry(text, kind) for text, kind in zip(texts, ("", "", state, "", "words", "words"), strict=True)]


def _shown(cell: Cell, column: Value) -> str:
    return _published(cell, column) if cell.measured is None else _number(cell.measured, _digits(cell, column))


def _small_print(cell: Cell, column: Value) -> str:
    if cell.measured is None:
        return "ours: other protocol" if cell.other else ""
    small = []
    if cell.interval:
        small.append(" – ".join(_number(end, _digits(cell, column)) for end in cell.interval))
    if cell.published is not None:
        small.append(f"published {_published(cell, column)}, {_difference(cell, column)}")
    return "; ".join(small)


def _remarks(cell: Cell, head: str) -> list[str]:
    """Sentences on a cell: its source, unless that is the source of the table, and its note."""
    source = f"{cell.published_source} ({cell.sure})" if cell.published is not None else ""
    return [text for text in (source if source != head else "", cell.note) if text]


def _facts(table: Table) -> list[tuple[str, str]]:
    """The lines between title and table: its protocol, with one line for all that is unknown, and its source."""
    known = [(key, text) for key, text in table.protocol.items() if text != "unknown"]
    unknown = ", ".join(key for key, text in table.protocol.items() if text == "unknown")
    return [*known, *[("unknown", unknown)] * bool(unknown), *[("published in", table.source)] * bool(table.source)]


def _digits(cell: Cell, column: Value) -> int:
    """Decimal places: the column's, or those of the published value where it was printed with more."""
    printed = str(cell.published).partition(".")[2] if isinstance(cell.published, float) else ""
    return max(column.digits, len(printed))


def _published(cell: Cell, column: Value) -> str:
    if cell.published is None:
        return "unknown"
    return _number(cell.published, 0 if isinstance(cell.published, int) else _digits(cell, column))


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _difference(cell: Cell, column: Value) -> str:
    if cell.difference is None:
        return ""
    text = _number(abs(cell.difference), _digits(cell, column))
    sign = "±" if float(text.replace(",", "")) == 0 else "+" if cell.difference > 0 else "−"
    return sign + text
