"""Pages: their commands, files, keys, links and examples must exist, and the README must stay short."""

import importlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser
from conftest import ROOT, script
from helpers.small_students import inputs, swapper
from helpers.toy_pairs import toy_pairs
from torch.distributed.run import get_args_parser

import students
import teachers
from distill import config, run
from distill.report import experiments
from distill.schema import Loss
from distill.train.step import Step
from eval import METRICS, estimators
from eval.cards import CARDS
from eval.evaluation import Evaluation
from eval.networks import FaceRegressor
from students.export import equality
from students.export.models import models
from swapcore.files import read_json, write_json

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *DOCS,
    *(ROOT / f / "README.md" for f in ("datasets", "experiments")),
    ROOT / "experiments" / "version_1.md",
]
PROGRAMS = ("make ", "accelerate ", "python ", "pip ", "sh ")
FOLDERS = "swapcore|students|teachers|eval|distill|experiments|datasets|benchmarks|docs|tests"
SECTIONS = "data|pseudo_gt|student|train|loss|distil|refine|eval|export|tracking"


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    language: str
    text: str


BLOCKS = [Block(p, *found) for p in PAGES for found in re.findall(r"^```(\w*)\n(.*?)^```$", p.read_text(), re.S | re.M)]


def spans(page: Path) -> list[str]:
    """Inline code of a page."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M))


@cache
def commands() -> tuple[str, ...]:
    """Commands of fenced blocks and of inline code, without their comments."""
    text = "\n".join(block.text for block in BLOCKS if block.language in ("", "bash"))
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    lines += [span for page in PAGES for span in spans(page)]
    lines = [re.sub(r"\s{2,}#.*", "", line).strip() for line in lines]
    lines = [re.sub(r"^srun bash -c '(.*)'$", r"\1", line) for line in lines]
    lines = [re.sub(r'"\$SLURM_\w+"', "1", line) for line in lines]
    return tuple(dict.fromkeys(line for line in lines if line.startswith(PROGRAMS)))


def commands_of(*parts: str) -> list[str]:
    """Those that have all parts. Raises where there are none: a test over nothing would pass."""
    found = [line for line in commands() if all(part in line for part in parts)]
    assert found, f"no page has a command with {parts}"
    return found


def test_the_readme_is_one_page_and_begins_with_the_essentials():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    first = "\n".join(lines[:40])
    assert "experiments/results/quickstart/grid.png" in first
    assert "make quickstart" in first and "make test" in first
    for folder in FOLDERS.split("|"):
        assert f"\n{folder}/ " in first


def test_the_readme_links_every_page():
    linked = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    assert {str(page.relative_to(ROOT)) for page in PAGES[1:]} <= set(linked)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(file), f"{page}: {target}"


@cache
def anchors(page: Path) -> set[str]:
    """Names that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_keys_of_pages_exist(page):
    keys = list(paths(config.to_dict(config.default("page"))))
    for span in spans(page):
        for path in re.findall(rf"(?<![\w/])(?:{FOLDERS})/[\w/.-]+\.(?:py|yaml|sh|md|js|html)\b", span):
            assert re.search("[A-Z]{4}", path) or (ROOT / path).exists(), f"{page}: {path}"
        for key in re.findall(rf"^((?:{SECTIONS})\.[a-z_]+(?:\.[a-z_]+)*)(?:[=:].*)?$", span):
            assert key in keys or key.endswith(".safetensors"), f"{page}: {key}"


def paths(tree: dict, prefix: str = "") -> Iterator[str]:
    """Keys of a tree, those of its sections as section.key."""
    for key, value in tree.items():
        yield prefix + key
        yield from paths(value, f"{prefix}{key}.") if isinstance(value, dict) else ()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_keep_to_the_glossary(page):
    assert not re.findall(r"\b(?:rulers?|judge[sd]?|judging|verdicts?|Xs|Xt)\b", page.read_text())


