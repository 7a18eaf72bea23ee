"""Everything that reads or writes training data. The commands that prepare data live in datasets/, no package."""

from __future__ import annotations

from distill.config import Experiment, to_dict
from distill.data import photos, synthetic
from distill.stage import Stage, open_stage


def run(exp: Experiment, accelerator, tracker) -> Stage:
    """Stage `data`: aligned crops on disk and their manifest. Synthetic people are drawn, photographs are checked."""
    if exp.data.kind == "synthetic":
        keys = ("resolution", "train_people", "val_people", "test_people", "train_images", "test_images")
        facts = {"renderer": synthetic.RENDERER_HASH}
    else:
        keys = ("photos", "heldout", "min_size", "val_people", "test_people")
        facts = {}
    inputs = {"kind": exp.data.kind, "seed": exp.seed, "data": {k: to_dict(exp.data)[k] for k in keys}, **facts}
    stage = open_stage(exp, "data", inputs, accelerator)
    if stage.done:
        accelerator.print(f"  finished before: {stage.folder}")
        return stage
    if exp.data.kind == "synthetic":
        found = synthetic.draw(exp, stage.folder, accelerator)
    else:
        found = photos.register(exp, stage.folder, accelerator)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        stage.finish(**found)
        tracker.metrics({f"data/{k}": v for k, v in found.items() if isinstance(v, int)})
    return stage
