"""Distillation beyond the teacher's pixels, and teachers that are trained here: through the whole line."""

import json
from dataclasses import replace

import pytest
import torch
from helpers.line import experiment, in_process
from helpers.mean_teacher import MIX, ONLINE, Mean
from torch import nn
from torch.nn import functional as F

import students
import teachers
from distill import build, config
from distill.config import ConfigError, Teacher
from distill.data.triplet import Triplet
from distill.schema import Distil
from distill.stage import StageError
from distill.train import loop
from distill.train.monitor import read_log
from distill.train.online import Adapters, OnlineTeacher, taps


@pytest.fixture(autouse=True)
def _mean(monkeypatch):
    monkeypatch.setitem(teachers.TEACHERS, "mean", Mean)


def batch(n: int = 3) -> Triplet:
    torch.manual_seed(0)
    images = torch.rand(2, n, 3, 64, 64) * 2 - 1
    with_gt = torch.tensor([1.0, 0.0, 0.0][:n])
    gt = torch.where(with_gt.view(-1, 1, 1, 1) > 0, images[1], -torch.ones(()))
    return Triplet(images[0], images[1], gt, with_gt, torch.ones(n, dtype=torch.bool), torch.ones(n))


def online(tmp_path, **distil) -> OnlineTeacher:
    path = experiment(tmp_path, distil={"online": "mean", **distil})
    return OnlineTeacher(config.load(path), torch.device("cpu"))


def encoder(images):
    return F.normalize(images.mean((2, 3)))


def test_the_teacher_in_the_loop_fills_what_lacks_and_nothing_else(tmp_path):
    before = batch()
    after, maps = online(tmp_path, quality_power=2.0).complete(
        before, torch.tensor([1, 2]), encoder, encoder(before.source)
    )
    assert after.with_gt.tolist() == [1, 1, 1] and maps == []
    assert torch.equal(after.gt[0], before.gt[0]) and after.weight[0] == 1
    wanted = (before.source + before.target)[1:] / 2
    assert torch.allclose(after.gt[1:], wanted)
    cosine = (encoder(wanted) * encoder(before.source)[1:]).sum(1).clamp(0, 1)
    assert torch.allclose(after.weight[1:], cosine**2)
    same, _ = online(tmp_path).complete(before, torch.tensor([], dtype=torch.long), encoder, None)
    assert same is before


def test_a_sample_without_a_face_stays_without_ground_truth(tmp_path, monkeypatch):
    teacher, before = online(tmp_path, quality_power=1.0), batch()
    swap = teacher.network.forward

    def faces_only(source, target):
        dark = [i for i, image in enumerate(source) if torch.equal(image, before.source[1])]
        if dark:
            raise teachers.NoFace("no face found", dark)
        return swap(source, target)

    monkeypatch.setattr(teacher.network, "forward", faces_only)
    after, _ = teacher.complete(before, torch.tensor([1, 2]), encoder, encoder(before.source))
    assert after.with_gt.tolist() == [1, 0, 1] and torch.equal(after.gt[1], before.gt[1])
    assert torch.allclose(after.gt[2], (before.source + before.target)[2] / 2)
    same, _ = teacher.complete(before, torch.tensor([1]), encoder, encoder(before.source))
    assert same is before


def test_with_layers_the_maps_are_those_of_the_whole_batch(tmp_path):
    teacher = online(tmp_path, features=1.0, layers={"encode4": "inside"})
    after, maps = teacher.complete(batch(), torch.tensor([2]), encoder, encoder(batch().source))
    assert [m.shape for m in maps] == [(3, 5, 32, 32)] and after.with_gt.tolist() == [1, 0, 1]
    adapted = Adapters([(4, 5)])([torch.rand(3, 4, 16, 16)], maps)
    assert adapted[0].shape == maps[0].shape


def test_taps_leave_no_hook_behind_and_name_what_there_is():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    with taps(network, ["0"]) as maps:
        network(torch.zeros(1, 3, 2, 2))
    assert maps["0"].shape == (1, 4, 2, 2) and not network[0]._forward_hooks
    with pytest.raises(ConfigError, match="Sequential has no submodule '7'; it has, for example, 0, 1"):
        with taps(network, ["7"]):
            network(torch.zeros(1, 3, 2, 2))


