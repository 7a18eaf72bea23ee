"""Facts of the device, and proofs that need one; experiments/gpu.py runs them:

    python experiments/gpu_proofs.py facts            # card, driver, memory, packages
    python experiments/gpu_proofs.py training         # 50 steps captured, and resumed after 25, against eager ones
    python experiments/gpu_proofs.py compiled         # 50 steps compiled, and compiled and captured
    python experiments/gpu_proofs.py renderer         # the pictures of the device against those of the CPU

The runs of `training` are variants of one experiment, side by side. A second eager run shows how much two equal runs
differ on this device; the others may differ by the tolerance, or by three times that.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from swapcore import start

start.command(__name__)

import torch

from distill.schema import Train
from swapcore import terminal
from swapcore.files import read_rows
from swapcore.hardware import available_cores, environment
from teachers.exact import render, sample_attributes, sample_identities

STEPS, TINY_STEPS = 50, 6
TOLERANCE = {"again": 1e-3, "captured": 1e-3, "halves": 1e-3, "compiled": 5e-2, "compiled_captured": 5e-2}
NOISE = 3.0  # times the difference of two eager runs, which may be more than the tolerance
LEAST_SHARE = 0.999  # of the pixels of the device that are within 1/255 of the CPU's
SMALL = {
    "data": {
        "kind": "synthetic", "resolution": 96, "workers": 0, "train_people": 64, "train_images": 2, "val_people": 2,
        "test_people": 2, "test_images": 2,
    },
    "pseudo_gt": {"teachers": ["exact"], "pairs": 128, "shard_size": 64, "batch_size": 32},
    "loss.adversarial": [1, 0.1, 0.1], "loss.identity": [1, 1, 1], "loss.discriminator": {"ndf": 16, "layers": 3},
    "stages": ["data", "pseudo_gt", "train"], "train.log_steps": 1, "train.warmup_steps": 0,
    "train.lr_final": 1, "train.checkpoint_steps": 1000, "train.preview_steps": 1000,
}  # fmt: skip
TINY = {
    "data": {**SMALL["data"], "resolution": 64, "train_people": 4}, "student.options": {"width": 16}, "threads": 1,
    "pseudo_gt": {"teachers": ["exact"], "pairs": 8, "shard_size": 8, "batch_size": 4}, "train.batch_size": 2,
    "loss.discriminator": {"ndf": 4, "layers": 2}, "train.precision": "fp32",
}  # fmt: skip


def facts() -> dict:
    """Card, driver, memory, cores and packages of this machine."""
    found = {**environment(), "cores": available_cores(), "cuda": torch.version.cuda or "none"}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found |= {"free_gb": round(free / 1e9, 1), "memory_gb": round(total / 1e9, 1)}
    if tool := shutil.which("nvidia-smi"):
        words = [tool, "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
        found["driver, clock, power"] = subprocess.run(words, capture_output=True, text=True).stdout.strip()
    return found


def variants(compiled: bool, tiny: bool, keys: set[str]) -> dict[str, dict]:
    """Changes of each run of the training. `keys` are those of section train: an older checkout lacks capture."""
    off, on = ({"train.capture": value} if "capture" in keys else {} for value in ("off", "auto" if tiny else "on"))
    steps = TINY_STEPS if tiny else STEPS
    if compiled:
        runs = {"eager": off, "again": off, "compiled": {**off, "train.compile": True}}
        return runs | ({"compiled_captured": {**on, "train.compile": True}} if on else {})
    runs = {"eager": off, "again": off, "halves": {**on, "train.steps": steps // 2}}
    return runs | ({"captured": on} if on else {})


def training(tiny: bool, compiled: bool = False) -> dict:
    """Losses of 50 steps, eager and otherwise: the largest difference of each run to the eager one."""
    keys, steps = {field.name for field in fields(Train)}, TINY_STEPS if tiny else STEPS
    runs = variants(compiled, tiny, keys)
    with tempfile.TemporaryDirectory() as folder:
        status = {"first": train(folder, runs, tiny, jobs=2 if tiny else len(runs))}
        if "halves" in runs:  # the other is finished, and makes two
            second = {"halves": {**runs["halves"], "train.steps": steps}, "eager": runs["eager"]}
            status["on"] = train(folder, second, tiny, jobs=1 if tiny else 2)
        place = Path(folder) / "proofs"
        losses = {name: losses_of(place / name / "train" / "log.jsonl") for name in runs}
        logs = {name: last_line(place / name / "output.log") for name in runs}
    result = verdicts(losses, logs, steps)
    if "capture" not in keys:
        result["words"].append("captured: left out, this checkout has no key train.capture")
    return {**result, "status": status, "ok": all(row["ok"] for row in result["runs"].values())}


def train(folder: str, runs: dict[str, dict], tiny: bool, jobs: int) -> int:
    """Train the variants, `jobs` at a time; returns the exit status. Of two or more, one that fails does not stop the
    others, and each has a log of its own; one after the other, they need no process of their own, which is quicker."""
    settings = {**SMALL, **(TINY if tiny else {}), "variants": runs}
    settings |= {
        "train.steps": TINY_STEPS if tiny else STEPS,
        "name": "proofs",
        "runs": folder,
        "tracking.uri": "none",
        "jobs": jobs,
    }
    words = [f"{key}={json.dumps(value) if not isinstance(value, str) else value}" for key, value in settings.items()]
    return subprocess.run(
        [sys.executable, ROOT / "distill" / "run.py", ROOT / "experiments" / "quickstart.yaml", *words]
    ).returncode


def losses_of(log: Path) -> list[dict[str, float]]:
    """The losses of every step; empty where the run has not begun."""
    rows = read_rows(log, {"step": int}, unfinished=True) if log.is_file() else []
    by_step = {row["step"]: row for row in rows if "reconstruction" in row}
    skipped = ("step", "val/", "lr", "samples", "minutes", "grad_norm")
    return [{k: v for k, v in by_step[i].items() if not k.startswith(skipped)} for i in sorted(by_step)]


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it has no output")


def verdicts(losses: dict[str, list[dict]], logs: dict[str, str], steps: int = STEPS) -> dict:
    """Difference, limit and verdict of each run against `eager`; a run that has not all steps has failed."""
    result: dict = {"runs": {}, "words": []}
    again, eager = losses.get("again", []), losses["eager"]
    noise = difference(again, eager) if again and len(again) == len(eager) else 0.0
    for name, rows in losses.items():
        if len(rows) < steps:
            row = {"ok": False, "steps": len(rows), "log": logs[name]}
            words = f"failed after {len(rows)} of {steps} steps: {logs[name]}"
        elif name == "eager":
            row, words = {"ok": True, "steps": len(rows)}, f"reference, {steps} steps"
        elif len(losses["eager"]) < steps:
            row, words = {"ok": False, "steps": len(rows)}, "not compared: the eager run has failed"
        else:
            largest, limit = difference(rows, losses["eager"]), max(TOLERANCE[name], NOISE * noise)
            row = {"ok": largest <= limit, "steps": len(rows), "difference": largest, "limit": limit}
            words = f"{'equal' if row['ok'] else 'DIFFERENT'}, {largest:.2g} of a loss at most (limit {limit:.2g})"
        result["runs"][name] = row
        result["words"].append(f"{name}: {words}")
    return result


def difference(a: Sequence[dict], b: Sequence[dict]) -> float:
    """The largest difference of a loss term at one step, as a share of the term's mean in `b`; NaN counts as 1."""
    largest = 0.0
    for key in b[0]:
        mean = sum(abs(row[key]) for row in b) / len(b)
        for own, other in zip(a, b, strict=True):
            share = abs(own[key] - other[key]) / max(mean, 1e-6)
            largest = max(largest, share if share == share else 1.0)
    return largest


