"""Copy the small files of finished runs into the repository: `python experiments/keep.py runs/NAME [...]`

RESULTS/NAME gets experiment.yaml (resolved, without the folders of this machine), log.jsonl, metrics.json, run.json
(commit, hardware, minutes) and, if all people are synthetic, grid.png. An experiment with variants gives its
comparison, log.jsonl and run.json of every run and, if all people are synthetic, swaps.png.
"""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from swapcore import start

start.command(__name__)

import yaml

from distill import config
from swapcore import terminal
from swapcore.files import read_record, write_json, write_text

FOLDERS = ("photos", "heldout", "fstriplets", "occlusions")  # also where they are relative


def without_places(value):
    """The value of a key, without paths that only this machine has, in it or below it."""
    if isinstance(value, dict):
        return {key: without_places(own) for key, own in value.items()}
    if isinstance(value, list):
        return [without_places(own) for own in value]
    if not isinstance(value, str) or not (value.startswith(("/", "~")) or "://" in value):
        return value
    return "FILE" if Path(value).suffix else "FOLDER"


def keep(run: Path, out: Path) -> list[Path]:
    """Copy one run; returns the written files. Raises ValueError if the run is not finished."""
    if not (run / "experiment.yaml").is_file():
        raise ValueError(f"{run}: not a run, it has no experiment.yaml; expected a folder under runs/")
    tree = yaml.safe_load((run / "experiment.yaml").read_text(encoding="utf-8"))
    for key in FOLDERS:
        tree["data"][key] = tree["data"][key] and "FOLDER"
    tree |= {"weights": ["FOLDER"] if tree["weights"] else [], "runs": "runs"}
    tree["tracking"]["uri"] = "none"
    tree["student"]["weights"] = tree["student"].get("weights") and "FILE"
    tree = without_places(tree)
    written = [out / "experiment.yaml"]
    write_text(written[0], yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=120))
    children = [run / child.exp.name for child in config.children(config.load(run / "experiment.yaml"))]
    has_variants = bool(children)
    for child in children or [run]:
        if not (child / "metrics.json").is_file():
            raise ValueError(f"{child}: not finished, it has no metrics.json; run its command again")
        target = out / child.name if has_variants else out
        target.mkdir(parents=True, exist_ok=True)
        metrics = read_record(child / "metrics.json")
        shutil.copyfile(child / "train" / "log.jsonl", target / "log.jsonl")
        done = read_record(child / "train" / "done.json")
        facts = {key: metrics["environment"][key] for key in ("commit", "processor", "threads", "gpu", "torch")}
        trained = {"trained_at": done["commit"], "steps": done["steps"]}
        write_json(target / "run.json", {**facts, **trained, "minutes": metrics["minutes"]})
        if not has_variants:
            shutil.copyfile(child / "metrics.json", target / "metrics.json")
            written.append(target / "metrics.json")
        written += [target / "log.jsonl", target / "run.json"]
    pictures = ["comparison.json", "comparison.png", "comparison.md"] if has_variants else []
    if tree["data"]["kind"] == "synthetic":
        pictures.append("swaps.png" if has_variants else "eval/grid.png")
    for name in pictures:
        if (run / name).is_file():
            shutil.copyfile(run / name, out / Path(name).name)
            written.append(out / Path(name).name)
    return written


def main() -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--results", type=Path, default=ROOT / "experiments" / "results", help="output folder")
    parser.add_argument("--as", dest="name", help="name of the folder in RESULTS; default: the run's")
    args = parser.parse_args()
    return terminal.run_command(lambda: keep_all(args.runs, args.results, args.name))


def keep_all(runs: list[Path], results: Path, name: str | None) -> None:
    for run in runs:
        print(*keep(run, results / (name or run.name)), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
