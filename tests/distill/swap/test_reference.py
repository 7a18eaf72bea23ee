"""distill.swap --reference: the person of a photograph is swapped, and nobody else."""

import math

import numpy as np
import pytest
import torch
from conftest import SHARED, needs_shared
from PIL import Image

pytest.importorskip("cv2", reason='pip install -e ".[video]"')
pytest.importorskip("av", reason='pip install -e ".[video]"')

from helpers.student_files import student_file
from helpers.videos import write_video

from distill.data import faces
from distill.swap import __main__ as swap
from distill.swap.reference import NOT_MEASURED, THRESHOLDS, Person
from distill.video import frames as video
from students.identity_encoder import CARDS
from swapcore.images import to_uint8
from teachers.exact import render, sample_attributes, sample_identities


def at(cosine):
    """An embedding of unit length with this cosine to (1, 0)."""
    return [cosine, math.sqrt(1 - cosine**2)]


def test_the_most_similar_face_is_chosen_from_the_least_cosine_on():
    someone = Person(torch.tensor([1.0, 0.0]), "foamliu_128", 0.5)
    assert someone.nearest == -1
    assert someone.among(torch.tensor([at(0.25), at(-1.0)])) is None and someone.nearest == 0.25
    assert someone.among(torch.tensor([at(0.25), at(0.5), at(0.4)])) == 1, "the least itself counts"
    assert someone.among(torch.tensor([at(0.75), at(0.5)])) == 0 and someone.nearest == 0.75
    assert someone.among(torch.tensor([at(0.4999)])) is None
    assert Person(torch.tensor([1.0, 0.0]), "foamliu_128", -1).among(torch.tensor([at(-1.0)])) == 0
    assert someone.among(torch.tensor([[math.nan, math.nan]])) is None, "a broken embedding is nobody"
    assert someone.among(torch.tensor([[math.nan, math.nan], at(0.8)])) == 1


def test_each_encoder_has_its_own_least_cosine():
    assert set(THRESHOLDS) <= set(CARDS)
    for encoder in (*CARDS, "another"):
        assert Person(torch.ones(1), encoder).least == THRESHOLDS.get(encoder, NOT_MEASURED)
    assert Person(torch.ones(1), "foamliu_128", 0.0).least == 0


def pictures(people, seed, size=256):
    """Drawn people (n, size, size, 3) uint8, once more with other attributes for each seed."""
    drawn = render(people, sample_attributes(len(people), seed), size)
    return to_uint8(drawn.image).permute(0, 2, 3, 1).numpy()


@pytest.fixture
def scene(tmp_path):
    """Photographs of two people: a.png and a2.png show the same, b.png another; and a student."""
    people = sample_identities(3, 21)
    for name, picture in zip(("a", "b", "source"), pictures(people, 21), strict=True):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    Image.fromarray(pictures(people, 22)[0]).save(tmp_path / "a2.png")
    student_file(tmp_path)
    return tmp_path


def run(folder, target, out, *arguments, student="student.safetensors"):
    command = [folder / "source.png", folder / target, "-o", folder / out, "--student", folder / student, *arguments]
    return swap.main([*map(str, command), "--weights", str(SHARED / "weights")])


@needs_shared
def test_the_only_face_of_a_photograph_is_not_swapped_if_it_is_somebody_else(scene, capsys):
    before = sorted(scene.iterdir())
    assert run(scene, "b.png", "out.png", "--reference", scene / "a.png") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {scene}/b.png: nobody resembles {scene}/a.png: the highest cosine is ")
    assert error.endswith(", below 0.55; --similarity sets another limit") and sorted(scene.iterdir()) == before
    assert run(scene, "b.png", "out.png", "--reference", scene / "a.png", "--similarity=-1") == 0
    assert run(scene, "a2.png", "same.png", "--reference", scene / "a.png") == 0, "another picture of the person"
    assert run(scene, "a2.png", "none.png", "--reference", scene / "a.png", "--similarity", "1") == 2


