"""The complete training step, generator and discriminators, as the original runs it (a) and as this project does (b):

python benchmarks/train_step.py                                  # mobilefsgan at 256, batch 16: for a GPU
python benchmarks/train_step.py --quick --threads 1              # the same at CPU size
python benchmarks/train_step.py --curves --out curves.json       # 500 steps of both: are their loss curves the same?

Timing needs no weights: the identity encoder (MobileFaceNet) and the perceptual network (VGG16) have random ones, and
the batch is noise. The curves are drawn on synthetic people with the encoder shipped here. The setting is that of
experiments/mobilefsgan.yaml.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from swapcore import start

start.command(__name__)

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from benchmarks import roofline
from benchmarks.curves import compare
from benchmarks.original_step import OriginalStep
from distill import build, config
from distill.data import prepare as data
from distill.data.triplet import Triplet
from distill.estimate import noise, saved_bytes
from distill.losses.discriminator import build as build_discriminator
from distill.losses.perceptual import Perceptual, backbone
from distill.pseudo_gt.quality import DTYPES
from distill.tracking import Tracker
from distill.train.loop import mixture
from distill.train.monitor import Sums
from distill.train.step import Networks, Step, build_networks
from distill.train.stream import batches
from students.identity_encoder import CARDS as ENCODERS
from students.identity_encoder import IdentityEncoder
from swapcore import terminal
from swapcore.hardware import environment

NAMES = {"a": "as the original runs it", "b": "ours"}
PEOPLE = ("data.val_people=2", "data.test_people=2", "data.test_images=2")


def experiment(args: argparse.Namespace, folder: str, *more: str) -> config.Experiment:
    """experiments/mobilefsgan.yaml on synthetic people, with the sizes of the command."""
    options = {} if args.student == "mobilefaceswap" else {"width": args.width}
    overrides = [
        ("runs", folder), "stages=[data, train]", "tracking.uri=none", "data.kind=synthetic", *PEOPLE,
        f"data.train_people={8 if args.quick and not args.curves else 64}", "data.fstriplets=none",
        f"data.resolution={args.size}", f"data.workers={args.workers}",
        "train.mix={pair: 0.6, same_photo: 0.4, pseudo_gt: 0}", "train.ema=0.999", "train.grad_clip=1e9",
        "student.identity_encoder=synthetic_identity", f"student.name={args.student}", ("student.options", options),
        "loss.perceptual_network=identity_encoder", f"train.batch_size={args.batch}",
    ]  # fmt: skip
    if args.quick:
        overrides += ["loss.discriminator={ndf: 4, layers: 2}"]
    if args.perceptual == "none":
        overrides += ["loss.perceptual=0"]
    return config.load(ROOT / "experiments" / "mobilefsgan.yaml", [*overrides, *more])


def random_networks(exp: config.Experiment, device: torch.device, args: argparse.Namespace) -> Networks:
    """The networks of the original's step with random weights, to be timed."""
    torch.manual_seed(0)
    card = ENCODERS[args.encoder]
    encoder = IdentityEncoder(card).eval().requires_grad_(False).to(device)
    learner, discriminator = build.learner(exp, encoder), build_discriminator(exp.loss.discriminator)
    perceptual = None
    if args.perceptual != "none":
        own = args.perceptual == "identity_encoder"
        perceptual = Perceptual(encoder.features if own else backbone(args.perceptual).to(device))
    return Networks(encoder, learner, discriminator, perceptual)


def variant(name: str, exp: config.Experiment, networks: Networks) -> Callable[[Triplet], dict[str, torch.Tensor]]:
    """A function that trains on one batch: (a), or this project's step with the work of its loop after it (b)."""
    AcceleratorState._reset_state()
    precision = {"fp32": "no"}.get(exp.train.precision, exp.train.precision)
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision)
    if name == "a":
        return OriginalStep(exp, networks, accelerator.device).learn
    step, sums = Step(exp, networks, accelerator), Sums()

    def learn(batch: Triplet) -> dict[str, torch.Tensor]:
        terms = step.learn(batch)
        sums.add(terms)
        return terms

    return learn


def resident_noise(exp: config.Experiment, device: torch.device) -> Triplet:
    """A batch of the loader with its images on the device already; 40 % of it with ground truth."""
    n = exp.train.batch_size
    images = [image.to(device) for image in noise(n, exp.data.resolution)[:3]]
    with_gt = (torch.arange(n) < 0.4 * n).float()
    images[2] *= with_gt.byte().view(-1, 1, 1, 1).to(device)
    flags = with_gt, torch.arange(n) % 16 != 0, torch.ones(n)
    return Triplet(*images, *(f.pin_memory() if device.type == "cuda" else f for f in flags))


