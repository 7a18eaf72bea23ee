"""Pairs that others chose, as lists for `python -m distill.evaluate`: a benchmark's file, or one's own CSV.

    casia     CASIA-NLPRAI/face-swapping-survey @716cc94: a line `{source} {target}` for each pair
    celebahq  Sanoojan/REFace @64615dc, ldm/data/test_bench_dataset.py: pictures 28000 to 28999 are targets, 29000 to
              29999 sources, one to one
    ffhq      the same with 68000 to 68999 and 69000 to 69999
    csv       columns source and target, and source_person and target_person where people have several pictures

The pictures are used as they lie in the folder, or aligned by landmarks. Landmarks come from files as the survey has
them, `{picture}.txt` with five lines `x y` in pixels, or from the detector.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from distill.data.faces import FaceFinder, align, detector_facts, keeps
from distill.evaluate.pairs import ALIGNED, AS_GIVEN, OF_OTHERS, OF_WHOLE, SOURCES, pair_list, save
from swapcore.files import sha256
from swapcore.images import DataError, decode, list_pictures, save_png
from swapcore.terminal import nearest

CASIA, CASIA_GALLERY = "CASIA FaceSwapping", "picture 0_0 of each person, which is also the source of some pairs"
NUMBERED = {"celebahq": ("CelebA-HQ", 28000), "ffhq": ("FFHQ", 68000)}
EACH = 1000  # targets, and sources, of the numbered lists
GIVEN, DETECTED = "from files", "by the detector"
BY_FILES = "by landmarks from files"


@dataclass(frozen=True)
class Couple:
    """Pictures by the names that a list has for them, with or without ending, and their people."""

    source: str
    target: str
    source_person: str
    target_person: str


@dataclass(frozen=True)
class Chosen:
    """gallery: picture and person; empty if the sources themselves are the gallery. protocol: facts of the list."""

    couples: Sequence[Couple]
    gallery: Sequence[tuple[str, str]] = ()
    definition: str = SOURCES
    protocol: dict[str, Any] = field(default_factory=dict)


def casia(pictures: Path, file: Path) -> Chosen:
    """The pairs of one of the survey's files. A person is what a name has before its first `-`.

    The gallery has `{person}-0_0` of everybody in the folder. Raises DataError naming file and line.
    """
    couples = []
    for number, line in enumerate(_lines(file), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise DataError(f"{file}: line {number}: expected `SOURCE TARGET`, got '{line.strip()[:80]}'")
        names = [_stem(word) for word in words]
        if foreign := [name for name in names if not name.partition("-")[2]]:
            raise DataError(
                f"{file}: line {number}: '{foreign[0]}' names no person; the survey's pictures are PERSON-A_B. For "
                f"pictures of other names write a CSV file: make_pairs.py csv"
            )
        couples.append(Couple(*names, *(name.partition("-")[0] for name in names)))
    gallery = [(p.stem, p.stem.partition("-")[0]) for p in list_pictures(pictures)[0] if p.stem.endswith("-0_0")]
    split = file.stem.removeprefix("image_pairs_").replace("_", "-").capitalize()
    return Chosen(couples, gallery, CASIA_GALLERY, {"dataset": CASIA, "split": split, "pairs_file": _digest(file)})


def numbered(kind: str) -> Chosen:
    """The pairs of `celebahq` or `ffhq`: number i of the targets with number i of the sources."""
    dataset, first = NUMBERED[kind]
    names = [(f"{first + EACH + i:05d}", f"{first + i:05d}") for i in range(EACH)]
    rule = f"target {first} + i and source {first + EACH} + i"
    return Chosen([Couple(s, t, s, t) for s, t in names], protocol={"dataset": dataset, "pairs": rule})


def from_csv(file: Path, gallery: Path | None = None) -> Chosen:
    """The pairs of a CSV file with a header. gallery: a CSV file with the columns picture and person.

    Without columns of people, each picture is a person. Raises DataError naming file, line and column.
    """
    couples = []
    for number, row in _rows(file, ("source", "target")):
        source, target = _stem(row["source"]), _stem(row["target"])
        people = [row.get(f"{end}_person") or name for end, name in (("source", source), ("target", target))]
        couples.append(Couple(source, target, *people))
        if couples[-1].source_person == couples[-1].target_person:
            raise DataError(f"{file}: line {number}: source and target are one person, '{people[0]}'")
    facts = {"dataset": file.stem, "pairs_file": _digest(file)}
    if gallery is None:
        return Chosen(couples, protocol=facts)
    known = [(_stem(row["picture"]), row["person"]) for _, row in _rows(gallery, ("picture", "person"))]
    return Chosen(couples, known, f"one picture a person, of {gallery.name}", facts)


def every(chosen: Chosen, step: int) -> Chosen:
    """Every `step`-th pair, which the protocol then says."""
    if step == 1:
        return chosen
    return replace(chosen, couples=chosen.couples[::step], protocol={**chosen.protocol, "every": step})


def write(
    name: str, chosen: Chosen, pictures: Path, out: Path, *, resolution: int = 256, landmarks: Path | None = None,
    find_face: FaceFinder | None = None, aligned: bool = False, masks: Path | None = None,
) -> Path:  # fmt: skip
    """Write OUT/pairs.json and, if `aligned`, the crops that it names; returns the path of the list.

    landmarks: folder of landmark files; find_face: the detector where there is no such folder. Without both, the
    pictures count as canonical crops. masks: folder of parsing maps, a grey picture of classes named as each picture.
    Pairs without a picture, landmarks, a map or a person in the gallery are skipped, with the reason. Raises DataError
    where no pair is left, and for masks of pictures that are to be aligned.
    """
    if masks is not None and aligned:
        raise DataError("--masks: parsing maps are of whole pictures, not of aligned crops; leave out --align")
    files = _by_stem(pictures)
    maps = {} if masks is None else {s: os.path.relpath(masks / p, pictures) for s, p in _by_stem(masks).items()}
    known = chosen.gallery or [(c.source, c.source_person) for c in chosen.couples]
    wanted = dict.fromkeys([*(n for c in chosen.couples for n in (c.source, c.target)), *(n for n, _ in known)])
    flaws: dict[str, str] = {}
    facts: dict[str, dict[str, Any]] = {}
    for stem in tqdm(wanted, desc="read landmarks" if not aligned else "align faces", unit="picture", leave=False):
        try:
            facts[stem] = _facts(stem, files, pictures, out, resolution, landmarks, find_face, aligned)
            if masks is not None:
                facts[stem]["parsing"] = _map_of(stem, maps, masks)
        except DataError as error:
            flaws[stem] = str(error)
    gallery: dict[str, str] = {}
    for picture, person in known:
        if picture not in flaws:
            gallery.setdefault(person, picture)
    pairs, skipped = [], []
    for i, c in enumerate(chosen.couples):
        reason = flaws.get(c.source) or flaws.get(c.target)
        if reason is None and c.source_person not in gallery:
            reason = f"no picture of person {c.source_person} in the gallery"
        if reason:
            skipped.append({"what": f"{c.source} onto {c.target}", "reason": reason})
        else:
            paths = (facts[c.source]["file"], facts[c.target]["file"])
            pairs.append((f"{i:05d}", *paths, c.source_person, c.target_person))
    if not pairs:
        first = f"; the first: {skipped[0]['what']}: {skipped[0]['reason']}" if skipped else ""
        raise DataError(f"{pictures}: none of {len(chosen.couples)} pairs is left{first}")
    by_points = ALIGNED if landmarks is None else BY_FILES
    protocol = {**chosen.protocol, "alignment": by_points if aligned else AS_GIVEN}
    if landmarks is not None or find_face is not None:
        protocol["landmarks"] = GIVEN if landmarks is not None else DETECTED
        protocol |= {} if landmarks is not None else detector_facts(find_face)
    if masks is not None:
        protocol["parsing"] = GIVEN
    protocol["swaps of others"] = OF_OTHERS if aligned else OF_WHOLE
    content = pair_list(
        name, resolution, protocol, chosen.definition, pairs,
        [(facts[picture]["file"], person) for person, picture in gallery.items()], skipped,
        holds_sources=not chosen.gallery or chosen.definition == CASIA_GALLERY,
        pictures={one["file"]: {k: v for k, v in one.items() if k != "file"} for one in facts.values()},
    )  # fmt: skip
    return save(content, out if aligned else pictures, out)


def _facts(
    stem: str, files: dict[str, Path], pictures: Path, out: Path, size: int, landmarks: Path | None,
    find_face: FaceFinder | None, aligned: bool,
) -> dict[str, Any]:  # fmt: skip
    """Of a picture: `file` in the list, and `origin`, `size` and `points`, landmarks in pixels, where they are known.
    `cropped` says that the file is a crop by these points. Raises DataError: no picture, no face, damaged landmarks."""
    within = files.get(stem)
    if within is None:
        raise DataError(f"{stem}: no such picture")
    facts: dict[str, Any] = {"origin": stem, "cropped": aligned}
    if landmarks is None and find_face is None:
        return {**facts, "file": within.as_posix()}
    path = pictures / within
    image = np.ascontiguousarray(decode(path).transpose(1, 2, 0))
    points = read_landmarks(landmarks / f"{stem}.txt") if landmarks is not None else find_face(image)
    if points is None:
        raise DataError(f"{stem}: no face found")
    facts |= {"size": [image.shape[1], image.shape[0]], "points": np.asarray(points, dtype=float).round(3).tolist()}
    if not aligned:
        return {**facts, "file": within.as_posix()}
    crop = Path("faces") / f"{stem}.png"
    made_from = {"size": size, "points": facts["points"], "picture": sha256(path)[:16]}
    if not keeps(out / crop, made_from, f"name another --out, or delete {out}"):
        try:
            face = align(image, np.array(facts["points"]), size)
        except ValueError as error:
            raise DataError(f"{stem}: {error}") from None
        save_png(face, out / crop, generated=False, made_from=made_from)
    return {**facts, "file": crop.as_posix()}


def _map_of(stem: str, maps: dict[str, str], folder: Path) -> str:
    """The parsing map of a picture, relative to the pictures. Raises DataError where there is none."""
    if stem not in maps:
        raise DataError(f"{stem}: no parsing map of this name in {folder}")
    return Path(maps[stem]).as_posix()


def read_landmarks(path: Path) -> np.ndarray:
    """The five points (5, 2) of a landmark file, in pixels. Raises DataError naming file and fault."""
    try:
        lines = [line.split()[:2] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        points = np.array(lines, dtype=float)
    except FileNotFoundError:
        raise DataError(f"{path}: no such landmark file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a landmark file: {error}") from None
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise DataError(f"{path}: expected five lines `x y`, got {len(lines)}")
    return points


def _by_stem(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their name without ending, relative to it. Raises DataError where two share one."""
    files: dict[str, Path] = {}
    for path in list_pictures(folder)[0]:
        within = path.relative_to(folder)
        if (first := files.setdefault(path.stem, within)) != within:
            raise DataError(f"{path}: a second picture named {path.stem}, beside {first}; keep one of them")
    if not files:
        raise DataError(f"{folder}: no pictures")
    return files


