"""Runs a saved Core ML package in torch: its program, read back by coremltools, operation by operation.

Apple's runtime exists only on Apple's systems. This checks the content of the file: structure, rounded weights, order
and parameters of its operations. It does not check Apple's kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .models import Run


def load(path: str | Path, names: Sequence[str]) -> Run:
    """Inputs by name -> outputs by name, float32, of a .mlpackage. Raises ValueError naming a damaged file, or an
    operation that this module does not know."""
    main = program(path).functions["main"]
    constants = {
        variable.name: _plain(variable.val)
        for operation in main.operations
        for variable in operation.outputs
        if variable.val is not None
    }

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values: dict[str, Any] = {**constants, **inputs}
        missing = set(main.inputs) - set(inputs)
        if missing:
            raise ValueError(f"{path}: no value for its input {', '.join(sorted(missing))}")
        with torch.inference_mode():
            for operation in main.operations:
                _compute(operation, values, path)
        return {name: values[name].float() for name in names}

    return run


def _compute(operation, values: dict[str, Any], path: str | Path) -> None:
    """Add the outputs of an operation to the values, unless they are constants."""
    if all(variable.name in values for variable in operation.outputs):
        return
    if operation.op_type not in OPERATIONS:
        raise ValueError(f"{path}: operation '{operation.op_type}' ({operation.name}) is not known here")

    def value_of(variable) -> Any:
        if isinstance(variable, list | tuple):
            return [value_of(one) for one in variable]
        return values[variable.name]

    inputs = {key: value_of(variable) for key, variable in operation.inputs.items() if variable is not None}
    results = OPERATIONS[operation.op_type](inputs)
    for variable, value in zip(operation.outputs, results if isinstance(results, tuple) else (results,), strict=True):
        values[variable.name] = value


def program(path: str | Path):
    """The program of a .mlpackage. Raises ValueError naming a damaged file."""
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load as load_program

    try:
        model = coremltools.models.MLModel(str(path), skip_model_load=True)
        spec = model.get_spec()
        return load_program(spec, spec.specificationVersion, model.weights_dir)
    except Exception as error:  # the parsers of coremltools raise exceptions of any class
        reason = str(error).strip().splitlines()
        raise ValueError(f"{path}: not a Core ML package that can be read: {reason[0] if reason else error}") from error


def _plain(value: Any) -> Any:
    """A constant for torch: arrays become tensors, and so does an fp16 number, which Python would widen; other numbers
    and text become Python's."""
    if isinstance(value, np.float16):
        return torch.tensor(value)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy()) if value.ndim else value.item()
    return value.item() if isinstance(value, np.generic) else value


def _integers(value: Any) -> list[int]:
    return [int(one) for one in (value.tolist() if isinstance(value, Tensor) else value)]


def _conv(i: Mapping[str, Any]) -> Tensor:
    pads = _integers(i["pad"]) if "pad" in i and i.get("pad_type", "valid") == "custom" else [0] * 4
    if i.get("pad_type", "valid") not in ("valid", "custom"):
        raise ValueError(f"conv with pad_type {i['pad_type']} is not known here")
    x = F.pad(i["x"], (pads[2], pads[3], pads[0], pads[1]))
    strides, dilations = _integers(i.get("strides", [1, 1])), _integers(i.get("dilations", [1, 1]))
    return _wide(F.conv2d, x, i["weight"], i.get("bias"), strides, 0, dilations, int(i.get("groups", 1)))


def _wide(function: Callable[..., Tensor], x: Tensor, *arguments: Any) -> Tensor:
    """Products of fp16 values, summed in float32 and rounded once: torch's result, thirty times as fast on a CPU."""
    if x.dtype != torch.float16:
        return function(x, *arguments)
    wide = (one.float() if isinstance(one, Tensor) and one.dtype == torch.float16 else one for one in arguments)
    return function(x.float(), *wide).half()


def _dequantize(i: Mapping[str, Any]) -> Tensor:
    """Integers to weights, by a scale and a zero point for each index along an axis."""
    data, scale, zero = (torch.as_tensor(i[key]) for key in ("quantized_data", "scale", "zero_point"))
    if scale.ndim:
        shape = [-1 if axis == int(i["axis"]) else 1 for axis in range(data.ndim)]
        scale, zero = scale.view(shape), zero.view(shape) if zero.ndim else zero
    return (data.to(scale.dtype) - zero) * scale


