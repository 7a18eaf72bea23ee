"""Experiment files and overrides: values by the type of their key, errors, variants, the page of keys."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from helpers.make_pairs import make
from helpers.student_files import student_file

from distill import build, config, run, schema
from distill.config import ConfigError
from distill.data import synthetic
from distill.data.photos import read_manifest
from distill.schema import Mix, Teacher
from teachers.exact import LARGEST

# Names of folders that YAML would read as something else.
NAMES = [
    "F #2", "001", "1e-4", "0x10", "2024-01-01", "no", "on", "true", "1:30", "[a]", "{a: b}", "Q: 3", "w, x", "- a",
    "# a", " leading", "trailing ", "'single'", '"double"', "it's", "a\\b", "a=b", "&a", "*a", "!a", "%a", "@a", "`a`",
    "|", ">", "?", "---", "<<", "=", "Zoë/写真", "a\nb", ".", "s3://bucket/a?b=c&d", "nullify",
]  # fmt: skip


def write(folder: Path, text: str) -> Path:
    path = folder / "exp.yaml"
    path.write_text(text)
    return path


SHIPPED = sorted(path for path in (ROOT / "experiments").glob("*.yaml") if path.name != "gpu.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("pseudo_gt.teachers=[{name: exact, label: ../../x}]", "pseudo_gt.teachers: label: expected a folder name"),
        ("pseudo_gt.teachers=[{name: exact, label: ..}]", "pseudo_gt.teachers: label: expected a folder name"),
        ("distil.online={name: simswap, label: a/b}", "distil.online: label: expected a folder name"),
        ("pseudo_gt.teachers=[{name: simswap, label: unet}]", "'unet' is the name of another row of the table"),
        ("pseudo_gt.teachers=[{name: simswap, label: exact}]", "'exact' is the name of another row of the table"),
        ("pseudo_gt.teachers=[{name: simswap, label: copy-target}]", "is the name of another row of the table"),
        ("distil.online={name: exact, options: {a: 1}}", "distil.online: 'exact' is the name of another row"),
        ("variants={../x: {}}", "name: expected a folder name"),
        ("tracking.uri=postgresql://me:secret@host/db", "tracking.uri: holds a password"),
    ],
)
def test_names_that_would_be_other_files_or_rows_are_refused(tmp_path, override, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as refused:
        config.load(write(tmp_path, "student: {name: unet}"), [override])
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", NAMES)
def test_text_keys_take_any_text(tmp_path, name):
    path = write(tmp_path, "seed: 1")
    teacher = f"distil.online={{name: {yaml.safe_dump(name, default_style=chr(34)).strip()}, label: x}}"
    exp = config.load(path, [f"data.photos={name}", f"tracking.uri={name}", f"eval.pose={name}", teacher])
    assert exp.data.photos == exp.tracking.uri == exp.eval.pose == exp.distil.online.name == name
    paired = config.load(path, [("data.photos", name), ("weights", [name, "b"]), ("full_size", {"data.photos": name})])
    assert paired.data.photos == name and paired.weights == (name, "b") and paired.full_size == {"data.photos": name}
    for experiment in (exp, paired):
        assert config.load(write(tmp_path, config.dump(experiment))) == experiment
    if not name.startswith("["):
        assert config.load(path, [f"weights={name}"]).weights == (name,)
    assert config.load(path, [f"weights=[{yaml.safe_dump(name, default_style=chr(34)).strip()}]"]).weights == (name,)


@pytest.mark.parametrize(
    "name", ["001", "1e-4", "0x10", "2024-01-01", "2024-99-99", "no", "On", "1_000", "1:30", ".5", "=", "a b"]
)
def test_unquoted_text_of_a_file_is_text(tmp_path, name):
    text = f"""
        name: {name}
        weights: [{name}, "null", null]
        stages: [data]
        data: {{photos: {name}, heldout: '{name}'}}
        pseudo_gt: {{teachers: [{{name: a, weights: {{{name}: {name}}}, options: {{x: 5, y: "5", on: no}}}}, {name}]}}
        variants: {{{name}: {{data.photos: {name}, data: {{photos: {name}}}, weights: [{name}]}}}}
        full_size: {{data.photos: {name}, train.lr: 1e-4}}
    """
    exp = config.load(write(tmp_path, text))
    assert exp.name == exp.data.photos == exp.data.heldout == name and exp.weights == (name, "null", "null")
    first = Teacher("a", weights={name: name}, options={"x": 5, "y": "5", "on": False})
    assert exp.pseudo_gt.teachers == (first, Teacher(name))
    changes = {"data.photos": name, "data": {"photos": name}, "weights": [name]}
    assert exp.variants == {name: changes} and config.children(exp)[0].exp.data.photos == name
    assert config.load(tmp_path / "exp.yaml", full_size=True).train.lr == 1e-4
    assert config.load(write(tmp_path, config.dump(exp))) == exp


@pytest.mark.parametrize("nothing", ["null", "Null", "none", "None", "~", ""])
def test_null_is_nothing_where_a_key_may_be_null_and_text_elsewhere(tmp_path, nothing):
    keys = ("data.photos", "eval.pose", "train.seed", "distil.online", "pseudo_gt.quality.pose")
    path = write(tmp_path, "data: {photos: 1}\neval: {pose: 1}\ntrain: {seed: 1}")
    exp = config.load(path, [f"{key}={nothing}" for key in keys])
    assert (exp.data.photos, exp.eval.pose, exp.train.seed, exp.distil.online, exp.pseudo_gt.quality.pose) == (
        None,
    ) * 5
    exp = config.load(write(tmp_path, f"data: {{photos: {nothing}, heldout: '{nothing}'}}\neval:\n  pose: {nothing}\n"))
    path_of = os.path.expanduser(nothing)
    assert (exp.data.photos, exp.data.heldout, exp.eval.pose) == (None, path_of, None)
    if nothing:
        assert config.load(path, [f"name={nothing}", f"tracking.uri={nothing}"]).tracking.uri == path_of
        assert config.load(write(tmp_path, f"name: {nothing}")).name == nothing
    else:
        for key, kind in (("name", "text"), ("tracking.uri", "a path")):
            with pytest.raises(ConfigError, match=f"{key}: expected {kind}, got nothing"):
                config.load(path, [f"{key}="])


def test_a_path_may_begin_with_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    text = """
        runs: ~/runs
        weights: [~/a, "~/b", /c~]
        data: {photos: ~/p, occlusions: "~nobody-here/o"}
        student: {name: ~/no-path}
        pseudo_gt: {destination: s3://~/d, teachers: [{name: a, weights: {g: ~/g.pth}}]}
        variants: {v: {data.photos: ~/v}}
        full_size: {data.heldout: ~/h}
    """
    exp = config.load(write(tmp_path, text), ["data.fstriplets=~/f", "tracking.uri=sqlite:///~/m.db"], full_size=True)
    assert (exp.runs, exp.weights) == ("/home/me/runs", ("/home/me/a", "/home/me/b", "/c~"))
    assert (exp.data.photos, exp.data.occlusions) == ("/home/me/p", "~nobody-here/o")
    assert (exp.data.fstriplets, exp.data.heldout) == ("/home/me/f", "/home/me/h")
    assert exp.pseudo_gt.teachers[0].weights == {"g": "/home/me/g.pth"} and exp.student.name == "~/no-path"
    assert (exp.pseudo_gt.destination, exp.tracking.uri) == ("s3://~/d", "sqlite:////home/me/m.db")
    assert config.children(exp)[0].exp.data.photos == "/home/me/v"
    assert config.default("d", ["weights=~/w"]).weights == ("/home/me/w",)
    assert config.load(write(tmp_path, config.dump(exp))) == exp
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.load("~/exp.yaml").runs == "/home/me/runs"


def test_the_largest_pictures_of_people_are_those_of_the_renderer():
    assert config.LARGEST_DRAWN == LARGEST


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps=²", "expected a whole number, got '²'"),
        ("train.steps=1e3", "expected a whole number, got '1e3'"),
        ("train.steps=1.5", "expected a whole number, got 1.5"),
        (f"train.steps={10**20}", "expected a whole number up to 9223372036854775807, got 1000"),
        ("train.lr=.nan", "expected a number, got nan"),
        ("train.lr=-1", "expected more than 0, got -1.0"),
        ("refine.train.lr=0", "refine.train.lr: expected more than 0"),
        ("refine.train.batch_size=0", "refine.train.batch_size: expected at least 1"),
        ("train.preview_steps=0", "expected at least 1, got 0"),
        ("train.checkpoint_steps=-5", "expected at least 1, got -5"),
        ("train.betas=[0, 1]", "expected two decays in"),
        ("train.warmup_steps=-1", "expected 0 or more"),
        ("seed=-1", "seed: expected 0 or more"),
        ("train.seed=-1", "train.seed: expected 0 or more"),
        ("seeds=[1, -1]", "seeds: expected numbers of 0 or more"),
        ("threads=100000", "expected 0 to 1024"),
        ("data.resolution=1000000000", "expected a multiple of 32 up to 4096"),
        ("data.resolution=2048", "expected at most 1024 for synthetic people"),
        ("data.val_people=-1", "expected 0 or more"),
        ("data.val_people=0", "data.val_people: expected at least 1, for the previews of stage train"),
        ("distil.quality_power=-1", "distil.quality_power: expected 0 or more"),
        ("pseudo_gt.quality.max_pose_error_deg=5", "pseudo_gt.quality.pose: expected a pose estimator"),
        ("refine.train.seed=-1", "refine.train.seed: expected 0 or more"),
        ("refine.train.fstriplets.different_poses=1", "refine.train.fstriplets.different_poses: expected 0"),
        ("train.lr_matrices=0", "train.lr_matrices: expected more than 0"),
        ("train.lr_final=-3", "train.lr_final: expected 0 or more"),
        ("loss.identity=[1, -1, 0]", "loss.identity: expected 0 or more"),
        ("refine.loss.perceptual=-1", "refine.loss.perceptual: expected 0 or more"),
    ],
)
def test_numbers_out_of_range_are_named(tmp_path, override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        config.load(write(tmp_path, "seed: 0"), [override])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("weights=[F, G]", ("F", "G")),
        ("weights=[001, no, null, 'a, b', \"[c]\"]", ("001", "no", "null", "a, b", "[c]")),
        ("weights=[]", ()),
        ("weights=a, [b]", ("a, [b]",)),
        ("eval.metrics=[a, b]", ("a", "b")),
        ("export.to=onnx", ("onnx",)),
        ("seeds=[1, 2]", (1, 2)),
        ("train.betas=[0, 1e-1]", (0.0, 0.1)),
        ("train.lr=1e-4", 1e-4),
        ("train.lr=3", 3.0),
        ("train.steps=1_000  # many", 1000),
        ("train.compile=on", True),
        ("train.capture=on", "on"),
        ("train={capture: off, compile: off}", schema.Train(capture="off", compile=False)),
        ("train.precision=bf16", "bf16"),
        ("student.options={width: 64, kind: no, text: 'no'}", {"width": 64, "kind": False, "text": "no"}),
        ("student.options.width=64", {"width": 64}),
        ("student.options.name=[1, {a: ~}]", {"name": [1, {"a": None}]}),
        ("distil.layers={encode4: 1.0}", {"encode4": "1.0"}),
        ("distil.online=faceshifter", Teacher("faceshifter")),
        ("variants.a={train.steps: 5, data.photos: 007}", {"a": {"train.steps": 5, "data.photos": "007"}}),
        ("variants.a.train.lr=0.5", {"a": {"train.lr": 0.5}}),
        ("full_size.weights=[007]", {"weights": ["007"]}),
        ("full_size.train.lr=0.5", {"train.lr": 0.5}),
        ("data={photos: 007, resolution: 64}", schema.Data(photos="007", resolution=64)),
    ],
)
def test_overrides_have_the_type_of_their_key(tmp_path, override, value):
    more = ["stages=[export]"] if override.startswith("export") else []
    exp = config.load(write(tmp_path, "name: x"), [*more, override])
    first, *rest = override.split("=")[0].split(".")
    section = getattr(exp, first)
    assert value == (getattr(section, rest[0]) if rest and first not in ("variants", "full_size") else section)


def test_words_of_a_shell_reach_the_experiment(tmp_path, capsys):
    path = write(tmp_path, "seed: 1")
    words = r"""data.photos="F #2" name=001 weights="w, x" 'data.heldout="q"' runs="[a] b" tracking.uri=it\'s"""
    assert run.main([str(path), *shlex.split(words), "--dry-run"]) == 0
    exp = config.load(write(tmp_path, capsys.readouterr().out))
    assert (exp.data.photos, exp.name, exp.weights, exp.data.heldout) == ("F #2", "001", ("w, x",), '"q"')
    assert (exp.runs, exp.tracking.uri) == ("[a] b", "it's")


def test_a_later_override_leaves_the_value_of_an_earlier_one_as_it_was(tmp_path):
    mix = {"pair": 1.0}
    anchored = "full_size: {train.mix: &m {pair: 3}, train.mix.pair: 4}\nvariants: {a: {train.mix: *m}}"
    exp = config.load(write(tmp_path, anchored), [("train.mix", mix), "train.mix.pair=2"], full_size=True)
    assert exp.train.mix == Mix(pair=2.0) and mix == {"pair": 1.0} and exp.full_size["train.mix"] == {"pair": 3}
    assert config.children(exp)[0].exp.train.mix == Mix(pair=3.0)
    merged = "data: &d {photos: 007, min_size: 8}\nvariants: {a: {data: {<<: *d, min_size: 9}}}"
    assert config.children(config.load(write(tmp_path, merged)))[0].exp.data == schema.Data(photos="007", min_size=9)


def test_an_override_below_a_variant_leaves_the_other_keys_of_its_section(tmp_path):
    path = write(tmp_path, "train: {steps: 7, lr: 1}\nvariants: {a: {train.lr: 2}, b: {}}")
    a, b = (child.exp.train for child in config.children(config.load(path, ["variants.a.train.lr=3"])))
    assert (a.steps, a.lr) == (7, 3.0) and (b.steps, b.lr) == (7, 1.0)
    with pytest.raises(ConfigError, match="override full_size.train.steps: --full-size has applied that section"):
        config.load(path, ["full_size.train.steps=9"], full_size=True)


@pytest.mark.parametrize(
    "text",
    ["seed: 1\nname: x\nseed: 2", "loss: {gradient: 20, grid: 1, gradient: 0}", "variants: {a: {}, b: {}, a: {}}"],
)
def test_a_key_that_is_given_twice_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"line \d: '(seed|gradient|a)' is given twice"):
        config.load(write(tmp_path, text))