def rates(learn: Callable, feed: Iterator[Triplet], args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Median, least and most samples/s over five blocks of steps after the warm-up. The host waits between blocks."""
    for _ in range(args.warmup):
        learn(next(feed))
    block_steps, samples_per_s = max(1, args.steps // 5), []
    for _ in range(5):
        roofline.wait(device)
        started = time.perf_counter()
        for _ in range(block_steps):
            learn(next(feed))
        roofline.wait(device)
        samples_per_s.append(args.batch * block_steps / (time.perf_counter() - started))
    return {"median": statistics.median(samples_per_s), "least": min(samples_per_s), "most": max(samples_per_s)}


def measure(name: str, args: argparse.Namespace, folder: str, device: torch.device) -> dict:
    """All measurements of one variant; (a) always runs in fp32 and eager mode."""
    precision = "fp32" if name == "a" else args.precision
    compiled, captured = (name == "b" and wanted for wanted in (args.compile, args.capture))
    how = [f"train.precision={precision}", f"train.autotune={args.autotune}"]
    plain = experiment(args, folder, *how, "train.capture=off")
    exp = experiment(
        args, folder, *how, f"train.compile={compiled}", f"train.capture={'on' if captured else 'off'}",
        f"train.compile_cache={args.compile_cache}",
    )  # fmt: skip
    learn = variant(name, plain, random_networks(plain, device, args))
    batch = resident_noise(exp, device)
    learn(batch)
    share = 0.1 if args.quick else 1.0  # of the usual effort
    top = roofline.matrix_rate(device, DTYPES[precision], seconds=1.0 * share)
    speed = roofline.bandwidth(device, seconds=0.5 * share)
    with roofline.Operations(top, speed) as counted:
        learn(batch)
    saved = saved_bytes(lambda: learn(batch))
    if compiled or captured:  # they hide their operations, which were counted in eager mode
        learn = variant(name, exp, random_networks(exp, device, args))
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    learn(batch)
    roofline.wait(device)
    first_s = time.perf_counter() - started
    resident = rates(learn, iter(lambda: batch, None), args, device)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    last = args.warmup + 5 * max(1, args.steps // 5)
    loaded = batches(mixture(exp), args.batch, 0, last, 0, 1, args.workers, device.type == "cuda")
    with_data = rates(learn, loaded, args, device)
    step_s = args.batch / resident["median"]
    return {
        "what": NAMES[name], "precision": precision, "compile": compiled, "capture": captured,
        "first_step_s": first_s, "operations_by_phase": counted.table(),
        "samples_per_s": resident, "samples_per_s_with_data": with_data,
        "step_ms": 1000 * step_s, "peak_memory_mb": peak and peak / 1e6, "saved_for_backward_mb": saved / 1e6,
        "operations": counted.calls, "step_tflop": counted.flops / 1e12, "tflop_per_s": counted.flops / step_s / 1e12,
        "matrix_tflop_per_s": top / 1e12, "copy_gb_per_s": speed / 1e9,
        "share_of_matrix_rate": counted.flops / step_s / top, "share_of_roofline": counted.seconds / step_s,
        "host_waits": roofline.host_waits(lambda: learn(batch), device),
        "profile": roofline.shares(lambda: learn(batch), device, repeats=1 if args.quick else 2),
    }  # fmt: skip


def text(result: dict) -> str:
    now, loaded = result["samples_per_s"], result["samples_per_s_with_data"]
    gpu = result["peak_memory_mb"] is not None
    peak = f"peak {result['peak_memory_mb']:,.0f} MB, the host waits {result['host_waits']} times, " if gpu else ""
    how = "".join(f", {done}" for key, done in (("compile", "compiled"), ("capture", "captured")) if result[key])
    how += f", after a first step of {result['first_step_s']:.1f} s" if how else ""
    return f"""{result["what"]}, {result["precision"]}{how}
  {now["median"]:.2f} samples/s ({now["least"]:.2f} to {now["most"]:.2f}), a step {result["step_ms"]:.1f} ms
  {loaded["median"]:.2f} samples/s ({loaded["least"]:.2f} to {loaded["most"]:.2f}) with loading and transfer
  {peak}{result["saved_for_backward_mb"]:,.0f} MB saved for the backward pass
  {result["step_tflop"]:.4f} TFLOP in {result["operations"]:,} operations: {result["tflop_per_s"]:.3f} TFLOP/s, \
{result["share_of_matrix_rate"]:.0%} of the {result["matrix_tflop_per_s"]:.3f} of a matrix product
  {result["operations_by_phase"]}
  {result["share_of_roofline"]:.0%} of the roofline of its operations, one by one ({result["copy_gb_per_s"]:.1f} GB/s)
  {roofline.text(result["profile"])}"""


def curves(args: argparse.Namespace, folder: str, device: torch.device) -> dict:
    """Loss terms of every step of both variants, by seed: {variant: {seed: {term: [..]}}}."""
    values: dict = {name: {} for name in NAMES}
    for name in NAMES:
        for seed in range(args.seeds):
            precision, compiled = ("fp32", False) if name == "a" else (args.precision, args.compile)
            how = f"train.precision={precision}", f"train.compile={compiled}", f"train.seed={seed}"
            exp = experiment(args, folder, *how)
            learn = variant(name, exp, build_networks(exp, device))
            rows = []
            for batch in batches(mixture(exp), args.batch, 0, args.steps, 0, 1, args.workers, False):
                terms = learn(batch)
                keys = sorted(terms.keys() - {"grad_norm"})
                rows.append(torch.stack([terms[key].detach().float() for key in keys]))
            values[name][seed] = dict(zip(keys, torch.stack(rows).T.tolist(), strict=True))
            last = ", ".join(f"{key} {curve[-1]:.3f}" for key, curve in values[name][seed].items())
            print(f"  {NAMES[name]}, seed {seed}: {last}")
    return values


def main(arguments: list[str] | None = None) -> None:
    parser = terminal.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="64 px, width 8, batch 4, few steps and people")
    parser.add_argument("--student", default="mobilefsgan", help="name of students.STUDENTS")
    parser.add_argument("--width", type=terminal.whole(1), default=64, help="channels of the student; default: 64")
    parser.add_argument("--size", type=terminal.whole(32, 4096), default=256, help="pixels; default: 256")
    parser.add_argument("--batch", type=terminal.whole(1), default=16, help="samples per step; default: 16")
    parser.add_argument("--steps", type=terminal.whole(1), help="timed steps; default: 50, with --curves 500")
    parser.add_argument("--warmup", type=terminal.whole(0), default=10, help="steps before timing; default: 10")
    parser.add_argument("--precision", choices=DTYPES, default="bf16", help="of (b); default: bf16")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False, help="torch.compile in (b)")
    parser.add_argument("--compile-cache", default="none", help="folder of compiled code, for a second start")
    parser.add_argument("--capture", action=argparse.BooleanOptionalAction, default=False, help="(b) as a CUDA graph")
    parser.add_argument("--autotune", action=argparse.BooleanOptionalAction, default=True, help="of cuDNN in (b)")
    parser.add_argument("--encoder", choices=ENCODERS, default="mobilefacenet_512", help="its weights are random")
    parser.add_argument("--perceptual", choices=("vgg16", "identity_encoder", "none"), default="vgg16")
    parser.add_argument("--only", choices=NAMES, help="measure one variant alone, to save time")
    parser.add_argument("--curves", action="store_true", help="compare loss curves over seeds instead of timing")
    parser.add_argument("--seeds", type=terminal.whole(1), default=3, help="seeds of --curves; default: 3")
    parser.add_argument("--workers", type=terminal.whole(0, 1024), default=0, help="loader processes")
    parser.add_argument("--threads", type=terminal.whole(1, 1024), default=1, help="CPU threads; default: 1")
    parser.add_argument("--out", type=Path, help="JSON file of all measurements")
    args = parser.parse_args(arguments)
    if args.quick:
        args.width, args.size, args.batch, args.warmup = 8, 64, 4, 2
        args.encoder, args.perceptual, args.steps = "synthetic_identity", "identity_encoder", args.steps or 10
    args.steps = args.steps or (500 if args.curves else 50)
    torch.set_num_threads(args.threads)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    facts, result = environment(), {"arguments": {k: str(v) for k, v in vars(args).items()}}
    where = facts["gpu"] if accelerator.device.type == "cuda" else f"{facts['processor']}, {args.threads} threads"
    print(f"torch {torch.__version__}, {where}, commit {facts['commit'][:10]}")
    print(f"{args.student} of width {args.width}, {args.size} px, batch {args.batch}")
    with tempfile.TemporaryDirectory() as folder:
        exp = experiment(args, folder)
        data.run(exp, accelerator, Tracker(exp))
        if args.curves:
            result |= {"curves": curves(args, folder, accelerator.device)}
            result["verdict"] = compare(result["curves"]["a"], result["curves"]["b"])
            print(result["verdict"]["words"])
        else:
            for name in [args.only] if args.only else NAMES:
                result[name] = measure(name, args, folder, accelerator.device)
                print(text(result[name]), flush=True)
            if not args.only:
                result["ratio"] = result["b"]["samples_per_s"]["median"] / result["a"]["samples_per_s"]["median"]
                print(f"ours is {result['ratio']:.2f} times as fast")
    if args.out:
        args.out.write_text(json.dumps({**result, "environment": facts}, indent=1) + "\n")


if __name__ == "__main__":
    main()
