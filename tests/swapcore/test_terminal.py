"""The parser of commands, tables of text and Markdown, the nearest known name, the one line of an error."""

import sys
from types import SimpleNamespace

import pytest

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
