"""TimmUNet: the decoder of `UNet` behind a backbone of timm (Wightman, PyTorch Image Models).

The backbone sees the target alone. Its maps at 1/4, 1/8 and 1/16, and at 1/2 where it has one, go through 1x1
convolutions into `modulated.Decoder`, whose blocks carry the source's style on all five levels.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from swapcore.weights import read_state

from .contract import check_inputs, check_options
from .masks import MaskLayer
from .modulated import Decoder, Stem, Style, style_dim_of

LEVELS = (2, 4, 8, 16)  # the reductions of the decoder's maps


class TimmUNet(nn.Module):
    """A backbone of timm, 1x1 convolutions, and a `modulated.Decoder`.

    Options: backbone, a name that timm knows, width (channels at 1/4, a multiple of 16), embedding_dim, resolution (a
    multiple of 32, at least 64), style_dim (as in `UNet`). pretrained: where the backbone's weights come from. False:
    random; True: timm's own, which timm downloads once; text: a file of them. A saved student needs neither, so
    `options` is without it. Wrong options, backbones without the maps, and weights that are not there or do not fit
    raise ValueError.
    """

    name = "timm_unet"

    def __init__(
        self,
        width: int = 48,
        embedding_dim: int = 512,
        resolution: int = 256,
        backbone: str = "mobilenetv4_conv_small",
        pretrained: bool | str = False,
        style_dim: int | None = None,
    ) -> None:
        super().__init__()
        style_dim = style_dim_of(width) if style_dim is None else style_dim
        check_options(resolution, width=width, embedding_dim=embedding_dim, style_dim=style_dim)
        if width % 16:
            raise ValueError(f"width: expected a multiple of 16, got {width}")
        self.options = {
            "width": width, "embedding_dim": embedding_dim, "resolution": resolution, "backbone": backbone,
            "style_dim": style_dim,
        }  # fmt: skip
        self.style = Style(embedding_dim, style_dim)
        self.backbone, found = load_backbone(backbone, resolution, pretrained)
        self.fixed_resolution = _timm().get_pretrained_cfg(backbone).fixed_input_size
        self.channels_last = _layout(self.backbone) == "NHWC"
        channels = (width // 2, width, 2 * width, 2 * width)[-len(found) :]
        self.project = nn.ModuleList(nn.Conv2d(c, to, 1) for c, to in zip(found, channels, strict=True))
        # Some backbones end their stages without a normalisation. The maps are added to the decoder's features.
        self.norm = nn.ModuleList(nn.GroupNorm(1, to, affine=False) for to in channels)
        self.stem = Stem(width // 2, resolution) if len(found) < len(LEVELS) else None
        self.decoder = Decoder(width, style_dim)
        # In the file, so that it stays the same function if timm changes its configuration.
        mean, std = (torch.tensor(self.backbone.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        self.register_buffer("scale", 0.5 / std)
        self.register_buffer("shift", (0.5 - mean) / std)

    def forward(self, target: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Target (N, 3, R, R) in [-1, 1] and unit embedding (N, D) to swaps in [-1, 1] of R pixels and, reduced by
        area, of R/2 and R/4. Raises ValueError on other shapes."""
        check_inputs(target, embedding, self.options["resolution"], self.options["embedding_dim"])
        found = self.backbone(target * self.scale + self.shift)  # ((target + 1) / 2 - mean) / std
        if self.channels_last:
            found = [each.permute(0, 3, 1, 2) for each in found]
        maps = [norm(conv(each)) for norm, conv, each in zip(self.norm, self.project, found, strict=True)]
        if self.stem is not None:
            maps.insert(0, self.stem(target))
        return self.decoder(maps, self.style(embedding), target)

    def mask_layer(self) -> MaskLayer:
        """Where `masks.recorded` finds the mask of the swap of full resolution."""
        return self.decoder.heads[0].mask_layer()


@torch.inference_mode(False)
@torch.enable_grad()  # `_check_maps` follows the graph of gradients
def load_backbone(name: str, resolution: int, pretrained: bool | str = False) -> tuple[nn.Module, list[int]]:
    """A backbone whose output is its maps at 1/2 (where it has one), 1/4, 1/8 and 1/16, the layers behind them cut off,
    and the channels of these maps. Raises ValueError, see `TimmUNet`."""
    reductions = _reductions(name)
    last = {reduction: index for index, reduction in enumerate(reductions) if reduction in LEVELS}
    if missing := [f"1/{reduction}" for reduction in LEVELS[1:] if reduction not in last]:
        maps = ", ".join(f"1/{reduction}" for reduction in dict.fromkeys(reductions))
        raise ValueError(f"backbone '{name}': no map at {' and '.join(missing)}; it has {maps}")
    # Where two maps of a backbone have one size, the deeper one is taken.
    options = {"out_indices": tuple(last[reduction] for reduction in LEVELS if reduction in last)}
    if _timm().get_pretrained_cfg(name).fixed_input_size:
        options["img_size"] = resolution
    network = _created(name, options) if pretrained is False else _with_weights(name, options, pretrained)
    if any(hasattr(module, "attention_bias_cache") for module in network.modules()):
        raise ValueError(
            f"backbone '{name}': keeps a cache of its weights in evaluation, which the running average of a training "
            "would not renew; choose another one"
        )
    # timm cuts off the stages behind the last map, except in the family of EfficientNet and MobileNet.
    stages, blocks = [info.get("stage") for info in network.feature_info.get_dicts()], getattr(network, "blocks", None)
    if isinstance(blocks, nn.Sequential) and None not in stages:
        network.blocks = blocks[: max(stages)]
    channels = network.feature_info.channels()
    _check_maps(name, network, resolution, channels)
    return network, channels


