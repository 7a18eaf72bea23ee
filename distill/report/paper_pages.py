"""The tables of distill.paper as Markdown, as one HTML page and as CSV; and the command that writes all three."""

from __future__ import annotations

import csv as comma_separated
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from distill.report.page import ARROW, STYLE
from distill.report.paper import Cell, Column, Table, tables
from swapcore.files import write_text
from swapcore.weights import ROOT

FIELDS = (
    "table", "system", "metric", "published", "unit", "published_source", "sure", "measured", "interval_low",
    "interval_high", "difference", "state", "protocol", "measured_from", "note",
)  # fmt: skip
LONG = ("system", "published", "ours", "difference", "unit", "what it is")
LEGEND = (
    "Bold: measured here, beside the published value where the protocol is the same (difference: ours less published). "
    "Plain: quoted from the source told. unknown: no number that anybody could verify, so none is given. A source is "
    "seen where the number was read there itself, secondary where it is a quotation there as well."
)
PAGE = """
td b{font-weight:650}td.unknown{color:var(--soft);font-style:italic}sup{color:var(--soft)}
tr>.words{white-space:normal;text-align:left}td.words{color:var(--soft);font-size:.9rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:0 1rem;margin:.2rem 0 .8rem}
dl,ol{font-size:.88rem;color:var(--soft)}dt{font-weight:600}dd{margin:0}ol{margin:.5rem 0;padding-left:1.6rem}
th{vertical-align:bottom}th small{color:var(--soft)}
@media (prefers-color-scheme:dark){:root{--line:#3b3f46;--soft:#9ca3af}}
"""


def counts(made: Sequence[Table]) -> dict[str, int]:
    """How many cells are measured, quoted, unknown."""
    states = [cell.state for table in made for cell in table.cells()]
    return {state: states.count(state) for state in ("measured", "quoted", "unknown")}


def csv(made: Sequence[Table]) -> str:
    """One line a cell, FIELDS in the first. Numbers in full; empty where there is none."""
    stream = io.StringIO()
    writer = comma_separated.DictWriter(stream, FIELDS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for table in made:
        protocol = "; ".join(f"{key}: {text}" for key, text in table.protocol.items())
        for cell in table.cells():
            low, high = cell.interval or (None, None)
            derived = {"difference": cell.difference, "state": cell.state, "protocol": f"{cell.protocol}. {protocol}"}
            other = "Ours was measured under another protocol." if cell.other else ""
            derived |= {"interval_low": low, "interval_high": high, "note": f"{cell.note} {other}".strip()}
            writer.writerow(vars(cell) | derived)
    return stream.getvalue()


def markdown(made: Sequence[Table]) -> str:
    """Every table under its protocol, with numbered remarks."""
    lines = ["# The paper's tables", "", LEGEND, "", _summary(made) + ".", ""]
    for table in made:
        lines += [f"## {table.title}", "", *(f"- {key}: {text}" for key, text in _head(table)), ""]
        lines += [table_markdown(table), ""]
    return "\n".join(lines)


def table_markdown(table: Table) -> str:
    """One table alone, with its remarks."""
    remarks: dict[str, int] = {}
    lines = []
    for i, row in enumerate(_grid(table, remarks)):
        told = []
        for text, cell, small, marks in row:
            shown = f"**{text}**" if cell and cell.state == "measured" else text
            told.append(" ".join(filter(None, (shown, small and f"({small})", "".join(f"[{m}]" for m in marks)))))
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in told) + " |")
        if i == 0:
            lines.append("|" + "---|" * len(row))
    if remarks:
        lines += ["", *(f"[{number}] {text}  " for text, number in remarks.items())]
    return "\n".join(lines)


