"""A run in MLflow: parameters, tags, metrics, files, pictures. `tracking.uri: none` does not import MLflow."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from distill.config import Experiment, dump, to_dict
from swapcore.files import flatten, read_json, write_json
from swapcore.hardware import environment
from swapcore.images import marked


class Tracker:
    """One MLflow run per experiment folder; starting again with the same folder continues the same run.

    parent: the run_id of the experiment that a variant belongs to. tags: added to the run's own.
    """

    def __init__(
        self, exp: Experiment, enabled: bool = True, parent: str | None = None, tags: dict[str, str] | None = None
    ):
        self.mlflow = None
        if not enabled or exp.tracking.uri == "none":
            return
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # otherwise MLflow prints every table that it creates
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
        except mlflow.exceptions.MlflowException:  # the database was deleted, the folder was not
            self.run = mlflow.start_run(**new)
        write_json(record, {"uri": exp.tracking.uri, "run_id": self.run.info.run_id})
        own_tags = {
            "experiment": exp.name,
            "student": exp.student.name,
            "teacher": ",".join(t.label or t.name for t in exp.pseudo_gt.teachers),
            "seed": str(exp.train_seed),
        }
        mlflow.set_tags({f"env.{k}": v for k, v in environment().items()} | own_tags | (tags or {}))
        mlflow.log_text(dump(exp), "experiment.yaml")
        if not self.run.data.params:  # MLflow refuses to change parameters; a resumed run keeps its first ones
            mlflow.log_params({k: str(v)[:500] for k, v in flatten(to_dict(exp)).items() if v not in ({}, [])})

    @property
    def run_id(self) -> str | None:
        return self.run.info.run_id if self.mlflow else None

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        if self.mlflow:
            self.mlflow.log_metrics(values, step=step)

    def artifact(self, path: Path) -> None:
        if self.mlflow:
            self.mlflow.log_artifact(str(path))

    def image(self, picture: Image.Image, key: str, step: int = 0) -> None:
        """A picture that MLflow shows beside those of other runs under the same key."""
        if self.mlflow:
            self.mlflow.log_image(marked(picture), key=key, step=step, synchronous=True)

    def end(self, status: str = "FINISHED") -> None:
        """End the run; `status` is FINISHED, FAILED or KILLED."""
        if self.mlflow:
            self.mlflow.end_run(status)
