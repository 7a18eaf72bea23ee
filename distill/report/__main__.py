"""Tables over several runs:

python -m distill.report paper          the original's size table and the field's accuracy tables, with our results
python -m distill.report field          the field's accuracy tables, protocol by protocol, with our results
python -m distill.report protocols      the texts of docs/protocols.md, from eval/protocols.yaml
python -m distill.report experiments    the tables of experiments/README.md, from experiments/results
"""

from __future__ import annotations

from swapcore import start

start.command(__name__)

import sys
from collections.abc import Sequence
from pathlib import Path

from distill.evaluate import protocols
from distill.report import experiments, paper, paper_pages
from swapcore import terminal
from swapcore.files import write_text
from swapcore.weights import ROOT


def main(arguments: Sequence[str] | None = None) -> int:
    parser = terminal.Parser("python -m distill.report", description="Tables over several runs.")
    commands = parser.add_subparsers(dest="table", required=True)
    paper_results = "metrics.json files, or folders of runs (default: experiments/results of a clone)"
    field_results = "metrics.json files, or folders of `python -m distill.evaluate --protocol`"
    for name, text, results in (
        ("paper", "size and accuracy tables of the field, as Markdown, HTML and CSV", paper_results),
        ("field", "accuracy tables of the field by protocol, as Markdown and CSV", field_results),
    ):
        command, out = commands.add_parser(name, help=text), Path("runs") / name
        command.add_argument("--out", type=Path, default=out, help=f"output folder (default: {out})")
        command.add_argument("--results", type=Path, nargs="+", default=[], metavar="PATH", help=results)
    command = commands.add_parser("experiments", help="the tables of experiments/README.md, from the kept results")
    command.add_argument("--page", type=Path, default=ROOT / "experiments" / "README.md", help="the page to write")
    command = commands.add_parser("protocols", help="the texts of docs/protocols.md, from eval/protocols.yaml")
    command.add_argument("--page", type=Path, default=ROOT / "docs" / "protocols.md", help="the page to write")
    args = parser.parse_args(arguments)
    if args.table == "protocols":
        return terminal.run_command(lambda: write_protocols(args.page))
    if args.table == "experiments":
        return terminal.run_command(lambda: write_experiments(args.page))
    if args.table == "field":
        return terminal.run_command(lambda: write_field(args.out, args.results))
    return terminal.run_command(lambda: write_paper(args.out, args.results))


def write_protocols(page: Path) -> None:
    """Write the texts of the protocols into the page. Raises ConfigError."""
    write_text(page, protocols.rewritten(page.read_text(encoding="utf-8")))
    print(page)


def write_field(folder: Path, results: Sequence[Path]) -> None:
    """Write the tables by protocol; print a summary and the files. Raises PaperError."""
    tables = paper.field(results)
    written = paper_pages.write_field(folder, tables)
    print(paper_pages.field_summary(tables))
    print(*written, sep="\n")


def write_experiments(page: Path) -> None:
    """Write the tables of the page anew; print the names of those that changed. Raises ConfigError."""
    changed = experiments.rewrite(page, ROOT / "experiments" / "results")
    print(f"{page}: {', '.join(changed) or 'no table'} changed")


def write_paper(folder: Path, results: Sequence[Path]) -> None:
    """Write the tables; print the size table, a summary and the files. Raises PaperError."""
    tables = paper.tables(results or sorted((ROOT / "experiments" / "results").glob("*/metrics.json")))
    written = paper_pages.write(folder, tables)
    print(f"{paper_pages.table_markdown(tables[0])}\n\n{paper_pages.summary(tables)}")
    print(*written, sep="\n")


if __name__ == "__main__":
    sys.exit(main())
