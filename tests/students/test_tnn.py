"""Students as TNN files: read back and run they give the same numbers, and a wrong file does not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.small_students import inputs, pictures, stirred, swapper
from torch import nn

import students
from students.export import tnn
from students.export.models import models
from students.identity_encoder import CARDS, IdentityEncoder

# Largest difference of a swap in [-1, 1] or of a number of a unit embedding.
TOLERANCE = {"fp32": 1e-5, "fp16": 2e-3, "int8": 5e-2}


@torch.inference_mode()
def exported(module, inputs, names, folder, precision="fp32"):
    """What the module gives, what its files give, and the graph that was read."""
    files = folder / "m.tnnproto", folder / "m.tnnmodel"
    with torch.inference_mode(False):
        tnn.export(module, tuple(inputs.values()), *files, list(inputs), list(names), precision)
    graph = tnn.read(*files)
    out = module(*inputs.values())
    wanted = dict(zip(names, out if isinstance(out, tuple) else (out,), strict=True))
    made = tnn.run(graph, {key: value.numpy() for key, value in inputs.items()})
    return {key: value.numpy() for key, value in wanted.items()}, made, graph


def far(wanted, made):
    assert wanted.keys() == made.keys() and all(made[key].shape == wanted[key].shape for key in wanted)
    return max(np.abs(made[key] - wanted[key]).max() for key in wanted)


@pytest.mark.parametrize("name", students.STUDENTS)
def test_each_model_of_each_student_gives_the_same_numbers(name, tmp_path):
    for model in models(swapper(name)).values():
        wanted, made, graph = exported(model.module, inputs(model, 1), model.outputs, tmp_path)
        assert far(wanted, made) < TOLERANCE["fp32"], model.name
        assert tuple(graph.inputs) == tuple(model.inputs) and graph.outputs == model.outputs
        assert all(np.ptp(array) > 0.01 for array in made.values())


@pytest.mark.parametrize("name", students.STUDENTS)
def test_smaller_weights_give_nearly_the_same_swap_in_a_smaller_file(name, tmp_path):
    model = models(swapper(name))["whole"]
    given = inputs(model, 1)
    wanted, _, graph = exported(model.module, given, model.outputs, tmp_path)
    full = (tmp_path / "m.tnnmodel").stat().st_size
    for precision, share in (("fp16", 0.56), ("int8", 0.32)):
        files = tmp_path / f"{precision}.tnnproto", tmp_path / f"{precision}.tnnmodel"
        tnn.write(tnn.with_precision(graph, precision), *files)
        made = tnn.run(tnn.read(*files), {key: value.numpy() for key, value in given.items()})
        assert 0 < far(wanted, made) < TOLERANCE[precision] and files[1].stat().st_size < full * share


def test_computed_kernels_need_no_layer_that_devices_lack(tmp_path):
    """Matrices that the embedding scales become convolutions, kernels that a network computes become products."""
    model = models(swapper("mobilefaceswap"))["generator"]
    graph = tnn.trace(model.module, tuple(model.inputs.values()), list(model.inputs), list(model.outputs))
    types = {layer.type for layer in graph.layers}
    assert not types & {"MatMul", "ReduceSum", "Squeeze"} and {"StridedSliceV2", "Convolution", "InnerProduct"} < types


@pytest.mark.parametrize("name", CARDS)
def test_identity_encoders_give_the_same_embedding(name, tmp_path):
    card = CARDS[name]
    torch.manual_seed(0)
    encoder = stirred(IdentityEncoder(card)).requires_grad_(False)
    wanted, made, _ = exported(encoder, {"source": pictures(1, 64)}, ["embedding"], tmp_path)
    assert far(wanted, made) < TOLERANCE["fp32"] and np.linalg.norm(made["embedding"]) == pytest.approx(1, abs=1e-5)


def changed(graph, kind, change):
    """A graph with the last layer of a kind changed or, where nothing is left of it, dropped."""
    index = max(i for i, layer in enumerate(graph.layers) if layer.type == kind)
    layer, new = graph.layers[index], change(graph.layers[index])
    layers = [*graph.layers[:index], *([new] if new else []), *graph.layers[index + 1 :]]
    if new is None:
        names = {layer.outputs[0]: layer.inputs[0]}
        layers = [replace(other, inputs=tuple(names.get(n, n) for n in other.inputs)) for other in layers]
    return replace(graph, layers=tuple(layers))


PLANTED = {
    "swapped weights": ("Convolution", lambda x: replace(x, blobs=(x.blobs[0][::-1], *x.blobs[1:]))),
    "another align_corners": ("Upsample", lambda x: replace(x, params=(*x.params[:3], 1 - x.params[3]))),
    "a dropped layer": ("PReLU", lambda x: None),
    "a sum for a difference": ("Sub", lambda x: replace(x, type="Add")),
    "another slope": ("PReLU", lambda x: replace(x, blobs=(x.blobs[0] * 3,))),
    "another border": ("Pad", lambda x: replace(x, params=(*x.params[:8], 0, x.params[9]))),
    "another gain": ("BatchNormCxx", lambda x: replace(x, blobs=(x.blobs[0] * 1.5, x.blobs[1]))),
    "an activation more": ("Convolution", lambda x: replace(x, params=(*x.params[:13], 1))),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_error_is_seen(name, tmp_path):
    model = models(swapper("mobilefsgan"))["generator"]
    given = inputs(model, 1)
    wanted, made, graph = exported(model.module, given, model.outputs, tmp_path)
    files = tmp_path / "wrong.tnnproto", tmp_path / "wrong.tnnmodel"
    tnn.write(changed(graph, *PLANTED[name]), *files)
    wrong = tnn.run(tnn.read(*files), {key: value.numpy() for key, value in given.items()})
    assert far(wanted, made) < TOLERANCE["fp32"] < 10 * TOLERANCE["fp32"] < far(wanted, wrong)


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def modulated(m, x):
    """A product with a matrix whose columns the input scales, its rows of unit length; the scaled matrix."""
    scaled = m.matrix * x.mean((2, 3))[:, None]
    rows = torch.rsqrt(scaled.square().sum(2, keepdim=True) + 1e-8)
    return torch.bmm(scaled * rows, x.flatten(2)).unflatten(2, (6, 8)), scaled


GRID = torch.rand(1, 5, 7, 2) * 3 - 1.5
OPERATIONS = {
    "pools": lambda m, x: F.max_pool2d(x, 3, 2, 1) + F.avg_pool2d(x, 2) * F.adaptive_avg_pool2d(x, (3, 4)),
    "mean": lambda m, x: x.mean((2, 3)) + x.sum((2, 3)) * 0.01,
    "global pool": lambda m, x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    "group norm": lambda m, x: m.group(x),
    "instance norm": lambda m, x: m.instance(x),
    "borders": lambda m, x: F.pad(F.pad(x, (1, 2, 0, 1), value=0.5), (1, 1, 2, 2), "reflect"),
    "limits": lambda m, x: x.clamp(-0.5, 0.25) + x.clamp(max=0.1) * F.relu6(x * 9) + F.hardtanh(x) * x.relu(),
    "sizes": lambda m, x: F.interpolate(x, (9, 5), mode="bilinear", align_corners=False),
    "nearest": lambda m, x: F.interpolate(x, scale_factor=(2, 3)) - F.interpolate(x, (12, 24)),
    "one factor": lambda m, x: F.interpolate(x, scale_factor=1.5, mode="bilinear", align_corners=True),
    "pixels": lambda m, x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2).flip(1) * x.mean((1, 2, 3), keepdim=True),
    "constants": lambda m, x: (2 - x) / m.gain * m.gain[0] + 1 / (x + 9) - torch.arange(8.0) * 0.1,
    "cuts": lambda m, x: torch.cat([x[:, 1:3, ::2, -3:-1], *(t[..., 1::2, 3:5] for t in x.chunk(2, 1))], 1),
    "shapes": lambda m, x: x.view(1, 4, 48).squeeze(0)[None].view_as(x) + x[:, :, None].flatten(1, 2).tanh(),
    "one of many": lambda m, x: x[:, 2].unsqueeze(1) * x[..., -1:] + x.view(1, 2, 2, 6, 8)[:, 1, 0, None],
    "repeats": lambda m, x: x * x[:, :1].expand(-1, 4, -1, -1) + x[:, :, :1].expand_as(x),
    "products": lambda m, x: torch.matmul(x, x.unflatten(3, (2, 4)).flatten(2, 3).view(1, 4, 8, 6)),
    "modulated": lambda m, x: modulated(m, x)[0],
    "modulated, no demodulation": lambda m, x: torch.bmm(modulated(m, x)[1], x.flatten(2)).unflatten(2, (6, 8)),
    "modulated, taken apart": lambda m, x: modulated(m, x)[1].tanh().sum(1) * modulated(m, x)[1].sum(2)[:, :1],
    "norms": lambda m, x: F.normalize(x.flatten(1)) + torch.linalg.vector_norm(x, dim=(1, 2, 3)).view(1, 1),
    "sampling": lambda m, x: F.grid_sample(x, m.grid, padding_mode="border", align_corners=False),
    "sampling zeros": lambda m, x: F.grid_sample(x, m.grid, padding_mode="zeros", align_corners=False),
    "mixing": lambda m, x: torch.lerp(x, x.sigmoid(), 0.3) + torch.lerp(x, F.silu(x), x.tanh()) + F.leaky_relu(-x, 0.2),
    "hard": lambda m, x: F.hardswish(x * 4) + F.hardsigmoid(x * 4),
    "roots": lambda m, x: (x.square() + 1).rsqrt() * (x * x).sqrt(),
    "grouped, dilated": lambda m, x: m.conv(x),
    "computed kernels": lambda m, x: F.conv2d(x, x[:, :, 1:4, 2:4].reshape(4, 1, 3, 2), None, (2, 1), 1, 1, 4),
    "dropout": lambda m, x: F.dropout(x, 0.5, m.training) * 2,
    "unused": lambda m, x: (x.cumsum(1), x + 1)[1],
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_give_the_same_numbers(name, tmp_path):
    torch.manual_seed(0)
    parts = {
        "group": nn.GroupNorm(2, 4), "instance": nn.InstanceNorm2d(4, affine=True), "grid": nn.Buffer(GRID),
        "gain": nn.Buffer(torch.rand(4, 1, 1) + 0.5), "matrix": nn.Buffer(torch.randn(5, 4)),
        "conv": nn.Conv2d(4, 6, (3, 2), (2, 1), (2, 0), 2, groups=2, bias=False),
    }  # fmt: skip
    for module in (parts["group"], parts["instance"]):
        nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    wanted, made, _ = exported(Of(OPERATIONS[name], **parts).eval(), {"x": torch.randn(1, 4, 6, 8)}, ["y"], tmp_path)
    assert far(wanted, made) < TOLERANCE["fp32"]


@pytest.mark.parametrize(
    "function, message",
    [
        (lambda m, x: x.cumsum(1), r"TNN has no layers for cumsum.default, in the module itself \(Of\)"),
        (lambda m, x: x + torch.rand(4, 1, 1), "TNN has no layers for rand.default"),
        (lambda m, x: F.prelu(x, x[0, :, 0, 0]), "TNN has no layers for .*prelu"),
        (lambda m, x: F.dropout(x, 0.5, True), "TNN has no layers for .*dropout"),
        (lambda m, x: m.deep(x), r"TNN has no layers for elu.default, in deep.1 \(ELU\)"),
        (lambda m, x: F.group_norm(x, 2, eps=0.1), "no layers for group_norm.default.*eps is 0.1; TNN's is 1e-05"),
        (lambda m, x: F.conv2d(x, x[:, :, :1, :1]), r"computed weights \(1, 4, 1, 1\) in 1 groups"),
        (lambda m, x: F.grid_sample(x, m.grid, align_corners=True), "a mode of sampling that TNN lacks"),
        (lambda m, x: F.pad(x, (2, 0, 0, 3), mode="replicate"), "padding .*replicate"),
        (lambda m, x: F.conv2d(x, torch.ones(1, 4, 3, 3), dilation=(1, 2)), r"dilations \(1, 2\): some devices"),
        (lambda m, x: F.avg_pool2d(x, 3, 2, 1), "a mean that counts padded pixels"),
        (lambda m, x: x[:, :1].expand(-1, 4, -1, -1).tanh(), "expansion .* that is not part of a sum or product"),
        (lambda m, x: x[:, :1].expand(-1, 4, -1, -1) + 1, r"add.Tensor, .*gives \(1, 1, 6, 8\), not \(1, 4, 6, 8\)"),
        (lambda m, x: F.interpolate(x, (7, 9)), "the nearest pixels of"),
        (lambda m, x: F.interpolate(x, scale_factor=1.3, mode="bilinear"), "a scale of .* without whole pixels"),
        (lambda m, x: torch.add(x, x, alpha=2), "a factor of 2 inside a sum"),
        (lambda m, x: x.flip(2), r"a flip of axes \(2,\)"),
        (lambda m, x: F.linear(x, torch.ones(2, 8)), "a linear layer on"),
        (lambda m, x: torch.linalg.vector_norm(x, 1), "a norm of order 1"),
        (lambda m, x: m.count(x), "changes its own 'count.seen'"),
        (lambda m, x: x, "the output 'y' is an input, a constant, or another output"),
        (lambda m, x: torch.ones(3), "the output 'y' is an input, a constant, or another output"),
        (lambda m, x: (x + 1, x + 2), "2 outputs, but the names y"),
    ],
)
def test_what_tnn_cannot_say_is_named_with_its_place(function, message, tmp_path):
    class Count(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, x):
            self.seen.add_(1)
            return x + self.seen

    module = Of(function, deep=nn.Sequential(nn.Tanh(), nn.ELU()), grid=nn.Buffer(GRID), count=Count()).eval()
    with pytest.raises(ValueError, match=message):
        tnn.export(module, [torch.randn(1, 4, 6, 8)], tmp_path / "a.tnnproto", tmp_path / "a.tnnmodel", ["x"], ["y"])
    assert not list(tmp_path.iterdir())


def test_what_is_asked_for_wrongly_is_told(tmp_path):
    files, x = (tmp_path / "a.tnnproto", tmp_path / "a.tnnmodel"), torch.randn(1, 4)
    module = Of(lambda m, x, y: m.linear(x) + y, linear=nn.Linear(4, 4)).eval()
    for examples, names, outputs, precision, message in (
        ([x, x], ["x", "y"], ["z"], "fp32", "one tensor is given as two inputs"),
        ([x, x.clone()], ["x"], ["z"], "fp32", "2 inputs, but the names x"),
        ([x, x.double()], ["x", "y"], ["z"], "fp32", "other types than float32"),
        ([x, x.clone()], ["x", "x"], ["z"], "fp32", "2 inputs, but the names x, x"),
        ([x, x.clone()], ["x", "y"], ["x"], "fp32", "1 outputs, but the names x"),
        ([x, x.clone()], ["x", "y"], ["z"], "fp64", "unknown precision 'fp64', known: fp32, fp16, int8"),
        ([x, x.clone()], ["x, y", "y"], ["z"], "fp32", "must not contain blanks, commas or quotes: 'x, y'"),
    ):
        with pytest.raises(ValueError, match=message):
            tnn.export(module, examples, *files, names, outputs, precision)
    with pytest.raises(ValueError, match="training mode"):
        tnn.export(module.train(), [x, x.clone()], *files, ["x", "y"], ["z"])
    module.linear.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"layer linear: a weight of 1e\+06 is beyond fp16"):
        tnn.export(module.eval(), [x, x.clone()], *files, ["x", "y"], ["z"], "fp16")
    assert not list(tmp_path.iterdir())


def test_names_that_meet_are_kept_apart(tmp_path):
    """An input and an output named as torch names what is between them."""
    module = Of(lambda m, x, y: (x + y).tanh() + x * y).eval()
    inputs = {"add": torch.randn(1, 4, 2, 2), "tanh": torch.randn(1, 4, 2, 2)}
    wanted, made, graph = exported(module, inputs, ["mul"], tmp_path)
    assert far(wanted, made) < TOLERANCE["fp32"] and list(graph.inputs) == ["add", "tanh"] and graph.outputs == ("mul",)
