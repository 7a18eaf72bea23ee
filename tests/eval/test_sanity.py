"""eval.sanity: warnings of a swapper that has collapsed, and none of a sound one."""

import pytest
import torch
from helpers.toy_pairs import ESTIMATORS, PEOPLE, SIDE, changed, rendered, toy_pairs

from eval.evaluation import Evaluation
from eval.sanity import copy_source, copy_target, warnings
from swapcore.images import to_float


@pytest.fixture
def pairs():
    return toy_pairs()


def warned(swapper, pairs, **options):
    evaluation = Evaluation(pairs, ESTIMATORS)
    swaps = evaluation.swap(swapper)
    return warnings(
        "student", evaluation.measure(swapper, ["id_retrieval", "id_similarity"], swaps), swaps, pairs, **options
    )


def test_no_warning_on_sound_swaps(pairs):
    assert warned(rendered(pairs.exact), pairs) == []


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_warning_on_copying_the_target(pairs, noise):
    generator = torch.Generator().manual_seed(0)
    said = warned(lambda s, t: t + noise * torch.randn(t.shape, generator=generator), pairs)
    assert len(said) == 1 and "student has collapsed to copying the target" in said[0]
    copied = Evaluation(pairs, ESTIMATORS).measure(copy_target, ["id_retrieval"])
    assert "collapsed" in warned(copy_target, pairs, copy_target_values=copied)[0]
    assert "difference to the source" in warned(copy_target, changed(pairs, exact=None))[0]
    assert "collapsed" in warnings("student", {}, pairs.target, pairs)[0]


def test_warning_on_a_copy_that_only_the_recogniser_sees(pairs):
    def blurred_face(source, target):
        swap = target.clone()
        swap[:, :, 4:28, 4:28] = target[:, :, 4:28, 4:28].mean((2, 3), keepdim=True)
        return swap

    said = warned(blurred_face, pairs)
    assert len(said) == 1 and "similarity to the target is 1.00" in said[0]


def test_warning_on_copying_the_source(pairs):
    said = warned(copy_source, pairs)
    assert len(said) == 1 and "student copies the source" in said[0]


def test_warning_on_constant_outputs(pairs):
    one = to_float(pairs.gallery[:1])
    said = warned(lambda s, t: one.expand(len(t), -1, -1, -1), pairs)
    assert "nearly the same picture for every pair" in said[0]


def test_warning_on_nobody(pairs):
    """The inner face changes, and shows neither of the two."""

    def stranger(source, target):
        swap = to_float(pairs.exact)[: len(target)].clone()
        swap[:, :, 0] = -1
        swap[:, :, 0, SIDE - 1] = 1
        swap[:, 0, 0, :PEOPLE] = -0.99
        return swap

    said = warned(stranger, pairs)
    assert len(said) == 1 and "does not carry over the source's identity" in said[0]


def test_warning_wants_the_swaps_of_the_pairs(pairs):
    with pytest.raises(ValueError, match="student: expected swaps"):
        warnings("student", {}, pairs.target[:2], pairs)


def test_warning_uses_the_mask(pairs):
    mask = torch.zeros(PEOPLE, 1, SIDE, SIDE, dtype=torch.bool)
    mask[:, :, 8:24, 8:24] = True
    swaps = pairs.target.clone()
    swaps[:, :, :, :8] = 255 - swaps[:, :, :, :8]
    assert "changes the inner face by 0.0%" in warnings("student", {}, swaps, changed(pairs, mask=mask))[0]
