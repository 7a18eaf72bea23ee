"""ExecuTorch: a model as a .pte file for XNNPACK. Wants the extra `export-executorch`.

Lowered from torch.export's graph, run by ExecuTorch's own runtime. Normalisations without weights are given ones first:
two of them in one graph come out wrong on XNNPACK (executorch 1.5.1).
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path

from torch import Tensor

from swapcore.files import whole_folder

from .models import Model, Run, program

PRECISIONS = ("fp32",)


def write(model: Model, path: str | Path, precision: str = "fp32", metadata: Mapping[str, str] = {}) -> Path:
    """Write a model as a .pte file, which has no place for the metadata. Raises ValueError naming what cannot be."""
    path = Path(path)
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("executorch").setLevel(logging.ERROR)
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        try:
            lowered = to_edge_transform_and_lower(program(model), partitioner=[XnnpackPartitioner()]).to_executorch()
        except Exception as error:  # its passes raise whatever they like
            reason = [line.strip() for line in str(error).splitlines() if "perator" in line] or str(error).splitlines()
            raise ValueError(
                f"{model.name}: cannot be lowered to ExecuTorch: {reason[0] if reason else error}"
            ) from error
    with whole_folder(path) as temporary:
        temporary.write_bytes(lowered.buffer)
    return path


def load(path: str | Path, names: Sequence[str], threads: int = 1) -> Run:
    """Inputs by name -> outputs of a .pte file, `names` being theirs in the model's order. ExecuTorch
    takes all the cores it may use, whatever `threads` says. Raises ValueError naming a damaged file."""
    from executorch.runtime import Runtime

    try:
        method = Runtime.get().load_program(str(path)).load_method("forward")
    except RuntimeError as error:
        raise ValueError(f"{path}: not a file that ExecuTorch can run: {str(error).splitlines()[0]}") from error

    def outputs(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        made = method.execute([tensor.contiguous() for tensor in inputs.values()])
        return {name: tensor.clone() for name, tensor in zip(names, made, strict=True)}

    return outputs
