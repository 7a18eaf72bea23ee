"""Measure face swappers on videos: identity over time, flicker, jitter, background, error to the exact swap.

    python -m distill.evaluate.video SWAPPER [SWAPPER ...] [--videos LIST]
    python -m distill.evaluate.video copy-target exact runs/quickstart/student.safetensors
    python -m distill.evaluate.video copy-target student.safetensors SWAPS_OF_A_PEER --videos list.csv

LIST is one of these; without it, videos of six synthetic people are drawn into OUT, of 20 frames each:

    FOLDER              that `python datasets/synthetic.py FOLDER --video N` wrote
    list.csv, .json     films; columns or keys source, target, and optionally swap, name, source_person, target_person

A SWAPPER is one of these:

    copy-target                 the target unchanged: a reference for every table
    exact                       the exact swap of every frame; only for synthetic people
    listed                      the swapped videos that the list names in its column swap
    landmark_warp, simswap ...  a teacher, by name
    FILE.safetensors, .onnx     a student, or a teacher that was trained here; films are swapped as distill.swap does
    FOLDER                      swapped videos of another program: NAME.mp4, or the pictures NAME/*.png, for each clip

The command writes to OUT: metrics.json with every value, its protocol and the values of single frames, report.html and
strips/ with some frames of the first clips.
"""

from __future__ import annotations

from swapcore import start

start.command(__name__)

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import teachers
from distill import build, config
from distill.config import ConfigError, Experiment, Teacher
from distill.data import faces, synthetic
from distill.evaluate import swappers
from distill.evaluate.clips import DrawnVideos, FilmedVideos, strip, swap_crops
from distill.evaluate.differences import best, each_of, people_of, to_reference
from distill.evaluate.measure import PHOTO_ESTIMATORS
from distill.report import tables
from distill.swap.swapper import Swapper
from eval.estimators import Estimator
from eval.intervals import UNITS
from eval.measured import Measured, packed
from eval.video import VIDEO_METRICS
from eval.video.clip import CROP, Clip
from eval.video.landmark_jitter import known_jitter
from eval.video.optical_flow import end_point_error
from eval.video.view import ClipView, merged
from swapcore import terminal, weights
from swapcore.files import check_folder, digest, write_record, write_text
from swapcore.hardware import environment
from swapcore.images import save_png
from swapcore.locks import folder_lock

REFERENCES = ("copy-target", "exact", "listed")
PEOPLE, FRAMES, STRIPS, STRIP_FRAMES = 6, 20, 3, 6  # of fewer than six pairs no difference is called sure

NO_LANDMARKS = (
    f"no landmarks were read; add --landmarks to read them by {build.LANDMARKS}, whose file is searched in the folders "
    f"of --weights (it was trained on photographs, so drawn people are measured without it unless you ask)"
)
Videos = DrawnVideos | FilmedVideos


@dataclass(frozen=True)
class Row:
    """A swapper of the table. network: the callable on canonical crops; None for those of REFERENCES and for finished
    swaps in `path`. smooth: whether a student follows the faces of films smoothly."""

    name: str
    network: Any = None
    path: Path | None = None
    smooth: bool = True


def main(arguments: list[str] | None = None) -> int:
    parser = terminal.parser(__doc__)
    parser.add_argument("swappers", nargs="+", metavar="SWAPPER", help="see above")
    parser.add_argument("--videos", type=Path, metavar="LIST", help="see above; default: synthetic people, drawn anew")
    text = "measure the first N frames of each video"
    parser.add_argument("--frames", type=terminal.whole(3), metavar="N", help=text)
    text = "synthetic people only: number of pairs; default: one for each video"
    parser.add_argument("--pairs", type=terminal.whole(1), metavar="N", help=text)
    parser.add_argument("--seed", type=terminal.whole(0), default=0, help="of synthetic people and pairs; default: 0")
    text = "synthetic people only: side in pixels; default: that of the students"
    parser.add_argument("--resolution", type=terminal.whole(16, 1024), metavar="PIXELS", help=text)
    for role in ("recogniser", "pose"):
        text = f"{role} estimator: the name of a card in eval/cards.py{build.packages_of(role)}"
        parser.add_argument(f"--{role}", metavar="NAME", help=text)
    text = f"landmark jitter by {build.LANDMARKS}; default: of films only, since it was trained on photographs"
    parser.add_argument("--landmarks", action=argparse.BooleanOptionalAction, help=text)
    text = "unit of the 95 %% intervals; default: pairs"
    parser.add_argument("--interval", choices=tuple(UNITS), default="pairs", help=text)
    text = "films only: students follow faces smoothly as distill.swap does, or not, or both, in two rows; default: yes"
    parser.add_argument("--smooth", choices=("yes", "no", "both"), default="yes", help=text)
    parser.add_argument("--against", metavar="SWAPPER", help="mark the differences to this row; default: to the best")
    parser.add_argument("--weights", nargs="+", default=[], metavar="FOLDER", help="folders to search for weight files")
    parser.add_argument("--out", type=Path, help="folder; default: runs/video/LIST")
    args = parser.parse_args(arguments)
    return terminal.run_command(lambda: evaluate(args))


