"""Every runtime: small students are written, run and compared; wrong files raise errors; no partial files are left."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F
from helpers.small_students import expected, pictures, stirred, swapper
from torch import nn

import students
from students.export import equality, targets
from students.export.models import Model, Target, models
from students.identity_encoder import CARDS, IdentityEncoder
from students.mobilefsgan import DecoderBlock, Head, ImageHead, Up

FILES = [name for name, target in targets.TARGETS.items() if target.write]
# Models that a runtime cannot express: ncnn's convolutions have constant kernels.
CANNOT = {("ncnn", "mobilefaceswap"): "computed kernels of ConvolutionDepthWise"}
# test_tnn.py covers all generators in TNN; onnx-batch writes the same as onnx. The other converters take up to a minute
# for hundreds of layers; they convert `Part`, below, a small network of MobileFSGAN's layers.
OTHERS = [name for name in students.STUDENTS if name != "compact"]
GENERATORS = [(name, student) for name in ("onnx", "coreml", "ncnn") for student in OTHERS]


def files(*slow):
    """The targets that write files, those of which the test is slow marked so."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in FILES]


def need(name):
    missing = [p for p in targets.TARGETS[name].packages if importlib.util.find_spec(p) is None]
    if missing:
        pytest.skip(f'pip install -e ".[{targets.TARGETS[name].extra}]"')


@pytest.fixture(scope="module")
def known():
    """Students by name, each with PyTorch's results for two pairs."""
    made = {}
    for name in students.STUDENTS:
        student = swapper(name)
        made[name] = student, equality.Reference(student, pictures(2, 64), pictures(2, 64, seed=2))
    return made


@pytest.mark.parametrize("name", files("executorch", "litert"))
def test_every_target_gives_pytorchs_numbers(name, known, tmp_path, monkeypatch):
    need(name)
    monkeypatch.setattr(equality, "TIMED_RUNS", 1)
    student, truth = known["compact"]
    target = targets.TARGETS[name]
    made = equality.compare(models(student), truth, target, "fp32", tmp_path, {"student": "compact"})
    assert set(made.facts) == {"generator", "identity_encoder", "whole"}
    weights = 4 * sum(p.numel() for p in student.generator.parameters())
    for facts in made.facts.values():
        assert facts["max_abs"] < 1e-4 and {len(sha256) for sha256 in facts["files"].values()} == {64}
        assert ("ratio" in facts) == target.timed
    assert 0.8 * weights < made.facts["generator"]["bytes"] < 1.5 * weights + 300_000
    assert (made.swaps() - truth.swaps).abs().max() < 1e-4
    shipped = {name for facts in made.facts.values() for name in facts["files"]}
    assert {f.relative_to(tmp_path).as_posix() for f in tmp_path.rglob("*") if f.is_file()} == shipped


@pytest.mark.parametrize("name, student", GENERATORS)
def test_generators_are_exported_or_refused_by_name(name, student, known, tmp_path):
    need(name)
    short, target = models(known[student][0])["generator"], targets.TARGETS[name]
    if (name, student) in CANNOT:
        with pytest.raises(ValueError, match=CANNOT[name, student]):
            target.write(short, tmp_path / f"x{target.suffix}", "fp32", {})
        assert not list(tmp_path.iterdir())
        return
    truth = known[student][1]
    made = run(target, short, tmp_path, truth.inputs["generator"])
    assert equality.difference(made, truth.outputs["generator"])["max_abs"] < 1e-4


def run(target, model, folder, inputs, precision="fp32"):
    path = target.write(model, folder / f"{precision}{target.suffix}", precision, {})
    return equality.outputs(target.load(path, model.outputs, 1), inputs, target.batch)


