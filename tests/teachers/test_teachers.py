"""Every registered teacher: its description of its files, and that it is built from files alone."""

import pytest
import torch
from conftest import SHARED, needs_shared
from helpers.line import experiment
from helpers.teacher_networks import DIM, small_stylegan2

import students
import teachers
from distill import build, config
from distill.config import ConfigError, Teacher
from students.identity_encoder import CARDS
from swapcore.irse50 import IRSE50
from swapcore.weights import WeightsError
from teachers.faceshifter import AEINet, FaceShifterTeacher, HEARNet
from teachers.hierfe import HieRFE
from teachers.megafs import MegaFSTeacher, build_transfer

needs_files = [name for name, cls in teachers.TEACHERS.items() if cls.FILES]


@pytest.mark.parametrize("name", teachers.TEACHERS)
def test_names_and_files_are_described(name):
    cls = teachers.TEACHERS[name]
    assert cls.name == name and issubclass(cls, teachers.Teacher) and cls.__doc__
    with pytest.raises(ValueError, match=f"teacher '{name}': unknown weights.nonsense; it takes"):
        teachers.build(name, {"nonsense": "x"})
    with pytest.raises(ValueError, match=f"teacher '{name}': .*nonsense"):
        teachers.build(name, {key: __file__ for key in cls.FILES}, nonsense=1)


@pytest.mark.parametrize("name", needs_files)
def test_missing_files_are_named(name, tmp_path):
    required = [key for key, what in teachers.TEACHERS[name].FILES.items() if not what.startswith("optional")]
    with pytest.raises(ValueError, match=f"teacher '{name}': weights.{required[0]} is missing: the path of"):
        teachers.build(name)
    with pytest.raises(ValueError, match=f"teacher '{name}': weights.{required[0]}: .*absent is not a file"):
        teachers.build(name, {key: tmp_path / "absent" for key in required})


@pytest.mark.parametrize("name", needs_files)
def test_a_file_of_something_else_is_named(name, tmp_path):
    if name == "onnx":
        pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    path = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="other.pth"):
        files = {key: path for key in teachers.TEACHERS[name].FILES if key != "converter"}
        teachers.build(name, files, **({"family": "inswapper_128"} if name == "onnx" else {}))


@torch.no_grad()
def test_untrained_teachers_swap_but_have_no_weight_hash():
    torch.manual_seed(0)
    megafs = MegaFSTeacher.untrained(HieRFE((4, 2, 2), DIM, 2), build_transfer("ftm", 8, DIM), small_stylegan2())
    faceshifter = FaceShifterTeacher.untrained(AEINet(width=2), IRSE50(), HEARNet(2))
    source, target = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    for teacher, parts in (
        (megafs, ["encoder", "transfer", "generator"]),
        (faceshifter, ["generator", "identity_network", "refiner"]),
    ):
        swap = teacher(source, target)
        assert swap.shape == target.shape and swap.isfinite().all() and not torch.equal(swap, target)
        assert list(teacher.parts) == parts and teacher.weight_hash == "untrained" and teacher.weights == {}
        assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    with pytest.raises(NotImplementedError):
        teachers.TEACHERS["landmark_warp"].untrained(HEARNet(2))


def test_the_hash_is_over_options_and_files(tmp_path):
    """Shards store this hash, so that it may never change."""

    class Toy(teachers.Teacher):
        name, FILES = "toy", {"b": "one", "a": "another"}

    for key in "ab":
        (tmp_path / key).write_text(key)
    files = {key: tmp_path / key for key in "ba"}
    assert Toy(files, depth=3).weight_hash == "306cfdb0f85bfda2" and Toy(files).weight_hash == "7ad51eb19abc73e6"


def exp_of(tmp_path, **sections):
    return config.load(experiment(tmp_path, **sections))


def test_the_hub_finds_files_and_checks_them(tmp_path):
    exp = exp_of(tmp_path, weights=[str(tmp_path)])
    (tmp_path / "g.pth").write_bytes(b"\x01x")
    spec = Teacher("simswap", weights={"generator": "g.pth", "identity_encoder": "nowhere.tar"})
    with pytest.raises(
        ConfigError, match="pseudo_gt.teachers: weights.identity_encoder: nowhere.tar is no file here or"
    ):
        build.teacher_files(spec, exp)
    spec = Teacher("simswap", weights={"generator": "a.pth", "identity_encoder": "b.tar"})
    with pytest.raises(
        ConfigError, match="weights.generator: a.pth is no .*; .* weights.identity_encoder: b.tar is no"
    ):
        build.teacher_files(spec, exp)
    spec = Teacher("simswap", weights={"generator": "g.pth"}, sha256={"generator": "ab" * 32})
    with pytest.raises(ConfigError, match="g.pth: sha256 is 23c86a8aded0ad81f8111bb07e6ec0ff.*expected abab"):
        build.teacher_files(spec, exp)
    with pytest.raises(ConfigError, match="sha256.refiner: there is no weights.refiner"):
        build.teacher_files(Teacher("faceshifter", sha256={"refiner": "ab"}), exp)
    good = Teacher("simswap", weights={"generator": "g.pth"}, sha256={"generator": "23c86a8aded0ad81"})
    assert build.teacher_files(good, exp) == {"generator": tmp_path / "g.pth"}


@needs_shared
def test_landmark_warp_needs_no_more_than_its_name(tmp_path):
    exp = exp_of(tmp_path, weights=[str(SHARED / "weights")])
    teacher = build.teacher(Teacher("landmark_warp"), exp)
    assert teacher.name == "landmark_warp" and len(teacher.weight_hash) == 16


def test_the_judge_does_not_choose(tmp_path):
    exp = exp_of(tmp_path, pseudo_gt={"quality": {"pose": "synthetic_pose"}})
    with pytest.raises(ConfigError, match="pseudo_gt.quality.pose: 'synthetic_pose' is also eval.pose"):
        build.quality_estimators(exp)
    recogniser, pose = build.quality_estimators(
        exp_of(tmp_path, pseudo_gt={"quality": {"pose": "synthetic_pose_quality"}})
    )
    assert (recogniser.name, pose.name) == ("synthetic_identity", "synthetic_pose_quality")


def test_a_student_of_ours_exported_is_a_teacher(tmp_path):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    torch.manual_seed(0)
    dim = CARDS["synthetic_identity"].embedding_dim
    student = students.build("compact", width=8, embedding_dim=dim, resolution=64).eval()
    path = tmp_path / "student.onnx"
    arguments = (torch.zeros(1, 3, 64, 64), torch.nn.functional.normalize(torch.ones(1, dim)))
    torch.onnx.export(
        student, arguments, path, dynamo=False, opset_version=17, input_names=["target", "source"],
        output_names=["swap", "half", "quarter"], dynamic_axes={"target": {0: "n"}, "source": {0: "n"}},
    )  # fmt: skip
    options = {"card": {"size": 64}, "identity_encoder": "synthetic_identity"}
    spec = Teacher("onnx", label="ours", weights={"model": str(path)}, options=options)
    exp = exp_of(tmp_path)
    teacher, encoder = build.teacher(spec, exp), build.identity_encoder(exp)
    source, target = torch.rand(2, 3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        wanted = student(target, encoder(source))[0]
    assert (teacher(source, target) - wanted).abs().max() < 1e-4
    assert teacher.facts["identity_encoder"] == encoder.weight_hash


def test_weights_of_unpublished_networks_say_so(tmp_path):
    with pytest.raises(WeightsError, match="nobody published them"):
        build.identity_encoder(exp_of(tmp_path, student={"identity_encoder": "mobilefacenet_512"}))
