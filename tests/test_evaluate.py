"""Pairs of held-out people, swappers and rulers by name."""

import numpy as np
import pytest
import torch

import teachers
from distill import build, evaluate
from distill.config import ConfigError, Experiment
from distill.data import synthetic
from distill.data.photos import Photos, read_manifest
from distill.pseudo_gt import draw_pair
from distill.schema import Eval as EvalSection
from distill.schema import Student as StudentSection


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Photos:
    folder = tmp_path_factory.mktemp("people")
    synthetic.write(folder, {"test": (5, 3)}, 48, seed=3, progress=False)
    return read_manifest(folder, "test", 48)


def test_the_gallery_never_holds_a_source_and_every_person_is_a_source(people):
    pairs = evaluate.make_pairs("toy", people, 20, seed=1)
    assert len(pairs.gallery) == 5 and sorted(pairs.gallery_person.tolist()) == list(range(5))
    assert (np.bincount(pairs.source_person.numpy()) == 4).all()
    assert (pairs.source_person != pairs.target_person).all()
    for image in pairs.source:
        assert not any(torch.equal(image, other) for other in pairs.gallery)


def test_pairs_are_a_function_of_the_seed(people):
    first, again, other = (evaluate.make_pairs("toy", people, 10, seed).hash for seed in (1, 1, 2))
    assert first == again != other


def test_the_exact_swap_of_a_pair_has_the_targets_surroundings(people):
    pairs = evaluate.make_pairs("toy", people, 8, seed=1)
    corner = (pairs.exact.int() - pairs.target.int())[:, :, :3, :3].abs().float().mean()
    face = (pairs.exact.int() - pairs.target.int())[:, :, 16:36, 16:32].abs().float().mean()
    assert corner < 1 and face > 10
    row = people.rows[0]
    assert pairs.target_pose_deg.shape == (8, 3) and pairs.mask.float().mean() > 0.1
    assert len(row["identity"]) == 56 and len(row["landmarks"]) == 5 and row["person"].startswith("test-")


def test_drawn_pictures_are_the_rows_drawn_again(people):
    rows = [people.rows[i] for i in (0, 4)]
    again = evaluate.measuring.to_uint8(evaluate.teachers.build("exact")(*[torch.zeros(2, 3, 48, 48)] * 2, rows, rows))
    assert (again.int() - people.load([0, 4]).int()).abs().max() <= 1


def test_drawing_goes_on_where_it_was_stopped(tmp_path):
    counts = {"train": (50, 2)}
    synthetic.write(tmp_path / "a", counts, 32, seed=3, progress=False)
    synthetic.write(tmp_path / "b", counts, 32, seed=3, part=1, parts=2, progress=False)
    assert not (tmp_path / "b" / "manifest.jsonl").exists()
    first = next((tmp_path / "b" / "rows").iterdir())
    stamp = first.stat().st_mtime_ns
    synthetic.write(tmp_path / "b", counts, 32, seed=3, progress=False)
    assert first.stat().st_mtime_ns == stamp
    assert (tmp_path / "a" / "manifest.jsonl").read_text() == (tmp_path / "b" / "manifest.jsonl").read_text()


def test_splits_share_nobody():
    train, test = (synthetic.people(split, 0, 50, 1)[0] for split in ("train", "test"))
    assert torch.cdist(train, test).min() > 1


def test_pairs_of_the_pseudo_gt_are_of_two_people_and_fixed_by_number(people):
    pairs = [draw_pair(people, 7, number) for number in range(50)]
    assert all(people.rows[s]["person"] != people.rows[t]["person"] for s, t in pairs)
    assert pairs == [draw_pair(people, 7, number) for number in range(50)] and len(set(pairs)) > 25


def test_too_few_people_are_told(people):
    alone = Photos(people.root, people.rows[:3], 48)
    with pytest.raises(ValueError, match="1 people for evaluation"):
        evaluate.make_pairs("toy", alone, 4, seed=1)
    singles = Photos(people.root, people.rows[::3], 48)
    with pytest.raises(ValueError, match="5 people for evaluation, 0 of them with two pictures"):
        evaluate.make_pairs("toy", singles, 4, seed=1)


def test_names_are_checked():
    exp = Experiment(name="x")
    with pytest.raises(ConfigError, match="unknown swapper 'mine'; known: copy-target, copy-source, exact"):
        evaluate.build_swapper("mine", exp, None, "cpu")
    with pytest.raises(FileNotFoundError, match="no such file"):
        evaluate.build_swapper("absent.safetensors", exp, None, "cpu")
    with pytest.raises(ConfigError, match="unknown ruler 'nobody'; known: synthetic_recogniser"):
        build.rulers(Experiment(name="x", eval=EvalSection(recogniser="nobody")))
    same = Experiment(
        name="x", student=StudentSection(identity_encoder="foamliu_128"), eval=EvalSection(recogniser="foamliu_128")
    )
    with pytest.raises(ConfigError, match="must not judge what it trained"):
        build.rulers(same)


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
    swap = evaluate.Steady(Shy())(source, target)
    assert swap.mean((1, 2, 3)).tolist() == pytest.approx([0.5, 0.7, -0.5, 0.9])
    assert evaluate.Steady(Shy())(source[1:2], target[1:2]).mean().item() == pytest.approx(0.7)
