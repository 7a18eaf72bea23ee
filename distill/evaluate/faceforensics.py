"""FaceForensics++ (Roessler et al., ICCV 2019) as a list of pairs by the field's protocol.

The protocol began with FaceShifter (arXiv:1912.13457); HifiFace (johannwyh/HifiFace, docs) says the same: the data
set's own pairs, ten frames evenly from each video, frame N of one onto frame N of the other. Read from a user's copy,
in the tree that the official download script makes:

    ROOT/original_sequences/youtube/c23/videos/000.mp4
    ROOT/manipulated_sequences/Deepfakes/c23/videos/000_003.mp4      target 000, source 003
    train.json, val.json, test.json                                  lists of pairs: [["000", "003"], ...]

Its 1,000 videos show fewer than 1,000 people. Papers that merge duplicates cannot be compared with papers that do
not; `python -m distill.evaluate --same-people FILE` merges them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from distill.data.faces import FaceFinder, align, detector_facts, keeps, nose_offset
from distill.evaluate.pairs import ALIGNED, pair_list
from distill.evaluate.swappers import ASPECT
from distill.video import frames as video
from swapcore.files import digest, read_json, read_record, sha256, write_json, write_record
from swapcore.images import DataError, save_png

GALLERY = "one frame per video, halfway between two sampled ones, the most frontal: never a source or target"


def prepare(
    root: str | Path, splits: Sequence[str | Path], out: str | Path, *, find_face: FaceFinder, compression: str = "c23",
    frames: int = 10, resolution: int = 256,
) -> Path:  # fmt: skip
    """Write OUT/pairs.json and the aligned frames it names; return the path of the list.

    Each pair of the data set is used in both directions. Where a frame of the source shows no face, the most frontal
    frame of that video replaces it; where a frame of the target does, the pair is skipped. Each video is decoded once;
    a second call continues where the first was stopped. The list records `name` and `weight_hash` of `find_face`.
    Raises DataError for a missing or damaged file, and for frames in OUT of other settings or of another video.
    """
    root, out = Path(root), Path(out)
    couples = [couple for path in splits for couple in read_split(Path(path))]
    videos = root / "original_sequences" / "youtube" / compression / "videos"
    if not videos.is_dir():
        raise DataError(f"{videos}: no such folder; expected the tree of the official download of FaceForensics++")
    settings = {
        "compression": compression, "frames": frames, "resolution": resolution, **detector_facts(find_face),
    }  # fmt: skip
    sampled = {
        name: _sample(videos / f"{name}.mp4", out / "faces" / name, settings, find_face)
        for name in tqdm(sorted({name for couple in couples for name in couple}), desc="read videos", unit="video")
    }
    skipped = [{"what": f"video {name}", "reason": info["flaw"]} for name, info in sampled.items() if info["flaw"]]
    pairs = []
    for target, source in [pair for a, b in couples for pair in ((a, b), (b, a))]:
        for number in range(frames):
            name = f"{target}_{source}_{number:02d}"
            if reason := _reason_to_skip(sampled, target, source, number):
                skipped.append({"what": name, "reason": reason})
                continue
            frame = number if sampled[source]["faces"][number] else sampled[source]["frontal"]
            files = f"faces/{source}/{frame:02d}.png", f"faces/{target}/{number:02d}.png"
            pairs.append((name, *files, source, target))
    if not pairs:
        raise DataError(f"{root}: no pair is left of {2 * len(couples)}; the first: {skipped[0]}")
    protocol = {
        "dataset": "FaceForensics++",
        **settings,
        "splits": {Path(path).name: sha256(path)[:16] for path in splits},
        "pairs": "both directions of the data set's own, frame N onto frame N",
        "alignment": ALIGNED,
    }
    gallery = [(f"faces/{name}/gallery.png", name) for name, info in sampled.items() if info["gallery"]]
    content = pair_list(f"FaceForensics++ {compression}", resolution, protocol, GALLERY, pairs, gallery, skipped)
    write_json(out / "pairs.json", content)
    return out / "pairs.json"


def finished_swaps(root: str | Path, method: str, listing: str | Path, out: str | Path) -> list[dict[str, str]]:
    """Write the swapped videos of a list of `prepare` as OUT/<pair>.png, aligned by the targets' landmarks, to be
    measured like any folder of swaps: the data set's own, or a peer's in the same tree, whole and of any size. Return
    the missing ones. Raises DataError where all are missing, and where OUT
    holds crops of another video or of other settings."""
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
        info = read_record(listing.parent / "faces" / name.split("_")[0] / "sampled.json")
        made_from = {"settings": info["settings"], **_status(videos / f"{name}.mp4")}
        remedy = f"delete {out}, and give the same command again"
        numbers = {p: int(p.rsplit("_", 1)[1]) for p in pairs if not keeps(out / f"{p}.png", made_from, remedy)}
        try:
            images = video.read(videos / f"{name}.mp4", [info["indices"][n] for n in numbers.values()])
            scale = _scale(images, info, root / "original_sequences", compression, name) if images else 1
        except DataError as error:
            missing.append({"what": f"video {name}", "reason": str(error)})
            continue
        for pair, number in numbers.items():
            image = images.get(info["indices"][number])
            if image is None:
                missing.append({"what": pair, "reason": "the video ends before this frame"})
            else:
                crop = align(image, np.array(info["faces"][number]) * scale, content["resolution"])
                save_png(crop, out / f"{pair}.png", made_from=made_from)
    if not any(out.glob("*.png")):
        raise DataError(f"{videos}: none of {len(by_video)} swapped videos is there; the first: {missing[0]}")
    return missing


def _scale(
    images: dict[int, np.ndarray], info: dict[str, Any], originals: Path, compression: str, name: str
) -> np.ndarray:
    """(2,): width and height of a swapped video's frames, divided by those of its target's. Raises DataError for a
    cropped one, in which the target's landmarks lie elsewhere."""
    if "size" in info:
        width, height = info["size"]
    else:  # sampled before sizes were recorded
        path = originals / "youtube" / compression / "videos" / f"{name.split('_')[0]}.mp4"
        height, width = video.read(path, [info["indices"][0]])[info["indices"][0]].shape[:2]
    own_height, own_width = next(iter(images.values())).shape[:2]
    scale = np.array([own_width / width, own_height / height])
    if not 1 / ASPECT < scale[0] / scale[1] < ASPECT:
        raise DataError(
            f"frames of {own_width} x {own_height} pixels, the target's have {width} x {height}: a crop of another "
            f"frame; paste the swaps back into whole frames"
        )
    return scale


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
    """Divide a video of `count` frames into `frames` equal parts: the frames in their middles, and those between them.

    Raises ValueError where the video is too short.
    """
    if frames < 2 or count < 2 * frames:
        raise ValueError(f"{count} frames, too few to take {frames} evenly and others between them")
    middles = [(2 * i + 1) * count // (2 * frames) for i in range(frames)]
    return middles, [i * count // frames for i in range(1, frames)]


def _sample(path: Path, folder: Path, settings: dict[str, Any], find_face: FaceFinder) -> dict[str, Any]:
    """Align the sampled frames of a video into `folder`; return the content of its sampled.json.

    faces: the five landmarks of each frame, or None. size: width and height of the frames. cut_off: frames missing at
    the end of the video. frontal: the number of the most frontal frame. gallery: whether gallery.png exists. flaw: why
    the video cannot be used, or None.
    """
    record, key, status = folder / "sampled.json", digest(settings), _status(path)
    if record.is_file():
        info = read_record(record)
        if info["settings"] != key:
            raise DataError(f"{folder}: made with other settings than {settings}; take another --out, or delete it")
        if info["flaw"] is None:
            if info.get("video") != status:
                raise DataError(
                    f"{folder}: made from another video than {path} is now; take another --out, or delete it"
                )
            return info
    info = {
        "settings": key, "video": status, "flaw": None, "indices": [], "faces": [], "frontal": None, "gallery": False,
        "cut_off": [],
    }  # fmt: skip
    try:
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        info["indices"], between = evenly(video.count(path), settings["frames"])
        images = video.read(path, [*info["indices"], *between])
    except ValueError as error:
        info["flaw"] = str(error)
        write_record(record, info)
        return info
    info["size"] = [images[min(images)].shape[1], images[min(images)].shape[0]]
    info["cut_off"] = [index for index in info["indices"] if index not in images]
    landmarks = {index: find_face(image) for index, image in images.items()}

    def save_crop(index: int, name: str) -> None:
        save_png(align(images[index], landmarks[index], settings["resolution"]), folder / name, generated=False)

    for number, index in enumerate(info["indices"]):
        points = landmarks.get(index)
        if points is not None:
            save_crop(index, f"{number:02d}.png")
        info["faces"].append(None if points is None else points.tolist())
    with_face = [number for number, points in enumerate(info["faces"]) if points]
    info["frontal"] = min(with_face, key=lambda number: nose_offset(info["faces"][number]), default=None)
    candidates = [index for index in between if landmarks.get(index) is not None]
    if candidates:
        save_crop(min(candidates, key=lambda index: nose_offset(landmarks[index])), "gallery.png")
    info["gallery"] = bool(candidates)
    if not with_face or not candidates:
        info["flaw"] = f"{path}: no face found in {'any' if not with_face else 'any frame for the gallery'}"
    write_record(record, info)
    return info


def _status(path: Path) -> dict[str, int]:
    """Size and modification time of a video; empty if it is missing. Hashing 1,000 raw videos would take hours."""
    status = path.stat() if path.is_file() else None
    return {"bytes": status.st_size, "modified_ns": status.st_mtime_ns} if status else {}


def _reason_to_skip(sampled: dict[str, dict[str, Any]], target: str, source: str, number: int) -> str:
    """The reason why frame `number` of the source cannot be swapped onto the target's; empty if it can."""
    if sampled[source]["frontal"] is None or not sampled[source]["gallery"]:
        return f"source: {sampled[source]['flaw']}"
    if not sampled[target]["faces"]:
        return f"target: {sampled[target]['flaw']}"
    if sampled[target]["indices"][number] in sampled[target]["cut_off"]:
        return "target: the video ends before this frame"
    return "" if sampled[target]["faces"][number] else "target: no face found in this frame"
