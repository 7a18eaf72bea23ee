"""`python -m distill.export` and stage `export`: files, card, table, errors; finished exports are kept."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import script
from helpers.line import experiment, in_process
from helpers.make_pairs import make
from helpers.small_students import swapper
from helpers.student_files import EMBEDDING
from PIL import Image

import students
from distill import build, config
from distill.config import ConfigError
from distill.export import __main__ as export
from distill.export import convert
from students.export import equality
from students.export.conversion import quiet
from students.export.targets import TARGETS
from swapcore.files import read_json


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    students.save(swapper("mobilefsgan").generator, path, identity_encoder="synthetic_identity")
    return path


@pytest.fixture(scope="module")
def exported(file):
    """The folder that the command wrote, and what it printed."""
    done = script("distill.export", file, "--to", "tnn", "--precision", "fp32,fp16")
    assert done.returncode == 0, done.stderr
    return file.parent / "export", done.stdout


def test_the_command_writes_files_a_card_and_a_table(exported, file):
    folder, printed = exported
    assert {p.name for p in folder.glob("[!.]*")} == {"tnn-fp32", "tnn-fp16", "card.json", "equality.md"}
    content = json.loads((folder / "card.json").read_text())
    assert content["student"]["name"] == "mobilefsgan" and content["environment"]["commit"]
    assert content["models"]["generator"]["inputs"]["embedding"]["shape"] == [1, EMBEDDING]
    assert content["compared_on"]["count"] == 32 and len(content["compared_on"]["hash"]) > 8
    assert content["compared_on"].keys() == {"pairs", "hash", "count", "gallery", "told"}, "the format of older cards"
    full, half = content["targets"]
    assert full["max_abs"] < 1e-4 < half["max_abs"] < 2e-2 and half["mb"]["whole"] < 0.6 * full["mb"]["whole"]
    assert full["same_as_pytorch"] > 0.999 and full["runs_in"].startswith("the interpreter")
    for model, facts in full["models"].items():
        paths = TARGETS["tnn"].files(folder / "tnn-fp32" / facts["file"])
        assert sum(path.stat().st_size for path in paths) == facts["bytes"] and facts["file"].startswith(model)
    table = (folder / "equality.md").read_text()
    assert table in printed and "| tnn | fp32 |" in table and "(original 14.8)" in table and "ms before" in table


def test_finished_exports_are_kept(exported, file, monkeypatch, capsys):
    folder, _ = exported
    before = (folder / "tnn-fp32" / "generator.tnnmodel").stat().st_mtime_ns
    monkeypatch.setattr(equality, "compare", None)
    assert export.main([str(file), "--to", "tnn"]) == 0
    assert (folder / "tnn-fp32" / "generator.tnnmodel").stat().st_mtime_ns == before
    card = json.loads((folder / "card.json").read_text())  # of all that lies there, not of what was asked for last
    assert [row["precision"] for row in card["targets"]] == ["fp32", "fp16"] and "whole(source" in card["use"]


def test_changed_files_are_exported_again(exported, file, tmp_path, capsys):
    folder = tmp_path / "export"
    shutil.copytree(exported[0], folder)
    killed = ".tnn-fp32.1@elsewhere.01234567"  # of a command on another machine
    (folder / killed).mkdir()
    weights = [folder / f"tnn-{precision}" / "generator.tnnmodel" for precision in ("fp32", "fp16")]
    sizes = [path.stat().st_size for path in weights]
    weights[0].write_bytes(b"short")
    weights[1].unlink()
    assert export.main([str(file), "--to", "tnn", "--out", str(folder)]) == 0
    assert "tnn-fp16: left out, its files changed since they were compared" in capsys.readouterr().out
    assert weights[0].stat().st_size == sizes[0] and not (folder / killed).exists()
    card = json.loads((folder / "card.json").read_text())
    assert [row["precision"] for row in card["targets"]] == ["fp32"]


def test_a_folder_holds_the_exports_of_one_student(exported, tmp_path, capsys):
    other = swapper("mobilefsgan").generator
    next(other.parameters()).data.mul_(1.01)
    students.save(other, tmp_path / "student.safetensors", identity_encoder="synthetic_identity")
    before = (exported[0] / "card.json").read_bytes()
    assert export.main([str(tmp_path / "student.safetensors"), "--to", "tnn", "--out", str(exported[0])]) == 2
    said = "holds exports of another student, or compared on other pairs or by another recogniser (tnn-fp"
    assert said in capsys.readouterr().err
    assert (exported[0] / "card.json").read_bytes() == before


def test_a_missing_package_stops_its_target_only(file, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "coremltools" else find(name))
    out = tmp_path / "out"
    assert export.main([str(file), "--to", "coreml", "--precision", "fp32,fp16", "--out", str(out)]) == 2
    assert not out.exists() and capsys.readouterr().err.count("needs the package coremltools") == 1
    assert export.main([str(file), "--to", "coreml,tnn", "--precision", "fp16", "--out", str(out)]) == 2
    shown = capsys.readouterr()
    install = 'exporting to coreml needs the package coremltools: pip install -e ".[export-coreml]"'
    assert shown.out.count(f"refused: {install}") == 1 and shown.err.splitlines()[-1] == f"error: {install}"
    written = [(row["target"], row["precision"]) for row in read_json(out / "card.json")["targets"]]
    assert written == [("tnn", "fp16")]


def test_an_output_that_is_a_file_is_one_line(file, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert export.main([str(file), "--to", "tnn", "--out", str(tmp_path / "file")]) == 2
    assert "file: is a file; name a folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_file_that_differs_is_an_error_and_not_kept_but_others_are(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(equality.TOLERANCE, "fp32", 0.0)
    assert export.main([str(file), "--to", "tnn", "--precision", "fp32,fp16", "--out", str(tmp_path / "out")]) == 2
    why = "tnn-fp32: generator differs from PyTorch by up to"
    assert f"error: {why}" in capsys.readouterr().err
    assert {p.name for p in (tmp_path / "out").glob("[!.]*")} == {"tnn-fp16", "card.json", "equality.md"}
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert [row["precision"] for row in card["targets"]] == ["fp16"] and why in card["refused"]["tnn-fp32"]
    assert f"Refused: {why}" in (tmp_path / "out" / "equality.md").read_text()


def test_a_package_that_a_converter_lacks_stops_its_target_alone(tmp_path, file, capsys, monkeypatch):
    def write(*_, **__):
        raise ModuleNotFoundError("No module named 'rich'", name="rich.console")

    monkeypatch.setitem(TARGETS, "onnx", replace(TARGETS["onnx"], write=write, packages=()))
    monkeypatch.setattr(sys, "argv", ["export", str(file), "--to", "onnx,tnn", "--out", str(tmp_path / "out")])
    assert export.main() == 2
    said = capsys.readouterr().err
    assert "to onnx: one of its packages does not load (No module named 'rich'): pip install -e" in said
    assert (tmp_path / "out" / "tnn-fp32").is_dir() and "Traceback" not in said


def test_int8_is_judged_pair_by_pair(tmp_path):
    """Retrieval does not count: of 32 pairs, two decided before."""
    close = {"cosine": (0.95, 0.97), "psnr_db": (31.0, 33.0)}
    row = {"id_top1_percent": 80.0, "same_as_pytorch": 0.96, "int8": close}
    convert._check_int8(row, {"id_top1_percent": 93.0}, tmp_path / "onnx-int8")
    for key, worse in (
        ("cosine", (0.85, 0.95)),
        ("cosine", (float("nan"),) * 2),
        ("psnr_db", (24.0, 40.0)),
        ("cosine", None),
    ):
        with pytest.raises(equality.Unequal, match="onnx-int8: the cosine of its swaps .* use fp16"):
            convert._check_int8(row | {"int8": close | {key: worse}}, {"id_top1_percent": 93.0}, tmp_path / "onnx-int8")


def test_closeness_of_equal_and_of_other_swaps():
    class Same:
        def __call__(self, images):
            return torch.nn.functional.normalize(images.flatten(1))

    expected = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    identity = convert.Identity.__new__(convert.Identity)
    identity.recogniser, identity.expected, identity.embeddings = Same(), expected, Same()(expected)
    equal = identity.closeness(expected)
    assert equal["cosine"] == pytest.approx((1, 1)) and equal["psnr_db"][0] > 100
    other = identity.closeness(expected + 0.1)
    assert other["psnr_db"] == pytest.approx((10 * np.log10(4 / 0.01),) * 2, abs=1e-3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--to", "tnnn"], "unknown export target 'tnnn', known: onnx"),
        (["--to", "tnn", "--precision", "int4"], "tnn: no precision 'int4', known: fp32, fp16, int8"),
        (["--to", "tnn", "--pairs", "nowhere"], "nowhere: no such list"),
        (["--to", "tnn", "--recogniser", "synthetic_identity"], "must not evaluate what it trained"),
    ],
)
def test_mistakes_are_one_line(file, arguments, message, capsys):
    assert export.main([str(file), *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ") and message in lines[-1]


def test_other_files_are_refused(tmp_path, capsys):
    (tmp_path / "x.safetensors").write_bytes(b"no")
    assert export.main([str(tmp_path / "x.safetensors"), "--to", "tnn"]) == 2
    assert "x.safetensors: is " in capsys.readouterr().err
    assert export.main([str(tmp_path / "none.safetensors"), "--to", "tnn"]) == 2


def test_the_stage_exports_what_was_trained(tmp_path):
    stages = ["data", "pseudo_gt", "train", "eval", "export", "report"]
    exp = experiment(tmp_path, stages=stages, export={"to": ["tnn"], "precisions": ["fp32", "fp16"]})
    folder = in_process(exp) / "export"
    assert {p.name for p in folder.iterdir()} >= {"tnn-fp32", "tnn-fp16", "card.json", "equality.md", "done.json"}
    card = json.loads((folder / "card.json").read_text())
    assert card["metrics"]["ssim"]["value"] > 0 and card["compared_on"]["count"] == 8
    report = (folder.parent / "report.html").read_text()
    assert "On the device" in report and "<td>tnn</td><td>fp16</td>" in report and "<th>target</th>" in report


def test_all_targets_include_the_page_with_its_face_detector(tmp_path, monkeypatch):
    monkeypatch.setattr(convert.targets, "TARGETS", {"web": replace(TARGETS["web"], packages=())})
    (tmp_path / "detector.onnx").touch()
    monkeypatch.setattr(convert, "find_detector", lambda exp, announce=True: tmp_path / "detector.onnx")
    passed = []

    def instead(name, precision, job, folder):
        passed.append((name, precision, job.detector))
        raise ValueError("enough")

    monkeypatch.setattr(convert, "_export_one", instead)
    with pytest.raises(ValueError, match="enough"):
        in_process(experiment(tmp_path, stages=["data", "pseudo_gt", "train", "export"], export={"to": ["all"]}))
    assert passed == [("web", "fp32", tmp_path / "detector.onnx")]


def test_targets_and_stage_belong_together(tmp_path):
    for sections in ({"export": {"to": ["tnn"]}}, {"stages": ["data", "export"]}):
        with pytest.raises(ConfigError, match="export.to: expected targets, and `export` among `stages`, or neither"):
            config.load(experiment(tmp_path, **sections))
    exp = config.load(experiment(tmp_path, stages=["export"], export={"to": ["nowhere"]}))
    with pytest.raises(ConfigError, match="export: unknown export target 'nowhere', known: onnx"):
        build.check_names(exp)


def test_converters_are_quiet_unless_they_crash(capfd):
    def noise():
        os.write(1, b"from C++\n")
        subprocess.run(["sh", "-c", "echo from a child; echo and its errors >&2"])

    with quiet():
        noise()
    with pytest.raises(ValueError, match="told"), quiet():
        noise()
        raise ValueError("told")
    assert capfd.readouterr() == ("", "")
    with pytest.raises(RuntimeError), quiet():
        noise()
        raise RuntimeError
    out, err = capfd.readouterr()
    assert out == "" and "from C++\nfrom a child\nand its errors\n" in err
    print("heard again")
    assert capfd.readouterr().out == "heard again\n"


def test_photographs_are_compared_by_a_recogniser_of_photographs(tmp_path, monkeypatch):
    folder, size = tmp_path / "photographs", 64
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8)).save(folder / f"{i}.png")
    assert make("singles", folder, "--out", tmp_path / "list", "--count", 3, "--resolution", size).returncode == 0
    students.save(swapper("compact").generator, tmp_path / "s.safetensors", identity_encoder="synthetic_identity")
    recognisers = []
    monkeypatch.setattr(convert, "export", lambda *given: recogniser(given[4]))

    def recogniser(exp):
        recognisers.append(exp.eval.recogniser)
        raise ValueError("enough")

    command = [str(tmp_path / "s.safetensors"), "--to", "tnn"]
    for options in ([], ["--pairs", str(tmp_path / "list")], ["--pairs", str(tmp_path / "list"), "--recogniser", "me"]):
        assert export.main([*command, *options]) == 2
    assert recognisers == ["synthetic_recogniser", "xiaoccer_128", "me"]
