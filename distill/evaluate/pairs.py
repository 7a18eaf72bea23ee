"""Pair lists: pairs of source and target, and the gallery in which the identity of a swap is searched.

A list is a folder with `pairs.json`: pictures by their path relative to it, their people, the gallery, the skipped
pictures with the reason, and the protocol. `datasets/make_pairs.py` writes lists, `python -m distill.evaluate SWAPPER
--pairs LIST` measures on them. The test pairs of an experiment are drawn in the same way and never written.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

import teachers
from distill.config import ConfigError, Experiment
from distill.data.photos import Photos, read_manifest
from distill.data.renderer import refuse_others
from eval.cards import CARDS
from eval.pairs import LANDMARKS, PARSING, REGIONS, Origin, Pairs, merged
from swapcore.decoding import named, opened
from swapcore.files import digest, read_json, write_json
from swapcore.images import SUFFIXES, DataError, decode, picture_side, resized, to_uint8
from swapcore.terminal import nearest
from teachers.exact import RENDERER, SEGMENTS, occluder_mask

FORMAT = 1
SMALLEST = 16  # pixels of a side
CHUNK = 64  # exact swaps drawn at once
# Texts of the protocol. They are stored in lists and results: another text makes values incomparable.
FIRST_PICTURE = "one picture per person, the first, never a source"
SOURCES = "the sources themselves: there is one picture per person"
SYNTHETIC, RENDERED, AS_GIVEN = "synthetic people", "rendered in the canonical frame", "as given"
ALIGNED = "by detected landmarks"
# Of swaps that others made, in lists of pairs that others chose.
OF_OTHERS = "of any size, in the frame of the target's picture; aligned by the target's landmarks"
OF_WHOLE = "of any size, in the frame of the target's picture; resized to the list's side"
LIST_AGAIN = "draw the people and write the list again"
REGION_OF = {
    "skin": "skin", "brows": "eyes", "eyes": "eyes", "lips": "mouth", "mouth": "mouth", "teeth": "mouth"
}  # fmt: skip
FACTS = ("mask", "identity", "attributes", "pose_deg", "renderer")  # columns of the manifest of synthetic pictures


def by_people(name: str, photos: Photos, count: int, seed: int, dataset: str) -> dict[str, Any]:
    """A list of `count` pairs of two people, drawn by seed; every person is the source equally often. The gallery holds
    the first picture of each person, sources and targets are the other pictures. Raises ConfigError for too few people.
    """
    people = list(photos.people.values())
    number = np.unique([row["person"] for row in photos.rows], return_inverse=True)[1]
    sources = [indices[1:] for indices in people if len(indices) > 1]
    targets = [indices[1:] or indices for indices in people]
    if len(people) < 2 or not sources:
        raise ConfigError(
            f"{photos.root}: {len(people)} people for evaluation, {len(sources)} of them with two pictures; two people "
            f"are needed at least, one of them with two pictures"
        )
    rng = np.random.default_rng((seed, 11))
    chosen = []
    for i in range(count):
        if i % len(sources) == 0:
            order = rng.permutation(len(sources))
        source = int(rng.choice(sources[order[i % len(sources)]]))
        target = source
        while number[target] == number[source]:
            target = int(rng.choice(targets[rng.integers(len(targets))]))
        chosen.append((source, target))
    protocol = {"dataset": dataset, "pairs": f"of two people, by seed {seed}, every person as source equally often"}
    return _listing(name, photos, chosen, [indices[0] for indices in people], protocol, FIRST_PICTURE)


def by_singles(name: str, photos: Photos, count: int, seed: int, dataset: str) -> dict[str, Any]:
    """A list of `count` pairs, drawn by seed, of pictures that all show different people. Every picture is a source
    once before any is used again. The gallery is the sources, since nobody has a second picture. Raises ConfigError for
    fewer than two pictures."""
    if len(photos) < 2:
        raise ConfigError(f"{photos.root}: {len(photos)} pictures; two people are needed at least")
    rng = np.random.default_rng((seed, 12))
    order = np.concatenate([rng.permutation(len(photos)) for _ in range(-(-count // len(photos)))])[:count]
    # An offset of 1 to n - 1 pictures from the source never gives the source itself.
    chosen = [(int(i), int((i + rng.integers(1, len(photos))) % len(photos))) for i in order]
    gallery = sorted({source for source, _ in chosen})
    protocol = {"dataset": dataset, "pairs": f"of two pictures, by seed {seed}"}
    return _listing(name, photos, chosen, gallery, protocol, SOURCES, holds_sources=True)


def _listing(name, photos, chosen, gallery, protocol, definition, holds_sources=False) -> dict[str, Any]:
    rows = photos.rows
    used = sorted({i for pair in chosen for i in pair} | set(gallery))
    files, people = ([row[key] for row in rows] for key in ("file", "person"))
    return pair_list(
        name,
        photos.resolution,
        protocol,
        definition,
        pairs=[(f"{i:05d}", files[s], files[t], people[s], people[t]) for i, (s, t) in enumerate(chosen)],
        gallery=[(files[i], people[i]) for i in gallery],
        holds_sources=holds_sources,
        pictures={files[i]: {k: rows[i][k] for k in FACTS if k in rows[i]} for i in used},
    )


def pair_list(
    name: str, resolution: int, protocol: dict[str, Any], definition: str, pairs: Sequence[tuple[str, ...]],
    gallery: Sequence[tuple[str, str]], skipped: Sequence[dict[str, str]] = (), holds_sources=False, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """The content of pairs.json. pairs: name, then files and people of source and target. gallery: files and people."""
    keys = ("name", "source", "target", "source_person", "target_person")
    return {
        "format": FORMAT, "name": name, "resolution": resolution, "protocol": protocol,
        "gallery_definition": definition, "gallery_holds_sources": holds_sources,
        "pairs": [dict(zip(keys, pair, strict=True)) for pair in pairs],
        "gallery": [{"file": file, "person": person} for file, person in gallery],
        "skipped": list(skipped), **more,
    }  # fmt: skip


def load(listing: dict[str, Any], root: Path, resolution: int | None = None) -> tuple[Pairs, list[dict]]:
    """Decode the pictures of a list, each once. Returns Pairs, and all skipped pictures with those that the list names.

    A pair with a missing or damaged picture is skipped. Raises DataError where a picture of the gallery is missing or
    damaged, and where no pair is left.
    """
    size = listing["resolution"] if resolution is None else resolution
    if size < SMALLEST:
        raise DataError(f"pairs '{listing['name']}': resolution: expected at least {SMALLEST} pixels, got {size}")
    named = [p[k] for p in listing["pairs"] for k in ("source", "target")] + [g["file"] for g in listing["gallery"]]
    files = list(dict.fromkeys(named))  # each once, in linear time: galleries have tens of thousands of pictures
    with ThreadPoolExecutor(4) as pool:  # decoding releases the interpreter lock
        decoded = pool.map(lambda file: _decode(root / file, size), files)
        few = len(files) < 1000
        bar = tqdm(decoded, desc="read pictures", total=len(files), unit="photo", leave=False, disable=few)
        images = dict(zip(files, bar, strict=True))
    flaws = {file: image for file, image in images.items() if isinstance(image, str)}
    if not listing["gallery"]:
        raise DataError(f"pairs '{listing['name']}': gallery: empty; write the list again, one picture of every person")
    for entry in listing["gallery"]:
        if entry["file"] in flaws:
            raise DataError(f"gallery, person {entry['person']}: {flaws[entry['file']]}")
    skipped, pairs = list(listing["skipped"]), []
    for pair in listing["pairs"]:
        reason = flaws.get(pair["source"]) or flaws.get(pair["target"])
        if reason:
            skipped.append({"what": pair["name"], "reason": reason})
        else:
            pairs.append(pair)
    if not pairs:
        first = f"; the first: {skipped[0]['what']}: {skipped[0]['reason']}" if skipped else ""
        raise DataError(f"pairs '{listing['name']}': none is left of {len(listing['pairs'])}{first}")
    number = {person: i for i, person in enumerate(_people(listing["pairs"], listing["gallery"]))}
    sources, targets = ([p[k] for p in pairs] for k in ("source", "target"))
    protocol = {**listing["protocol"], "gallery": listing["gallery_definition"], "skipped": len(skipped)}
    return Pairs(
        name=listing["name"],
        source=_stack(images, sources),
        target=_stack(images, targets),
        source_person=torch.tensor([number[p["source_person"]] for p in pairs]),
        target_person=torch.tensor([number[p["target_person"]] for p in pairs]),
        gallery=_stack(images, [g["file"] for g in listing["gallery"]]),
        gallery_person=torch.tensor([number[g["person"]] for g in listing["gallery"]]),
        names=tuple(p["name"] for p in pairs),
        gallery_holds_sources=listing["gallery_holds_sources"],
        protocol=protocol,
        **_synthetic_fields(listing.get("pictures", {}), sources, targets, root, size),
        **_origins(listing.get("pictures", {}), sources, targets, [g["file"] for g in listing["gallery"]]),
        **_parsing(listing, (sources, targets, [g["file"] for g in listing["gallery"]]), root, size),
    ), skipped


def _decode(path: Path, size: int) -> np.ndarray | str:
    """The picture, or the reason why it cannot be decoded."""
    try:
        return decode(path, size)
    except DataError as error:
        return str(error)


def _stack(images: dict[str, np.ndarray], files: Sequence[str]) -> torch.Tensor:
    return torch.from_numpy(np.stack([images[file] for file in files]))


def _synthetic_fields(
    pictures: dict[str, dict], sources: list[str], targets: list[str], root: Path, size: int
) -> dict[str, Any]:
    """The fields of Pairs that only synthetic pictures have: exact swaps and regions, true poses, masks, occluders."""
    if not all("identity" in pictures.get(file, {}) for file in (*sources, *targets)):
        return {"exact": None}
    rows = [[pictures[file] for file in column] for column in (sources, targets)]
    attributes = torch.tensor([row["attributes"] for row in rows[1]])
    masks = {row["mask"]: decode(root / row["mask"], size, "L") for row in rows[1]}
    exact, regions = drawn_swaps(*rows, size, drawn_at=picture_side(root / targets[0]))
    return {
        "exact": exact,
        "regions": regions,
        "target_pose_deg": torch.tensor([row["pose_deg"] for row in rows[1]]),
        "mask": _stack(masks, [row["mask"] for row in rows[1]]) > 127,
        "occluder": occluder_mask(attributes, size),
    }


def _origins(pictures: dict[str, dict], sources: list[str], targets: list[str], gallery: list[str]) -> dict[str, Any]:
    """The fields of Pairs on the pictures as they were before: their names, and their landmarks where they are known.

    Landmarks of crops are those of the whole picture, for swaps of others; the crops themselves all have the same.
    """
    origins = []
    for source, target in zip(sources, targets, strict=True):
        facts = pictures.get(target, {})
        names, known = [_origin(file, pictures) for file in (source, target)], {}
        if facts.get("cropped") and "points" in facts:
            known = {"size": tuple(facts["size"]), "landmarks": tuple(map(tuple, facts["points"]))}
        origins.append(Origin(*names, **known))
    columns = dict(zip(LANDMARKS, (sources, targets, gallery), strict=True))
    rows = {key: [pictures.get(file, {}) for file in files] for key, files in columns.items()}
    if any("points" not in row or row["cropped"] for column in rows.values() for row in column):
        return {"origins": tuple(origins)}
    return {"origins": tuple(origins)} | {
        key: torch.tensor([np.divide(row["points"], row["size"]).tolist() for row in column], dtype=torch.float32)
        for key, column in rows.items()
    }


def _parsing(listing: dict[str, Any], columns: Sequence[list[str]], root: Path, size: int) -> dict[str, torch.Tensor]:
    """The fields of Pairs on the parsing maps that a list names: classes, so that no two are mixed in resizing. Empty
    where it names none. Raises DataError for a missing or damaged map, for one that does not hold classes, and where
    none shows a class that a recogniser keeps."""
    files = {file: facts["parsing"] for file, facts in listing.get("pictures", {}).items() if "parsing" in facts}
    if not files:
        return {}
    maps = {file: torch.from_numpy(_classes(root / path)) for file, path in files.items()}
    kept = torch.tensor(sorted({number for card in CARDS.values() for number in card.options.get("kept", ())}))
    if not any(torch.isin(one, kept).any() for one in maps.values()):
        raise DataError(
            f"{root / next(iter(files.values()))}: neither this parsing map nor another of the list shows a part of "
            f"a face, class {', '.join(map(str, kept.tolist()))}; write the list again with --masks FOLDER of classes"
        )
    maps = {file: F.interpolate(one[None], (size, size), mode="nearest-exact")[0] for file, one in maps.items()}
    return {key: torch.stack([maps[file] for file in column]) for key, column in zip(PARSING, columns, strict=True)}


def _classes(path: Path) -> np.ndarray:
    """The classes of a parsing map, (1, H, W) uint8, as the file stores them: the colours of a palette mean nothing."""
    with opened(path) as picture, named(path):
        if picture.mode in ("L", "P"):
            return np.array(picture)[None]
        mode = picture.mode
    raise DataError(
        f"{path}: a parsing map of mode {mode}, whose pixels are no classes; save it in 8-bit grey or with a palette, "
        f"one number for each class"
    )


def _origin(file: str, pictures: dict[str, dict]) -> str:
    """The name of the picture that a file was made from; `align_folder` keeps its ending before its own."""
    stem = Path(file).stem
    inner = Path(stem)
    return pictures.get(file, {}).get("origin") or (inner.stem if inner.suffix.lower() in SUFFIXES else stem)


def exact_swaps(source: list[dict], target: list[dict], size: int, drawn_at: int | None = None) -> torch.Tensor:
    """The exact swaps (n, 3, size, size) uint8 of synthetic pictures, as `drawn_swaps` gives them."""
    return drawn_swaps(source, target, size, drawn_at)[0]


def drawn_swaps(
    source: list[dict], target: list[dict], size: int, drawn_at: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The exact swaps (n, 3, size, size) uint8 of synthetic pictures, given by their rows of the manifest, and the
    regions that they show, (n, 1, size, size) uint8 as places in REGIONS.

    drawn_at: side of the pictures as they were drawn, by default `size`. The swaps are drawn at it and resized like the
    pictures: the exact swap of resized pictures is no sharper than they are.
    """
    side, exact, swaps, regions = drawn_at or size, teachers.build("exact"), [], []
    region = torch.tensor([REGIONS.index(REGION_OF.get(name, "other")) for name in SEGMENTS], dtype=torch.uint8)
    for start in range(0, len(source), CHUNK):
        rows = source[start : start + CHUNK], target[start : start + CHUNK]
        drawn = exact.drawn(*rows, side, extra=("segmentation",))
        swaps.append(resized(to_uint8(drawn.image), size))
        shown = region[drawn.segmentation.long()]
        regions.append(F.interpolate(shown, (size, size), mode="nearest-exact"))
    return torch.cat(swaps), torch.cat(regions)


