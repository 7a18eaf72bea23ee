"""Lists of videos to measure swaps on: synthetic people, whose exact swaps are known, and films.

DrawnVideos    a folder that `datasets/synthetic.py --video N` wrote
FilmedVideos   a .csv or .json list of source pictures, target videos and, if you have them, swapped videos
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import teachers
from distill.data import faces
from distill.data.photos import ROW
from distill.data.renderer import refuse_others
from distill.evaluate.pairs import RENDERED, SYNTHETIC
from distill.video import containers, windows
from eval.video.clip import CROP, Clip, Truth, inner_square
from swapcore.files import read_rows
from swapcore.images import DataError, decode, grid, list_pictures, picture_side, resized, to_uint8
from teachers.exact import FRAMES_PER_SECOND, RENDERER, ExactTeacher, flow

COLUMNS = ("source", "target", "swap", "name", "source_person", "target_person")  # of a list; the last four optional
DRAW = "python datasets/synthetic.py FOLDER --people 8 --video 20"


class DrawnVideos:
    """Videos of synthetic people, each with the first frame of another person's first video as its source.

    count: how many pairs, by default one for each video; a number beyond that is that of the videos. seed: of who swaps
    whom; every person is the source equally often. size: side of the frames in pixels, by default as they were drawn.
    most: frames of each video. Raises DataError for a folder of pictures, of one person, or of another renderer.
    """

    exact = True

    def __init__(
        self, folder: Path, count: int | None = None, seed: int = 0, size: int | None = None, most: int | None = None
    ) -> None:
        path = folder / "manifest.jsonl"
        if not path.is_file():
            raise DataError(f"{path}: no such file; draw videos: {DRAW}")
        rows = read_rows(path, ROW)
        refuse_others(path, rows)
        if not all("frame" in row and "identity" in row for row in rows):
            raise DataError(f"{path}: lists pictures, not videos of synthetic people; draw videos: {DRAW}")
        self.root, self.name, self.videos = folder, folder.name, {}
        for row in sorted(rows, key=lambda row: (row["person"], row["video"], row["frame"])):
            self.videos.setdefault((row["person"], row["video"]), []).append(row)
        self.people = sorted({person for person, _ in self.videos})
        if len(self.people) < 2:
            raise DataError(f"{path}: one person only, and a swap needs two; draw videos: {DRAW}")
        rng = np.random.default_rng((seed, 13))
        targets = [list(self.videos)[i] for i in rng.permutation(len(self.videos))][:count]
        offset = int(rng.integers(1, len(self.people)))  # never the target's own person
        order = {person: self.people[(i + offset) % len(self.people)] for i, person in enumerate(self.people)}
        self.pairs = [(order[target[0]], target) for target in targets]
        self.names = [f"{i:05d}" for i in range(len(self.pairs))]
        self.drawn_at = picture_side(folder / rows[0]["file"])
        self.size, self.most, self.notes = size or self.drawn_at, most, []
        self.protocol = {
            "dataset": SYNTHETIC, "alignment": RENDERED, "renderer": RENDERER, "frames_per_second": [FRAMES_PER_SECOND],
            "pairs": f"of two people, by seed {seed}; the source is the first frame of a person's first video",
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, number: int) -> Clip:
        """A clip with its exact swaps. Raises DataError, ValueError."""
        person, target = self.pairs[number]
        rows, size = self.videos[target][: self.most], self.size
        source_row = self.videos[person, min(v for p, v in self.videos if p == person)][0]
        frames, masks = (
            [decode(self.root / row[key], size, mode) for row in rows] for key, mode in (("file", "RGB"), ("mask", "L"))
        )
        return Clip(
            name=self.names[number],
            source=torch.from_numpy(decode(self.root / source_row["file"], size)),
            target=torch.from_numpy(np.stack(frames)),
            inner=torch.from_numpy(np.stack(masks)) > 127,
            seconds=np.array([row["frame"] for row in rows]) / FRAMES_PER_SECOND,
            source_person=self.people.index(person),
            target_person=self.people.index(target[0]),
            inner_from="the targets' own",
            truth=_truth(source_row, rows, size, self.drawn_at),
        )

    def finished(self, number: int, folder: Path) -> Tensor:
        """The swap of a clip that another program wrote: FOLDER/NAME/*.png or FOLDER/NAME.mp4, resized where it
        is of another size. Raises DataError where it is not square or has another number of frames."""
        path = find_finished(folder, self.names[number])
        person, target = self.pairs[number]
        expected = len(self.videos[target][: self.most])
        frames = [image for _, image in islice(windows.read(path), self.most)]
        shapes = sorted({image.shape[:2] for image in frames})
        sizes = ", ".join(f"{width} x {height}" for height, width in shapes)
        if len(frames) != expected or len(shapes) != 1 or shapes[0][0] != shapes[0][1]:
            raise DataError(
                f"{path}: {len(frames)} frames of {sizes} pixels; clip {self.names[number]} has {expected} of "
                f"{self.size} x {self.size}: swap every frame of {target[0]}, video {target[1]}"
            )
        if shapes[0][0] != self.size:
            self.notes.append(f"{path.name}: {sizes} pixels, the target {self.size} x {self.size}: resized")
        return resized(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous(), self.size)


def _truth(source: dict, rows: list[dict], size: int, drawn_at: int) -> Truth:
    """What is known of a synthetic video and of its exact swap, at `size`; drawn at the size of the pictures and
    resized like them, so that the exact swap is no sharper than they are."""
    exact: ExactTeacher = teachers.build("exact")
    drawn = exact.drawn([source] * len(rows), rows, drawn_at)
    inner = F.interpolate(drawn.mask, (size, size), mode="area") > 0.5 if size != drawn_at else drawn.mask > 0.5
    attributes, scale = torch.tensor([row["attributes"] for row in rows]), size / drawn_at
    motions = []
    for who in (rows[0], source):
        identity = torch.tensor(who["identity"]).expand(len(rows) - 1, -1)
        motions += flow(identity, attributes[:-1], attributes[1:], size)
    return Truth(
        resized(to_uint8(drawn.image), size), inner, *motions,
        torch.tensor([row["landmarks"] for row in rows]) * scale, drawn.landmarks * scale,
        torch.tensor([row["pose_deg"] for row in rows]),
    )  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One line of a list of films."""

    name: str
    source: Path
    target: Path
    swap: Path | None
    source_person: str
    target_person: str


class FilmedVideos:
    """Films by a .csv or .json list; faces are found by `detector`. Frames without a face are left out.

    most: frames of each video, None for all. `notes` names what was left out or fitted, `window` the last clip's.
    Raises DataError naming the list, the line and the remedy.
    """

    exact = False

    def __init__(self, path: Path, detector: faces.FaceFinder, most: int | None = None) -> None:
        self.name, self.entries = path.name, read_list(path)
        self.detector, self.most, self.notes = detector, most, []
        self.names = [entry.name for entry in self.entries]
        people = [person for entry in self.entries for person in (entry.source_person, entry.target_person)]
        self.people = {person: i for i, person in enumerate(dict.fromkeys(people))}
        self.window: windows.Window | None = None
        self.rates: list[float] = []
        self.facts = {
            "dataset": path.name, "alignment": "by detected landmarks of each target frame", "frames": most or "all",
            **faces.detector_facts(detector), "window": f"around the face, whose crop has {CROP} pixels at most",
        }  # fmt: skip

    @property
    def protocol(self) -> dict[str, Any]:
        """The part of the protocol that all clips share, with the frame rates of those that were loaded."""
        return {**self.facts, "frames_per_second": sorted(set(self.rates))}

    def __len__(self) -> int:
        return len(self.entries)

    def load(self, number: int) -> Clip:
        """A clip; the window of its target is kept for `swapped` and `finished`. Raises DataError, ValueError."""
        entry = self.entries[number]
        self.window = window = windows.find(entry.target, self.detector, self.most)
        if left_out := window.count - len(window.places):
            self.notes.append(f"{entry.name}: {left_out} of {window.count} frames without a face are left out")
        source = self.source(number)
        clip = Clip(
            name=entry.name,
            source=torch.from_numpy(source.transpose(2, 0, 1).copy()),
            target=window.changed(lambda _, image: image),
            inner=inner_square(window.to_crop, *window.size),
            seconds=window.seconds,
            source_person=self.people[entry.source_person],
            target_person=self.people[entry.target_person],
            inner_from="rows and columns of a square of the crop",
            to_crop=window.to_crop,
            joined=window.joined,
        )
        self.rates.append(round(1 / clip.interval_s, 2))
        steps = np.diff(window.seconds)
        if steps.max() > 1.1 * steps.min():
            missing = int((~clip.joined).sum())
            self.notes.append(f"{entry.name}: uneven frame times; {missing} of {len(steps)} steps are left out")
        return clip

    def source(self, number: int) -> np.ndarray:
        """The canonical crop of a source, (256, 256, 3) uint8. Raises DataError where it shows no face."""
        path = self.entries[number].source
        image = np.ascontiguousarray(decode(path).transpose(1, 2, 0))
        points = self.detector(image)
        if points is None:
            raise DataError(f"{path}: no face found; the source must show one")
        return faces.align(image, points, CROP)

    def finished(self, number: int, folder: Path | None) -> Tensor:
        """The windows of a swapped video: FOLDER/NAME.mp4 and so on, or that which the list names. Raises DataError."""
        entry = self.entries[number]
        path = entry.swap if folder is None else find_finished(folder, entry.name)
        swap, note = self.window.of_swap(path, whole=self.most is None)
        self.notes += [note] if note else []
        return swap


def swap_crops(
    name: str, network: Callable[[Tensor, Tensor], Tensor], source: Tensor, targets: Tensor, device: Any
) -> Tensor:
    """Swaps (T, 3, S, S) uint8 of one source crop (3, S, S) and targets (T, 3, S, S), uint8. Raises ValueError."""
    swaps = []
    with torch.inference_mode():
        for batch in targets.split(16):
            images = [(one.to(device).float() / 127.5 - 1) for one in (source.expand(len(batch), -1, -1, -1), batch)]
            swap = network(*images)
            if swap.shape != batch.shape:
                raise ValueError(f"clip '{name}': swaps of {tuple(swap.shape)} for targets {tuple(batch.shape)}")
            try:
                swaps.append(to_uint8(swap).cpu())
            except ValueError as error:
                raise ValueError(f"clip '{name}': {error}") from None
    return torch.cat(swaps)


def find_finished(folder: Path, name: str) -> Path:
    """FOLDER/NAME with the ending of a video, or the folder of pictures FOLDER/NAME. Raises DataError."""
    found = [path for path in (folder / f"{name}{ending}" for ending in containers.KINDS) if path.is_file()]
    found += [folder / name] if (folder / name).is_dir() and list_pictures(folder / name, deep=False)[0] else []
    if len(found) != 1:
        what = f"two swaps of it: {', '.join(path.name for path in found)}" if found else "no swap of it"
        raise DataError(f"{folder}: clip {name}: {what}; expected {name}.mp4, or pictures in {name}/")
    return found[0]


def read_list(path: Path) -> list[Entry]:
    """The lines of a .csv or .json list; paths are relative to it. Raises DataError naming list, line and key."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no text in UTF-8 ({error}); save the list as UTF-8") from None
    if path.suffix.lower() == ".json":
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path}: damaged list ({error})") from None
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: no videos; expected a list with the columns {', '.join(COLUMNS[:2])}")
    entries: dict[str, Entry] = {}
    for number, row in enumerate(rows, 1):
        entry = _entry(row, path, f"{path}: entry {number}")
        if entry.name in entries:
            raise DataError(f"{path}: entry {number}: a second one named '{entry.name}'; give each a `name` of its own")
        entries[entry.name] = entry
    return list(entries.values())


def _entry(row: Any, path: Path, where: str) -> Entry:
    if not isinstance(row, Mapping) or not all(isinstance(value, str | None) for value in row.values()):
        raise DataError(f"{where}: expected texts for {', '.join(COLUMNS)}, got {row!r}")
    if unknown := [key for key in row if key not in COLUMNS]:
        raise DataError(f"{where}: unknown column {unknown[0]!r}; known: {', '.join(COLUMNS)}")
    texts = {key: (row.get(key) or "").strip() for key in COLUMNS}
    for key in ("source", "target"):
        if not texts[key]:
            raise DataError(f"{where}: {key}: empty; name a file, relative to the list")
    files = {key: path.parent / texts[key] for key in ("source", "target", "swap") if texts[key]}
    for key, file in files.items():
        if not file.exists():
            raise DataError(f"{where}: {key}: {file}: no such file")
    name = texts["name"] or f"{files['target'].stem}_{files['source'].stem}"
    if Path(name).name != name:
        raise DataError(f"{where}: name: '{name}' is no name of a file")
    people = (texts[f"{key}_person"] or texts[key] for key in ("source", "target"))
    return Entry(name, files["source"], files["target"], files.get("swap"), *people)


def strip(clip: Clip, columns: Mapping[str, Tensor], count: int) -> Image.Image:
    """A sheet of at most `count` frames, evenly over the clip, below each other: the source, and the canonical crops of
    the columns' frames (T, 3, H, W) uint8 by title."""
    places = np.unique(np.linspace(0, len(clip) - 1, count).round().astype(int)).tolist()
    shown = {title: clip.crops(frames)[places] for title, frames in columns.items()}
    cell = max(128, next(iter(shown.values())).shape[-1])
    return grid({"source": clip.source[None].expand(len(places), -1, -1, -1), **shown}, cell)