def _stem(name: str) -> str:
    """The name of a picture without folder and ending: `a/0041-0_0.png` -> `0041-0_0`."""
    return Path(name.strip()).stem


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file{_beside(file)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: not a list of pairs: {error}") from None


def _beside(file: Path) -> str:
    """The end of a message on a missing file: what is beside it, or that its folder is missing too."""
    if not file.parent.is_dir():
        return f", nor the folder {file.parent}; a path is relative to the folder in which you give the command"
    texts = sorted(p.name for p in file.parent.iterdir() if p.suffix.lower() in (".txt", ".csv") and p.is_file())
    return f" in {file.parent.resolve()}{nearest(file.name, texts) or '; there is no .txt or .csv file'}"


def _rows(file: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with their line numbers; each has a text in every one of `columns`."""
    reader = csv.DictReader(_lines(file))
    for column in columns:
        if column not in (reader.fieldnames or ()):
            raise DataError(f"{file}: no column '{column}'; expected a header with {', '.join(columns)}")
    rows = [(reader.line_num, {k: (v or "").strip() for k, v in row.items() if k}) for row in reader]
    for number, row in rows:
        for column in columns:
            if not row[column]:
                raise DataError(f"{file}: line {number}: {column}: empty")
    return rows


def _digest(file: Path) -> str:
    return f"{file.name}, sha256 {sha256(file)[:16]}"
