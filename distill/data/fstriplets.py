"""FSTriplets: folders, branches, shares and augmentation of the original project's data set.

After HoiM/MobileFSGAN @478175b, dataset/dataset.py. Its pictures were never released; `datasets/make_fstriplets.py`
writes such a folder of synthetic faces. Every picture is an aligned square crop; deeper subfolders are read too.

    FOLDER/vanilla/ANY.png                                plain photographs
    FOLDER/edited_target/PERSON/NAME.original.png         photographs of one person
    FOLDER/edited_target/PERSON/NAME.edited.png           each with its face edited
    FOLDER/source_as_gt/{beard,fat}/NAME.original.png     a photograph, and beside it
    FOLDER/source_as_gt/{beard,fat}/NAME.edited.png       the same with another beard or weight
    FOLDER/target_as_gt/{bald,grin,forehead_hair_1,forehead_hair_2,glasses,sun_glasses}/NAME.{original,edited}.png

edited_target may also have the original's layout: `edited_target/original/PERSON/NAME.png` and, for any number of
edits, `edited_target/edited/PERSON*/NAME.png`. A branch with share 0 may be absent.

As in the original, source and target of vanilla, vanilla_same and target_as_gt are augmented (and mirrored)
independently; in edited_target only the source is. gt is the augmented picture that it equals. `train.flip` mirrors
whole triplets. Differences: the two photographs of vanilla are never the same (the original draws with replacement),
and an occlusion is pasted over both target and gt, because the swap must keep it; without gt, over the target alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from distill.data.augment import Occlusions, augment
from distill.data.cache import Cached, Room, files_signature
from distill.data.renderer import refuse_other
from swapcore.files import read_record
from swapcore.images import DataError, decode, list_pictures, opened
from swapcore.terminal import nearest


@dataclass(frozen=True)
class Branch:
    """How a branch composes a triplet from the pictures in its folder."""

    folder: str
    source: Literal["first", "original", "edited", "either"]
    target: Literal["first", "second", "original", "edited", "other"]  # other: the one of the pair that is not source
    gt: Literal["source", "target", "original"] | None
    src_as_true: bool  # the source, not the target, is shown to the discriminator as real
    augmented: tuple[str, ...]  # of source and target


BOTH = ("source", "target")
# The original names one more branch, different_poses, with share 0 and without data. In edited_target `first` is one
# photograph of a person, `original` is another, and `edited` is that other one with its face edited.
BRANCHES = {
    # branch: folder, source, target, gt, src_as_true, augmented
    "vanilla": Branch("vanilla", "first", "second", None, True, BOTH),
    "vanilla_same": Branch("vanilla", "first", "first", "target", True, BOTH),
    "edited_target": Branch("edited_target", "first", "edited", "original", True, ("source",)),
    "beard": Branch("source_as_gt/beard", "original", "edited", "source", True, ()),
    "fat": Branch("source_as_gt/fat", "original", "edited", "source", True, ()),
    "bald": Branch("target_as_gt/bald", "edited", "original", "target", False, BOTH),
    "grin": Branch("target_as_gt/grin", "edited", "original", "target", False, BOTH),
    "forehead_hair_1": Branch("target_as_gt/forehead_hair_1", "either", "other", "target", False, BOTH),
    "forehead_hair_2": Branch("target_as_gt/forehead_hair_2", "either", "other", "target", False, BOTH),
    "glasses": Branch("target_as_gt/glasses", "either", "other", "target", False, BOTH),
    "sun_glasses": Branch("target_as_gt/sun_glasses", "either", "other", "target", False, BOTH),
}
FOLDERS = sorted({branch.folder for branch in BRANCHES.values()})
NEEDS = {"vanilla": "two pictures", "edited_target": "a person with two photographs, one of them edited"}
WITHOUT_DATA = "different_poses"
RECORD = "fstriplets.json"  # of datasets/make_fstriplets.py; a folder of photographs has none
ORIGINALS_OCCLUSIONS = "shapenet_png"  # the original keeps them in FOLDER; read only where data.occlusions names it

GREY_SHARE = {"source": 0.02, "target": 0.01}


class Choice(NamedTuple):
    """A sample before decoding: its branch, and indices into FSTriplets.files; gt is -1 where there is none."""

    branch: str
    source: int
    target: int
    gt: int


class Edited(NamedTuple):
    """A photograph, its edited versions and other photographs of the person, as indices into FSTriplets.files."""

    original: int
    edits: tuple[int, ...]
    others: tuple[int, ...] = ()


class FSTriplets:
    """Random samples of such a folder. The whole folder is validated first; pictures are decoded when drawn.

    shares: branch -> share, normalised. occlusions: folder of pictures with an alpha channel, pasted over
    `occlusion_share` of the samples. `counts`: branch -> number of pictures (vanilla) or pairs. Raises DataError naming
    the file or folder that is wrong.
    """

    def __init__(
        self, folder: str | Path, resolution: int, shares: dict[str, float], occlusions: str | None = None,
        occlusion_share: float = 0.0,
    ):  # fmt: skip
        self.folder, self.resolution, self.occlusion_share = Path(folder), resolution, occlusion_share
        _check_shares(shares)
        _check_folders(self.folder, occlusions)
        if (record := self.folder / RECORD).is_file():
            refuse_other(record, read_record(record).get("renderer"))
        self.files: list[Path] = []
        self.vanilla = self._add_files(list_pictures(self.folder / "vanilla")[0])
        self.pairs = {f: self._pairs(self.folder / f) for f in FOLDERS if "_as_gt/" in f}
        self.pairs["edited_target"] = self._people(self.folder / "edited_target")
        counts = {"vanilla": len(self.vanilla)} | {f: len(pairs) for f, pairs in self.pairs.items()}
        self.counts = {name: counts[branch.folder] for name, branch in BRANCHES.items()}
        self.branches = [name for name in BRANCHES if shares.get(name, 0) > 0]
        self.p = np.array([shares[name] for name in self.branches]) / sum(shares.values())
        for name in self.branches:
            self._check_branch(name)
        self.occlusions = Occlusions(occlusions, resolution) if occlusions and occlusion_share else None
        self.keep(Room("off"))

    def keep(self, room: Room, folder: Path | None = None) -> None:
        """Keep decoded pictures from now on, where there is room, or packed in `folder`; see Cached."""
        shape = (len(self.files), 3, *[self.resolution] * 2)
        self.pictures = Cached(self._load, shape, room, folder, "fstriplets", lambda: files_signature(self.files))

    def choose(self, rng: np.random.Generator) -> Choice:
        """Draw the branch and the files of a sample."""
        name = self.branches[rng.choice(len(self.branches), p=self.p)]
        branch = BRANCHES[name]
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
        """images (n, 3, 3, H, W) uint8 (source, target, gt), with_gt (n,) float32, src_as_true (n,) bool.

        Each sample depends on its own generator alone. gt is 0 everywhere where with_gt is 0.
        """
        choices = [self.choose(rng) for rng in draws]
        branches = [BRANCHES[choice.branch] for choice in choices]
        parts = [(c.source, c.target, c.gt if c.gt >= 0 else c.target) for c in choices]
        files, position = np.unique(parts, return_inverse=True)  # decode no file twice
        images = self.pictures[files.tolist()][torch.from_numpy(position.reshape(-1, 3))]
        for part, name in enumerate(BOTH):
            rows = [i for i, branch in enumerate(branches) if name in branch.augmented]
            images[rows, part] = augment(images[rows, part], [draws[i] for i in rows], GREY_SHARE[name])
        for i, branch in enumerate(branches):
            if branch.gt in BOTH:
                images[i, 2] = images[i, BOTH.index(branch.gt)]
        if self.occlusions:
            rows = [i for i, rng in enumerate(draws) if rng.random() < self.occlusion_share]
            if rows:
                images[rows, 1:] = self.occlusions.paste(images[rows, 1:], [draws[i] for i in rows])
        with_gt = torch.tensor([float(branch.gt is not None) for branch in branches])
        images[with_gt == 0, 2] = 0
        return images, with_gt, torch.tensor([branch.src_as_true for branch in branches])

    def _add_files(self, paths: Sequence[Path]) -> list[int]:
        """The indices of these paths in `files`."""
        start = len(self.files)
        self.files.extend(paths)
        return list(range(start, len(self.files)))

    def _pairs(self, folder: Path) -> list[Edited]:
        """Every NAME.original.EXT with its NAME.edited.EXT."""
        files, pairs = set(list_pictures(folder)[0]), []
        for path in sorted(files):
            match = re.fullmatch(r"(.+)\.(original|edited)\.([^.]+)", path.name)
            if match is None:
                raise DataError(f"{path}: neither NAME.original.EXT nor NAME.edited.EXT")
            name, kind, ext = match.groups()
            other = path.with_name(f"{name}.{'edited' if kind == 'original' else 'original'}.{ext}")
            if other not in files:
                raise DataError(f"{path}: has no partner {other.name}")
            if kind == "original":
                original, edited = self._add_files([path, other])
                pairs.append(Edited(original, (edited,)))
        return pairs

    def _people(self, folder: Path) -> list[Edited]:
        """The pairs of edited_target, each with the other photographs of its person."""
        if (folder / "original").is_dir() or (folder / "edited").is_dir():
            return self._two_trees(folder)
        people: dict[str, list[Edited]] = {}
        for pair in self._pairs(folder):
            people.setdefault(_person(self.files[pair.original], folder), []).append(pair)
        originals = {person: [pair.original for pair in pairs] for person, pairs in people.items()}
        return [p._replace(others=_others(p.original, originals[k])) for k, pairs in people.items() for p in pairs]

    def _two_trees(self, folder: Path) -> list[Edited]:
        """edited_target in the original's layout; photographs without an edit are sources only."""
        people: dict[str, dict[Path, int]] = {}
        edits: dict[tuple[str, Path], list[int]] = {}
        for path in list_pictures(folder / "original")[0]:
            person = _person(path, folder / "original")
            name = path.relative_to(folder / "original" / person)
            people.setdefault(person, {})[name] = self._add_files([path])[0]
        for path in list_pictures(folder / "edited")[0]:
            subfolder = _person(path, folder / "edited")
            person = max((p for p in people if subfolder.startswith(p)), key=len, default=None)
            name = path.relative_to(folder / "edited" / subfolder)
            if person is None or name not in people[person]:
                raise DataError(f"{path}: has no partner original/{person or 'PERSON'}/{name}")
            edits.setdefault((person, name), []).extend(self._add_files([path]))
        return [
            Edited(people[person][name], tuple(edited), _others(people[person][name], people[person].values()))
            for (person, name), edited in edits.items()
        ]

    def _check_branch(self, name: str) -> None:
        folder = BRANCHES[name].folder
        path = self.folder / folder
        if folder == "edited_target":
            enough = any(pair.others != (pair.original,) for pair in self.pairs[folder])
        else:
            enough = self.counts[name] >= (2 if folder == "vanilla" else 1)
        if not enough:
            present = f"{self.counts[name]} found" if path.is_dir() else "no such folder"
            needs = NEEDS.get(folder, "a pair NAME.original.EXT and NAME.edited.EXT")
            raise DataError(f"{path}: {present}; branch '{name}' needs {needs}, or set train.fstriplets.{name}=0")

    def _load(self, indices: Sequence[int]) -> torch.Tensor:
        with ThreadPoolExecutor(4) as pool:  # decoding releases the interpreter lock
            return torch.from_numpy(np.stack(list(pool.map(self._decode, indices))))

    def _decode(self, index: int) -> np.ndarray:
        path = self.files[index]
        pixels = decode(path, self.resolution)
        with opened(path) as picture:  # reads the header only
            if picture.width != picture.height:
                raise DataError(f"{path}: {picture.width}x{picture.height} pixels, not a square crop")
        return pixels


