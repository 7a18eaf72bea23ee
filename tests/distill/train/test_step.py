"""The step that learns: what compiling, another precision or a shared pass may change, and what not."""

import pytest
import torch
from helpers.line import experiment, in_process, told

from benchmarks import curves, roofline
from benchmarks.original_step import OriginalStep
from distill import config, estimate, run
from distill.losses import discriminator
from distill.train.monitor import read_log
from distill.train.step import Step, build_networks

TRAIN = "stages=[data, pseudo_gt, train]"
CPU = torch.device("cpu")


@pytest.fixture
def quick_compiler(monkeypatch):
    """torch.compile without a C++ compiler behind it: the same capture and guards, minutes less."""
    compiled = []
    real = torch.compile

    def compile_(function, *arguments, **options):
        compiled.append(function)
        return real(function, *arguments, **{**options, "backend": "aot_eager"})

    monkeypatch.setattr(torch, "compile", compile_)
    yield compiled
    torch._dynamo.reset()


def first_terms(folder) -> dict[str, float]:
    return read_log(folder / "train")[0]


@pytest.mark.slow
def test_compiled_is_eager_and_resumes(tmp_path, quick_compiler):
    eager = in_process(experiment(tmp_path, "eager"), TRAIN)
    assert not quick_compiler
    path = experiment(tmp_path, "compiled", train={"compile": True})
    in_process(path, TRAIN, "train.steps=2")
    kinds = {type(function.__self__).__name__ for function in quick_compiler}
    assert kinds == {"ModulatedBlock", "BlendHead", "MultiScaleDiscriminator", "Unit"}  # the last is the encoder's
    compiled = in_process(path, TRAIN)
    for a, b in zip(read_log(eager / "train"), read_log(compiled / "train"), strict=True):
        assert a.keys() == b.keys() and a == pytest.approx(b, rel=2e-2, abs=1e-3)
    assert first_terms(compiled) == pytest.approx(first_terms(eager), rel=1e-4)
    states = [torch.load(next((f / "train/state").glob("*.pt")), weights_only=True) for f in (eager, compiled)]
    assert states[0]["student"].keys() == states[1]["student"].keys()
    assert states[0]["discriminator"].keys() == states[1]["discriminator"].keys()
    assert in_process(path, TRAIN, "train.compile=false") == compiled, "how a run is computed may change between starts"


@pytest.mark.slow
def test_a_student_whose_layers_are_tapped_is_not_compiled(tmp_path, quick_compiler, monkeypatch):
    from helpers.mean_teacher import ONLINE, Mean

    import teachers

    monkeypatch.setitem(teachers.TEACHERS, "mean", Mean)
    online = {**ONLINE, "train": {**ONLINE["train"], "compile": True}}
    folder = in_process(experiment(tmp_path, "tapped", **online))
    kinds = {type(function.__self__).__name__ for function in quick_compiler}
    assert first_terms(folder)["features"] > 0 and kinds == {"MultiScaleDiscriminator", "Unit"}


@pytest.mark.parametrize("name", ["compact", "mobilefsgan"])
def test_bf16_follows_fp32(tmp_path, name):
    student = {"student": {"name": name}, "train": {"steps": 2}}
    single = in_process(experiment(tmp_path, "single", **student), TRAIN)
    half = in_process(experiment(tmp_path, "half", **student), TRAIN, "train.precision=bf16")
    for term, value in first_terms(single).items():
        assert first_terms(half)[term] == pytest.approx(value, rel=0.15, abs=0.05), term


