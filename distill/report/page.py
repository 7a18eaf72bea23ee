"""Stage `report`: the run's front page. `report.html` (self-contained), `metrics.json` and `student.safetensors`."""

from __future__ import annotations

import argparse
import base64
import html
import io
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from distill import config
from distill.config import Experiment
from distill.evaluate.swappers import trained
from distill.export.card import JUDGED, LEGEND, cells
from distill.stage import Stage, open_stage, upstream
from distill.tracking import read_log
from eval import table_values
from eval.measured import check_column
from eval.metric import Value
from swapcore.files import read_json, whole_file, write_json, write_text

FIRST = ("source", "target", "exact")
HEADINGS = {"exact": "exact swap"}
ARROW = {"higher": "↑", "lower": "↓", "target": "→←", None: ""}
STYLE = """
:root{color-scheme:light dark;--line:#d9dce1;--soft:#6b7280;--warn:#b45309}
body{font:16px/1.5 system-ui,sans-serif;max-width:1180px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
p.lead,figcaption,.soft{color:var(--soft)}.warn{color:var(--warn);font-weight:600}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}td.student,th.student{font-weight:600}th{font-weight:400}
td small{color:var(--soft);font-weight:400}
.faces td,.faces th{border:0;padding:2px;text-align:center;font-weight:400;color:var(--soft)}
.faces img{width:min(192px,17vw);display:block;border-radius:4px}
.plots{display:flex;flex-wrap:wrap;gap:1rem}.plots figure{margin:0;background:#fff;border-radius:6px}
pre{overflow-x:auto;font-size:.85rem}
"""


def run(exp: Experiment, accelerator, tracker) -> Stage:
    inputs = {"eval": upstream(exp, "eval"), "train": upstream(exp, "train"), "stages": list(exp.stages)}
    stage = open_stage(exp, "report", inputs, accelerator, redo=True)
    if not accelerator.is_main_process:
        return stage
    metrics = read_json(exp.folder / "eval" / "metrics.json")
    metrics["minutes"] = {
        name: read_json(exp.folder / name / "done.json")["minutes"]
        for name in ("data", "pseudo_gt", "train", "refine", "eval", "export")
        if (exp.folder / name / "done.json").is_file()
    }
    exported = read_json(exp.folder / "export" / "card.json") if "export" in exp.stages else None
    page = render_page(exp, metrics, read_log(exp.folder / "train"), exported)
    write_text(exp.folder / "report.html", page)
    write_json(exp.folder / "metrics.json", metrics)
    best = list(trained(exp).values())[-1]
    with whole_file(exp.folder / best.name) as temporary:
        shutil.copyfile(best, temporary)
    for name in ("report.html", "metrics.json"):
        tracker.artifact(exp.folder / name)
    # Under the names of the tables alone, so that MLflow lines the students of several runs up.
    learnt = metrics["rows"][list(trained(exp))[-1]]
    tracker.metrics({metric: value["value"] for metric, value in learnt.items()})
    tracker.image(Image.open(exp.folder / "eval" / "grid.png"), "swaps")
    stage.finish()
    print(text_table(metrics["rows"]))
    for line in metrics["verdicts"]:
        print(f"! {line}")
    spent = ", ".join(f"{name} {minutes:.1f}" for name, minutes in metrics["minutes"].items())
    print(f"minutes: {spent}\n")
    for name in ("report.html", "metrics.json", best.name, *(["export/card.json"] if exported else [])):
        print(f"{exp.folder / name}")
    if exp.tracking.uri != "none":
        print(f"mlflow ui --backend-store-uri {exp.tracking.uri}")
    return stage


def columns(rows: Mapping[str, Mapping[str, Any]]) -> list[Value]:
    """The values that some row has. Raises ValueError where one of them was measured by two protocols."""
    values = table_values(key for row in rows.values() for key in row)
    for value in values:
        check_column(value.key, {name: row[value.key] for name, row in rows.items() if value.key in row})
    return values


