"""Measure face swappers on a fixed list of pairs:

    python -m distill.evaluate SWAPPER [SWAPPER ...] --pairs LIST
    python -m distill.evaluate SWAPPER [SWAPPER ...] --experiment exp.yaml
    python -m distill.evaluate copy-target exact runs/quickstart/student.safetensors --pairs lists/synthetic

A SWAPPER is one of these:

    copy-target, copy-source    one input unchanged: references for every table
    exact                       the exact swap; only for synthetic people
    landmark_warp, simswap ...  a teacher, by name
    FILE.safetensors            a student, or a teacher that was trained here
    FILE.onnx                   an exported student: whole.onnx, or generator.onnx
    FOLDER                      finished swaps of another program, one picture per pair: 00000.png and so on, named
                                like the pairs in LIST/pairs.json; or whole pictures named SOURCE-TARGET.png or
                                TARGET_SOURCE.png, of any size

`python datasets/make_pairs.py` writes a LIST. An experiment gives metrics, estimators and, without --pairs, the pairs
of its test people; its stage `data` must have run.

The command writes to the folder OUT: metrics.json with every value and its protocol, grid.png, and swaps/SWAPPER/ with
the swaps. Give the same command again to continue after a stop. With --protocol, each protocol has its own folder in
OUT, and protocols.md shows them one after the other, with the reasons why their numbers differ.
"""

from __future__ import annotations

from swapcore import start

start.command(__name__, resumes=True)

import argparse
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from distill import build, config
from distill.config import ConfigError
from distill.evaluate import pairs as lists
from distill.evaluate import protocols, swappers
from distill.evaluate.measure import PHOTO_ESTIMATORS, listed, measure, shortened, unmeasurable, write_grid
from distill.evaluate.swappers import FinishedSwaps
from distill.report import tables
from eval import METRICS
from eval.estimators import Estimators
from eval.intervals import UNITS
from eval.pairs import Pairs
from swapcore import terminal
from swapcore.files import check_folder, read_record, write_text
from swapcore.locks import folder_lock


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("swappers", nargs="+", metavar="SWAPPER", help="see above")
    parser.add_argument("--pairs", type=Path, metavar="LIST", help="folder that datasets/make_pairs.py wrote")
    parser.add_argument("--experiment", metavar="FILE", help="YAML file of an experiment")
    known = ", ".join(METRICS)
    parser.add_argument(
        "--metrics", dest="eval.metrics", type=_names, metavar="A,B", help=f"some of {known}; default: the experiment's"
    )
    for role in (field.name for field in fields(Estimators)):
        text = f"{role} estimator: the name of a card in eval/cards.py{build.packages_of(role)}"
        parser.add_argument(f"--{role.replace('_', '-')}", dest=f"eval.{role}", metavar="NAME", help=text)
    parser.add_argument(
        "--flip", dest="eval.flip", action="store_true", default=None, help="append embeddings of mirrored images"
    )
    parser.add_argument(
        "--interval", dest="eval.interval", choices=tuple(UNITS), help="unit of the 95 %% intervals; default: pairs"
    )
    text = "mark the differences to this swapper that are sure; default: to the best"
    parser.add_argument("--against", dest="eval.reference", metavar="SWAPPER", help=text)
    parser.add_argument("--weights", nargs="+", metavar="FOLDER", help="folders to search for weight files first")
    parser.add_argument("--same-people", type=Path, metavar="FILE", help="each line: names in the list of one person")
    parser.add_argument("--resolution", type=int, help="read the pairs at this side in pixels; default: their own")
    text = f"measure as other people's code does; some of {', '.join(protocols.read())}"
    parser.add_argument("--protocol", nargs="+", default=[], metavar="NAME", help=text)
    text = "names of the pictures in a FOLDER, such as '{source}_{target}'; default: recognised"
    parser.add_argument("--names", metavar="PATTERN", help=text)
    parser.add_argument("--skip-missing", action="store_true", help="leave out pairs without a swap in some FOLDER")
    parser.add_argument("--out", type=Path, help="folder; default: runs/evaluation/LIST or runs/EXPERIMENT/evaluation")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="section.key=value", help="change keys, as in eval.batch_size=8"
    )
    args = parser.parse_args(arguments)
    return terminal.run_command(lambda: evaluate(args))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def evaluate(args: argparse.Namespace) -> None:
    if args.pairs is None and args.experiment is None:
        raise ConfigError("no pairs: give --pairs LIST, or --experiment FILE for the pairs of its test people")
    options = {key: value for key, value in vars(args).items() if key.startswith("eval.") or key == "weights"}
    overrides = [*args.set, *((key, value) for key, value in options.items() if value is not None)]
    exp = config.load(args.experiment, overrides) if args.experiment else config.default("evaluation", overrides)
    if args.experiment and (runs := config.children(exp)):
        one = runs[0].exp.folder / "experiment.yaml"
        raise ConfigError(f"{args.experiment}: has several runs; name the file of one of them, for example {one}")
    if args.pairs is None:
        pairs, skipped = lists.test_pairs(exp, args.resolution, args.same_people)
        out = args.out or exp.folder / "evaluation"
    else:
        pairs, skipped = lists.read(args.pairs, args.resolution, args.same_people)
        out = args.out or Path(exp.runs) / "evaluation" / args.pairs.name
        if args.experiment is None and pairs.exact is None:
            exp = config.default("evaluation", [*PHOTO_ESTIMATORS.items(), *overrides])
        if args.experiment is None and "fooling_gap" in exp.eval.metrics and exp.eval.trained_encoder is None:
            exp = replace(exp, eval=replace(exp.eval, trained_encoder=_trained_encoder(args.swappers)))
    check_folder(out)
    config.check_weights(exp.weights)
    chosen = {key for key, _ in config.parsed(overrides)}
    with folder_lock(out):
        if args.protocol:
            _by_protocols(args, exp, pairs, skipped, out, chosen)
        else:
            _evaluate(args, exp, build.estimators(exp), pairs, skipped, out, chosen)


