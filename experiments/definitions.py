"""Measure the same swaps by several definitions of the field's metrics, with the networks of this repository alone:

python experiments/definitions.py

The people are drawn, so the exact swap of every pair is known. Three swappers share all pictures: the exact swap, and
mixtures of it with the target, which keep 70 and 50 % of it. Only the definition changes: mirrored features, the size
of the gallery, the sources as gallery, people whom the gallery has twice, a mask before the recogniser, a wider crop,
exchanged colours, the root of a mean. The differences are those that papers have; see docs/protocols.md.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from swapcore import start

start.command(__name__)

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from distill import build, config
from distill.data import synthetic
from distill.data.photos import read_manifest
from distill.evaluate import protocols
from distill.evaluate.pairs import by_people, load
from eval.estimators import Estimator, Estimators, mirrored
from eval.evaluation import Evaluation
from eval.pairs import Pairs, inner_face, merged
from swapcore import terminal
from swapcore.files import whole_file, write_json
from swapcore.hardware import environment

SHARES = {"exact swap": 1.0, "70 % of it": 0.7, "50 % of it": 0.5}
COLOURS = ("#1d4ed8", "#0d9488", "#f59e0b")
HERE = "as this project"
Case = tuple[Pairs, Estimators]


def draw(people: int, pairs: int, side: int, seed: int) -> Pairs:
    """Pairs of people who were drawn, four pictures each."""
    with tempfile.TemporaryDirectory() as folder:
        synthetic.write(Path(folder), {"test": (people, 4)}, side, seed=seed, progress=False)
        photos = read_manifest(Path(folder), "test", side)
        return load(by_people("definitions", photos, pairs, seed, "synthetic people"), photos.root)[0]


def mixtures(pairs: Pairs) -> dict[str, Tensor]:
    """The swaps (N, 3, H, H) uint8 of each swapper."""
    target, exact = pairs.target.float(), pairs.exact.float()
    return {name: (target + share * (exact - target)).round().byte() for name, share in SHARES.items()}


def prepared(estimator: Estimator, prepare: Callable[[Tensor], Tensor], crop: str) -> Estimator:
    """An estimator whose pictures are changed before it sees them."""
    network = estimator.network
    return replace(estimator, network=lambda images: network(prepare(images)), crop=f"{crop}; {estimator.crop}")


def wider(images: Tensor, share: float = 0.85) -> Tensor:
    """The picture at `share` of its size, its border repeated around it: the face fills less of the frame."""
    side = images.shape[-1]
    inner = round(side * share)
    small = F.interpolate(images, (inner, inner), mode="bilinear", align_corners=False, antialias=True)
    before = (side - inner) // 2
    return F.pad(small, (before, side - inner - before, before, side - inner - before), mode="replicate")


def masked(pairs: Pairs) -> Callable[[Tensor], Tensor]:
    """Grey outside a square around eyes, nose and mouth."""
    mask = inner_face(replace(pairs, mask=None)).float()
    return lambda images: images * mask.to(images.device)


def of_first(pairs: Pairs, people: int) -> Pairs:
    """The first people of the gallery, and the pairs that have one of them as source."""
    kept = pairs.gallery_person[:people]
    part = pairs.subset(torch.isin(pairs.source_person, kept).nonzero().flatten().tolist())
    return replace(part, gallery=pairs.gallery[:people], gallery_person=kept)


def twice(pairs: Pairs, share: float = 0.5) -> tuple[Pairs, list[list[int]]]:
    """A gallery that has `share` of the people under a second name, with one of their target pictures; and the names
    that belong to one person."""
    names, rows, groups = int(max(pairs.gallery_person)) + 1, [], []
    for person in pairs.gallery_person[: round(share * len(pairs.gallery))].tolist():
        own = (pairs.target_person == person).nonzero().flatten().tolist()
        if own:
            groups.append([person, names + len(rows)])
            rows.append(own[0])
    second = torch.tensor([group[1] for group in groups])
    gallery = torch.cat([pairs.gallery, pairs.target[rows]])
    return replace(pairs, gallery=gallery, gallery_person=torch.cat([pairs.gallery_person, second])), groups


def of_identity(pairs: Pairs, estimators: Estimators) -> dict[str, Case]:
    """Pairs and estimators by the name of a definition of ID retrieval."""
    recogniser, people = estimators.recogniser, len(pairs.gallery)

    def read_by(other: Estimator) -> Case:
        return pairs, replace(estimators, recogniser=other)

    double, groups = twice(pairs)
    cases = {HERE: (pairs, estimators), "mirrored features too": read_by(mirrored(recogniser))}
    for size in (people // 2, people // 8):
        cases[f"gallery of {size} of {people} people"] = (of_first(pairs, size), estimators)
    sources = protocols.with_gallery(protocols.read()["reliableswap"], pairs)
    return cases | {
        "the sources as gallery": (sources, estimators),
        f"{len(groups)} people under two names": (double, estimators),
        "the two names merged": (merged(double, groups), estimators),
        "face masked": read_by(prepared(recogniser, masked(pairs), "masked")),
        "wider crop": read_by(prepared(recogniser, wider, "wider")),
        "colours exchanged": read_by(prepared(recogniser, lambda images: images.flip(1), "BGR")),
    }


def of_pose(pairs: Pairs, estimators: Estimators) -> dict[str, Case]:
    """The same of pose error."""
    pose = estimators.pose

    def read_by(other: Estimator) -> Case:
        return pairs, replace(estimators, pose=other)

    return {
        HERE: (pairs, estimators),
        "colours exchanged": read_by(prepared(pose, lambda images: images.flip(1), "BGR")),
        "wider crop": read_by(prepared(pose, wider, "wider")),
        "whole picture masked": read_by(prepared(pose, masked(pairs), "masked")),
    }


def measure(pairs: Pairs, estimators: Estimators) -> dict[str, dict[str, dict[str, float]]]:
    """Values by metric, definition and swapper: ID top-1 in %, pose error in degrees."""
    found: dict[str, dict[str, dict[str, float]]] = {"id_retrieval_top1_pct": {}, "pose_error_deg": {}}
    swaps = mixtures(pairs)
    for key, metric, cases in (
        ("id_retrieval_top1_pct", "id_retrieval", of_identity(pairs, estimators)),
        ("pose_error_deg", "pose_error", of_pose(pairs, estimators)),
    ):
        for name, (case, readers) in cases.items():
            evaluation = Evaluation(case, readers)
            # Cases of fewer pairs or of another order have their own targets: the mixtures are made of them again.
            own = swaps if len(case) == len(pairs) else mixtures(case)
            values = {row: evaluation.measure(row, [metric], swaps=images)[key] for row, images in own.items()}
            found[key][name] = {row: round(value.value, 3) for row, value in values.items()}
            if name == HERE and key == "pose_error_deg":
                squares = {row: (value.each.astype(float) ** 2).mean() ** 0.5 for row, value in values.items()}
                found[key]["root of the mean square"] = {row: round(float(v), 3) for row, v in squares.items()}
    return found


def plot(found: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """A row for each definition, a dot for each swapper."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained", dpi=130)
    panels = figure.subplots(1, 2, gridspec_kw={"width_ratios": (1.3, 1)})
    titles = {"id_retrieval_top1_pct": "ID top-1 %", "pose_error_deg": "pose error, degrees"}
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        names = list(found[key])[::-1]
        for colour, row in zip(COLOURS, SHARES, strict=True):
            places = [found[key][name][row] for name in names]
            axes.axvline(found[key][HERE][row], color=colour, linewidth=0.8, alpha=0.4)
            axes.scatter(places, range(len(names)), s=26, color=colour, label=row, zorder=3)
        axes.set_yticks(range(len(names)), names, fontsize=8)
        axes.set_title(title, fontsize=9, loc="left")
        axes.grid(axis="y", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="x", labelsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, frameon=False, loc="outside lower center", ncols=len(SHARES))
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def main() -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("--people", type=terminal.whole(16), default=128, help="people who are drawn (default: 128)")
    parser.add_argument("--pairs", type=terminal.whole(20), default=384, help="pairs (default: 384)")
    parser.add_argument("--side", type=terminal.whole(32), default=64, help="side of the pictures (default: 64)")
    parser.add_argument("--seed", type=terminal.whole(0), default=21, help="seed of people and pairs (default: 21)")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "results" / "definitions", help="folder")
    args = parser.parse_args()
    return terminal.run_command(lambda: write(args))


def write(args: argparse.Namespace) -> None:
    pairs = draw(args.people, args.pairs, args.side, args.seed)
    estimators = build.estimators(config.default("definitions", ["eval.metrics=[id_retrieval, pose_error]"]))
    found = measure(pairs, estimators)
    for key, cases in found.items():
        print(f"{key}: {', '.join(SHARES)}")
        for name, row in cases.items():
            print(f"  {name}: {', '.join(map(str, row.values()))}")
    facts = {"pairs": len(pairs), "people": len(pairs.gallery), "side": pairs.resolution, "pairs_hash": pairs.hash}
    write_json(args.out / "definitions.json", {**facts, "values": found, "environment": environment()})
    plot(found, args.out / "definitions.png")
    print(args.out / "definitions.json", args.out / "definitions.png", sep="\n")


if __name__ == "__main__":
    sys.exit(main())
