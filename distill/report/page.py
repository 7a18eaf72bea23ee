"""Stage `report`: the run's front page. `report.html` (self-contained), `metrics.json` and `student.safetensors`."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill import config
from distill.config import Experiment
from distill.evaluate.swappers import trained
from distill.export import card
from distill.report import tables
from distill.stage import Stage, open_stage, upstream
from distill.train.monitor import read_log, warnings_of
from swapcore.files import read_record, whole_file, write_record, write_text


def run(exp: Experiment, accelerator, tracker) -> Stage:
    inputs = {"eval": upstream(exp, "eval"), "train": upstream(exp, "train"), "stages": list(exp.stages)}
    stage = open_stage(exp, "report", inputs, accelerator, redo=True)
    if not accelerator.is_main_process:
        return stage
    metrics = read_record(exp.folder / "eval" / "metrics.json")
    metrics["minutes"] = {
        name: read_record(exp.folder / name / "done.json")["minutes"]
        for name in ("data", "pseudo_gt", "train", "refine", "eval", "export")
        if (exp.folder / name / "done.json").is_file()
    }
    log = read_log(exp.folder / "train")
    metrics["verdicts"] += warnings_of(log)
    exported = read_record(exp.folder / "export" / "card.json") if "export" in exp.stages else None
    write_text(exp.folder / "report.html", render_page(exp, metrics, log, exported))
    write_record(exp.folder / "metrics.json", metrics)
    row, weights = list(trained(exp).items())[-1]
    with whole_file(exp.folder / weights.name) as temporary:
        shutil.copyfile(weights, temporary)

    for name in ("report.html", "metrics.json"):
        tracker.artifact(exp.folder / name)
    # Without the swapper's name, so that MLflow compares the students of several runs.
    tracker.metrics(
        {key: value["value"] for key, value in metrics["rows"][row].items()}
        | {"train_minutes": metrics["minutes"]["train"]}  # by the name that comparison.json has
    )
    tracker.image(exp.folder / "eval" / "grid.png", "swaps")
    stage.finish()

    print(tables.as_text(metrics["rows"], metrics.get("differences")))
    print(*tables.notes(metrics), sep="\n")
    for warning in metrics["verdicts"]:
        print(f"! {warning}")
    print("minutes:", ", ".join(f"{name} {minutes:.1f}" for name, minutes in metrics["minutes"].items()), end="\n\n")
    for name in ("report.html", "metrics.json", weights.name, *(["export/card.json"] if exported else [])):
        print(exp.folder / name)
    if exp.tracking.uri != "none":
        print(tracker.where_to_look())
    return stage


def render_page(
    exp: Experiment,
    metrics: Mapping[str, Any],
    log: Sequence[Mapping[str, float]],
    exported: Mapping[str, Any] | None = None,
) -> str:
    """The report as one HTML file that refers to no other. exported: the card.json of stage `export`."""
    return tables.render(
        "report.html",
        exp=exp,
        metrics=metrics,
        values=tables.as_html(metrics["rows"], list(trained(exp)), metrics.get("differences")),
        notes=tables.notes(metrics),
        pictures=_pictures(exp.folder / "eval" / "pictures", list(metrics["rows"])),
        exported=card.cells(exported) if exported else None,
        export_legend=card.legend(exported) if exported else None,
        plots=_plots(log),
        resolved=config.dump(exp),
    )


def _pictures(folder: Path, swappers: Sequence[str]) -> dict[str, Any]:
    """The pictures of stage `eval`, `<row>.<column>.png`: names of the columns, and rows of (name, PNG in base64)."""
    columns: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.png")):
        columns.setdefault(path.stem.partition(".")[2], []).append(path)  # names of teachers may have dots
    names = sorted(columns, key=["source", "target", "exact", *swappers].index)
    rows = zip(*(columns[name] for name in names), strict=True)
    encoded = [[(path.stem, base64.b64encode(path.read_bytes()).decode()) for path in row] for row in rows]
    return {"names": names, "rows": encoded}


def _plots(log: Sequence[Mapping[str, float]]) -> list[str]:
    """One small SVG per logged value over steps."""
    from matplotlib.figure import Figure  # imported here because it is slow

    plots = []
    for name in dict.fromkeys(key for row in log for key in row if key != "step"):
        points = [(row["step"], row[name]) for row in log if name in row]
        figure = Figure(figsize=(3.6, 2.3), layout="constrained")
        axes = figure.subplots()
        marker = "o" if len(points) < 12 else None
        axes.plot(*zip(*points, strict=True), color="#2563eb", linewidth=1.3, marker=marker, markersize=3)
        axes.set_title(name, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg")
        plots.append(stream.getvalue()[stream.getvalue().index("<svg") :])
    return plots