def heading(value: Value) -> str:
    """The title of a value, and whether higher (↑), lower (↓) or something in between (→←) is better."""
    return f"{value.title} {ARROW[value.better]}"


def text_table(rows: dict[str, dict[str, Any]]) -> str:
    """The table for a terminal: metrics down, swappers across."""
    lines = [["", *rows]]
    for value in columns(rows):
        measured = [row.get(value.key) for row in rows.values()]
        lines.append([heading(value), *(value.format.format(one["value"]) if one else "–" for one in measured)])
        shares = [" + ".join(map(value.format.format, apart(value, one).values())) for one in measured]
        if any(shares):
            lines.append(["  of its networks", *(share or "–" for share in shares)])
    width = max(10, *(len(cell) for line in lines for cell in line[1:])) + 2
    text = (f"{first:20}" + "".join(f"{cell:>{width}}" for cell in cells) for first, *cells in lines)
    return "\n" + "\n".join(text) + "\n"


def apart(value: Value, measured: Mapping[str, Any] | None) -> dict[str, float]:
    """The shares of a swapper's networks, by name in alphabetical order; none for a single network."""
    shares = measured.get("details", {}).get("parts", {}) if value.parts and measured else {}
    return dict(sorted(shares.items())) if len(shares) > 1 else {}


def render_page(
    exp: Experiment, metrics: dict[str, Any], log: list[dict[str, float]], exported: dict[str, Any] | None = None
) -> str:
    """The report as one HTML file without any reference to another. exported: the card.json of stage `export`."""
    pairs, facts = metrics["pairs"], metrics["environment"]
    what = "synthetic faces with exact swaps" if exp.data.kind == "synthetic" else "photographs"
    verdicts = "".join(f"<p class=warn>{html.escape(v)}</p>" for v in metrics["verdicts"])
    spent = " · ".join(f"{name} {minutes:.1f} min" for name, minutes in metrics["minutes"].items())
    return f"""<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>{html.escape(exp.name)} · SwapDistill</title><style>{STYLE}</style>
<h1>{html.escape(exp.name)}</h1>
<p class=lead>{what}, {exp.data.resolution} px · student {html.escape(exp.student.name)} · {exp.train.steps} steps of
{exp.train.batch_size} · {spent}</p>
<h2>People never seen in training</h2>{verdicts}
<div class=scroll>{_html_table(metrics["rows"], list(trained(exp)))}</div>
<p class=soft>{pairs["count"]} pairs; retrieval in a gallery of {pairs["gallery"]} people, one other picture each
(chance {100 / pairs["gallery"]:.1f} %). Small print under a value: 95 % interval by bootstrap over pairs; of a
latency p10 and p90 over its runs, and each network's median; of sizes each network's share. Recogniser
{html.escape(exp.eval.recogniser)}, which took no part in training. Pair list {pairs["hash"]}.</p>
<h2>Swaps</h2><div class=scroll>{_faces(exp.folder / "eval" / "pictures", list(metrics["rows"]))}</div>
<p class=soft>The identity of the source on the target's pose, expression, light and background.
{_picture_note(exp)}</p>
{_exports(exported) if exported else ""}
<h2>Training</h2><div class=plots>{_plots(log)}</div>
<h2>Made by</h2><p class=soft>commit {facts["commit"]} · {html.escape(facts["processor"])}, {facts["threads"]} threads ·
GPU {html.escape(facts["gpu"])} · Python {facts["python"]} · torch {facts["torch"]}</p>
<details><summary>Resolved experiment</summary><pre>{html.escape(config.dump(exp))}</pre></details></html>
"""


def _picture_note(exp: Experiment) -> str:
    if exp.data.kind == "photos":
        return "Swaps are AI-generated; sources and targets are your photographs."
    same = (
        "The exact swap is also what the teacher shows the student."
        if "exact" in [t.name for t in exp.pseudo_gt.teachers]
        else ""
    )
    return f"Nobody is depicted: every face is drawn from numbers. {same}"


