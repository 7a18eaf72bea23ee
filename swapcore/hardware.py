"""The environment of a measurement: processor, cores, GPU, package versions, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "safetensors", "numpy", "scikit-image", "mlflow")


def processor() -> str:
    """The model name of this machine's CPU, or its architecture if the system gives no model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def available_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hardware() -> dict[str, str]:
    """Everything about this machine that changes the speed of a network, by name."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"processor": processor(), "cores": str(available_cores()), "gpu": gpu, "torch": torch.__version__}


def environment() -> dict[str, str]:
    """Commit, package versions and hardware of a measurement, by name."""
    facts = {"commit": git_commit(), "python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "absent"
    facts["processor"] = processor()
    facts["threads"] = str(torch.get_num_threads())
    facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return facts


def git_commit() -> str:
    """Commit of the checkout, with `+changes` if tracked files differ; `unknown` outside a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
