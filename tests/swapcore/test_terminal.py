"""The parser of commands."""

import sys
from types import SimpleNamespace

import pytest

from swapcore import terminal


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