def save(listing: dict[str, Any], root: Path, out: Path) -> Path:
    """Write OUT/pairs.json and return its path. Paths relative to `root` become relative to OUT.

    Raises ConfigError where OUT holds another list: results may have been measured on it.
    """

    def moved(file: str) -> str:
        path = root / file  # a link keeps its name, by which swaps of others find it
        return os.path.relpath(path.parent.resolve() / path.name, out.resolve())

    listing = {
        **listing,
        "pairs": [{**p, "source": moved(p["source"]), "target": moved(p["target"])} for p in listing["pairs"]],
        "gallery": [{**g, "file": moved(g["file"])} for g in listing["gallery"]],
        "pictures": {
            moved(file): facts | {key: moved(facts[key]) for key in ("mask", "parsing") if key in facts}
            for file, facts in listing["pictures"].items()
        },
    }
    path = out / "pairs.json"
    if path.exists() and digest(read_json(path)) != digest(listing):
        raise ConfigError(f"{path}: holds another list; name another folder, or delete that one")
    write_json(path, listing)
    return path


def rendered() -> dict[str, str]:
    """The part of the protocol that says how synthetic pictures were made."""
    return {"alignment": RENDERED, "renderer": RENDERER}


def test_pairs(
    exp: Experiment, resolution: int | None = None, same_people: str | Path | None = None
) -> tuple[Pairs, list[dict[str, str]]]:
    """The fixed pairs of an experiment's test people, and the skipped pictures; resolution, same_people: as in `read`.
    Raises ConfigError, DataError."""
    photos = read_manifest(exp.folder / "data", "test", exp.data.resolution)
    synthetic, asked = exp.data.kind == "synthetic", exp.data.test_people
    if exp.data.heldout is None and len(photos.people) < asked:  # stage `data` ran for a command without stage `eval`
        raise DataError(
            f"data.photos: only {len(photos.people)} people are held out, data.test_people={asked} asks for more; "
            f"lower it, and give the experiment another name (name=...)"
        )
    dataset = SYNTHETIC if synthetic else Path(exp.data.heldout or exp.data.photos).name
    listing = by_people(f"{exp.name}/test", photos, exp.eval.pairs, exp.seed, dataset)
    listing["protocol"] |= rendered() if synthetic else {"alignment": AS_GIVEN}
    pairs, skipped = load(listing, photos.root, resolution)
    return _without_doubles(pairs, listing, same_people), skipped


