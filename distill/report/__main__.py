"""`python -m distill.report paper`: the original's size table and the field's accuracy tables, with our results."""

from __future__ import annotations

from swapcore import start

start.command(__name__)

import sys
from collections.abc import Sequence
from pathlib import Path

from distill.report import paper, paper_pages
from swapcore import terminal
from swapcore.weights import ROOT


def main(arguments: Sequence[str] | None = None) -> int:
    parser = terminal.Parser("python -m distill.report", description="Tables over several runs.")
    commands = parser.add_subparsers(dest="table", required=True)
    command = commands.add_parser("paper", help="size and accuracy tables of the field, as Markdown, HTML and CSV")
    command.add_argument("--out", type=Path, default=Path("runs/paper"), help="output folder (default: runs/paper)")
    command.add_argument(
        "--results", type=Path, nargs="+", default=[], metavar="PATH",
        help="metrics.json files, or folders of runs (default: experiments/results of a clone)",
    )  # fmt: skip
    args = parser.parse_args(arguments)
    return terminal.run_command(lambda: write_paper(args.out, args.results))


def write_paper(folder: Path, results: Sequence[Path]) -> None:
    """Write the tables; print the size table, a summary and the files. Raises PaperError."""
    tables = paper.tables(results or sorted((ROOT / "experiments" / "results").glob("*/metrics.json")))
    written = paper_pages.write(folder, tables)
    print(f"{paper_pages.table_markdown(tables[0])}\n\n{paper_pages.summary(tables)}")
    print(*written, sep="\n")


if __name__ == "__main__":
    sys.exit(main())