def _batch_norm(i: Mapping[str, Any]) -> Tensor:
    return F.batch_norm(i["x"], i["mean"], i["variance"], i.get("gamma"), i.get("beta"), eps=i["epsilon"])


def _pad(i: Mapping[str, Any]) -> Tensor:
    pairs = list(zip(*[iter(_integers(i["pad"]))] * 2, strict=True))
    while pairs and pairs[0] == (0, 0):
        pairs.pop(0)
    flat = [side for pair in reversed(pairs) for side in pair]
    mode = {"constant": "constant", "reflect": "reflect", "replicate": "replicate"}[i.get("mode", "constant")]
    return F.pad(i["x"], flat, mode, **({"value": float(i.get("constant_val", 0))} if mode == "constant" else {}))


def _slice(i: Mapping[str, Any]) -> Tensor:
    x, rank = i["x"], i["x"].ndim
    begin, end = _integers(i["begin"]), _integers(i["end"])
    stride = _integers(i.get("stride", [1] * rank))
    masks = {
        key: [bool(one) for one in i.get(key, [False] * rank)] for key in ("begin_mask", "end_mask", "squeeze_mask")
    }
    index: list[Any] = []
    for axis in range(rank):
        if masks["squeeze_mask"][axis]:
            index.append(begin[axis])
            continue
        first = None if masks["begin_mask"][axis] else begin[axis]
        last = None if masks["end_mask"][axis] else end[axis]
        index.append(slice(first, last, stride[axis]))
    return x[tuple(index)]


def _resize_bilinear(i: Mapping[str, Any]) -> Tensor:
    mode = i.get("sampling_mode", "DEFAULT")
    if mode not in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "UNALIGN_CORNERS"):
        raise ValueError(f"resize_bilinear with sampling_mode {mode} is not known here")
    size = (int(i["target_size_height"]), int(i["target_size_width"]))
    return F.interpolate(i["x"], size, mode="bilinear", align_corners=mode != "UNALIGN_CORNERS")


def _upsample(i: Mapping[str, Any], mode: str) -> Tensor:
    scale = (float(i["scale_factor_height"]), float(i["scale_factor_width"]))
    corners = {"align_corners": bool(i["align_corners"])} if mode == "bilinear" else {}
    return F.interpolate(i["x"], scale_factor=scale, mode=mode, **corners)


def _instance_norm(i: Mapping[str, Any]) -> Tensor:
    return F.instance_norm(i["x"], weight=i.get("gamma"), bias=i.get("beta"), eps=i["epsilon"])


def _gelu(i: Mapping[str, Any]) -> Tensor:
    if i.get("mode", "EXACT") not in ("EXACT", "TANH_APPROXIMATION"):
        raise ValueError(f"gelu with mode {i['mode']} is not known here")
    return F.gelu(i["x"], approximate="none" if i.get("mode", "EXACT") == "EXACT" else "tanh")


def _layer_norm(i: Mapping[str, Any]) -> Tensor:
    x, axes = i["x"], sorted(axis % i["x"].ndim for axis in _integers(i["axes"]))
    if axes != list(range(x.ndim - len(axes), x.ndim)):
        raise ValueError(f"layer_norm over the axes {axes} of {x.ndim} is not known here")
    shape = [x.shape[axis] for axis in axes]
    return F.layer_norm(x, shape, i.get("gamma"), i.get("beta"), float(i.get("epsilon", 1e-5)))


def _split(i: Mapping[str, Any]) -> tuple[Tensor, ...]:
    axis = int(i["axis"])
    if "split_sizes" in i:
        return i["x"].split(_integers(i["split_sizes"]), axis)
    return i["x"].chunk(int(i["num_splits"]), axis)


def _matmul(i: Mapping[str, Any]) -> Tensor:
    x, y = i["x"], i["y"]
    return _wide(torch.matmul, x.mT if i.get("transpose_x") else x, y.mT if i.get("transpose_y") else y)


def _over_axes(name: str) -> Callable[[Mapping[str, Any]], Tensor]:
    def operation(i: Mapping[str, Any]) -> Tensor:
        axes, keep = _integers(i["axes"]), bool(i.get("keep_dims", False))
        if name == "l2":
            return i["x"].norm(2, axes, keep)
        return getattr(i["x"], name)(axes, keep)

    return operation


