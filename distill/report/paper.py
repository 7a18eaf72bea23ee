"""The original's size table and the field's accuracy tables.

A cell is measured (our value, beside the published one where there is one), quoted (published, with its source) or
unknown (nobody could verify a number; its note gives the reason). Published values and their protocols are those of
published.yaml; ours come from sizes.py and from the metrics.json of runs. Two protocols never share a table, and there
is a difference only where the protocols agree.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.report import published, sizes
from distill.report.results import Result, find_results, read_result
from distill.report.tables import shares
from eval import METRICS, table_values
from eval.measured import depends_on
from eval.metric import Value
from swapcore.files import flatten

OURS = "ours"  # of eval/protocols.yaml: its lists are not marked, since it measures as the command without --protocol
ROLES = ("recogniser", "pose", "expression")


@dataclass(frozen=True)
class Cell:
    """One value of one system. published: as printed; published_source: where it was read; sure: `seen` (read
    there) or `secondary` (quoted there). measured: ours in the same unit. other: ours has another protocol."""

    unit: str
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
    """protocol: everything that all its values depend on, in words. rows: system -> metric -> cell. long: it is printed
    with a line for each cell."""

    name: str
    title: str
    protocol_name: str
    protocol: Mapping[str, str]
    columns: Sequence[Value]
    rows: Mapping[str, Mapping[str, Cell]]
    source: str = ""
    long: bool = False

    def cells(self) -> list[Cell]:
        return [cell for row in self.rows.values() for cell in row.values()]


def tables(results: Sequence[Path] = (), book_path: Path = sizes.PUBLISHED) -> list[Table]:
    """All tables: sizes, the published ones, then the values in the files and folders of `results`.

    Raises PaperError naming what is missing, damaged or unknown.
    """
    book = published.read(book_path)
    measured = [read_result(path) for path in find_results(results)]
    quoted = [_published_table(book, spec, measured) for spec in book["tables"]]
    return [*size_tables(book), *quoted, *measured_tables(measured)]


def field(results: Sequence[Path] = (), book_path: Path = sizes.PUBLISHED) -> list[Table]:
    """The published tables of accuracy, by protocol, with ours beside; then the values of runs by the protocol that
    measured them, `ours` where they name none. Raises PaperError as `tables` does."""
    book = published.read(book_path)
    measured = [read_result(path) for path in find_results(results)]
    accuracy = [spec for spec in book["tables"] if any(_is_accuracy(key) for key in spec["columns"])]
    accuracy.sort(key=lambda spec: list(book["protocols"]).index(spec["protocol"]))
    quoted = [_published_table(book, spec, measured) for spec in accuracy]
    by_name: dict[str, list[Result]] = {}
    for result in measured:
        by_name.setdefault(result.pairs.get("protocol", {}).get("measured_by", OURS), []).append(result)
    own = [
        replace(table, protocol_name=f"{table.name}_{name}", protocol={"protocol": _where(name)} | dict(table.protocol))
        for name, group in by_name.items()
        for table in measured_tables(group)
    ]
    return [*quoted, *own]


def _is_accuracy(key: str) -> bool:
    """Whether a recogniser, a pose or an expression estimator reads a value."""
    return any(key == value.key for metric in METRICS.values() if metric.needs in ROLES for value in metric.values)


def _where(name: str) -> str:
    return f"{name}, in words in docs/protocols.md#{name}"


def agrees(requires: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether flat facts have every required value; a list is a closed range."""

    def fits(required: Any, value: Any) -> bool:
        if isinstance(required, list):
            return isinstance(value, int | float) and required[0] <= value <= required[1]
        return value == required

    return all(fits(required, facts.get(key)) for key, required in requires.items())