def evaluate(args: argparse.Namespace) -> None:
    films = args.videos is not None and not args.videos.is_dir()
    if films and not (args.videos.is_file() and args.videos.suffix.lower() in (".csv", ".json")):
        what = "no list" if args.videos.exists() else "no such list"
        raise ConfigError(f"--videos {args.videos}: {what}; name a folder of synthetic videos, a .csv or a .json")
    chosen_estimators = {f"eval.{role}": getattr(args, role) for role in ("recogniser", "pose")}
    overrides = [
        *(PHOTO_ESTIMATORS.items() if films else ()),
        *((key, name) for key, name in chosen_estimators.items() if name),
        ("weights", args.weights), ("eval.metrics", ["id_similarity", "pose_error"]),
    ]  # fmt: skip
    exp = config.default("video", overrides)
    out = args.out or Path(exp.runs) / "video" / (args.videos.stem if args.videos else "synthetic")
    check_folder(out)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = _rows(args.swappers, exp, device, args.smooth if films else "yes")
    roles = {role: one.to(device) for role, one in build.estimators(exp).items()}
    if films if args.landmarks is None else args.landmarks:
        roles["landmarks"] = build.landmark_estimator(exp).to(device)
    if args.against not in (None, *rows):
        raise ConfigError(f"--against: no swapper '{args.against}' here{terminal.nearest(args.against, rows)}")
    with folder_lock(out):
        videos = _videos(args, films, rows, exp, out)
        _check(rows, videos)
        content, strips = measure(rows, videos, roles, exp, device, args.interval)
        _write(out, content, strips, rows, roles, args.against)
    _print(content)
    print(out / "metrics.json", out / "report.html", out / "strips", sep="\n")


def _write(
    out: Path, content: dict[str, Any], strips: Mapping[str, Any], rows: Mapping[str, Row],
    estimators: Mapping[str, Estimator], against: str | None,
) -> None:  # fmt: skip
    """Add differences and warnings to the content of metrics.json, and write all files."""
    content["differences"] = _differences(content, against)
    content["verdicts"] += [
        warning
        for name, row in rows.items()
        if row.network is not None
        for warning in swappers.own_estimators(name, row.network, estimators)
    ]
    write_record(out / "metrics.json", content)
    for name, sheet in strips.items():
        save_png(sheet, out / "strips" / f"{name}.png")
    table = tables.as_html(content["rows"], [], content["differences"])
    notes = [*tables.notes(content), *_lines(content)]
    write_text(
        out / "report.html", tables.render("video.html", content=content, table=table, notes=notes, strips=strips)
    )


def _rows(names: list[str], exp: Experiment, device: str, smooth: str) -> dict[str, Row]:
    """The swappers by the names of their rows; only a reference has the name of one. Raises ConfigError, ValueError."""
    rows: dict[str, Row] = {}
    for argument in names:
        row = _row(os.path.expanduser(argument), exp, device)
        student = row.network is not None and row.path is not None
        unsmoothed = [replace(row, name=f"{row.name}-unsmoothed", smooth=False)] if student and smooth != "yes" else []
        for one in [*([] if unsmoothed and smooth == "no" else [row]), *unsmoothed]:
            reference = one.network is None and one.path is None
            if reference and one.name in rows:
                raise ConfigError(f"swapper '{one.name}': named twice, and would be measured twice; name it once")
            name, number = one.name, 1
            while name in rows or (name in REFERENCES and not reference):  # `_swap` knows references by their names
                number += 1
                name = f"{one.name}-{number}"
            rows[name] = replace(one, name=name)
    return rows


def _row(name: str, exp: Experiment, device: str) -> Row:
    path = Path(name)
    if name in REFERENCES:
        return Row(name)
    if name in teachers.TEACHERS:
        return _teacher(Teacher(name), exp, f"swapper '{name}'", device)
    if path.is_dir():
        return Row(path.name, path=path)
    if path.is_file() and path.suffix == ".safetensors":
        teacher = weights.read_header(name).get("teacher")
        if teacher is not None:
            return _teacher(Teacher(teacher, weights={"generator": name}), exp, name, device)
        student = swappers.load_student(path, exp).to(device)
        return Row(student.name, student, path)
    if path.is_file() and path.suffix == ".onnx":
        student = swappers.OnnxStudent(path, exp, None)
        return Row(student.name, student, path)
    known = ", ".join([*REFERENCES, *(name for name in teachers.TEACHERS if name != "exact")])
    raise ConfigError(
        f"unknown swapper '{name}'; known: {known}, a student's or teacher's .safetensors file, an .onnx file, a "
        f"folder of swapped videos"
    )