def _expand_dims(i: Mapping[str, Any]) -> Tensor:
    x = i["x"]
    for axis in sorted(_integers(i["axes"])):
        x = x.unsqueeze(axis)
    return x


def _squeeze(i: Mapping[str, Any]) -> Tensor:
    axes = _integers(i["axes"]) if "axes" in i else [axis for axis, size in enumerate(i["x"].shape) if size == 1]
    return i["x"].squeeze(axes)


def _resample(i: Mapping[str, Any]) -> Tensor:
    known = ("bilinear", "border", "normalized_minus_one_to_one")
    if (modes := (i["sampling_mode"], i["padding_mode"], i["coordinates_mode"])) != known:
        raise ValueError(f"operation 'resample' of the modes {', '.join(modes)} is not known here")
    corners = bool(i["align_corners"])
    return _wide(partial(F.grid_sample, padding_mode="border", align_corners=corners), i["x"], i["coordinates"])


_TYPES = {"fp16": torch.float16, "fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}

OPERATIONS: dict[str, Callable[[Mapping[str, Any]], Tensor | tuple[Tensor, ...]]] = {
    "add": lambda i: i["x"] + i["y"],
    "batch_norm": _batch_norm,
    "cast": lambda i: i["x"].to(_TYPES[i["dtype"]]),
    "clip": lambda i: i["x"].clamp(i["alpha"], i["beta"]),
    "concat": lambda i: torch.cat(i["values"], int(i["axis"])),
    "constexpr_affine_dequantize": _dequantize,
    "conv": _conv,
    "expand_dims": _expand_dims,
    "gelu": _gelu,
    "identity": lambda i: i["x"],
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "leaky_relu": lambda i: F.leaky_relu(i["x"], float(i["alpha"])),
    "less": lambda i: i["x"] < i["y"],
    "linear": lambda i: _wide(F.linear, i["x"], i["weight"], i.get("bias")),
    "matmul": _matmul,
    "maximum": lambda i: torch.maximum(*(torch.as_tensor(i[key]) for key in "xy")),
    "mul": lambda i: i["x"] * i["y"],
    "pad": _pad,
    "pixel_shuffle": lambda i: F.pixel_shuffle(i["x"], int(i["upscale_factor"])),
    "pixel_unshuffle": lambda i: F.pixel_unshuffle(i["x"], int(i["downscale_factor"])),
    "pow": lambda i: i["x"] ** i["y"],
    "prelu": lambda i: F.prelu(i["x"], i["alpha"]),
    "real_div": lambda i: i["x"] / i["y"],
    "reduce_l2_norm": _over_axes("l2"),
    "reduce_mean": _over_axes("mean"),
    "reduce_sum": _over_axes("sum"),
    "relu": lambda i: F.relu(i["x"]),
    "relu6": lambda i: F.relu6(i["x"]),
    "resample": _resample,
    "reshape": lambda i: i["x"].reshape(_integers(i["shape"])),
    "resize_bilinear": _resize_bilinear,
    "rsqrt": lambda i: (i["x"] + i.get("epsilon", 0)).rsqrt(),
    "select": lambda i: torch.where(i["cond"], i["a"], i["b"]),
    "sigmoid": lambda i: i["x"].sigmoid(),
    "sigmoid_hard": lambda i: (i["x"] * float(i["alpha"]) + float(i["beta"])).clamp(0, 1),
    "silu": lambda i: F.silu(i["x"]),
    "slice_by_index": _slice,
    "softmax": lambda i: i["x"].softmax(int(i.get("axis", -1))),
    "split": _split,
    "sqrt": lambda i: i["x"].sqrt(),
    "square": lambda i: i["x"].square(),
    "squeeze": _squeeze,
    "sub": lambda i: i["x"] - i["y"],
    "tanh": lambda i: i["x"].tanh(),
    "thresholded_relu": lambda i: torch.where(i["x"] >= i["alpha"], i["x"], 0),
    "tile": lambda i: i["x"].repeat(_integers(i["reps"])),
    "transpose": lambda i: i["x"].permute(_integers(i["perm"])),
    "upsample_bilinear": lambda i: _upsample(i, "bilinear"),
    "upsample_nearest_neighbor": lambda i: _upsample(i, "nearest"),
}
