"""Does the benchmark's recogniser agree with one of another architecture, seed and people?

python experiments/second_recogniser.py train second.safetensors       # minutes on a GPU, hours on a CPU
python experiments/second_recogniser.py agree second.safetensors STUDENT.safetensors [...]

train: a small ResNet learns to tell drawn people apart, from 24,000 people whom no other network has seen.

agree: ID top-1 of students, of the exact swaps and of another picture of the source (copy-source), by the recogniser of
the benchmark, by the second one and by the encoder that trains students, on the same pairs of people never seen.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from swapcore import start

start.command(__name__)

import torch

from distill import config, pretrain
from distill.evaluate import swappers
from eval.estimators import Estimator, Estimators
from eval.evaluation import Evaluation
from experiments.drawn_people import RECOGNISERS, drawn_pairs, estimator
from students.identity_encoder import CARDS, IdentityEncoder
from swapcore import terminal, weights
from swapcore.files import write_json
from swapcore.hardware import environment

SEED, PEOPLE, STEPS, WIDTH = 505, 24000, 16000, 32
CARD = replace(
    CARDS["synthetic_identity"], name="second_recogniser",
    options={"embedding_dim": 64, "width": WIDTH, "input_size": (64, 64)},
)  # fmt: skip


def train(args: argparse.Namespace) -> None:
    """Train the second recogniser; writes FILE and a record beside it."""
    card = replace(CARD, file=args.file.name)
    recipe = pretrain.Recipe(card, args.file.parent, SEED, "identity", args.steps)
    args.file.parent.mkdir(parents=True, exist_ok=True)
    settings = argparse.Namespace(
        network="identity_encoder", people=args.people, steps=args.steps, batch=96, lr=3e-3, seed=SEED,
        out=args.file.parent,
    )  # fmt: skip
    pretrain.pretrain(settings, recipe)


def second(file: Path) -> Estimator:
    """The recogniser in a file that `train` wrote. Raises ValueError, FileNotFoundError."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; train it first (second_recogniser.py train {file})")
    encoder = IdentityEncoder(CARD)
    weights.load_strictly(encoder.network, weights.read_state(file), f"{file}: not the second recogniser")
    return replace(
        estimator("recogniser", "synthetic_identity"), name=CARD.name, network=encoder.eval(),
        weight_hash=weights.sha256(file)[:16],
    )  # fmt: skip


@torch.inference_mode()
def agree(args: argparse.Namespace) -> None:
    """Print the table of ID top-1 by each recogniser, and write it as JSON."""
    networks = {name: estimator("recogniser", name) for name in RECOGNISERS} | {CARD.name: second(args.file)}
    pairs = drawn_pairs(args.size, args.gallery, args.pairs, args.seed, ())
    rows: dict[str, Any] = {"exact": pairs.exact, "copy-source": pairs.source}
    for path in args.students:
        student = swappers.by_name(str(path), config.default("agree", []), pairs, "cpu")
        rows[str(path)] = Evaluation(pairs, Estimators()).swap(student)
    found: dict[str, dict[str, Any]] = {row: {} for row in rows}
    for name, network in networks.items():
        evaluation = Evaluation(pairs, Estimators(recogniser=network), interval="people")
        for row, swaps in rows.items():
            value = evaluation.measure(row, ["id_retrieval"], swaps=swaps)["id_retrieval_top1_pct"]
            found[row][name] = {"value": value.value, "interval": value.interval}
    table = [["ID top-1 %", *networks]]
    for row, values in found.items():
        table.append([row, *("{value:.1f} ({interval[0]:.1f}-{interval[1]:.1f})".format(**v) for v in values.values())])
    print(terminal.markdown_table(table))
    facts = {"pairs": args.pairs, "gallery": args.gallery, "size": args.size, "seed": args.seed}
    write_json(args.out, {**facts, "rows": found, "environment": environment()})
    print(args.out)


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    kinds = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    one = kinds.add_parser("train", help="train the second recogniser")
    one.add_argument("file", type=Path, metavar="FILE.safetensors")
    one.add_argument("--people", type=terminal.whole(64), default=PEOPLE, help=f"default: {PEOPLE}")
    one.add_argument("--steps", type=terminal.whole(1), default=STEPS, help=f"default: {STEPS}")
    one = kinds.add_parser("agree", help="compare the recognisers on students")
    one.add_argument("file", type=Path, metavar="FILE.safetensors")
    one.add_argument("students", type=Path, nargs="*", metavar="STUDENT")
    one.add_argument("--pairs", type=terminal.whole(1), default=1024, help="default: 1024")
    one.add_argument("--gallery", type=terminal.whole(2), default=64, help="number of people; default: 64")
    one.add_argument("--size", type=terminal.whole(16, 4096), default=96, help="side in pixels; default: 96")
    one.add_argument("--seed", type=terminal.whole(0), default=0, help="of people and pairs; default: 0")
    default = Path("runs/drawn_people/agree.json")
    one.add_argument("--out", type=Path, default=default, help=f"default: {default}")
    args = parser.parse_args(arguments)
    return terminal.run_command(lambda: {"train": train, "agree": agree}[args.command](args))


if __name__ == "__main__":
    sys.exit(main())
