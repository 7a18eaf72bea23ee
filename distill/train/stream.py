"""The stream of training samples. A sample depends on the seed and its position alone, in every process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from distill.data.cache import Cached
from distill.data.fstriplets import FSTriplets
from distill.data.photos import Photos
from distill.data.triplet import Triplet
from distill.pseudo_gt.shards import Shards
from distill.stage import StageError

KINDS = ("pseudo_gt", "same_photo", "same_person", "pair", "fstriplets")  # append only: shares are drawn in this order


# Samples of one kind: images (n, 3, 3, H, W) uint8 of source, target and gt; then with_gt, src_as_true, weight (n,).
Samples = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class Mixture(Dataset):
    """Training samples by position: sample i is a function of (seed, i) alone, so a resumed or split run is the same.

    `shares` are those of the kinds in KINDS. A kind with a share needs its data: shards for pseudo_gt, fstriplets for
    fstriplets, photos for the others (same_person: people with two pictures or more). The weight of a pseudo-GT is its
    teacher's cosine to the source, `shards.quality`, to the power of quality_power; 1 where it is unknown.

    Raises StageError where the data is absent.
    """

    def __init__(
        self, shards: Shards | None, photos: Photos | None, shares: dict[str, float], seed: int,
        flip: bool = False, cache_gb: float = 4.0, workers: int = 0, fstriplets: FSTriplets | None = None,
        quality_power: float = 0.0,
    ):  # fmt: skip
        self.seed, self.flip = seed, flip
        shares = {kind: shares.get(kind, 0.0) for kind in KINDS}
        self.shares = [share / sum(shares.values()) for share in shares.values()]
        need_photos = any(shares[kind] > 0 for kind in ("same_photo", "same_person", "pair"))
        if shares["fstriplets"] > 0:
            if fstriplets is None:
                raise StageError("train.mix.fstriplets: there is no folder; set data.fstriplets, or set it to 0")
            self.fstriplets = fstriplets
            self.fstriplets.keep(cache_gb, workers > 1)
        if shares["pseudo_gt"] > 0:
            if shards is None or not len(shards):
                raise StageError("train.mix.pseudo_gt: there is no pseudo-GT; add stage 'pseudo_gt', or set it to 0")
            self.triplets = Cached(shards.load, (len(shards), 3, 3, *[shards.resolution] * 2), cache_gb, workers > 1)
            self.n_triplets = len(shards)
            self.weights = np.ones(len(shards), np.float32)
            if quality_power:
                quality = np.clip(shards.quality, 0, 1) ** quality_power
                self.weights = np.where(np.isnan(quality), 1.0, quality).astype(np.float32)
        if need_photos:
            if photos is None or len(photos) < 2:
                raise StageError("train.mix: samples without pseudo-GT need at least two pictures of two people")
            self.photos = Cached(photos.load, (len(photos), 3, *[photos.resolution] * 2), cache_gb, workers > 1)
            self.person = np.unique([row["person"] for row in photos.rows], return_inverse=True)[1]
            self.of_person = [np.flatnonzero(self.person == p) for p in range(self.person.max() + 1)]
            self.several = np.flatnonzero([len(indices) >= 2 for indices in self.of_person])
            if shares["same_person"] > 0 and not len(self.several):
                raise StageError("train.mix.same_person: nobody has two pictures; set it to 0")
            if shares["pair"] > 0 and len(self.of_person) < 2:
                raise StageError("train.mix.pair: there is only one person; set it to 0")

    def __getitems__(self, positions: Sequence[int]) -> Triplet:
        """One batch, its images uint8."""
        draws = [np.random.default_rng((self.seed, position)) for position in positions]
        kinds = np.array([rng.choice(len(KINDS), p=self.shares) for rng in draws])
        parts, places = [], []
        for kind, name in enumerate(KINDS):
            chosen = np.flatnonzero(kinds == kind)
            if len(chosen):
                samples_of_kind = getattr(self, f"_{name}")
                parts.append(samples_of_kind([positions[i] for i in chosen], [draws[i] for i in chosen]))
                places.append(chosen)
        order = torch.from_numpy(np.argsort(np.concatenate(places)))
        images, *numbers = (torch.cat(column)[order] for column in zip(*parts, strict=True))
        if self.flip:
            mirrored = torch.tensor([rng.random() < 0.5 for rng in draws])
            images[mirrored] = images[mirrored].flip(-1)
        return Triplet(*images.unbind(1), *numbers)

    def _fstriplets(self, positions, draws) -> Samples:
        images, with_gt, src_as_true = self.fstriplets.sample(draws)
        return images, with_gt, src_as_true, torch.ones(len(images))

    def _pseudo_gt(self, positions, draws) -> Samples:
        """An epoch is a permutation of all triplets; the triplet of a position does not depend on earlier kinds."""
        index = []
        for position in positions:
            epoch, place = divmod(position, self.n_triplets)
            index.append(int(self._order(epoch)[place]))
        return _samples(self.triplets[index], weight=torch.from_numpy(self.weights[index]))

    def _order(self, epoch: int) -> np.ndarray:
        if getattr(self, "_order_of", None) != epoch:
            self._order_of = epoch
            self._permutation = np.random.default_rng((self.seed, epoch, 1)).permutation(self.n_triplets)
        return self._permutation

    def _pair(self, positions, draws) -> Samples:
        chosen = []
        for rng in draws:
            source = int(rng.integers(len(self.person)))
            target = int(rng.integers(len(self.person)))
            while self.person[target] == self.person[source]:
                target = int(rng.integers(len(self.person)))
            chosen.append((source, target))
        pictures = self._pictures(chosen)
        images = torch.cat([pictures, torch.zeros_like(pictures[:, :1])], 1)  # 0 in uint8 is -1: no GT
        return _samples(images, with_gt=torch.zeros(len(images)))

    def _same_person(self, positions, draws) -> Samples:
        people = [self.of_person[rng.choice(self.several)] for rng in draws]
        chosen = [rng.choice(p, 2, replace=False) for rng, p in zip(draws, people, strict=True)]
        return _samples(self._pictures(chosen)[:, [0, 1, 1]])

    def _same_photo(self, positions, draws) -> Samples:
        chosen = [(i, i) for i in (int(rng.integers(len(self.person))) for rng in draws)]
        pictures = self._pictures(chosen)[:, [0, 1, 1]].clone()
        pictures[:, 0] = disturb(pictures[:, 0], draws)
        return _samples(pictures)

    def _pictures(self, chosen: Sequence[Sequence[int]]) -> torch.Tensor:
        pictures = self.photos[np.asarray(chosen).ravel()]
        return pictures.unflatten(0, (len(chosen), -1))


def _samples(images: torch.Tensor, with_gt: torch.Tensor | None = None, weight: torch.Tensor | None = None) -> Samples:
    """By default with GT, and of weight 1; the source is shown to the discriminator as real."""
    ones = torch.ones(len(images))
    return images, ones if with_gt is None else with_gt, ones.bool(), ones if weight is None else weight


def disturb(images: torch.Tensor, draws: list[np.random.Generator]) -> torch.Tensor:
    """Mirror, turn, scale, shift and recolour uint8 pictures a little, as in another photograph of the person."""
    turn, shift_x, shift_y, red, green, blue, contrast = np.array([r.uniform(-1, 1, 7) for r in draws]).T
    scale = np.array([r.uniform(0.9, 1.1) for r in draws])
    mirror = np.array([r.choice([-1.0, 1.0]) for r in draws])
    cos, sin = scale * np.cos(turn * 0.15), scale * np.sin(turn * 0.15)
    grid = np.stack([mirror * cos, -sin, shift_x * 0.06, mirror * sin, cos, shift_y * 0.06], 1).reshape(-1, 2, 3)
    grid = F.affine_grid(torch.from_numpy(grid).float(), list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
    gain = torch.from_numpy(1 + 0.15 * np.stack([red, green, blue], 1)).float()[..., None, None]
    middle = moved.mean((1, 2, 3), keepdim=True)
    moved = (moved - middle) * torch.from_numpy(1 + 0.2 * contrast).float().view(-1, 1, 1, 1) + middle
    return (moved * gain).round().clamp(0, 255).byte()


def batches(
    mixture: Mixture, batch_size: int, first: int, last: int, rank: int, world: int, workers: int, pin: bool
) -> Iterator[Triplet]:
    """Batches `first` .. `last` - 1 of one process. All processes together take each position once, in order."""
    positions = [
        range((b * world + rank) * batch_size, (b * world + rank + 1) * batch_size) for b in range(first, last)
    ]
    loader = DataLoader(
        mixture, batch_sampler=positions, num_workers=workers, collate_fn=_uncollated, pin_memory=pin,
        prefetch_factor=4 if workers else None, worker_init_fn=_outlive_signals,
        generator=torch.Generator(),  # else the loader draws from the global generator, which a checkpoint restores
    )  # fmt: skip
    return iter(loader)


def _outlive_signals(_worker: int) -> None:
    """Ctrl-C and a cluster's SIGTERM reach every process. The training finishes its step and then ends its loaders,
    which alone it does by SIGTERM."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS lacks it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_parent, daemon=True).start()


def _end_by_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _uncollated(batch: Triplet) -> Triplet:
    return batch
