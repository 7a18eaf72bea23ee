"""The training step as HoiM/MobileFSGAN @478175b runs it (main.py, losses/Losses.py), in code of our own.

fp32, NCHW, eager; batch normalisation synchronised; a Python loop over the samples in the identity loss, which waits
for the device at each of them, and in the adversarial one; real pictures chosen by a mask, whose length the host
waits for; identity encoder and perceptual network are in evaluation mode but not frozen, so every step computes
gradients of their weights that nothing uses; plain Adam.

The losses are those of `distill/train/step.py` for the same experiment, so that the two steps can be compared: identity
averages over the batch, the discriminator's loss is not halved, the perceptual term is ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.config import Experiment
from distill.data.triplet import Triplet
from distill.losses import terms as losses
from distill.train.step import Networks


class OriginalStep:
    """Student, discriminator and their optimisers, as the original sets them up."""

    def __init__(self, exp: Experiment, networks: Networks, device: torch.device) -> None:
        self.exp, self.device = exp, device
        self.encoder, self.features = networks.encoder, networks.perceptual and networks.perceptual.features
        self.net = nn.SyncBatchNorm.convert_sync_batchnorm(networks.learner.net.to(device))
        self.discriminator = nn.SyncBatchNorm.convert_sync_batchnorm(networks.discriminator.to(device))
        for network in (self.encoder, self.features):
            if isinstance(network, nn.Module):
                network.requires_grad_(True)
        train = exp.train
        self.optimiser = torch.optim.Adam(self.net.parameters(), train.lr, betas=train.betas)
        self.optimiser_d = torch.optim.Adam(self.discriminator.parameters(), train.lr_discriminator, betas=train.betas)
        torch.backends.cudnn.benchmark = True

    def learn(self, batch: Triplet) -> dict[str, Tensor]:
        """Train student and discriminator on one batch; the weighted loss terms by name."""
        weights = self.exp.loss
        batch = batch.on_device(self.device)

        # Generator.
        self.optimiser.zero_grad()
        with torch.no_grad():
            embedding = self.encoder(batch.source)
        swaps = self.net(batch.target, embedding)
        embeddings = [self.encoder(swap) for swap in swaps]
        logits = self.discriminator(swaps)
        terms = {"adversarial": _adversarial(logits, weights.adversarial, True)}
        terms["identity"] = sum(
            weight * _identity(own, embedding, weights.identity_margin)
            for own, weight in zip(embeddings, weights.identity, strict=True)
        )
        if weights.reconstruction_kind == "original":
            terms["reconstruction"] = losses.reconstruction_as_written(swaps, batch.gt, weights.reconstruction)
        else:
            counts = batch.with_gt * batch.weight
            terms["reconstruction"] = losses.reconstruction(
                swaps, batch.gt, counts, weights.reconstruction, weights.reconstruction_norm
            )
        if self.features:
            known = (batch.with_gt > 0).view(-1, 1, 1, 1)
            reference = self.features(torch.where(known, batch.gt, batch.target))
            distances = losses.perceptual(self.features(swaps[0]), [r.detach() for r in reference])
            terms["perceptual"] = weights.perceptual * distances.mean()
        sum(terms.values()).backward()
        self.optimiser.step()

        # Discriminator.
        self.optimiser_d.zero_grad()
        real = torch.cat([batch.source[batch.src_as_true], batch.target[~batch.src_as_true]])
        swap_logits = self.discriminator([swap.detach() for swap in swaps])
        real_logits = self.discriminator([losses.shrink(real, swap.shape[-1]) for swap in swaps])
        terms["discriminator"] = _adversarial(real_logits, weights.adversarial, True)
        terms["discriminator"] = terms["discriminator"] + _adversarial(swap_logits, weights.adversarial, False)
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