class Part(nn.Module):
    """The layers of a generator in a small network, which is quick to convert."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head, self.block, self.up, self.image = Head(WIDTH), DecoderBlock(WIDTH, True), Up(WIDTH), ImageHead(WIDTH)

    def forward(self, target):
        first, x = self.head(target)
        return self.image(self.up(self.block(x, first)))


WIDTH = 32
INPUTS = {"target": pictures(2, 16)}


def part(change=None):
    network = stirred(Part()).requires_grad_(False)
    if change:
        change(network)
    return Model("part", network, {"target": INPUTS["target"][:1]}, ("swap",))


@torch.inference_mode()
def wanted():
    return {"swap": part().module(INPUTS["target"])}


class Cropped(nn.Module):
    """The crop of an identity encoder of photographs, which samples its pictures at places between the pixels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.conv = IdentityEncoder(CARDS["foamliu_128"]), nn.Conv2d(3, 32, 3, stride=8)
        self.encoder.network = nn.Identity()

    def forward(self, source):
        return self.conv(self.encoder.prepare(source)).flatten(1)


@pytest.mark.parametrize("name", files("executorch", "litert"))
def test_the_crop_of_photographs_is_exported(name, tmp_path):
    need(name)
    network, source = Cropped().eval().requires_grad_(False), pictures(2, 64)
    model, target = Model("crop", network, {"source": source[:1]}, ("embedding",)), targets.TARGETS[name]
    truth = {"embedding": network(source)}
    made = run(target, model, tmp_path, {"source": source})
    assert equality.difference(made, truth)["max_abs"] < 1e-4
    if "int8" in target.precisions:  # weights are rounded, places are not
        made = run(target, model, tmp_path, {"source": source}, "int8")
        assert equality.difference(made, truth)["mean_abs"] < 0.01 * truth["embedding"].abs().mean()