def _person(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder).parts
    if len(parts) < 2:
        raise DataError(f"{path}: lies in no person's folder; edited_target needs {folder}/PERSON/{path.name}")
    return parts[0]


def _others(original: int, originals: Iterable[int]) -> tuple[int, ...]:
    """The other photographs of a person; as in the original, the same one where there is only one."""
    return tuple(o for o in originals if o != original) or (original,)


def _check_shares(shares: dict[str, float]) -> None:
    for name, share in shares.items():
        if name == WITHOUT_DATA and share:
            raise DataError(f"train.fstriplets.{name}: no such branch; the original names it, but has no data for it")
        if name not in BRANCHES and name != WITHOUT_DATA:
            raise DataError(f"train.fstriplets.{name}: no such branch{nearest(name, BRANCHES)}")
        if share < 0:
            raise DataError(f"train.fstriplets.{name}: expected a share of 0 or more, got {share}")
    if not sum(shares.values()):
        raise DataError("train.fstriplets: every share is 0")


def _check_folders(folder: Path, occlusions: str | None) -> None:
    if not folder.is_dir():
        raise DataError(f"data.fstriplets: {folder}: no such folder; expected {', '.join(FOLDERS)} in it")
    groups = sorted({f.split("/")[0] for f in FOLDERS if "/" in f})
    allowed = {Path(p).resolve() for p in (folder / ORIGINALS_OCCLUSIONS, occlusions) if p}
    for parent in (folder, *(folder / group for group in groups)):
        known = [f for f in [*FOLDERS, *groups] if (folder / f).parent == parent]
        for path in sorted(p for p in parent.glob("*") if p.is_dir() and p.name[0] != "."):
            name = path.relative_to(folder).as_posix()
            if name not in known and path.resolve() not in allowed:
                raise DataError(f"{path}: no folder of FSTriplets{nearest(name, known)}")
        for path in list_pictures(parent, deep=False)[0]:
            raise DataError(f"{path}: a picture that lies in no branch; expected folders {', '.join(known)}")
