"""eval: every metric with an answer known by hand, and against torchmetrics where that measures the same."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toy_pairs import ESTIMATORS, PEOPLE, RECOGNISER, SIDE, changed, read_person, rendered, toy_pairs, values_of
from helpers.two_parts import TwoParts
from safetensors.torch import save_file
from torch import nn
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

import students
from eval import METRICS, table_values
from eval.estimators import Estimator, Estimators, mirrored, untrained_estimator
from eval.evaluation import Evaluation
from eval.intervals import bootstrap
from eval.latency_ms import latency_ms
from eval.measured import Measured, check_column, mean_of
from eval.metric import Metric, Value
from eval.pairs import REGIONS
from eval.sanity import copy_source, copy_target
from swapcore.images import to_float, to_uint8


@pytest.fixture
def pairs():
    return toy_pairs()


def test_images_keep_their_bytes():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert to_float(every).min() == -1 and to_float(every).max() == 1
    assert torch.equal(to_uint8(to_float(every)), every)
    assert to_uint8(torch.tensor([-1.5, 1.5])).tolist() == [0, 255]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_picture_of_nan(bad):
    with pytest.raises(ValueError, match="NaN"):
        to_uint8(torch.tensor([0.0, bad]))
    with pytest.raises(ValueError, match="float"):
        to_uint8(torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="uint8"):
        to_float(torch.zeros(1))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: {"gallery": p.gallery[:0], "gallery_person": p.gallery_person[:0]}, "gallery: empty"),
        (lambda p: {"gallery": p.gallery[-1:], "gallery_person": p.gallery_person[-1:]}, "one person only"),
        (lambda p: {"gallery": p.gallery[:-1], "gallery_person": p.gallery_person[:-1]}, "no image of person 0"),
        (lambda p: {"gallery_person": p.gallery_person * 0}, "several images"),
        (lambda p: {"gallery": p.source.flip(0)}, "person 0 is the source of pair 0"),
        (lambda p: {"target": p.target[:, :, :16, :16]}, "target: expected .* got"),
        (lambda p: {"target": p.target.float()}, "target: expected .*uint8"),
        (lambda p: {"exact": p.exact[:3]}, "exact: expected"),
        (lambda p: {"source": p.source[:0]}, "no pairs; choose"),
        (lambda p: {"source": p.source[:, :1]}, "align"),
        (lambda p: {"source_person": p.source_person.float()}, "source_person: expected"),
        (lambda p: {"target_pose_deg": p.target_pose_deg * math.nan}, "target_pose_deg: NaN .* row 0"),
        (lambda p: {"mask": torch.zeros(PEOPLE, 1, SIDE, SIDE, dtype=torch.bool)}, "mask: no pixel"),
    ],
)
def test_bad_pairs_are_named(pairs, make, says):
    with pytest.raises(ValueError, match=f"toy.*{says}"):
        changed(pairs, **make(pairs))


def test_hash_is_of_the_arrays(pairs):
    assert len(pairs.hash) == 16
    assert changed(pairs, name="another").hash == pairs.hash
    assert changed(pairs, exact=None).hash != pairs.hash
    assert changed(pairs, target_person=pairs.target_person.flip(0)).hash != pairs.hash


def test_copy_target(pairs):
    values = values_of(copy_target, pairs, "id_retrieval", "id_similarity", "pose_error", "expression_error")
    assert values["id_retrieval_top1_pct"].value == 0
    assert values["id_similarity_target"].value == pytest.approx(1)
    assert values["id_similarity_source"].value == pytest.approx(0)
    assert values["pose_error_deg"].value == 0
    assert values["pose_error_true_deg"].value == 0
    assert values["expression_error"].value == 0


def test_copy_source(pairs):
    values = values_of(copy_source, pairs, "id_retrieval", "id_similarity", "pose_error", "expression_error")
    assert values["id_retrieval_top1_pct"].value == values["id_retrieval_top5_pct"].value == 100
    assert values["id_similarity_source"].value == pytest.approx(1)
    assert values["expression_error"].value == pytest.approx(13)
    assert values["pose_error_deg"].value == pytest.approx(13)
    assert values["pose_error_deg"].interval == pytest.approx((13, 13))


def test_true_pose_is_told_from_the_estimators(pairs):
    shifted = changed(pairs, target_pose_deg=pairs.target_pose_deg + torch.tensor([0.0, 0.0, 2.0]))
    values = values_of(copy_target, shifted, "pose_error")
    assert values["pose_error_deg"].value == 0
    assert values["pose_error_true_deg"].value == pytest.approx(2)
    assert values["pose_error_true_deg"].details["estimator_error_on_targets_deg"] == pytest.approx(2)
    assert "pose_error_true_deg" not in values_of(copy_target, changed(pairs, target_pose_deg=None), "pose_error")


def test_angles_differ_the_short_way_round(pairs):
    readings = iter([torch.tensor([[179.0, 0, 0]] * PEOPLE), torch.tensor([[-179.0, 0, 0]] * PEOPLE)])
    turning = Estimator(lambda images: next(readings), name="turning", weight_hash="none: exact")
    values = Evaluation(pairs, Estimators(pose=turning)).measure(copy_target, ["pose_error"])
    assert values["pose_error_deg"].value == pytest.approx(2)


def test_retrieval_counts_the_rank(pairs):
    """The swap of pair i shows its source's person half, i others more, the rest less: rank i of eight."""
    swaps = pairs.target.clone()
    swaps[:, :, 0] = 20
    for i in range(PEOPLE):
        swaps[i, :, 0, (i + 1 + torch.arange(i)) % PEOPLE] = 230
        swaps[i, :, 0, i] = 127
    values = values_of(rendered(swaps), pairs, "id_retrieval")
    assert values["id_retrieval_top1_pct"].value == pytest.approx(100 / PEOPLE)
    assert values["id_retrieval_top5_pct"].value == pytest.approx(500 / PEOPLE)
    assert values["id_retrieval_top5_pct"].protocol["chance_pct"] == pytest.approx(62.5)


