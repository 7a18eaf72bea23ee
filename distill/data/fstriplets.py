"""FSTriplets: the folder layout, branches, shares and augmentations of the original's own data.

Facts from HoiM/MobileFSGAN @478175b, dataset/dataset.py. Its pictures were never released; such a folder of synthetic
faces is made by `datasets/make_fstriplets.py`. Every picture is an aligned square crop; deeper subfolders are read too.

    FOLDER/vanilla/ANY.png                                plain photographs
    FOLDER/edited_target/PERSON/NAME.original.png         photographs of one person
    FOLDER/edited_target/PERSON/NAME.edited.png           each with its face edited
    FOLDER/source_as_gt/{beard,fat}/NAME.original.png     a photograph, and beside it
    FOLDER/source_as_gt/{beard,fat}/NAME.edited.png       the same with another beard or weight
    FOLDER/target_as_gt/{bald,grin,forehead_hair_1,forehead_hair_2,glasses,sun_glasses}/NAME.{original,edited}.png

edited_target may also be as the original's code reads it: `edited_target/original/PERSON/NAME.png` and, for any number
of edits, `edited_target/edited/PERSON*/NAME.png`. A branch with share 0 may be absent.

Augmented are, as in the original, source and target of vanilla, vanilla_same and target_as_gt, each by itself, mirror
included, and the source of edited_target; GT follows the picture it equals. To mirror whole triplets is `train.flip`.
Ours: the two photographs of vanilla always differ (the original draws with replacement), and an occlusion is pasted on
target and GT alike, so that the swap has to keep it; where there is no GT, on the target.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image

from distill.data.augment import Occlusions, augment
from distill.data.cache import Cached
from swapcore.images import SUFFIXES, DataError, decode


@dataclass(frozen=True)
class Branch:
    """How a branch makes a triplet of the pictures in its folder."""

    folder: str
    source: Literal["first", "original", "edited", "either"]
    target: Literal["first", "second", "original", "edited", "other"]  # other: of the pair, the one not the source
    gt: Literal["source", "target", "original"] | None
    with_gt: int
    src_as_true: bool  # the source, not the target, is shown to the discriminator as real
    augmented: tuple[str, ...]  # which of source and target, independently; GT = source or target follows it


BOTH = ("source", "target")
# The original's branches (HoiM/MobileFSGAN @478175b, dataset/dataset.py). It names one more, different_poses, with
# share 0 and never made it. In edited_target `first` is a photograph of a person, `edited` is another of that person
# with the face edited, `original` the latter as it was.
BRANCHES = {
    # branch: folder, source, target, gt, with_gt, src_as_true, augmented
    "vanilla": Branch("vanilla", "first", "second", None, 0, True, BOTH),
    "vanilla_same": Branch("vanilla", "first", "first", "target", 1, True, BOTH),
    "edited_target": Branch("edited_target", "first", "edited", "original", 1, True, ("source",)),
    "beard": Branch("source_as_gt/beard", "original", "edited", "source", 1, True, ()),
    "fat": Branch("source_as_gt/fat", "original", "edited", "source", 1, True, ()),
    "bald": Branch("target_as_gt/bald", "edited", "original", "target", 1, False, BOTH),
    "grin": Branch("target_as_gt/grin", "edited", "original", "target", 1, False, BOTH),
    "forehead_hair_1": Branch("target_as_gt/forehead_hair_1", "either", "other", "target", 1, False, BOTH),
    "forehead_hair_2": Branch("target_as_gt/forehead_hair_2", "either", "other", "target", 1, False, BOTH),
    "glasses": Branch("target_as_gt/glasses", "either", "other", "target", 1, False, BOTH),
    "sun_glasses": Branch("target_as_gt/sun_glasses", "either", "other", "target", 1, False, BOTH),
}
FOLDERS = sorted({branch.folder for branch in BRANCHES.values()})
NEEDS = {"vanilla": "two pictures", "edited_target": "a person with two photographs, one of them edited"}
NEVER_MADE = "different_poses"
ORIGINALS_OCCLUSIONS = "shapenet_png"  # may lie in FOLDER, as the original has it; read where data.occlusions says so

GREY_SHARE = {"source": 0.02, "target": 0.01}


class Choice(NamedTuple):
    """A sample before anything is decoded: its branch, and files by number; gt -1: none."""

    branch: str
    source: int
    target: int
    gt: int


class Edited(NamedTuple):
    """A pair of an edited branch: the photograph, its edits (one, or several), other photographs of the person."""

    original: int
    edits: tuple[int, ...]
    others: tuple[int, ...] = ()


class FSTriplets:
    """Samples of a folder of that layout, validated as a whole when it is opened; pictures are decoded when drawn.

    shares: branch -> share, normalised. occlusions: folder of pictures with an alpha channel, of which one is pasted
    on the target (and GT) of a share of the samples. Raises DataError naming the file or folder that is wrong.
    `counts`: branch -> pictures (vanilla) or pairs.
    """

    def __init__(
        self, folder: str | Path, resolution: int, shares: dict[str, float], occlusions: str | None = None,
        occlusion_share: float = 0.0,
    ):  # fmt: skip
        self.folder, self.resolution, self.occlusion_share = Path(folder), resolution, occlusion_share
        _refuse_bad_shares(shares)
        _refuse_unknown_folders(self.folder, occlusions)
        self.files: list[Path] = []
        self.vanilla = self._numbers(_pictures(self.folder / "vanilla"))
        self.pairs = {f: self._pairs(self.folder / f) for f in FOLDERS if "_as_gt/" in f}
        self.pairs["edited_target"] = self._people(self.folder / "edited_target")
        counts = {"vanilla": len(self.vanilla)} | {f: len(pairs) for f, pairs in self.pairs.items()}
        self.counts = {name: counts[branch.folder] for name, branch in BRANCHES.items()}
        self.branches = [name for name in BRANCHES if shares.get(name, 0) > 0]
        self.p = np.array([shares[name] for name in self.branches]) / sum(shares.values())
        for name in self.branches:
            self._refuse_poor(name)
        self.occlusions = Occlusions(occlusions, resolution) if occlusions and occlusion_share else None
        self.keep(0.0, share=False)

    def keep(self, limit_gb: float, share: bool) -> None:
        """Keep decoded pictures in memory from now on, if all fit into `limit_gb`; see Cached."""
        self.pictures = Cached(self._load, (len(self.files), 3, *[self.resolution] * 2), limit_gb, share)

    def choose(self, rng: np.random.Generator) -> Choice:
        """Draw the branch and the files of a sample."""
        name = self.branches[rng.choice(len(self.branches), p=self.p)]
        branch, role = BRANCHES[name], {}
        if branch.folder == "vanilla":
            first, second = rng.choice(len(self.vanilla), 2, replace=False)
            role = {"first": self.vanilla[first], "second": self.vanilla[second]}
        else:
            pairs = self.pairs[branch.folder]
            pair = pairs[rng.integers(len(pairs))]
            role = {"original": pair.original, "edited": pair.edits[rng.integers(len(pair.edits))]}
            if pair.others:
                role["first"] = pair.others[rng.integers(len(pair.others))]
            if branch.source == "either":
                role["either"], role["other"] = rng.permutation([role["original"], role["edited"]]).tolist()
        source, target = role[branch.source], role[branch.target]
        role |= {"source": source, "target": target}
        return Choice(name, source, target, role[branch.gt] if branch.gt else -1)

    def sample(self, draws: list[np.random.Generator]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """images (n, 3, 3, H, W) uint8: source, target, gt; with_gt (n,) float32; src_as_true (n,) bool.

        Each sample depends on its generator alone. gt is 0 where with_gt is 0.
        """
        choices = [self.choose(rng) for rng in draws]
        branches = [BRANCHES[choice.branch] for choice in choices]
        files, place = np.unique([c[1:] if c.gt >= 0 else (*c[1:3], c.target) for c in choices], return_inverse=True)
        images = self.pictures[files.tolist()][torch.from_numpy(place.reshape(-1, 3))]
        for part, name in enumerate(BOTH):
            some = [i for i, branch in enumerate(branches) if name in branch.augmented]
            images[some, part] = augment(images[some, part], [draws[i] for i in some], GREY_SHARE[name])
        for i, branch in enumerate(branches):
            if branch.gt in BOTH:
                images[i, 2] = images[i, BOTH.index(branch.gt)]
        if self.occlusions:
            some = [i for i, rng in enumerate(draws) if rng.random() < self.occlusion_share]
            if some:
                images[some, 1:] = self.occlusions.paste(images[some, 1:], [draws[i] for i in some])
        with_gt = torch.tensor([float(branch.with_gt) for branch in branches])
        images[with_gt == 0, 2] = 0
        return images, with_gt, torch.tensor([branch.src_as_true for branch in branches])

    def _numbers(self, paths: Sequence[Path]) -> list[int]:
        start = len(self.files)
        self.files.extend(paths)
        return list(range(start, len(self.files)))

    def _pairs(self, folder: Path) -> list[Edited]:
        """All NAME.original.EXT with their NAME.edited.EXT."""
        files, pairs = set(_pictures(folder)), []
        for path in sorted(files):
            match = re.fullmatch(r"(.+)\.(original|edited)\.([^.]+)", path.name)
            if match is None:
                raise DataError(f"{path}: neither NAME.original.EXT nor NAME.edited.EXT")
            name, kind, ext = match.groups()
            other = path.with_name(f"{name}.{'edited' if kind == 'original' else 'original'}.{ext}")
            if other not in files:
                raise DataError(f"{path}: has no partner {other.name}")
            if kind == "original":
                original, edited = self._numbers([path, other])
                pairs.append(Edited(original, (edited,)))
        return pairs

    def _people(self, folder: Path) -> list[Edited]:
        """Pairs of edited_target, each with the other photographs of its person; itself where there is none."""
        if (folder / "original").is_dir() or (folder / "edited").is_dir():
            return self._two_trees(folder)
        people: dict[str, list[Edited]] = {}
        for pair in self._pairs(folder):
            people.setdefault(_person(self.files[pair.original], folder), []).append(pair)
        originals = {person: [pair.original for pair in pairs] for person, pairs in people.items()}
        return [p._replace(others=_others(p.original, originals[k])) for k, pairs in people.items() for p in pairs]

    def _two_trees(self, folder: Path) -> list[Edited]:
        """edited_target as the original's code reads it; photographs without an edit are sources only."""
        people: dict[str, dict[Path, int]] = {}
        edits: dict[tuple[str, Path], list[int]] = {}
        for path in _pictures(folder / "original"):
            person = _person(path, folder / "original")
            name = path.relative_to(folder / "original" / person)
            people.setdefault(person, {})[name] = self._numbers([path])[0]
        for path in _pictures(folder / "edited"):
            of = _person(path, folder / "edited")
            person = max((p for p in people if of.startswith(p)), key=len, default=None)
            name = path.relative_to(folder / "edited" / of)
            if person is None or name not in people[person]:
                raise DataError(f"{path}: has no partner original/{person or 'PERSON'}/{name}")
            edits.setdefault((person, name), []).extend(self._numbers([path]))
        return [
            Edited(people[person][name], tuple(numbers), _others(people[person][name], people[person].values()))
            for (person, name), numbers in edits.items()
        ]

    def _refuse_poor(self, name: str) -> None:
        folder = BRANCHES[name].folder
        path = self.folder / folder
        if folder == "edited_target":
            enough = any(pair.others != (pair.original,) for pair in self.pairs[folder])
        else:
            enough = self.counts[name] >= (2 if folder == "vanilla" else 1)
        if not enough:
            found = f"{self.counts[name]} found" if path.is_dir() else "no such folder"
            needs = NEEDS.get(folder, "a pair NAME.original.EXT and NAME.edited.EXT")
            raise DataError(f"{path}: {found}; branch '{name}' needs {needs}, or set train.fstriplets.{name}=0")

    def _load(self, indices: Sequence[int]) -> torch.Tensor:
        with ThreadPoolExecutor(4) as pool:  # decoding leaves the interpreter's lock
            return torch.from_numpy(np.stack(list(pool.map(self._decode, indices))))

    def _decode(self, index: int) -> np.ndarray:
        path = self.files[index]
        pixels = decode(path, self.resolution)
        with Image.open(path) as picture:  # its header
            if picture.width != picture.height:
                raise DataError(f"{path}: {picture.width}x{picture.height} pixels, not a square crop")
        return pixels


