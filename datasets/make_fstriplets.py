"""Write FSTriplets of synthetic people: `python datasets/make_fstriplets.py FOLDER [--people 50] [--images 4] ...`.

distill/data/fstriplets.py documents the layout of the folder. Faces and edits are drawn by one renderer, so an edit
changes the parameters in EDITS and nothing else, and every gt is exact. Each person has `--images` pictures in vanilla
and pairs in edited_target, and one pair in each of the eight other branches. The same command again continues where
it was stopped; `--people` may be raised.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder must not be searched for `synthetic`

from swapcore import start

start.command(__name__, resumes=True)

import torch
from torch import Tensor
from tqdm import tqdm

from distill.data.fstriplets import RECORD
from distill.data.synthetic import RENDERER, check_settings, people
from swapcore import terminal
from swapcore.images import save_png, to_uint8
from swapcore.locks import folder_lock
from teachers.exact import ATTRIBUTES, IDENTITY, LARGEST, SMALLEST, render

CHUNK = 16  # pairs drawn at once

Change = Callable[[dict[str, Tensor]], Tensor]  # all parameters by name, each (n,) -> the new value of one, (n,)


def opposite(guide: str, middle: float, low: float, high: float) -> Change:
    """`low` where the parameter `guide` is above `middle`, else `high`: removes a beard, or adds one."""
    return lambda values: torch.where(values[guide] > middle, low, high)


def shifted(name: str, step: float, guide: str) -> Change:
    """The parameter `name` plus `step`, or minus it where `guide` is positive."""
    return lambda values: values[name] + torch.where(values[guide] > 0, -step, step)


def at_least(name: str, least: float) -> Change:
    """The parameter `name` without its sign, and not below `least`."""
    return lambda values: values[name].abs().clamp(min=least)


Changes = dict[str, Change | float]
WEIGHT = ("weight", "head_fat_incr", "cheek_volume_incr", "neck_double_incr")
MEN: Changes = {"gender": at_least("gender", 0.5)}  # women have no beard
WITH_HAIR: Changes = {"bald": 0.0, "hair_back": 0.0, "hair_length": at_least("hair_length", 0.22)}
AT_REST: Changes = {name: 0.0 for name in ("smile", "jaw", "squint", "pucker", "frown", "sneer", "smirk")}
# branch -> changes of the original picture, changes of the edit; parameters of teachers/exact/face.py.
EDITS: dict[str, tuple[Changes, Changes]] = {
    "source_as_gt/beard": (
        MEN | {"brow_dark": 1.5},
        {"beard": opposite("beard", 0.25, -1.0, 1.8), "moustache": -1.0},
    ),
    "source_as_gt/fat": ({}, {name: shifted(name, 1.8, "weight") for name in WEIGHT}),
    "target_as_gt/bald": (WITH_HAIR, {"bald": 1.0}),
    "target_as_gt/grin": (AT_REST, {"smile": 1.0, "jaw": 0.3, "squint": 0.5}),
    "target_as_gt/forehead_hair_1": (WITH_HAIR | {"hair_fringe": 0.0}, {"hair_fringe": 0.9}),
    "target_as_gt/forehead_hair_2": (
        WITH_HAIR | {"hair_fringe": 0.0, "hair_line": 1.2},
        {"hair_line": -0.4, "hair_part": opposite("hair_part", 0.0, -0.3, 0.3)},
    ),
    "target_as_gt/glasses": ({"glasses": 0.0, "glasses_dark": 0.0}, {"glasses": 1.0}),
    "target_as_gt/sun_glasses": ({"glasses": 0.0, "glasses_dark": 1.0}, {"glasses": 1.0}),
}


def edited(identity: Tensor, attributes: Tensor, changes: Changes) -> tuple[Tensor, Tensor]:
    """Identity (n, K) and attributes (n, A) with some parameters changed."""
    values = dict(zip((*IDENTITY, *ATTRIBUTES), torch.cat([identity, attributes], 1).unbind(1), strict=True))
    new = {name: change(values) if callable(change) else change for name, change in changes.items()}
    columns = [torch.as_tensor(new.get(name, value)).expand_as(value) for name, value in values.items()]
    return torch.stack(columns[: len(IDENTITY)], 1), torch.stack(columns[len(IDENTITY) :], 1)


def half_another(identity: Tensor, other: Tensor) -> Tensor:
    """The edit of edited_target: every second identity parameter is another person's."""
    return torch.where(torch.arange(identity.shape[1]) % 2 == 0, other, identity)


