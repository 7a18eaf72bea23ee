"""ncnn: a .param and a .bin. Needs the extra `export-ncnn`.

Converted by pnnx from a TorchScript trace, and run by the ncnn package. fp16 stores weights in half precision; a device
may also compute with them. Here all arithmetic is float32, so that the comparison is exact.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from swapcore.files import whole_file

from .fold import explicit_norms
from .models import Model, Run, Target, lerp


def write(model: Model, path: str | Path, precision: str = "fp32", metadata: Mapping[str, str] = {}) -> Path:
    """Write a model as `path`, a .param, and a .bin beside it; inputs and outputs keep the model's names.

    The files cannot hold the metadata. Raises ValueError naming the layer that pnnx cannot convert.
    """
    import pnnx

    path, examples = Path(path), tuple(model.inputs.values())
    with tempfile.TemporaryDirectory() as folder:
        with warnings.catch_warnings(), torch.no_grad(), _WithoutLerp():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(explicit_norms(model.module), examples, check_trace=False)
        traced.save(f"{folder}/model.pt")
        shapes = ",".join(f"[{','.join(map(str, tensor.shape))}]" for tensor in examples)
        process = subprocess.run(
            [pnnx.EXEC_PATH, "model.pt", f"inputshape={shapes}", f"fp16={int(precision == 'fp16')}"],
            cwd=folder, capture_output=True, text=True,
        )  # fmt: skip
        param, binary = Path(folder, "model.ncnn.param"), Path(folder, "model.ncnn.bin")
        if process.returncode or not param.is_file():
            reason = (process.stderr or process.stdout).strip().splitlines()[-1:]
            raise ValueError(
                f"{model.name}: cannot be converted to ncnn: pnnx ends with {process.returncode}, {reason}"
            )
        text = _renamed(param.read_text(), model)
        with whole_file(path) as new_param, whole_file(_weights(path)) as new_binary:
            new_param.write_text(text)
            shutil.copyfile(binary, new_binary)
    return path


def load(path: str | Path, names: Sequence[str], threads: int = 1) -> Run:
    """Inputs by name -> outputs by name of a .param and its .bin. Raises ValueError naming a damaged file."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{option}", False)
    if net.load_param(str(path)) or net.load_model(str(_weights(path))):
        raise ValueError(f"{path}: not a file that ncnn can read, or damaged; export it again")

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with net.create_extractor() as extractor:
            for name, tensor in inputs.items():
                extractor.input(name, ncnn.Mat(np.ascontiguousarray(tensor[0].numpy())).clone())
            outputs = {}
            for name in names:
                failed, blob = extractor.extract(name)
                if failed:
                    raise ValueError(f"{path}: ncnn gives no output '{name}' ({failed})")
                outputs[name] = torch.from_numpy(np.array(blob))[None]
        return outputs

    return run


def files(path: str | Path) -> list[Path]:
    return [Path(path), _weights(path)]


def _weights(path: str | Path) -> Path:
    return Path(path).with_suffix(".bin")


class _WithoutLerp(TorchFunctionMode):
    """pnnx has no rule for torch.lerp."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return (lerp if function is torch.lerp else function)(*args, **(kwargs or {}))


def _renamed(text: str, model: Model) -> str:
    """The .param with the model's names in place of pnnx's in0, in1, out0, ... Raises ValueError for layers that ncnn
    does not have."""
    names = {f"in{i}": name for i, name in enumerate(model.inputs)}
    names |= {f"out{i}": name for i, name in enumerate(model.outputs)}
    magic, counts, *layers = text.splitlines()
    lines = []
    for line in layers:
        words = line.split()
        if "." in words[0] or "::" in words[0]:  # pnnx writes torch's name if it knows no layer
            raise ValueError(f"{model.name}: cannot be converted to ncnn: no layer for {words[0]} ({words[1]})")
        if words[0].startswith("Convolution") and words[2] != "1":  # ncnn would ignore the second input
            raise ValueError(f"{model.name}: cannot be converted to ncnn: computed kernels of {words[0]} ({words[1]})")
        blobs = int(words[2]) + int(words[3])
        lines.append(" ".join([*words[:4], *(names.get(w, w) for w in words[4 : 4 + blobs]), *words[4 + blobs :]]))
    return "\n".join([magic, counts, *lines]) + "\n"


TARGET = Target(
    ".param", ("fp32", "fp16"), "ncnn, float32 arithmetic",
    "Mats of float32 by blob name, without the axis of the batch; options use_fp16_* off for exact numbers",
    write, load, packages=("pnnx", "ncnn"), extra="export-ncnn", files=files,
)  # fmt: skip
