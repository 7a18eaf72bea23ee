"""The teacher in the loop: it swaps pairs that have no GT while the student trains, and shows its insides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill import build
from distill.config import ConfigError, Experiment
from distill.data.triplet import Triplet


class Online:
    """A frozen teacher, asked in every step for the swaps that a batch lacks, and for the maps of its layers."""

    def __init__(self, exp: Experiment, device: torch.device) -> None:
        self.teacher = build.teacher(exp.distil.online, exp, "distil.online").to(device)
        if self.teacher.needs_rows:
            raise ConfigError(
                f"distil.online: teacher '{self.teacher.name}' draws from the manifest, which the loop does not see; "
                f"use it in pseudo_gt.teachers"
            )
        self.layers = tuple(exp.distil.layers.values()) if exp.distil.features else ()
        self.quality_power = exp.distil.quality_power

    @torch.no_grad()
    def complete(
        self, batch: Triplet, lacking: Tensor, encoder: nn.Module, embedding: Tensor
    ) -> tuple[Triplet, list[Tensor]]:
        """The batch with the teacher's swap as GT of the samples `lacking` (n,) one; with layers to look into, the maps
        of the whole batch, as every process must train its adapters in every step.

        The swaps weigh their cosine to the source, by the encoder of the student, to the power of quality_power.
        """
        everything = torch.arange(len(batch.source), device=lacking.device) if self.layers else lacking
        if not len(everything):
            return batch, []
        kind = batch.source.device.type
        mixed = torch.is_autocast_enabled(kind) and self.teacher.autocast
        with taps(self.teacher, self.layers) as maps, torch.autocast(kind, enabled=mixed):
            swap = self.teacher(batch.source[everything], batch.target[everything]).float()
        swap = swap[lacking] if self.layers else swap
        gt, with_gt, weight = batch.gt.clone(), batch.with_gt.clone(), batch.weight.clone()
        gt[lacking], with_gt[lacking] = swap, 1.0
        if self.quality_power:
            weight[lacking] = (encoder(swap) * embedding[lacking]).sum(1).clamp(0, 1).float() ** self.quality_power
        completed = batch._replace(gt=gt, with_gt=with_gt, weight=weight)
        return completed, [maps[name] for name in self.layers]


class Adapters(nn.Module):
    """1x1 convolutions from the student's maps to the width of the teacher's; thrown away after training."""

    def __init__(self, channels: Sequence[tuple[int, int]]) -> None:
        """`channels`: of each pair of maps, the student's and the teacher's."""
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(student, teacher, 1) for student, teacher in channels)

    def forward(self, maps: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
        """The student's maps in the width and size of the teacher's."""
        return [
            F.interpolate(conv(m), wanted.shape[-2:], mode="bilinear", align_corners=False)
            for conv, m, wanted in zip(self.convs, maps, like, strict=True)
        ]


def build_adapters(exp: Experiment, trainee, online: Online, device: torch.device) -> Adapters:
    """Adapters for the layers that the experiment names; one pass of an empty picture tells their widths."""
    blank = torch.zeros(2, 3, exp.data.resolution, exp.data.resolution, device=device)
    training = trainee.network.training
    trainee.network.eval()
    with (
        torch.no_grad(),
        taps(trainee.network, tuple(exp.distil.layers)) as own,
        taps(online.teacher, online.layers) as theirs,
    ):
        trainee.network(blank, *trainee.condition(blank, blank))
        online.teacher(blank, blank)
    trainee.network.train(training)
    widths = []
    for student, teacher in exp.distil.layers.items():
        for name, maps in ((student, own), (teacher, theirs)):
            if name not in maps or maps[name].ndim != 4:
                raise ConfigError(f"distil.layers: '{name}' gives no map (N, C, H, W) in a swap")
        widths.append((own[student].shape[1], theirs[teacher].shape[1]))
    return Adapters(widths)


@contextmanager
def taps(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of submodules during the block, by name. Raises ConfigError for a name that does not exist.

    Hooks, as it must work for every network without its help; they live as long as the block.
    """
    maps: dict[str, Tensor] = {}
    handles = []
    known = dict(module.named_modules())
    for name in names:
        if name not in known:
            raise ConfigError(
                f"distil.layers: {type(module).__name__} has no submodule '{name}'; "
                f"it has, for example, {', '.join([n for n in known if n][:8])}"
            )
        handles.append(known[name].register_forward_hook(_keep(maps, name)))
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _keep(maps: dict[str, Tensor], name: str):
    def hook(_module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        maps[name] = output

    return hook
