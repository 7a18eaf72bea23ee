"""The variants of an experiment side by side: a table, mean and spread over seeds, a plot with Pareto fronts, and their
swaps of the same pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distill.config import Child, ConfigError
from distill.evaluate.differences import best, each_of, people_of, to_reference
from distill.evaluate.swappers import trained
from distill.report.tables import SURE, UNSURE, columns, heading, mark, marks_legend
from eval import table_values
from eval.intervals import bootstrap, student, welch
from eval.metric import Value
from swapcore.decoding import decode
from swapcore.files import whole_file, write_json, write_text
from swapcore.images import grid
from swapcore.terminal import markdown_table

if TYPE_CHECKING:  # else imported where it is needed, because it is slow
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

QUALITY = "id_retrieval_top1_pct"
QUALITIES = (QUALITY, "gradient_correlation")  # a row of the plot each: whose face, and how well it is drawn
# Positions of the name of a point in the plot, best first: offset in points, then the alignment of the text.
PLACES = (
    (6, 4, "left", "bottom"), (-6, 4, "right", "bottom"), (6, -4, "left", "top"), (-6, -4, "right", "top"),
    (14, 17, "left", "bottom"), (-14, 17, "right", "bottom"), (14, -17, "left", "top"), (-14, -17, "right", "top"),
)  # fmt: skip


def collect(runs: Sequence[tuple[Child, dict[str, Any]]], reference: str | None = None) -> dict[str, Any]:
    """One row for each variant from the metrics.json of its runs; `references` are the swappers that were not trained.

    A value over several seeds is their mean; `spread` is their sample standard deviation, None for one seed; its 95 %
    `intervals` are by pairs, people and seeds, `difference` is that to the variant `reference`, by default the best.
    Variants of several resolutions have the same pairs of people at each: then there is no reference and no difference,
    and the references are named with their resolution. Raises ConfigError where two runs were else measured on
    different pairs, ValueError where by different protocols: their values do not belong in one column.
    """
    lists = {(child.exp.data.resolution, metrics["pairs"]["hash"]) for child, metrics in runs}
    several = len(lists) > 1
    if len({resolution for resolution, _ in lists}) < len(lists):
        raise ConfigError(
            f"variants: measured on {len(lists)} different pair lists, so they cannot be compared; use the same data, "
            f"seed and eval.pairs for all"
        )
    students = {child.exp.name: metrics["rows"][list(trained(child.exp))[-1]] for child, metrics in runs}
    columns(students)
    rows: dict[str, dict[str, Any]] = {}
    references: dict[str, dict[str, float]] = {}
    for child, metrics in runs:
        new = {"student": child.exp.student.name, "seeds": [], "environments": [], "values": {}}
        row = rows.setdefault(child.variant, new)
        row["seeds"].append(child.exp.train_seed)
        row["environments"].append(_environment(child, metrics))
        minutes = {"train_minutes": {"value": metrics["minutes"]["train"], "unit": "minutes"}}
        for key, value in (students[child.exp.name] | minutes).items():
            row["values"].setdefault(key, {"unit": value["unit"], "each": []})["each"].append(value["value"])
        for name, values in metrics["rows"].items():
            if name not in trained(child.exp):
                shown = f"{name}, {child.exp.data.resolution} px" if several else name
                references.setdefault(shown, {key: value["value"] for key, value in values.items()})
    for row in rows.values():
        for value in row["values"].values():
            each = value["each"]
            value |= {"mean": float(np.mean(each)), "spread": float(np.std(each, ddof=1)) if len(each) > 1 else None}
    first = runs[0][1]
    each = {variant: [] for variant in rows}
    for child, _ in runs:
        each[child.variant].append(each_of(students[child.exp.name]))
    reference = _compare(rows, each, people_of(first["pairs"]), reference, with_differences=not several)
    facts = {"pairs": first["pairs"], "environment": first["environment"], "reference": reference}
    return {**facts, "references": references, "rows": rows}


def _environment(child: Child, metrics: Mapping[str, Any]) -> Mapping[str, str]:
    """The environment in which the student of a run was measured."""
    return metrics.get("environments", {}).get(list(trained(child.exp))[-1], metrics["environment"])


def _compare(
    rows: Mapping[str, dict[str, Any]],
    each: Mapping[str, Sequence[Mapping[str, np.ndarray]]],
    people: Sequence[np.ndarray] | None,
    reference: str | None,
    with_differences: bool,
) -> str | None:
    """Add `intervals` and `difference` to the values of the rows; returns the name of the reference. each: for every
    variant the values of all pairs, by seed and key. Runs without values of pairs get none. with_differences:
    whether a row may be compared with a reference at all."""
    for row in rows.values():
        for value in row["values"].values():
            value["intervals"] = {"seeds": student(value["each"])}
    if people is None or not all(all(seeds) for seeds in each.values()):
        return None
    means: dict[str, dict[str, np.ndarray]] = {}  # over the seeds, for every pair
    for name, seeds in each.items():
        means[name] = {key: np.mean([seed[key] for seed in seeds], axis=0) for key in seeds[0]}
        for key, values in means[name].items():
            has = np.isfinite(values)
            by_people = bootstrap(values[has], [labels[has] for labels in people])
            rows[name]["values"][key]["intervals"] |= {"pairs": bootstrap(values[has]), "people": by_people}
    if not with_differences:
        return None
    reference = reference or best({n: {k: v["mean"] for k, v in row["values"].items()} for n, row in rows.items()})
    for name, differences in (to_reference(means, reference, people) if reference else {}).items():
        for key, one in differences.items():
            a, b = (rows[variant]["values"][key]["each"] for variant in (name, reference))
            by_seeds = {"seeds": welch(a, b)} if min(len(a), len(b)) > 1 else {}
            rows[name]["values"][key]["difference"] = replace(one, intervals={**one.intervals, **by_seeds}).as_dict()
    return reference


def markdown(table: Mapping[str, Any]) -> str:
    """Variants down, metrics across; ± is the standard deviation over seeds. Marks show sure differences."""
    rows = table["rows"]
    brief = [v for v in table_values({key for row in rows.values() for key in row["values"]}) if v.brief]
    brief = [value for value in brief if value.key != "train_minutes"]
    lines = [["variant", "seeds", *map(heading, brief), "minutes"]]
    for name, values in table["references"].items():
        cells = (value.format.format(values[value.key]) if value.key in values else "–" for value in brief)
        lines.append([f"*{name}*", "", *cells, ""])
    for name, row in rows.items():
        cells = (_cell(row["values"].get(value.key), value.format) for value in brief)
        lines.append([name, str(len(row["seeds"])), *cells, _cell(row["values"]["train_minutes"], "{:.1f}")])
    legend = ""
    if (reference := table.get("reference")) and len(rows) > 1:
        by_seeds = any(len(row["seeds"]) > 1 for row in rows.values())
        legend = f"\n{_escaped(marks_legend(reference, by_seeds))}\n"
    return markdown_table(lines) + "\n" + legend


def _escaped(text: str) -> str:
    """Text whose marks Markdown must not read."""
    return "".join(f"\\{letter}" if letter in (SURE, UNSURE) else letter for letter in text)


def _cell(value: Mapping[str, Any] | None, form: str) -> str:
    if value is None:
        return "–"
    varies = value["spread"] is not None and min(value["each"]) < max(value["each"])
    text = form.format(value["mean"]) + (f" ± {form.format(value['spread'])}" if varies else "")
    return f"{text} {_escaped(mark(value.get('difference')))}".rstrip()


def write(name: str, table: Mapping[str, Any], folder: Path) -> list[Path]:
    """comparison.json, comparison.md and, if a cost differs, comparison.png; the paths of the files."""
    write_json(folder / "comparison.json", table)
    write_text(folder / "comparison.md", markdown(table))
    written = [folder / "comparison.json", folder / "comparison.md"]
    (folder / "comparison.png").unlink(missing_ok=True)  # of other variants
    figure = plot(name, table)
    if figure is not None:
        written.append(folder / "comparison.png")
        with whole_file(written[-1]) as temporary:
            figure.savefig(temporary, format="png")
    return written


def sheet(runs: Sequence[tuple[Child, dict[str, Any]]]) -> Image.Image | None:
    """The first pairs with the swaps of the references and of each variant, by its first seed, side by side; None where
    stage `eval` kept no pictures."""
    references: dict[str, Tensor] = {}
    variants: dict[str, Tensor] = {}
    for child, metrics in runs:
        folder, learned = child.exp.folder / "eval" / "pictures", list(trained(child.exp))
        for name in ("source", "target", *(row for row in metrics["rows"] if row not in learned)):
            if name not in references and (folder / f"00.{name}.png").is_file():
                references[name] = _faces(folder, name)
        if child.variant not in variants and (folder / f"00.{learned[-1]}.png").is_file():
            variants[child.variant] = _faces(folder, learned[-1])
    if not variants:
        return None
    # A variant may have the name of its teacher.
    titles = {name: f"{name} (student)" if name in references else name for name in variants}
    return grid(references | {titles[name]: faces for name, faces in variants.items()})


def _faces(folder: Path, column: str) -> Tensor:
    """The pictures of one column, (n, 3, H, H) uint8."""
    paths = sorted(folder.glob(f"[0-9][0-9].{escape(column)}.png"))
    return torch.stack([torch.from_numpy(decode(path)) for path in paths])


def front(costs: Sequence[float], qualities: Sequence[float]) -> list[int]:
    """Indices of the points that no other beats in both, by rising cost: the Pareto front of low cost, high quality."""
    kept: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i])):
        if not kept or qualities[i] > qualities[kept[-1]]:
            kept.append(i)
    return kept


def plot(name: str, table: Mapping[str, Any]) -> Figure | None:
    """Each of QUALITIES that all variants have against each cost that differs between them; None without ID retrieval,
    or where no cost differs."""
    from matplotlib.figure import Figure

    rows = {k: row["values"] for k, row in table["rows"].items() if QUALITY in row["values"]}
    common = set.intersection(*(set(values) for values in rows.values())) if rows else set()
    costs = [value for value in table_values(common) if value.cost and _differs(value.key, rows)]
    if "macs_g" not in {value.key for value in costs}:  # equal networks, whose times differ by chance
        costs = [value for value in costs if value.key != "latency_ms"]
    if not costs:
        return None
    qualities = [table_values([key])[0] for key in QUALITIES if key in common]
    figure = Figure(figsize=(1 + 4.2 * len(costs), 0.6 + 3.3 * len(qualities)), layout="constrained", dpi=130)
    panels = figure.subplots(len(qualities), len(costs), squeeze=False)
    figure.suptitle(f"{name}: quality against cost", x=0.01, ha="left", fontsize=11)
    legend = "blue: Pareto front, no other variant is better in both"
    if any(value["spread"] for values in rows.values() for value in values.values()):
        legend += "; bars: standard deviation over seeds"
    figure.supxlabel(legend, x=0.01, ha="left", fontsize=8, color="#4b5563")
    for quality, line in zip(qualities, panels, strict=True):
        line[0].set_ylabel(quality.title, fontsize=9)
        for axes, cost in zip(line, costs, strict=True):
            _points(axes, rows, cost, quality.key)
    figure.draw_without_rendering()  # only then has the layout its positions
    for quality, line in zip(qualities, panels, strict=True):
        for axes, cost in zip(line, costs, strict=True):
            _label(axes, rows, cost.key, quality.key)
    return figure


def _points(axes, rows: Mapping[str, Mapping[str, Any]], cost: Value, quality: str) -> None:
    """One panel: a point for each variant, the Pareto front as a line."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    x, y = ([values[key]["mean"] for values in rows.values()] for key in (cost.key, quality))
    best = front(x, y)
    axes.plot([x[i] for i in best], [y[i] for i in best], color="#93c5fd", linewidth=1.5, zorder=1)
    for i, values in enumerate(rows.values()):
        axes.errorbar(
            x[i], y[i], xerr=values[cost.key]["spread"] or None, yerr=values[quality]["spread"] or None, fmt="o",
            color="#2563eb" if i in best else "#9ca3af", markersize=5, capsize=2, linewidth=1,
        )  # fmt: skip
    axes.set_xlabel(cost.title, fontsize=9)
    if min(x) > 0 and max(x) / min(x) > 8:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.18, y=0.12)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _label(axes, rows: Mapping[str, Mapping[str, Any]], cost: str, quality: str) -> None:
    """Write a name beside each point, where it overlaps the fewest other names, points, bars and lines."""
    from matplotlib.patheffects import withStroke

    drawn = [line.get_path().transformed(line.get_transform()) for line in axes.lines]
    drawn += [path.transformed(bar.get_transform()) for bar in axes.collections for path in bar.get_paths()]
    points = {
        name: axes.transData.transform([values[k]["mean"] for k in (cost, quality)]) for name, values in rows.items()
    }
    taken: list[Bbox] = []
    for name in sorted(rows, key=lambda name: -rows[name][quality]["mean"]):
        point = rows[name][cost]["mean"], rows[name][quality]["mean"]
        text = axes.annotate(
            name, point, xytext=(0, 0), textcoords="offset points", fontsize=7.5,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
        overlaps = []
        for place in PLACES:
            box = _move(text, place).padded(2)
            outside = not (axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1 and axes.bbox.y0 <= box.y0)
            crossed = sum(path.intersects_bbox(box, filled=False) for path in drawn)
            far = {other: _distance(box, at) for other, at in points.items()}
            misread = min(far.values()) < far[name]  # beside another point, whose name it would seem to be
            names = sum(box.overlaps(other) for other in taken)
            overlaps.append(20 * outside + 10 * names + 5 * misread + crossed)
        taken.append(_move(text, PLACES[overlaps.index(min(overlaps))]))


def _move(text, place: tuple[float, float, str, str]) -> Bbox:
    """Move a point's name to one of PLACES; its box there, in pixels."""
    *offset, horizontal, vertical = place
    text.set(position=offset, ha=horizontal, va=vertical)
    return text.get_window_extent()


def _distance(box: Bbox, point: Sequence[float]) -> float:
    """From the nearest edge of a box to a point outside, in pixels; 0 for a point inside."""
    inside = np.clip(point, (box.x0, box.y0), (box.x1, box.y1))
    return float(np.hypot(*(np.asarray(point) - inside)))


def _differs(cost: str, rows: Mapping[str, Mapping[str, Any]]) -> bool:
    values = [row[cost]["mean"] for row in rows.values()]
    return max(values) - min(values) > 0.01 * max(map(abs, values))