def html(made: Sequence[Table]) -> str:
    """One page without any reference to another file."""
    body = ""
    for table in made:
        head = "".join(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>" for key, text in _head(table))
        body += f"<h2>{escape(table.title)}</h2><dl>{head}</dl>{_html_table(table)}"
    return f"""<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>The paper's tables · SwapDistill</title><style>{STYLE}{PAGE}</style>
<h1>The paper's tables</h1><p class=lead>{escape(_summary(made))}</p><p class=soft>{escape(LEGEND)}</p>
{body}</html>
"""


def _html_table(table: Table) -> str:
    remarks: dict[str, int] = {}
    lines = ""
    for i, row in enumerate(_grid(table, remarks)):
        lines += "<tr>"
        for k, (text, cell, small, marks) in enumerate(row):
            kind = "words" if table.long and k >= len(row) - 2 else cell.state if cell else ""
            shown = f"<b>{escape(text)}</b>" if kind == "measured" else escape(text)
            shown += f"<sup>{','.join(map(str, marks))}</sup>" if marks else ""
            shown += f"<br><small>{escape(small)}</small>" if small else ""
            lines += f"<th class='{kind}'>{shown}</th>" if i == 0 else f"<td class='{kind}'>{shown}</td>"
        lines += "</tr>"
    listed = "".join(f"<li>{escape(text)}</li>" for text in remarks)
    return f"<div class=scroll><table>{lines}</table></div>" + (f"<ol>{listed}</ol>" if remarks else "")


# A grid's entry: text, the cell whose state it shows, small print, numbers of remarks.
Entry = tuple[str, Cell | None, str, Sequence[int]]


def _plain(*texts: str) -> list[Entry]:
    return [(text, None, "", ()) for text in texts]


def _grid(table: Table, remarks: dict[str, int]) -> Iterable[list[Entry]]:
    """Rows of a table, the heading first; `remarks` is filled with what is to be told below, and its number."""
    if table.long:
        yield _plain(*LONG)
        for system, row in table.rows.items():
            for metric, cell in row.items():
                column = table.columns[metric]
                ours = "" if cell.measured is None else _number(cell.measured, _digits(cell, column))
                change = _difference(cell, column)
                yield [
                    *_plain(system, _published(cell, column)), (ours, cell, "", ()),
                    *_plain(change, cell.unit, cell.note),
                ]  # fmt: skip
        return
    heads = [f"{c.title} {ARROW.get(c.better, '')}".strip() for c in table.columns.values()]
    units = [c.unit if c.unit not in ("", "unknown") else "" for c in table.columns.values()]
    yield [("", None, "", ()), *((head, None, unit, ()) for head, unit in zip(heads, units, strict=True))]
    for system, row in table.rows.items():
        line = _plain(system)
        for metric, column in table.columns.items():
            cell = row.get(metric)
            if cell is None:
                line += _plain("–")
                continue
            told = [remarks.setdefault(text, len(remarks) + 1) for text in _remarks(cell, table.source)]
            line.append((*_shown(cell, column), told))
        yield line


def _shown(cell: Cell, column: Column) -> tuple[str, Cell, str]:
    """What stands in the cell, and below it."""
    if cell.measured is None:
        return _published(cell, column), cell, "ours: other protocol" if cell.other else ""
    digits, small = _digits(cell, column), []
    if cell.interval:
        small.append(" – ".join(_number(end, digits) for end in cell.interval))
    if cell.published is not None:
        small.append(f"published {_published(cell, column)}, {_difference(cell, column)}")
    return _number(cell.measured, digits), cell, "; ".join(small)


def _remarks(cell: Cell, head: str) -> list[str]:
    """Sentences on a cell: its source, unless the head of the table tells it, and its note."""
    source = f"{cell.published_source} ({cell.sure})" if cell.published is not None else ""
    return [text for text in (source if source != head else "", cell.note) if text]


def _head(table: Table) -> list[tuple[str, str]]:
    """What stands between title and table; what is wholly unknown in one line."""
    unknown = [key for key, text in table.protocol.items() if text == "unknown"]
    known = [(key, text) for key, text in table.protocol.items() if text != "unknown"]
    told = known + [("unknown", ", ".join(unknown))] * bool(unknown)
    return told + [("published in", table.source)] * bool(table.source)


def _digits(cell: Cell, column: Column) -> int:
    """Decimal places: the column's, or those of the published value where it was printed with more."""
    printed = str(cell.published).partition(".")[2] if isinstance(cell.published, float) else ""
    return max(column.digits, len(printed))


def _published(cell: Cell, column: Column) -> str:
    if cell.published is None:
        return "unknown"
    return _number(cell.published, 0 if isinstance(cell.published, int) else _digits(cell, column))


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def _difference(cell: Cell, column: Column) -> str:
    if cell.difference is None:
        return ""
    shown = _number(abs(cell.difference), _digits(cell, column))
    sign = "±" if float(shown.replace(",", "")) == 0 else "+" if cell.difference > 0 else "−"
    return sign + shown


def _summary(made: Sequence[Table]) -> str:
    states = counts(made)
    told = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"{sum(states.values())} cells in {len(made)} tables: {told}"


def write(folder: Path, results: Sequence[Path] = ()) -> list[Path]:
    """paper.md, paper.html and paper.csv in a folder; prints the size table and a summary. Raises PaperError."""
    made = tables(results or sorted((ROOT / "experiments" / "results").glob("*/metrics.json")))
    written = []
    for name, text in (("paper.md", markdown(made)), ("paper.html", html(made)), ("paper.csv", csv(made))):
        write_text(folder / name, text)
        written.append(folder / name)
    print(f"{table_markdown(made[0])}\n\n{_summary(made)}")
    for path in written:
        print(path)
    return written
