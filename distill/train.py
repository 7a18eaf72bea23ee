"""Stage `train`: a student learns from triplets. The paragraph comments of `run` alone tell the algorithm."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from tqdm import tqdm

import students
from distill import evaluate, losses, perceptual, pictures, sync_batch_norm
from distill.checkpoint import State
from distill.config import Experiment, to_dict
from distill.data.photos import read_manifest
from distill.data.shards import Shards
from distill.data.triplet import Mixture, Triplet, batches
from distill.discriminator import MultiScaleDiscriminator
from distill.stage import Stage, StageError, open_stage, upstream
from distill.tracking import Log, Sums


class Diverged(ValueError):
    """A loss is no longer a number."""


def run(exp: Experiment, accelerator, tracker) -> Stage:
    settings, weights, device = exp.train, exp.loss, accelerator.device
    torch.manual_seed(exp.seed)

    # The student, its discriminator, and what is frozen: the identity encoder and the perceptual network.
    encoder = evaluate.identity_encoder(exp).to(device)
    student = evaluate.build_student(exp, encoder)
    adversarial = any(weights.adversarial)
    discriminator = MultiScaleDiscriminator(**weights.discriminator) if adversarial else nn.Module()
    distance = (
        perceptual.build(weights.perceptual_network, encoder, exp.weights, device) if weights.perceptual else None
    )
    stage = open_stage(exp, "train", _inputs(exp, encoder), accelerator, extendable=("train.steps",))
    if stage.done:
        accelerator.print(f"  finished before: {stage.folder}")
        return stage
    if settings.sync_batch_norm and accelerator.num_processes > 1:
        student, discriminator = (sync_batch_norm.convert(m, device) for m in (student, discriminator))

    # Channels last is the faster layout for these convolutions, on CPU and on GPU.
    student, discriminator = (m.to(device, memory_format=torch.channels_last) for m in (student, discriminator))

    # Accelerate wraps them for several processes and casts their passes.
    state = State(student, discriminator, exp)
    if adversarial:
        student, discriminator, state.optimiser, state.optimiser_d = accelerator.prepare(
            state.student, state.discriminator, state.optimiser, state.optimiser_d
        )
    else:
        student, state.optimiser = accelerator.prepare(state.student, state.optimiser)
    validation = evaluate.validation_pairs(exp).to(device)
    resumed = state.load(stage.folder / "state", accelerator)
    if resumed:
        accelerator.print(f"  resumed at step {state.step} of {settings.steps}")

    # Sample i of the stream depends on the seed and i alone, so the step number is all of the sampler's state.
    samples = batches(
        _mixture(exp), settings.batch_size, state.step * settings.accumulation, settings.steps * settings.accumulation,
        accelerator.process_index, accelerator.num_processes, exp.data.workers, pin=device.type == "cuda",
    )  # fmt: skip
    log = Log(stage.folder / "log.jsonl", state.step, enabled=accelerator.is_main_process)
    main = accelerator.is_main_process
    bar = tqdm(total=settings.steps, initial=state.step, desc="train", unit="step", disable=not main)
    sums, trained = Sums(), [student, discriminator] if adversarial else [student]

    while state.step < settings.steps:
        for _ in range(settings.accumulation):
            batch = next(samples).on_device(device).check()
            with accelerator.accumulate(*trained), accelerator.autocast():
                # Generator: swap at three scales, judged by the discriminator, the identity encoder and the truth.
                with torch.no_grad():
                    embedding = encoder(batch.source)
                fakes = student(batch.target, embedding)
                terms = generator_terms(fakes, batch, embedding, encoder, state.discriminator, distance, weights)
                accelerator.backward(torch.stack(list(terms.values())).sum())
                if accelerator.sync_gradients:
                    terms["grad_norm"] = accelerator.clip_grad_norm_(student.parameters(), settings.grad_clip)
                state.set_learning_rate()
                state.optimiser.step()
                state.optimiser.zero_grad()

                # Discriminator: real pictures apart from the swaps just made, as their batch statistics differ.
                if adversarial:
                    shown = torch.where(batch.src_as_true.view(-1, 1, 1, 1), batch.source, batch.target)
                    real = discriminator([losses.shrink(shown, f.shape[-1]) for f in fakes])
                    fake = discriminator([f.detach() for f in fakes])
                    terms["discriminator"] = losses.hinge_discriminator(real, fake, weights.adversarial)
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
            tracker.metrics({f"train/{k}": v for k, v in means.items()}, state.step)
            bar.set_postfix({k: f"{means[k]:.3f}" for k in ("identity", "reconstruction") if k in means})
        if (state.step % settings.preview_steps == 0 or last) and main:
            measured, grid = validation.look(state.average)
            log.write(state.step, measured)
            tracker.metrics(measured, state.step)
            pictures.save_png(grid, stage.folder / "previews" / f"{state.step:07d}.png")
            tracker.artifact(stage.folder / "previews" / f"{state.step:07d}.png", "previews")
        if state.step % settings.checkpoint_steps == 0 or last:
            _stop_if_diverged(sums.look(accelerator), state.step, stage)
            state.save(stage.folder / "state", accelerator)
    bar.close()

    # What goes on the phone: the average, without its teacher, its critic and its judges.
    if accelerator.is_main_process:
        path = stage.folder / "student.safetensors"
        students.save(
            state.average, path, experiment=exp.name, steps=str(state.step), identity_encoder=encoder.card.name,
            identity_encoder_hash=encoder.weight_hash,
        )  # fmt: skip
        tracker.artifact(path)
        stage.finish(steps=state.step)
    return stage


def generator_terms(fakes, batch: Triplet, embedding, encoder, discriminator, distance, weights) -> dict[str, Tensor]:
    """The weighted loss terms of one batch, by name; terms of weight 0 are absent."""
    terms = {}
    if any(weights.adversarial):
        discriminator.requires_grad_(False)
        terms["adversarial"] = losses.hinge_generator(discriminator(fakes), weights.adversarial)
        discriminator.requires_grad_(True)
    if any(weights.identity):
        judged = [(encoder(fake), weight) for fake, weight in zip(fakes, weights.identity, strict=True) if weight]
        embeddings, shares = zip(*judged, strict=True)
        terms["identity"] = losses.identity(embeddings, embedding, shares, weights.identity_margin)
    if any(weights.reconstruction):
        terms["reconstruction"] = losses.reconstruction(fakes, batch.gt, batch.with_gt, weights.reconstruction)
    if distance:  # the original compares with the target; where the truth is known it is the better reference
        known = batch.with_gt.view(-1, 1, 1, 1) > 0
        terms["perceptual"] = weights.perceptual * distance(fakes[0], torch.where(known, batch.gt, batch.target))
    if not terms:
        raise StageError("loss: every weight is 0, there is nothing to learn")
    return terms


def _inputs(exp: Experiment, encoder) -> dict:
    tree = to_dict(exp)
    train = {k: v for k, v in tree["train"].items() if k not in ("checkpoint_steps", "log_steps", "preview_steps")}
    made = {"data": upstream(exp, "data")}
    if exp.train.mix.pseudo_gt:
        made["pseudo_gt"] = upstream(exp, "pseudo_gt")
    return {
        **made, "seed": exp.seed, "train": train, "loss": tree["loss"], "student": tree["student"],
        "resolution": exp.data.resolution, "identity_encoder": encoder.weight_hash,
    }  # fmt: skip


def _mixture(exp: Experiment) -> Mixture:
    mix = to_dict(exp.train.mix)
    shards = Shards(exp.folder / "pseudo_gt") if mix["pseudo_gt"] else None
    photos = read_manifest(exp.folder / "data", "train", exp.data.resolution)
    return Mixture(shards, photos, mix, exp.seed, exp.train.flip, exp.data.cache_gb, exp.data.workers)


def _stop_if_diverged(means: dict[str, float], step: int, stage: Stage) -> None:
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise Diverged(
            f"{stage.folder}: {', '.join(broken)} is not a number at step {step}; the last checkpoint is whole. "
            f"Lower train.lr or train.grad_clip, or use train.precision=bf16 or fp32, and run again"
        )