def _teacher(spec: Teacher, exp: Experiment, key: str, device: str) -> Row:
    teacher = swappers.TeacherSwapper(build.teacher(spec, exp, key)).to(device)
    return Row(teacher.name, teacher)


def _side(row: Row) -> int | None:
    """The only side in pixels at which a student swaps; None for all else."""
    if isinstance(row.network, swappers.OnnxStudent):
        return row.network.resolution
    return row.network.generator.options["resolution"] if row.network is not None and row.path is not None else None


def _videos(args: argparse.Namespace, films: bool, rows: Mapping[str, Row], exp: Experiment, out: Path) -> Videos:
    if films:
        if args.pairs or args.resolution:
            raise ConfigError("--pairs, --resolution: are for synthetic people; a list of films has its own")
        detector = faces.Detector(weights.find(faces.YUNET, exp.weights))
        return FilmedVideos(args.videos, detector, args.frames)
    sides = {side: name for name, row in rows.items() if (side := _side(row))}
    if len(sides) > 1 or (args.resolution and sides and args.resolution not in sides):
        each = ", ".join(f"{name} at {side}" for side, name in sides.items())
        raise ConfigError(f"students swap at their own side in pixels: {each}; measure those of one side together")
    size, folder = args.resolution or next(iter(sides), None), args.videos
    if folder is None:
        size, frames = size or CROP, args.frames or FRAMES
        folder = out / f"people-{size}-{frames}-{args.seed}"
        synthetic.write(folder, {"test": (PEOPLE, 1)}, size, args.seed, kind=synthetic.Kind(frames), device="cpu")
    return DrawnVideos(folder, args.pairs, args.seed, size, args.frames)


def _check(rows: Mapping[str, Row], videos: Videos) -> None:
    """Raise ConfigError for a swapper that these videos do not have, before hours of work."""
    if "exact" in rows and not videos.exact:
        raise ConfigError(f"swapper 'exact': {videos.name} lists films, whose exact swap is unknown")
    if "listed" in rows:
        lacks = videos.names if videos.exact else [entry.name for entry in videos.entries if entry.swap is None]
        if lacks:
            raise ConfigError(
                f"swapper 'listed': {videos.name} names no swapped video for {', '.join(lacks[:3])}; fill its column "
                f"swap, or name a folder of swapped videos"
            )


