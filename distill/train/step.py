"""One training step: the networks that take part, and what they compute. The paragraph comments of `Step` and of its
methods summarise the algorithm.

Names: `net` is the network in training, `ema` its averaged weights, `ddp` the wrapper that Accelerate puts around it;
`discriminator` and `ddp_discriminator`, `adapters` and `ddp_adapters` likewise. Images are (N, 3, R, R) float32 RGB in
[-1, 1], embeddings (N, D) of unit length.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from distill import build
from distill.config import Experiment
from distill.data.triplet import Triplet
from distill.losses import terms as losses
from distill.losses.discriminator import build as build_discriminator
from distill.losses.disturbance import disturbed
from distill.losses.frozen import for_training
from distill.losses.grid import grid, patterns
from distill.losses.perceptual import Perceptual
from distill.losses.perceptual import build as build_perceptual
from distill.stage import StageError
from distill.train import batch_norm
from distill.train.capture import Captured, compile_regions, keep_compiled_in, reason_against
from distill.train.checkpoint import State
from distill.train.learners import Learner
from distill.train.online import OnlineTeacher, build_adapters, taps
from students.identity_encoder import IdentityEncoder


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
        self.learner, self.teacher = copy(networks.learner), networks.teacher

        # Frozen networks, in the form that is fastest here. The learner of the loop keeps the encoder as it is.
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision)
        self.learner.encoder = self.encoder = for_training(networks.encoder, half)
        self.perceptual, self.shares_maps = networks.perceptual, False
        if self.perceptual and self.perceptual.features == networks.encoder.features:
            # The identity loss has the feature maps of the full-size swap already, unless it sees a disturbed one.
            disturbs = exp.loss.identity_disturbance or exp.loss.identity_fading
            self.shares_maps = exp.loss.identity[0] > 0 and not disturbs
            self.perceptual = replace(self.perceptual, features=self.encoder.features)
        elif self.perceptual:
            self.perceptual = replace(self.perceptual, features=for_training(self.perceptual.features, half))

        # The patterns of an upsampling grid, if it is penalised.
        self.patterns = patterns(self.device) if exp.loss.grid else None

        # Adapters, where the net also learns from maps inside the teacher.
        self.layers = tuple(exp.distil.layers) if exp.distil.features else ()
        net, discriminator, adapters = self.learner.net.to(self.device), networks.discriminator, nn.Module()
        if self.layers:
            adapters = build_adapters(exp, networks.learner, self.teacher, self.device).to(self.device)

        # Batch normalisation over all processes. Channels last is the faster layout for convolutions on CPU and GPU.
        if exp.train.sync_batch_norm and accelerator.num_processes > 1:
            net, discriminator = (batch_norm.convert(m, self.device) for m in (net, discriminator))
        net, discriminator = (m.to(self.device, memory_format=torch.channels_last) for m in (net, discriminator))

        # Accelerate wraps the networks that learn, for several processes and mixed precision.
        self.state = state = State(net, discriminator, adapters, exp)
        self.size = exp.data.resolution  # of the pictures that the networks take now
        self.ddp, state.optimiser = accelerator.prepare(net, state.optimiser)
        self.ddp_adapters = accelerator.prepare(adapters) if self.layers else None
        self.ddp_discriminator = None
        if any(exp.loss.adversarial):
            self.ddp_discriminator, state.optimiser_d = accelerator.prepare(discriminator, state.optimiser_d)
        self.wrapped = [m for m in (self.ddp, self.ddp_adapters, self.ddp_discriminator) if m is not None]
        self.clipped = list(net.parameters())
        # The discriminator's parameters without gradients; the same memory.
        self.frozen = {name: p.detach() for name, p in discriminator.named_parameters()}

        # A discriminator that normalises every picture by itself may see real pictures and swaps in one pass.
        self.one_pass = self.device.type == "cuda" and getattr(discriminator, "per_picture", False)
        torch.backends.cudnn.benchmark = exp.train.autotune

        # Compile in place: names, checkpoints and the EMA do not change. A net with tapped layers is not
        # compiled, because compiled code ignores hooks that are added later.
        if exp.train.compile:
            keep_compiled_in(exp.train.compile_cache)
            compiled = [None if self.layers else net, self.ddp_discriminator and discriminator, self.encoder]
            for network in filter(None, compiled):
                compile_regions(network)
            if self.perceptual and self.perceptual.features != self.encoder.features:
                self.perceptual = self.perceptual.compiled()

        # Capture the step as a CUDA graph, where that can be.
        mode, accumulation = exp.train.capture, exp.train.accumulation
        processes, scaler = accelerator.num_processes, accelerator.scaler
        self.not_captured = reason_against(mode, self.device, processes, accumulation, scaler, self.teacher)
        if mode == "on" and self.not_captured:
            raise StageError(f"train.capture=on: {self.not_captured}; set train.capture=auto")
        self.captured: Captured | None = None
        if not self.not_captured:
            state.make_capturable()

    def learn(self, batch: Triplet) -> dict[str, Tensor]:
        """Train net and discriminator on one batch of the loader. Returns the weighted losses by name.

        The batch that completes a step (of `train.accumulation` batches) moves weights, average and `state.step`.
        """
        self.state.set_rates()
        self.resize(self.size_of(self.state.step))
        if not self.not_captured and self.captured is None:  # now, because a checkpoint has been loaded
            self.captured = Captured(self.compute, self.state, batch)
        if self.captured and self.captured.fits(batch):
            terms = self.captured(batch)
        else:
            without_gt = None
            if self.teacher:  # the flags are in the memory of the host, where nothing waits for the device
                without_gt = torch.nonzero(batch.with_gt == 0).flatten().to(self.device, non_blocking=True)
            terms = self.compute(Triplet(*(t.to(self.device, non_blocking=True) for t in batch)), without_gt)
        if self.accelerator.sync_gradients:
            self.state.step += 1
        return terms

    def size_of(self, step: int) -> int:
        """The resolution of the pictures in a step: the first train.small_steps are at train.small_resolution."""
        train = self.exp.train
        return train.small_resolution if step < train.small_steps else self.exp.data.resolution

    def resize(self, size: int) -> None:
        """Let the networks take pictures of another size from now on."""
        if size != self.size:
            for network in (self.state.net, self.state.ema):
                self.learner.set_resolution(network, size)
            self.size, self.captured = size, None

    def compute(self, batch: Triplet, without_gt: Tensor | None = None) -> dict[str, Tensor]:
        """All of a step that runs on the device, from a batch on the device: the weighted losses by name.

        Without a teacher in the loop it asks nothing of the host: shapes do not depend on values, and what differs from
        step to step is in `batch` or in `state`. `without_gt` (n,): the samples without GT, for that teacher alone.
        """
        state, accelerator = self.state, self.accelerator
        with accelerator.accumulate(*self.wrapped), accelerator.autocast():
            # Generator: descend the sum of the losses.
            terms, swaps, real = self.generator(batch, without_gt)
            accelerator.backward(torch.stack(list(terms.values())).sum())
            if accelerator.sync_gradients:
                accelerator.unscale_gradients(state.optimiser)  # not those of the discriminator: they are not whole yet
                clip = self.exp.train.grad_clip
                norm = nn.utils.clip_grad_norm_(self.clipped, clip, foreach=True)
                # fp16: where the scaled gradients overflow, the optimiser leaves the step out and lowers the scale.
                terms["grad_norm"] = norm if accelerator.scaler is None else norm.nan_to_num(0.0, 0.0)
            state.optimiser.step()
            state.optimiser.zero_grad()

            # Discriminator: the same swaps against real pictures.
            if self.ddp_discriminator is not None:
                terms["discriminator"] = self.discriminator(real, [swap.detach() for swap in swaps])
                accelerator.backward(terms["discriminator"])
                state.optimiser_d.step()
                state.optimiser_d.zero_grad()
        if accelerator.sync_gradients:
            state.update_ema()
        return terms

    def generator(
        self, batch: Triplet, without_gt: Tensor | None = None
    ) -> tuple[dict[str, Tensor], Sequence[Tensor], Tensor]:
        """The weighted losses of the generator by name, its swaps, and the pictures that are real for the
        discriminator."""
        batch = batch.on_device(self.device).check().resized(self.size)
        # Frozen networks: the condition, and ground truth from a teacher in the loop for samples without it.
        with torch.no_grad():
            condition = self.learner.condition(batch.source, batch.target)
            batch, teacher_maps = self.learner.complete(batch, condition), []
            if self.teacher:
                batch, teacher_maps = self.teacher.complete(batch, without_gt, self.encoder, condition[0])

        # Swap at full, half and quarter resolution.
        maps: dict[str, Tensor] = {}
        if self.layers:
            with taps(self.state.net, self.layers) as maps:
                swaps = self.ddp(batch.target, *condition)
        else:
            swaps = self.ddp(batch.target, *condition)
        assert swaps[0].shape == batch.target.shape, f"swaps {swaps[0].shape} of targets {batch.target.shape}"
        terms = self.generator_terms(swaps, batch, condition[0], maps, teacher_maps)
        real = torch.where(batch.src_as_true.view(-1, 1, 1, 1), batch.source, batch.target)
        return terms, swaps, real

    def generator_terms(
        self, swaps: Sequence[Tensor], batch: Triplet, embedding: Tensor, maps: dict[str, Tensor],
        teacher_maps: list[Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        """The weighted losses of the generator by name, absent where their weight is 0. `maps` are those of the tapped
        layers of the net by name, `teacher_maps` those of the teacher in the same order."""
        loss, distil, terms, perceived = self.exp.loss, self.exp.distil, {}, None
        known, counts = batch.with_gt > 0, batch.with_gt * batch.weight
        if any(loss.adversarial):  # gradients go through the discriminator to the swaps
            logits = functional_call(self.state.discriminator, self.frozen, (swaps,))
            terms["adversarial"] = losses.hinge_generator(logits, loss.adversarial, loss.adversarial_batch)
        if any(loss.identity):  # swaps of all scales are resized to the encoder's input: one pass
            scales = [(swap, weight) for swap, weight in zip(swaps, loss.identity, strict=True) if weight]
            chosen, weights = zip(*scales, strict=True)
            if loss.identity_disturbance or loss.identity_fading:
                chosen = disturbed(chosen, loss.identity_disturbance, loss.identity_fading)
            if self.shares_maps:
                perceived, own = self.encoder.features_and_embeddings(*chosen)
                perceived = [m[: len(swaps[0])] for m in perceived]
            else:
                own = self.encoder.embeddings(*chosen)
            terms["identity"] = losses.identity(own, embedding, weights, loss.identity_margin)
        if any(loss.reconstruction) and loss.reconstruction_kind == "original":
            terms["reconstruction"] = losses.reconstruction_as_written(swaps, batch.gt, loss.reconstruction)
        elif any(loss.reconstruction):
            weights, norm = loss.reconstruction, loss.reconstruction_norm
            terms["reconstruction"] = losses.reconstruction(swaps, batch.gt, counts, weights, norm)
        for name in ("gradient", "gradient_energy"):
            if weight := getattr(loss, name):
                terms[name] = weight * getattr(losses, name)(swaps[0], batch.gt, counts)
        if loss.attribute:
            own, expected = (self.state.net.attribute_maps(images) for images in (swaps[0], batch.target))
            terms["attribute"] = loss.attribute * losses.attribute(own, expected)
        if self.perceptual or loss.grid:  # the original compares with the target; ground truth is the better reference
            reference = torch.where(known.view(-1, 1, 1, 1), batch.gt, batch.target)
            weight = torch.where(known, batch.weight, 1.0)
        if loss.grid:
            terms["grid"] = loss.grid * (grid(swaps[0], reference, self.patterns) * weight).mean()
        if self.perceptual:
            distances = self.perceptual(swaps[0], reference, gram=distil.gram > 0, maps=perceived)
        if loss.perceptual:
            terms["perceptual"] = loss.perceptual * (distances["perceptual"] * weight).mean()
        if distil.gram:
            terms["gram"] = distil.gram * (distances["gram"] * counts).mean()
        if distil.features:
            adapted = self.ddp_adapters([maps[layer] for layer in self.layers], teacher_maps)
            terms["features"] = distil.features * losses.features(adapted, teacher_maps).mean()
        if not terms:
            raise StageError("loss: every weight is 0; set one above 0")
        return terms

    def discriminator(self, real: Tensor, swaps: Sequence[Tensor]) -> Tensor:
        """The weighted loss of the discriminator, from real pictures and swaps of every scale."""
        loss = self.exp.loss
        scaled = [real if swap.shape == real.shape else losses.shrink(real, swap.shape[-1]) for swap in swaps]
        logits = self.discriminate(scaled, swaps)
        return losses.hinge_discriminator(*logits, loss.adversarial, loss.adversarial_batch)

    def discriminate(self, real: Sequence[Tensor], swaps: Sequence[Tensor]) -> tuple[Sequence[Tensor], ...]:
        """Logits of real pictures and of swaps, by scale; in two passes if the discriminator normalises over the
        batch."""
        if not self.one_pass:
            return self.ddp_discriminator(real), self.ddp_discriminator(swaps)
        logits = self.ddp_discriminator([torch.cat(pair) for pair in zip(real, swaps, strict=True)])
        return tuple(zip(*(logit.chunk(2) for logit in logits), strict=True))
