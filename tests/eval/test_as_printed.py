"""eval.as_printed: what other people's code prints, by hand, and pictures with landmarks of their own."""

from dataclasses import replace

import pytest
import torch
from helpers.toy_pairs import ESTIMATORS, PEOPLE, POSE, SIDE, changed, read_person, rendered, toy_pairs

from eval.estimators import Estimator, Estimators
from eval.evaluation import Evaluation
from eval.sanity import copy_source, copy_target


def logits(images):
    """The three angles as the first of 66 logits of each."""
    return torch.nn.functional.pad(POSE(images)[:, :, None], (0, 65)).flatten(1)


LOGITS = replace(ESTIMATORS, pose=Estimator(logits, "logits", "none: exact"))


def test_pose_logits_are_the_root_of_a_mean_and_no_degrees():
    measured = Evaluation(toy_pairs(), LOGITS).measure(copy_source, ["pose_logits"])["pose_logits_l2"]
    assert measured.value == pytest.approx((3 + 4 + 12) / 3 / 2) and measured.unit == "logits"
    assert measured.each is None and measured.interval is None
    assert Evaluation(toy_pairs(), ESTIMATORS).measure(copy_source, ["pose_logits"]) == {}
    with pytest.raises(ValueError, match="'logits' gives logits, not degrees; measure pose_logits"):
        Evaluation(toy_pairs(), LOGITS).measure(copy_source, ["pose_error"])
    odd = replace(ESTIMATORS, pose=Estimator(lambda images: images[:, 0, 0, :5], "five", "none"))
    with pytest.raises(ValueError, match="logits of 66 bins of each, got 5 numbers"):
        Evaluation(toy_pairs(), odd).measure(copy_source, ["pose_logits"])


def twelve():
    """Twelve pairs of eight people."""
    pairs = toy_pairs()
    index = [*range(PEOPLE), 0, 1, 2, 3]
    return pairs.subset(index)


def test_the_printed_cosine_repeats_the_first_tenth():
    pairs = twelve()
    swaps = pairs.target.clone()
    swaps[0] = pairs.source[0]  # pair 0 alone is right: its cosine is 1, that of the others 0
    measured = Evaluation(pairs, ESTIMATORS).measure(rendered(swaps), ["id_similarity_first_tenth", "id_similarity"])
    assert measured["id_similarity_first_tenth"].value == 1 and measured["id_similarity_first_tenth"].n == 1
    assert measured["id_similarity_source"].value == pytest.approx(1 / 12)
    assert Evaluation(toy_pairs(), ESTIMATORS).measure(copy_source, ["id_similarity_first_tenth"]) == {}


def test_ssim_to_the_source_rewards_its_copy():
    evaluation = Evaluation(toy_pairs(), ESTIMATORS)
    assert evaluation.measure(copy_source, ["ssim_source"])["ssim_source"].value == 1
    assert evaluation.measure(copy_target, ["ssim_source"])["ssim_source"].value < 0.5
    small = changed(
        toy_pairs(), **{k: getattr(toy_pairs(), k)[..., :8, :8] for k in ("source", "target", "exact", "gallery")}
    )
    with pytest.raises(ValueError, match="ssim_source needs images of 11 pixels or more, got 8"):
        Evaluation(small).measure(copy_source, ["ssim_source"])


class Shown(torch.nn.Module):
    """Reads the person, and keeps the landmarks that it is given."""

    takes_landmarks = True

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images, landmarks=None):
        self.seen.append(landmarks)
        return read_person(images)


def test_a_swap_is_read_by_the_landmarks_of_its_target():
    points = torch.arange(PEOPLE * 10, dtype=torch.float32).reshape(PEOPLE, 5, 2) / 100
    fields = {"source_landmarks": points, "target_landmarks": points + 1, "gallery_landmarks": points + 2}
    pairs, network = changed(toy_pairs(), **fields), Shown().eval()
    estimators = Estimators(Estimator(network, "r", "none"))
    evaluation = Evaluation(pairs, estimators, batch_size=PEOPLE)
    assert evaluation.measure(copy_source, ["id_retrieval"])["id_retrieval_top1_pct"].value == 100
    assert [torch.equal(seen, points + shift) for seen, shift in zip(network.seen, (1, 2), strict=True)] == [True, True]
    assert pairs.hash != toy_pairs().hash and torch.equal(pairs.subset([2, 0]).target_landmarks, points[[2, 0]] + 1)


class Hidden(Shown):
    """The same of parsing maps."""

    takes_landmarks, takes_parsing = False, True


def test_a_swap_is_masked_by_the_parsing_map_of_its_target():
    maps = torch.arange(PEOPLE, dtype=torch.uint8).view(PEOPLE, 1, 1, 1).expand(PEOPLE, 1, SIDE, SIDE).contiguous()
    fields = {"source_parsing": maps, "target_parsing": maps + 50, "gallery_parsing": maps + 100}
    pairs, network = changed(toy_pairs(), **fields), Hidden().eval()
    evaluation = Evaluation(pairs, Estimators(Estimator(network, "r", "none")), batch_size=PEOPLE)
    assert evaluation.measure(copy_source, ["id_retrieval"])["id_retrieval_top1_pct"].value == 100
    assert torch.equal(network.seen[0], maps + 50) and torch.equal(network.seen[1], maps + 100)
    assert pairs.hash != toy_pairs().hash and torch.equal(pairs.subset([2]).target_parsing, maps[[2]] + 50)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source_landmarks": torch.zeros(PEOPLE, 5, 2)}, "source_landmarks: given without the other landmarks"),
        (dict.fromkeys(("source_landmarks", "target_landmarks", "gallery_landmarks"), torch.full((8, 5, 2), torch.nan)),
         "source_landmarks: NaN or infinite landmarks"),
        ({"target_landmarks": torch.zeros(PEOPLE, 4, 2)}, "target_landmarks: expected"),
        ({"origins": ()}, "origins: expected 8, got 0"),
        ({"target_parsing": torch.zeros(PEOPLE, 1, SIDE, SIDE, dtype=torch.uint8)},
         "target_parsing: given without the other parsing maps"),
        ({"target_parsing": torch.zeros(PEOPLE, 1, 4, 4, dtype=torch.uint8)}, "target_parsing: expected"),
    ],
)  # fmt: skip
def test_damaged_landmarks_are_named(fields, message):
    assert SIDE == toy_pairs().resolution
    with pytest.raises(ValueError, match=message):
        changed(toy_pairs(), **fields)
