"""MNN: a model as an .mnn file. Wants the extra `export-mnn`.

Converted by MNN's own code from the ONNX file that `onnx.py` writes, and run by the MNN package. With fp16 and int8 the
weights are smaller in the file; here arithmetic is float32 with all.

MNN multiplies convolutions in Winograd tiles, by default the largest, whose rounding costs two digits: the original's
generator is then off by up to 4e-4 to 2e-3, with small tiles by 3e-6, in 1.3 times the time (3.6.1). The file is the
same; how it is run is the app's to say, here small tiles are asked for (hint WINOGRAD_MEMORY_LEVEL = 1).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from swapcore.files import whole_folder

from . import onnx
from .models import Model, Run

WINOGRAD_MEMORY_LEVEL = 3  # Interpreter::HintMode of MNN, which the Python package has no names for
SMALL_TILES = 1
# The converter as a program of its own. Not `python -m MNN.tools.mnnconvert`: importing MNN.tools (3.6.1) installs a
# package for logging by pip, without asking, and calls its maker's servers.
CONVERT = (sys.executable, "-c", "import sys, _tools; _tools.mnnconvert(sys.argv)")
PRECISIONS = {"fp32": [], "fp16": ["--fp16"], "int8": ["--weightQuantBits", "8"]}


def write(model: Model, path: str | Path, precision: str = "fp32", metadata: Mapping[str, str] = {}) -> Path:
    """Write a model as an .mnn file, which has no place for the metadata. Raises ValueError naming what MNN lacks."""
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder, whole_folder(path) as temporary:
        source = onnx.write(model, Path(folder) / "model.onnx")
        if precision == "fp16":
            _round(source)
        done = subprocess.run(
            [*CONVERT, "-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(temporary), "--bizCode",
             "swapdistill", *PRECISIONS[precision]],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode or not temporary.is_file():
            told = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line or "upport" in line]
            raise ValueError(f"{model.name}: cannot be converted to MNN: {' '.join(told[:2]) or done.returncode}")
    return path


def _round(path: Path) -> None:
    """The weights of an ONNX file rounded to what halves can hold: MNN's converter cuts off what they cannot (3.6.1),
    which is twice as far off."""
    import onnx as package

    proto = package.load(path)
    for tensor in proto.graph.initializer:
        if tensor.data_type == package.TensorProto.FLOAT:
            rounded = onnx.halves(package.numpy_helper.to_array(tensor), tensor.name).astype(np.float32)
            tensor.CopyFrom(package.numpy_helper.from_array(rounded, tensor.name))
    path.write_bytes(proto.SerializeToString())


def load(path: str | Path, names: Sequence[str], threads: int = 1) -> Run:
    """Inputs by name -> outputs by name of an .mnn file. Raises ValueError naming a damaged file."""
    import MNN

    try:
        net = MNN.Interpreter(str(path))
        net.setSessionHint(WINOGRAD_MEMORY_LEVEL, SMALL_TILES)
        session = net.createSession({"numThread": threads, "backend": "CPU", "precision": "high"})
    except Exception as error:  # MNN raises no kind of its own
        raise ValueError(f"{path}: not a file that MNN can run: {error}") from error
    outputs_there = net.getSessionOutputAll(session)

    def outputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for name, tensor in inputs.items():
            array = np.ascontiguousarray(tensor.numpy())
            there = net.getSessionInput(session, name)
            there.copyFrom(MNN.Tensor(array.shape, MNN.Halide_Type_Float, array, MNN.Tensor_DimensionType_Caffe))
        net.runSession(session)
        made = {}
        for name in names:
            there = outputs_there[name]
            shape = there.getShape()
            host = MNN.Tensor(shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32), MNN.Tensor_DimensionType_Caffe)
            there.copyToHostTensor(host)
            made[name] = torch.from_numpy(np.array(host.getNumpyData(), np.float32).reshape(shape).copy())
        return made

    return outputs