def write(folder: Path, count: int, images: int, size: int, seed: int, device: str) -> dict[str, int]:
    """Draw the missing pictures; returns the number of pictures of each branch."""
    jobs: list[tuple[Path, Tensor, Tensor]] = []
    identity = people("fstriplets", seed, count, 1)[0]
    everyone = identity.repeat_interleave(images, 0)

    def add(branch: str, names: list[str], kind: str, parameters: tuple[Tensor, Tensor]) -> None:
        jobs.extend((folder / branch / f"{n}{kind}.png", i, a) for n, i, a in zip(names, *parameters, strict=True))

    def pairs(branch: str, names: list[str], before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> None:
        add(branch, names, ".original", before)
        add(branch, names, ".edited", after)

    names = [f"p{person:05d}" for person in range(count)]
    photos = [f"{name}/{image}" for name in names for image in range(images)]
    add("vanilla", photos, "", (everyone, people("fstriplets vanilla", seed, count, images)[1]))
    before = everyone, people("fstriplets edited_target", seed, count, images)[1]
    others = people("fstriplets others", seed, count * images, 1)[0]
    pairs("edited_target", photos, before, (half_another(everyone, others), before[1]))
    for branch, (preparation, changes) in EDITS.items():
        before = edited(identity, people(f"fstriplets {branch}", seed, count, 1)[1], preparation)
        pairs(branch, names, before, edited(*before, changes))

    todo = [job for job in jobs if not job[0].is_file()]
    with tqdm(total=len(todo), desc="draw faces", unit="image") as bar:
        for start in range(0, len(todo), CHUNK):
            paths, *parameters = zip(*todo[start : start + CHUNK], strict=True)
            image = render(*(torch.stack(p).to(device) for p in parameters), size).image
            for path, picture in zip(paths, to_uint8(image).cpu(), strict=True):
                save_png(picture, path, compress_level=1)
            bar.update(len(paths))
    branches = ["vanilla", "edited_target", *EDITS]
    return {b: sum(path.is_relative_to(folder / b) for path, _, _ in jobs) for b in branches}


def main() -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("folder", type=Path, help="output folder")
    parser.add_argument("--people", type=terminal.whole(1), default=50, help="number of people; default: 50")
    parser.add_argument(
        "--images", type=terminal.whole(2), default=4, help="per person in vanilla and edited_target; default: 4"
    )
    text = f"side in pixels, {SMALLEST} to {LARGEST}; default: 256"
    parser.add_argument("--size", type=terminal.whole(SMALLEST, LARGEST), default=256, help=text)
    parser.add_argument("--seed", type=terminal.whole(0), default=0, help="seed of people and pictures; default: 0")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    return terminal.run_command(lambda: make(args))


def make(args: argparse.Namespace) -> None:
    settings = {"renderer": RENDERER, "images": args.images, "size": args.size, "seed": args.seed}
    with folder_lock(args.folder):
        check_settings(args.folder / RECORD, settings)
        counts = write(args.folder, args.people, args.images, args.size, args.seed, args.device)
    print(f"{sum(counts.values())} pictures of {args.people} people: {args.folder}")
    for branch, count in counts.items():
        print(f"  {branch:30} {count}")


if __name__ == "__main__":
    sys.exit(main())