@needs_shared
def test_frames_without_the_person_stay_as_they_are_and_are_counted(scene, capsys):
    a, b = (np.asarray(Image.open(scene / f"{name}.png")) for name in "ab")
    grey = np.full_like(a, 128)
    write_video(scene / "in.mp4", [a, b, b, grey, a, b], fps=10)
    assert run(scene, "in.mp4", "out.mp4", "--reference", scene / "a2.png") == 0
    written = capsys.readouterr()
    assert written.out == f"{scene}/out.mp4\n"
    said = "4 of 6 frames stay as they are: 1 without a face, 3 in which no face has a cosine of 0.55 to "
    assert f"{said}{scene}/a2.png\n" in written.err
    before, after = (list(video.read(scene / name, range(6)).values()) for name in ("in.mp4", "out.mp4"))
    inner = slice(96, 208), slice(80, 176)  # the face that changes
    change = [np.abs(x.astype(int) - y)[inner].mean() for x, y in zip(before, after, strict=True)]
    assert min(change[0], change[4]) > 5 and max(change[i] for i in (1, 2, 3, 5)) < 2


@needs_shared
def test_a_video_without_the_person_leaves_no_file_and_one_of_the_person_no_count(scene, capsys):
    a, b = (np.asarray(Image.open(scene / f"{name}.png")) for name in "ab")
    write_video(scene / "b.mp4", [b, b], fps=10)
    assert run(scene, "b.mp4", "out.mp4", "--reference", scene / "a.png") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"nobody resembles {scene}/a.png in any frame: the highest cosine is" in error
    assert not (scene / "out.mp4").exists()
    write_video(scene / "a.mp4", [a, a], fps=10)
    assert run(scene, "a.mp4", "out.mp4", "--reference", scene / "a.png") == 0
    assert "stay as they are" not in capsys.readouterr().err
    write_video(scene / "grey.mp4", [a, a * 0 + 128], fps=10)
    assert run(scene, "grey.mp4", "out.mp4") == 0
    assert "1 of 2 frames stay as they are: 1 without a face\n" in capsys.readouterr().err, "without --reference too"


@needs_shared
def test_a_whole_model_is_asked_for_the_encoder_that_it_names(scene, monkeypatch):
    """It has its own inside; the cosine is that of the same one, not of the default."""
    asked = []

    class Whole:
        resolution, encoder = 64, None

        def __init__(self, *_):
            self.session = type("Session", (), {"metadata": {"identity_encoder": "foamliu_128"}})

    monkeypatch.setattr("distill.evaluate.swappers.OnnxStudent", Whole)
    encoder_of = swap.build.identity_encoder
    monkeypatch.setattr(
        "distill.build.identity_encoder", lambda exp, name=None: asked.append(name) or encoder_of(exp, name)
    )
    detector = faces.Detector(SHARED / "weights" / faces.YUNET.file)
    exp = swap.config.default("swap", [("weights", [str(SHARED / "weights")])])
    made = swap.Swapper(scene / "whole.onnx", exp, detector, scene / "source.png", 1, scene / "a.png")
    assert asked == ["foamliu_128"] and made.person.least == THRESHOLDS["foamliu_128"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--similarity", "0.5"], "--similarity: compares faces with the photograph of --reference; name one"),
        (["--reference", "a.png", "--similarity", "1.01"], "a cosine lies between -1 and 1, got 1.01"),
        (["--reference", "a.png", "--similarity", "nan"], "expected a number, got 'nan'"),
        (["--reference", "a.png", "--similarity", "high"], "expected a number, got 'high'"),
    ],
)
def test_a_cosine_that_cannot_be_is_one_line(arguments, message, capsys):
    try:
        code = swap.main(["source.png", "b.png", "-o", "out.png", "--student", "c.safetensors", *arguments])
    except SystemExit as ended:
        code = ended.code
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.count("\n") == 1
