"""eval.latency_ms and eval.peak_memory_mb: a clock and allocations known by hand; CUDA where there is one."""

import time

import pytest
import torch
from helpers.toy_pairs import ESTIMATORS, SIDE, changed, toy_pairs
from helpers.two_parts import TwoParts
from torch import nn

from eval.evaluation import Evaluation
from eval.latency_ms import latency_ms, on_cpu, on_gpu, timed
from eval.peak_memory_mb import cpu_bytes, gpu_bytes, weight_bytes
from eval.sanity import copy_target

CPU = torch.device("cpu")


def one_image():
    return torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, 3, SIDE, SIDE)


class Device:
    """Works on its own: a part's work is queued, and time passes when it is waited for."""

    def __init__(self, monkeypatch, encoder=2.0, generator=5.0):
        self.now, self.queued, self.waits = 0.0, 0.0, 0
        self.swapper = TwoParts().eval()
        for part, seconds in ((self.swapper.encoder, encoder), (self.swapper.generator, generator)):
            part.register_forward_hook(lambda *_, seconds=seconds: self.queue(seconds), prepend=True)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def queue(self, seconds):
        self.queued += seconds

    def synchronize(self):
        self.now, self.queued, self.waits = self.now + self.queued, 0.0, self.waits + 1


def test_a_device_is_waited_for(monkeypatch):
    device = Device(monkeypatch)
    value = timed(device.swapper, one_image(), {"device": "cuda"}, 3, 2, device.synchronize)
    assert value.value == value.details["p10"] == value.details["p90"] == 7000
    assert value.details["parts"] == {"encoder": 2000, "generator": 5000}
    assert value.n == 3 and value.protocol["device"] == "cuda" and value.protocol["warm_up"] == 2
    # Two waits for each of five runs of the whole; two more for each part in the three runs by part.
    assert device.waits == 5 * 2 + 3 * 6


def test_without_waiting_a_device_seems_to_take_no_time(monkeypatch):
    device = Device(monkeypatch)
    assert timed(device.swapper, one_image(), {}, 3, 0).value == 0


def test_median_and_spread_of_unsteady_runs(monkeypatch):
    device = Device(monkeypatch, encoder=0)
    lengths = iter([100.0, *range(1, 12), *[0.0] * 11])  # a slow warm-up, then 1 to 11 seconds

    def forward(source, target):
        device.queue(next(lengths))
        return target

    monkeypatch.setattr(device.swapper, "forward", forward)
    value = timed(device.swapper, one_image(), {}, 11, 1, device.synchronize)
    assert (value.details["p10"], value.value, value.details["p90"]) == (2000, 6000, 10000)


def test_where_a_swapper_is():
    swapper = TwoParts().eval()
    assert on_cpu(swapper, CPU) is swapper and not on_gpu(swapper, CPU)
    assert on_cpu(copy_target, torch.device("cuda")) is None
    assert not on_gpu(swapper, torch.device("cuda")), "its weights are on the CPU"
    copied = on_cpu(swapper, torch.device("cuda"))
    assert copied is not swapper and torch.equal(copied.encoder.weight, swapper.encoder.weight)


def test_names_on_the_cpu():
    pairs = toy_pairs()
    values = latency_ms(Evaluation(pairs).view(TwoParts().eval(), pairs.target), runs=2, warm_up=0)
    assert set(values) == {"latency_ms", "latency_all_threads_ms"}
    assert set(values["latency_ms"].protocol) == {
        "device", "processor", "threads", "batch", "resolution", "runs", "warm_up", "torch",
    }  # fmt: skip


def allocating(*megabytes, device="cpu"):
    """A call that holds one tensor after the other, each given back before the next, and returns the last."""

    def call():
        for size in megabytes:
            held = torch.ones(size * 250_000, device=device)
            if size != megabytes[-1]:
                del held
        return held

    return call