def test_a_teacher_that_draws_cannot_be_in_the_loop(tmp_path):
    with pytest.raises(ConfigError, match="distil.online: teacher 'exact' draws from the manifest"):
        online(tmp_path, online="exact")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": 1.0}, "distil.online: expected a teacher"),
        ({"features": 1.0, "online": "mean"}, "distil.layers: expected names of submodules"),
    ],
)
def test_features_need_a_teacher_in_the_loop_and_layers(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        config.load(experiment(tmp_path, distil=change))


def test_all_terms_train_and_resume_bit_for_bit(tmp_path):
    whole = in_process(experiment(tmp_path, "whole", **ONLINE))
    lines = [row for row in read_log(whole / "train") if "identity" in row]
    assert lines[0].keys() >= {"features", "gram", "reconstruction", "perceptual", "adversarial"}
    assert lines[-1]["features"] != lines[0]["features"] > 0 and lines[0]["gram"] > 0
    half = experiment(tmp_path, "half", **ONLINE)
    in_process(half, "train.steps=2")
    folder = in_process(half)
    for key, tensor in students.load(whole / "train" / "student.safetensors").state_dict().items():
        assert torch.equal(tensor, students.load(folder / "train" / "student.safetensors").state_dict()[key]), key


def test_layers_that_give_no_map_are_named(tmp_path):
    distil = {**ONLINE["distil"], "layers": {"encode4.style": "inside"}}
    with pytest.raises(ConfigError, match="distil.layers: 'encode4.style' gives no map"):
        in_process(experiment(tmp_path, "flat", **{**ONLINE, "distil": distil}))


FACESHIFTER = {
    "student": {"name": "faceshifter", "options": {"width": 2}},
    "stages": ["data", "train", "refine", "eval", "report"],
    "train": {"steps": 2, "batch_size": 2, "checkpoint_steps": 1, "mix": MIX},
    "loss": {
        "adversarial": [1, 1, 1], "attribute": 10, "identity": [5, 0, 0], "reconstruction": [10, 0, 0],
        "reconstruction_norm": "l2", "perceptual": 0, "discriminator": {"kind": "pyramid", "ndf": 2, "layers": 2},
    },
    "refine": {"options": {"width": 4}, "train": {"steps": 3, "batch_size": 2, "accumulation": 2, "mix": MIX}},
}  # fmt: skip


def test_a_teacher_is_trained_and_then_teaches(tmp_path):
    folder = in_process(experiment(tmp_path, "teacher", **FACESHIFTER))
    assert (folder / "teacher.safetensors").is_file() and not (folder / "student.safetensors").exists()
    first = [row for row in read_log(folder / "train") if "identity" in row][0]
    assert first.keys() >= {"adversarial", "discriminator", "attribute", "identity", "reconstruction"}
    assert "attribute" not in read_log(folder / "refine")[0]
    rows = json.loads((folder / "metrics.json").read_text())["rows"]
    assert list(rows) == ["copy-target", "copy-source", "exact", "faceshifter", "faceshifter-refined"]
    assert rows["faceshifter-refined"]["parameters"]["value"] > rows["faceshifter"]["parameters"]["value"]

    with pytest.raises(StageError, match=r"refine: made with other inputs \(options.width was 4, now 6"):
        in_process(experiment(tmp_path, "teacher", **FACESHIFTER), "refine.options={width: 6}")
    with pytest.raises(StageError, match=r"refine: made with other inputs \(first_stage was '\w+', now '\w+'\)"):
        in_process(experiment(tmp_path, "teacher", **FACESHIFTER), "train.steps=3")  # another first stage

    spec = {"name": "faceshifter", "weights": {"generator": str(folder / "teacher.safetensors")}}
    student = in_process(experiment(tmp_path, "student", pseudo_gt={"pairs": 6, "teachers": [spec]}))
    rows = json.loads((student / "metrics.json").read_text())["rows"]
    assert list(rows) == ["copy-target", "copy-source", "exact", "faceshifter", "compact"]


def test_the_second_stage_has_the_seed_of_the_first_and_none_of_its_teacher(tmp_path):
    exp = config.load(experiment(tmp_path, "seeds", **FACESHIFTER), ["seeds=[1, 2]", "distil.quality_power=1"])
    for seed, child in zip((1, 2), config.children(exp), strict=True):
        assert loop.of_refine(child.exp).train_seed == seed
    own = replace(exp, refine=replace(exp.refine, train=replace(exp.refine.train, seed=7)))
    assert loop.of_refine(own).train_seed == 7
    online = replace(exp, distil=replace(exp.distil, online=Teacher("mean"), features=1.0, layers={"a": "b"}))
    assert loop.of_refine(online).distil == Distil(quality_power=1.0)


def test_messages_of_the_second_stage_name_its_keys(tmp_path):
    several = {**MIX, "same_person": 1}
    settings = {**FACESHIFTER, "data": {"train_images": 1}, "refine": {"train": {"steps": 1, "mix": several}}}
    settings["train"] = {**settings["train"], "mix": {**MIX, "same_person": 0}}
    with pytest.raises(StageError, match=r"^refine\.train\.mix\.same_person: nobody has two pictures"):
        in_process(experiment(tmp_path, "single", **settings))


def test_only_faceshifter_has_a_second_stage(tmp_path):
    with pytest.raises(ConfigError, match="student.name: expected faceshifter"):
        build.check_names(config.load(experiment(tmp_path, stages=["data", "train", "refine"])))


def test_a_teacher_may_be_named_alone_and_files_are_checked(tmp_path):
    exp = config.load(experiment(tmp_path, pseudo_gt={"teachers": ["exact", {"name": "mean", "share": 3}]}))
    assert exp.pseudo_gt.teachers == (Teacher("exact"), Teacher("mean", share=3.0))
    with pytest.raises(ConfigError, match="label"):
        config.load(experiment(tmp_path, pseudo_gt={"teachers": ["exact", "exact"]}))