def test_a_blind_recogniser_finds_nobody(pairs):
    blind = Estimator(lambda x: nn.functional.normalize(torch.ones(len(x), 4)), name="blind", weight_hash="none: exact")
    values = Evaluation(pairs, Estimators(recogniser=blind)).measure(copy_source, ["id_retrieval"])
    assert values["id_retrieval_top1_pct"].value == 0


def test_top5_of_five_people_is_left_out(pairs):
    few = {k: getattr(pairs, k)[:4] for k in ("source", "target", "exact", "source_person", "target_person")}
    five = slice(PEOPLE - 5, None)
    few |= {"gallery": pairs.gallery[five], "gallery_person": pairs.gallery_person[five]}
    values = values_of(copy_source, changed(pairs, target_pose_deg=None, **few), "id_retrieval")
    assert set(values) == {"id_retrieval_top1_pct"}


def test_exact_match_equals_torchmetrics(pairs):
    values = values_of(copy_target, pairs, "exact_match")
    a, b = pairs.target.double(), pairs.exact.double()
    # torchmetrics' own mean takes in the outer five pixels, whose windows see reflected ones; scikit-image's not.
    _, whole = structural_similarity_index_measure(a, b, data_range=255.0, sigma=1.5, return_full_image=True)
    ssim = whole[..., 5:-5, 5:-5].mean()
    psnr = peak_signal_noise_ratio(a, b, data_range=255.0, dim=(1, 2, 3), reduction="elementwise_mean")
    assert values["ssim"].value == pytest.approx(float(ssim), abs=1e-3)
    assert values["psnr_db"].value == pytest.approx(float(psnr), abs=1e-3)
    assert values["l1"].value == pytest.approx(float((to_float(pairs.target) - to_float(pairs.exact)).abs().mean()))


def test_identical_images_have_a_finite_psnr(pairs):
    values = values_of(rendered(pairs.exact), pairs, "exact_match")
    assert (values["ssim"].value, values["psnr_db"].value, values["l1"].value) == (pytest.approx(1), 99.0, 0)
    assert values["psnr_db"].details["identical_pairs"] == PEOPLE
    json.dumps(values["psnr_db"].as_dict(), allow_nan=False)
    unknown = changed(pairs, exact=None)
    assert values_of(copy_target, unknown, "exact_match") == {}
    assert "exact swaps are unknown" in METRICS["exact_match"].lacks(copy_target, unknown, torch.device("cpu"))