def size_tables(book: Mapping[str, Any]) -> Iterator[Table]:
    """The printed table, each cell rebuilt in its own unit; then inference weights and parameters in one unit."""
    rows, source = sizes.measure(), book["sizes"]["source"]
    origin = "distill.report.sizes, from the networks in teachers/ and students/"
    cells = {}
    for row in (row for row in rows if "printed" in row):
        key = f"{row['system']}/{row['part']}"
        size, note = sizes.rebuilt(row), f"{row['unit']} of the {row['file']}."
        if size is None:
            size = float(math.ceil(row["mib"]))
            mib, mb = (100 * (row[unit] / row["printed"] - 1) for unit in ("mib", "mb"))
            note = f"Not reproduced: {mib:+.1f} % if the printed number is in MiB, {mb:+.1f} % if in MB."
        note += f" The file has {row['mb']:.1f} MB = {row['mib']:.1f} MiB"
        if row["mb"] > 1.1 * row["inference_mb"]:
            note += f", inference weights alone {row['inference_mb']:.1f} MB"
        note = f"{note}. {book['size_notes'].get(key, '')}".strip()
        unit = row["unit"] or "MiB rounded up (assumed)"
        cells[key] = {"size": Cell(unit, row["printed"], source, "seen", size, None, origin, note)}
    printed = {
        "counted": "the file behind the printed number, in the unit that fits: MB is 10^6 bytes, MiB 2^20",
        "note": "the printed table mixes both units, and inference weights with training state",
        "networks": "generator and identity encoder apart",
    }
    columns = [Value("size", "size", format="{:.1f}")]
    yield Table("sizes", "The original's size table", "sizes", printed, columns, cells, source, long=True)
    parameters = Value("parameters", "parameters", format="{:.0f}")
    columns = [Value("inference_mb", "inference weights", "MB", "{:.1f}"), parameters]
    totals: dict[str, dict[str, Cell]] = {}
    for system in dict.fromkeys(row["system"] for row in rows):
        parts = [row for row in rows if row["system"] == system]
        note = " + ".join(f"{row['part']} {row['inference_mb']:.1f} MB" for row in parts)
        megabytes, numbers = (float(sum(row[key] for row in parts)) for key in ("inference_mb", "parameters"))
        totals[system] = {
            "inference_mb": Cell("MB", measured=megabytes, measured_from=origin, note=note),
            "parameters": Cell("", measured=numbers, measured_from=origin),
        }
    counted = {"counted": "the weights that inference needs, as state dicts of torch.save; no one published these"}
    yield Table("weights", "The same systems in one unit", "weights", counted, columns, totals)


def _published_table(book: Mapping[str, Any], spec: Mapping[str, Any], results: Sequence[Result]) -> Table:
    """One table of published.yaml, with our values beside the published ones of the same protocol."""
    protocol = dict(book["protocols"][spec["protocol"]])
    requires = protocol.pop("requires", None)
    columns = [
        Value(key, column["title"], column["unit"], f"{{:.{column.get('digits', 2)}f}}", column.get("better"))
        for key, column in spec["columns"].items()
    ]
    titles = {key: source["title"] for key, source in book["sources"].items()}
    unknown = ", ".join(key for key, text in protocol.items() if text.startswith("unknown"))
    rows: dict[str, dict[str, Cell]] = {}
    for row in spec["rows"]:
        for column in columns:
            metric = column.key
            entry = published.entry(spec, row, metric)
            notes = [entry.get("note"), *(_also(also, entry, titles) for also in entry.get("also", ()))]
            cell: dict[str, Any] = {"published": entry.get("value")}
            if cell["published"] is not None:
                cell |= {"published_source": titles[entry["source"]], "sure": entry["sure"]}
            if "network" in row:
                computed = sizes.counted(row["network"])
                value = {"parameters_m": computed.parameters / 1e6, "macs_g": computed.macs_g}[metric]
                cell |= {"measured": value, "measured_from": f"distill.report.sizes, {row['network']}"}
                if metric == "macs_g":
                    notes.append(f"Ours at {computed.resolution} x {computed.resolution}.")
            else:
                required = requires and requires | spec["columns"][metric].get("requires", {})
                cell |= _ours(row["system"], column, required, results)
                if "measured" in cell and unknown:
                    notes.append(f"Protocols agree as far as they are known; unknown of the published one: {unknown}.")
            if cell["published"] is None:
                missing = "Published value unknown" if "measured" in cell else "Unknown"
                notes.insert(0, f"{missing}: {entry['unknown']}.")
            note = " ".join(text if text.endswith(".") else f"{text}." for text in notes if text)
            rows.setdefault(row["system"], {})[metric] = Cell(column.unit, note=note, **cell)
    source = f"{titles[spec['source']]} ({spec['sure']})" if "source" in spec else ""
    return Table(spec["name"], spec["title"], spec["protocol"], protocol, columns, rows, source)


