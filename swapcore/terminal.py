"""Shared by all commands: the option parser, one-line errors, suggestions for unknown names, text tables."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable, Sequence


def parser(description: str) -> argparse.ArgumentParser:
    """An option parser. Its help keeps the description's line breaks and starts a module as `python -m MODULE`."""
    spec = sys.modules["__main__"].__spec__
    name = f"python -m {spec.name.removesuffix('.__main__')}" if spec else None
    return argparse.ArgumentParser(name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def run_command(command: Callable[[], int | None], kinds: tuple[type[Exception], ...] = (ValueError, OSError)) -> int:
    """Run a command and return its exit status. An error of the user (`kinds`) prints one line and returns 2."""
    try:
        return command() or 0
    except kinds as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of an error message: `; did you mean 'x'?` with `prefix` before x, or the known names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{prefix}{close[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""


def text_table(rows: Sequence[Sequence[str]], least: int = 12) -> str:
    """Rows of cells as text: the first column left-aligned, the others right-aligned, all of one width >= `least`."""
    first = max(20, max(len(row[0]) for row in rows))
    width = max([least, *(len(cell) + 2 for row in rows for cell in row[1:])])
    return "\n".join(f"{head:{first}}" + "".join(f"{cell:>{width}}" for cell in cells) for head, *cells in rows)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the headings first, as Markdown."""
    lines = ["|" + "|".join(f" {cell} ".replace("|", "\\|") if cell else " " for cell in row) + "|" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)