def test_peak_is_what_is_held_at_once():
    assert cpu_bytes(allocating(8, 4)) == 8_000_000
    assert cpu_bytes(allocating(4, 8, 2)) == 8_000_000
    assert cpu_bytes(lambda: [torch.ones(250_000) for _ in range(5)]) == 5_000_000
    assert cpu_bytes(lambda: None) == 0
    before = torch.ones(250_000)
    assert cpu_bytes(lambda: before.mul_(2)) < 100, "done in place, but for the factor"


def test_peak_restores_the_number_of_threads():
    before = torch.get_num_threads()
    seen = []
    cpu_bytes(lambda: seen.append(torch.get_num_threads()))
    assert seen == [1, 1] and torch.get_num_threads() == before

    def failing():
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        cpu_bytes(failing)
    assert torch.get_num_threads() == before


def test_weights_count_once():
    layer = nn.Linear(10, 10, bias=False)
    twice = nn.Sequential(layer, layer, nn.BatchNorm1d(10))
    assert weight_bytes([twice, layer]) == 4 * (100 + 4 * 10) + 8  # the last is the counter of batches


class Doubling(TwoParts):
    """Holds four copies of the target's 12 kB at once, one of them its swap."""

    def forward(self, source, target):
        copies = [target.clone() for _ in range(4)]
        return copies[0]


def test_memory_of_a_swapper_by_hand():
    value = Evaluation(toy_pairs(), ESTIMATORS).measure(Doubling().eval(), ["peak_memory_mb"])["peak_memory_mb"]
    image = 4 * 3 * SIDE * SIDE
    assert value.details == {"weights": pytest.approx(404e-6), "working": pytest.approx(4 * image / 1e6)}
    assert value.value == pytest.approx((404 + 4 * image) / 1e6) and value.unit.startswith("MB")
    assert value.protocol["batch"] == 1 and "profiler" in value.protocol["method"]


def test_memory_grows_with_the_area():
    pairs = toy_pairs()
    larger = {k: nn.functional.interpolate(getattr(pairs, k), 64) for k in ("source", "target", "exact", "gallery")}
    small, large = (
        Evaluation(each, ESTIMATORS).measure(TwoParts().eval(), ["peak_memory_mb"])["peak_memory_mb"]
        for each in (pairs, changed(pairs, **larger))
    )
    assert large.details["working"] == pytest.approx(4 * small.details["working"], rel=0.1)
    assert large.details["weights"] == small.details["weights"]


def test_what_does_not_run_in_torch_has_no_memory(tmp_path):
    assert Evaluation(toy_pairs(), ESTIMATORS).measure(copy_target, ["peak_memory_mb"]) == {}
    swapper = TwoParts().eval()
    (tmp_path / "encoder.onnx").write_bytes(b"0")
    swapper.files = {"encoder": tmp_path / "encoder.onnx"}
    assert Evaluation(toy_pairs(), ESTIMATORS).measure(swapper, ["peak_memory_mb"])
    swapper.files["landmarks"] = swapper.files["encoder"]
    assert Evaluation(toy_pairs(), ESTIMATORS).measure(swapper, ["peak_memory_mb"]) == {}


@pytest.mark.gpu
def test_on_a_gpu():
    evaluation = Evaluation(toy_pairs(), ESTIMATORS, device="cuda")
    values = evaluation.measure(TwoParts().eval().cuda(), ["latency_ms", "peak_memory_mb"])
    assert {"latency_ms", "latency_gpu_ms", "peak_memory_mb", "peak_memory_gpu_mb"} <= set(values)
    gpu = values["latency_gpu_ms"]
    assert gpu.protocol["processor"] == torch.cuda.get_device_name() and 0 < gpu.details["p10"] <= gpu.value
    assert set(gpu.details["parts"]) == {"generator", "encoder"}
    assert gpu_bytes(allocating(8, 4, device="cuda"), torch.device("cuda")) == pytest.approx(8e6, rel=0.3)
