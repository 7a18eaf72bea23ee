"""Batch normalisation over the batches of all processes, and its statistics for averaged weights.

torch.nn.SyncBatchNorm refuses CPU tensors. It is used on CUDA. Other devices use the class here, which all-reduces the
sums in both passes, so that a run on CPU computes the same as one on GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes. Every process's loss depends on it, so gradients are summed as well."""

    @staticmethod
    def forward(ctx, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return _SumOverProcesses.forward(ctx, gradient)


class SyncBatchNorm(_BatchNorm):
    """Same parameters, buffers and keys as the BatchNorm it replaces; equal to it when there is one process."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected (N, C, ...), got {tuple(input.shape)}")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or not (dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        over = [0, *range(2, input.dim())]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        count = values.new_full((1,), input.numel() / input.shape[1])
        total, count = _SumOverProcesses.apply(torch.cat([values.sum(over), count])).split([input.shape[1], 1])
        mean = total / count
        centred = values - mean.view(shape)  # two passes: E[x^2] - E[x]^2 would lose the digits of small variances
        variance = _SumOverProcesses.apply(centred.square().sum(over)) / count
        if self.track_running_stats:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                unbiased = variance * count / (count - 1).clamp(min=1)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        normalised = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(input.dtype)


class ActivatedSyncBatchNorm(SyncBatchNorm):
    """In place of timm's BatchNormAct2d: a normalisation that holds a dropout `drop` and an activation `act`."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.act(self.drop(super().forward(input)))


def _is_activated(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and hasattr(module, "act") and hasattr(module, "drop")


def convert(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every BatchNorm of `module` by its synchronised form; keys, values and training mode stay."""
    if device.type == "cuda":
        if any(map(_is_activated, module.modules())):  # torch's own would drop the activations
            from timm.layers import convert_sync_batchnorm

            return convert_sync_batchnorm(module)
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            options = (child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
            kind = ActivatedSyncBatchNorm if _is_activated(child) else SyncBatchNorm
            synced = kind(*options, device=child.running_mean.device, dtype=child.running_mean.dtype)
            if kind is ActivatedSyncBatchNorm:
                synced.drop, synced.act = child.drop, child.act
            synced.load_state_dict(child.state_dict())
            setattr(module, name, synced.train(child.training))
        else:
            convert(child, device)
    return module


@torch.no_grad()
def calibrate(network: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any]) -> None:
    """Replace the running statistics of a network's BatchNorms by their mean over `batches`. `forward` passes one batch
    through the network. Every process calls it. The network is left in evaluation mode.

    Without this, an EMA has the statistics of the network in training. Where layers multiply their own outputs, as
    MobileFSGAN's masks do, this small mismatch grows to infinity for some pictures. Method: Izmailov et al.,
    Averaging Weights Leads to Wider Optima, UAI 2018, section 3.
    """
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the plain mean over all batches
        layer.train()
    for batch in batches:
        forward(batch)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.eval()