def _also(also: Mapping[str, Any], entry: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    sure = also.get("sure", entry["sure"])
    note = f", {also['note']}" if also.get("note") else ""
    return f"Also given as {also['value']} ({titles[also.get('source', entry['source'])]}, {sure}{note})."


def _ours(system: str, column: Value, requires: Mapping[str, Any] | None, results: Sequence[Result]) -> dict[str, Any]:
    """Fields of a cell: our value of this system under the required protocol; else `other`: ours has another one."""
    other = False
    for result in results:
        for swapper, row in result.rows.items():
            if _letters(swapper) != _letters(system) or column.key not in row:
                continue
            value = row[column.key]
            facts = flatten({**value["protocol"], "pairs": dict(result.pairs)})
            if requires and value["unit"] == column.unit and agrees(requires, facts):
                return {**_measured(value), "measured_from": result.origins[swapper]}
            other = True
    return {"other": other}


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def measured_tables(results: Sequence[Result]) -> list[Table]:
    """The values of runs: one table for all rows that share the list of pairs and, metric by metric, the protocol."""
    groups: list[dict[str, Any]] = []
    for result in results:
        for swapper, row in result.rows.items():
            protocols = {key: depends_on(value) for key, value in row.items()}
            for group in groups:
                same = group["pairs"]["hash"] == result.pairs["hash"]
                if same and all(group["protocols"].get(k, p) == p for k, p in protocols.items()):
                    break
            else:
                group = {"pairs": result.pairs, "protocols": {}, "rows": {}}
                groups.append(group)
            group["protocols"] |= protocols
            values = frozenset((key, value["value"]) for key, value in row.items())
            group["rows"].setdefault((swapper, values), (result, row))
    return [_measured_table(f"measured_{number}", group) for number, group in enumerate(groups, 1)]


def _measured_table(name: str, group: Mapping[str, Any]) -> Table:
    values = table_values(key for _, row in group["rows"].values() for key in row)
    runs = list(dict.fromkeys(result.experiment for result, _ in group["rows"].values()))
    rows: dict[str, dict[str, Cell]] = {}
    for (swapper, _), (result, row) in group["rows"].items():
        label = swapper if len(runs) == 1 else f"{swapper} ({result.experiment})"
        if label in rows:
            label = f"{label}, {result.origins[swapper]}"
        rows[label] = {
            key: Cell(
                row[key]["unit"], **_measured(row[key]), measured_from=result.origins[swapper],
                note=_note(value, row[key]),
            )
            for value in values if (key := value.key) in row
        }  # fmt: skip
    columns = [replace(value, unit="") for value in values]  # the titles name them
    return Table(name, f"Measured here: {', '.join(runs)}", name, _protocol_of(group), columns, rows)


def _note(value: Value, measured: Mapping[str, Any]) -> str:
    """The shares of networks and the caution of a value."""
    parts = " + ".join(f"{part} {share:,.{value.digits}f}" for part, share in shares(value, measured).items())
    return ". ".join(filter(None, (parts, measured.get("caution", ""))))


def _measured(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"measured": float(value["value"]), "interval": tuple(value["interval"]) if value.get("interval") else None}


def _protocol_of(group: Mapping[str, Any]) -> dict[str, str]:
    """Everything that the values of a group depend on, in words."""
    pairs = group["pairs"]
    facts = {"pairs": f"{pairs['count']} of {pairs['name']}, list {pairs['hash']}, gallery of {pairs['gallery']}"}
    if pairs.get("protocol"):
        facts["data"] = _listed(flatten(pairs["protocol"]))
    for protocol in group["protocols"].values():
        for role in ROLES:
            if role in protocol:
                estimator = protocol[role]
                more = (estimator[key] for key in ("crop", "colour_order", "coefficients") if key in estimator)
                weights = f"weights {estimator.get('weight_hash', 'unknown')}"
                facts[role] = "; ".join([f"{estimator['name']}, {weights}", *more])
        for key in ("resolution", "swaps", "flip"):
            if key in protocol:
                facts[key] = str(protocol[key])
        if "interval" in protocol:
            facts["interval"] = _listed(protocol["interval"])
    if "latency_ms" in group["protocols"]:
        facts["speed"] = _listed({k: v for k, v in group["protocols"]["latency_ms"].items() if k != "unit"})
    return facts


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in facts.items())
