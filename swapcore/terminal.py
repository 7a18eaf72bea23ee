"""Shared by all commands: the option parser, one-line errors, suggestions for unknown names, text tables."""

from __future__ import annotations

import argparse
import difflib
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

LARGEST = 2**63 - 1  # whole number that torch and numpy take


class Parser(argparse.ArgumentParser):
    """A parser of options of type Path, in which `~` is the home folder, and of int and float, in ASCII digits and
    finite. A mistake is one line and status 2. Subcommands are parsed in the same way."""

    def __init__(self, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.register("type", Path, lambda text: Path(os.path.expanduser(text)))
        self.register("type", int, whole())
        self.register("type", float, number())

    def error(self, message: str) -> None:
        print_error(f"{message}; --help lists the options")
        self.exit(2)


def parser(description: str) -> Parser:
    """An option parser. Its help keeps the description's line breaks and starts a module as `python -m MODULE`."""
    spec = sys.modules["__main__"].__spec__
    name = f"python -m {spec.name.removesuffix('.__main__')}" if spec else None
    return Parser(name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def whole(least: int | None = None, most: int = LARGEST) -> Callable[[str], int]:
    """The type of an option that takes a whole number between two limits."""
    limits = "" if least is None else f" from {least} to {most}" if most != LARGEST else f" from {least} on"

    def read(text: str) -> int:
        if re.fullmatch(r"[+-]?[0-9]{1,20}", text):
            value = int(text)
            if value > LARGEST or value < -LARGEST:
                raise argparse.ArgumentTypeError(f"expected a whole number up to {LARGEST}, got {text}")
            if (least is None or value >= least) and value <= most:
                return value
        raise argparse.ArgumentTypeError(f"expected a whole number{limits}, got '{text}'")

    return read


def number(above: float = -math.inf) -> Callable[[str], float]:
    """The type of an option that takes a finite number greater than `above`."""

    def read(text: str) -> float:
        try:
            value = float(text) if text.isascii() else math.nan
        except ValueError:
            value = math.nan
        if math.isfinite(value) and value > above:
            return value
        limits = "" if above == -math.inf else f" above {above:g}"
        raise argparse.ArgumentTypeError(f"expected a number{limits}, got '{text}'")

    return read


def install(extra: str | None = None) -> str:
    """The command, for messages, that installs an extra of setup.py, or what every command needs, from a clone."""
    return f'pip install -e ".[{extra}]"' if extra else "pip install -e ."


def run_command(command: Callable[[], int | None], kinds: tuple[type[Exception], ...] = (ValueError, OSError)) -> int:
    """Run a command and return its exit status. An error of the user (`kinds`) prints one line and returns 2."""
    try:
        return command() or 0
    except kinds as error:
        print_error(error)
        return 2


def print_error(error: object) -> None:
    """Print `error: ...` as one line. Control characters, which a name or a damaged file may hold, are escaped."""
    text = " ".join(str(error).split())
    readable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    print(f"error: {readable}", file=sys.stderr)


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
