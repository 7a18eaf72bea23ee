"""Stage `data`: aligned crops on disk and their manifest. Synthetic people are drawn, photographs are checked."""

from __future__ import annotations

from distill.config import Experiment, to_dict
from distill.data import photos, synthetic
from distill.data.contents import contents
from distill.stage import Stage, open_stage
from swapcore.images import DataError


def run(exp: Experiment, accelerator, tracker) -> Stage:
    if exp.data.kind == "synthetic":
        keys = ("resolution", "train_people", "val_people", "test_people", "train_images", "test_images")
        facts = {"renderer": synthetic.RENDERER}
    else:
        keys = ("photos", "heldout", "allow_leaks", "min_size", "val_people", "test_people")
        folders = {key: getattr(exp.data, key) for key in ("photos", "heldout")}
        facts = {"contents": contents(folders, exp.folder / "data" / "contents.json", accelerator)}
    inputs = {"kind": exp.data.kind, "seed": exp.seed, "data": {k: to_dict(exp.data)[k] for k in keys}, **facts}
    stage = open_stage(exp, "data", inputs, accelerator, outputs=("manifest.jsonl",))
    drawn = exp.data.kind == "synthetic"
    moved = stage.done and not drawn and photos.lie_elsewhere(stage.folder, (exp.data.photos, exp.data.heldout))
    if stage.done and not moved:
        accelerator.print(f"  finished before: {stage.folder}")
        return stage
    prepare = synthetic.draw if drawn else photos.register
    try:
        counts = prepare(exp, stage.folder, accelerator)
    except DataError:  # photographs are refused before anything is written: the user may change them, or the keys
        (stage.folder / "inputs.json").unlink(missing_ok=True)
        raise
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        tracker.metrics({f"data/{k}": v for k, v in counts.items()})
        stage.finish(**counts)
    return stage
