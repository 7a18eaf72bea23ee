"""The runs of an experiment with `variants:` or `seeds:`, as children of one MLflow run, and their comparison.

runs/NAME/shared/data-4f0c.../      data, or pseudo-GT, that all children with the same settings use
runs/NAME/VARIANT-seed0/            a child's run, an experiment like any other
runs/NAME/comparison.json .md .png  the table and the plot
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from distill.config import Child, Experiment, to_dict
from distill.report import comparison
from distill.stage import open_run
from distill.tracking import Tracker, where_to_look
from swapcore.files import digest, read_record


def run(exp: Experiment, children: Sequence[Child], run_stages: Callable, accelerator) -> None:
    """Run the stages of every child, without the finished ones; then compare the children."""
    main = accelerator.is_main_process
    with open_run(exp, main) as tracker:
        for number, child in enumerate(children, 1):
            accelerator.print(f"\n== {child.exp.name}: {number} of {len(children)}")
            if main:
                _share(child.exp, exp)
            accelerator.wait_for_everyone()
            run_stages(child.exp, parent=tracker, tags={"experiment": exp.name, "variant": child.variant})
        if main and all("report" in child.exp.stages for child in children):
            _compare(exp, children, tracker)


def _share(child: Experiment, exp: Experiment) -> None:
    """Link the child's folders of data and pseudo-GT to folders that children with the same settings share."""
    tree = to_dict(child)
    data = [tree["seed"], tree["data"]]
    pseudo_gt = [*data, tree["pseudo_gt"], tree["student"]["identity_encoder"]]
    child.folder.mkdir(parents=True, exist_ok=True)
    for stage, settings in (("data", data), ("pseudo_gt", pseudo_gt)):
        folder = exp.folder / "shared" / f"{stage}-{digest(settings)}"
        folder.mkdir(parents=True, exist_ok=True)
        link = child.folder / stage
        if not link.is_symlink() and not link.exists():
            link.symlink_to(os.path.relpath(folder, child.folder), target_is_directory=True)


def _compare(exp: Experiment, children: Sequence[Child], tracker: Tracker) -> None:
    runs = [(child, read_record(child.exp.folder / "metrics.json")) for child in children]
    table = comparison.collect(runs, exp.eval.reference)
    written = comparison.write(exp.name, table, exp.folder)
    print(comparison.markdown(table))
    for path in written:
        tracker.artifact(path)
        print(path)
    if exp.tracking.uri != "none":
        print(where_to_look(exp.tracking.uri))
