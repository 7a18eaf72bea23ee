"""Stage `train`: a student learns from triplets. The paragraph comments of `run` alone tell the algorithm."""

from __future__ import annotations

import math
from dataclasses import replace

from tqdm import tqdm

from distill.config import Experiment, to_dict
from distill.data.fstriplets import FSTriplets
from distill.data.photos import read_manifest
from distill.data.triplet import Triplet
from distill.pseudo_gt.shards import Shards
from distill.stage import Stage, open_stage, stop_if_out_of_time, upstream
from distill.tracking import Log, Sums
from distill.train import batch_norm
from distill.train.online import Online
from distill.train.preview import validation_pairs
from distill.train.step import Step, networks
from distill.train.stream import Mixture, batches
from swapcore import images as pictures
from swapcore.hardware import git_commit

CALIBRATION = 20  # batches that the statistics of batch normalisation are taken from in the end
# Keys of `train` that say how, not what: a run may go on with others.
HOW = ("checkpoint_steps", "log_steps", "preview_steps", "compile", "autotune")


class Diverged(ValueError):
    """A loss is no longer a number."""


def run(exp: Experiment, accelerator, tracker, name: str = "train") -> Stage:
    # What learns, its discriminator, and what is frozen: identity encoder, perceptual network, teacher in the loop.
    settings, device = exp.train, accelerator.device
    parts = networks(exp, device, name)
    encoder, learner = parts.encoder, parts.learner
    stage = open_stage(exp, name, _inputs(exp, encoder, parts.teacher), accelerator, extendable=("train.steps",))
    if stage.done:
        accelerator.print(f"  finished before: {stage.folder}")
        return stage
    step = Step(exp, parts, accelerator)
    state = step.state
    validation = validation_pairs(exp).to(device)
    stream = mixture(exp)
    if exp.train.mix.fstriplets:
        accelerator.print("  FSTriplets: " + ", ".join(f"{name} {n}" for name, n in stream.fstriplets.counts.items()))
        tracker.metrics({f"fstriplets/{name}": float(n) for name, n in stream.fstriplets.counts.items()})
    resumed = state.load(stage.folder / "state", accelerator)
    if resumed:
        accelerator.print(f"  resumed at step {state.step} of {settings.steps}")

    # Sample i of the stream depends on the seed and i alone, so the step number is all of the sampler's state.
    samples = batches(
        stream, settings.batch_size, state.step * settings.accumulation, settings.steps * settings.accumulation,
        accelerator.process_index, accelerator.num_processes, exp.data.workers, pin=device.type == "cuda",
    )  # fmt: skip
    log = Log(stage.folder / "log.jsonl", state.step, enabled=accelerator.is_main_process)
    main = accelerator.is_main_process
    bar = tqdm(total=settings.steps, initial=state.step, desc=name, unit="step", disable=not main)
    sums = Sums()

    while state.step < settings.steps:
        # Student and discriminator learn from a batch, or from several whose gradients are added up.
        for _ in range(settings.accumulation):
            sums.add(step.learn(next(samples)))

        # After the step: the average; now and then a line of the log, a look at people never trained on, a checkpoint.
        state.step += 1
        state.update_average()
        bar.update()
        last = state.step == settings.steps
        if state.step % settings.log_steps == 0 or last:
            means = sums.take(accelerator)
            _stop_if_diverged(means, state.step, stage)
            log.write(state.step, means)
            tracker.metrics({f"{name}/{k}": v for k, v in means.items()}, state.step)
            bar.set_postfix({k: f"{means[k]:.3f}" for k in ("identity", "reconstruction") if k in means})
        if (state.step % settings.preview_steps == 0 or last) and main:
            measured, grid = validation.look(state.average, learner.condition)
            log.write(state.step, measured)
            tracker.metrics(measured, state.step)
            pictures.save_png(grid, stage.folder / "previews" / f"{state.step:07d}.png")
            tracker.image(grid, "preview", state.step)
        if state.step % settings.checkpoint_steps == 0 or last:
            _stop_if_diverged(sums.look(accelerator), state.step, stage)
            state.save(stage.folder / "state", accelerator)
        if state.step % settings.log_steps == 0 and not last:  # where no sums are pending that a resumed run would lack
            where = f"at step {state.step} of {settings.steps} of {stage.folder}"
            stop_if_out_of_time(exp, accelerator, where, lambda: state.save(stage.folder / "state", accelerator))
    bar.close()

    # The average with statistics of its own, from the batches that would come next.
    def average(batch: Triplet) -> None:
        batch = batch.on_device(device)
        with accelerator.autocast():
            state.average(batch.target, *learner.condition(batch.source, batch.target))

    first = settings.steps * settings.accumulation
    following = batches(
        stream, settings.batch_size, first, first + CALIBRATION, accelerator.process_index, accelerator.num_processes,
        workers=0, pin=False,
    )  # fmt: skip
    batch_norm.calibrate(state.average, following, average)

    # What goes on the phone: the average, without its teacher, its critic and its judges.
    if accelerator.is_main_process:
        path = stage.folder / learner.file
        learner.save(
            state.average, path, experiment=exp.name, steps=str(state.step), identity_encoder=encoder.card.name,
            identity_encoder_hash=encoder.weight_hash,
        )  # fmt: skip
        tracker.artifact(path)
        minutes = round(state.watch() / 60, 2)  # of all starts
        stage.finish(minutes=minutes, steps=state.step, commit=git_commit())
    return stage


