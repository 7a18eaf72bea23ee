"""The runs of an experiment with `variants:` or `seeds:`, as children of one MLflow run, and their comparison.

runs/NAME/shared/data-4f0c.../      data, or pseudo-GT, that all children with the same settings use
runs/NAME/VARIANT-seed0/            a child's run, an experiment like any other; with `jobs` also its output.log
runs/NAME/comparison.json .md .png  the table and the plot
runs/NAME/swaps.png                 the swaps of all variants, side by side
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from distill import jobs
from distill.config import Child, ConfigError, Experiment, to_dict
from distill.report import comparison
from distill.stage import open_run, stop_if_asked
from distill.tracking import Run, Tracker
from swapcore.files import digest, read_record
from swapcore.images import save_png
from swapcore.locks import in_turn
from swapcore.terminal import nearest


def run(exp: Experiment, children: Sequence[Child], run_stages: Callable, accelerator) -> None:
    """Run the stages of every child, without the finished ones; then compare the children."""
    main = accelerator.is_main_process
    with open_run(exp, main) as tracker:
        for number, child in enumerate(children, 1):
            accelerator.print(f"\n== {child.exp.name}: {number} of {len(children)}")
            if main:
                _share(child.exp, exp)
            accelerator.wait_for_everyone()
            run_stages(child.exp, parent=tracker.run, tags=_tags(exp, child))
        if main and all("report" in child.exp.stages for child in children):
            _compare(exp, children, tracker)


def run_side_by_side(exp: Experiment, children: Sequence[Child]) -> None:
    """Run the children as processes, `exp.jobs` at a time; then compare them. Raises as jobs.run does."""
    with open_run(exp, True) as tracker:
        for child in children:
            _share(child.exp, exp)
        jobs.run(exp, children)
        if all("report" in child.exp.stages for child in children):
            _compare(exp, children, tracker)


def run_child(exp: Experiment, children: Sequence[Child], name: str, run_stages: Callable) -> None:
    """Run the stages of one child, in a process of its own. Raises ConfigError for an unknown name."""
    by_name = {child.exp.name: child for child in children}
    if name not in by_name:
        raise ConfigError(f"--child {name}: no such run of {exp.name}{nearest(name, by_name)}")
    parent = None if exp.tracking.uri == "none" else Run(exp, None, joins=True)
    run_stages(by_name[name].exp, parent=parent, tags=_tags(exp, by_name[name]))


@contextmanager
def shared_in_turn(exp: Experiment, stage: str, accelerator) -> Iterator[None]:
    """Let one process at a time work on a stage whose folder several children share: the others find its files."""
    link = exp.folder / stage
    if not (accelerator.is_main_process and link.is_symlink()):
        yield
        return
    folder = link.resolve()
    with in_turn(folder.with_name(f".{folder.name}.lock")):
        if accelerator.num_processes == 1:  # several must ask together, and nothing runs beside them that they wait for
            stop_if_asked(exp, accelerator, f"before stage {stage} of {exp.name}")  # the time may have passed meanwhile
        yield


def _tags(exp: Experiment, child: Child) -> dict[str, str]:
    return {"experiment": exp.name, "variant": child.variant}


# Keys that do not change the files of data and pseudo-GT.
NOT_SHARED = {"data": ("workers", "cache", "cache_gb"), "pseudo_gt": ("batch_size", "identity_cache_mb")}


def _share(child: Experiment, exp: Experiment) -> None:
    """Link the child's folders of data and pseudo-GT to folders that children with the same settings share."""
    tree = to_dict(child)
    for section, keys in NOT_SHARED.items():
        for key in keys:
            del tree[section][key]
    data = [tree["seed"], tree["data"]]
    pseudo_gt = [*data, tree["pseudo_gt"], tree["student"]["identity_encoder"]]
    child.folder.mkdir(parents=True, exist_ok=True)
    for stage, settings in (("data", data), ("pseudo_gt", pseudo_gt)):
        folder = exp.folder / "shared" / f"{stage}-{digest(settings)}"
        folder.mkdir(parents=True, exist_ok=True)
        link = child.folder / stage
        if link.is_symlink() and not link.exists():  # somebody deleted the folder, to have it made anew
            link.unlink()
        if not link.is_symlink() and not link.exists():
            link.symlink_to(os.path.relpath(folder, child.folder), target_is_directory=True)


def _compare(exp: Experiment, children: Sequence[Child], tracker: Tracker) -> None:
    runs = [(child, read_record(child.exp.folder / "metrics.json")) for child in children]
    table = comparison.collect(runs, exp.eval.reference)
    written = comparison.write(exp.name, table, exp.folder)
    print(comparison.markdown(table))
    picture = comparison.sheet(runs)
    (exp.folder / "swaps.png").unlink(missing_ok=True)  # of other variants
    if picture is not None:
        written.append(exp.folder / "swaps.png")
        save_png(picture, written[-1])
        tracker.image(written[-1], "swaps")
    for path in written:
        tracker.artifact(path)
        print(path)
    if exp.tracking.uri != "none":
        print(tracker.where_to_look(exp.name))
