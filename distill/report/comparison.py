"""The variants of an experiment side by side: a table, mean and spread over seeds, and a plot with Pareto fronts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from matplotlib.transforms import Bbox
from PIL import Image

from distill.config import Child, ConfigError
from distill.evaluate.swappers import trained
from distill.report.page import heading
from eval import table_values
from eval.measured import check_column
from swapcore.files import write_json, write_text
from swapcore.images import save_png

QUALITY = "id_retrieval_top1_pct"
COSTS = ("macs_g", "size_mb", "pose_error_deg")  # what a student pays for its quality; one panel of the plot each
# Where a point's name may stand in the plot, the best first: offset in points, then how the text is aligned to it.
PLACES = (
    (6, 4, "left", "bottom"), (-6, 4, "right", "bottom"), (6, -4, "left", "top"), (-6, -4, "right", "top"),
    (14, 17, "left", "bottom"), (-14, 17, "right", "bottom"), (14, -17, "left", "top"), (-14, -17, "right", "top"),
)  # fmt: skip


def collect(runs: Sequence[tuple[Child, dict[str, Any]]]) -> dict[str, Any]:
    """One row a variant from the metrics.json of its runs; beside them what is no student: copies, exact, teachers.

    A value over several seeds is their mean; `spread` is their sample standard deviation, None for one seed. Raises
    ConfigError where two runs were measured on different pairs, ValueError where by another protocol: their values do
    not belong in one column.
    """
    lists = {metrics["pairs"]["hash"] for _, metrics in runs}
    if len(lists) > 1:
        raise ConfigError(
            f"variants: measured on {len(lists)} different lists of pairs, which no table can compare; let data, seed "
            f"and eval.pairs be the same for all"
        )
    rows: dict[str, dict[str, Any]] = {}
    references: dict[str, dict[str, float]] = {}
    for child, metrics in runs:
        learnt = list(trained(child.exp))
        row = rows.setdefault(child.variant, {"student": child.exp.student.name, "seeds": [], "values": {}})
        row["seeds"].append(child.exp.train_seed)
        own = metrics["rows"][learnt[-1]] | {"train_minutes": {"value": metrics["minutes"]["train"], "unit": "minutes"}}
        for metric, value in own.items():
            row["values"].setdefault(metric, {"unit": value["unit"], "each": []})["each"].append(value["value"])
        for name, values in metrics["rows"].items():
            if name not in learnt:
                references.setdefault(name, {metric: value["value"] for metric, value in values.items()})
    for metric in {metric for _, metrics in runs for row in metrics["rows"].values() for metric in row}:
        own = {child.exp.name: metrics["rows"][list(trained(child.exp))[-1]] for child, metrics in runs}
        check_column(metric, {name: row[metric] for name, row in own.items() if metric in row})
    for row in rows.values():
        for value in row["values"].values():
            each = value["each"]
            value |= {"mean": float(np.mean(each)), "spread": float(np.std(each, ddof=1)) if len(each) > 1 else None}
    first = runs[0][1]
    return {"pairs": first["pairs"], "environment": first["environment"], "references": references, "rows": rows}


def markdown(table: dict[str, Any]) -> str:
    """Variants down, metrics across; ± is the standard deviation over seeds."""
    rows, references = table["rows"], table["references"]
    keys = {key for row in rows.values() for key in row["values"]} - {"train_minutes"}
    columns = [value for value in table_values(keys) if value.brief]
    lines = [
        "| variant | seeds | " + " | ".join(map(heading, columns)) + " | minutes |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for name, values in references.items():
        cells = (value.format.format(values[value.key]) if value.key in values else "–" for value in columns)
        lines.append(f"| *{name}* | | " + " | ".join(cells) + " | |")
    for name, row in rows.items():
        cells = (_cell(row["values"].get(value.key), value.format) for value in columns)
        minutes = _cell(row["values"]["train_minutes"], "{:.1f}")
        lines.append(f"| {name} | {len(row['seeds'])} | " + " | ".join(cells) + f" | {minutes} |")
    return "\n".join(lines) + "\n"


def _cell(value: dict[str, Any] | None, form: str) -> str:
    if value is None:
        return "–"
    varies = value["spread"] is not None and min(value["each"]) < max(value["each"])
    return form.format(value["mean"]) + (f" ± {form.format(value['spread'])}" if varies else "")


def write(name: str, table: dict[str, Any], folder: Path) -> list[Path]:
    """comparison.json, comparison.md and, where there is something to plot, comparison.png; the files' paths."""
    write_json(folder / "comparison.json", table)
    write_text(folder / "comparison.md", markdown(table))
    written = [folder / "comparison.json", folder / "comparison.md"]
    picture = plot(name, table)
    if picture is not None:
        save_png(picture, folder / "comparison.png", generated=False)  # a plot
        written.append(folder / "comparison.png")
    return written