def _pictures(folder: Path) -> list[Path]:
    """Pictures anywhere below a folder, sorted; hidden ones are half-written or another system's notes."""
    files = (p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.name[0] != ".")
    return sorted(p for p in files if not p.stem.endswith(".mask"))


def _person(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder).parts
    if len(parts) < 2:
        raise DataError(f"{path}: lies in no person's folder; edited_target needs {folder}/PERSON/{path.name}")
    return parts[0]


def _others(original: int, originals: Iterable[int]) -> tuple[int, ...]:
    """The other photographs of a person; as in the original, the same one where there is no other."""
    return tuple(o for o in originals if o != original) or (original,)


def _refuse_bad_shares(shares: dict[str, float]) -> None:
    for name, share in shares.items():
        if name not in BRANCHES and (share or name != NEVER_MADE):
            near = _nearest(name, [*BRANCHES]) if name != NEVER_MADE else "; the original names it and never made it"
            raise DataError(f"train.fstriplets.{name}: no such branch{near}")
        if share < 0:
            raise DataError(f"train.fstriplets.{name}: expected a share of 0 or more, got {share}")
    if not sum(shares.values()):
        raise DataError("train.fstriplets: every share is 0")


def _refuse_unknown_folders(folder: Path, occlusions: str | None) -> None:
    if not folder.is_dir():
        raise DataError(f"data.fstriplets: {folder}: no such folder; expected {', '.join(FOLDERS)} in it")
    groups = sorted({f.split("/")[0] for f in FOLDERS if "/" in f})
    apart = {Path(occlusions).resolve()} if occlusions else set()
    apart.add((folder / ORIGINALS_OCCLUSIONS).resolve())
    for parent in (folder, *(folder / group for group in groups)):
        known = [f for f in [*FOLDERS, *groups] if (folder / f).parent == parent]
        for path in sorted(p for p in parent.glob("*") if p.name[0] != "."):
            name = path.relative_to(folder).as_posix()
            if path.is_dir() and name not in known and path.resolve() not in apart:
                raise DataError(f"{path}: no folder of FSTriplets{_nearest(name, known)}")
            if path.is_file() and path.suffix.lower() in SUFFIXES:
                raise DataError(f"{path}: a picture that lies in no branch; expected folders {', '.join(known)}")


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known)}"
