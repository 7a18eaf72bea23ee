"""The commands of the full-size results resolve: experiments, overrides, options of benchmarks."""

import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

from distill import config

SCRIPT = ROOT / "experiments" / "full_size.sh"
TEXT = SCRIPT.read_text().replace("\\\n", " ")
PHOTOS = ["data.photos=p", "data.heldout=h", "weights=[w]", "loss.perceptual_network=squeezenet_compressed"]


def lines(start: str) -> list[list[str]]:
    return [shlex.split(line) for line in TEXT.splitlines() if line.startswith(start)]


def test_the_script_is_one():
    assert subprocess.run(["sh", "-n", str(SCRIPT)]).returncode == 0


@pytest.mark.parametrize("words", lines("pieces experiments/"), ids=" ".join)
def test_its_experiments_load_at_full_size(words):
    exp = config.load(ROOT / words[1], [*words[2:], "tracking.uri=none", "minutes=9"], full_size=True)
    for child in [child.exp for child in config.children(exp)] or [exp]:
        assert child.data.resolution >= 128 and child.train.steps >= 1000 and child.train.precision == "bf16"
        for teacher in child.pseudo_gt.teachers:  # an earlier line of the script trains it
            names = [w[w.index(n)].removeprefix("name=") for w in lines("pieces") for n in w if n.startswith("name=")]
            assert all(path.split("/")[1] in names for path in teacher.weights.values())


def test_its_photographs_load_at_full_size():
    names = re.search(r"for name in (.*); do", TEXT)[1].split()
    assert len(names) == 3
    for name in names:
        exp = config.load(ROOT / "experiments" / f"{name}.yaml", [f"name={name}_160", *PHOTOS], full_size=True)
        assert exp.data.resolution == 160
    assert exp.pseudo_gt.teachers[0].weights["generator"] == f"runs/{names[1]}_160/train/teacher.safetensors"


@pytest.mark.parametrize("script", sorted({words[2] for words in lines("once ")}))
def test_its_benchmarks_know_their_options(script):
    shown = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    for words in lines("once "):
        assert all(word in shown.stdout for word in words if word.startswith("--") and words[2] == script)
    assert "--out" in shown.stdout
