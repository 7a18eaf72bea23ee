"""Stage `train`: a network learns from triplets. The paragraph comments of `run`, `Step` and `Step.learn`
summarise the algorithm.

Names: `net` is the network in training, `ema` its averaged weights, `ddp` the wrapper that Accelerate puts around it;
`discriminator` and `ddp_discriminator`, `adapters` and `ddp_adapters` likewise. Images are (N, 3, R, R) float32 RGB in
[-1, 1], embeddings (N, D) of unit length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from tqdm import tqdm

from distill import build
from distill.config import Experiment, to_dict
from distill.data.cache import Room
from distill.data.contents import contents
from distill.data.fstriplets import FSTriplets
from distill.data.photos import read_manifest
from distill.data.triplet import Triplet
from distill.pseudo_gt.shards import Shards
from distill.stage import OutOfTime, Stage, StageError, open_stage, signals_held, stop_if_asked, upstream
from distill.train import batch_norm, losses
from distill.train.checkpoint import State
from distill.train.discriminator import build as build_discriminator
from distill.train.learners import Learner
from distill.train.monitor import Log, Preview
from distill.train.online import OnlineTeacher, build_adapters, taps
from distill.train.perceptual import Perceptual
from distill.train.perceptual import build as build_perceptual
from distill.train.stream import Mixture, batches
from students.identity_encoder import IdentityEncoder
from swapcore.files import DiskFull
from swapcore.hardware import git_commit
from swapcore.images import save_png

CALIBRATION_STEPS = 20  # batches for the EMA's statistics of batch normalisation, after the last step
# Keys of `train` that do not change the result: a resumed run may have other values.
EXECUTION_KEYS = ("checkpoint_steps", "log_steps", "preview_steps", "compile", "autotune")


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
    bar = tqdm(total=settings.steps, initial=state.step, desc=name, unit="step", disable=not main)

    def save() -> None:
        _stop_if_diverged(state.sums.look(accelerator), state.step, stage)
        state.save(stage.folder / "state", accelerator)

    def report() -> None:
        """All that follows a step. It may be repeated: log and sums are as before until it is complete."""
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
            metrics, grid = preview.swap(state.ema, learner.condition)
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
                state.step += 1
                state.update_ema()
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
        learner.save(state.ema, path, experiment=exp.name, steps=str(state.step), **encoder_facts)
        tracker.artifact(path)
        stage.finish(minutes=round(state.elapsed_s() / 60, 2), steps=state.step, commit=git_commit())
    return stage


def refine(exp: Experiment, accelerator, tracker) -> Stage:
    """Stage `refine`: the second stage of a teacher, trained by the same loop on the frozen first."""
    return run(replace(exp, train=exp.refine.train, loss=exp.refine.loss), accelerator, tracker, "refine")


@dataclass
class Networks:
    """The networks of a step: the learner and its discriminator, and the frozen ones. `discriminator` is an empty
    module where loss.adversarial is 0."""

    encoder: IdentityEncoder
    learner: Learner
    discriminator: nn.Module
    perceptual: Perceptual | None = None
    teacher: OnlineTeacher | None = None


def build_networks(exp: Experiment, device: torch.device, stage: str = "train") -> Networks:
    """The networks of an experiment, with its weights and seed.

    The order of the lines decides the initial weights, because each network draws random numbers, even if its weights
    come from a file. Do not change it.
    """
    torch.manual_seed(exp.train_seed)
    loss = exp.loss
    encoder = build.identity_encoder(exp).to(device)
    learner = build.learner(exp, encoder, stage)
    discriminator = build_discriminator(loss.discriminator) if any(loss.adversarial) else nn.Module()
    perceptual = None
    if loss.perceptual or exp.distil.gram:
        perceptual = build_perceptual(loss.perceptual_network, encoder, exp.weights, device)
    teacher = OnlineTeacher(exp, device) if exp.distil.online else None
    return Networks(encoder, learner, discriminator, perceptual, teacher)


class Step:
    """One training step. `state` holds the networks in training, for the loop and its checkpoints."""

    def __init__(self, exp: Experiment, networks: Networks, accelerator) -> None:
        self.exp, self.accelerator, self.device = exp, accelerator, accelerator.device
        self.learner, self.teacher = networks.learner, networks.teacher
        self.encoder, self.perceptual = networks.encoder, networks.perceptual

        # Adapters, where the net also learns from maps inside the teacher.
        self.layers = tuple(exp.distil.layers) if exp.distil.features else ()
        net, discriminator, adapters = self.learner.net.to(self.device), networks.discriminator, nn.Module()
        if self.layers:
            adapters = build_adapters(exp, self.learner, self.teacher, self.device).to(self.device)

        # Batch normalisation over all processes. Channels last is the faster layout for convolutions on CPU and GPU.
        if exp.train.sync_batch_norm and accelerator.num_processes > 1:
            net, discriminator = (batch_norm.convert(m, self.device) for m in (net, discriminator))
        net, discriminator = (m.to(self.device, memory_format=torch.channels_last) for m in (net, discriminator))

        # Accelerate wraps the networks that learn, for several processes and mixed precision.
        self.state = state = State(net, discriminator, adapters, exp)
        self.ddp, state.optimiser = accelerator.prepare(net, state.optimiser)
        self.ddp_adapters = accelerator.prepare(adapters) if self.layers else None
        self.ddp_discriminator = None
        if any(exp.loss.adversarial):
            self.ddp_discriminator, state.optimiser_d = accelerator.prepare(discriminator, state.optimiser_d)
        self.wrapped = [m for m in (self.ddp, self.ddp_adapters, self.ddp_discriminator) if m is not None]

        # A discriminator that normalises every picture by itself may see real pictures and swaps in one pass.
        self.one_pass = self.device.type == "cuda" and getattr(discriminator, "per_picture", False)
        torch.backends.cudnn.benchmark = exp.train.autotune

        # Compile in place: names, checkpoints and the EMA do not change. A net with tapped layers is not
        # compiled, because compiled code ignores hooks that are added later.
        if exp.train.compile:
            if not self.layers:
                net.compile(dynamic=False)
            if self.ddp_discriminator is not None:
                discriminator.compile(dynamic=False)
            self.encoder = torch.compile(self.encoder, dynamic=False)
            self.perceptual = self.perceptual and self.perceptual.compiled()

    def learn(self, batch: Triplet) -> dict[str, Tensor]:
        """Train net and discriminator on one batch of the loader. Returns the weighted losses by name."""
        state, accelerator, loss = self.state, self.accelerator, self.exp.loss
        without_gt = torch.nonzero(batch.with_gt == 0).flatten()  # on the CPU, where nothing waits for the device
        batch, without_gt = batch.on_device(self.device).check(), without_gt.to(self.device, non_blocking=True)
        with accelerator.accumulate(*self.wrapped), accelerator.autocast():
            # Frozen networks: the condition, and ground truth from a teacher in the loop for samples without it.
            with torch.no_grad():
                condition = self.learner.condition(batch.source, batch.target)
                batch, teacher_maps = self.learner.complete(batch, condition, without_gt), []
                if self.teacher:
                    batch, teacher_maps = self.teacher.complete(batch, without_gt, self.encoder, condition[0])

            # Generator: swap at full, half and quarter resolution, and descend the sum of the losses.
            with taps(state.net, self.layers) as maps:
                swaps = self.ddp(batch.target, *condition)
            assert swaps[0].shape == batch.target.shape, f"swaps {swaps[0].shape} of targets {batch.target.shape}"
            terms = self.generator_terms(swaps, batch, condition[0], maps, teacher_maps)
            accelerator.backward(torch.stack(list(terms.values())).sum())
            if accelerator.sync_gradients:
                terms["grad_norm"] = accelerator.clip_grad_norm_(self.ddp.parameters(), self.exp.train.grad_clip)
            state.set_learning_rate()
            state.optimiser.step()
            state.optimiser.zero_grad()

            # Discriminator: the same swaps against real pictures.
            if self.ddp_discriminator is not None:
                real = torch.where(batch.src_as_true.view(-1, 1, 1, 1), batch.source, batch.target)
                logits = self.discriminate([losses.shrink(real, swap.shape[-1]) for swap in swaps], swaps)
                terms["discriminator"] = losses.hinge_discriminator(*logits, loss.adversarial, loss.adversarial_batch)
                accelerator.backward(terms["discriminator"])
                state.optimiser_d.step()
                state.optimiser_d.zero_grad()
        return terms

    def generator_terms(
        self, swaps: Sequence[Tensor], batch: Triplet, embedding: Tensor, maps: dict[str, Tensor],
        teacher_maps: list[Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        """The weighted losses of the generator by name, absent where their weight is 0. `maps` are those of the tapped
        layers of the net by name, `teacher_maps` those of the teacher in the same order."""
        loss, distil, terms = self.exp.loss, self.exp.distil, {}
        known, counts = batch.with_gt > 0, batch.with_gt * batch.weight
        if any(loss.adversarial):
            discriminator = self.state.discriminator.requires_grad_(False)  # gradients go through it to the swaps
            logits = discriminator(swaps)
            discriminator.requires_grad_(True)
            terms["adversarial"] = losses.hinge_generator(logits, loss.adversarial, loss.adversarial_batch)
        if any(loss.identity):
            own = [self.encoder(swap) if weight else None for swap, weight in zip(swaps, loss.identity, strict=True)]
            terms["identity"] = losses.identity(own, embedding, loss.identity, loss.identity_margin)
        if any(loss.reconstruction) and loss.reconstruction_kind == "original":
            terms["reconstruction"] = losses.reconstruction_as_written(swaps, batch.gt, loss.reconstruction)
        elif any(loss.reconstruction):
            weights, norm = loss.reconstruction, loss.reconstruction_norm
            terms["reconstruction"] = losses.reconstruction(swaps, batch.gt, counts, weights, norm)
        if loss.attribute:
            own, expected = (self.state.net.attribute_maps(images) for images in (swaps[0], batch.target))
            terms["attribute"] = loss.attribute * losses.attribute(own, expected)
        if self.perceptual:  # the original compares with the target; ground truth is the better reference
            reference = torch.where(known.view(-1, 1, 1, 1), batch.gt, batch.target)
            distances = self.perceptual(swaps[0], reference, gram=distil.gram > 0)
        if loss.perceptual:
            weight = torch.where(known, batch.weight, 1.0)
            terms["perceptual"] = loss.perceptual * (distances["perceptual"] * weight).mean()
        if distil.gram:
            terms["gram"] = distil.gram * (distances["gram"] * counts).mean()
        if distil.features:
            adapted = self.ddp_adapters([maps[layer] for layer in self.layers], teacher_maps)
            terms["features"] = distil.features * losses.features(adapted, teacher_maps).mean()
        if not terms:
            raise StageError("loss: every weight is 0; set one above 0")
        return terms

    def discriminate(self, real: Sequence[Tensor], swaps: Sequence[Tensor]) -> tuple[Sequence[Tensor], ...]:
        """Logits of real pictures and of swaps, by scale; in two passes if the discriminator normalises over the
        batch."""
        swaps = [swap.detach() for swap in swaps]
        if not self.one_pass:
            return self.ddp_discriminator(real), self.ddp_discriminator(swaps)
        logits = self.ddp_discriminator([torch.cat(pair) for pair in zip(real, swaps, strict=True)])
        return tuple(zip(*(logit.chunk(2) for logit in logits), strict=True))


def mixture(exp: Experiment, device: torch.device | None = None) -> Mixture:
    """The stream of training samples of an experiment, for training on `device` (default: the CPU). Raises DataError,
    StageError."""
    mix, data, fstriplets, shards = to_dict(exp.train.mix), exp.data, None, None
    folders = [exp.folder / "pseudo_gt", exp.folder / "data"]
    if mix["pseudo_gt"]:
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
        tuple(folders), data.workers,
    )  # fmt: skip


def _inputs(exp: Experiment, networks: Networks, accelerator, name: str) -> dict:
    """Everything that the result depends on, for the record of stage `name`."""
    tree = to_dict(exp)
    train = {key: value for key, value in tree["train"].items() if key not in EXECUTION_KEYS}
    data = {"data": upstream(exp, "data")}
    if exp.train.mix.pseudo_gt:
        data["pseudo_gt"] = upstream(exp, "pseudo_gt")
    if networks.teacher:
        data["online"] = networks.teacher.network.weight_hash
    if name == "refine":
        data["first_stage"] = upstream(exp, "train")
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
            f"Lower train.lr or train.grad_clip, or use train.precision=bf16 or fp32, and run again"
        )