def renderer(tiny: bool) -> dict:
    """The share of pixels (all three channels) that the device draws within 1/255 of the CPU."""
    count, size = (2, 64) if tiny else (64, 256)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    identity, attributes = sample_identities(count, 0), sample_attributes(count, 1)
    on_cpu = render(identity, attributes, size).image
    on_device = render(identity.to(device), attributes.to(device), size).image.cpu()
    off = (on_cpu - on_device).abs().amax(1) / 2  # pictures are in [-1, 1]
    share = (off <= 1 / 255 + 1e-6).double().mean().item()
    return {"device": device, "share": share, "largest": off.max().item(), "equal": share >= LEAST_SHARE}


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("what", choices=("facts", "training", "compiled", "renderer"))
    parser.add_argument("--tiny", action="store_true", help="CPU size: small networks, six steps")
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    args = parser.parse_args(arguments)
    return terminal.run_command(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Print and write the result; status 1 where a proof fails."""
    if args.what == "facts":
        result = facts()
    elif args.what == "renderer":
        result = renderer(args.tiny)
    else:
        result = training(args.tiny, compiled=args.what == "compiled")
    text = json.dumps(result, indent=1)
    print("\n".join(result["words"]) if "words" in result else text)
    if args.out:
        args.out.write_text(text + "\n")
    return int(not result.get("ok", result.get("equal", True)))


if __name__ == "__main__":
    sys.exit(main())