@pytest.mark.parametrize("runs", ["{a: {seeds: [0, 0]}}", "{a: {seeds: [0]}, a-seed0: {}}"])
def test_runs_of_one_name_are_refused(tmp_path, runs):
    with pytest.raises(ConfigError, match="a second run of the name a-seed0"):
        config.load(write(tmp_path, f"variants: {runs}"))


@pytest.mark.parametrize("command", ["evaluate", "export", "swap", "recognisers"])
def test_commands_take_folders_of_weights_by_name(tmp_path, monkeypatch, command):
    folders, built, default = ["w, x", "[a]", "Q: 3", "F #2", "001", "null"], [], config.default

    def spy(*arguments):
        built.append(default(*arguments))
        raise ConfigError("enough")

    monkeypatch.setattr(config, "default", spy)
    weights = ["--weights", *folders]
    if command == "evaluate":
        from distill.evaluate import __main__ as evaluate

        assert evaluate.main(["exact", "--pairs", "list", "--recogniser", "007", "--metrics", "a, b", *weights]) == 2
        assert built[0].eval.recogniser == "007" and built[0].eval.metrics == ("a", "b")
    elif command == "export":
        from distill.export import __main__ as export

        assert export.main([str(student_file(tmp_path)), "--to", "tnn", "--recogniser", "007", *weights]) == 2
        assert built[0].eval.recogniser == "007"
    elif command == "swap":
        for package in ("cv2", "av"):
            pytest.importorskip(package, reason='pip install -e ".[video]"')
        from distill.swap import __main__ as swap

        a, b = tmp_path / "a.png", tmp_path / "b.png"
        a.touch(), b.touch()
        assert swap.main([str(a), str(b), "-o", "c.png", "--student", str(student_file(tmp_path)), *weights]) == 2
    else:
        from distill.evaluate import recognisers

        with pytest.raises(ConfigError, match="enough"):
            recognisers.recogniser("007", folders)
        assert built[0].eval.recogniser == "007" and not built[0].eval.flip
    assert built[0].weights == tuple(folders)


