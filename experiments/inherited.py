"""Measure how much of a neural teacher's error its student inherits, in a finished run on synthetic people, where the
exact swap of every test pair is known:

python experiments/inherited.py experiments/distil_faceshifter.yaml [section.key=value ...] --control STUDENT

Error means swap - exact swap, pixel by pixel inside the inner face. The student's error on a pair is fitted by two
pictures, a * (the teacher's error on the same pair) + b * (target - exact swap): a is the share of the teacher's error
that the student repeats in the same place, b the share of the target that it left as it was. A control is a student of
the same kind that never saw the teacher: its a shows the errors that two networks share without teaching. With the
teacher's error on another pair, a should be 0.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from swapcore import start

start.command(__name__)

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from distill import config
from distill.evaluate import pairs, swappers
from eval import intervals
from eval.evaluation import Evaluation
from swapcore import terminal
from swapcore.files import whole_file, write_json
from swapcore.hardware import environment


@torch.inference_mode()
def errors(swapper, tests, batch: int = 32) -> Tensor:
    """swap - exact swap (N, 3, H, H) in [-1, 1] units, 0 outside the inner face."""
    swaps = Evaluation(tests, batch_size=batch).swap(swapper)
    return (swaps.float() - tests.exact.float()) / 127.5 * tests.mask


def fit(error: Tensor, teacher: Tensor, unswapped: Tensor) -> np.ndarray:
    """(N, 2) least squares per pair: error = a * teacher + b * unswapped."""
    basis = torch.stack([teacher.flatten(1), unswapped.flatten(1)], 2).double()
    return torch.linalg.lstsq(basis, error.flatten(1)[..., None].double()).solution[..., 0].numpy()


def size(error: Tensor, mask: Tensor) -> np.ndarray:
    """(N,) root mean square inside the inner face."""
    inside = 3 * mask.flatten(1).sum(1).clamp(min=1)
    return (error.square().flatten(1).sum(1) / inside).sqrt().numpy()


def mean_and_interval(values: np.ndarray) -> dict[str, float | list[float]]:
    """The mean and its 95 % interval by bootstrap over pairs."""
    low, high = intervals.bootstrap(values)
    return {"mean": round(float(values.mean()), 4), "interval": [round(float(low), 4), round(float(high), 4)]}


def measure(exp: config.Experiment, control: Path | None) -> tuple[dict, dict[str, np.ndarray]]:
    """Numbers for JSON, and columns to plot. Raises ConfigError where there is no neural teacher or no exact swap."""
    tests, _ = pairs.test_pairs(exp)
    if tests.exact is None or tests.mask is None:
        raise config.ConfigError(f"{exp.name}: data.kind: expected synthetic, where the exact swap is known")
    rows = {k: v for k, v in swappers.of_experiment(exp, tests, "cpu").items() if not k.startswith(("copy-", "exact"))}
    if len(rows) != 2:
        raise config.ConfigError(f"{exp.name}: pseudo_gt.teachers: expected one neural teacher, got {list(rows)[:-1]}")
    teacher, student = (errors(swapper, tests) for swapper in rows.values())
    unswapped = (tests.target.float() - tests.exact.float()) / 127.5 * tests.mask
    sizes = {"teacher": size(teacher, tests.mask), "student": size(student, tests.mask)}
    sizes["target left as it is"] = size(unswapped, tests.mask)
    shares = {"student": fit(student, teacher, unswapped)}
    shares["student, teacher's error of another pair"] = fit(student, teacher.roll(1, 0), unswapped)
    if control:
        own = errors(swappers.by_name(str(control), exp, tests, "cpu"), tests)
        sizes["control"], shares["control"] = size(own, tests.mask), fit(own, teacher, unswapped)
    cosine = torch.cosine_similarity(student.flatten(1), teacher.flatten(1)).numpy()
    numbers = {
        "experiment": exp.name, "pairs": len(tests), "pairs_hash": tests.hash,
        "intervals": intervals.protocol("pairs"),
        "error_rms": {name: mean_and_interval(values) for name, values in sizes.items()},
        "share_of_teachers_error": {name: mean_and_interval(values[:, 0]) for name, values in shares.items()},
        "share_not_swapped": {name: mean_and_interval(values[:, 1]) for name, values in shares.items()},
        "cosine_of_errors": mean_and_interval(cosine),
        "correlation_of_sizes": round(float(np.corrcoef(sizes["teacher"], sizes["student"])[0, 1]), 4),
        "student_nearer_than_teacher_pct": round(100 * float((sizes["student"] < sizes["teacher"]).mean()), 1),
        "environment": environment(),
    }  # fmt: skip
    return numbers, {"sizes": sizes, "shares": {name: values[:, 0] for name, values in shares.items()}}


def plot(columns: dict, path: Path) -> None:
    figure = Figure(figsize=(9.2, 3.8), layout="constrained", dpi=130)
    left, right = figure.subplots(1, 2)
    sizes = columns["sizes"]
    left.scatter(sizes["teacher"], sizes["student"], s=9, color="#2563eb", alpha=0.6, linewidths=0)
    top = 1.05 * max(sizes["teacher"].max(), sizes["student"].max())
    left.plot([0, top], [0, top], color="#9ca3af", linewidth=1)
    left.set(xlim=(0, top), ylim=(0, top), xlabel="teacher's error", ylabel="student's error")
    left.set_title("RMS of swap - exact swap, inner face, one point per pair", fontsize=9, loc="left")
    colours = {"student": "#2563eb", "control": "#f59e0b"}
    values = {name: shares for name, shares in columns["shares"].items() if "another" not in name}
    values |= {"teacher of another pair": columns["shares"]["student, teacher's error of another pair"]}
    edges = np.linspace(min(v.min() for v in values.values()), max(v.max() for v in values.values()), 40)
    for name, shares in values.items():
        style = {"histtype": "step", "linewidth": 1.6, "color": colours.get(name, "#9ca3af")}
        right.hist(shares, edges, label=f"{name}: {shares.mean():.2f}", **style)
    right.legend(fontsize=8, frameon=False)
    right.set_xlabel("share of the teacher's error in the student's")
    right.set_title("share repeated in the same place, number of pairs", fontsize=9, loc="left")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def main() -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("experiment", help="YAML of a finished run with one neural teacher, on synthetic people")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="as in the command of the run")
    parser.add_argument("--full-size", action="store_true", help="as in the command of the run")
    parser.add_argument("--control", type=Path, help="a student of the same kind that was trained on exact swaps")
    parser.add_argument("--out", type=Path, help="output folder; default: experiments/results/NAME")
    args = parser.parse_intermixed_args()
    return terminal.run_command(lambda: write(args))


def write(args: argparse.Namespace) -> None:
    exp = config.load(args.experiment, args.overrides, args.full_size)
    torch.set_num_threads(exp.threads or torch.get_num_threads())
    numbers, columns = measure(exp, args.control)
    out = args.out or ROOT / "experiments" / "results" / exp.name
    write_json(out / "inherited.json", numbers)
    plot(columns, out / "inherited.png")
    for name in ("error_rms", "share_of_teachers_error", "share_not_swapped"):
        print(f"{name}: " + ", ".join(f"{k} {v['mean']} {tuple(v['interval'])}" for k, v in numbers[name].items()))
    for name in ("cosine_of_errors", "correlation_of_sizes", "student_nearer_than_teacher_pct"):
        print(f"{name}: {numbers[name]}")
    print(out / "inherited.json", out / "inherited.png", sep="\n")


if __name__ == "__main__":
    sys.exit(main())
