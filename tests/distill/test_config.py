"""Experiment files: what loads, and what every mistake is told."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from distill import config
from distill.config import ConfigError
from distill.schema import Mix


def write(folder: Path, text: str) -> Path:
    path = folder / "exp.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda p: p.name)
@pytest.mark.parametrize("full_size", [False, True])
def test_every_shipped_experiment_loads_and_survives_its_own_dump(path, full_size, tmp_path):
    needs = [f"data.{key}=somewhere" for key in ("photos", "fstriplets") if f"\n  {key}: null" in path.read_text()]
    experiment = config.load(path, needs, full_size)
    assert config.load(write(tmp_path, config.dump(experiment))) == experiment
    names = [child.exp.name for child in config.children(experiment)]
    assert len(set(names)) == len(names)
    for child in [child.exp for child in config.children(experiment)] or [experiment]:
        scales = [child.data.resolution >> k for k, weight in enumerate(child.loss.identity) if weight]
        assert min(scales, default=16) >= 16, f"{child.name}: the identity encoder cannot look at so few pixels"


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
        ("loss: {reconstruction: original}", ["loss.reconstruction", "a list of 3", "loss.reconstruction_kind?"]),
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


def written(folder: Path, **tree) -> Path:
    return write(folder, yaml.safe_dump({"runs": str(folder), **tree}))


def test_variants_become_experiments_of_their_own(tmp_path):
    path = written(
        tmp_path,
        seeds=[3, 4],
        student={"name": "compact", "options": {"width": 16}},
        variants={"a": {}, "b": {"student.options.width": 24, "train.mix": {"pair": 1}}},
    )
    exp = config.load(path)
    found = config.children(exp)
    assert [child.exp.name for child in found] == ["a-seed3", "a-seed4", "b-seed3", "b-seed4"]
    assert [child.exp.train_seed for child in found] == [3, 4, 3, 4] and {child.exp.seed for child in found} == {0}
    assert [child.exp.student.options["width"] for child in found] == [16, 16, 24, 24] and exp.student.options == {
        "width": 16
    }
    assert found[2].exp.train.mix == Mix(pair=1.0)
    assert found[0].exp.folder == tmp_path / "exp" / "a-seed3" and not config.children(found[0].exp)
    assert [c.exp.name for c in config.children(config.load(path, ["seeds=[]"]))] == ["a", "b"]
    assert [c.exp.name for c in config.children(config.load(path, ["variants={}"]))] == [
        "compact-seed3",
        "compact-seed4",
    ]
    assert config.children(config.load(path, ["variants={}", "seeds=[]"])) == []


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"variants": {"a": {"train.stepz": 3}}}, "variants.a: train.stepz: unknown key; did you mean 'steps'"),
        ({"variants": {"a": {"train.steps": "many"}}}, "variants.a: train.steps: expected a whole number"),
        ({"variants": {"a": {"name": "b"}}}, "variants.a: name: cannot be set here"),
        ({"variants": {"a/b": {}}}, "name: expected a folder name"),
        ({"variants": {"shared": {}}}, "another name than 'shared'"),
        ({"variants": {"a": 3}}, "variants.a: expected `section.key: value` lines, got 3"),
        ({"variants": ["a"]}, "variants: expected a section of keys"),
        ({"seeds": [1, 1]}, "seeds: expected each seed once"),
        ({"seeds": ["one"]}, r"seeds\[0\]: expected a whole number"),
    ],
)
def test_mistakes_in_variants_are_told_before_anything_runs(tmp_path, tree, said):
    with pytest.raises(ConfigError, match=said):
        config.load(written(tmp_path, **tree))


def test_a_variant_may_have_seeds_of_its_own(tmp_path):
    tree = {"seeds": [0, 1, 2], "variants": {"small": {}, "large": {"seeds": [0], "student.options.width": 96}}}
    names = [child.exp.name for child in config.children(config.load(written(tmp_path, **tree)))]
    assert sorted(names) == ["large-seed0", "small-seed0", "small-seed1", "small-seed2"]
    with pytest.raises(ConfigError, match=r"variants.large: seeds\[0\]: expected a whole number"):
        config.load(written(tmp_path, variants={"large": {"seeds": ["one"]}}))


def test_full_size_comes_before_the_command_line(tmp_path):
    path = written(tmp_path, train={"steps": 5}, full_size={"train.steps": 50, "seeds": [1], "variants": {"x": {}}})
    assert config.load(path).train.steps == 5 and config.load(path).seeds == ()
    full = config.load(path, ["train.batch_size=3"], full_size=True)
    assert (full.train.steps, full.train.batch_size, full.seeds, list(full.variants)) == (50, 3, (1,), ["x"])
    assert config.load(path, ["train.steps=7"], full_size=True).train.steps == 7
    with pytest.raises(ConfigError, match="full_size: name: cannot be set here"):
        config.load(written(tmp_path, full_size={"name": "y"}), full_size=True)
