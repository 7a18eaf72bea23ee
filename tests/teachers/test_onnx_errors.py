"""The ONNX teacher: wrong files, cards and options raise an error before the first swap."""

import sys

import pytest

pytest.importorskip("onnx", reason="needs the package onnx, which builds the graphs")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime, which runs the graphs")

import numpy as np
from helpers.onnx_graphs import Encoder, constants, write, write_converter, write_encoders, write_swapper
from onnx import TensorProto, helper

from teachers.onnx import OnnxTeacher


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    return write_encoders(tmp_path_factory.mktemp("encoders"))


def refused(match, *args, **kwargs):
    with pytest.raises(ValueError, match=match) as caught:
        OnnxTeacher(*args, **kwargs)
    assert str(caught.value).startswith("teacher 'onnx': ")


def test_files_that_the_card_needs_or_does_not(tmp_path, encoders):
    model, _ = write_swapper(tmp_path / "m.onnx", "ghost_256")
    embedder, converter = encoders["embedder"][0], encoders["converter"][0]
    image, _ = write_swapper(tmp_path / "i.onnx", "uniface_256")
    refused("weights.model is missing", {}, family="ghost_256")
    refused("ghost_256' needs weights.embedder: .*ArcFace.*identity_encoder", {"model": model}, family="ghost_256")
    both = {"model": model, "embedder": embedder}
    refused("ghost_256' needs weights.converter: the path of the embedding conv", both, family="ghost_256")
    more = {**both, "converter": converter}
    refused("takes no weights.embedder: identity_encoder", more, family="ghost_256", identity_encoder=Encoder(512))
    refused("takes no weights.converter: it is not used", more, family="hyperswap_256")
    refused("takes no weights.embedder: it is not", {"model": image, "embedder": embedder}, family="uniface_256")
    refused("leave identity_encoder out", {"model": image}, family="uniface_256", identity_encoder=Encoder(512))
    refused("is not a file", {"model": tmp_path / "none.onnx"}, family="uniface_256")


def test_files_that_are_no_such_graph(tmp_path, encoders):
    text, empty, cut = (tmp_path / name for name in ("text.onnx", "empty.onnx", "cut.onnx"))
    model, _ = write_swapper(tmp_path / "m.onnx", "inswapper_128")
    text.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    empty.write_bytes(b"")
    cut.write_bytes(model.read_bytes()[:5000])
    embedder, converter = encoders["embedder"][0], encoders["converter"][0]
    reasons = {text: "is a Git LFS pointer", empty: "is empty", cut: "not an ONNX file that onnxruntime can run"}
    for path, reason in reasons.items():
        refused(f"{path.name}: {reason}", {"model": path, "embedder": embedder}, family="inswapper_128")
        refused(f"{path.name}: {reason}", {"model": model, "embedder": path}, family="inswapper_128")
    refused(
        r"c\.onnx: its inputs are input \(batch, 512\).*expected target \(N, 3, 256, 256\), source \(N, 512\).*card",
        {"model": converter, "embedder": embedder},
        family="hyperswap_256",
    )
    refused(
        r"c\.onnx: its inputs are input \(batch, 512\).*expected input \(N, 3, 112, 112\)",
        {"model": model, "embedder": converter},
        family="inswapper_128",
    )
    refused(
        r"m\.onnx: its inputs are target .*, source .*; expected one \(N, 3, 112, 112\): give the file",
        {"model": model, "embedder": model},
        family="inswapper_128",
    )


def test_graphs_of_another_family(tmp_path, encoders):
    embedder = encoders["embedder"][0]
    model, _ = write_swapper(tmp_path / "m.onnx", "inswapper_128")
    weights = {"model": model, "embedder": embedder}
    refused(
        r"m\.onnx: its inputs are target \(batch, 3, 128, 128\) of tensor\(float\).*expected target "
        r"\(N, 3, 256, 256\).*change the card to match 'target'",
        weights,
        family="hyperswap_256",
    )
    refused("change the card to match 'source'", {"model": model}, family="blendswap_256", card={"size": 128})
    refused("its inputs are .*expected image", weights, family="inswapper_128", card={"target_input": "image"})
    last, _ = write_swapper(tmp_path / "l.onnx", "hyperswap_256")
    refused(
        r"l\.onnx: its last initializer is \(4\); the card needs a matrix \(512, 512\)",
        {"model": last, "embedder": embedder},
        family="inswapper_128",
        card={"size": 256, "mean": 0.5},
    )
    small, _ = write_converter(tmp_path / "c.onnx", outputs=256)
    model, _ = write_swapper(tmp_path / "g.onnx", "ghost_256")
    weights = {"model": model, "embedder": embedder, "converter": small}
    refused(r"g\.onnx: its inputs are .*expected .*source \(N, 256\)", weights, family="ghost_256")


