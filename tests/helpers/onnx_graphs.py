"""ONNX graphs of the families' signatures, whose swaps can be computed by hand. Import it where onnx is."""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

from swapcore.frame import Crop
from teachers.onnx_cards import find_card

N = 3
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # not the product's constant, which is under test
HALF, PLAIN = ((0.5,) * 3,) * 2, ((0.0,) * 3, (1.0,) * 3)
# family: size, template, mean and std, output in [0, 1], converter, embedding or source size and template
FACTS = {
    "inswapper_128": (128, "arcface_128", PLAIN, True, False, "matrix"),
    "hyperswap_256": (256, "arcface_128", HALF, False, False, "l2"),
    "ghost_256": (256, "arcface_112_v1", HALF, False, True, "raw"),
    "hififace_256": (256, "mtcnn_512", HALF, False, True, "l2"),
    "simswap_256": (256, "arcface_112_v1", IMAGENET, True, True, "l2"),
    "simswap_512": (512, "arcface_112_v1", PLAIN, True, True, "l2"),
    "blendswap_256": (256, "ffhq_512", PLAIN, True, False, (112, "arcface_112_v2")),
    "uniface_256": (256, "ffhq_512", HALF, False, False, (256, "ffhq_512")),
}
EMBEDDED = [family for family, facts in FACTS.items() if isinstance(facts[5], str)]


def constants(**arrays) -> list:
    return [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]


def write(path, nodes, inputs: dict, outputs: dict, initializers, dtype=TensorProto.FLOAT):
    """An ONNX file; inputs and outputs are shapes, in which text is a dynamic size."""
    values = [[helper.make_tensor_value_info(n, dtype, s) for n, s in side.items()] for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "graph", *values, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_swapper(path, family, batch="batch", names=("target", "source"), dtype=np.float32, **fields):
    """A swapper of the family's signature: the target's [0, 1] colours plus a tenth of a shift from the source.

    The shift is an image's mean colour, or the first three numbers of an embedding.
    """
    card, rng = find_card(family, fields), np.random.default_rng(1)
    mean, std = card.mean, card.std
    if card.output == "denormalise":  # then the graph's answer is in units of mean and std, as its input is
        mean, std = (0, 0, 0), (1, 1, 1)
    gain, bias, tenth = (np.array(a, dtype).reshape(1, 3, 1, 1) for a in (std, mean, [0.1] * 3))
    image = card.source == "image"
    shift = (
        [helper.make_node("ReduceMean", [names[1]], ["shift"], axes=[2, 3], keepdims=1)]
        if image
        else [
            helper.make_node("Slice", [names[1], "zero", "three", "one"], ["first"]),
            helper.make_node("Reshape", ["first", "colour"], ["shift"]),
        ]
    )
    nodes = [
        *shift,
        helper.make_node("Mul", [names[0], "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["same"]),
        helper.make_node("Mul", ["shift", "tenth"], ["term"]),
        helper.make_node("Add", ["same", "term"], ["swap"]),
    ]
    matrix = {"matrix": rng.normal(size=(512, 512)).astype(dtype)} if card.embedding == "matrix" else {}
    if matrix:  # something in the graph uses it, as otherwise it would not survive an optimiser
        nodes.append(helper.make_node("ReduceSum", ["matrix"], ["unused"], keepdims=0))
    source = [batch, 3, card.source_size, card.source_size] if image else [batch, 512]
    write(
        path,
        nodes,
        {names[0]: [batch, 3, card.size, card.size], names[1]: source},
        {"swap": [batch, 3, card.size, card.size]},
        constants(
            gain=gain, bias=bias, tenth=tenth, zero=[0, 0], three=[2**30, 3], one=[0, 1], colour=[-1, 3, 1, 1], **matrix
        ),
        helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
    )
    return path, torch.tensor(matrix["matrix"]).float() if matrix else None


def write_embedder(path, batch="batch"):
    """An embedder of ArcFace's signature, linear in the means of 7 x 7 places; returns its weights (147, 512)."""
    weights = np.random.default_rng(2).normal(size=(147, 512)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input.1"], ["places"], kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("Flatten", ["places"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["683"]),
    ]
    write(path, nodes, {"input.1": [batch, 3, 112, 112]}, {"683": [1, 512]}, constants(weights=weights))
    return path, torch.from_numpy(weights)


def write_converter(path, outputs=512):
    weights = np.random.default_rng(3).normal(size=(512, outputs)).astype(np.float32) / 20
    nodes = [helper.make_node("MatMul", ["input", "weights"], ["output"])]
    write(path, nodes, {"input": ["batch", 512]}, {"output": ["batch", outputs]}, constants(weights=weights))
    return path, torch.from_numpy(weights)


def moved_out(path, size_threshold=256):
    """Move the tensors of a file from a number of bytes on into PATH.data; returns that path. onnxruntime needs the
    tensors that are shapes in the file itself."""
    data = path.with_name(f"{path.name}.data")
    options = {"location": data.name, "size_threshold": size_threshold, "convert_attribute": True}
    onnx.save(onnx.load(path), path, save_as_external_data=True, **options)
    return data


def change_first_number(data):
    """Multiply the first float32 of a file of tensors by -2; the size stays."""
    numbers = np.fromfile(data, np.float32)
    numbers[0] *= -2
    numbers.tofile(data)


def write_encoders(folder) -> dict:
    """Path and weights of an embedder and a converter."""
    return {"embedder": write_embedder(folder / "e.onnx"), "converter": write_converter(folder / "c.onnx")}


def files(family, model, encoders) -> dict:
    keys = ["embedder"] * (family in EMBEDDED) + ["converter"] * FACTS[family][4]
    return {"model": model, **{key: encoders[key][0] for key in keys}}


def photo(seed: int, size: int = 256, n: int = N):
    """Smooth pictures with room to both ends of the range."""
    coarse = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True).clamp(0, 1) * 1.2 - 0.6


def fed(family, source, encoders, matrix):
    """The graph's source input, computed independently of the teacher."""
    facts = FACTS[family]
    if family not in EMBEDDED:
        size, template = facts[5]
        return (Crop(template, size).take(source) + 1) / 2
    face = Crop("arcface_112_v2", 112).take(source)
    embedding = F.avg_pool2d(face, 16).flatten(1) @ encoders["embedder"][1]
    if facts[4]:
        embedding = embedding @ encoders["converter"][1]
    if facts[5] == "matrix":
        return embedding @ matrix / embedding.norm(dim=1, keepdim=True)
    return embedding / embedding.norm(dim=1, keepdim=True) if facts[5] == "l2" else embedding


class Encoder(nn.Module):
    """Canonical crops to unit embeddings."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 16, outputs)

    def forward(self, images):
        return F.normalize(self.linear(F.adaptive_avg_pool2d(images, 4).flatten(1)))
