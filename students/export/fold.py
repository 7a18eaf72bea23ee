"""Folding of normalisations into convolutions and linear layers, without changing the function.

In evaluation a BatchNorm is a scale and a shift per channel. Before a 1x1 convolution, after any convolution and before
a 3x3 convolution on reflected borders both go into weights and bias. Before a modulation by the embedding they go into
the layers that compute gain and shift. A BatchNorm before a zero-padded convolution is kept: the padding has no shift.
Of a backbone, timm's own reparameterisation folds what it can.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ..mobilefacenet import MobileFaceNet, Unit
from ..mobilefsgan import AttributeBlock, IdentityBlock, Up
from ..timm_unet import TimmUNet


def folded(network: nn.Module) -> nn.Module:
    """A copy of a network in evaluation mode, its normalisations folded if possible. Raises ValueError in training
    mode, as a normalisation then depends on the batch."""
    if network.training:
        raise ValueError("a network in training mode cannot be folded, as it normalises by its batch; call .eval()")
    network = copy.deepcopy(network)
    with torch.no_grad():
        for module in list(network.modules()):
            rule = RULES.get(type(module))
            if rule is not None:
                rule(module)
    return network


def explicit_norms(module: nn.Module) -> nn.Module:
    """A copy whose normalisations without weights have ones and zeros as weights, which every converter knows."""
    module = copy.deepcopy(module)
    for norm in module.modules():
        if isinstance(norm, nn.GroupNorm | nn.BatchNorm2d) and not norm.affine:
            channels = norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features
            norm.affine = True
            norm.weight = nn.Parameter(torch.ones(channels), requires_grad=False)
            norm.bias = nn.Parameter(torch.zeros(channels), requires_grad=False)
    return module


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of a normalisation, in double precision."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        gain = norm.weight.double()
        scale, shift = scale * gain, shift * gain + norm.bias.double()
    return scale, shift


def _into_next(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> None:
    """Fold a normalisation into the convolution after it, which must not pad with zeros."""
    scale, shift = _affine(norm)
    weight = conv.weight.double()
    bias = torch.einsum("oikl,i->o", weight, shift)
    if conv.bias is not None:
        bias = bias + conv.bias.double()
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter((weight * scale.view(1, -1, 1, 1)).to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)


def _attribute_block(block: AttributeBlock) -> None:
    _into_next(block.normalize, block.conv1x1)
    block.normalize = nn.Identity()


def _up(up: Up) -> None:
    # Bilinear weights sum to one and reflection repeats pixels, so scale and shift pass through both.
    _into_next(up.normalize, up.conv)
    up.normalize = nn.Identity()


def _identity_block(block: IdentityBlock) -> None:
    """(scale x + shift) gain + bias = x (scale gain) + (shift gain + bias), gain and bias linear in the embedding."""
    scale, shift = _affine(block.normalize)
    gain, bias = ((layer.weight.double(), layer.bias.double()) for layer in (block.gain, block.shift))
    for layer, weight, offset in (
        (block.gain, scale[:, None] * gain[0], scale * gain[1]),
        (block.shift, bias[0] + shift[:, None] * gain[0], bias[1] + shift * gain[1]),
    ):
        dtype = layer.weight.dtype
        layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
        layer.bias = nn.Parameter(offset.to(dtype), requires_grad=False)
    block.normalize = nn.Identity()


def _unit(unit: Unit) -> None:
    unit.conv = fuse_conv_bn_eval(unit.conv, unit.bn)
    unit.bn = nn.Identity()


def _mobilefacenet(network: MobileFaceNet) -> None:
    network.linear = fuse_linear_bn_eval(network.linear, network.bn)
    network.bn = nn.Identity()


def _timm_unet(network: TimmUNet) -> None:
    """Parallel branches (RepViT, FastViT, MobileOne) become the one convolution that timm provides for them."""
    from timm.utils.model import reparameterize_model

    before = torch.get_default_dtype()
    torch.set_default_dtype(network.decoder.heads[0].conv.weight.dtype)  # timm makes the new convolutions in this type
    try:
        network.backbone = reparameterize_model(network.backbone).eval()
    finally:
        torch.set_default_dtype(before)


RULES: dict[type[nn.Module], Callable] = {
    AttributeBlock: _attribute_block,
    IdentityBlock: _identity_block,
    Up: _up,
    Unit: _unit,
    MobileFaceNet: _mobilefacenet,
    TimmUNet: _timm_unet,
}
