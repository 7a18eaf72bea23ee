"""A teacher in the training loop: it swaps the pairs without GT and returns its feature maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import teachers
from distill import build
from distill.config import ConfigError, Experiment
from distill.data.triplet import Triplet
from distill.train.learners import Learner


class OnlineTeacher:
    """A frozen teacher. In every step it adds the missing GT to a batch and returns the maps of its layers."""

    def __init__(self, exp: Experiment, device: torch.device) -> None:
        self.network = build.teacher(exp.distil.online, exp, "distil.online").to(device)
        if self.network.needs_rows:
            raise ConfigError(
                f"distil.online: teacher '{self.network.name}' draws from the manifest, which training does not load; "
                f"use it in pseudo_gt.teachers"
            )
        self.layers = tuple(exp.distil.layers.values()) if exp.distil.features else ()
        self.quality_power = exp.distil.quality_power

    @torch.no_grad()
    def complete(
        self, batch: Triplet, without_gt: Tensor, encoder: nn.Module, embedding: Tensor
    ) -> tuple[Triplet, list[Tensor]]:
        """The batch with the teacher's swaps as GT of its samples `without_gt` (n,); those in which it finds no face
        stay without. With layers, their maps for the whole batch as well: every process must train its adapters in
        every step.

        The weight of a swap is its cosine to the source (by the student's encoder) to the power of quality_power.
        """
        kind = batch.source.device.type
        mixed = torch.is_autocast_enabled(kind) and self.network.autocast
        with taps(self.network, self.layers) as maps, torch.autocast(kind, enabled=mixed):
            if self.layers:
                swap = self.network(batch.source, batch.target).float()[without_gt]
            else:
                swap, without_gt = teachers.swaps_of_faces(self.network, batch.source, batch.target, without_gt)
                swap = swap.float()
        if not len(without_gt):
            return batch, [maps[name] for name in self.layers]
        gt, with_gt, weight = batch.gt.clone(), batch.with_gt.clone(), batch.weight.clone()
        gt[without_gt], with_gt[without_gt] = swap, 1.0
        if self.quality_power:
            cosine = (encoder(swap) * embedding[without_gt]).sum(1)
            weight[without_gt] = cosine.clamp(0, 1).float() ** self.quality_power
        completed = batch._replace(gt=gt, with_gt=with_gt, weight=weight)
        return completed, [maps[name] for name in self.layers]


class Adapters(nn.Module):
    """1x1 convolutions from the student's maps to the width of the teacher's; not part of the saved student."""

    def __init__(self, channels: Sequence[tuple[int, int]]) -> None:
        """`channels`: of each pair of maps, the student's and the teacher's."""
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(student, teacher, 1) for student, teacher in channels)

    def forward(self, maps: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
        """The student's maps in the width and size of the teacher's."""
        return [
            F.interpolate(conv(own), teacher.shape[-2:], mode="bilinear", align_corners=False)
            for conv, own, teacher in zip(self.convs, maps, like, strict=True)
        ]


def build_adapters(exp: Experiment, learner: Learner, teacher: OnlineTeacher, device: torch.device) -> Adapters:
    """Adapters for the layers that the experiment names; one pass of an empty picture gives their widths."""
    blank = torch.zeros(2, 3, exp.data.resolution, exp.data.resolution, device=device)
    net, training = learner.net, learner.net.training
    net.eval()
    with torch.no_grad(), taps(net, tuple(exp.distil.layers)) as own, taps(teacher.network, teacher.layers) as theirs:
        net(blank, *learner.condition(blank, blank))
        teacher.network(blank, blank)
    net.train(training)
    widths = []
    for layer, teacher_layer in exp.distil.layers.items():
        for name, maps in ((layer, own), (teacher_layer, theirs)):
            if name not in maps or maps[name].ndim != 4:
                raise ConfigError(f"distil.layers: '{name}' gives no map (N, C, H, W) in a swap")
        widths.append((own[layer].shape[1], theirs[teacher_layer].shape[1]))
    return Adapters(widths)


@contextmanager
def taps(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of submodules during the block, by name. Raises ConfigError for a name that does not exist.

    It uses forward hooks, which it removes at the end of the block.
    """
    maps: dict[str, Tensor] = {}
    known = dict(module.named_modules())
    with ExitStack() as hooks:
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"distil.layers: {type(module).__name__} has no submodule '{name}'; "
                    f"it has, for example, {', '.join([n for n in known if n][:8])}"
                )
            hooks.enter_context(known[name].register_forward_hook(partial(_keep, maps, name)))
        yield maps


def _keep(maps: dict[str, Tensor], name: str, _module: nn.Module, _inputs: tuple, output: Tensor) -> None:
    maps[name] = output
