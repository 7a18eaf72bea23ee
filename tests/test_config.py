"""Experiment files: what loads, and what every mistake is told."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from distill import config
from distill.config import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "exp.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_experiment_loads_and_survives_its_own_dump(path, tmp_path):
    needs = [f"data.{key}=somewhere" for key in ("photos", "fstriplets") if f"\n  {key}: null" in path.read_text()]
    experiment = config.load(path, needs)
    assert config.load(write(tmp_path, config.dump(experiment))) == experiment


def test_overrides_win_and_are_typed(tmp_path):
    path = write(tmp_path, "train: {steps: 5}")
    experiment = config.load(path, ["train.steps=7", "train.lr=1e-4", "loss.identity=[1, 2, 3]", "name=other"])
    assert (experiment.train.steps, experiment.train.lr, experiment.name) == (7, 1e-4, "other")
    assert experiment.loss.identity == (1.0, 2.0, 3.0)


def test_name_defaults_to_the_file(tmp_path):
    assert config.load(write(tmp_path, "seed: 3")).name == "exp"


@pytest.mark.parametrize(
    "text, said",
    [
        ("train: {stpes: 5}", ["train.stpes", "unknown key", "did you mean 'steps'"]),
        ("trian: {steps: 5}", ["trian", "did you mean 'train'"]),
        ("train: {steps: many}", ["train.steps", "a whole number", "'many' (str)"]),
        ("train: {steps: 1.5}", ["train.steps", "a whole number"]),
        ("train: {steps: true}", ["train.steps", "a whole number", "True (bool)"]),
        ("train: {lr: yes}", ["train.lr", "a number", "True (bool)"]),
        ("train: {lr: .nan}", ["train.lr", "a number"]),
        ("train: {precision: half}", ["train.precision", "fp32 | fp16 | bf16"]),
        ("loss: {identity: [1, 2]}", ["loss.identity", "a list of 3"]),
        ("loss: {identity: [1, 2, x]}", ["loss.identity[2]", "a number"]),
        ("data: 5", ["data", "a section of keys"]),
        ("data: {resolution: 100}", ["data.resolution", "multiple of 32", "100"]),
        ("data: {kind: photos}", ["data.photos", "data.photos=FOLDER"]),
        ("stages: [data, trian]", ["stages", "unknown stage 'trian'", "did you mean 'train'"]),
        ("train: {mix: {pseudo_gt: 0}}", ["train.mix", "at least one share"]),
        ("name: ../up", ["name", "a folder name"]),
        ("- a\n- b", ["expected `key: value` lines"]),
        ("a: [1", ["not valid YAML"]),
        ("a: !!python/object/apply:os.getcwd []", ["not valid YAML"]),
    ],
)
def test_mistakes_name_file_key_and_remedy(tmp_path, text, said):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        config.load(path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    for words in said:
        assert words in message


def test_missing_file_and_bad_overrides(tmp_path):
    (tmp_path / "quickstart.yaml").touch()
    with pytest.raises(ConfigError, match="no such experiment file; did you mean '.*quickstart.yaml'"):
        config.load(tmp_path / "quikstart.yaml")
    path = write(tmp_path, "seed: 1")
    with pytest.raises(ConfigError, match="expected section.key=value"):
        config.load(path, ["train.steps"])
    with pytest.raises(ConfigError, match="seed.*not a section"):
        config.load(path, ["seed.x=1"])


def test_dump_is_plain_yaml(tmp_path):
    tree = yaml.safe_load(config.dump(config.load(write(tmp_path, "seed: 1"))))
    assert tree["seed"] == 1 and tree["train"]["mix"]["pseudo_gt"] == 1.0
