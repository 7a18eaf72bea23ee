"""Stage `train`: a student learns from triplets. The paragraph comments of `run` alone tell the algorithm."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import students
from distill import evaluate, losses, perceptual, pictures, sync_batch_norm
from distill.config import Experiment, to_dict
from distill.data.photos import read_manifest
from distill.data.shards import Shards
from distill.data.triplet import Mixture, Triplet, batches
from distill.discriminator import MultiScaleDiscriminator
from distill.stage import Stage, StageError, open_stage, upstream, whole_file, write_text

FORMAT = 1  # of the checkpoints


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

    # Accelerate places them on devices, wraps them for several processes and casts their passes.
    state = State(student.to(device), discriminator.to(device), exp)
    if adversarial:
        student, discriminator, state.optimiser, state.optimiser_d = accelerator.prepare(
            state.student, state.discriminator, state.optimiser, state.optimiser_d
        )
    else:
        student, state.optimiser = accelerator.prepare(state.student, state.optimiser)
    resumed = state.load(stage.folder / "state", accelerator)
    if resumed:
        accelerator.print(f"  resumed at step {state.step} of {settings.steps}")

    # Sample i of the stream depends on the seed and i alone, so the step number is all of the sampler's state.
    samples = batches(
        _mixture(exp), settings.batch_size, state.step * settings.accumulation, settings.steps * settings.accumulation,
        accelerator.process_index, accelerator.num_processes, exp.data.workers, pin=device.type == "cuda",
    )  # fmt: skip
    validation = evaluate.validation_pairs(exp).to(device)
    log = Log(stage.folder / "log.jsonl", state.step, enabled=accelerator.is_main_process)
    bar = tqdm(
        total=settings.steps, initial=state.step, desc="train", unit="step", disable=not accelerator.is_main_process
    )
    sums: dict[str, Tensor] = {}

    while state.step < settings.steps:
        for _ in range(settings.accumulation):
            batch = next(samples).on_device(device).check()

            # Generator: swap at three scales, judged by the discriminator, the identity encoder and the ground truth.
            with accelerator.accumulate(student), accelerator.autocast():
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
                with accelerator.accumulate(discriminator), accelerator.autocast():
                    shown = torch.where(batch.src_as_true.view(-1, 1, 1, 1), batch.source, batch.target)
                    real = discriminator([losses.shrink(shown, f.shape[-1]) for f in fakes])
                    fake = discriminator([f.detach() for f in fakes])
                    terms["discriminator"] = losses.hinge_discriminator(real, fake, weights.adversarial)
                    accelerator.backward(terms["discriminator"])
                    state.optimiser_d.step()
                    state.optimiser_d.zero_grad()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach()

        # After the step: the average; now and then a line of the log, a look at people never trained on, a checkpoint.
        state.step += 1
        state.update_average()
        bar.update()
        last = state.step == settings.steps
        if state.step % settings.log_steps == 0 or last:
            means = _means(sums, log.since(state.step) * settings.accumulation, accelerator)
            sums = {}
            _stop_if_diverged(means, state.step, stage)
            log.write(state.step, means)
            tracker.metrics({f"train/{k}": v for k, v in means.items()}, state.step)
            bar.set_postfix({k: f"{means[k]:.3f}" for k in ("identity", "reconstruction") if k in means})
        if (state.step % settings.preview_steps == 0 or last) and accelerator.is_main_process:
            measured, grid = validation.look(state.average)
            log.write(state.step, measured)
            tracker.metrics(measured, state.step)
            pictures.save_png(grid, stage.folder / "previews" / f"{state.step:07d}.png")
            tracker.artifact(stage.folder / "previews" / f"{state.step:07d}.png", "previews")
        if state.step % settings.checkpoint_steps == 0 or last:
            if sums:
                _stop_if_diverged(_means(sums, 1, accelerator), state.step, stage)
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


class State:
    """All that a run must remember to go on bit for bit: both networks, both optimisers, the average, the step."""

    def __init__(self, student: nn.Module, discriminator: nn.Module, exp: Experiment):
        self.student, self.discriminator, self.settings = student, discriminator, exp.train
        self.average = copy.deepcopy(student).eval().requires_grad_(False)
        fused = next(student.parameters()).is_cuda
        parameters = [p for p in discriminator.parameters()]
        self.optimiser = torch.optim.Adam(student.parameters(), exp.train.lr, betas=exp.train.betas, fused=fused)
        self.optimiser_d = (
            torch.optim.Adam(parameters, exp.train.lr_discriminator, betas=exp.train.betas, fused=fused)
            if parameters
            else None
        )
        self.step = 0

    def set_learning_rate(self) -> None:
        s = self.settings
        warm = min(1.0, (self.step + 1) / s.warmup_steps) if s.warmup_steps else 1.0
        fall = s.lr_final + (1 - s.lr_final) * (1 + math.cos(math.pi * self.step / max(1, s.steps))) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = s.lr * warm * fall

    @torch.no_grad()
    def update_average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))  # the first steps would weigh too long
        torch._foreach_lerp_(list(self.average.parameters()), list(self.student.parameters()), 1 - decay)
        for average, buffer in zip(self.average.buffers(), self.student.buffers(), strict=True):
            average.copy_(buffer)

    def save(self, folder: Path, accelerator) -> None:
        """Write `step-NNNNNNN.pt` whole, then remove the one before."""
        rng = {"cpu": torch.get_rng_state()}
        if accelerator.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(accelerator.device)
        rngs = accelerator.gather_for_metrics([rng], use_gather_object=True)
        if not accelerator.is_main_process:
            return
        content = {
            "format": FORMAT,
            "step": self.step,
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "optimiser_d": self.optimiser_d.state_dict() if self.optimiser_d else None,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
            "rng": rngs,
        }
        path = folder / f"step-{self.step:07d}.pt"
        with whole_file(path) as temporary:
            torch.save(content, temporary)
        for old in folder.glob("step-*.pt"):
            if old != path:
                old.unlink()

    def load(self, folder: Path, accelerator) -> bool:
        """Go on from the newest checkpoint, if there is one. Raises StageError naming a damaged or foreign file."""
        paths = sorted(folder.glob("step-*.pt"))
        if not paths:
            return False
        path = paths[-1]
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            if content["format"] != FORMAT:
                raise StageError(f"{path}: checkpoint format {content['format']}, this program writes {FORMAT}")
            self.student.load_state_dict(content["student"])
            self.average.load_state_dict(content["average"])
            self.discriminator.load_state_dict(content["discriminator"])
            self.optimiser.load_state_dict(content["optimiser"])
            if self.optimiser_d:
                self.optimiser_d.load_state_dict(content["optimiser_d"])
        except (RuntimeError, KeyError, EOFError, OSError, AttributeError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise StageError(f"{path}: not a checkpoint of this student ({reason}); delete it to start anew") from None
        if accelerator.scaler and content["scaler"]:
            accelerator.scaler.load_state_dict(content["scaler"])
        self.step = content["step"]
        if accelerator.process_index < len(content["rng"]):
            rng = content["rng"][accelerator.process_index]
            torch.set_rng_state(rng["cpu"])
            if "cuda" in rng and accelerator.device.type == "cuda":
                torch.cuda.set_rng_state(rng["cuda"], accelerator.device)
        return True


@dataclass
class Log:
    """`log.jsonl`: one line of means per `log_steps`; lines after the checkpoint that is resumed from are dropped."""

    path: Path
    first: int
    enabled: bool
    before: int = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.first
        if self.enabled:
            lines = read_log(self.path.parent)
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in lines if row["step"] <= self.first))

    def since(self, step: int) -> int:
        """Steps since the last call, or since the start."""
        steps, self.before = step - self.before, step
        return steps

    def write(self, step: int, values: dict[str, float]) -> None:
        if self.enabled:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")


def read_log(folder: Path) -> list[dict[str, float]]:
    """Rows of a training log; a last line cut off by a kill is left out."""
    path = folder / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


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
    return Mixture(shards, photos, mix, exp.seed, exp.train.flip, exp.data.cache_gb)


def _means(sums: dict[str, Tensor], count: int, accelerator) -> dict[str, float]:
    """Means over steps and processes; one transfer from the device for all of them."""
    means = accelerator.reduce(torch.stack([v.float() for v in sums.values()]) / count, "mean").tolist()
    return {k: round(v, 6) for k, v in zip(sums, means, strict=True)}


def _stop_if_diverged(means: dict[str, float], step: int, stage: Stage) -> None:
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise Diverged(
            f"{stage.folder}: {', '.join(broken)} is not a number at step {step}; the last checkpoint is whole. "
            f"Lower train.lr or train.grad_clip, or use train.precision=bf16 or fp32, and run again"
        )
