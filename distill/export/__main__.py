"""Export a student to the runtimes of phones and browsers; run each file and compare it with PyTorch:

    python -m distill.export STUDENT.safetensors --to onnx,coreml,tnn
    python -m distill.export STUDENT.safetensors --to all --precision all --out exported

OUT gets a folder for each target and precision, for example onnx-fp32. It holds three models: the generator, the
identity encoder, and both as one model. card.json describes their inputs and outputs, equality.md is the table of the
comparison on 32 pairs, those of LIST or of synthetic people. A file that differs from PyTorch by more than its
precision allows is an error and is not kept; the other targets are still written, also where the package of one is
missing. Give the same command again to continue after a stop.
"""

from __future__ import annotations

from swapcore import start

start.command(__name__, resumes=True)

import argparse
import sys
from pathlib import Path
from typing import Any

from distill import build, config
from distill.evaluate import pairs as lists
from distill.evaluate import swappers
from distill.evaluate.measure import PHOTO_ESTIMATORS
from distill.export import convert
from students.export import targets
from swapcore import terminal
from swapcore.files import check_folder
from swapcore.locks import folder_lock


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("student", type=Path, metavar="STUDENT", help="a student.safetensors, as training writes it")
    parser.add_argument("--to", required=True, metavar="A,B", help=f"all, or some of {', '.join(targets.TARGETS)}")
    parser.add_argument("--precision", default="fp32", metavar="A,B", help="all, or some of fp32 (default), fp16, int8")
    parser.add_argument("--out", type=Path, help="output folder; default: `export` beside the student")
    parser.add_argument("--pairs", type=Path, metavar="LIST", help="folder of make_pairs.py; default: synthetic people")
    parser.add_argument("--recogniser", metavar="NAME", help="recogniser for identity: a card in eval/cards.py")
    parser.add_argument("--weights", nargs="+", default=[], metavar="FOLDER", help="folders to search for weight files")
    args = parser.parse_args(arguments)
    return terminal.run_command(lambda: export(args))


def export(args: argparse.Namespace) -> None:
    selected = targets.chosen(args.to.split(","), args.precision.split(","))
    out = args.out or args.student.parent / "export"
    check_folder(out)
    with folder_lock(out):
        _export(args, selected, out)


def _export(args: argparse.Namespace, selected: list[tuple[str, str]], out: Path) -> None:
    options: list[tuple[str, Any]] = [("weights", args.weights)]
    if args.recogniser:
        options.append(("eval.recogniser", args.recogniser))
    exp = config.default("export", options)
    student = swappers.load_student(args.student, exp)
    side = student.generator.options["resolution"]
    pairs = lists.read(args.pairs, side)[0] if args.pairs else convert.synthetic_pairs(side)
    if pairs.exact is None and not args.recogniser:  # photographs
        exp = config.default("export", [*options, ("eval.recogniser", PHOTO_ESTIMATORS["eval.recogniser"])])
        build.check_recogniser(exp, student.identity_encoder.card.name, str(args.student))
    convert.export(student, convert.first_pairs(pairs), selected, out, exp, args.student.parent / "metrics.json")
    print((out / "equality.md").read_text(encoding="utf-8"))
    print(out / "card.json")


if __name__ == "__main__":
    sys.exit(main())