def _by_protocols(
    args: argparse.Namespace,
    exp: config.Experiment,
    pairs: Pairs,
    skipped: list[dict[str, str]],
    out: Path,
    chosen: set[str],
) -> None:
    """Measure by each protocol into a folder of its own, and write the page that shows them side by side.

    Raises ConfigError, after that, where a protocol was left out because its files are missing or damaged."""
    wanted = protocols.named(args.protocol)
    taken = sorted(chosen & {f"eval.{role}" for role in (*Estimators.__dataclass_fields__, "flip")})
    if taken and any(protocol.metrics for protocol in wanted):
        options = ", ".join(f"--{key.removeprefix('eval.').replace('_', '-')}" for key in taken)
        raise ConfigError(
            f"--protocol: the protocols of others name their own estimators; leave out {options}, or measure them and "
            f"`ours` in two commands, each with its own --out"
        )
    asked = exp.eval.metrics if "eval.metrics" in chosen else None
    results: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for protocol in wanted:
        print(f"protocol {protocol.name}: {protocol.title}, {protocol.code}")
        changed, missing = protocols.applied(protocol, exp, pairs, asked)
        try:
            estimators = build.estimators(changed)
        except ValueError as error:  # a file is missing or damaged; other protocols have other files
            left_out[protocol.name] = f"{error}{protocols.remedy(protocol)}"
        if not changed.eval.metrics:
            left_out[protocol.name] = "; ".join(": ".join(one) for one in tables.grouped(missing).items())
        if protocol.name in left_out:
            print(f"protocol {protocol.name}: left out, since a file is missing or damaged; see the end")
            continue
        keys = chosen - {"eval.metrics"} if protocol.metrics else chosen
        for warning in protocols.warnings(protocol, pairs):
            print(f"! {warning}")
        by_protocol, folder = protocols.with_gallery(protocol, pairs), out / protocol.name
        same = by_protocol.hash == pairs.hash  # swaps of another gallery are kept apart, since its hash names them
        swaps = out / "swaps" if same else folder / "swaps"
        results[protocol.name] = _evaluate(
            args, changed, estimators, by_protocol, skipped, folder, keys, protocol.values, swaps, missing
        )
    if results:
        write_text(out / "protocols.md", protocols.page(results, pairs, left_out))
        print(out / "protocols.md")
    if left_out:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ConfigError(f"--protocol: {len(left_out)} of {len(wanted)} left out: {reasons}")


def _trained_encoder(names: Sequence[str]) -> str:
    """The identity encoder that the files of the measured students name. Raises ConfigError unless it is one."""
    files = [path for path in map(os.path.expanduser, names) if path.endswith(".safetensors") and Path(path).is_file()]
    encoders = sorted({encoder for path in files if (encoder := build.encoder_of(path)) is not None})
    if len(encoders) != 1:
        which = f"the students name several ({', '.join(encoders)})" if encoders else "no measured file names one"
        raise ConfigError(
            f"--metrics fooling_gap: which encoder trained is not known: {which}; name it (--trained-encoder NAME)"
        )
    return encoders[0]