@pytest.mark.parametrize("line", commands_of("make "))
def test_make_targets_exist(line):
    words = [word for word in shlex.split(line) if "=" not in word]
    done = subprocess.run([words[0], "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in re.findall(r"\S+\.(?:py|yaml)\b", done.stdout):
        assert (ROOT / path).exists() or path.startswith("$"), path


@pytest.mark.parametrize("line", commands_of("distill/run.py "))
def test_run_commands_resolve(line, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line)
    place = words.index("distill/run.py")
    launcher, (experiment, *rest) = words[:place], words[place + 1 :]
    if launcher[:2] == ["accelerate", "launch"]:
        assert launch_command_parser().parse_args([*launcher[2:], words[place]]).training_script == words[place]
    elif launcher != ["python"]:
        assert launcher[:3] == ["python", "-m", "torch.distributed.run"]
        get_args_parser().parse_args([*launcher[3:], words[place]])
    if experiment in ("exp.yaml", "experiments/FILE"):  # stands for any
        return
    assert run.main([experiment, *rest, "--dry-run"]) == 0
    overrides = [word for word in rest if not word.startswith("--")]
    assert yaml.safe_load(capsys.readouterr().out)["name"] == config.load(experiment, overrides).name


# A command with > writes a page, which a test of that page repeats.
@pytest.mark.parametrize("line", [c for c in commands_of("python ") if "run.py" not in c and " > " not in c])
def test_other_commands_know_their_options(line):
    words = shlex.split(line)[1:]
    words = words[1:] if words[0] == "-m" else words
    target = [words[0], *(word for word in words[1:2] if re.fullmatch("[a-z_]+", word))]  # perhaps with a subcommand
    text = help_of(*target)
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in text, f"{word} is no option of {target}"


@cache
def help_of(*target: str) -> str:
    done = script(*target, "--help")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("line", commands_of("pip install"))
def test_extras_exist(line):
    setup = (ROOT / "setup.py").read_text()
    for extra in re.findall(r"\.\[([\w,-]+)\]", line):
        assert all(f'"{name}"' in setup for name in extra.split(",")), extra


@pytest.mark.parametrize("line", commands_of("sh experiments"))
def test_scripts_exist(line):
    assert (ROOT / shlex.split(line)[1]).is_file()


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda b: b.page.stem)
def test_yaml_is_an_experiment_or_a_configuration_of_accelerate(block, tmp_path):
    tree = yaml.safe_load(block.text)
    if "distributed_type" in tree:
        ClusterConfig(**tree, downcast_bf16="no", debug=False, use_cpu=False)
        return
    path = tmp_path / "page.yaml"
    path.write_text(block.text)
    config.children(config.load(path))


def test_experiments_have_a_row_each():
    table = (ROOT / "experiments" / "README.md").read_text()
    for path in (ROOT / "experiments").glob("*.yaml"):  # gpu.yaml, the plan of gpu.sh, is in the text
        assert f"`{path.name}`" in table


# The examples of docs/extending.md


@cache
def examples() -> dict[str, str]:
    """Python of docs/extending.md by the file, and the place in it, of its first line."""
    blocks = [b.text.partition("\n") for b in BLOCKS if b.page.name == "extending.md" and b.language == "python"]
    return {first.removeprefix("# "): rest for first, _, rest in blocks}


def test_examples_of_extending_name_their_files():
    for where in examples():
        file, _, name = where.partition(", in ")
        assert (ROOT / file).parent.is_dir()
        assert not name or name in (ROOT / file).read_text(), where


def example(where: str, **names) -> SimpleNamespace:
    """Run an example as a module of its own, or inside of the module that it adds to."""
    file = where.partition(", in ")[0]
    module = file.removesuffix(".py").replace("/", ".")
    scope = dict(vars(importlib.import_module(module))) if (ROOT / file).exists() else {}
    scope |= {"__name__": module, "__package__": module.rpartition(".")[0], **names}
    exec(compile(examples()[where], file, "exec"), scope)
    return SimpleNamespace(**scope)


def test_example_of_a_student(monkeypatch, tmp_path):
    monkeypatch.setitem(students.STUDENTS, "tiny", example("students/tiny.py").Tiny)
    network = students.build("tiny", embedding_dim=56, resolution=64)
    shapes = [tuple(swap.shape) for swap in network(torch.zeros(2, 3, 64, 64), torch.zeros(2, 56))]
    assert shapes == [(2, 3, 64, 64), (2, 3, 32, 32), (2, 3, 16, 16)]
    students.save(network, tmp_path / "student.safetensors")
    assert students.load(tmp_path / "student.safetensors").options == network.options


def test_example_of_a_teacher(monkeypatch):
    monkeypatch.setitem(teachers.TEACHERS, "blend", example("teachers/blend.py").BlendTeacher)
    teacher, black = teachers.build("blend", share=0.25), -torch.ones(1, 3, 64, 64)
    assert teacher(black, -black).mean() == 0.5
    assert teacher.weight_hash != teachers.build("blend").weight_hash


def test_example_of_a_metric(monkeypatch):

    import eval as metrics

    monkeypatch.setitem(metrics.METRICS, "brightness_error", example("eval/brightness_error.py").BRIGHTNESS_ERROR)
    pairs = toy_pairs()
    measured = Evaluation(pairs).measure(lambda source, target: target, ["brightness_error"])["brightness_error"]
    assert (measured.value, measured.better, measured.n) == (0, "lower", len(pairs))


def test_example_of_a_loss():
    stripes = torch.zeros(1, 3, 4, 4)
    stripes[..., ::2] = 1
    loss = example("distill/losses/terms.py").total_variation
    assert loss(stripes) == 1
    key = example("distill/schema.py, in Loss").total_variation
    assert key == 0 and not hasattr(Loss(), "total_variation")
    names = {"terms": {}, "losses": SimpleNamespace(total_variation=loss), "swaps": [stripes]}
    line, weights = "distill/train/step.py, in generator_terms", SimpleNamespace(total_variation=2.0)
    example(line, loss=weights, **names)
    assert names["terms"] == {"total_variation": 2}
    used = set(Step.generator_terms.__code__.co_names + Step.generator_terms.__code__.co_varnames)
    assert {"loss", *names} <= used


def test_example_of_an_estimator(monkeypatch):
    card = example("eval/cards.py, in CARDS").card
    assert card.name not in CARDS and card.options == CARDS["synthetic_recogniser"].options
    build = example("eval/estimators.py, in ARCHITECTURES", SmallNetwork=FaceRegressor)._small_network
    monkeypatch.setitem(estimators.ARCHITECTURES, "small_network", build)
    for architecture in (card.architecture, "small_network"):
        network = estimators.untrained_estimator(replace(card, architecture=architecture))
        assert torch.allclose(network(torch.zeros(2, 3, 64, 64)).norm(dim=1), torch.ones(2), atol=1e-4)


def test_example_of_an_export_target(tmp_path):
    module = example("students/export/torch_program.py")
    target = module.TARGET
    model = models(swapper("compact"))["whole"]
    path = target.write(model, tmp_path / "whole.pt2", "fp32", {})
    given = inputs(model, 1)
    swaps = [model.module(*given.values()), target.load(path, model.outputs, 1)(given)["swap"]]
    assert (swaps[0] - swaps[1]).abs().max() < equality.TOLERANCE["fp32"]


def test_example_of_a_stage(tmp_path):
    exp = config.default("page", [f"runs={tmp_path}"])
    students.save(students.build("compact", width=8, resolution=64), exp.folder / "train" / "student.safetensors")
    write_json(exp.folder / "train" / "done.json", {"hash": "of its inputs"})
    logged, accelerator = {}, SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)
    stage = example("distill/describe.py").run(exp, accelerator, SimpleNamespace(metrics=logged.update))
    assert stage.done and logged["describe/parameters"] > 1000