def front(costs: Sequence[float], qualities: Sequence[float]) -> list[int]:
    """Indices of the points that none beats in both, by rising cost: the Pareto front for low cost, high quality."""
    kept: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i])):
        if not kept or qualities[i] > qualities[kept[-1]]:
            kept.append(i)
    return kept


def plot(name: str, table: dict[str, Any]) -> Image.Image | None:
    """ID retrieval against each cost that differs between variants; None where it was not measured."""
    rows = {k: row["values"] for k, row in table["rows"].items() if QUALITY in row["values"]}
    titles = {value.key: value.title for value in table_values((QUALITY, *COSTS))}
    costs = [c for c in COSTS if rows and all(c in v for v in rows.values()) and _differs(c, rows)]
    if not costs:
        return None
    figure = Figure(figsize=(1 + 4.2 * len(costs), 3.9), layout="constrained", dpi=130)
    panels = figure.subplots(1, len(costs), squeeze=False)[0]
    figure.suptitle(f"{name}: ID retrieval, and what it costs", x=0.01, ha="left", fontsize=11)
    legend = "blue: the Pareto front, which nothing beats in both"
    if any(value["spread"] for values in rows.values() for value in values.values()):
        legend += "; bars: standard deviation over seeds"
    figure.supxlabel(legend, x=0.01, ha="left", fontsize=8, color="#4b5563")
    y = [values[QUALITY]["mean"] for values in rows.values()]
    for axes, cost in zip(panels, costs, strict=True):
        x = [values[cost]["mean"] for values in rows.values()]
        best = front(x, y)
        axes.plot([x[i] for i in best], [y[i] for i in best], color="#93c5fd", linewidth=1.5, zorder=1)
        for i, values in enumerate(rows.values()):
            axes.errorbar(
                x[i], y[i], xerr=values[cost]["spread"] or None, yerr=values[QUALITY]["spread"] or None, fmt="o",
                color="#2563eb" if i in best else "#9ca3af", markersize=5, capsize=2, linewidth=1,
            )  # fmt: skip
        axes.set_xlabel(titles[cost], fontsize=9)
        if min(x) > 0 and max(x) / min(x) > 8:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(x=0.18, y=0.12)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(titles[QUALITY], fontsize=9)
    figure.draw_without_rendering()  # the layout settles where things are
    for axes, cost in zip(panels, costs, strict=True):
        _label(axes, rows, cost)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return Image.open(stream).convert("RGB")


def _label(axes, rows: dict[str, dict[str, Any]], cost: str) -> None:
    """Names beside the points, each where it hides least: other names, points, their bars, the line of the front."""
    drawn = [line.get_path().transformed(line.get_transform()) for line in axes.lines]
    bars = [path for bar in axes.collections for path in _on_screen(bar)]
    taken: list[Bbox] = []
    for name in sorted(rows, key=lambda name: -rows[name][QUALITY]["mean"]):
        point = rows[name][cost]["mean"], rows[name][QUALITY]["mean"]
        text = axes.annotate(
            name, point, xytext=PLACES[0][:2], textcoords="offset points", fontsize=7.5,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
        hidden = []
        for place in PLACES:
            box = _moved(text, place).padded(2)
            outside = not (axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0)
            crossed = sum(path.intersects_bbox(box, filled=False) for path in (*drawn, *bars))
            hidden.append(10 * (outside + sum(box.overlaps(other) for other in taken)) + crossed)
        taken.append(_moved(text, PLACES[hidden.index(min(hidden))]))


def _moved(text, place: tuple[float, float, str, str]) -> Bbox:
    """Move a point's name to one of PLACES; where it then stands, in pixels."""
    *offset, horizontal, vertical = place
    text.set(position=offset, ha=horizontal, va=vertical)
    return text.get_window_extent()


def _on_screen(collection) -> list[Any]:
    """The paths of a collection of lines, in pixels."""
    return [path.transformed(collection.get_transform()) for path in collection.get_paths()]


def _differs(cost: str, rows: dict[str, dict[str, Any]]) -> bool:
    values = [row[cost]["mean"] for row in rows.values()]
    return max(values) - min(values) > 0.01 * max(map(abs, values))
