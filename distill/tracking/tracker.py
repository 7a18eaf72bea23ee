"""A run in MLflow: parameters, tags, metrics, files, pictures. `tracking.uri: none` does not import MLflow.

Tracking neither stops nor delays a command. A thread sends the events in order. An event is in the file
`mlflow_unsent.jsonl` of the run's folder until the server has it; what a command could not send, the next start sends.
"""

from __future__ import annotations

import itertools
import json
import os
import sqlite3
import sys
import textwrap
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from distill.config import Experiment, to_dict
from distill.tracking import view
from swapcore import terminal
from swapcore.files import (
    FileError,
    flatten,
    read_record,
    read_rows,
    remove_leftovers,
    whole_file,
    write_record,
    write_text,
)  # fmt: skip
from swapcore.hardware import environment
from swapcore.images import marked
from swapcore.locks import in_turn

RETRY_S = 60.0  # between two attempts while the server does not answer
PATIENCE_S = 10.0  # that the end of a command waits for a server that does not answer
MOST_EVENTS = 200  # in one request
MOST_METRICS, MOST_OTHERS = 1000, 100  # of a request, by MLflow's limits
SERVERS = ("postgresql", "mysql", "mssql")  # whose drivers try for minutes to reach a dead one


class TrackingError(ValueError):
    """`tracking.uri` cannot be used; the message says why."""


class Refused(Exception):
    """An event that MLflow will never take."""


class Tracker:
    """One MLflow run per experiment folder; starting again with the same folder continues the same run.

    parent: the run of the experiment that a variant belongs to. tags: added to the run's own. Raises TrackingError
    for a `tracking.uri` that cannot be right; a server that does not answer is no error.
    """

    def __init__(
        self, exp: Experiment, enabled: bool = True, parent: Run | None = None, tags: dict[str, str] | None = None
    ):
        self.run = None
        if not enabled or exp.tracking.uri == "none":
            return
        self.folder = exp.folder
        self.run = Run(exp, parent)
        self.outbox = Outbox(exp.folder / "mlflow_unsent.jsonl", self.run)
        own_tags = {
            "experiment": exp.name,
            "student": exp.student.name,
            "teacher": ",".join(t.label or t.name for t in exp.pseudo_gt.teachers),
            "seed": str(exp.train_seed),
        }
        self._add(
            "start",
            tags={f"env.{k}": v for k, v in environment().items()} | own_tags | (tags or {}),
            params={k: str(v)[:500] for k, v in flatten(to_dict(exp)).items() if v not in ({}, [])},
        )
        self._add("view", group=parent.name if parent else None)
        self.artifact(exp.folder / "experiment.yaml")

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        self._add("metrics", values=values, step=step or 0)

    def artifact(self, path: Path) -> None:
        """A file of the run's folder."""
        self._add("artifact", path=path)

    def image(self, path: Path, key: str, step: int = 0) -> None:
        """A PNG of the run's folder. MLflow shows it beside those of other runs under the same key."""
        self._add("image", path=path, key=key, step=step)

    def where_to_look(self, group: str | None = None) -> str:
        """The address of the runs in MLflow, all or those of the experiment `group`; without tracking, nothing. Waits
        for a server that answers, a few seconds, until it has said the number of the experiment."""
        if self.run is None:
            return ""
        until = time.monotonic() + PATIENCE_S
        while self.run.experiment_id is None and self.outbox.answers and time.monotonic() < until:
            time.sleep(0.05)
        return view.where_to_look(self.run.uri, self.run.experiment_id, group)

    def end(self, status: str = "FINISHED") -> None:
        """End the run; `status` is FINISHED, FAILED or KILLED. Waits for a server that answers, until it has all."""
        if self.run:
            self._add("end", status=status)
            self.outbox.close()

    def _add(self, kind: str, **content: Any) -> None:
        if self.run:
            if "path" in content:
                content["path"] = os.path.relpath(content["path"], self.folder)
            self.outbox.add({"kind": kind, "time": int(time.time() * 1000), **content})


