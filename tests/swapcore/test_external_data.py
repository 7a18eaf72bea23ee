"""The hash of an ONNX file covers the files in which it keeps tensors."""

import os

import pytest

pytest.importorskip("onnx", reason="needs the package onnx, which builds the graphs")

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from swapcore.files import sha256
from swapcore.onnx import content_sha256, external_data, files_by_name


def constant(name, value):
    return numpy_helper.from_array(np.full(400, value, np.float32), name)


def model() -> onnx.ModelProto:
    """y = x + initializer + constant of a node + constant of a branch, each a tensor of another place in the file."""

    def branch(name, value):
        nodes = [helper.make_node("Constant", [], [name], value=constant(f"{name}_value", value))]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [400])])

    nodes = [
        helper.make_node("Constant", [], ["two"], value=constant("two_value", 2)),
        helper.make_node("If", ["yes"], ["three"], then_branch=branch("then", 3), else_branch=branch("other", 4)),
        helper.make_node("Sum", ["x", "one", "two", "three"], ["y"]),
    ]
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [400])] for name in "xy"]
    start = [constant("one", 1), numpy_helper.from_array(np.array(True), "yes")]
    graph = helper.make_graph(nodes, "graph", *sides, start)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def save(path, **options):
    onnx.save(model(), path, size_threshold=100, convert_attribute=True, **options)
    return path


def test_a_file_without_external_data_keeps_its_own_sha256(tmp_path):
    path = save(tmp_path / "a.onnx")
    assert external_data(path) == {} and content_sha256(path) == sha256(path)
    assert files_by_name(path, "model") == {"model": path}


@pytest.mark.parametrize("one_file", [True, False])
def test_every_file_of_external_data_is_named_and_hashed(tmp_path, one_file):
    options = {"location": "weights.data"} if one_file else {}
    path = save(tmp_path / "a.onnx", save_as_external_data=True, all_tensors_to_one_file=one_file, **options)
    written = sorted(p.name for p in tmp_path.iterdir() if p != path)
    assert list(external_data(path)) == written and len(written) == (1 if one_file else 4)
    assert list(files_by_name(path, "model")) == ["model", *(f"model/{name}" for name in written)]
    before, graph = content_sha256(path), sha256(path)
    for name in written:
        file, content = tmp_path / name, (tmp_path / name).read_bytes()
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert content_sha256(path) != before and sha256(path) == graph, name
        file.write_bytes(content)
    assert content_sha256(path) == before


def test_the_hash_does_not_depend_on_the_folder(tmp_path):
    hashes = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = save(tmp_path / name / "m.onnx", save_as_external_data=True, location="weights.data")
        hashes.append(content_sha256(path))
    assert hashes[0] == hashes[1]


def test_missing_data_and_damaged_files_are_named(tmp_path):
    path = save(tmp_path / "a.onnx", save_as_external_data=True, location="weights.data")
    (tmp_path / "weights.data").unlink()
    with pytest.raises(ValueError, match=r"a\.onnx: keeps tensors in .*weights\.data, which is missing; put that file"):
        external_data(path)
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\x0f" * 20):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.onnx: not an ONNX file"):
            external_data(path)


def test_a_file_of_the_same_size_and_time_has_its_own_sha256(tmp_path):
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"first")
    os.utime(path, ns=(10**18, 10**18))
    hashes = [sha256(path)]
    other.write_bytes(b"other")
    os.utime(other, ns=(10**18, 10**18))
    os.replace(other, path)
    hashes.append(sha256(path))
    path.write_bytes(b"third")
    os.utime(path, ns=(10**18, 10**18))
    assert len({*hashes, sha256(path)}) == 3