def _check_maps(name: str, network: nn.Module, resolution: int, channels: Sequence[int]) -> None:
    """Raise ValueError unless a backbone gives maps of the decoder's sizes from pictures of this resolution, and needs
    all its parameters for them."""
    where = f"backbone '{name}': does not work at resolution {resolution}"
    sides = [resolution // reduction for reduction in LEVELS[-len(channels) :]]
    formats = {"NCHW": lambda c, side: (1, c, side, side), "NHWC": lambda c, side: (1, side, side, c)}
    expected = formats.get(_layout(network))
    if expected is None:
        raise ValueError(f"backbone '{name}': its output is not maps of pixels but {_layout(network)}")
    try:
        maps = network.eval()(torch.zeros(1, 3, resolution, resolution))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(f"{where}: {_first_line(error)}") from error
    network.train()
    shapes = [tuple(each.shape) for each in maps]
    wanted = [expected(c, side) for c, side in zip(channels, sides, strict=True)]
    if shapes != wanted:
        raise ValueError(f"{where}: its maps are of shapes {shapes}, expected {wanted}")
    needed = _parameters_of(maps)
    if unused := [key for key, parameter in network.named_parameters() if id(parameter) not in needed]:
        raise ValueError(f"backbone '{name}': has layers that no map needs, such as {unused[0]}")


def _parameters_of(maps: Sequence[Tensor]) -> set[int]:
    """The ids of the parameters that maps depend on, by their graph of gradients; nothing is computed."""
    waiting, seen, found = [each.grad_fn for each in maps], set(), set()
    while waiting:
        step = waiting.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        found.add(id(getattr(step, "variable", None)))
        waiting += [before for before, _ in step.next_functions]
    return found


def _layout(network: nn.Module) -> str:
    """The order of the axes of a backbone's maps."""
    return getattr(getattr(network, "output_fmt", None), "value", "NCHW")


def _timm():
    import timm  # takes half a second, which other students need not wait for

    return timm


def _created(name: str, options: dict, **more) -> nn.Module:
    """A network of timm that returns maps. Raises ValueError where timm cannot make one."""
    try:
        return _timm().create_model(name, features_only=True, **{"pretrained": False, **options, **more})
    except (RuntimeError, NotImplementedError, AssertionError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"backbone '{name}': timm cannot give its maps: {_first_line(error)}") from error


@functools.cache
def _reductions(name: str) -> tuple[int, ...]:
    """By what a backbone's maps are smaller than its input, in timm's order. Raises ValueError for unknown names."""
    timm = _timm()
    if not isinstance(name, str) or not timm.is_model(name):  # else timm would ask a server for hf-hub: and the like
        similar = difflib.get_close_matches(str(name), timm.list_models()) or ["timm.list_models() names all"]
        raise ValueError(f"backbone '{name}': timm {timm.__version__} has no such network; {', '.join(similar)}")
    with torch.random.fork_rng(devices=[]):  # the cache must not change the weights that are drawn afterwards
        return tuple(_created(name, {}).feature_info.reduction())


def _with_weights(name: str, options: dict, pretrained: bool | str) -> nn.Module:
    """A backbone with timm's own weights, or with those of a file, as timm publishes them."""
    if not isinstance(pretrained, str | bool):
        raise ValueError(f"pretrained: expected true, false or a file's path, got {pretrained!r}")
    if isinstance(pretrained, str):
        if not Path(pretrained).is_file():
            raise ValueError(f"pretrained: {pretrained}: no such file (weights of backbone '{name}')")
        where, overlay = pretrained, {"state_dict": read_state(pretrained)}
    else:
        where, overlay = f"timm's weights of '{name}'", {}
    with torch.random.fork_rng(devices=[]):
        start = torch.get_rng_state()
        fresh = _created(name, options)
        torch.set_rng_state(start)
        try:
            network = _timm().create_model(
                name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay, **options
            )
        except Exception as error:  # of timm, of the hub's client, and of the network below it: any class
            remedy = "" if overlay else "; without internet give a file of them: pretrained: FILE"
            raise ValueError(f"pretrained: cannot load {where}: {_first_line(error)}{remedy}") from error
    # timm tolerates missing tensors: where the layers behind the maps are cut off, some are left over in any case.
    state = fresh.state_dict()
    for key, tensor in network.state_dict().items():
        if torch.equal(tensor, state[key]) and tensor.numel() > 1 and tensor.float().std() > 0:
            raise ValueError(f"pretrained: {where}: not the weights of backbone '{name}': {key} is missing")
    for module in network.modules():  # else every copy of the network would hold the file's tensors once more
        if isinstance(getattr(module, "pretrained_cfg", None), dict):
            module.pretrained_cfg.pop("state_dict", None)
    return network


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
