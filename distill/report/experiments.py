"""The tables of experiments/README.md, from the kept comparisons of experiments with variants."""

from __future__ import annotations

import re
from pathlib import Path

from distill.config import ConfigError
from distill.report.comparison import markdown
from swapcore.files import read_json, write_text

TABLE = re.compile(r"<!-- (\w+) -->\n(.*?)<!-- /\1 -->", re.S)


def tables(text: str, results: Path) -> str:
    """The page with the text between `<!-- NAME -->` and `<!-- /NAME -->` replaced by the table of
    results/NAME/comparison.json. Raises ConfigError where a comparison is missing, or no table is marked."""
    for name, _ in TABLE.findall(text):
        if not (results / name / "comparison.json").is_file():
            raise ConfigError(f"{results / name}: no comparison.json; run the experiment, then experiments/keep.py")

    def table(match: re.Match) -> str:
        stored = read_json(results / match[1] / "comparison.json")
        return f"<!-- {match[1]} -->\n{markdown(stored)}<!-- /{match[1]} -->"

    text, count = TABLE.subn(table, text)
    if not count:
        raise ConfigError("no table: mark its place by lines <!-- NAME --> and <!-- /NAME -->")
    return text


def rewrite(page: Path, results: Path) -> list[str]:
    """Write the tables of a page anew; returns the names of those that changed."""
    before = page.read_text(encoding="utf-8")
    after = tables(before, results)
    if after != before:
        write_text(page, after)
    old, new = dict(TABLE.findall(before)), dict(TABLE.findall(after))
    return [name for name in new if new[name] != old[name]]
