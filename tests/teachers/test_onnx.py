"""The ONNX teacher: its swaps are what the graphs compute, in every family, batch and precision."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("onnx", reason="needs the package onnx, which builds the graphs")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime, which runs the graphs")

import numpy as np
from helpers.onnx_graphs import (
    EMBEDDED,
    FACTS,
    PLAIN,
    Encoder,
    N,
    change_first_number,
    constants,
    fed,
    files,
    moved_out,
    photo,
    write,
    write_embedder,
    write_encoders,
    write_swapper,
)
from onnx import helper

import students
from swapcore.frame import Crop
from swapcore.onnx import Session
from teachers.onnx import OnnxTeacher
from teachers.onnx_cards import CARDS


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    return write_encoders(tmp_path_factory.mktemp("encoders"))


def test_the_cards_say_what_is_known_of_the_families():
    assert CARDS.keys() == FACTS.keys()
    for family, (size, template, (mean, std), zero_one, converter, source) in FACTS.items():
        card = CARDS[family]
        assert (card.size, card.template, card.mean, card.std) == (size, template, mean, std)
        assert (card.output == "zero_one", card.converter) == (zero_one, converter)
        assert (card.target_input, card.source_input) == ("target", "source")
        if family in EMBEDDED:
            assert (card.source, card.embedding) == ("embedding", source)
        else:
            assert card.source == "image"
            assert (card.source_size, card.source_template) == source
            assert (card.source_mean, card.source_std) == PLAIN


@pytest.mark.parametrize("family", CARDS)
def test_swaps_of_every_family_are_what_its_graph_computes(family, tmp_path, encoders):
    model, matrix = write_swapper(tmp_path / "m.onnx", family)
    teacher = OnnxTeacher(files(family, model, encoders), family=family).eval()
    source, target = photo(1), photo(2)
    (shown,) = teacher.identity(source)
    expected = fed(family, source, encoders, matrix)
    assert shown.shape == expected.shape and shown.dtype == torch.float32
    torch.testing.assert_close(shown, expected, atol=2e-4, rtol=2e-4)
    swap = teacher(source, target)
    assert swap.shape == target.shape and swap.dtype == torch.float32

    shift = 0.1 * (expected.mean((2, 3)) if expected.ndim == 4 else expected[:, :3])[:, :, None, None]
    units = 1.0 if FACTS[family][3] else torch.tensor(FACTS[family][2][1]).view(1, 3, 1, 1)
    crop = Crop(FACTS[family][1], FACTS[family][0])
    x01 = (crop.take(target) + 1) / 2 + shift * units
    torch.testing.assert_close(swap, crop.paste(x01.clamp(0, 1) * 2 - 1, target), atol=1e-4, rtol=0)
    assert shift.abs().mean() > 1e-3


@pytest.mark.parametrize("family", CARDS)
def test_colours_come_out_in_their_order_and_range(family, tmp_path, encoders):
    """A plain target has no crop to get wrong: red stays red, and the source adds what it says to each channel."""
    model, matrix = write_swapper(tmp_path / "m.onnx", family, batch=1)
    teacher = OnnxTeacher(files(family, model, encoders), family=family)
    source = torch.tensor([0.6, -0.2, 0.1]).view(1, 3, 1, 1).expand(1, 3, 256, 256)
    colour = torch.tensor([0.5, 0.0, -0.5]).view(1, 3, 1, 1)
    identity = teacher.identity(source)
    if family in EMBEDDED:
        identity = (torch.tensor([[1.0, 2.0, -3.0]]).repeat(1, 171)[:, :512],)
        shift = torch.tensor([0.1, 0.2, -0.3])
    else:
        shift = torch.tensor([0.08, 0.04, 0.055])
        torch.testing.assert_close(identity[0].mean((0, 2, 3)), shift * 10)
    swap = teacher.swap(identity, colour.expand(1, 3, 256, 256).contiguous())
    units = 1.0 if FACTS[family][3] else torch.tensor(FACTS[family][2][1])
    middle = swap[0, :, 140, 128]
    torch.testing.assert_close(middle, (colour.flatten() + 2 * shift * units).clamp(-1, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", CARDS)
def test_a_graph_that_returns_its_target_returns_the_picture(family, tmp_path, encoders):
    model, _ = write_swapper(tmp_path / "m.onnx", family)
    teacher = OnnxTeacher(files(family, model, encoders), family=family)
    target, (identity,) = photo(3), teacher.identity(photo(1))
    swap = teacher.swap((torch.zeros_like(identity),), target)
    assert (swap - target).abs().mean() < 3e-3 and (swap - target).abs().max() < 0.03
    for corner in (swap - target)[:, :, :4, :4], (swap - target)[:, :, -1:, -4:]:
        assert corner.abs().max() < 0.01


@pytest.mark.parametrize("family", ["inswapper_128", "simswap_256", "blendswap_256"])
def test_any_batch_gives_the_same_swaps(family, tmp_path, encoders):
    source, target = photo(1, n=5), photo(2, n=5)
    weights = files(family, None, encoders)
    swaps = []
    for batch in ("batch", 1, 2, 5, 8):
        weights["model"], _ = write_swapper(tmp_path / f"{batch}.onnx", family, batch)
        teacher = OnnxTeacher(weights, family=family)
        assert teacher.sessions["model"].batch == (None if batch == "batch" else batch)
        swaps.append(teacher(source, target))
    for swap in swaps[1:]:
        torch.testing.assert_close(swap, swaps[0], atol=1e-6, rtol=0)
    alone = torch.cat([teacher(source[i : i + 1], target[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(alone, swaps[0], atol=1e-6, rtol=0)
    assert teacher(source[:0], target[:0]).shape == (0, 3, 256, 256)


@pytest.mark.parametrize("kind", ["fails", "mixes"])
def test_a_graph_that_promises_any_batch_and_takes_one_is_run_one_by_one(kind, tmp_path):
    """As traced graphs do, into which the example's batch was written."""
    shift = {
        "fails": helper.make_node("Reshape", ["source", "one"], ["shift"]),
        "mixes": helper.make_node("Slice", ["source", "zeros", "one", "axes"], ["shift"]),
    }[kind]
    nodes = [shift, helper.make_node("Add", ["target", "shift"], ["swap"])]
    shape = ["batch", 3, 64, 64]
    source_shape = ["batch", 3] if kind == "fails" else ["batch", 3, 1, 1]
    one = [1, 3, 1, 1]
    arrays = constants(one=np.array(one), zeros=np.zeros(4, int), axes=np.arange(4))
    path = write(tmp_path / "m.onnx", nodes, {"target": shape, "source": source_shape}, {"swap": shape}, arrays)
    card = {"size": 64} if kind == "fails" else {"size": 64, "source": "image", "source_size": 1}
    encoder = (lambda images: images.mean((2, 3))) if kind == "fails" else None
    teacher = OnnxTeacher({"model": path}, card=card, identity_encoder=encoder)
    assert teacher.sessions["model"].batch == 1
    source, target = photo(1, 64)[:, :, :1, :1].expand(N, 3, 64, 64), photo(2, 64)
    expected = (target + source.mean((2, 3), keepdim=True)).clamp(-1, 1)
    torch.testing.assert_close(teacher(source, target), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_graphs_of_other_precision_are_cast_to(dtype, tmp_path, encoders):
    source, target = photo(1), photo(2)
    swaps = []
    for given in (np.float32, dtype):
        model, _ = write_swapper(tmp_path / "m.onnx", "inswapper_128", dtype=given)
        teacher = OnnxTeacher(files("inswapper_128", model, encoders), family="inswapper_128")
        assert teacher.matrix.dtype == torch.float32
        swaps.append(teacher(source, target))
    assert swaps[1].dtype == torch.float32
    torch.testing.assert_close(*swaps, atol=4e-3, rtol=0)


def test_a_family_with_another_crop_and_other_names(tmp_path, encoders):
    own = {"size": 96, "template": "canonical", "target_input": "image", "source_input": "id", "embedding": "raw"}
    model, _ = write_swapper(tmp_path / "m.onnx", "hyperswap_256", names=("image", "id"), **own)
    teacher = OnnxTeacher({"model": model, "embedder": encoders["embedder"][0]}, family="hyperswap_256", card=own)
    source, target = photo(1, 96), photo(2, 96)
    expected = fed("ghost_256", source, {**encoders, "converter": (None, torch.eye(512))}, None)
    expected = (target + 0.1 * expected[:, :3, None, None]).clamp(-1, 1)
    torch.testing.assert_close(teacher(source, target), expected, atol=1e-4, rtol=0)
    assert teacher.facts["card"]["size"] == 96
    other = OnnxTeacher(
        {"model": model, "embedder": encoders["embedder"][0]}, family="hyperswap_256", card={**own, "mean": 0.4}
    )
    assert other.card.mean == (0.4, 0.4, 0.4) and other.weight_hash != teacher.weight_hash


class ByImage(nn.Module):
    def __init__(self, generator, encoder) -> None:
        super().__init__()
        self.generator, self.encoder = generator, encoder

    def forward(self, target, source):
        return self.generator(target, self.encoder(source))[0]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A student of ours, its encoder, and both exported: with an embedding, and with the encoder inside."""
    torch.manual_seed(0)
    folder, encoder = tmp_path_factory.mktemp("student"), Encoder(24).eval()
    generator = students.build("compact", width=8, embedding_dim=24, resolution=64).eval()
    example = photo(1, 64, 2), F.normalize(torch.randn(2, 24)), photo(2, 64, 2)
    for name, network, source, names in (
        ("embedding", generator, example[1], ["swap", "half", "quarter"]),
        ("image", ByImage(generator, encoder).eval(), example[2], ["swap"]),
    ):
        torch.onnx.export(
            network, (example[0], source), folder / f"{name}.onnx", dynamo=False, opset_version=17,
            input_names=["target", name], output_names=names,
            dynamic_axes={n: {0: "batch"} for n in ("target", name, *names)},
        )  # fmt: skip
    return generator, encoder, folder


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_an_exported_student_teaches_as_it_does_in_torch(student):
    generator, encoder, folder = student
    source, target = photo(4, 64), photo(5, 64)
    with torch.no_grad():
        expected = generator(target, encoder(source))[0]
    assert (expected - target).abs().max() > 0.1
    by_embedding = OnnxTeacher(
        {"model": folder / "embedding.onnx"}, card={"size": 64, "source_input": "embedding"}, identity_encoder=encoder
    )
    by_image = OnnxTeacher(
        {"model": folder / "image.onnx"}, card={"size": 64, "source": "image", "source_input": "image"}
    )
    for teacher in (by_embedding, by_image):
        assert teacher.sessions["model"].batch is None
        torch.testing.assert_close(teacher(source, target), expected, atol=1e-4, rtol=0)
    (embedding,) = by_embedding.identity(source)
    assert embedding.shape == (N, 24)
    assert by_embedding.parts == {} and by_embedding.files == {"model": folder / "embedding.onnx"}
    large = by_embedding(photo(4, 128), photo(5, 128))
    assert large.shape == (N, 3, 128, 128)


def test_an_encoder_of_another_size_is_named(student):
    _, _, folder = student
    card = {"size": 64, "source_input": "embedding"}
    teacher = OnnxTeacher({"model": folder / "embedding.onnx"}, card=card, identity_encoder=Encoder(32))
    with pytest.raises(ValueError, match=r"embedding\.onnx: embedding: expected \(3, 24\), got \(3, 32\)"):
        teacher(photo(1, 64), photo(2, 64))


def test_a_matrix_wants_its_own_embeddings(tmp_path):
    model, _ = write_swapper(tmp_path / "m.onnx", "inswapper_128")
    teacher = OnnxTeacher({"model": model}, family="inswapper_128", identity_encoder=Encoder(32))
    with pytest.raises(ValueError, match=r"m\.onnx: its matrix takes embeddings of 512 numbers, got \(3, 32\)"):
        teacher.identity(photo(1, 64))


@pytest.mark.gpu
def test_swaps_come_back_where_the_target_is(student):
    _, encoder, folder = student
    teacher = OnnxTeacher(
        {"model": folder / "image.onnx"}, card={"size": 64, "source": "image", "source_input": "image"}
    ).cuda()
    source, target = photo(4, 64), photo(5, 64)
    swap = teacher(source.cuda(), target.cuda())
    assert swap.is_cuda
    torch.testing.assert_close(swap.cpu(), teacher.cpu()(source, target), atol=1e-2, rtol=0)


def test_a_graph_checks_what_it_is_given(encoders):
    graph = Session(encoders["converter"][0], threads=1)
    assert graph.fit({"": (512,)}, (None,)) == (512,)
    with pytest.raises(ValueError, match=r"c\.onnx: input: expected \(3, 512\), got \(3, 511\)"):
        graph(torch.zeros(3, 511))


def test_the_hash_covers_tensors_in_other_files(tmp_path, encoders):
    """Equal hash, equal swaps: the file of the graph stays as it is, its external data changes."""
    model, _ = write_swapper(tmp_path / "m.onnx", "simswap_256")
    embedder, _ = write_embedder(tmp_path / "e.onnx")
    weights = {"model": model, "embedder": embedder, "converter": encoders["converter"][0]}
    hashes = [OnnxTeacher(weights, family="simswap_256").weight_hash]
    data = moved_out(embedder)
    graph = embedder.read_bytes()
    before = OnnxTeacher(weights, family="simswap_256")
    hashes.append(before.weight_hash)
    assert before.files == {**weights, "embedder/e.onnx.data": data}
    change_first_number(data)
    after = OnnxTeacher(weights, family="simswap_256")
    assert embedder.read_bytes() == graph
    assert not torch.equal(*(teacher.identity(photo(1))[0] for teacher in (before, after)))
    assert len({*hashes, after.weight_hash}) == 3
    data.unlink()
    with pytest.raises(ValueError, match="teacher 'onnx': .*e.onnx"):
        OnnxTeacher(weights, family="simswap_256")


def test_the_hash_covers_the_encoder_that_replaces_a_file(student):
    _, encoder, folder = student
    card = {"size": 64, "source_input": "embedding"}

    def hash_with(network):
        model = {"model": folder / "embedding.onnx"}
        return OnnxTeacher(model, card=card, identity_encoder=network).weight_hash

    assert hash_with(encoder) == hash_with(encoder) != hash_with(Encoder(24))
