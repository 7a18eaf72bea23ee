"""The original's size table and the field's accuracy tables: `python -m distill.report paper`.

A cell is measured (a value of ours, beside the published one where there is one), quoted (published, with its source)
or unknown (nobody could verify a number; the reason is told). Published values and their protocols are those of
published.yaml; ours come from sizes.py and from the metrics.json of runs. Two protocols never share a table, and a
difference is formed only where the protocols agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.report import published, sizes
from distill.report.page import apart
from distill.report.results import Result, find_results, read_result
from eval import table_values
from eval.measured import INFORMATIVE
from swapcore.files import flatten

ROLES = ("recogniser", "pose", "expression")


@dataclass(frozen=True)
class Column:
    """digits: decimal places shown, also of the difference."""

    title: str
    unit: str
    digits: int = 2
    better: str | None = None
    requires: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One value of one system. `published` is as printed, with where it was read (`sure`: seen there, or secondary: it
    is a quotation there as well); `measured` is ours in the same unit. `other`: ours exists, under another protocol."""

    table: str
    system: str
    metric: str
    unit: str
    protocol: str
    published: float | None = None
    published_source: str = ""
    sure: str = ""
    measured: float | None = None
    interval: tuple[float, float] | None = None
    measured_from: str = ""
    note: str = ""
    other: bool = False

    @property
    def state(self) -> str:
        if self.measured is not None:
            return "measured"
        return "unknown" if self.published is None else "quoted"

    @property
    def difference(self) -> float | None:
        """Ours less the published value; None where one is missing."""
        return None if self.published is None or self.measured is None else self.measured - self.published


@dataclass(frozen=True)
class Table:
    """protocol: what all its values depend on. rows: system -> metric -> cell. long: one line a cell when printed."""

    name: str
    title: str
    protocol: Mapping[str, str]
    columns: Mapping[str, Column]
    rows: Mapping[str, Mapping[str, Cell]]
    source: str = ""
    long: bool = False

    def cells(self) -> list[Cell]:
        return [cell for row in self.rows.values() for cell in row.values()]


def tables(results: Sequence[Path] = (), book_path: Path = sizes.PUBLISHED) -> list[Table]:
    """All tables: sizes, the published ones, then what the files and folders of `results` measured.

    Raises PaperError naming what is missing, damaged or unknown.
    """
    book = published.read(book_path)
    measured = [read_result(path) for path in find_results(results)]
    quoted = [_published_table(book, spec, measured) for spec in book["tables"]]
    return [*size_tables(book), *quoted, *measured_tables(measured)]


