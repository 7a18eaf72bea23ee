"""FaceForensics++ (Roessler et al., ICCV 2019) as a list of pairs by the field's protocol.

The protocol began with FaceShifter (arXiv:1912.13457); HifiFace (johannwyh/HifiFace, docs) says the same: the data
set's own pairs, ten frames evenly from each video, frame N of one onto frame N of the other. Read from a user's copy,
in the tree that the official download script makes:

    ROOT/original_sequences/youtube/c23/videos/000.mp4
    ROOT/manipulated_sequences/Deepfakes/c23/videos/000_003.mp4      target 000, source 003
    train.json, val.json, test.json                                  lists of pairs: [["000", "003"], ...]

Its 1,000 videos show fewer than 1,000 people. Papers that merge the doubled ones and papers that do not cannot be
compared; `python -m distill.evaluate --same-people FILE` merges them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from distill.data import faces, video
from distill.evaluate.pairs import FORMAT
from swapcore.files import digest, read_json, sha256, write_json
from swapcore.images import DataError

GALLERY = "one frame per video, halfway between two sampled ones, the most frontal: never a source or target"


def prepare(
    root: str | Path, splits: Sequence[str | Path], out: str | Path, *, find: faces.FindFace, compression: str = "c23",
    frames: int = 10, resolution: int = 256,
) -> Path:  # fmt: skip
    """Write OUT/pairs.json and the aligned frames it names; the path of the list.

    Both directions of each of the data set's pairs; where a frame of the source shows no face, the most frontal frame
    of that video takes its place; where one of the target does, the pair is left out, by name. Each video is decoded
    once; a second call goes on where the first was stopped. `find` finds faces; its `name` and `weight_hash` are told.
    Raises DataError naming what is missing, damaged or was made with other settings.
    """
    root, out = Path(root), Path(out)
    couples = [pair for path in splits for pair in read_split(Path(path))]
    videos = root / "original_sequences" / "youtube" / compression / "videos"
    if not videos.is_dir():
        raise DataError(f"{videos}: no such folder; expected the tree of the official download of FaceForensics++")
    settings = {
        "compression": compression, "frames": frames, "resolution": resolution,
        "detector": getattr(find, "name", "another"), "detector_hash": getattr(find, "weight_hash", ""),
    }  # fmt: skip
    names = sorted({name for pair in couples for name in pair})
    sampled = {
        name: _sample(videos / f"{name}.mp4", out / "faces" / name, settings, find)
        for name in tqdm(names, desc="read videos", unit="video")
    }
    skipped = [{"what": f"video {name}", "reason": info["flaw"]} for name, info in sampled.items() if info["flaw"]]
    pairs = []
    for target, source in [pair for a, b in couples for pair in ((a, b), (b, a))]:
        for number in range(frames):
            name = f"{target}_{source}_{number:02d}"
            reason = _lacks(sampled, target, source, number)
            if reason:
                skipped.append({"what": name, "reason": reason})
                continue
            frame = number if sampled[source]["faces"][number] else sampled[source]["frontal"]
            pairs.append(
                {
                    "name": name,
                    "source": _file(source, frame),
                    "target": _file(target, number),
                    "source_person": source,
                    "target_person": target,
                }
            )
    if not pairs:
        raise DataError(f"{root}: no pair is left of {2 * len(couples)}; the first: {skipped[0]}")
    listing = {
        "format": FORMAT,
        "name": f"FaceForensics++ {compression}",
        "resolution": resolution,
        "protocol": {
            "dataset": "FaceForensics++",
            **settings,
            "splits": {Path(path).name: sha256(path)[:16] for path in splits},
            "pairs": "both directions of the data set's own, frame N onto frame N",
            "alignment": "by detected landmarks",
        },
        "gallery_definition": GALLERY,
        "gallery_holds_sources": False,
        "pairs": pairs,
        "gallery": [
            {"file": f"faces/{name}/gallery.png", "person": name} for name, info in sampled.items() if info["gallery"]
        ],
        "skipped": skipped,
    }
    write_json(out / "pairs.json", listing)
    return out / "pairs.json"


def finished_swaps(root: str | Path, method: str, listing: str | Path, out: str | Path) -> list[dict[str, str]]:
    """The data set's own swaps of a list that `prepare` made, as OUT/<pair>.png, aligned by the targets' landmarks, to
    be measured like any folder of swaps; what is missing, by name. Raises DataError where none is there."""
    listing, out = Path(listing), Path(out)
    content = read_json(listing)
    compression = content["protocol"]["compression"]
    videos = Path(root) / "manipulated_sequences" / method / compression / "videos"
    if not videos.is_dir():
        known = sorted(p.parent.parent.name for p in Path(root).glob(f"manipulated_sequences/*/{compression}/videos"))
        raise DataError(f"{videos}: no such folder; methods of {compression} here: {', '.join(known) or 'none'}")
    by_video: dict[str, list[str]] = {}
    for pair in content["pairs"]:
        by_video.setdefault(pair["name"].rsplit("_", 1)[0], []).append(pair["name"])
    missing: list[dict[str, str]] = []
    for name, pairs in tqdm(by_video.items(), desc=method, unit="video"):
        wanted = [pair for pair in pairs if not (out / f"{pair}.png").is_file()]
        info = read_json(listing.parent / "faces" / name.split("_")[0] / "sampled.json")
        numbers = {pair: int(pair.rsplit("_", 1)[1]) for pair in wanted}
        try:
            images = video.read(videos / f"{name}.mp4", [info["indices"][n] for n in numbers.values()])
        except DataError as error:
            missing.append({"what": f"video {name}", "reason": str(error)})
            continue
        for pair, number in numbers.items():
            image = images.get(info["indices"][number])
            if image is None:
                missing.append({"what": pair, "reason": "the video ends before this frame"})
            else:
                crop = faces.align(image, np.array(info["faces"][number]), content["resolution"])
                faces.save(crop, out / f"{pair}.png")
    if not any(out.glob("*.png")):
        raise DataError(f"{videos}: none of {len(by_video)} swapped videos is there; the first: {missing[0]}")
    return missing


def read_split(path: Path) -> list[tuple[str, str]]:
    """Pairs of video names of one of the data set's files. Raises DataError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not one of the data set's lists of pairs ({error})") from None
    if not isinstance(content, list) or not content or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair) for pair in content
    ):  # fmt: skip
        raise DataError(f'{path}: not one of the data set\'s lists of pairs: expected [["000", "003"], ...]')
    return [(a, b) for a, b in content]


