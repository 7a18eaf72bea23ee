"""The whole line on a small experiment: by the command a user types, or in this process."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from conftest import ROOT, script

from distill import config, run

TINY = {
    "seed": 5,
    "threads": 1,
    "data": {
        "resolution": 64, "train_people": 6, "train_images": 2, "val_people": 2, "test_people": 4, "test_images": 2,
        "workers": 0,
    },
    "pseudo_gt": {"pairs": 20, "shard_size": 8, "batch_size": 4},
    "student": {"name": "compact", "options": {"width": 8}},
    "train": {
        "steps": 4, "batch_size": 4, "lr": 1e-3, "betas": [0.5, 0.99], "checkpoint_steps": 2, "log_steps": 1,
        "preview_steps": 2,
    },
    "loss": {
        "adversarial": [1, 0.1, 0.1], "identity": [1, 1, 0], "reconstruction": [1, 1, 1], "perceptual": 1,
        "discriminator": {"ndf": 4, "layers": 2},
    },
    "eval": {"pairs": 8, "pictures": 2},
    "tracking": {"uri": "none"},
}  # fmt: skip


def experiment(folder: Path, name: str = "tiny", **sections) -> Path:
    tree = {**TINY, "name": name, "runs": str(folder / "runs")}
    for section, values in sections.items():
        tree[section] = {**tree.get(section, {}), **values} if isinstance(values, dict) else values
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def command(*arguments: str, processes: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    return [sys.executable, *launcher, str(ROOT / "distill" / "run.py"), *arguments]


def launch(*arguments: str, processes: int = 1, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*arguments, processes=processes),
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        **options,
    )


def told(*arguments, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """As `launch`, but in this process, which has torch already: for its exit status and its words."""
    return script(ROOT / "distill" / "run.py", *arguments, cwd=cwd)


def in_process(path: Path, *overrides: str) -> Path:
    exp = config.load(path, overrides)
    run.run(exp)
    return exp.folder


def same_state(a: Path, b: Path) -> None:
    first, second = (torch.load(next((p / "train" / "state").glob("*.pt")), weights_only=True) for p in (a, b))
    assert first["step"] == second["step"]
    for part in ("student", "average", "discriminator"):
        assert first[part].keys() == second[part].keys()
        for key, tensor in first[part].items():
            assert torch.equal(tensor, second[part][key]), f"{part}.{key}"
    for part in ("optimiser", "optimiser_d"):
        for index, state in first[part]["state"].items():
            assert all(torch.equal(v, second[part]["state"][index][k]) for k, v in state.items()), f"{part} {index}"
    assert torch.equal(first["rng"][0]["cpu"], second["rng"][0]["cpu"])
