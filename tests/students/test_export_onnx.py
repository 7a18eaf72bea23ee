"""Students as ONNX files: the same numbers from onnxruntime, at the sizes told, and errors that are seen."""

import pytest
import torch
from torch import nn

pytest.importorskip("onnxscript", reason='pip install -e ".[export-onnx]"')
import onnx as onnx_package  # noqa: E402
from helpers.small_students import expected, inputs, swapper  # noqa: E402

from distill.config import Experiment  # noqa: E402
from distill.evaluate.swappers import OnnxStudent  # noqa: E402
from students.export import onnx  # noqa: E402
from students.export.models import models  # noqa: E402


def test_files_carry_what_they_are_and_no_notes_on_the_code(tmp_path):
    model = models(swapper("compact"))["identity_encoder"]
    path = onnx.write(model, tmp_path / "e.onnx", metadata={"student": "compact"})
    proto = onnx_package.load(path)
    assert {p.key: p.value for p in proto.metadata_props} == {"student": "compact"}
    assert not any(node.metadata_props for node in proto.graph.node)
    assert path.stat().st_size < 1.01 * 4 * sum(p.numel() for p in model.module.parameters()) + 10_000


def test_any_batch_where_it_was_asked_for(tmp_path):
    model = models(swapper("compact"))["generator"]
    given = inputs(model, 3)
    path = onnx.write(model, tmp_path / "g.onnx", dynamic_batch=True)
    assert (onnx.load(path, model.outputs)(given)["swap"] - expected(model, given)["swap"]).abs().max() < 1e-4


@pytest.mark.slow
def test_the_files_are_swappers_to_be_measured(tmp_path):
    student = swapper("mobilefsgan")
    made = models(student)
    source, target = inputs(made["whole"], 1).values()
    with torch.inference_mode():
        wanted = student(source, target)
    for name in ("generator", "whole"):
        path = onnx.write(made[name], tmp_path / f"{name}.onnx", metadata={"identity_encoder": "synthetic_identity"})
        assert (OnnxStudent(path, Experiment(name="x"), None)(source, target) - wanted).abs().max() < 1e-4


def test_a_planted_error_is_seen(tmp_path):
    model = models(swapper("compact"))["generator"]
    given = inputs(model, 1)
    path = onnx.write(model, tmp_path / "g.onnx")
    proto = onnx_package.load(path)
    weight = max((t for t in proto.graph.initializer if len(t.dims) == 4), key=lambda t: t.dims[0] * t.dims[1])
    array = onnx_package.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx_package.numpy_helper.from_array(array[::-1].copy(), weight.name))
    onnx_package.save(proto, path)
    assert (onnx.load(path, model.outputs)(given)["swap"] - expected(model, given)["swap"]).abs().max() > 1e-3


def test_what_cannot_be_exported_names_itself(tmp_path):
    class Strange(nn.Module):
        def forward(self, target):
            return torch.linalg.eigvals(target[0, 0])

    model = models(swapper("compact"))["generator"]
    strange = type(model)("strange", Strange().eval(), {"target": torch.zeros(1, 3, 8, 8)}, ("swap",))
    with pytest.raises(ValueError, match="strange: cannot be converted to ONNX: .*eig"):
        onnx.write(strange, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="x.onnx: is text"):
        onnx.load(tmp_path / "x.onnx", ("swap",))
    with pytest.raises(ValueError, match="training mode"):
        models(swapper("compact").train())