def _html_table(rows: dict[str, dict[str, Any]], learnt: list[str]) -> str:
    """Metrics down, swappers across."""
    kinds = ["student" if name in learnt else "" for name in rows]
    head = "".join(f"<th class='{kind}'>{html.escape(name)}</th>" for name, kind in zip(rows, kinds, strict=True))
    body = ""
    for value in columns(rows):
        cells = (_cell(value, row.get(value.key)) for row in rows.values())
        cells = "".join(f"<td class='{kind}'>{cell}</td>" for cell, kind in zip(cells, kinds, strict=True))
        body += f"<tr><td>{html.escape(heading(value))}</td>{cells}</tr>"
    return f"<table><tr><th></th>{head}</tr>{body}</table>"


def _cell(value: Value, measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return "–"
    text = value.format.format
    small = [" – ".join(map(text, measured["interval"]))] if measured.get("interval") else []
    runs = measured.get("details", {})
    if "p10" in runs:
        small.append(f"runs {text(runs['p10'])} – {text(runs['p90'])}")
    small += [f"{html.escape(name)} {text(share)}" for name, share in apart(value, measured).items()]
    return f"{text(measured['value'])}<br><small>{'<br>'.join(small)}</small>" if small else text(measured["value"])


def _exports(card: dict[str, Any]) -> str:
    """What the student became for other runtimes: the table of equality.md."""
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in cells(card))
    body = body.replace("td>", "th>", 2 * len(cells(card)[0]))
    legend = LEGEND + JUDGED.format(points=100 / card["compared_on"]["count"])
    return f"<h2>On the device</h2><div class=scroll><table>{body}</table></div><p class=soft>{html.escape(legend)}</p>"


def _faces(folder: Path, rows: list[str]) -> str:
    """The pictures of the eval stage, `<row>.<column>.png`, as a table of embedded images."""
    columns: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.png")):
        columns.setdefault(path.name.split(".")[1], []).append(path)
    order = sorted(columns, key=[*FIRST, *rows].index)
    head = "".join(f"<th>{html.escape(HEADINGS.get(name, name))}</th>" for name in order)
    body = ""
    for row in zip(*(columns[name] for name in order), strict=True):
        body += "<tr>" + "".join(f"<td>{_image(path)}</td>" for path in row) + "</tr>"
    return f"<table class=faces><tr>{head}</tr>{body}</table>"


def _image(path: Path) -> str:
    return f'<img alt="{path.stem}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def _plots(log: list[dict[str, float]]) -> str:
    """One small SVG per logged value over steps."""
    names = list(dict.fromkeys(k for row in log for k in row if k != "step"))
    figures = ""
    for name in names:
        points = [(row["step"], row[name]) for row in log if name in row]
        figure = Figure(figsize=(3.6, 2.3), layout="constrained")
        axes = figure.subplots()
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color="#2563eb", linewidth=1.3, marker="o" if len(points) < 12 else None, markersize=3)
        axes.set_title(name, fontsize=10, loc="left")
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg")
        figures += f"<figure>{stream.getvalue()[stream.getvalue().index('<svg') :]}</figure>"
    return figures


def main(arguments: list[str] | None = None) -> int:
    from distill.report import paper_pages  # it draws on this module

    parser = argparse.ArgumentParser(prog="python -m distill.report", description="Tables that no single run makes.")
    paper = parser.add_subparsers(dest="table", required=True).add_parser(
        "paper", help="the original's size table and the field's accuracy tables: Markdown, HTML and CSV"
    )
    paper.add_argument("--out", type=Path, default=Path("runs/paper"), help="folder to write to (default: runs/paper)")
    paper.add_argument(
        "--results", type=Path, nargs="+", default=[], help="metrics.json files, or folders (default: those kept here)"
    )
    args = parser.parse_args(arguments)
    try:
        paper_pages.write(args.out, args.results)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