# Numbers of pages are those of experiments/results


def table_after(page: str, text: str) -> list[list[str]]:
    """Cells of the first table after a text of a page, its rule left out."""
    rest = (ROOT / page).read_text().partition(text)[2]
    lines = re.search(r"(?:^\|.*\n)+", rest, re.M)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


@pytest.mark.parametrize(
    ("page", "text", "name"),
    [
        ("docs/quickstart.md", "## The result", "quickstart"),
        ("docs/teachers.md", "## Training a teacher", "distil_faceshifter"),
        ("docs/photographs.md", "they were measured only for this table", "photos_reversed"),
    ],
)
def test_tables_of_pages_hold_the_stored_values(page, text, name):
    rows = read_json(ROOT / "experiments" / "results" / name / "metrics.json")["rows"]
    titles = {value.title: value.key for metric in METRICS.values() for value in metric.values}
    (_, *swappers), *lines = table_after(page, text)
    compared = 0
    for title, *cells in lines:
        key = titles.get(title.rstrip(" ↑↓→←"))
        for swapper_name, cell in zip(swappers, cells, strict=True):
            if key is not None and cell != "–":
                number = cell.split(" ")[0]
                digits = len(number.partition(".")[2])
                assert f"{rows[swapper_name][key]['value']:,.{digits}f}" == number, (title, swapper_name)
                compared += 1
    assert compared >= 40


