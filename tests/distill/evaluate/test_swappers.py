"""Swappers by name, by file and by folder."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.odd_pictures import turned
from helpers.student_files import EMBEDDING, SIDE, student_file
from PIL import Image

import teachers
from distill import build, config
from distill.config import ConfigError, Experiment
from distill.data import synthetic
from distill.data.photos import read_manifest
from distill.evaluate import swappers
from distill.evaluate.pairs import by_people, load
from distill.schema import Eval as EvalSection
from distill.schema import Student as StudentSection
from eval.cards import CARDS
from eval.estimators import Estimator
from students.identity_encoder import CARDS as ENCODERS
from swapcore import weights
from swapcore.images import DataError

EXP = Experiment(name="x")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    synthetic.write(folder, {"test": (4, 3)}, SIDE, seed=3, progress=False)
    photos = read_manifest(folder, "test", SIDE)
    return load(by_people("toy", photos, 6, 1, "toy"), photos.root)[0]


@pytest.fixture(scope="module")
def images(pairs):
    return pairs.source[:2].float() / 127.5 - 1, pairs.target[:2].float() / 127.5 - 1


def test_a_teacher_that_is_called_by_its_label_keeps_it(pairs):
    exp = config.default("x", ["pseudo_gt.teachers=[{name: exact, label: drawn}]"])
    assert swappers.by_name("drawn", exp, pairs, "cpu").name == "drawn"
    assert swappers.by_name("exact", exp, pairs, "cpu").name == "exact"


def test_names_are_checked(pairs):
    with pytest.raises(ConfigError, match="unknown swapper 'mine'; known: copy-target, copy-source, exact"):
        swappers.by_name("mine", EXP, pairs, "cpu")
    with pytest.raises(FileNotFoundError, match="no such file"):
        swappers.by_name("absent.safetensors", EXP, pairs, "cpu")
    with pytest.raises(ConfigError, match="whose exact swap is unknown"):
        swappers.by_name("exact", EXP, replace(pairs, exact=None), "cpu")
    with pytest.raises(ConfigError, match="unknown estimator 'nobody'; known: synthetic_recogniser"):
        build.estimators(Experiment(name="x", eval=EvalSection(recogniser="nobody")))
    with pytest.raises(ConfigError, match="eval.pose: null, but pose_error of eval.metrics needs one; known: synthet"):
        build.estimators(Experiment(name="x", eval=EvalSection(pose=None)))


def test_a_network_that_trained_must_not_evaluate(tmp_path, pairs):
    same = Experiment(
        name="x", student=StudentSection(identity_encoder="foamliu_128"), eval=EvalSection(recogniser="foamliu_128")
    )
    with pytest.raises(ConfigError, match="must not evaluate what it trained"):
        build.check_recogniser(same, "foamliu_128", "student.identity_encoder")
    learnt = ["loss.perceptual_network=lpips", "eval.metrics=[lpips]", "eval.perceptual=lpips_alex", "stages=[eval]"]
    with pytest.raises(ConfigError, match="'lpips_alex' is also the network of loss.perceptual_network"):
        build.check_names(config.default("x", learnt))
    judged = config.default("x", ["eval.recogniser=synthetic_identity"])
    with pytest.raises(ConfigError, match="student.safetensors; a network must not evaluate what it trained"):
        swappers.by_name(str(student_file(tmp_path)), judged, pairs, "cpu")


def test_a_student_of_another_size_is_refused_with_the_size_to_read_the_list_at(tmp_path, pairs):
    path = student_file(tmp_path, resolution=96)
    with pytest.raises(ConfigError, match="student.safetensors: swaps at 96 x 96.*64 x 64.*--resolution 96"):
        swappers.by_name(str(path), EXP, pairs, "cpu")


def test_a_swapper_measured_by_its_own_network_gets_a_warning(tmp_path, pairs):
    estimators = build.estimators(EXP)
    student = swappers.load_student(student_file(tmp_path), EXP)
    assert swappers.own_estimators("compact", student, estimators) == []
    encoder = weights.find(ENCODERS["synthetic_identity"])
    itself = Estimator(student.identity_encoder, "synthetic_identity", weights.sha256(encoder)[:16])
    warnings = swappers.own_estimators("compact", student, replace(estimators, recogniser=itself))
    assert warnings == ["compact is measured by a network of its own, the recogniser synthetic_identity: take another"]

    class Warp(teachers.Teacher):
        name, FILES = "warp", {"landmarks": "the file of a pose estimator"}

    teacher = swappers.TeacherSwapper(Warp({"landmarks": weights.find(CARDS["synthetic_pose"])}))
    warnings = swappers.own_estimators("warp", teacher, estimators)
    assert [line.split(", the ")[1].split(" ")[0] for line in warnings] == ["pose", "expression"]
    teacher.teacher.facts["identity_encoder"] = estimators.recogniser.weight_hash
    assert "recogniser" in swappers.own_estimators("warp", teacher, estimators)[0]


def test_a_student_brings_the_encoder_of_its_file(tmp_path, pairs, images):
    path = student_file(tmp_path)
    elsewhere = Experiment(name="x", student=StudentSection(identity_encoder="foamliu_128"))
    swapper = swappers.by_name(str(path), elsewhere, pairs, "cpu")
    assert swapper(*images).shape == (2, 3, SIDE, SIDE) and set(swapper.files) == {"generator", "identity_encoder"}
    other = student_file(tmp_path, encoder="unheard")
    with pytest.raises(ConfigError, match="unknown identity encoder 'unheard'"):
        swappers.by_name(str(other), EXP, pairs, "cpu")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A generator, and a whole student, as ONNX files; and the student itself."""
    pytest.importorskip("onnx", reason='pip install -e ".[onnx]" for exported students')
    folder = tmp_path_factory.mktemp("onnx")
    student = swappers.load_student(student_file(folder), EXP)

    class Generator(torch.nn.Module):
        def forward(self, target, embedding):
            return student.generator(target, embedding)[0]

    batch = {name: {0: "batch"} for name in ("source", "target", "embedding", "swap")}
    image, options = torch.zeros(1, 3, SIDE, SIDE), {"dynamo": False, "opset_version": 17, "output_names": ["swap"]}
    for module, inputs in (
        (Generator(), {"target": image, "embedding": torch.zeros(1, EMBEDDING)}),
        (student, {"source": image, "target": image}),
    ):
        axes = {name: axis for name, axis in batch.items() if name in (*inputs, "swap")}
        path = folder / ("generator.onnx" if "embedding" in inputs else "whole.onnx")
        torch.onnx.export(
            module.eval(), tuple(inputs.values()), path, input_names=list(inputs), dynamic_axes=axes, **options
        )
    return student, folder / "generator.onnx", folder / "whole.onnx"