def test_a_file_whose_batch_would_be_fixed_is_refused(known, tmp_path):
    need("onnx-batch")
    short = models(known["mobilefaceswap"][0])["generator"]
    with pytest.raises(ValueError, match="generator: torch.onnx fixes the batch of .*: use the target onnx"):
        targets.TARGETS["onnx-batch"].write(short, tmp_path / "x.onnx", "fp32", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_smaller_precisions_are_smaller_and_nearly_the_same(name, tmp_path):
    need(name)
    target, size = targets.TARGETS[name], {}
    for precision in target.precisions:
        facts = equality.difference(run(target, part(), tmp_path, INPUTS, precision), wanted())
        assert facts["max_abs"] < {"fp32": 1e-5, "fp16": 5e-3, "int8": 0.1}[precision], precision
        size[precision] = target.size_bytes(tmp_path / f"{precision}{target.suffix}")
    assert size.get("fp16", 0) < 0.7 * size["fp32"] and size.get("int8", 0) < 0.5 * size["fp32"]


class _OtherCorners(nn.Module):
    def __init__(self, up):
        super().__init__()
        self.up = up

    def forward(self, x):
        x = F.interpolate(self.up.normalize(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return F.leaky_relu(self.up.conv(F.pad(x, (1, 1, 1, 1), mode="reflect")), 0.01)


def _swapped_weights(network):
    network.block.block.conv3x3.weight.data = network.block.block.conv3x3.weight.data.flip(0)


def _other_corners(network):
    network.up = _OtherCorners(network.up)


def _dropped_layer(network):
    network.block.block.conv1x1 = nn.Identity()


@pytest.mark.parametrize("name", files("executorch"))
def test_what_computes_something_else_is_refused(name, tmp_path):
    """A converter that swaps weights, takes other corners or forgets a layer, as if it were this one."""
    need(name)
    for planted in (_swapped_weights, _other_corners, _dropped_layer):
        facts = equality.difference(run(targets.TARGETS[name], part(planted), tmp_path, INPUTS), wanted())
        with pytest.raises(equality.Unequal, match=r"part differs from PyTorch by up to .* fp32 allows 0.001"):
            equality.check_difference(facts, "fp32", "part")


class _Strange(nn.Module):
    def forward(self, target):
        return torch.linalg.eigvals(target[0, 0]).real


@pytest.mark.parametrize("name", FILES)
def test_what_cannot_be_expressed_is_named_and_leaves_nothing(name, tmp_path):
    need(name)
    target = targets.TARGETS[name]
    strange = Model("strange", _Strange().eval(), {"target": torch.rand(1, 3, 8, 8)}, ("swap",))
    with pytest.raises(ValueError, match="(?i)strange.*(eig|cannot)|eig"):
        target.write(strange, tmp_path / f"x{target.suffix}", "fp32", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_named(name, known, tmp_path):
    need(name)
    target = targets.TARGETS[name]
    path = tmp_path / f"x{target.suffix}"
    path.write_bytes(b"nothing of the kind")
    if name == "tnn":
        path.with_suffix(".tnnmodel").write_bytes(b"")
    with pytest.raises(ValueError, match=str(path)):
        target.load(path, ("swap",), 1)


def test_a_new_target_is_one_entry_of_the_registry(known, tmp_path, monkeypatch):
    saved = {}

    def write(model, path, precision, metadata):
        path.write_bytes(b"four")
        saved[path] = model
        return path

    def load(path, names, threads):
        return lambda inputs: expected(saved[path], inputs)

    toy = Target(".toy", ("fp32",), "torch", "float32 tensors by name", write, load)
    monkeypatch.setitem(targets.TARGETS, "toy", toy)
    assert targets.chosen(["toy"], ["all"]) == [("toy", "fp32")]
    student, reference = known["compact"]
    compared = equality.compare(models(student), reference, targets.check("toy", "fp32"), "fp32", tmp_path, {})
    assert compared.facts["generator"]["bytes"] == 4 and compared.facts["whole"]["max_abs"] < 1e-5


def test_unknown_targets_precisions_and_missing_packages_are_told(monkeypatch):
    with pytest.raises(ValueError, match="unknown export target 'tnnn', known: onnx, .*tnn"):
        targets.chosen(["tnnn"], ["fp32"])
    with pytest.raises(ValueError, match="ncnn: no precision 'int8', known: fp32, fp16"):
        targets.chosen(["ncnn"], ["int8"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'needs the package pnnx, ncnn: pip install -e "\.\[export-ncnn\]"'):
        targets.check_packages("ncnn")
    with pytest.raises(
        ValueError, match=r"needs the package coremltools: .*; exporting to ncnn needs the package pnnx"
    ):
        targets.check_packages("coreml", "tnn", "ncnn", "coreml")
    assert targets.chosen(["coreml", "tnn"], ["fp32"]) == [("coreml", "fp32"), ("tnn", "fp32")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert ("onnx-batch", "fp16") not in targets.chosen(["all"], ["fp16"])
    with pytest.raises(ValueError, match="no target has the precision 'int4'"):
        targets.chosen(["all"], ["int4"])
    assert targets.chosen(["tnn"], ["all"]) == [("tnn", p) for p in ("fp32", "fp16", "int8")]


def test_differences_are_measured(known):
    student, truth = known["compact"]
    wanted = {"swap": torch.zeros(1, 3, 4, 4)}
    facts = equality.difference({"swap": torch.full((1, 3, 4, 4), 0.02)}, wanted)
    assert facts["max_abs"] == facts["mean_abs"] == pytest.approx(0.02) and facts["psnr_db"] == pytest.approx(40)
    with pytest.raises(equality.Unequal, match=r"swap: shape \(1, 3, 2, 2\), PyTorch gives \(1, 3, 4, 4\)"):
        equality.difference({"swap": torch.zeros(1, 3, 2, 2)}, wanted)
    nan = equality.difference({"swap": torch.full((1, 3, 4, 4), torch.nan)}, wanted)
    with pytest.raises(equality.Unequal):
        equality.check_difference(nan, "int8", "x")
    parts = {name: torch.zeros(1, 4) for name in ("embedding", "identity_map")}
    later = equality.difference({**parts, "identity_map": torch.full((1, 4), torch.nan)}, parts)
    with pytest.raises(equality.Unequal):
        equality.check_difference(later, "int8", "x")
    assert all(f["max_abs"] < 1e-5 and f["ms"] > 0 for f in equality.folding(student, truth).values())