class Outbox:
    """The events that MLflow does not have yet, in memory and in the file `path`, and the thread that sends them."""

    def __init__(self, path: Path, run: Run) -> None:
        self.path, self.run = path, run
        self.answers, self.retry_at, self.closing, self.warned = True, 0.0, False, set()
        self.events = deque(self._stored())
        self.again = bool(self.events)  # whether the first events may be with the server already
        self.changed = threading.Condition()
        self._store()
        self.thread = threading.Thread(target=self._work, name="MLflow", daemon=True)
        self.thread.start()

    def _stored(self) -> list[dict[str, Any]]:
        """The events in the file."""
        try:  # a kill can cut off the last line
            return read_rows(self.path, {"kind": str, "time": int}, unfinished=True) if self.path.is_file() else []
        except FileError as error:
            self._warn(f"MLflow does not get older events ({error})")
            return []

    def add(self, event: dict[str, Any]) -> None:
        with self.changed:
            self.events.append(event)
            self._store(event)
            self.changed.notify()

    def close(self) -> None:
        """Send what is left, and end the thread. Wait for a server that answers, but not for another one."""
        with self.changed:
            self.closing, self.retry_at = True, 0.0
            self.changed.notify()
        until = time.monotonic() + PATIENCE_S
        while self.thread.is_alive() and (self.answers or time.monotonic() < until):
            self.thread.join(0.1)
        if self.events:
            tqdm.write(f"MLflow: {len(self.events)} events not sent; the same command sends {self.path}", sys.stderr)

    def _work(self) -> None:
        most = MOST_EVENTS
        while True:
            with self.changed:
                while not self.events or time.monotonic() < self.retry_at:
                    if self.closing:
                        return
                    self.changed.wait(max(0.0, self.retry_at - time.monotonic()) if self.events else None)
                first = list(itertools.islice(self.events, most))
            try:
                sent, most = self.run.send(first, self.again), MOST_EVENTS
            except Refused as error:
                sent, most = 0, 1  # find the event
                if len(first) == 1:
                    sent = 1
                    self._warn(f"MLflow refuses {first[0]['kind']} ({_short(error)}); it is left out")
            except Exception as error:  # of a library below MLflow: none may end the training
                self.answers, self.again, self.retry_at = False, True, time.monotonic() + RETRY_S
                self._warn(f"MLflow at {self.run.uri} fails ({_short(error)}); {self.path} keeps the records")
                if self.closing:
                    return
                continue
            self.answers, self.again = True, self.again and not sent
            with self.changed:
                for _ in range(sent):
                    self.events.popleft()
                self._store()

    def _store(self, added: dict[str, Any] | None = None) -> None:
        """Bring the file to the state of `events`, of which `added` alone is new."""
        try:
            if added is not None:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(added) + "\n")
            elif self.events:
                write_text(self.path, "".join(json.dumps(event) + "\n" for event in self.events))
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:  # of a full disk; the command goes on until it needs the disk itself
            self._warn(f"{self.path}: cannot be written ({_short(error)}); a stop loses what MLflow does not have yet")

    def _warn(self, text: str) -> None:
        """Print a warning, each kind once."""
        if (kind := text.split("(")[0]) not in self.warned:
            self.warned.add(kind)
            tqdm.write(f"warning: {text}", sys.stderr)