def test_every_value_says_what_it_depends_on(pairs):
    values = values_of(copy_source, pairs, "id_retrieval", "pose_error", "expression_error", "exact_match")
    for value in values.values():
        assert value.protocol["pairs_hash"] == pairs.hash and value.n == PEOPLE and value.seconds >= 0
        assert json.loads(json.dumps(value.as_dict(), allow_nan=False))["value"] == value.value
    depends = values["id_retrieval_top1_pct"].protocol
    assert depends["gallery"]["size"] == PEOPLE
    assert depends["recogniser"]["name"] == "first row" and depends["recogniser"]["weight_hash"]


@pytest.mark.parametrize(
    ("metric", "role"), [("id_retrieval", "recogniser"), ("pose_error", "pose"), ("expression_error", "expression")]
)
def test_a_missing_estimator_is_named(pairs, metric, role):
    def never(source, target):
        raise AssertionError("swapped before the estimators were checked")

    with pytest.raises(ValueError, match=f"no {role} estimator"):
        Evaluation(pairs, Estimators()).measure(never, ["exact_match", metric])


def test_unknown_metric_lists_the_known(pairs):
    with pytest.raises(ValueError, match="'iou'.*id_retrieval"):
        Evaluation(pairs, ESTIMATORS).measure(copy_target, ["iou"])


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (lambda x: x.flatten(1)[:, :4] * 0 + 1, "unit length"),
        (lambda x: x.flatten(1)[:, :4] * math.nan, "NaN .* image 0"),
        (lambda x: x, "expected"),
    ],
)
def test_broken_estimators_are_found(pairs, network, says):
    with pytest.raises(ValueError, match=f"recogniser 'broken'.*{says}"):
        Evaluation(pairs, Estimators(Estimator(network, name="broken", weight_hash="00"))).measure(
            copy_target, ["id_retrieval"]
        )


def test_bad_swappers_are_named(pairs):
    with pytest.raises(ValueError, match="another size"):
        Evaluation(pairs, ESTIMATORS).measure(lambda s, t: t[:, :, ::2, ::2], [])
    with pytest.raises(ValueError, match="pairs 0 to 7: .*NaN"):
        Evaluation(pairs, ESTIMATORS).measure(lambda s, t: t * math.nan, [])
    with pytest.raises(ValueError, match="'two parts' is in training mode"):
        Evaluation(pairs, ESTIMATORS).measure(TwoParts(), [])
    with pytest.raises(ValueError, match="batch_size"):
        Evaluation(pairs, ESTIMATORS, batch_size=0)


def test_sources_targets_and_gallery_are_read_once(pairs):
    seen = []

    def counting(images):
        seen.append(len(images))
        return read_person(images)

    evaluation = Evaluation(
        pairs, Estimators(Estimator(counting, name="counting", weight_hash="none: exact")), batch_size=5
    )
    progress = []
    evaluation.measure(copy_target, ["id_retrieval", "id_similarity"], progress=progress.append)
    assert sum(seen) == 4 * PEOPLE and progress == [5, 3]
    evaluation.measure(copy_source, ["id_retrieval", "id_similarity"])
    assert sum(seen) == 5 * PEOPLE


def test_swaps_are_eight_bit(pairs):
    swaps = Evaluation(pairs).swap(lambda s, t: t + 0.2 / 127.5)
    assert torch.equal(swaps, pairs.target)