def test_exported_students_swap_as_the_student_does(exported, pairs, images):
    student, *files = exported
    with torch.inference_mode():
        expected = student(*images)
    for path, parts in zip(files, ({"generator", "identity_encoder"}, {"model"}), strict=True):
        swapper = swappers.by_name(str(path), EXP, pairs, "cpu")
        assert set(swapper.files) == parts and swapper.name.endswith(path.stem)
        # The plain exporter resizes the encoder's crop a little differently; the runtime adds nothing to that.
        assert (swapper(*images) - expected).abs().mean() < (1e-6 if "identity_encoder" in parts else 1e-3)


def test_the_hash_and_the_files_of_an_exported_student_cover_its_external_data(exported, pairs, images, tmp_path):
    from helpers.onnx_graphs import change_first_number, moved_out

    inline = swappers.by_name(str(exported[1]), EXP, pairs, "cpu")
    path = tmp_path / "generator.onnx"
    path.write_bytes(exported[1].read_bytes())
    data = moved_out(path)
    before = swappers.by_name(str(path), EXP, pairs, "cpu")
    assert before.files["generator/generator.onnx.data"] == data
    sizes = [sum(p.stat().st_size for p in swapper.files.values()) for swapper in (inline, before)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.2), "size_mb counts these files"
    change_first_number(data)
    after = swappers.by_name(str(path), EXP, pairs, "cpu")
    assert swappers.fingerprint(before) != swappers.fingerprint(after)