def refine(exp: Experiment, accelerator, tracker) -> Stage:
    """Stage `refine`: the second stage of FaceShifter, trained by the same loop on the frozen first."""
    second = replace(exp, train=exp.refine.train, loss=exp.refine.loss)
    return run(second, accelerator, tracker, "refine")


def mixture(exp: Experiment) -> Mixture:
    """The stream of training samples of an experiment."""
    mix = to_dict(exp.train.mix)
    shards = Shards(exp.pseudo_gt.destination or exp.folder / "pseudo_gt") if mix["pseudo_gt"] else None
    photos = read_manifest(exp.folder / "data", "train", exp.data.resolution)
    return Mixture(
        shards, photos, mix, exp.train_seed, exp.train.flip, exp.data.cache_gb, exp.data.workers,
        fstriplets=fstriplets(exp), quality_power=exp.distil.quality_power,
    )  # fmt: skip


def fstriplets(exp: Experiment) -> FSTriplets | None:
    """The folder of FSTriplets that an experiment names, validated. Raises DataError."""
    if not exp.train.mix.fstriplets:
        return None
    return FSTriplets(
        exp.data.fstriplets, exp.data.resolution, to_dict(exp.train.fstriplets), exp.data.occlusions,
        exp.data.occlusion_share,
    )  # fmt: skip


def _inputs(exp: Experiment, encoder, teacher: Online | None) -> dict:
    tree = to_dict(exp)
    train = {key: value for key, value in tree["train"].items() if key not in HOW}
    made = {"data": upstream(exp, "data")}
    if exp.train.mix.pseudo_gt:
        made["pseudo_gt"] = upstream(exp, "pseudo_gt")
    if teacher:
        made["online"] = teacher.teacher.weight_hash
    if exp.train.mix.fstriplets:
        made["fstriplets"] = {key: tree["data"][key] for key in ("fstriplets", "occlusions", "occlusion_share")}
    return {
        **made, "seed": exp.seed, "train": train, "loss": tree["loss"], "distil": tree["distil"],
        "student": tree["student"], "resolution": exp.data.resolution, "identity_encoder": encoder.weight_hash,
    }  # fmt: skip


def _stop_if_diverged(means: dict[str, float], step: int, stage: Stage) -> None:
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise Diverged(
            f"{stage.folder}: {', '.join(broken)} is not a number at step {step}; the last checkpoint is whole. "
            f"Lower train.lr or train.grad_clip, or use train.precision=bf16 or fp32, and run again"
        )