@pytest.mark.parametrize(("kind", "same"), [("pyramid", True), ("multi_scale", False)])
def test_real_pictures_and_swaps_share_a_pass_where_that_is_exact(tmp_path, kind, same):
    network = discriminator.build({"kind": kind, "ndf": 2, "layers": 2})
    assert getattr(network, "per_picture", False) == same
    exp = config.load(experiment(tmp_path, loss={"discriminator": {"kind": kind, "ndf": 2, "layers": 2}}))
    step = Step(exp, build_networks(exp, CPU), run.new_accelerator(exp))
    step.ddp_discriminator.train()
    real, swaps = ([torch.rand(3, 3, s, s) * 2 - 1 for s in (64, 32, 16)] for _ in range(2))
    apart = step.discriminate(real, swaps)
    step.one_pass = True
    shared = step.discriminate(real, swaps)
    if same:
        for a, b in zip([*apart[0], *apart[1]], [*shared[0], *shared[1]], strict=True):
            assert torch.allclose(a, b, atol=1e-5)
    else:
        assert not torch.allclose(apart[0][0], shared[0][0], atol=1e-3)


def test_the_original_step_computes_what_ours_computes(tmp_path):
    """So that the benchmark compares two ways to run one step, and no two steps."""
    loss = {
        "adversarial": [1, 0.02, 0.02], "adversarial_batch": "sum", "identity": [20, 20, 20], "perceptual": 4,
        "identity_margin": 0.02, "reconstruction": [10, 0, 0], "reconstruction_kind": "original",
    }  # fmt: skip
    student = {"name": "mobilefsgan", "options": {"width": 4}}
    exp = config.load(experiment(tmp_path, loss=loss, student=student, train={"ema": 0, "grad_clip": 1e9}))
    networks = [build_networks(exp, CPU) for _ in range(2)]
    steps = [OriginalStep(exp, networks[0], CPU), Step(exp, networks[1], run.new_accelerator(exp))]
    torch.manual_seed(0)
    batch = estimate.noise(4, 64)
    batch.with_gt[1:3] = 0
    batch.gt[1:3] = 0
    batch.src_as_true[2] = False
    found = [[step.learn(batch) for _ in range(2)] for step in steps]
    for number, tolerance in ((0, 1e-4), (1, 2e-2)):
        for term, value in found[0][number].items():
            assert found[1][number][term].item() == pytest.approx(value.item(), rel=tolerance), (number, term)


def test_curves_lie_on_each_other_or_not():
    torch.manual_seed(0)

    def seeds(shift: float) -> dict:
        return {s: {"identity": (torch.randn(200) + shift - torch.arange(200) / 50).tolist()} for s in range(4)}

    assert curves.compare(seeds(0), seeds(0))["within"]
    found = curves.compare(seeds(0), seeds(3))
    assert not found["within"] and found["words"].startswith("NOT within")
    with pytest.raises(ValueError, match="give --seeds 3"):
        curves.compare({0: {}}, {})


def test_operations_are_counted_with_their_bytes():
    with roofline.Operations(1e9, 1e9) as asked:
        product = torch.ones(10, 20) @ torch.ones(20, 30)
        product.view(-1).t()
    assert asked.flops == 2 * 10 * 20 * 30
    assert asked.calls == 3 and asked.bytes == 4 * (2 * (200 + 600) + 300)
    assert asked.seconds == pytest.approx((4 * (200 + 600) + 12000) / 1e9, rel=0.5)


def test_saved_bytes_are_those_of_a_backward_pass():
    x = torch.ones(1000, requires_grad=True)

    def work():
        y = x * 2
        for _ in range(3):
            y = (y * y).relu()
        y.sum().backward()

    assert estimate.saved_bytes(work) == 4 * 1000 * 4  # what goes into each square; relu keeps what it gives on
    assert estimate.saved_bytes(lambda: [work(), work()]) == estimate.saved_bytes(work), "the first pass is let go"


def test_the_command_estimates_every_variant_once(tmp_path):
    path = experiment(tmp_path, "many", variants={"a": {}, "wide": {"student.options.width": 16}}, seeds=[0, 1])
    done = told(path, "--estimate", "train.steps=1000")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("TFLOP a step of 4 samples") == 2 and "a-seed1: as a-seed0" in done.stdout
    assert done.stdout.count("1,000 steps in") == 2 and not (tmp_path / "runs").exists()
