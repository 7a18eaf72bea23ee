"""One step of training: the networks that take part, and how those that learn do so from a batch.

The paragraph comments of `Step.learn` alone tell the algorithm; `distill/train.py` is the loop around it. What times
or estimates a step calls the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill import build
from distill.config import Experiment
from distill.data.triplet import Triplet
from distill.stage import StageError
from distill.train import batch_norm, discriminator, losses, perceptual
from distill.train.checkpoint import State
from distill.train.learners import FirstStage, SecondStage, Student, trainee
from distill.train.online import Online, build_adapters, taps
from distill.train.perceptual import Perceptual
from students.identity_encoder import IdentityEncoder


@dataclass
class Networks:
    """What takes part in a step: what learns, its discriminator, and what is frozen."""

    encoder: IdentityEncoder
    learner: Student | FirstStage | SecondStage
    critic: nn.Module  # an empty one where loss.adversarial is 0
    distance: Perceptual | None = None
    teacher: Online | None = None  # in the loop


def networks(exp: Experiment, device: torch.device, stage: str = "train") -> Networks:
    """Those of an experiment, with its weights and seed. The order is part of the seed's meaning."""
    torch.manual_seed(exp.train_seed)
    weights = exp.loss
    encoder = build.identity_encoder(exp).to(device)
    learner = trainee(exp, encoder, stage)
    critic = discriminator.build(weights.discriminator) if any(weights.adversarial) else nn.Module()
    looks = weights.perceptual or exp.distil.gram
    distance = perceptual.build(weights.perceptual_network, encoder, exp.weights, device) if looks else None
    return Networks(encoder, learner, critic, distance, Online(exp, device) if exp.distil.online else None)


class Step:
    """Networks made ready to learn on the accelerator's device. `state` is all of them that a checkpoint keeps."""

    def __init__(self, exp: Experiment, parts: Networks, accelerator) -> None:
        self.exp, self.accelerator, self.device = exp, accelerator, accelerator.device
        self.learner, self.teacher = parts.learner, parts.teacher
        self.encoder, self.distance = parts.encoder, parts.distance
        self.layers = tuple(exp.distil.layers) if exp.distil.features else ()
        student, critic = parts.learner.network.to(self.device), parts.critic
        adapters = nn.Module()
        if self.layers:
            adapters = build_adapters(exp, parts.learner, parts.teacher, self.device).to(self.device)
        if exp.train.sync_batch_norm and accelerator.num_processes > 1:
            student, critic = (batch_norm.convert(m, self.device) for m in (student, critic))

        # Channels last is the faster layout for these convolutions, on CPU and on GPU.
        student, critic = (m.to(self.device, memory_format=torch.channels_last) for m in (student, critic))

        # Accelerate wraps them for several processes and casts their passes.
        self.state = state = State(student, critic, adapters, exp)
        self.student, state.optimiser = accelerator.prepare(student, state.optimiser)
        self.trained, self.critic, self.adapters = [self.student], None, None
        if self.layers:
            self.adapters = accelerator.prepare(adapters)
            self.trained.append(self.adapters)
        if any(exp.loss.adversarial):
            self.critic, state.optimiser_d = accelerator.prepare(critic, state.optimiser_d)
            self.trained.append(self.critic)

        # Where every picture is normalised by itself, real ones and swaps may share a pass.
        self.one_pass = self.device.type == "cuda" and getattr(critic, "per_picture", False)
        torch.backends.cudnn.benchmark = exp.train.autotune
        if exp.train.compile:
            self._compile()

    def _compile(self) -> None:
        """Compile what every step runs, in place: names, checkpoints and the average stay what they are.

        A student whose layers are tapped stays as it is, because compiled code does not see hooks that come and go.
        """
        if not self.layers:
            self.state.student.compile(dynamic=False)
        if self.critic is not None:
            self.state.discriminator.compile(dynamic=False)
        self.encoder = torch.compile(self.encoder, dynamic=False)
        if self.distance:
            self.distance = self.distance.compiled()

    def learn(self, batch: Triplet) -> dict[str, Tensor]:
        """The weighted loss terms of one batch, from which student and discriminator have learnt."""
        exp, state, accelerator, weights = self.exp, self.state, self.accelerator, self.exp.loss
        lacking = torch.nonzero(batch.with_gt == 0).flatten()  # known here, where nothing waits for the device
        batch, lacking = batch.on_device(self.device).check(), lacking.to(self.device, non_blocking=True)
        with accelerator.accumulate(*self.trained), accelerator.autocast():
            # Frozen: the condition, and the swaps of a teacher in the loop where the batch has no GT.
            with torch.no_grad():
                condition = self.learner.condition(batch.source, batch.target)
                batch, their_maps = self.learner.complete(batch, condition, lacking), []
                if self.teacher:
                    batch, their_maps = self.teacher.complete(batch, lacking, self.encoder, condition[0])

            # Generator: swap at three scales, judged by the discriminator, the identity encoder and the truth.
            with taps(state.student, self.layers) as maps:
                fakes = self.student(batch.target, *condition)
            terms = generator_terms(fakes, batch, condition[0], self.encoder, state, self.distance, exp)
            if their_maps:
                own = self.adapters([maps[layer] for layer in self.layers], their_maps)
                terms["features"] = exp.distil.features * losses.features(own, their_maps).mean()
            accelerator.backward(torch.stack(list(terms.values())).sum())
            if accelerator.sync_gradients:
                terms["grad_norm"] = accelerator.clip_grad_norm_(self.student.parameters(), exp.train.grad_clip)
            state.set_learning_rate()
            state.optimiser.step()
            state.optimiser.zero_grad()

            # Discriminator: the swaps just made against real pictures.
            if self.critic is not None:
                shown = torch.where(batch.src_as_true.view(-1, 1, 1, 1), batch.source, batch.target)
                real, fake = self._judge([losses.shrink(shown, f.shape[-1]) for f in fakes], fakes)
                terms["discriminator"] = losses.hinge_discriminator(
                    real, fake, weights.adversarial, weights.adversarial_batch
                )
                accelerator.backward(terms["discriminator"])
                state.optimiser_d.step()
                state.optimiser_d.zero_grad()
        return terms

    def _judge(self, real: Sequence[Tensor], fakes: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Logits of real pictures and of swaps; apart where a discriminator takes statistics of a batch."""
        fakes = [f.detach() for f in fakes]
        if not self.one_pass:
            return self.critic(real), self.critic(fakes)
        logits = self.critic([torch.cat(pair) for pair in zip(real, fakes, strict=True)])
        real, fake = zip(*(logit.chunk(2) for logit in logits), strict=True)
        return real, fake


def generator_terms(
    fakes: Sequence[Tensor], batch: Triplet, embedding: Tensor, encoder: Callable[[Tensor], Tensor], state: State,
    distance: Perceptual | None, exp: Experiment,
) -> dict[str, Tensor]:  # fmt: skip
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
