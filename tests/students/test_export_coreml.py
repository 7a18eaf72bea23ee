"""Students as Core ML packages, read back and run; and errors that are seen."""

import struct

import pytest
import torch
from torch import nn

pytest.importorskip("coremltools", reason='pip install -e ".[export-coreml]"')

from helpers.small_students import expected, inputs, swapper  # noqa: E402

from students.export import coreml, mil  # noqa: E402
from students.export.models import Model, models  # noqa: E402


@pytest.mark.slow
def test_half_precision_is_nearly_the_same_in_half_the_size(tmp_path):
    model = models(swapper("mobilefsgan"))["generator"]
    given = inputs(model, 1)
    full = coreml.write(model, tmp_path / "full.mlpackage")
    half = coreml.write(model, tmp_path / "half.mlpackage", "fp16")
    difference = (coreml.load(half, model.outputs)(given)["swap"] - expected(model, given)["swap"]).abs().max()
    assert 1e-6 < difference < 2e-2
    weights = [sum(f.stat().st_size for f in path.rglob("weight.bin")) for path in (full, half)]
    assert weights[1] < 0.6 * weights[0]


def test_a_planted_error_is_seen(tmp_path):
    model = models(swapper("mobilefsgan"))["generator"]
    given = inputs(model, 1)
    path = coreml.write(model, tmp_path / "g.mlpackage")
    file = next(path.rglob("weight.bin"))
    content = bytearray(file.read_bytes())
    at = -1
    while (at := content.find(b"\xef\xbe\xad\xde", at + 1)) >= 0:  # what the head of every weight begins with
        size, start = struct.unpack_from("<QQ", content, at + 8)
        content[start : start + size] = bytes(size)
    file.write_bytes(content)
    assert (coreml.load(path, model.outputs)(given)["swap"] - expected(model, given)["swap"]).abs().max() > 1e-3
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="g.mlpackage: not a Core ML package that can be read"):
        coreml.load(path, model.outputs)(given)


def test_mistakes_are_told_and_leave_nothing(tmp_path):
    class Strange(nn.Module):
        def forward(self, target):
            return torch.linalg.eigvals(target[0, 0]).real

    model = models(swapper("compact"))["generator"]
    strange = Model("strange", Strange().eval(), {"target": torch.zeros(1, 3, 8, 8)}, ("swap",))
    with pytest.raises(ValueError, match="strange: cannot be converted to Core ML: .*eig"):
        coreml.write(strange, tmp_path / "x.mlpackage")
    assert not list(tmp_path.iterdir())
    path = coreml.write(model, tmp_path / "g.mlpackage")
    with pytest.raises(ValueError, match="no value for its input embedding"):
        mil.load(path, ("swap",))({"target": model.inputs["target"]})
