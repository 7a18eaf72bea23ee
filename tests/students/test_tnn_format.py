"""TNN's two files: every layer there and back, bytes known by hand, damage that is named."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.tnn_files import MODEL, PROTO, small_graph, write_small

from students.export import tnn
from students.export.tnn.interpreter import RULES
from students.export.tnn.layers import KINDS, QUANTIZABLE, QUANTIZED, Graph, Layer

torch.manual_seed(0)
X, Y, FLAT = torch.randn(1, 4, 6, 8), torch.randn(1, 4, 6, 8), torch.randn(1, 4)
WEIGHT, BIAS, DENSE = torch.randn(6, 2, 3, 3), torch.randn(6), torch.randn(5, 4)
C, D = torch.rand(4) + 0.5, torch.randn(4)
GRID = torch.rand(1, 3, 5, 2) * 2.4 - 1.2

# Type: inputs, parameters, weights, what it gives by another way than the interpreter's.
EXAMPLES = {
    "Convolution": (
        [X], [2, 2, 6, 3, 3, 2, 1, 1, 0, 1, -1, 1, 1, 1], [WEIGHT, BIAS],
        lambda: F.conv2d(X, WEIGHT, BIAS, (2, 1), (1, 0), 1, 2).clamp(min=0),
    ),
    "InnerProduct": ([FLAT], [5, 1, 0, 1], [DENSE, torch.ones(5)], lambda: F.linear(FLAT, DENSE, torch.ones(5))),
    "MatMul": ([X[0], Y[0].mT.contiguous()], [-1], [], lambda: torch.einsum("cij,ckj->cik", X[0], Y[0])),
    "BatchNormCxx": ([X], [], [C, D], lambda: F.batch_norm(X, torch.zeros(4), torch.ones(4) - 1e-5, C, D)),
    "InstBatchNormCxx": ([X], [], [C, D], lambda: F.instance_norm(X, weight=C, bias=D)),
    "PReLU": ([X], [0, 0], [C], lambda: F.prelu(X, C)),
    "Add": ([X, Y[:, :, :1, :1].contiguous()], [-1], [], lambda: X + Y[:, :, :1, :1]),
    "Sub": ([X], [0], [torch.ones(1)], lambda: 1 - X),
    "Mul": ([X], [1], [C.view(1, 4, 1, 1)], lambda: X * C[:, None, None]),
    "Div": ([X, Y], [-1], [], lambda: X / Y),
    "ReLU": ([X], [], [], lambda: torch.relu(X)),
    "ReLU6": ([X * 8], [], [], lambda: F.relu6(X * 8)),
    "Sigmoid": ([X], [], [], lambda: 1 / (1 + (-X).exp())),
    "Tanh": ([X], [], [], lambda: torch.tanh(X)),
    "Sqrt": ([X.abs()], [], [], lambda: X.abs() ** 0.5),
    "Clip": ([X], [-0.5, 3.4e38], [], lambda: torch.where(X < -0.5, -0.5, X)),
    "ReduceSum": ([X], [0, 2, 3], [], lambda: X.flatten(2).sum(2)),
    "ReduceMean": ([X], [1, 1], [], lambda: X.mean(1, keepdim=True)),
    "ReduceL2": ([FLAT], [1, 1], [], lambda: FLAT.square().sum(1, keepdim=True).sqrt()),
    "Unsqueeze": ([FLAT], [2, 2, 3], [], lambda: FLAT[:, :, None, None]),
    "Squeeze": ([X[:, :, :1, :1].contiguous()], [2, 2, 3], [], lambda: X[:, :, 0, 0]),
    "Reshape": ([X], [0, 3, 3, 0, -1, 16, 0], [], lambda: X.view(1, 12, 16)),
    "Concat": ([X, Y], [1], [], lambda: torch.cat([X, Y], 1)),
    "StridedSliceV2": ([X], [2, 1, 0, 2, 6, 2147483647, 2, 2, 3, 2, 2, 3], [], lambda: X[:, :, 1:6:2, ::3]),
    "Pad": ([X], [0, 0, 1, 0, 2, 3, 0, 0, 1, 0.0], [], lambda: F.pad(X, (2, 3, 1, 0), mode="reflect")),
    "Upsample": (
        [X], [2, 0.0, 0.0, 1, 9, 5], [], lambda: F.interpolate(X, (9, 5), mode="bilinear", align_corners=True)
    ),
    "PixelShuffle": ([X], [2], [], lambda: F.pixel_shuffle(X, 2)),
    "Pooling": ([X], [0, 3, 2, 2, 2, 1, 0, -1, -1, -1, 0, 0, 0, 0], [], lambda: F.max_pool2d(X, (3, 2), 2, (1, 0))),
    "GridSample": ([X, GRID], [2, 0, 0], [], lambda: F.grid_sample(X, GRID, align_corners=False)),
}  # fmt: skip


def graph_of(name):
    given, params, blobs, _ = EXAMPLES[name]
    inputs = {f"in{i}": tuple(tensor.shape) for i, tensor in enumerate(given)}
    layer = Layer(name, "layer", tuple(inputs), ("out",), tuple(params), tuple(blob.numpy() for blob in blobs))
    return Graph(inputs, ("out",), (layer,), {}), {f"in{i}": tensor.numpy() for i, tensor in enumerate(given)}


def there_and_back(graph, folder):
    tnn.write(graph, folder / "m.tnnproto", folder / "m.tnnmodel")
    assert sorted(path.name for path in folder.iterdir()) == ["m.tnnmodel", "m.tnnproto"]
    back = tnn.read(folder / "m.tnnproto", folder / "m.tnnmodel")
    assert (back.inputs, back.outputs, back.constants.keys()) == (graph.inputs, graph.outputs, graph.constants.keys())
    for ours, theirs in zip(graph.layers, back.layers, strict=True):
        assert ours == Layer(
            *[getattr(theirs, key) for key in ("type", "name", "inputs", "outputs", "params")], ours.blobs
        )
        for blob, other in zip(ours.blobs, theirs.blobs, strict=True):
            assert blob.dtype == other.dtype and blob.shape == other.shape and blob.tobytes() == other.tobytes()
    return back


def test_every_layer_has_an_example_and_a_rule():
    assert EXAMPLES.keys() == KINDS.keys() == RULES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_layers_go_there_and_back_and_compute_what_they_are_named_after(name, tmp_path):
    graph, given = graph_of(name)
    made = tnn.run(there_and_back(graph, tmp_path), given)["out"]
    wanted = EXAMPLES[name][3]().numpy()
    assert made.shape == wanted.shape and np.abs(made - wanted).max() < 1e-5


@pytest.mark.parametrize(
    "name", ["Upsample", "Pad", "Convolution", "PReLU", "MatMul", "Pooling", "Div", "BatchNormCxx"]
)
def test_other_forms_of_layers(name, tmp_path):
    forms = {
        "Upsample": ([X], [1, 2.0, 3.0, 0], [], X.repeat_interleave(2, 2).repeat_interleave(3, 3)),
        "Pad": ([X], [0, 0, 1, 2, 0, 1, 0, 0, 0, 0.5], [], F.pad(X, (0, 1, 1, 2), value=0.5)),
        "Convolution": ([X], [1, 4, 6, 1, 1, 1, 1, 0, 0, 0, -1, 1, 1, 0], [WEIGHT.view(6, 18, 1, 1)[:, :4]],
                        torch.einsum("oi,nihw->nohw", WEIGHT.view(6, 18)[:, :4], X)),
        "PReLU": ([X], [1, 0], [torch.tensor([0.25])], F.leaky_relu(X, 0.25)),
        "MatMul": ([FLAT], [1], [DENSE.T.contiguous()], FLAT @ DENSE.T),
        "Pooling": ([X], [1, 0, 0, 1, 1, 0, 0, -1, -1, -1, 0, 0, 0, 0], [], X.mean((2, 3), keepdim=True)),
        "Div": ([Y], [0], [torch.ones(1)], 1 / Y),
        "BatchNormCxx": ([X], [], [C, torch.ones(0)], X * C[:, None, None]),
    }  # fmt: skip
    given, params, blobs, wanted = forms[name]
    blobs = tuple(np.ascontiguousarray(blob) for blob in blobs)
    layer = Layer(name, "layer", ("in",), ("out",), tuple(params), blobs)
    graph = there_and_back(Graph({"in": tuple(given[0].shape)}, ("out",), (layer,), {}), tmp_path)
    made = tnn.run(graph, {"in": given[0].numpy()})["out"]
    assert made.shape == wanted.shape and np.abs(made - wanted.numpy()).max() < 1e-5


@pytest.mark.parametrize("name", QUANTIZABLE)
@pytest.mark.parametrize("precision, most", [("fp16", 1e-2), ("int8", 1e-1)])
def test_smaller_weights_go_there_and_back_and_compute_nearly_the_same(name, precision, most, tmp_path):
    graph, given = graph_of(name)
    first, last = replace(graph.layers[0], outputs=("mid",)), Layer("Tanh", "act", ("mid",), ("out",))
    graph = replace(graph, layers=(first, last))
    small = tnn.with_precision(graph, precision)
    assert [blob.dtype for blob in small.layers[0].blobs] == (
        [np.float16] * 2 if precision == "fp16" else [np.int8, np.float32, np.float32]
    )
    assert small.layers[0].type == (QUANTIZED + name if precision == "int8" else name)
    back = there_and_back(small, tmp_path)
    off = np.abs(tnn.run(back, given)["out"] - tnn.run(graph, given)["out"]).max()
    assert 0 < off < most


def dense(outputs=3, rows=(1.0, 10.0, 0.1)):
    """A linear layer whose rows differ in size, and its input."""
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((outputs, 4)) * np.array(rows)[:, None]).astype(np.float32)
    layer = Layer("InnerProduct", "dense", ("in",), ("out",), (outputs, 1, 0, 1), (weight, np.ones(outputs, "f4")))
    return Graph({"in": (2, 4)}, ("out",), (layer,), {}), {"in": rng.standard_normal((2, 4)).astype(np.float32)}


def test_int8_keeps_rows_of_very_different_size(tmp_path):
    """TNN applies one scale to the whole matrix of a linear layer; of rows 1, 10 and 0.1 it was off by 3.06."""
    graph, given = dense()
    small = there_and_back(tnn.with_precision(graph, "int8"), tmp_path)
    assert [layer.type for layer in small.layers] == [f"{QUANTIZED}InnerProduct", "BatchNormCxx"]
    weight = graph.layers[0].blobs[0]
    error = np.abs(tnn.run(small, given)["out"] - tnn.run(graph, given)["out"])
    allowed = np.abs(weight).max(1) / 127 / 2 * np.abs(given["in"]).sum(1, keepdims=True)
    assert (error <= allowed + 1e-6).all() and error.max() > 0


def test_the_interpreter_applies_the_first_scale_as_the_runtime_does():
    graph, given = dense()
    weight, scales = np.arange(12, dtype=np.int8).reshape(3, 4), np.array([0.5, 2, 9], np.float32)
    layer = replace(graph.layers[0], type=f"{QUANTIZED}InnerProduct", blobs=(weight, np.zeros(3, np.float32), scales))
    made = tnn.run(replace(graph, layers=(layer,)), given)["out"]
    assert np.allclose(made, given["in"] @ (weight * 0.5).T)


def test_a_file_of_one_layer_cannot_be_int8():
    graph, _ = graph_of("Convolution")
    with pytest.raises(ValueError, match="layer is alone: TNN does not apply the scales"):
        tnn.with_precision(graph, "int8")


def test_what_the_runtime_refuses_does_not_run_here():
    pad = Layer("Pad", "layer", ("in0",), ("out",), (0, 0, 1, 0, 2, 3, 0, 0, 2, 0.0))
    with pytest.raises(ValueError, match="padding"):
        tnn.run(replace(graph_of("Pad")[0], layers=(pad,)), graph_of("Pad")[1])
    graph, given = graph_of("GridSample")
    fixed = replace(graph, inputs={"in0": graph.inputs["in0"]}, constants={"in1": given.pop("in1")})
    with pytest.raises(ValueError, match="a constant grid ends TNN's x86 device"):
        tnn.run(fixed, given)


def test_constants_are_inputs_that_no_layer_makes(tmp_path):
    layer = Layer("Concat", "join", ("in", "frame"), ("out",), (1,))
    graph = Graph({"in": (1, 4, 6, 8)}, ("out",), (layer,), {"frame": Y.numpy()})
    made = tnn.run(there_and_back(graph, tmp_path), {"in": X.numpy()})["out"]
    assert np.array_equal(made, torch.cat([X, Y], 1))


def test_the_bytes_of_a_small_model_are_those_of_the_format(tmp_path):
    tnn.write(small_graph(), tmp_path / "m.tnnproto", tmp_path / "m.tnnmodel")
    assert (tmp_path / "m.tnnmodel").read_bytes() == MODEL and (tmp_path / "m.tnnproto").read_text() == PROTO


def test_files_of_tnns_own_converter_are_read(tmp_path):
    """No checksum, blanks at either end, a part over two lines, two inputs, blobs in any order."""
    proto = PROTO.replace(f" {zlib.crc32(MODEL)} ", " ").replace('"Tanh', '" Tanh').replace('"a b image', '" image a b')
    proto = proto.replace("0 0 1 -1", "0 0\n1 -1")
    graph = tnn.read(*write_small(tmp_path, proto))
    assert [layer.name for layer in graph.layers] == ["conv", "act", "tanh"] and graph.inputs == {"image": (1, 2, 4, 4)}


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    proto, model = write_small(tmp_path)
    graph = small_graph()
    conv, act, tanh = graph.layers
    for layers, message in (
        ((conv, act, Layer("Softmax", "soft", ("b",), ("swap",))), "layer soft: unknown layer type 'Softmax'"),
        (
            (conv, Layer("PReLU", "a ct", ("a",), ("b",), (1, 0), act.blobs), tanh),
            "must not contain blanks, commas or quotes: 'a ct'",
        ),
        ((conv, Layer("PReLU", "act", ("a",), ("b",), (1, 0)), tanh), r"layer act: expected weights of .*\(1,\)"),
        ((conv, tanh), "layer tanh: no layer before it computes 'b'"),
        ((conv, Layer("Add", "act", ("a",), ("b",), (-1,)), tanh), "layer act: position -1 of a constant does not fit"),
        ((conv, act, Layer("Tanh", "tanh", ("b", "a"), ("swap",))), "2 inputs and 1 outputs do not fit a Tanh"),
        ((conv, Layer("PReLU", "act", ("a",), ("b",), (1, 0), (np.zeros(1),)), tanh), "weights of type float64"),
        ((conv, Layer("PReLU", "act", ("a",), ("b",), (1, 0), (np.zeros(1, np.int8),)), tanh), "type int8 in a PReLU"),
        ((), "no inputs, no outputs or no layers"),
    ):
        with pytest.raises(ValueError, match=message):
            tnn.write(Graph(graph.inputs, graph.outputs, layers, {}), proto, model)
    with pytest.raises(ValueError, match="the name of an input must not contain a colon"):
        tnn.write(Graph({"a:b": (1,)}, graph.outputs, graph.layers, {}), proto, model)
    with pytest.raises(ValueError, match="structure and weights need two paths"):
        tnn.write(graph, proto, proto)
    assert proto.read_text() == PROTO and model.read_bytes() == MODEL and len(list(tmp_path.iterdir())) == 2


def test_running_on_the_wrong_things_is_named():
    graph = small_graph()
    image = np.zeros((1, 2, 4, 4), np.float32)
    assert tnn.run(graph, {"image": image})["swap"].shape == (1, 2, 4, 4)
    for given, message in (
        ({}, "expected the inputs image, got "),
        ({"image": image, "x": image}, "got image, x"),
        ({"image": image[:, :1]}, r"input image: expected \(1, 2, 4, 4\) float32, got \(1, 1, 4, 4\)"),
        ({"image": image.astype(np.float64)}, "got .* float64"),
    ):
        with pytest.raises(ValueError, match=message):
            tnn.run(graph, given)
    conv, *rest = graph.layers
    wider = Graph({"image": (1, 3, 4, 4)}, graph.outputs, graph.layers, {})
    with pytest.raises(ValueError, match=r"layer conv \(Convolution\) does not run on \(1, 3, 4, 4\)"):
        tnn.run(wider, {"image": np.zeros((1, 3, 4, 4), np.float32)})
    odd = Layer(conv.type, conv.name, conv.inputs, conv.outputs, (*conv.params[:-1], 9), conv.blobs)
    with pytest.raises(ValueError, match="activation 9 is not known"):
        tnn.run(Graph(graph.inputs, graph.outputs, (odd, *rest), {}), {"image": image})