def _evaluate(
    args: argparse.Namespace,
    exp: config.Experiment,
    estimators: Estimators,
    pairs: Pairs,
    skipped: list[dict[str, str]],
    out: Path,
    chosen: set[str],
    values: Collection[str] | None = None,
    swaps_folder: Path | None = None,
    missing: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Measure, write and print; returns the content of metrics.json. values: the only ones to keep. missing: metrics
    that lack a file, with the reason."""
    for line in skipped[:5]:
        print(f"skipped {line['what']}: {line['reason']}")
    if skipped:
        print(f"{len(skipped)} skipped in all, {len(pairs)} pairs left")
    device, rows, names = "cuda" if torch.cuda.is_available() else "cpu", {}, {}
    for argument in args.swappers:
        swapper = swappers.by_name(argument, exp, pairs, device, args.names)
        name, number = swapper.name, 1
        while name in rows:
            number += 1
            name = f"{swapper.name}-{number}"
        rows[name] = swapper
        names.setdefault(argument, name)
        if getattr(swapper, "naming", swappers.OWN) not in (swappers.OWN, "pairs"):
            print(f"{argument}: pictures named by {swapper.naming}")
    if exp.eval.reference in names:  # a file or a folder, as the command names it
        exp = replace(exp, eval=replace(exp.eval, reference=names[exp.eval.reference]))
    pairs, rows, left_out = _without_missing(pairs, rows, args.skip_missing)
    not_measured = unmeasurable(exp.eval.metrics, rows, pairs, device)
    if not_measured and "eval.metrics" in chosen:
        raise ConfigError(f"--metrics: nothing to measure for {listed(not_measured)}; leave out these metrics")
    path = out / "metrics.json"
    before = read_record(path) if path.is_file() else {"rows": {}}
    if dropped := before["rows"].keys() - rows.keys():
        print(f"{path}: overwritten, without {', '.join(sorted(dropped))}; to keep them, give another --out")
    content, swaps = measure(
        exp, rows, pairs, estimators, [*skipped, *left_out], out, device, values=values, swaps_folder=swaps_folder,
        missing=missing,
    )  # fmt: skip
    others = [name for name in rows if before.get("keys", {}).get(name, content["keys"][name]) != content["keys"][name]]
    if others:
        print(f"{path}: {', '.join(others)}: measured anew, as networks, pairs or estimators are others than before")
    write_grid(out / "grid.png", pairs, swaps, exp.eval.pictures)
    flipped = " with mirrored images" if exp.eval.flip else ""
    read_by = f", recogniser {estimators.recogniser.name}{flipped}" if estimators.recogniser else ""
    print(f"{len(pairs)} pairs, gallery of {len(pairs.gallery)}{read_by}")
    print(tables.as_text(content["rows"], content["differences"]))
    print(*tables.notes(content), sep="\n")
    for warning in content["verdicts"]:
        print(f"! {warning}")
    print(path, out / "grid.png", sep="\n")
    return content


def _without_missing(
    pairs: Pairs, rows: Mapping[str, Any], skip: bool
) -> tuple[Pairs, dict[str, Any], list[dict[str, str]]]:
    """Leave out the pairs that a folder of finished swaps has no swap for; they are the third result, with the reason.

    Raises ConfigError unless `skip`."""
    finished = {name: row for name, row in rows.items() if isinstance(row, FinishedSwaps)}
    missing = {i for row in finished.values() for i in row.missing}
    if not missing:
        return pairs, dict(rows), []
    text = "; ".join(
        f"{name} lacks {len(row.missing)} of {len(pairs)} swaps ({shortened([row.names[i] for i in row.missing])})"
        for name, row in finished.items()
        if row.missing
    )
    if not skip:
        raise ConfigError(f"{text}; finish them, or give --skip-missing to leave these pairs out for every swapper")
    print(f"left out: {text}")
    reasons = [
        {"what": row.names[i], "reason": f"no such swap of {name}"}
        for name, row in finished.items()
        for i in row.missing
    ]
    left = [i for i in range(len(pairs)) if i not in missing]
    kept = {n: replace(row, swaps=row.swaps[left], missing=()) for n, row in finished.items()}
    return pairs.subset(left), {**rows, **kept}, reasons


if __name__ == "__main__":
    sys.exit(main())
