"""Stage `train`: a student learns from triplets. The paragraph comments of `run` alone tell the algorithm."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from tqdm import tqdm

from distill import batch_norm, build, discriminator, losses, perceptual, pictures
from distill.checkpoint import State
from distill.config import Experiment, to_dict
from distill.data.fstriplets import FSTriplets
from distill.data.photos import read_manifest
from distill.data.shards import Shards
from distill.data.triplet import Mixture, Triplet, batches
from distill.online import Online, build_adapters, taps
from distill.stage import Stage, StageError, open_stage, upstream
from distill.tracking import Log, Sums, git_commit
from distill.trainee import trainee
from distill.validation import validation_pairs

CALIBRATION = 20  # batches that the statistics of batch normalisation are taken from in the end


class Diverged(ValueError):
    """A loss is no longer a number."""


def run(exp: Experiment, accelerator, tracker, name: str = "train") -> Stage:
    settings, weights, device = exp.train, exp.loss, accelerator.device
    torch.manual_seed(exp.train_seed)

    # What learns, its discriminator, and what is frozen: identity encoder, perceptual network, teacher in the loop.
    encoder = build.identity_encoder(exp).to(device)
    learner = trainee(exp, encoder, name)
    adversarial = any(weights.adversarial)
    critic = discriminator.build(weights.discriminator) if adversarial else nn.Module()
    looks = weights.perceptual or exp.distil.gram
    distance = perceptual.build(weights.perceptual_network, encoder, exp.weights, device) if looks else None
    teacher = Online(exp, device) if exp.distil.online else None
    stage = open_stage(exp, name, _inputs(exp, encoder, teacher), accelerator, extendable=("train.steps",))
    if stage.done:
        accelerator.print(f"  finished before: {stage.folder}")
        return stage
    student = learner.network.to(device)
    adapters = build_adapters(exp, learner, teacher, device).to(device) if exp.distil.features else nn.Module()
    if settings.sync_batch_norm and accelerator.num_processes > 1:
        student, critic = (batch_norm.convert(m, device) for m in (student, critic))

    # Channels last is the faster layout for these convolutions, on CPU and on GPU.
    student, critic = (m.to(device, memory_format=torch.channels_last) for m in (student, critic))

    # Accelerate wraps them for several processes and casts their passes.
    state = State(student, critic, adapters, exp)
    student, state.optimiser = accelerator.prepare(state.student, state.optimiser)
    trained = [student]
    if exp.distil.features:
        adapters = accelerator.prepare(state.adapters)
        trained.append(adapters)
    if adversarial:
        critic, state.optimiser_d = accelerator.prepare(state.discriminator, state.optimiser_d)
        trained.append(critic)
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
        for _ in range(settings.accumulation):
            batch = next(samples)
            lacking = torch.nonzero(batch.with_gt == 0).flatten()  # known here, where nothing waits for the device
            batch, lacking = batch.on_device(device).check(), lacking.to(device, non_blocking=True)
            with accelerator.accumulate(*trained), accelerator.autocast():
                # Frozen: the condition, and the swaps of a teacher in the loop where the batch has no GT.
                with torch.no_grad():
                    condition = learner.condition(batch.source, batch.target)
                    batch, their_maps = learner.complete(batch, condition, lacking), []
                    if teacher:
                        batch, their_maps = teacher.complete(batch, lacking, encoder, condition[0])

                # Generator: swap at three scales, judged by the discriminator, the identity encoder and the truth.
                with taps(state.student, tuple(exp.distil.layers) if exp.distil.features else ()) as maps:
                    fakes = student(batch.target, *condition)
                terms = generator_terms(fakes, batch, condition[0], encoder, state, distance, exp)
                if their_maps:
                    own = adapters([maps[layer] for layer in exp.distil.layers], their_maps)
                    terms["features"] = exp.distil.features * losses.features(own, their_maps).mean()
                accelerator.backward(torch.stack(list(terms.values())).sum())
                if accelerator.sync_gradients:
                    terms["grad_norm"] = accelerator.clip_grad_norm_(student.parameters(), settings.grad_clip)
                state.set_learning_rate()
                state.optimiser.step()
                state.optimiser.zero_grad()

                # Discriminator: real pictures apart from the swaps just made, as their batch statistics differ.
                if adversarial:
                    shown = torch.where(batch.src_as_true.view(-1, 1, 1, 1), batch.source, batch.target)
                    real = critic([losses.shrink(shown, f.shape[-1]) for f in fakes])
                    fake = critic([f.detach() for f in fakes])
                    terms["discriminator"] = losses.hinge_discriminator(
                        real, fake, weights.adversarial, weights.adversarial_batch
                    )
                    accelerator.backward(terms["discriminator"])
                    state.optimiser_d.step()
                    state.optimiser_d.zero_grad()
            sums.add(terms)

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
        stage.finish(steps=state.step, commit=git_commit())
    return stage


def refine(exp: Experiment, accelerator, tracker) -> Stage:
    """Stage `refine`: the second stage of FaceShifter, trained by the same loop on the frozen first."""
    second = replace(exp, train=exp.refine.train, loss=exp.refine.loss)
    return run(second, accelerator, tracker, "refine")


def generator_terms(fakes, batch: Triplet, embedding, encoder, state: State, distance, exp) -> dict[str, Tensor]:
    """The weighted loss terms of one batch, by name; terms of weight 0 are absent."""
    terms, weights, distil = {}, exp.loss, exp.distil
    if any(weights.adversarial):
        state.discriminator.requires_grad_(False)
        logits = state.discriminator(fakes)
        terms["adversarial"] = losses.hinge_generator(logits, weights.adversarial, weights.adversarial_batch)
        state.discriminator.requires_grad_(True)
    if any(weights.identity):
        judged = [(encoder(fake), weight) for fake, weight in zip(fakes, weights.identity, strict=True) if weight]
        embeddings, shares = zip(*judged, strict=True)
        terms["identity"] = losses.identity(embeddings, embedding, shares, weights.identity_margin)
    counts = batch.with_gt * batch.weight
    if any(weights.reconstruction):
        if weights.reconstruction_kind == "original":
            terms["reconstruction"] = losses.reconstruction_as_written(fakes, batch.gt, weights.reconstruction)
        else:
            terms["reconstruction"] = losses.reconstruction(
                fakes, batch.gt, counts, weights.reconstruction, weights.reconstruction_norm
            )
    if weights.attribute:
        maps, wanted = (state.student.attribute_maps(images) for images in (fakes[0], batch.target))
        terms["attribute"] = weights.attribute * losses.attribute(maps, wanted)
    if distance:  # the original compares with the target; where the truth is known it is the better reference
        known = batch.with_gt > 0
        reference = torch.where(known.view(-1, 1, 1, 1), batch.gt, batch.target)
        measured = distance(fakes[0], reference, gram=distil.gram > 0)
        if weights.perceptual:
            trusted = torch.where(known, batch.weight, 1.0)
            terms["perceptual"] = weights.perceptual * (measured["perceptual"] * trusted).mean()
        if distil.gram:
            terms["gram"] = distil.gram * (measured["gram"] * counts).mean()
    if not terms:
        raise StageError("loss: every weight is 0, there is nothing to learn")
    return terms


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
    train = {k: v for k, v in tree["train"].items() if k not in ("checkpoint_steps", "log_steps", "preview_steps")}
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
