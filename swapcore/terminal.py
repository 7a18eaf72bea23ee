"""Shared by all commands: the parser of options, one `error:` line, the nearest known name, tables of text."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable, Sequence


def parser(description: str) -> argparse.ArgumentParser:
    """A parser whose help shows the description as it is, and a module's name as in `python -m distill.swap`."""
    spec = sys.modules["__main__"].__spec__
    name = f"python -m {spec.name.removesuffix('.__main__')}" if spec else None
    return argparse.ArgumentParser(name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def run_command(command: Callable[[], int | None], kinds: tuple[type[Exception], ...] = (ValueError, OSError)) -> int:
    """Run a command; its exit status. A mistake of the user (`kinds`) ends it with one line and status 2."""
    try:
        return command() or 0
    except kinds as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the list of known names, to end an error message with."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""


def text_table(rows: Sequence[Sequence[str]], least: int = 12) -> str:
    """Rows of cells in columns: the first to the left, the others to the right, equally wide, at least `least`."""
    first = max(20, max(len(row[0]) for row in rows))
    width = max([least, *(len(cell) + 2 for row in rows for cell in row[1:])])
    return "\n".join(f"{head:{first}}" + "".join(f"{cell:>{width}}" for cell in cells) for head, *cells in rows)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the headings first, as Markdown."""
    lines = ["|" + "|".join(f" {cell} ".replace("|", "\\|") if cell else " " for cell in row) + "|" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)
