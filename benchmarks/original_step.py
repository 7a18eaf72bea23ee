"""The training step as HoiM/MobileFSGAN @478175b runs it (main.py, losses/Losses.py), in code of our own.

fp32, NCHW, eager; batch normalisation synchronised; a Python loop over the samples in the identity loss, which asks the
device about each of them, and in the adversarial one; real pictures chosen by a mask, for whose length the host waits;
identity encoder and perceptual network are in evaluation mode but not frozen, so that gradients of their weights are
computed in every step and used by nobody; plain Adam.

What is computed is what `distill/step.py` computes for the same experiment, so that one can be compared with the other:
identity averages over the batch, the discriminator's loss is not halved, the perceptual term is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.config import Experiment
from distill.data.triplet import Triplet
from distill.train import losses
from distill.train.step import Networks


class OriginalStep:
    """Student and discriminator of `parts` and their optimisers, as the original sets them up."""

    def __init__(self, exp: Experiment, parts: Networks, device: torch.device) -> None:
        self.exp, self.device, self.parts = exp, device, parts
        self.student = nn.SyncBatchNorm.convert_sync_batchnorm(parts.learner.network.to(device))
        self.critic = nn.SyncBatchNorm.convert_sync_batchnorm(parts.critic.to(device))
        for network in (parts.encoder, parts.distance and parts.distance.features):
            if isinstance(network, nn.Module):
                network.requires_grad_(True)
        train = exp.train
        self.optimiser = torch.optim.Adam(self.student.parameters(), train.lr, betas=train.betas)
        self.optimiser_d = torch.optim.Adam(self.critic.parameters(), train.lr_discriminator, betas=train.betas)
        torch.backends.cudnn.benchmark = True

    def learn(self, batch: Triplet) -> dict[str, Tensor]:
        """The weighted loss terms of one batch, from which student and discriminator have learnt."""
        weights, encoder = self.exp.loss, self.parts.encoder
        batch = batch.on_device(self.device)

        # Generator.
        self.optimiser.zero_grad()
        with torch.no_grad():
            embedding = encoder(batch.source)
        fakes = self.student(batch.target, embedding)
        embeddings = [encoder(fake) for fake in fakes]
        logits = self.critic(fakes)
        terms = {"adversarial": _adversarial(logits, weights.adversarial, True)}
        terms["identity"] = sum(
            weight * _identity(own, embedding, weights.identity_margin)
            for own, weight in zip(embeddings, weights.identity, strict=True)
        )
        if weights.reconstruction_kind == "original":
            terms["reconstruction"] = losses.reconstruction_as_written(fakes, batch.gt, weights.reconstruction)
        else:
            counts = batch.with_gt * batch.weight
            terms["reconstruction"] = losses.reconstruction(
                fakes, batch.gt, counts, weights.reconstruction, weights.reconstruction_norm
            )
        if self.parts.distance:
            features = self.parts.distance.features
            known = (batch.with_gt > 0).view(-1, 1, 1, 1)
            reference = features(torch.where(known, batch.gt, batch.target))
            measured = losses.perceptual(features(fakes[0]), [r.detach() for r in reference])
            terms["perceptual"] = weights.perceptual * measured.mean()
        sum(terms.values()).backward()
        self.optimiser.step()

        # Discriminator.
        self.optimiser_d.zero_grad()
        real = torch.cat([batch.source[batch.src_as_true], batch.target[~batch.src_as_true]])
        fake = self.critic([f.detach() for f in fakes])
        real = self.critic([losses.shrink(real, f.shape[-1]) for f in fakes])
        terms["discriminator"] = _adversarial(real, weights.adversarial, True) + _adversarial(
            fake, weights.adversarial, False
        )
        terms["discriminator"].backward()
        self.optimiser_d.step()
        return terms


def _identity(embeddings: Tensor, source: Tensor, margin: float) -> Tensor:
    """The mean over samples of relu(1 - cosine - margin), sample by sample; the host waits for each."""
    loss = F.relu(1 - F.cosine_similarity(embeddings, source) - margin)
    total = loss.new_zeros(())
    for sample in loss:
        if sample > 0:
            total = total + sample
    return total / len(loss)


def _adversarial(logits: list[Tensor], weights: tuple[float, ...], as_real: bool) -> Tensor:
    """Hinge terms of three discriminators, added up sample by sample."""
    total = logits[0].new_zeros(())
    for maps, weight in zip(logits, weights, strict=True):
        for sample in maps:
            total = total + weight * F.relu(1 - sample if as_real else 1 + sample).mean()
    return total