def test_inputs_and_outputs_that_do_not_fit(tmp_path):
    image, card = ["batch", 3, 64, 64], {"size": 64, "source": "image"}

    def build(target=image, source=image, output=image, nodes=None, dtype=TensorProto.FLOAT):
        nodes = nodes or [helper.make_node("Add", ["target", "source"], ["swap"])]
        inputs, grid = {"target": target, "source": source}, constants(grid=np.array([1, 1, 2, 2], np.float32))
        return {"model": write(tmp_path / "m.onnx", nodes, inputs, {"swap": output}, grid, dtype)}

    assert OnnxTeacher(build(), card=card).sessions["model"].batch is None
    sizes = ["batch", 3, "height", "width"]
    assert OnnxTeacher(build(sizes, sizes, sizes), card=card).sessions["model"].output == (3, 64, 64)
    refused("of tensor.float.* or .*floating-point inputs", build(dtype=TensorProto.INT64), card=card)
    four, two = [4, *image[1:]], [2, *image[1:]]
    refused(
        "one batch size for all inputs",
        build(four, two, four, [helper.make_node("Identity", ["target"], ["swap"])]),
        card=card,
    )
    other = [helper.make_node("Identity", ["source"], ["swap"])]
    refused("change the card to match 'target'", build(target=["batch", 3], nodes=other), card=card)
    large = [
        helper.make_node("Add", ["target", "source"], ["small"]),
        helper.make_node("Resize", ["small", "", "grid"], ["swap"]),
    ]
    refused(
        r"m\.onnx: its first output is \(1, 3, 128, 128\); expected \(1, 3, 64, 64\)",
        build(output=["batch", 3, "height", "width"], nodes=large),
        card=card,
    )
    broken = [helper.make_node("Concat", ["target", "source"], ["joined"], axis=2)]
    broken.append(helper.make_node("Add", ["joined", "target"], ["swap"]))
    refused(r"m\.onnx: (onnxruntime cannot run it|not an ONNX file)", build(sizes, sizes, sizes, broken), card=card)


def test_cards_and_options_that_do_not_exist(tmp_path):
    model, _ = write_swapper(tmp_path / "m.onnx", "uniface_256")
    weights = {"model": model}
    refused("expected a family .inswapper_128, .*or a card", weights)
    refused("unknown family 'ghost'; known: inswapper_128, ", weights, family="ghost")
    refused("unknown field 'sise'; known: family, size", weights, card={"sise": 3})
    for field, value, expected in (
        ("size", "256", "a whole number"),
        ("size", 0, "a whole number"),
        ("source_size", 1.5, "a whole number"),
        ("template", "ffhq", "one of canonical, arcface"),
        ("mean", [0.5, 0.5], "a number or three"),
        ("mean", "x", "a number or three"),
        ("std", 0, "a number or three, above 0"),
        ("source", "vector", "one of embedding, image"),
        ("embedding", "norm", "one of raw, l2, matrix"),
        ("output", 1, "one of zero_one, denormalise"),
        ("converter", "yes", "true or false"),
        ("converter", True, "none, as source is 'image'"),
        ("source_input", "target", "another name"),
        ("target_input", "", "a name"),
    ):
        refused(f"card 'uniface_256': {field}: expected {expected}", weights, family="uniface_256", card={field: value})
    refused(
        "providers: this onnxruntime has no 'abacus', it has .*CPU", weights, family="uniface_256", providers=["abacus"]
    )
    refused("providers: expected at least one", weights, family="uniface_256", providers=[])
    refused("threads: expected a whole number", weights, family="uniface_256", threads=-1)
    teacher = OnnxTeacher(weights, family="uniface_256", providers=["cpu"], threads=1)
    assert teacher.sessions["model"].session.get_providers() == ["CPUExecutionProvider"]


def test_missing_packages_are_named(tmp_path, encoders, monkeypatch):
    model, _ = write_swapper(tmp_path / "m.onnx", "inswapper_128")
    weights = {"model": model, "embedder": encoders["embedder"][0]}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        refused(r"m\.onnx: .* needs onnx: pip install -e .\.\[onnx\]", weights, family="inswapper_128")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused(r"needs onnxruntime: pip install -e .\.\[onnx\]", weights, family="inswapper_128")
