"""ExecuTorch: a .pte file for XNNPACK. Needs the extra `export-executorch`.

Lowered from torch.export's graph, run by ExecuTorch's own runtime. Normalisations without weights get weights first:
two of them in one graph give wrong results on XNNPACK (executorch 1.5.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from swapcore.files import whole_file

from .conversion import converting
from .models import Model, Run, Target, program


def write(model: Model, path: str | Path, precision: str = "fp32", metadata: Mapping[str, str] = {}) -> Path:
    """Write a model as a .pte file, which cannot hold the metadata. Raises ValueError naming the operator without a
    lowering."""
    path = Path(path)
    with converting(model.name, "ExecuTorch", Exception, "executorch"):  # its passes raise exceptions of any class
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(program(model), partitioner=[XnnpackPartitioner()]).to_executorch()
    with whole_file(path) as temporary:
        temporary.write_bytes(lowered.buffer)
    return path


def load(path: str | Path, names: Sequence[str], threads: int = 1) -> Run:
    """Inputs by name -> outputs of a .pte file; `names` are those of the outputs in the model's order.

    ExecuTorch uses all cores that the process may use, whatever `threads` is. Raises ValueError naming a damaged file.
    """
    from executorch.runtime import Runtime

    try:
        method = Runtime.get().load_program(str(path)).load_method("forward")
    except RuntimeError as error:
        raise ValueError(f"{path}: not a file that ExecuTorch can run: {str(error).splitlines()[0]}") from error

    def run(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        tensors = method.execute([tensor.contiguous() for tensor in inputs.values()])
        return {name: tensor.clone() for name, tensor in zip(names, tensors, strict=True)}

    return run


TARGET = Target(
    ".pte", ("fp32",), "ExecuTorch, XNNPACK",
    "method forward: float32 tensors in the order of the inputs, NCHW, batch of one",
    write, load, packages=("executorch",), extra="export-executorch",
)  # fmt: skip