def test_bootstrap_interval():
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = bootstrap(values)
    assert (low, high) == bootstrap(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert low < values.mean() < high
    assert bootstrap(values[:1]) is None
    with pytest.raises(ValueError, match="finite"):
        mean_of([1.0, math.inf], {})


def test_size_and_macs_by_hand(pairs):
    swapper = TwoParts().eval()
    values = values_of(swapper, pairs, "size_mb")
    assert values["parameters"].value == 81 + 20 and values["parameters"].details["parts"]["encoder"] == 20
    assert values["macs_g"].value * 1e9 == pytest.approx(81 * SIDE * SIDE + 15)
    assert values["macs_g"].details["parts"]["encoder"] * 1e9 == pytest.approx(15)
    assert 4 * 101 < values["size_mb"].value * 1e6 < 4 * 101 + 400
    assert values["size_mib"].value * 2**20 == pytest.approx(values["size_mb"].value * 1e6)


def test_size_of_the_original(pairs):
    """2,517,781 parameters, 10.20 MB, and 32.38 GMAC at 256 pixels, which go as the area."""
    generator = students.build("mobilefsgan", resolution=64).eval()
    swapper = lambda source, target: generator(target, torch.ones(1, 512) / 512**0.5)[0]  # noqa: E731
    swapper.parts = {"generator": generator}
    double = [nn.functional.interpolate(images[:1], 64) for images in (pairs.source, pairs.target)]
    gallery = nn.functional.interpolate(pairs.gallery, 64)
    one = {"source": double[0], "target": double[1], "gallery": gallery, "exact": None, "target_pose_deg": None}
    one |= {"source_person": pairs.source_person[:1], "target_person": pairs.target_person[:1]}
    values = values_of(swapper, changed(pairs, **one), "size_mb")
    assert values["parameters"].value == 2_517_781
    assert values["size_mb"].value == pytest.approx(10.20, abs=0.08)
    assert values["macs_g"].value == pytest.approx(32.38 / 16, rel=2e-3)


def test_saved_files_count_as_they_are(pairs, tmp_path):
    swapper = TwoParts().eval()
    swapper.files = {"generator": tmp_path / "generator.bin"}
    with pytest.raises(ValueError, match="generator.bin"):
        values_of(swapper, pairs, "size_mb")
    swapper.files["generator"].write_bytes(bytes(123_456))
    parts = values_of(swapper, pairs, "size_mb")["size_mb"].details["parts"]
    assert parts["generator"] == 0.123456
    save_file(swapper.encoder.state_dict(), tmp_path / "encoder.safetensors")
    assert parts["encoder"] * 1e6 == pytest.approx(Path(tmp_path / "encoder.safetensors").stat().st_size)


def test_copies_have_no_size_and_no_latency(pairs):
    metrics = ("size_mb", "latency_ms", "peak_memory_mb")
    assert values_of(copy_target, pairs, *metrics) == {}
    for metric in metrics:
        assert "networks" in METRICS[metric].lacks(copy_target, pairs, torch.device("cpu"))
        assert METRICS[metric].lacks(TwoParts().eval(), pairs, torch.device("cpu")) == ""


def test_a_file_outside_torch_is_not_timed_beside_a_gpu(pairs, tmp_path):
    (tmp_path / "whole.onnx").write_bytes(bytes(10))
    exported = lambda source, target: target  # noqa: E731
    exported.files = {"model": tmp_path / "whole.onnx"}
    lacks = METRICS["latency_ms"].lacks
    assert lacks(exported, pairs, torch.device("cpu")) == ""
    assert "only without a GPU" in lacks(exported, pairs, torch.device("cuda"))
    assert METRICS["size_mb"].lacks(exported, pairs, torch.device("cuda")) == ""
    assert "all run in torch" in METRICS["peak_memory_mb"].lacks(exported, pairs, torch.device("cpu"))


def test_latency_restores_the_number_of_threads(pairs):
    before = torch.get_num_threads()
    calls = []

    class Counted(TwoParts):
        def forward(self, source, target):
            calls.append((torch.get_num_threads(), len(source)))
            return super().forward(source, target)

    view = Evaluation(pairs).view(Counted().eval(), pairs.target)
    values = latency_ms(view, runs=4, warm_up=1)
    assert torch.get_num_threads() == before
    assert len(calls) == 10 and set(calls[:5]) == {(1, 1)}
    one = values["latency_ms"]
    assert one.n == 4 and one.interval is None and one.protocol["threads"] == 1
    assert 0 < one.details["p10"] <= one.value <= one.details["p90"]
    assert 0 < one.details["parts"]["generator"] < one.details["p90"]
    assert not view.swapper.generator._forward_hooks
    with pytest.raises(ValueError, match="expected runs from 1 on"):
        latency_ms(view, runs=0)


def test_latency_restores_the_number_of_threads_after_an_error(pairs):
    class Failing(TwoParts):
        def forward(self, source, target):
            if len(source) == 1:
                raise RuntimeError("no batch of one")
            return target

    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="no batch of one"):
        latency_ms(Evaluation(pairs).view(Failing().eval(), pairs.target), runs=1)
    assert torch.get_num_threads() == before