def measure(
    rows: Mapping[str, Row], videos: Videos, estimators: Mapping[str, Estimator], exp: Experiment, device: str,
    interval: str = "pairs",
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """The content of metrics.json but `differences`, and a sheet of frames for each of the first clips by its name.

    One clip is in memory at a time. Raises DataError, ValueError naming clip and swapper."""
    values: dict[str, dict[str, dict[str, Measured]]] = {name: {} for name in rows}
    facts, strips, unchanged, people = {}, {}, dict.fromkeys(rows, 0), []
    with tqdm(total=len(videos) * len(rows), desc="swap and measure", unit="video") as bar:
        for number in range(len(videos)):
            clip, readings = videos.load(number), {}
            columns = {"target": clip.target}
            for name, row in rows.items():
                columns[name] = swap = _swap(row, videos, number, clip, exp, device)
                view = ClipView(clip, swap, name, estimators, readings, device)
                found = {k: one for metric in VIDEO_METRICS.values() for k, one in metric(view).items()}
                values[name][clip.name] = found
                unchanged[name] += int((swap == clip.target).flatten(1).all(1).sum())
                bar.update()
            facts[clip.name] = _facts(clip, view)
            people.append((clip.source_person, clip.target_person))
            if number < STRIPS:
                strips[clip.name] = strip(clip, columns, STRIP_FRAMES)
    groups = [np.array(side) for side in zip(*people, strict=True)]
    shared = {
        "pairs": videos.name, "pairs_hash": digest([one["hash"] for one in facts.values()]), "pairs_count": len(videos),
        "swaps": "8-bit RGB, frame by frame", "data": videos.protocol,
    }  # fmt: skip
    by_people = groups if interval == "people" else ()
    table = {name: merged(clips, shared, interval, by_people) for name, clips in values.items()}
    total = sum(one["frames"] for one in facts.values())
    return {
        "videos": {"name": videos.name, "count": len(videos), "frames": total, "clips": facts, "notes": videos.notes},
        "pairs": {"people": dict(zip(("source", "target"), map(packed, groups), strict=True))},
        "rows": {name: {key: one.as_dict() for key, one in row.items()} for name, row in table.items()},
        "not_measured": _not_measured(videos, estimators),
        "verdicts": [
            f"{name} leaves {same} of {total} frames as they are"
            for name, same in unchanged.items()
            if same and name != "copy-target"
        ],
        "environment": environment(),
    }, strips  # fmt: skip


def _swap(row: Row, videos: Videos, number: int, clip: Clip, exp: Experiment, device: str) -> Tensor:
    """The swap of a clip, (T, 3, H, W) uint8."""
    if row.name == "copy-target":
        return clip.target.clone()
    if row.name == "exact":
        return clip.truth.exact
    if row.network is None:
        return videos.finished(number, row.path)
    if isinstance(videos, DrawnVideos):
        return swap_crops(f"{row.name}, {clip.name}", row.network, clip.source, clip.target, device)
    return videos.window.changed(_whole_frames(row, videos, number, clip, exp, device))


def _whole_frames(
    row: Row, videos: FilmedVideos, number: int, clip: Clip, exp: Experiment, device: str
) -> Callable[[float, np.ndarray], np.ndarray]:
    """(seconds, whole frame) -> the frame with its face swapped: a student by distill.swap; a teacher on the canonical
    crop, which is pasted back."""
    if row.path is not None:
        swapper = Swapper(row.path, exp, videos.detector, videos.entries[number].source, 1, smooth=row.smooth)

        def follow(time: float, image: np.ndarray) -> np.ndarray:
            swapper.at(time)
            return swapper(image)

        return follow

    def change(time: float, image: np.ndarray) -> np.ndarray:
        points = videos.detector(image)
        if points is None:
            return image
        crop = torch.from_numpy(faces.align(image, points, CROP).transpose(2, 0, 1).copy())
        swap = swap_crops(f"{row.name}, {clip.name}", row.network, clip.source, crop[None], device)
        return faces.paste(swap[0].permute(1, 2, 0).numpy(), image, points)

    return change


def _facts(clip: Clip, view: ClipView) -> dict[str, Any]:
    """What metrics.json says of a clip; of a synthetic one also how well optical flow follows the exact motion."""
    facts: dict[str, Any] = {
        "hash": clip.hash, "frames": len(clip), "size": list(clip.target.shape[2:]), "interval_s": clip.interval_s,
        "steps_left_out": int((~clip.joined).sum()),
    }  # fmt: skip
    if clip.truth is not None:
        motion, visible, method = view.target_motion()
        facts["flow"] = {"method": method, **end_point_error(motion, visible, clip.truth.motion, clip.truth.seen)}
        facts["known_landmark_jitter_px"] = known_jitter(clip)
    return facts


def _not_measured(videos: Videos, estimators: Mapping[str, Estimator]) -> dict[str, str]:
    missing = {
        name: NO_LANDMARKS
        for name, metric in VIDEO_METRICS.items()
        if metric.needs == "landmarks" and "landmarks" not in estimators
    }
    return missing | ({} if videos.exact else {"exact_video_error": "the exact swap of films is unknown"})


def _differences(content: Mapping[str, Any], reference: str | None) -> dict[str, Any] | None:
    """The paired differences of all rows to the reference row, by default the best that is no reference of the table,
    as plain types; None where there is nothing to compare."""
    rows = content["rows"]
    candidates = {name: row for name, row in rows.items() if name not in REFERENCES} or rows
    reference = reference or best({n: {k: v["value"] for k, v in row.items()} for n, row in candidates.items()})
    if reference is None or len(rows) < 2:
        return None
    found = to_reference({name: each_of(row) for name, row in rows.items()}, reference, people_of(content["pairs"]))
    plain = {name: {key: one.as_dict() for key, one in row.items()} for name, row in found.items()}
    return {"reference": reference, "rows": plain}


def _lines(content: Mapping[str, Any]) -> list[str]:
    """What is to be said under the table beside the notes of all tables."""
    lines = list(content["videos"]["notes"])
    flows = [clip["flow"] for clip in content["videos"]["clips"].values() if "flow" in clip]
    if flows:
        error, motion, visible = (
            np.mean([flow[key] for flow in flows]) for key in ("mean_px", "zero_motion_px", "called_visible_pct")
        )
        lines.append(
            f"optical flow follows the exact motion of the head with a mean error of {error:.2f} pixels, where the "
            f"head moves {motion:.2f} from frame to frame; it calls {visible:.1f} % of the visible pixels visible "
            f"({flows[0]['method']})"
        )
    return lines


def _print(content: Mapping[str, Any]) -> None:
    videos = content["videos"]
    print(f"{videos['count']} videos, {videos['frames']} frames")
    print(tables.as_text(content["rows"], content["differences"]))
    print(*tables.notes(content), *_lines(content), sep="\n")
    for warning in content["verdicts"]:
        print(f"! {warning}")


if __name__ == "__main__":
    sys.exit(main())
