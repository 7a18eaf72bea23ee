"""A session runs ONNX files by name, and reads the texts that an exporter stored in them."""

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx", reason="needs the package onnx, which builds the graphs")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime, which runs the graphs")

from helpers import onnx_graphs  # noqa: E402
from onnx import helper  # noqa: E402

from swapcore.onnx import Session  # noqa: E402


@pytest.fixture
def path(tmp_path):
    """total = a + b and gap = a - b, any batch."""
    nodes = [helper.make_node("Add", ["a", "b"], ["total"]), helper.make_node("Sub", ["a", "b"], ["gap"])]
    shape = ["batch", 3]
    path = onnx_graphs.write(tmp_path / "m.onnx", nodes, {"a": shape, "b": [2, 3]}, {"total": shape, "gap": shape}, [])
    model = onnx.load(path)
    model.metadata_props.add(key="student", value="compact")
    onnx.save(model, path)
    return path


def test_inputs_outputs_and_texts_by_name(path):
    session = Session(path, "cpu", threads=1)
    assert session.inputs == {"a": ["batch", 3], "b": [2, 3]} and session.metadata == {"student": "compact"}
    a, b = np.full((2, 3), 5, np.float32), np.full((2, 3), 2, np.float32)
    total, gap = session.run({"b": b, "a": a})
    assert (total == 7).all() and (gap == 3).all()
    (gap,) = session.run({"a": a.T.copy().T, "b": b}, ["gap"])  # not contiguous
    assert (gap == 3).all()


def test_a_checked_session_takes_any_number_of_rows(path):
    session = Session(path, "cpu", threads=1)
    assert session.fit({"a": (3,), "b": (3,)}, (3,)) == (3,) and session.batch == 2
    rows = torch.arange(15.0).view(5, 3)
    assert torch.equal(session(rows, rows), 2 * rows)


def test_errors_name_the_file(path, tmp_path):
    with pytest.raises(ValueError, match="absent.onnx: no such file"):
        Session(tmp_path / "absent.onnx")
    (tmp_path / "other.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="other.onnx: is text"):
        Session(tmp_path / "other.onnx")
    (tmp_path / "other.onnx").write_bytes(b"\x08\x0a" + bytes(9))
    with pytest.raises(ValueError, match="other.onnx: not an ONNX file that onnxruntime can run"):
        Session(tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="providers: this onnxruntime has no 'npu'"):
        Session(path, "npu")
    with pytest.raises(ValueError, match="m.onnx: onnxruntime cannot run it"):
        Session(path, "cpu").run({"a": np.zeros((4, 3), np.float32), "b": np.zeros((2, 3), np.float32)})