def test_measured_is_plain():
    plain = Measured(1.0, 2, (0.5, 1.5), {"a": 1}, unit="%", better="higher").as_dict()
    assert plain["interval"] == [0.5, 1.5] and set(plain) == set(Measured.__dataclass_fields__)


def test_values_of_two_protocols_stand_in_no_common_column():
    pairs = toy_pairs()
    one, other = (values_of(copy_source, p, "id_retrieval")["id_retrieval_top1_pct"] for p in (pairs, fewer(pairs)))
    named = values_of(copy_source, changed(pairs, name="b"), "id_retrieval")["id_retrieval_top1_pct"]
    check_column("top1", {"a": one.as_dict(), "b": named.as_dict()})
    with pytest.raises(ValueError, match="top1: a and b were measured by different protocols.*pairs_count is 8 and 5"):
        check_column("top1", {"a": one.as_dict(), "b": other.as_dict()})
    mirrored_too = Evaluation(pairs, Estimators(mirrored(RECOGNISER))).measure(copy_source, ["id_retrieval"])
    with pytest.raises(ValueError, match="flip is 'none' and 'image and mirror"):
        check_column("top1", {"a": one.as_dict(), "b": mirrored_too["id_retrieval_top1_pct"].as_dict()})
    alike = Evaluation(pairs, Estimators(mirrored(RECOGNISER))).measure(copy_source, ["id_similarity"])
    assert alike["id_similarity_source"].protocol["distance"] == "cosine, mirrored features too"
    plain = values_of(copy_source, pairs, "id_similarity")["id_similarity_source"]
    assert plain.protocol["distance"] == "cosine, no mirrored features"


def fewer(pairs):
    return changed(pairs.subset(range(5)), name="fewer")


def test_a_swap_of_no_numbers_may_count_as_a_grey_picture():
    pairs, failed = toy_pairs(), []

    def swapper(source, target):
        swap = target.clone()
        swap[1, 0, 3, 3] = math.nan
        swap[2] = math.inf
        return swap

    evaluation = Evaluation(pairs, batch_size=4)
    swaps = evaluation.swap(swapper, failed=failed)
    assert failed == [1, 2, 5, 6] and torch.equal(swaps[[0, 3, 4, 7]], pairs.target[[0, 3, 4, 7]])
    assert (swaps[failed] == 128).all()
    with pytest.raises(ValueError, match="pairs 4 to 7: .*NaN"):
        evaluation.swap(lambda s, t: t if torch.equal(t, to_float(pairs.target[:4])) else swapper(s, t))


class Kept(dict):
    """A store in memory."""

    def load(self, batch):
        return self.get(batch.start)

    def save(self, batch, swaps, failed):
        self[batch.start] = swaps
        self.failed = [*getattr(self, "failed", []), *failed]


def test_batches_that_are_kept_are_not_swapped_again(pairs):
    store, calls = Kept(), []

    def swapper(source, target):
        calls.append(len(target))
        return target if len(target) == 3 else target * math.nan

    evaluation = Evaluation(pairs, batch_size=3)
    failed = []
    first = evaluation.swap(swapper, store=store, failed=failed)
    assert calls == [3, 3, 2] and failed == store.failed == [6, 7]
    del store[3]
    again = []
    assert torch.equal(evaluation.swap(swapper, again.append, store, []), first)
    assert calls == [3, 3, 2, 3] and again == [3, 3, 2]