class Run:
    """The MLflow run of an experiment's folder. It is found or created when the first event is sent.

    joins: another process records the run; its id is found in the folder, and it is not created here.
    """

    def __init__(self, exp: Experiment, parent: Run | None, joins: bool = False) -> None:
        self.joins = joins
        self.uri, self.experiment = exp.tracking.uri, exp.tracking.experiment
        self.name, self.folder = exp.name, exp.folder
        self.parent, self.started = parent, int(time.time() * 1000)
        self.record = exp.folder / "mlflow_run.json"
        self.known = self._recorded_before()
        self.run_id: str | None = None
        self.experiment_id: str | None = None
        self.lock = threading.Lock()  # the thread of a variant asks its parent
        self.client = None if self.uri.partition("+")[0].partition(":")[0] in SERVERS else connect(self.uri)

    def send(self, events: Sequence[dict[str, Any]], again: bool) -> int:
        """Send the first of the events and those that fit into the same request; returns their number. Sent again, it
        changes nothing: MLflow keeps equal points of a metric once. Raises Refused; any other error may pass."""
        from mlflow.exceptions import MlflowException

        run_id, event, kind = self.id(), events[0], events[0]["kind"]
        try:
            if kind == "metrics":
                return self._metrics(run_id, events)
            if kind == "start":
                self._start(run_id, event)
            elif kind == "end":
                self.client.set_terminated(run_id, event["status"], event["time"])
            elif kind == "view":
                view.mark(self.client, self.experiment_id, event["group"])
            elif not (path := self.folder / event["path"]).is_file():
                raise Refused(f"{path} is gone")
            elif kind == "artifact":
                self.client.log_artifact(run_id, str(path))
            else:
                self._image(run_id, path, event, again)
        except MlflowException as error:
            # A server may let us add runs, but not tags of the experiment: nothing waits for those.
            if error.error_code == "INVALID_PARAMETER_VALUE" or kind == "view":
                raise Refused(str(error)) from None
            raise
        return 1

    def id(self) -> str:
        """The run's id in MLflow. Any error may pass."""
        with self.lock:
            if self.client is None:
                self.client = connect(self.uri)
            if self.run_id is None:
                self.known = self._recorded_before() if self.joins else self.known
                self.run_id = self._found() or self._created()
            return self.run_id

    def _recorded_before(self) -> dict[str, Any]:
        """The record of the run in its folder; empty if it is of another server, or of a run that was copied."""
        known = read_record(self.record) if self.record.is_file() else {}
        return known if (known.get("uri"), known.get("name", self.name)) == (self.uri, self.name) else {}

    def _found(self) -> str | None:
        """The run of an earlier start, if MLflow still has it."""
        from mlflow.exceptions import MlflowException

        if run_id := self.known.get("run_id"):
            try:
                info = self.client.get_run(run_id).info
                self.experiment_id = info.experiment_id
                return run_id if info.lifecycle_stage == "active" else None
            except MlflowException as error:  # the database was deleted, the folder was not
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        elif key := self.known.get("key"):  # created, perhaps, by a command that was killed before it knew the id
            if runs := self.client.search_runs([self._experiment_id()], f"tags.`swapdistill.key` = '{key}'"):
                return self._recorded(runs[0].info.run_id)
        return None

    def _created(self) -> str:
        from mlflow.tracking.context.registry import resolve_tags  # user, commit and command

        if self.joins:
            raise TrackingError(f"{self.record}: the run of {self.name} is not in MLflow yet")
        self.known = {"uri": self.uri, "name": self.name, "key": uuid.uuid4().hex}
        write_record(self.record, self.known)
        tags = {"swapdistill.key": self.known["key"]}
        if self.parent:
            tags["mlflow.parentRunId"] = self.parent.id()
        run = self.client.create_run(self._experiment_id(), self.started, resolve_tags(tags), self.name)
        return self._recorded(run.info.run_id)

    def _recorded(self, run_id: str) -> str:
        write_record(self.record, {**self.known, "run_id": run_id})
        return run_id

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            try:
                self.experiment_id = self.client.create_experiment(self.experiment)
                return self.experiment_id
            except MlflowException:  # another command has created it meanwhile
                found = self.client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        self.experiment_id = found.experiment_id
        return self.experiment_id

    def _start(self, run_id: str, event: dict[str, Any]) -> None:
        from mlflow.entities import Param, RunTag

        self.client.update_run(run_id, status="RUNNING")
        known = self.client.get_run(run_id).data.params  # MLflow refuses to change parameters; the first ones stay
        entries: list[Any] = [RunTag(key, str(value)) for key, value in event["tags"].items()]
        entries += [Param(key, value) for key, value in event["params"].items() if key not in known]
        for part in (entries[i : i + MOST_OTHERS] for i in range(0, len(entries), MOST_OTHERS)):
            own = {kind: [entry for entry in part if isinstance(entry, kind)] for kind in (Param, RunTag)}
            self.client.log_batch(run_id, params=own[Param], tags=own[RunTag])

    def _metrics(self, run_id: str, events: Sequence[dict[str, Any]]) -> int:
        from mlflow.entities import Metric

        points, count = [], 0
        for event in itertools.takewhile(lambda e: e["kind"] == "metrics", events):
            if count and len(points) + len(event["values"]) > MOST_METRICS:
                break
            points += [Metric(key, value, event["time"], event["step"]) for key, value in event["values"].items()]
            count += 1
        self.client.log_batch(run_id, metrics=points)
        return count

    def _image(self, run_id: str, path: Path, event: dict[str, Any], again: bool) -> None:
        key, step, stamp = event["key"], event["step"], event["time"]
        if again:
            begin = f"images/{key}+step+{step}+timestamp+{stamp}+"
            names = [file.path for file in self.client.list_artifacts(run_id, "images")]
            if any(name.startswith(begin) and "+compressed" in name for name in names):  # the second and last file
                return
        with Image.open(path) as picture:
            self.client.log_image(run_id, marked(picture), key=key, step=step, timestamp=stamp, synchronous=True)


def connect(uri: str) -> Any:
    """A client of MLflow. Only a SQLite file is opened: it is created if it is absent, by one command at a time.

    Raises TrackingError without MLflow, for an unknown scheme, and for a file that is no database of this version.
    """
    # MLflow would print every table that it creates, and wait for minutes for a server that does not answer.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    try:
        import sqlalchemy
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise TrackingError(f"tracking.uri={uri}: {error}: {terminal.install()}, or tracking.uri=none") from None

    try:
        if not uri.startswith("sqlite:"):
            return MlflowClient(uri)
        name = sqlalchemy.make_url(uri).database
        if name in (None, "", ":memory:"):
            return MlflowClient(uri)
        database = Path(name)
        with in_turn(database.with_name(f".{database.name}.lock")):
            remove_leftovers(list(database.parent.glob(f".{database.stem}.*")))
            if not database.is_file() or not database.stat().st_size:
                _create(database)
            with closing(sqlite3.connect(database)) as connection:
                connection.execute("PRAGMA schema_version")  # MLflow tries for minutes to open a file of another kind
            return MlflowClient(uri)
    except (MlflowException, sqlalchemy.exc.SQLAlchemyError, sqlite3.Error, ImportError, OSError) as error:
        raise TrackingError(
            f"tracking.uri={uri}: {_short(error)}; name another database or server, or tracking.uri=none"
        ) from None


def _create(database: Path) -> None:
    """A new database of MLflow, whole or not at all."""
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with whole_file(database) as temporary:
        SqlAlchemyStore(f"sqlite:///{temporary}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH).engine.dispose()


def _short(error: Exception) -> str:
    return textwrap.shorten(str(error), 240, placeholder=" ...") or type(error).__name__
