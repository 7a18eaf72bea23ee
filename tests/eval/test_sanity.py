"""eval.sanity: what is said of a swapper that has collapsed, and that nothing is said of a sound one."""

import pytest
import torch
from helpers.toy_pairs import PEOPLE, RULERS, SIDE, changed, rendered, toy_pairs

from eval import evaluate, to_float
from eval.sanity import copy_source, copy_target, verdict


@pytest.fixture
def pairs():
    return toy_pairs()


def judged(swapper, pairs, **options):
    done = evaluate(swapper, pairs, ["id_retrieval", "id_similarity"], RULERS)
    return verdict("student", done.values, done.swaps, pairs, **options)


def test_verdict_is_silent_on_sound_swaps(pairs):
    assert judged(rendered(pairs.exact), pairs) == []


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_verdict_on_copying_the_target(pairs, noise):
    generator = torch.Generator().manual_seed(0)
    said = judged(lambda s, t: t + noise * torch.randn(t.shape, generator=generator), pairs)
    assert len(said) == 1 and "student has collapsed to copying the target" in said[0]
    copied = evaluate(copy_target, pairs, ["id_retrieval"], RULERS).values
    assert "collapsed" in judged(copy_target, pairs, copy_target_values=copied)[0]
    assert "what the source would" in judged(copy_target, changed(pairs, exact=None))[0]
    assert "collapsed" in verdict("student", {}, pairs.target, pairs)[0]


def test_verdict_on_a_copy_that_only_the_recogniser_sees(pairs):
    def blurred_face(source, target):
        swap = target.clone()
        swap[:, :, 4:28, 4:28] = target[:, :, 4:28, 4:28].mean((2, 3), keepdim=True)
        return swap

    said = judged(blurred_face, pairs)
    assert len(said) == 1 and "similarity to the target is 1.00" in said[0]


def test_verdict_on_copying_the_source(pairs):
    said = judged(copy_source, pairs)
    assert len(said) == 1 and "student copies the source" in said[0]


def test_verdict_on_constant_outputs(pairs):
    one = to_float(pairs.gallery[:1])
    said = judged(lambda s, t: one.expand(len(t), -1, -1, -1), pairs)
    assert "nearly the same picture for every pair" in said[0]


def test_verdict_on_nobody(pairs):
    """The inner face changes, and shows neither of the two."""

    def stranger(source, target):
        swap = to_float(pairs.exact)[: len(target)].clone()
        swap[:, :, 0] = -1
        swap[:, :, 0, SIDE - 1] = 1
        swap[:, 0, 0, :PEOPLE] = -0.99
        return swap

    said = judged(stranger, pairs)
    assert len(said) == 1 and "does not carry over the source's identity" in said[0]


def test_verdict_wants_the_swaps_of_the_pairs(pairs):
    with pytest.raises(ValueError, match="student: expected swaps"):
        verdict("student", {}, pairs.target[:2], pairs)


def test_verdict_uses_the_mask(pairs):
    mask = torch.zeros(PEOPLE, 1, SIDE, SIDE, dtype=torch.bool)
    mask[:, :, 8:24, 8:24] = True
    swaps = pairs.target.clone()
    swaps[:, :, :, :8] = 255 - swaps[:, :, :, :8]
    assert "changes the inner face by 0.0%" in verdict("student", {}, swaps, changed(pairs, mask=mask))[0]
