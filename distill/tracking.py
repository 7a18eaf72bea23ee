"""What is recorded about a run, on disk and in MLflow. `tracking.uri: none` does not import MLflow."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from distill.config import Experiment, dump, to_dict
from swapcore.files import flatten, read_json, write_json, write_text
from swapcore.hardware import environment
from swapcore.images import marked


class Tracker:
    """One MLflow run per experiment folder; starting again with the same folder continues the same run.

    `parent` is the run that a variant's belongs to, `tags` what tells it from its sisters.
    """

    def __init__(
        self, exp: Experiment, enabled: bool = True, parent: str | None = None, tags: dict[str, str] | None = None
    ):
        self.mlflow = None
        if not enabled or exp.tracking.uri == "none":
            return
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # the first use would print every table it creates
        import mlflow

        self.mlflow = mlflow
        mlflow.set_tracking_uri(exp.tracking.uri)
        mlflow.set_experiment(exp.tracking.experiment)
        record = exp.folder / "mlflow_run.json"
        known = read_json(record) if record.is_file() else {}
        new = {"run_name": exp.name, "nested": parent is not None, "parent_run_id": parent}
        try:
            run_id = known["run_id"] if known.get("uri") == exp.tracking.uri else None
            self.run = mlflow.start_run(run_id=run_id, **new)
        except mlflow.exceptions.MlflowException:  # the folder outlived its database
            self.run = mlflow.start_run(**new)
        write_json(record, {"uri": exp.tracking.uri, "run_id": self.run.info.run_id})
        what = {
            "experiment": exp.name,
            "student": exp.student.name,
            "teacher": ",".join(t.label or t.name for t in exp.pseudo_gt.teachers),
            "seed": str(exp.train_seed),
        }
        mlflow.set_tags({f"env.{k}": v for k, v in environment().items()} | what | (tags or {}))
        mlflow.log_text(dump(exp), "experiment.yaml")
        if not self.run.data.params:  # parameters cannot change; a resumed run with more steps keeps its first ones
            mlflow.log_params({k: str(v)[:500] for k, v in flatten(to_dict(exp)).items() if v not in ({}, [])})

    @property
    def run_id(self) -> str | None:
        return self.run.info.run_id if self.mlflow else None

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        if self.mlflow:
            self.mlflow.log_metrics(values, step=step)

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        if self.mlflow:
            self.mlflow.log_artifact(str(path), folder)

    def image(self, picture: Image.Image, key: str, step: int = 0) -> None:
        """A picture that MLflow shows beside those of other runs under the same key."""
        if self.mlflow:
            self.mlflow.log_image(marked(picture), key=key, step=step, synchronous=True)

    def end(self, status: str = "FINISHED") -> None:
        """`FINISHED`, `FAILED` or `KILLED`."""
        if self.mlflow:
            self.mlflow.end_run(status)


class Sums:
    """Sums of loss terms on the device between two lines of the log: nothing waits for the device in between."""

    def __init__(self) -> None:
        self.terms: dict[str, list] = {}

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, term in terms.items():
            total, count = self.terms.get(name, (0, 0))
            self.terms[name] = (total + term.detach().float(), count + 1)

    def look(self, accelerator) -> dict[str, float]:
        """Means over steps and processes; one transfer from the device for all of them."""
        if not self.terms:
            return {}
        means = torch.stack([total / count for total, count in self.terms.values()])
        values = accelerator.reduce(means, "mean").tolist()
        return {name: round(value, 6) for name, value in zip(self.terms, values, strict=True)}

    def take(self, accelerator) -> dict[str, float]:
        means = self.look(accelerator)
        self.terms = {}
        return means


class Log:
    """`log.jsonl`: one line of means per `log_steps`; lines after the checkpoint that is resumed from are dropped."""

    def __init__(self, path: Path, first: int, enabled: bool):
        self.path, self.enabled = path, enabled
        if enabled:
            lines = [json.dumps(row) + "\n" for row in read_log(path.parent) if row["step"] <= first]
            write_text(path, "".join(lines))

    def write(self, step: int, values: dict[str, float]) -> None:
        if self.enabled:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")


def read_log(folder: Path) -> list[dict[str, float]]:
    """Rows of a training log; a last line cut off by a kill is left out."""
    path = folder / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