@pytest.mark.parametrize(
    ("name", "text"), [("compact", "<!-- export -->"), ("mobilefsgan", "while the second core did other work")]
)
def test_tables_of_exports_hold_the_stored_values(name, text):
    stored = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "experiments" / "results" / "export" / f"{name}.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    column = stored[0].index("mean difference")  # which the page leaves out
    assert [row[:column] + row[column + 1 :] for row in stored] == table_after("docs/export.md", text)


@pytest.mark.parametrize(("page", "least"), [("README.md", 6), ("version_1.md", 1)])
def test_tables_of_experiments_are_those_of_the_stored_comparisons(page, least):
    """`python -m distill.report experiments` writes them."""
    text = (ROOT / "experiments" / page).read_text()
    assert len(experiments.TABLE.findall(text)) >= least
    assert experiments.tables(text, ROOT / "experiments" / "results") == text


STEPS_ON_H200 = (("step_captured", "b"), ("step_eager", "a"))


def test_headlines_of_the_readme_are_stored_values():
    results, page = ROOT / "experiments" / "results", (ROOT / "README.md").read_text()
    rows = [row[1:5] for row in table_after("README.md", "quickstart then takes")[1:]]
    keys = ("id_retrieval_top1_pct", "sharpness", "size_mb", "macs_g")

    def cells(student: dict, compared: str) -> list[str]:
        top, sharpness, size, macs = (student[key] for key in keys)
        return [f"{top:.1f}", compared, f"{sharpness:.2f}", f"{size:.2f}, {macs:.3f}"]

    quick, photos = (
        {name: {key: value["value"] for key, value in row.items()} for name, row in found.items()}
        for found in (read_json(results / name / "metrics.json")["rows"] for name in ("quickstart", "photos_reversed"))
    )
    sharp = read_json(results / "sharp_96" / "comparison.json")
    student = {key: value["mean"] for key, value in sharp["rows"]["sharp"]["values"].items()}
    exact, warp = (row[keys[0]] for row in (sharp["references"]["exact"], photos["landmark_warp"]))
    assert rows == [
        cells(quick["unet"], f"exact swap {quick['exact'][keys[0]]:.1f}, chance 1.6"),
        cells(student, f"exact swap {exact:.1f}, chance 1.6"),
        cells(photos["unet-2"], f"classical warp {warp:.1f}, chance 2.5"),
    ]
    assert f"swaps in {quick['unet']['latency_ms']:.1f} ms on one thread" in page
    steps = read_json(results / "speed" / "h200.json")
    ours, original = (steps[name][part]["samples_per_s"]["median"] for name, part in STEPS_ON_H200)
    assert f"is {ours / original:.2f} times as fast as" in page
