"""The parser of commands, tables of text and Markdown, the nearest known name, the one line of an error."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from helpers import house

from swapcore import terminal
from swapcore.terminal import markdown_table, nearest, run_command, text_table


def test_columns_of_a_text_table_line_up():
    lines = text_table([["", "a", "a long heading"], ["a name of more than twenty letters", "1", "2"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["a", "a", "long", "heading"] and lines[1].endswith("2")
    assert text_table([["alone"]]).strip() == "alone"


def test_a_markdown_table_escapes_its_separator():
    assert markdown_table([["a", "b"], ["x|y", ""]]) == "| a | b |\n|---|---|\n| x\\|y | |"


def test_the_nearest_name_or_all_are_named():
    assert nearest("sise", ["size", "speed"]) == "; did you mean 'size'?"
    assert nearest("zzz", ["size", "speed"]) == "; known: size, speed" and nearest("zzz", []) == ""


def test_a_mistake_is_one_line_and_status_2(capsys):
    def mistaken():
        raise ValueError("file: key: remedy")

    assert run_command(mistaken) == 2 and capsys.readouterr().err == "error: file: key: remedy\n"
    assert run_command(lambda: None) == 0 and run_command(lambda: 75) == 75


def test_control_characters_of_an_error_are_escaped(capsys):
    def mistaken():
        raise ValueError("a\n b: \x1b[31mred\x00 \ud83d é")

    assert run_command(mistaken) == 2
    assert capsys.readouterr().err == "error: a b: \\x1b[31mred\\x00 \\ud83d é\n"


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (SimpleNamespace(name="distill.swap.__main__"), "python -m distill.swap "),
        (SimpleNamespace(name="distill.evaluate.recognisers"), "python -m distill.evaluate.recognisers "),
        (None, "make_pairs.py "),
    ],
)
def test_help_says_how_the_command_is_given(spec, name, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    monkeypatch.setattr(sys, "argv", ["datasets/make_pairs.py"])
    text = terminal.parser("Two\n\n    lines").format_help()
    assert text.startswith(f"usage: {name}") and "Two\n\n    lines" in text


NOT_NUMBERS = ["²", "١", "１", "1e3", "nan", "1_000", "1.5", "0x10", "", " ", "9" * 21, "9" * 5000, "inf"]


@pytest.mark.parametrize("text", [*NOT_NUMBERS, "0", "-1", "9"])
def test_whole_numbers_out_of_range_are_one_line(text, capsys):
    parser = terminal.parser("x")
    parser.add_argument("--count", type=terminal.whole(1, 8))
    assert parser.parse_args(["--count", "8"]).count == 8
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([f"--count={text}"])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1
    assert (
        error
        == f"error: argument --count: expected a whole number from 1 to 8, got '{text}'; --help lists the options\n"
    )


@pytest.mark.parametrize("text", NOT_NUMBERS)
def test_options_of_plain_types_are_strict_too_also_of_subcommands(text, capsys):
    parser = terminal.parser("x")
    command = parser.add_subparsers().add_parser("run")
    command.add_argument("--count", type=int)
    command.add_argument("--rate", type=float)
    args = parser.parse_args(["run", "--count", "-3", "--rate", "1e-3"])
    assert (args.count, args.rate) == (-3, 0.001)
    with pytest.raises(SystemExit):
        parser.parse_args(["run", f"--count={text}"])
    assert capsys.readouterr().err.startswith("error: argument --count: expected a whole number")


@pytest.mark.parametrize("text", ["²", "１", "nan", "inf", "-inf", "1e999", "", "x", "0", "-1"])
def test_numbers_are_finite_and_in_range(text, capsys):
    parser = terminal.parser("x")
    parser.add_argument("--rate", type=terminal.number(above=0))
    assert parser.parse_args(["--rate", "1e-3"]).rate == 0.001
    with pytest.raises(SystemExit):
        parser.parse_args([f"--rate={text}"])
    assert f"--rate: expected a number above 0, got '{text}'" in capsys.readouterr().err


def test_paths_may_begin_with_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    parser = terminal.parser("x")
    parser.add_argument("path", type=Path, nargs="*", default=Path("~/default"))
    assert parser.parse_args(["~/a", "b/~", "~nobody-here"]).path == [
        Path("/home/me/a"), Path("b/~"), Path("~nobody-here")
    ]  # fmt: skip


@pytest.mark.parametrize("path", [p for p in house.sources(ROOT) if house.is_command(p)], ids=lambda p: str(p))
def test_every_command_reads_its_options_in_this_way(path):
    assert "ArgumentParser(" not in path.read_text()


def test_messages_name_a_command_that_installs_from_a_clone():
    setup, extras = (ROOT / "setup.py").read_text(), set()
    for path in house.sources(ROOT):
        if path.name != "terminal.py":
            assert not re.search(r"pip install (?!-e)", path.read_text()), path
            extras |= set(re.findall(r"terminal\.install\(['\"]([\w-]+)", path.read_text()))
    assert {"video", "onnx", "fid", "remote"} <= extras
    for extra in extras:
        assert f'"{extra}":' in setup and terminal.install(extra) == f'pip install -e ".[{extra}]"'
