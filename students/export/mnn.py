"""MNN: an .mnn file. Needs the extra `export-mnn`.

Converted by MNN's own program from the ONNX file that `onnx.py` writes, and run by the MNN package. fp16 and int8 make
the weights in the file smaller; here arithmetic is float32 in every precision.

MNN computes convolutions in Winograd tiles. The default is the largest, which loses two digits by rounding: the
original's generator then differs from PyTorch by up to 4e-4 to 2e-3, with small tiles by 3e-6, in 1.3 times the time
(MNN 3.6.1). The app chooses the tiles; the file is the same. Here they are small (hint WINOGRAD_MEMORY_LEVEL = 1).
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

from swapcore.files import whole_file

from . import onnx
from .conversion import halves
from .models import Model, Run, Target

WINOGRAD_MEMORY_LEVEL = 3  # Interpreter::HintMode of MNN, for which the Python package has no names
SMALL_TILES = 1
# A process of its own, but not `python -m MNN.tools.mnnconvert`: importing MNN.tools (3.6.1) installs a logging package
# by pip without asking, and calls the servers of its maker.
CONVERT = (sys.executable, "-c", "import sys, _tools; _tools.mnnconvert(sys.argv)")
PRECISIONS = {"fp32": [], "fp16": ["--fp16"], "int8": ["--weightQuantBits", "8"]}


def write(model: Model, path: str | Path, precision: str = "fp32", metadata: Mapping[str, str] = {}) -> Path:
    """Write a model as an .mnn file, which cannot hold the metadata. Raises ValueError with MNN's message."""
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder, whole_file(path) as temporary:
        source = onnx.write(model, Path(folder) / "model.onnx")
        if precision == "fp16":
            _round_to_halves(source)
        process = subprocess.run(
            [*CONVERT, "-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(temporary), "--bizCode",
             "swapdistill", *PRECISIONS[precision]],
            capture_output=True, text=True,
        )  # fmt: skip
        if process.returncode or not temporary.stat().st_size:
            output = (process.stdout + process.stderr).splitlines()
            errors = [line for line in output if "rror" in line or "upport" in line]
            raise ValueError(f"{model.name}: cannot be converted to MNN: {' '.join(errors[:2]) or process.returncode}")
    return path


def _round_to_halves(path: Path) -> None:
    """Round the weights of an ONNX file to fp16 values: MNN's converter truncates them (3.6.1), which doubles the
    error."""
    import onnx as package

    proto = package.load(path)
    for tensor in proto.graph.initializer:
        if tensor.data_type == package.TensorProto.FLOAT:
            rounded = halves(package.numpy_helper.to_array(tensor), tensor.name).astype(np.float32)
            tensor.CopyFrom(package.numpy_helper.from_array(rounded, tensor.name))
    path.write_bytes(proto.SerializeToString())


def load(path: str | Path, names: Sequence[str], threads: int = 1) -> Run:
    """Inputs by name -> outputs by name of an .mnn file. Raises ValueError naming a damaged file."""
    import MNN

    try:
        net = MNN.Interpreter(str(path))
        net.setSessionHint(WINOGRAD_MEMORY_LEVEL, SMALL_TILES)
        session = net.createSession({"numThread": threads, "backend": "CPU", "precision": "high"})
    except Exception as error:  # MNN raises plain Exceptions
        raise ValueError(f"{path}: not a file that MNN can run: {error}") from error
    on_device = net.getSessionOutputAll(session)

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for name, tensor in inputs.items():
            net.getSessionInput(session, name).copyFrom(_tensor(np.ascontiguousarray(tensor.numpy())))
        net.runSession(session)
        outputs = {}
        for name in names:
            shape = on_device[name].getShape()
            host = _tensor(np.zeros(shape, np.float32))
            on_device[name].copyToHostTensor(host)
            outputs[name] = torch.from_numpy(np.array(host.getNumpyData(), np.float32).reshape(shape).copy())
        return outputs

    def _tensor(array: np.ndarray):
        return MNN.Tensor(array.shape, MNN.Halide_Type_Float, array, MNN.Tensor_DimensionType_Caffe)

    return run


TARGET = Target(
    ".mnn", tuple(PRECISIONS), "MNN, small Winograd tiles",
    f"{onnx.TENSORS}; setSessionHint(WINOGRAD_MEMORY_LEVEL, 1) for exact numbers",
    write, load, packages=("MNN", *onnx.PACKAGES), extra="export-mnn",
)  # fmt: skip