def evenly(count: int, frames: int) -> tuple[list[int], list[int]]:
    """Numbers of the `frames` frames in the middles of as many equal parts of a video, and of those between the parts.

    Raises ValueError for a video too short to have them apart.
    """
    if frames < 2 or count < 2 * frames:
        raise ValueError(f"{count} frames, too few to take {frames} evenly and others between them")
    middles = [(2 * i + 1) * count // (2 * frames) for i in range(frames)]
    return middles, [i * count // frames for i in range(1, frames)]


def _sample(path: Path, folder: Path, settings: dict[str, Any], find: faces.FindFace) -> dict[str, Any]:
    """The sampled frames of a video, aligned, in `folder`; what sampled.json there says of them.

    faces: the five points of each, or None. cut_off: frames that the video turns out not to have. frontal: the number
    of the most frontal. gallery: whether there is one. flaw: why the video cannot be used, or None.
    """
    record, key = folder / "sampled.json", digest(settings)
    if record.is_file():
        info = read_json(record)
        if info["settings"] != key:
            raise DataError(f"{folder}: made with other settings than {settings}; take another --out, or delete it")
        if info["flaw"] is None:
            return info
    info = {"settings": key, "flaw": None, "indices": [], "faces": [], "frontal": None, "gallery": False, "cut_off": []}
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        info["indices"], between = evenly(video.count(path), settings["frames"])
        images = video.read(path, [*info["indices"], *between])
    except ValueError as error:
        info["flaw"] = str(error)
        write_json(record, info)
        return info
    info["cut_off"] = [index for index in info["indices"] if index not in images]
    points = {number: find(image) for number, image in images.items()}
    found = {number: five for number, five in points.items() if five is not None}
    size = settings["resolution"]
    for number, index in enumerate(info["indices"]):
        if index in found:
            faces.save(faces.align(images[index], found[index], size), folder / f"{number:02d}.png")
        info["faces"].append(found[index].tolist() if index in found else None)
    seen = [number for number, five in enumerate(info["faces"]) if five]
    info["frontal"] = min(seen, key=lambda number: faces.sideways(info["faces"][number]), default=None)
    shown = min((n for n in between if n in found), key=lambda n: faces.sideways(found[n]), default=None)
    if shown is not None:
        faces.save(faces.align(images[shown], found[shown], size), folder / "gallery.png")
    info["gallery"] = shown is not None
    if not seen or shown is None:
        info["flaw"] = f"{path}: no face found in {'any' if not seen else 'any frame for the gallery'}"
    write_json(record, info)
    return info


def _lacks(sampled: dict[str, dict[str, Any]], target: str, source: str, number: int) -> str:
    """Why this frame of the source cannot go onto that of the target; empty where it can."""
    if sampled[source]["frontal"] is None or not sampled[source]["gallery"]:
        return f"source: {sampled[source]['flaw']}"
    if not sampled[target]["faces"]:
        return f"target: {sampled[target]['flaw']}"
    if sampled[target]["indices"][number] in sampled[target]["cut_off"]:
        return "target: the video ends before this frame"
    return "" if sampled[target]["faces"][number] else "target: no face found in this frame"


def _file(name: str, number: int) -> str:
    return f"faces/{name}/{number:02d}.png"