def test_finished_swaps_are_measured_by_their_name(pairs):
    evaluation = Evaluation(pairs, ESTIMATORS)
    values = evaluation.measure("by hand", ["id_retrieval", "size_mb", "latency_ms"], swaps=pairs.source)
    assert set(values) == {"id_retrieval_top1_pct", "id_retrieval_top5_pct"}
    assert values["id_retrieval_top1_pct"].value == 100
    with pytest.raises(ValueError, match="'by hand': swaps: expected .* got"):
        evaluation.measure("by hand", [], swaps=pairs.source[:3])


def test_random_weights_measure_nothing(pairs):
    recogniser = untrained_estimator("synthetic_recogniser")
    with torch.inference_mode():
        assert recogniser(to_float(pairs.source)).norm(dim=1).allclose(torch.ones(PEOPLE))
    with pytest.raises(ValueError, match="recogniser 'synthetic_recogniser' has untrained weights"):
        Evaluation(pairs, Estimators(recogniser))


def test_units_and_directions_come_from_the_values(pairs):
    by_metric = values_by_metric(pairs)
    for metric, measured in by_metric.items():
        assert measured, metric
        for key, one in measured.items():
            (value,) = table_values([key])
            assert value.named(key) and (one.unit, one.better) == (value.unit, value.better)
            assert one.seconds >= 0 and value.format.format(one.value) and value.digits >= 0
    better = {key: one.better for measured in by_metric.values() for key, one in measured.items()}
    assert better["id_similarity_target"] == "target" and better["id_similarity_source"] == "higher"
    assert better["pose_error_deg"] == "lower"


OF_OTHERS = {"pose_logits": "pose_logits_l2", "id_similarity_first_tenth": "id_similarity_first_tenth"}  # as_printed


def values_by_metric(pairs):
    """What every metric that needs no GPU measures of a swapper of two parts."""
    shown = (torch.arange(SIDE) % len(REGIONS)).byte().expand(PEOPLE, 1, SIDE, SIDE).clone()  # every region, in columns
    masked = changed(pairs, occluder=torch.ones(PEOPLE, 1, SIDE, SIDE, dtype=torch.bool), regions=shown)
    estimators = replace(
        ESTIMATORS,
        perceptual=Estimator(lambda a, b: (a - b).abs().mean((1, 2, 3)), "by hand", "none: exact"),
        features=Estimator(lambda images: images[:, 0, -1, :3], "corners", "none: exact"),
        trained_encoder=replace(ESTIMATORS.recogniser, name="another first row"),
    )
    evaluation = Evaluation(masked, estimators)
    return {metric: evaluation.measure(TwoParts().eval(), [metric]) for metric in METRICS if metric not in OF_OTHERS}


def test_every_value_is_declared_once_and_measured():
    declared = [value.key for metric in METRICS.values() for value in metric.values]
    assert len(declared) == len(set(declared))
    measured = {key for values in values_by_metric(toy_pairs()).values() for key in values}
    gpu = {"latency_gpu_ms", "peak_memory_gpu_mb"}
    expected = {*declared, "frechet_corners", "kernel_corners"} - {"fid", "kid", "frechet_", "kernel_"}
    assert measured == expected - gpu - {*OF_OTHERS.values()}


def test_a_key_that_no_value_declares_is_refused(pairs, monkeypatch):
    monkeypatch.setitem(METRICS, "toy", Metric(lambda view: {"other": Measured(1.0, 1)}, (Value("toy", "toy"),)))
    with pytest.raises(ValueError, match="'other', which none of its Values declares"):
        Evaluation(pairs).measure(copy_target, ["toy"])


def test_values_come_in_the_order_of_tables():
    keys = ["size_mb", "kernel_b", "pose_error_deg", "frechet_a", "from elsewhere", "id_similarity_target"]
    values = table_values(keys)
    assert [value.key for value in values] == [
        "id_similarity_target", "pose_error_deg", "size_mb", "frechet_a", "from elsewhere", "kernel_b",
    ]  # fmt: skip
    assert [value.title for value in values[3:]] == ["frechet a", "from elsewhere", "kernel b"]
    assert values[5].unit == "10^-3" and values[4].better is None
