"""The page of MLflow's web interface that compares the runs: its address, and the tags that make it.

MLflow 3 opens an experiment on an empty page about traces, and its table of runs without our values. Tags of the MLflow
experiment hold the states of its page as MLflow's "share view" keeps them: the columns, the order, the filter. An
address names the state by the key of its tag. Another tag says that the experiment is about training; MLflow 3.17 goes
by what the person chose last, GenAI at first, or by the address, so that says it too.
"""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

KIND, TRAINING = "mlflow.experimentKind", "custom_model_development"
SHARED = "mlflow.sharedViewState."
KEY = "swapdistill"
UI = "http://127.0.0.1:5000"  # where `mlflow ui` serves a database
QUALITY = "id_retrieval_top1_pct"
# The columns from left to right, and their widths in pixels. The metrics have the names of metrics.json and
# comparison.json, so the last values of all runs stand in the same columns.
COLUMNS = {
    f"metrics.`{QUALITY}`": 165,
    "metrics.`pose_error_deg`": 125,
    "metrics.`sharpness`": 100,
    "metrics.`macs_g`": 90,
    "metrics.`size_mb`": 90,
    "metrics.`latency_ms`": 100,
    "metrics.`train_minutes`": 120,
    "tags.`variant`": 120,
    "tags.`student`": 110,
    "tags.`teacher`": 80,
    "tags.`seed`": 60,
}


def key(group: str | None = None) -> str:
    """The key of the view of all runs, or of the runs of the experiment `group` with its variants and seeds."""
    return KEY if group is None else f"{KEY}-{re.sub(r'[^A-Za-z0-9_.-]', '-', group)}"


def state(group: str | None = None) -> dict[str, Any]:
    """The state of MLflow's page of runs: few columns, the best student first."""
    chosen = {} if group is None else {"searchFilter": f"tags.experiment = {_quoted(group)}"}
    columns = {"selectedColumns": list(COLUMNS), "columnOrder": list(COLUMNS), "columnWidths": COLUMNS}
    return {**columns, "orderByKey": f"metrics.`{QUALITY}`", "orderByAsc": False, **chosen}


def mark(client: Any, experiment_id: str, group: str | None = None) -> None:
    """Give an experiment the tags that it lacks. client: an MlflowClient, whose errors pass."""
    for name, value in missing_tags(client.get_experiment(experiment_id).tags, group).items():
        client.set_experiment_tag(experiment_id, name, value)


def missing_tags(known: dict[str, str], group: str | None = None) -> dict[str, str]:
    """The tags that an MLflow experiment lacks, or has with another value. A kind that a person chose stays."""
    wanted = {SHARED + key(name): json.dumps(state(name)) for name in {None, group}}
    kind = known.get(KIND, "")
    if not kind or kind == "no_inferred_type" or kind.endswith("_inferred"):
        wanted[KIND] = TRAINING
    return {name: value for name, value in wanted.items() if known.get(name) != value}


def where_to_look(uri: str, experiment_id: str | None, group: str | None = None) -> str:
    """The address of the runs on the server `uri`; for a database, before it, the command that serves it.

    experiment_id: MLflow's; None while the server has not answered: then the text names no page.
    """
    served = uri.startswith(("http:", "https:"))
    address = uri.rstrip("/") if served else UI
    lines = [] if served else [f"mlflow ui --backend-store-uri {uri}"]
    if experiment_id is not None:
        page = f"{address}/#/experiments/{quote(experiment_id)}/runs"
        lines.append(f"{page}?workflowType=machine_learning&viewStateShareKey={key(group)}")
    return "\n".join(lines) or address


def _quoted(text: str) -> str:
    """A text in MLflow's filter language, which has two quotation marks and no escape."""
    return f'"{text}"' if "'" in text else f"'{text}'"