def test_the_page_of_keys_is_current_and_complete():
    page = (ROOT / "docs" / "yaml_keys.md").read_text(encoding="utf-8")
    written = subprocess.run(
        [sys.executable, "-m", "distill.schema"], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True
    )
    assert page == written.stdout, "python -m distill.schema > docs/yaml_keys.md"
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 and row[3].removesuffix("|").strip() for row in rows), "a key without a meaning"
    keys = {row[0].removeprefix("| ").strip("`") for row in rows}

    def leaves(tree, prefix=""):
        for key, value in tree.items():
            yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"]

    tree = config.to_dict(schema.Experiment("x"))
    tree["refine"] |= {"train": {}, "loss": {}}  # the keys of train and loss
    assert set(leaves(tree)) <= keys


def test_name_defaults_to_the_file(tmp_path):
    assert config.load(write(tmp_path, "seed: 3")).name == "exp"


@pytest.mark.parametrize(
    "text, said",
    [
        ("train: {stpes: 5}", ["train.stpes", "unknown key", "did you mean 'train.steps'"]),
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
        ("train: {held_objects: 1.5}", ["train.held_objects", "a share in"]),
        ("train: {mix: {pseudo_gt: 0}}", ["train.mix", "at least one share"]),
        ("loss: {identity_disturbance: 5}", ["loss.identity_disturbance", "0 to 4"]),
        ("loss: {identity_fading: 1.5}", ["loss.identity_fading", "0 to 1"]),
        ("refine: {loss: {grid: -1}}", ["refine.loss.grid", "0 or more"]),
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
        ({"variants": {"a": {"train.stepz": 3}}}, "variants.a: train.stepz: unknown key; did you mean 'train.steps'"),
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


def run_file(tmp_path, missing):
    return run.main([str(write(tmp_path, f"weights: ['{missing}']"))])


def run_evaluate(tmp_path, missing):
    from distill.evaluate import __main__ as evaluate
    from distill.evaluate.pairs import by_people, save

    synthetic.write(tmp_path / "people", {"test": (2, 2)}, 64, seed=1, progress=False)
    photos = read_manifest(tmp_path / "people", "test", 64)
    save(by_people("toy", photos, 2, 1, "toy"), photos.root, tmp_path / "list")
    arguments = ["exact", "--pairs", str(tmp_path / "list"), "--metrics", "exact_match", "--out", str(tmp_path / "out")]
    return evaluate.main([*arguments, "--weights", missing])


def run_export(tmp_path, missing):
    from distill.export import __main__ as export

    return export.main([str(student_file(tmp_path)), "--to", "tnn", "--weights", missing])


def run_recognisers(tmp_path, missing):
    from distill.evaluate import recognisers

    return recognisers.main(["synthetic_recogniser", "--photos", str(tmp_path), "--weights", missing])


def run_swap(tmp_path, missing):
    for package in ("cv2", "av"):
        pytest.importorskip(package, reason="pip install swapdistill[video]")
    from distill.swap import __main__ as swap

    a, b = tmp_path / "a.png", tmp_path / "b.png"
    a.touch(), b.touch()
    student = str(student_file(tmp_path))
    return swap.main([str(a), str(b), "-o", str(tmp_path / "c.png"), "--student", student, "--weights", missing])


def run_make_pairs(tmp_path, missing):
    done = make("people", str(tmp_path), "--out", str(tmp_path / "list"), "--align", "--weights", missing)
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


@pytest.mark.parametrize(
    "command", [run_file, run_evaluate, run_export, run_recognisers, run_swap, run_make_pairs], ids=lambda f: f.__name__
)
def test_folders_of_weights_must_exist(tmp_path, capsys, command):
    missing = str(tmp_path / "nowhere")
    assert command(tmp_path, missing) == 2
    message = f"error: weights: no such folder '{missing}'; name a folder that holds weight files"
    assert message in capsys.readouterr().err.splitlines()


def test_names_of_metrics_are_not_empty(tmp_path):
    with pytest.raises(ConfigError, match="exp.yaml: eval.metrics: expected no empty name"):
        config.load(write(tmp_path, "eval: {metrics: [id_retrieval, '']}"))
    with pytest.raises(ConfigError, match="eval.metrics: expected at least one metric"):
        config.load(write(tmp_path, "eval: {metrics: []}"))


def test_the_reference_of_variants_is_a_variant(tmp_path):
    text = "variants: {narrow: {}, wide: {train.steps: 1}}\neval: {reference: %s}"
    exp = config.load(write(tmp_path, text % "wide"))
    assert exp.eval.reference == "wide" and {child.exp.eval.reference for child in config.children(exp)} == {None}
    with pytest.raises(ConfigError, match=r"eval.reference: expected a variant \(narrow, wide\), got 'wid'"):
        config.load(write(tmp_path, text % "wid"))
    assert config.load(write(tmp_path, "eval: {reference: copy-target}")).eval.reference == "copy-target"


def test_the_reference_of_one_experiment_is_a_swapper_that_it_measures(tmp_path):
    for name in ("copy-target", "exact", "compact", "another"):
        text = f"student: {{name: compact}}\neval: {{reference: {name}}}\ndata: {{resolution: 64}}"
        exp = config.load(write(tmp_path, text))
        if name == "another":
            with pytest.raises(ConfigError, match="eval.reference: no swapper 'another' here; known: copy-target, "):
                build.check_names(exp)
        else:
            build.check_names(exp)