def agrees(requires: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether flat facts have every required value; a list is a closed range."""

    def fits(wanted: Any, found: Any) -> bool:
        if isinstance(wanted, list):
            return isinstance(found, int | float) and wanted[0] <= found <= wanted[1]
        return found == wanted

    return all(fits(wanted, facts.get(key)) for key, wanted in requires.items())


def size_tables(book: Mapping[str, Any]) -> Iterator[Table]:
    """The printed table, each cell rebuilt in its own unit; then inference weights and parameters in one unit."""
    rows, source = sizes.measure(), book["sizes"]["source"]
    made = "distill.report.sizes, from the networks in teachers/ and students/"
    cells = {}
    for row in (row for row in rows if "printed" in row):
        key = f"{row['system']}/{row['part']}"
        found, what = sizes.rebuilt(row), f"{row['unit']} of the {row['file']}."
        if found is None:
            found = float(math.ceil(row["mib"]))
            more = [100 * (row[unit] / row["printed"] - 1) for unit in ("mib", "mb")]
            what = f"Not reproduced: {more[0]:+.1f} % if the printed number is in MiB, {more[1]:+.1f} % if in MB."
        have = f"The file has {row['mb']:.1f} MB = {row['mib']:.1f} MiB"
        alone = f", inference weights alone {row['inference_mb']:.1f} MB"
        have += f"{alone if row['mb'] > 1.1 * row['inference_mb'] else ''}."
        note = " ".join(filter(None, (what, have, book["size_notes"].get(key))))
        unit = row["unit"] or "MiB rounded up (assumed)"
        cell = Cell("sizes", key, "size", unit, "sizes", row["printed"], source, "seen", found, None, made, note)
        cells[key] = {"size": cell}
    printed = {
        "counted": "the file behind the printed number, in the unit that fits: MB is 10^6 bytes, MiB 2^20",
        "of": "generator and identity encoder apart; the printed table mixes units, and weights with training state",
    }
    yield Table("sizes", "The original's size table", printed, {"size": Column("size", "", 1)}, cells, source, True)
    columns = {"inference_mb": Column("inference weights", "MB", 1), "parameters": Column("parameters", "", 0)}
    totals: dict[str, dict[str, Cell]] = {}
    for system in dict.fromkeys(row["system"] for row in rows):
        parts = [row for row in rows if row["system"] == system]
        note = " + ".join(f"{row['part']} {row['inference_mb']:.1f} MB" for row in parts)
        totals[system] = {
            key: Cell(
                "weights", system, key, column.unit, "weights", measured=float(sum(row[key] for row in parts)),
                measured_from=made, note=note if key == "inference_mb" else "",
            )
            for key, column in columns.items()
        }  # fmt: skip
    counted = {"counted": "what inference needs, as state dicts of torch.save; nobody published it so"}
    yield Table("weights", "The same systems in one unit", counted, columns, totals)


def _published_table(book: Mapping[str, Any], spec: Mapping[str, Any], results: Sequence[Result]) -> Table:
    """One table of published.yaml with our values beside, wherever the protocol is the same."""
    protocol = dict(book["protocols"][spec["protocol"]])
    requires = protocol.pop("requires", None)
    columns = {name: Column(**column) for name, column in spec["columns"].items()}
    title = {key: source["title"] for key, source in book["sources"].items()}
    unknown = ", ".join(key for key, text in protocol.items() if text.startswith("unknown"))
    rows = {}
    for row in spec["rows"]:
        computed = sizes.counted(row["network"]) if "network" in row else None
        for metric, column in columns.items():
            entry = published.entry(spec, row, metric)
            missing = entry.get("value") is None
            notes = [entry.get("note"), *(_also(also, entry, title) for also in entry.get("also", ()))]
            cell: dict[str, Any] = {"published": entry.get("value")}
            if not missing:
                cell |= {"published_source": title[entry["source"]], "sure": entry["sure"]}
            if computed is not None:
                value = {"parameters_m": computed.parameters / 1e6, "macs_g": computed.macs_g}[metric]
                cell |= {"measured": value, "measured_from": f"distill.report.sizes, {row['network']}"}
                if metric == "macs_g":
                    notes.append(f"Ours at {computed.resolution} x {computed.resolution}.")
            else:
                cell |= _ours(row["system"], metric, column, requires, results)
                if cell.get("measured") is not None and unknown:
                    notes.append(f"Protocols agree as far as they are known; unknown of the published one: {unknown}.")
            if missing:
                what = "Unknown" if cell.get("measured") is None else "Published value unknown"
                notes.insert(0, f"{what}: {entry['unknown']}.")
            note = " ".join(text if text.endswith(".") else f"{text}." for text in notes if text)
            made = Cell(spec["name"], row["system"], metric, column.unit, spec["protocol"], note=note, **cell)
            rows.setdefault(row["system"], {})[metric] = made
    source = f"{title[spec['source']]} ({spec['sure']})" if "source" in spec else ""
    return Table(spec["name"], spec["title"], protocol, columns, rows, source)


def _also(also: Mapping[str, Any], entry: Mapping[str, Any], title: Mapping[str, str]) -> str:
    sure = also.get("sure", entry["sure"])
    told = f", {also['note']}" if also.get("note") else ""
    return f"Also given as {also['value']} ({title[also.get('source', entry['source'])]}, {sure}{told})."


def _ours(system: str, metric: str, column: Column, requires: Mapping | None, results: Sequence[Result]) -> dict:
    """Fields of a cell: our value of this system under the required protocol, or that there is one under another."""
    name = "".join(filter(str.isalnum, system.lower()))
    other = False
    for result in results:
        for swapper, row in result.rows.items():
            if "".join(filter(str.isalnum, swapper.lower())) != name or metric not in row:
                continue
            value, wanted = row[metric], {**(requires or {}), **column.requires}
            facts = flatten({**value["protocol"], "pairs": dict(result.pairs)})
            if requires and value["unit"] == column.unit and agrees(wanted, facts):
                measured = float(value["value"])
                return {"measured": measured, "interval": _interval(value), "measured_from": result.origin}
            other = True
    return {"other": other}


def measured_tables(results: Sequence[Result]) -> list[Table]:
    """What runs measured: one table for all rows that share the list of pairs and, metric by metric, the protocol."""
    groups: list[dict[str, Any]] = []
    for result in results:
        for swapper, row in result.rows.items():
            protocols = {k: {x: y for x, y in v["protocol"].items() if x not in INFORMATIVE} for k, v in row.items()}
            for group in groups:
                same = group["pairs"]["hash"] == result.pairs["hash"]
                if same and all(group["protocols"].get(k, p) == p for k, p in protocols.items()):
                    break
            else:
                group = {"pairs": result.pairs, "protocols": {}, "rows": []}
                groups.append(group)
            group["protocols"] |= protocols
            values = {k: v["value"] for k, v in row.items()}
            if (swapper, values) not in [(s, {k: v["value"] for k, v in r.items()}) for s, _, r in group["rows"]]:
                group["rows"].append((swapper, result, row))
    return [_measured_table(f"measured_{number}", group) for number, group in enumerate(groups, 1)]


def _measured_table(name: str, group: Mapping[str, Any]) -> Table:
    values = table_values(key for _, _, row in group["rows"] for key in row)
    columns = {value.key: Column(value.title, "", value.digits, value.better) for value in values}
    runs = list(dict.fromkeys(result.experiment for _, result, _ in group["rows"]))
    rows: dict[str, dict[str, Cell]] = {}
    for swapper, result, row in group["rows"]:
        label = swapper if len(runs) == 1 else f"{swapper} ({result.experiment})"
        if label in rows:
            label = f"{label}, {result.origin}"
        rows[label] = {
            key: Cell(
                name, label, key, row[key]["unit"], name, measured=float(row[key]["value"]),
                interval=_interval(row[key]), measured_from=result.origin,
                note=" + ".join(f"{part} {share:,.{value.digits}f}" for part, share in apart(value, row[key]).items()),
            )
            for value in values if (key := value.key) in row
        }  # fmt: skip
    return Table(name, f"Measured here: {', '.join(runs)}", _protocol_of(group), columns, rows)


def _interval(value: Mapping[str, Any]) -> tuple[float, float] | None:
    return (value["interval"][0], value["interval"][1]) if value.get("interval") else None


def _protocol_of(group: Mapping[str, Any]) -> dict[str, str]:
    """What the values of a group depend on, in words."""
    pairs, told = group["pairs"], {}
    told["pairs"] = f"{pairs['count']} of {pairs['name']}, list {pairs['hash']}, gallery of {pairs['gallery']}"
    if pairs.get("protocol"):
        told["data"] = ", ".join(f"{key} {value}" for key, value in flatten(pairs["protocol"]).items())
    for protocol in group["protocols"].values():
        for role in ROLES:
            if role in protocol:
                of = protocol[role]
                told[role] = f"{of['name']}, weights {of.get('weight_hash', 'unknown')}"
                told[role] += "".join(f"; {of[key]}" for key in ("crop", "colour_order", "coefficients") if key in of)
        for key in ("resolution", "swaps", "flip"):
            if key in protocol:
                told[key] = str(protocol[key])
    latency = group["protocols"].get("latency_ms")
    if latency:
        told["speed"] = ", ".join(f"{key} {value}" for key, value in latency.items())
    return told