def read(
    path: str | Path, resolution: int | None = None, same_people: str | Path | None = None
) -> tuple[Pairs, list[dict[str, str]]]:
    """`load` a list, given by its folder or its pairs.json. Names on one line of the file `same_people` become one
    person. Raises DataError naming the file and the missing key."""
    path = Path(path)
    if not path.exists():
        beside = [p.name for p in path.parent.glob("*") if (p / "pairs.json").is_file()]
        close = nearest(path.name, beside) if beside else ""
        raise DataError(f"{path}: no such list{close}; `python datasets/make_pairs.py --help` says how to write one")
    path = path / "pairs.json" if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{path}: no such list; `python datasets/make_pairs.py --help` says how to write one")
    if path.suffix.lower() != ".json":
        raise DataError(
            f"{path}: no list, which is a folder with pairs.json; of a file of pairs `python datasets/make_pairs.py "
            f"casia FOLDER --pairs {path.name} --out LIST` (or csv) writes one, then give --pairs LIST"
        )
    listing = read_json(path)
    try:
        if listing["format"] != FORMAT:
            raise DataError(f"{path}: no list of pairs of format {FORMAT}; write it again")
        drawn = [{"file": file, **facts} for file, facts in listing.get("pictures", {}).items()]
        refuse_others(path, drawn, LIST_AGAIN)
        pairs, skipped = load(listing, path.parent, resolution)
    except (KeyError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        problem = f"lacks {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{path}: damaged list: {problem}; write it again") from None
    return _without_doubles(pairs, listing, same_people), skipped


def _without_doubles(pairs: Pairs, listing: dict[str, Any], same_people: str | Path | None) -> Pairs:
    if same_people is None:
        return pairs
    return merged(pairs, _groups(Path(same_people), _people(listing["pairs"], listing["gallery"])))


def _people(pairs: Sequence[dict[str, str]], gallery: Sequence[dict[str, str]]) -> list[str]:
    """The names of all people, in the order of their numbers."""
    return sorted({p[k] for p in pairs for k in ("source_person", "target_person")} | {g["person"] for g in gallery})


def _groups(path: Path, names: list[str]) -> list[list[int]]:
    """The numbers of people on each line of names; names that are not in the list are left out."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected the names of one person on each line")
    number = {name: i for i, name in enumerate(names)}
    lines = [line.replace(",", " ").split() for line in path.read_text(encoding="utf-8").splitlines()]
    groups = [[number[name] for name in line if name in number] for line in lines]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        raise DataError(f"{path}: no line names two people of the list, such as {', '.join(names[:3])}")
    return groups
