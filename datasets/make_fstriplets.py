"""Write FSTriplets of synthetic people: `python datasets/make_fstriplets.py FOLDER [--people 50] [--images 4] ...`.

The folder has the layout that distill/data/fstriplets.py documents. Editor and face are the same renderer, so the edit
changes the numbers of EDITS and nothing else, and every GT is exact. Each person gets `--images` pictures in vanilla
and as many pairs in edited_target, and one pair in each of the eight other branches. The same command again goes on
where it was stopped; more people may be asked for.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder must not be searched for `synthetic`

import torch
from torch import Tensor
from tqdm import tqdm

from distill.data.synthetic import RENDERER_HASH, people, save_png
from swapcore.files import read_json, write_json
from teachers.exact import ATTRIBUTES, IDENTITY, render

CHUNK = 16  # pairs drawn at once

Change = Callable[[dict[str, Tensor]], Tensor]  # all numbers by name, each (n,) -> a new one


def apart(guide: str, middle: float, low: float, high: float) -> Change:
    """To the other side of the middle: who has it loses it, who lacks it gets it."""
    return lambda numbers: torch.where(numbers[guide] > middle, low, high)


def by(name: str, step: float, guide: str) -> Change:
    """A step up for whom the guide is low, down for whom it is high."""
    return lambda numbers: numbers[name] + torch.where(numbers[guide] > 0, -step, step)


Numbers = dict[str, Change | float]
HAIRY: Numbers = {"bald": 0.0}
HEAVY = "cheek_fullness"
# branch: what the original of a pair is made to be, and what the edit then changes. Numbers of teachers/exact/face.py.
EDITS: dict[str, tuple[Numbers, Numbers]] = {
    "source_as_gt/beard": ({"brow_darkness": 1.5}, {n: apart("beard", 0.3, -1.0, 2.3) for n in ("beard", "moustache")}),
    "source_as_gt/fat": ({}, {n: by(n, 1.8, HEAVY) for n in (HEAVY, "jaw_width", "jaw_corner", "neck_width")}),
    "target_as_gt/bald": (HAIRY, {"bald": 1.0}),
    "target_as_gt/grin": ({"smile": -0.1, "jaw": 0.0}, {"smile": 1.0, "jaw": 0.7}),
    "target_as_gt/forehead_hair_1": (HAIRY | {"hair_fringe": 0.3}, {"hair_fringe": 0.9}),
    "target_as_gt/forehead_hair_2": (
        HAIRY | {"hair_fringe": 0.3, "hair_line": 1.0},
        {"hair_line": 0.0, "hair_part": apart("hair_part", 0.5, 0.0, 1.0)},
    ),
    "target_as_gt/glasses": ({"glasses": 0.0, "glasses_dark": 0.0}, {"glasses": 1.0}),
    "target_as_gt/sun_glasses": ({"glasses": 0.0, "glasses_dark": 1.0}, {"glasses": 1.0}),
}


def edited(identity: Tensor, attributes: Tensor, changes: Numbers) -> tuple[Tensor, Tensor]:
    """Both lists of numbers, (n, K) and (n, A), with some of them changed."""
    numbers = dict(zip((*IDENTITY, *ATTRIBUTES), torch.cat([identity, attributes], 1).unbind(1), strict=True))
    new = {name: change(numbers) if callable(change) else change for name, change in changes.items()}
    columns = [torch.as_tensor(new.get(name, number)).expand_as(number) for name, number in numbers.items()]
    return torch.stack(columns[: len(IDENTITY)], 1), torch.stack(columns[len(IDENTITY) :], 1)


def half_another(identity: Tensor, other: Tensor) -> Tensor:
    """The edit of edited_target: every other number of the person's identity is somebody else's."""
    return torch.where(torch.arange(identity.shape[1]) % 2 == 0, other, identity)


def write(folder: Path, count: int, images: int, size: int, seed: int, device: str) -> dict[str, int]:
    """Draw what is not there yet; pictures of each branch."""
    jobs: list[tuple[Path, Tensor, Tensor]] = []
    identity = people("fstriplets", seed, count, 1)[0]
    everyone = identity.repeat_interleave(images, 0)

    def add(branch: str, names: list[str], kind: str, numbers: tuple[Tensor, Tensor]) -> None:
        jobs.extend((folder / branch / f"{n}{kind}.png", i, a) for n, i, a in zip(names, *numbers, strict=True))

    def pairs(branch: str, names: list[str], before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> None:
        add(branch, names, ".original", before)
        add(branch, names, ".edited", after)

    names = [f"p{person:05d}" for person in range(count)]
    photos = [f"{name}/{image}" for name in names for image in range(images)]
    add("vanilla", photos, "", (everyone, people("fstriplets vanilla", seed, count, images)[1]))
    before = everyone, people("fstriplets edited_target", seed, count, images)[1]
    others = people("fstriplets others", seed, count * images, 1)[0]
    pairs("edited_target", photos, before, (half_another(everyone, others), before[1]))
    for branch, (needs, changes) in EDITS.items():
        before = edited(identity, people(f"fstriplets {branch}", seed, count, 1)[1], needs)
        pairs(branch, names, before, edited(*before, changes))

    todo = [job for job in jobs if not job[0].is_file()]
    with tqdm(total=len(todo), desc="draw faces", unit="image") as bar:
        for start in range(0, len(todo), CHUNK):
            paths, *numbers = zip(*todo[start : start + CHUNK], strict=True)
            image = render(*(torch.stack(n).to(device) for n in numbers), size).image
            pixels = image.add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
            for path, picture in zip(paths, pixels, strict=True):
                save_png(path, picture)
            bar.update(len(paths))
    branches = ["vanilla", "edited_target", *EDITS]
    return {b: sum(path.is_relative_to(folder / b) for path, _, _ in jobs) for b in branches}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--images", type=int, default=4, help="pictures of each person in vanilla and edited_target")
    parser.add_argument("--size", type=int, default=256, help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    for name, least in (("people", 1), ("images", 2), ("size", 16)):
        if getattr(args, name) < least:
            parser.error(f"--{name} must be at least {least}")
    made = {"images": args.images, "size": args.size, "seed": args.seed, "renderer": RENDERER_HASH}
    record = args.folder / "fstriplets.json"
    if record.is_file() and read_json(record) != made:
        parser.error(f"{args.folder}: made with other settings ({read_json(record)}); name another folder")
    write_json(record, made)
    counts = write(args.folder, args.people, args.images, args.size, args.seed, args.device)
    print(f"{sum(counts.values())} pictures of {args.people} people: {args.folder}")
    for branch, count in counts.items():
        print(f"  {branch:30} {count}")


if __name__ == "__main__":
    main()