def test_onnx_files_of_another_kind_are_refused(tmp_path, pairs, exported):
    from helpers.onnx_graphs import constants, helper, write

    write(
        tmp_path / "other.onnx", [helper.make_node("Add", ["x", "c"], ["y"])], {"x": [1, 3]}, {"y": [1, 3]},
        constants(c=np.ones((1, 3), np.float32)),
    )  # fmt: skip
    with pytest.raises(ValueError, match="its inputs are x; expected source and target .* or target and embedding"):
        swappers.by_name(str(tmp_path / "other.onnx"), EXP, pairs, "cpu")
    with pytest.raises(ValueError, match=r"generator.onnx: swaps at .* with --resolution \d+$"):
        swappers.by_name(str(exported[1]), EXP, replace_size(pairs), "cpu")
    with pytest.raises(ValueError, match="absent.onnx: no such file"):
        swappers.by_name(str(tmp_path / "absent.onnx"), EXP, pairs, "cpu")


def replace_size(pairs):
    """The pairs at half the size."""
    halves = {
        key: getattr(pairs, key)[:, :, ::2, ::2].contiguous()
        for key in ("source", "target", "exact", "gallery", "mask", "occluder", "regions")
    }
    return replace(pairs, **halves)


def test_a_folder_of_finished_swaps(tmp_path, pairs):
    for name, image in zip(pairs.names, pairs.exact, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{name}.png")
    finished = swappers.by_name(str(tmp_path), EXP, pairs, "cpu")
    assert torch.equal(finished.swaps, pairs.exact) and not len(finished.missing)
    (tmp_path / f"{pairs.names[2]}.png").unlink()
    assert list(swappers.read_finished(tmp_path, pairs).missing) == [2]
    (tmp_path / f"._{pairs.names[0]}.png").write_bytes(b"\0\5\26\7")  # macOS keeps attributes of a file in such files
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "preview.png")
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "preview.jpg")
    assert list(swappers.read_finished(tmp_path, pairs).missing) == [2]
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / f"{pairs.names[0]}.jpg")
    with pytest.raises(DataError, match="00000.png: a second picture of pair 00000, beside 00000.jpg; delete one"):
        swappers.read_finished(tmp_path, pairs)
    (tmp_path / f"{pairs.names[0]}.jpg").unlink()
    Image.new("RGB", (SIDE, SIDE + 2)).save(tmp_path / f"{pairs.names[1]}.png")
    with pytest.raises(DataError, match=f"{pairs.names[1]}.png: 64 x 66 pixels, the pairs have 64 x 64"):
        swappers.read_finished(tmp_path, pairs)
    (tmp_path / f"{pairs.names[1]}.png").write_text("no picture")
    with pytest.raises(DataError, match="not a readable picture"):
        swappers.read_finished(tmp_path, pairs)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="holds none of the 6 swaps; expected 00000.png"):
        swappers.read_finished(tmp_path / "nothing", pairs)


def test_finished_swaps_are_read_upright(tmp_path, pairs):
    for name, image, value in zip(pairs.names, pairs.exact, (3, 6, 8, 5, 2, 1), strict=True):
        turned(tmp_path / f"{name}.{'png' if value < 6 else 'tif'}", image.permute(1, 2, 0).numpy(), value)
    assert torch.equal(swappers.read_finished(tmp_path, pairs).swaps, pairs.exact)


def test_a_teacher_that_finds_no_face_leaves_the_target_as_it_is():
    class Shy(teachers.Teacher):
        """Sees a face where the picture is bright; swaps by copying the source."""

        name = "shy"

        def swap(self, identity, target, rows=None):
            dark = [i for i, image in enumerate(target) if image.mean() < 0]
            if dark:
                raise teachers.NoFace("too dark", dark)
            return identity[0]

        def identity(self, source, rows=None):
            dark = [i for i, image in enumerate(source) if image.mean() < 0]
            if dark:
                raise teachers.NoFace("too dark", dark)
            return (source,)

    levels = torch.tensor([0.5, -0.5, 0.7, 0.9]).view(4, 1, 1, 1)
    source, target = levels.expand(4, 3, 8, 8), levels.flip(0).expand(4, 3, 8, 8)
    swap = swappers.TeacherSwapper(Shy())(source, target)
    assert swap.mean((1, 2, 3)).tolist() == pytest.approx([0.5, 0.7, -0.5, 0.9])
    assert swappers.TeacherSwapper(Shy())(source[1:2], target[1:2]).mean().item() == pytest.approx(0.7)
