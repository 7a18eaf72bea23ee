"""Stage `train`: a network learns from triplets. The paragraph comments of `run` summarise the algorithm; one step is
in `distill/train/step.py`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import replace
from functools import reduce

import torch
from tqdm import tqdm

from distill.config import Experiment, to_dict
from distill.data.cache import Room
from distill.data.contents import contents
from distill.data.fstriplets import FSTriplets
from distill.data.photos import read_manifest
from distill.data.triplet import Triplet
from distill.pseudo_gt.shards import Shards
from distill.schema import Distil
from distill.stage import OutOfTime, Stage, StageError, open_stage, signals_held, stop_if_asked, upstream
from distill.train import batch_norm
from distill.train.monitor import Log, Preview, copies_target, score
from distill.train.step import Networks, Step, build_networks
from distill.train.stream import Mixture, batches
from swapcore.files import DiskFull
from swapcore.hardware import git_commit
from swapcore.images import save_png
from swapcore.weights import sha256

CALIBRATION_STEPS = 20  # batches for the EMA's statistics of batch normalisation, after the last step
# Keys of `train` that do not change the result: a resumed run may have other values.
EXECUTION_KEYS = ("checkpoint_steps", "log_steps", "preview_steps", "compile", "compile_cache", "capture", "autotune")


# Keys that are younger than runs that shall go on: the record of a stage leaves them out where they have their default.
LATER_KEYS = (
    "student.weights", "train.mix.reversed", "train.keep", "loss.identity_disturbance", "loss.identity_fading",
    "loss.grid", "train.optimiser", "train.lr_matrices", "train.held_objects", "train.small_steps",
    "train.small_resolution",
)  # fmt: skip


class Diverged(ValueError):
    """A loss is no longer a number."""


def run(exp: Experiment, accelerator, tracker, name: str = "train") -> Stage:
    # Build the networks: one learns with its discriminator, the others are frozen.
    settings, device, main = exp.train, accelerator.device, accelerator.is_main_process
    networks = build_networks(exp, device, name)
    learner, encoder = networks.learner, networks.encoder
    inputs = _inputs(exp, networks, accelerator, name)
    stage = open_stage(exp, name, inputs, accelerator, extendable=("train.steps",), outputs=(learner.file,))
    if stage.done:
        accelerator.print(f"  finished before: {stage.folder}")
        return stage
    step = Step(exp, networks, accelerator)
    state = step.state
    if accelerator.process_index:  # the networks are equal; what disturbs the samples must not be
        torch.manual_seed(exp.train_seed + accelerator.process_index)
    if step.not_captured and settings.capture != "off" and device.type == "cuda":  # a CPU has no graphs anyway
        accelerator.print(f"  the step is not captured: {step.not_captured}")
    preview = Preview(exp, encoder, device)
    with accelerator.local_main_process_first():  # where it packs pictures into a file, the others find it
        stream = mixture(exp, device)
    if settings.mix.fstriplets:
        accelerator.print("  FSTriplets: " + ", ".join(f"{name} {n}" for name, n in stream.fstriplets.counts.items()))
        tracker.metrics({f"fstriplets/{name}": float(n) for name, n in stream.fstriplets.counts.items()})

    # Resume. Sample i of the stream depends on the seed and i alone: the step number is all of the sampler's state.
    if state.load(stage.folder / "state", accelerator):
        if state.step > settings.steps:
            raise StageError(
                f"{stage.folder}: has learnt for {state.step} steps, more than train.steps={settings.steps}; raise it, "
                f"or give the experiment another name (name=...)"
            )
        accelerator.print(f"  resumed at step {state.step} of {settings.steps}")
    ranks = accelerator.process_index, accelerator.num_processes
    first, last = state.step * settings.accumulation, settings.steps * settings.accumulation
    samples = batches(stream, settings.batch_size, first, last, *ranks, exp.data.workers, pin=device.type == "cuda")
    log = Log(stage.folder / "log.jsonl", state.step if state.reported else state.step - 1, enabled=main)
    warned = False
    bar = tqdm(total=settings.steps, initial=state.step, desc=name, unit="step", disable=not main)

    def save() -> None:
        _stop_if_diverged(state.sums.look(accelerator), state.step, stage)
        state.save(stage.folder / "state", accelerator)

    def report() -> None:
        """All that follows a step. It may be repeated: log and sums are as before until it is complete."""
        nonlocal warned
        final, means = state.step == settings.steps, {}

        # Every log_steps: means of the losses since the last line.
        if state.step % settings.log_steps == 0 or final:
            means = state.sums.look(accelerator)
            _stop_if_diverged(means, state.step, stage)
            log.write(state.step, means)
            tracker.metrics({f"{name}/{k}": v for k, v in means.items()}, state.step)
            bar.set_postfix({k: f"{means[k]:.3f}" for k in ("identity", "reconstruction") if k in means})

        # Every preview_steps: the EMA swaps people that are not in training.
        if (state.step % settings.preview_steps == 0 or final) and main:
            step.resize(step.size_of(state.step - 1))
            metrics, grid = preview.swap(state.ema, learner.condition, step.size)
            if settings.keep == "best" and step.size == exp.data.resolution:
                metrics["val/score"] = score(metrics)
                state.keep_if_best(metrics["val/score"])
            if not warned and (copied := copies_target(metrics, state.step, settings.steps)):
                bar.write(f"  ! {copied}")
                warned = True
            log.write(state.step, metrics)
            tracker.metrics(metrics, state.step)
            picture = stage.folder / "previews" / f"{state.step:07d}.png"
            save_png(grid, picture)
            tracker.image(picture, "preview", state.step)

        # Every checkpoint_steps: save the state.
        if means:
            state.sums.clear()
        state.reported = True
        if state.step % settings.checkpoint_steps == 0 or final:
            save()

    whole = True  # no step has begun that is not finished
    try:
        with signals_held():
            if not state.reported:  # an error stopped the command between this step and its report
                report()
            while state.step < settings.steps:
                # Network and discriminator learn from a batch, or from several whose gradients are added up.
                drawn = [next(samples) for _ in range(settings.accumulation)]
                whole = False
                for batch in drawn:
                    state.sums.add(step.learn(batch))
                state.reported, whole = False, True
                bar.update()
                report()

                # The time is up, SIGTERM or Ctrl-C: save and stop. Several processes agree on it after each line of
                # losses, because it costs them a message.
                if accelerator.num_processes == 1 or state.step % settings.log_steps == 0:
                    where = f"at step {state.step} of {settings.steps} of {stage.folder}"
                    if state.step < settings.steps:
                        stop_if_asked(exp, accelerator, where, save)
    except Exception as error:
        # Keep the finished steps. A process of several cannot: the others do not know of its error.
        if whole and accelerator.num_processes == 1 and not isinstance(error, Diverged | OutOfTime | DiskFull):
            _save_in_spite(save, accelerator)
        raise
    finally:
        del samples  # ends the data loader's processes
        bar.close()

    step.resize(exp.data.resolution)  # even if all steps were small
    # The weights to keep are those of the last step, or of the preview with the best score.
    if settings.keep == "best":
        state.take_best()
    kept = state.best if settings.keep == "best" else None

    # The EMA gets its own statistics of batch normalisation, from the batches that would come next.
    def swap_with_ema(batch: Triplet) -> None:
        batch = batch.on_device(device)
        with accelerator.autocast():
            state.ema(batch.target, *learner.condition(batch.source, batch.target))

    following = batches(stream, settings.batch_size, last, last + CALIBRATION_STEPS, *ranks, workers=0, pin=False)
    batch_norm.calibrate(state.ema, following, swap_with_ema)

    # Save the EMA alone, without discriminator and optimisers: it is the student, or the teacher.
    if main:
        path = stage.folder / learner.file
        encoder_facts = {"identity_encoder": encoder.card.name, "identity_encoder_hash": encoder.weight_hash}
        steps = str(kept["step"] if kept else state.step)
        learner.save(state.ema, path, experiment=exp.name, steps=steps, **encoder_facts)
        tracker.artifact(path)
        facts = {"kept_step": kept["step"], "kept_score": kept["score"]} if kept else {}
        stage.finish(minutes=round(state.elapsed_s() / 60, 2), steps=state.step, **facts, commit=git_commit())
    accelerator.free_memory()  # it holds the networks; later stages need the room
    return stage


def refine(exp: Experiment, accelerator, tracker) -> Stage:
    """Stage `refine`: the second stage of a teacher, trained by the same loop on the frozen first. The accelerator must
    be one of the settings `of_refine(exp)`."""
    try:
        return run(of_refine(exp), accelerator, tracker, "refine")
    except (StageError, Diverged) as error:  # which name the keys where `of_refine` has put those of `refine`
        raise type(error)(re.sub(r"(?<![\w./])(train\.|loss[.:])", r"refine.\1", str(error))) from error


def of_refine(exp: Experiment) -> Experiment:
    """The experiment with the settings of `refine` in place of those of `train`. What it leaves open, precision `auto`
    and the seed, is that of train. A teacher in the loop and its maps belong to the first stage."""
    train, own = exp.train, exp.refine.train
    own = replace(own, precision=train.precision if own.precision == "auto" else own.precision)
    own = replace(own, seed=train.seed if own.seed is None else own.seed)
    distil = Distil(quality_power=exp.distil.quality_power)
    return replace(exp, train=own, loss=exp.refine.loss, distil=distil)


def mixture(exp: Experiment, device: torch.device | None = None) -> Mixture:
    """The stream of training samples of an experiment, for training on `device` (default: the CPU). Raises DataError,
    StageError."""
    mix, data, fstriplets, shards = to_dict(exp.train.mix), exp.data, None, None
    folders = [exp.folder / "pseudo_gt", exp.folder / "data"]
    if mix["pseudo_gt"] or mix["reversed"]:
        shards = Shards(exp.pseudo_gt.destination or folders[0])
        folders[0] = shards.store.folder or folders[0]
    photos = read_manifest(exp.folder / "data", "train", data.resolution)
    if mix["fstriplets"]:
        shares = to_dict(exp.train.fstriplets)
        fstriplets = FSTriplets(data.fstriplets, data.resolution, shares, data.occlusions, data.occlusion_share)
        device = None  # their augmentation needs the processor, and loader processes cannot use a GPU
    room = Room(data.cache, data.cache_gb, device or torch.device("cpu"), bool(fstriplets) and data.workers > 1)
    return Mixture(
        shards, photos, mix, exp.train_seed, exp.train.flip, room, fstriplets, exp.distil.quality_power,
        tuple(folders), data.workers, exp.train.held_objects,
    )  # fmt: skip


def _inputs(exp: Experiment, networks: Networks, accelerator, name: str) -> dict:
    """Everything that the result depends on, for the record of stage `name`."""
    tree, plain = to_dict(exp), to_dict(Experiment(exp.name))
    for key in LATER_KEYS:
        *path, last = key.split(".")
        section, default = (reduce(operator.getitem, path, each) for each in (tree, plain))
        if section[last] == default[last]:
            del section[last]
    execution = set(EXECUTION_KEYS) - ({"preview_steps"} if exp.train.keep == "best" else set())  # it picks the steps
    train = {key: value for key, value in tree["train"].items() if key not in execution}
    data = {"data": upstream(exp, "data")}
    if exp.train.mix.pseudo_gt or exp.train.mix.reversed:
        data["pseudo_gt"] = upstream(exp, "pseudo_gt")
    if networks.teacher:
        data["online"] = networks.teacher.network.weight_hash
        for key in ("label", "share", "weights"):  # names and paths, which say nothing of the weights
            del tree["distil"]["online"][key]
    if exp.student.weights and name == "train":
        data["start"] = sha256(tree["student"].pop("weights"))
    pretrained = exp.student.options.get("pretrained")
    if isinstance(pretrained, str) and name == "train":
        data["pretrained"] = sha256(pretrained)
    if name == "refine":
        data["first_stage"] = upstream(exp, "train")
        if exp.refine.options:  # absent from older records
            data["options"] = tree["refine"]["options"]
    if exp.train.mix.fstriplets:
        folders = {key: tree["data"][key] for key in ("fstriplets", "occlusions")}
        data["fstriplets"] = {
            **folders, "occlusion_share": exp.data.occlusion_share,
            "contents": contents(folders, exp.folder / name / "contents.json", accelerator),
        }  # fmt: skip
    return {
        **data, "seed": exp.seed, "train": train, "loss": tree["loss"], "distil": tree["distil"],
        "student": tree["student"], "resolution": exp.data.resolution, "identity_encoder": networks.encoder.weight_hash,
    }  # fmt: skip


def _save_in_spite(save: Callable[[], None], accelerator) -> None:
    """Save after an error. A second error is printed: it must not hide the first."""
    try:
        save()
    except Exception as second:
        accelerator.print(f"  no checkpoint of the last step: {second}")


def _stop_if_diverged(means: dict[str, float], step: int, stage: Stage) -> None:
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise Diverged(
            f"{stage.folder}: {', '.join(broken)} is not a number at step {step}; the last checkpoint is whole. "
            f"Lower train.lr, train.lr_matrices or train.grad_clip, or use train.precision=bf16 or fp32, and run again"
        )
