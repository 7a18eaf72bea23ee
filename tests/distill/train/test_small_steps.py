"""The first steps of a training at a smaller resolution: `train.small_steps`."""

import re
from unittest import mock

import pytest
import torch
from helpers.line import experiment, in_process, same_state
from helpers.small_students import OPTIONS, pictures

import students
from distill import build, config, run
from distill.config import ConfigError
from distill.data.triplet import Triplet
from distill.train.monitor import Preview, read_log
from distill.train.step import Step, build_networks
from swapcore.images import to_uint8

SMALL = {"data": {"resolution": 96}, "train": {"steps": 4, "small_steps": 2, "small_resolution": 64}}
STAGES = "stages=[data, pseudo_gt, train]"


def built(name, resolution):
    torch.manual_seed(0)
    sizes = {"map_shape": (8, 7, 7)} if students.STUDENTS[name] is students.MobileFaceSwap else {}
    return students.build(name, embedding_dim=16, resolution=resolution, **sizes, **OPTIONS[name]).eval()


@pytest.mark.parametrize("name", students.STUDENTS)
def test_a_student_of_another_resolution_is_as_if_built_there(name):
    changed, like = built(name, 64), built(name, 96)
    like.load_state_dict(changed.state_dict())
    before = dict(changed.options)
    given = [pictures(2, 96), torch.nn.functional.normalize(torch.randn(2, 16))]
    given += [torch.randn(2, 8, 7, 7)] if changed.name == "mobilefaceswap" else []
    students.set_resolution(changed, 96)
    assert changed.options == like.options != before
    with torch.no_grad():
        for own, other in zip(changed(*given), like(*given), strict=True):
            assert torch.equal(own, other)
    students.set_resolution(changed, 64)
    assert changed.options == before and changed(pictures(2, 64), *given[1:])[0].shape[-1] == 64
    with pytest.raises(ValueError, match="expected a multiple of 32"):
        students.set_resolution(changed, 72)


def test_a_batch_is_shrunk_and_the_networks_follow(tmp_path):
    exp = config.load(experiment(tmp_path, **SMALL))
    step = Step(exp, build_networks(exp, torch.device("cpu")), run.new_accelerator(exp))
    images = (to_uint8(pictures(2, 96, seed)) for seed in range(3))
    triplet = Triplet(*images, torch.ones(2), torch.ones(2).bool(), torch.ones(2))
    seen = []
    with mock.patch.object(step, "generator_terms", side_effect=lambda swaps, batch, *_: seen.append((swaps, batch))):
        for size in (64, 96):
            step.resize(size)
            step.generator(triplet)
    for (swaps, batch), size in zip(seen, (64, 96), strict=True):
        assert [swap.shape[-1] for swap in swaps] == [size, size // 2, size // 4]
        assert {image.shape[-1] for image in batch[:3]} == {size}
    assert torch.equal(to_uint8(seen[1][1].target), triplet.target)
    assert [step.size_of(number) for number in range(3)] == [64, 64, 96]


def test_pieces_are_the_whole_and_the_student_has_the_full_resolution(tmp_path):
    with mock.patch.object(Preview, "swap", autospec=True, side_effect=Preview.swap) as previews:
        straight = in_process(experiment(tmp_path, "straight", **SMALL), STAGES)
    assert [call.args[-1] for call in previews.call_args_list] == [64, 96]
    path = experiment(tmp_path, "pieces", **SMALL)
    in_process(path, STAGES, "train.steps=2", "train.lr_final=1")
    student = students.load(tmp_path / "runs" / "pieces" / "train" / "student.safetensors")
    assert student.options["resolution"] == 96, "also where all steps were small"
    pieces = in_process(path, STAGES)
    same_state(straight, pieces)
    assert read_log(straight / "train")[-2:] == read_log(pieces / "train")[-2:]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.small_resolution=96"], "train.small_resolution: expected a multiple of 32, from 64 to below"),
        (["train.small_resolution=72"], "train.small_resolution: expected a multiple of 32"),
        (["train.small_steps=-1"], "train.small_steps: expected 0 or more"),
        (["distil.online=simswap"], "train.small_steps: expected 0 with distil.online"),
        (["refine.train.small_steps=1"], "refine.train.small_steps: expected 0"),
        (["student.name=faceshifter", "student.options={}"], "train.small_steps: a teacher in training has one"),
        (
            ["student.name=timm_unet", "student.options={backbone: swin_tiny_patch4_window7_224, width: 16}"],
            "train.small_steps: student 'timm_unet': its backbone works at 224 pixels alone",
        ),
    ],
)
def test_what_has_one_resolution_is_refused(tmp_path, overrides, message):
    sections = {**SMALL, "data": {"resolution": 224 if "timm" in overrides[0] else 96}}
    with pytest.raises(ConfigError, match=re.escape(message)):
        build.check_names(config.load(experiment(tmp_path, **sections), overrides))
