"""The folder of results of experiments/gpu.py: at most six files of at most 15 MB, and the way back into runs/."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from swapcore.files import bytes_hash, whole_file, write_text
from swapcore.terminal import markdown_table

PART_BYTES = 15_000_000
PARTS = 3  # table.md, steps.json and logs.tar.gz are the other files
TAIL_LINES = 3
LOG_BYTES = 200_000  # of each log, its end
LARGE = ("data", "pseudo_gt", "shared", "preview")  # made again in seconds, or pictures of the way
BLOCK = 512  # of a tar file


def tail(log: Path, lines: int = TAIL_LINES) -> list[str]:
    """The last lines of a log; of a progress bar the last state."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    kept = [line.rstrip("\r").rsplit("\r", 1)[-1].strip() for line in text.split("\n")]
    return [line for line in kept if line][-lines:]


def last_line(log: Path) -> str:
    return (tail(log, 1) or ["no output"])[0]


def numbers(tree: Any, path: str) -> list[Any]:
    """The values at a dotted path of a JSON tree; `*` is every entry of a list. Empty where the path does not exist."""
    found = [tree]
    for key in path.split("."):
        below = [entry for value in found if isinstance(value, list) for entry in value] if key == "*" else []
        found = below or [value[key] for value in found if isinstance(value, dict) and key in value]
    return [value for value in found if value is not None]


def table(steps: Sequence[dict], known: dict[str, dict], runs: Sequence[str], work: Path) -> str:
    """The table of all steps: state, seconds and main numbers; below it the comparisons of the experiments."""
    rows, below = [["step", "state", "s", "result"]], []
    for step in [*steps, *({"name": name} for name in runs)]:
        entry = known.get(step["name"], {"state": "not run"})
        shown = {label: numbers(entry.get("result"), path) for label, path in step.get("show", {}).items()}
        cells = [f"{label} {', '.join(map(_text, values))}" for label, values in shown.items() if values]
        if not cells and entry["state"] == "done":
            cells = entry.get("tail", [])
        rows.append([step["name"], entry["state"], _text(entry.get("seconds", "")), "; ".join(cells)])
    for name in runs:
        comparison = work / "runs" / name / "comparison.md"
        if comparison.is_file():
            below.append(f"## {name}\n\n{comparison.read_text(encoding='utf-8').strip()}")
    return "\n\n".join([markdown_table(rows), *below])


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_table(results: Path, text: str) -> None:
    write_text(results / "table.md", f"{text}\n")


def pack(results: Path, work: Path, logs: Path, runs: Sequence[str]) -> list[str]:
    """Write logs.tar.gz and the parts of runs-HASH.tar; returns the files that did not fit. Small files come first, and
    checkpoints last: a training that lacks its own begins anew. The hash is of all parts together: a kill between two
    parts leaves those of the pack before beside them."""
    results.mkdir(parents=True, exist_ok=True)
    with whole_file(results / "logs.tar.gz") as temporary, tarfile.open(temporary, "w:gz") as tar:
        for log in sorted(logs.glob("*.txt")):
            content = log.read_bytes()[-LOG_BYTES:]
            info = tarfile.TarInfo(log.name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    files = [path for name in runs for path in wanted(work / "runs" / name)]
    files.sort(key=lambda path: (path.parent.name == "state", path.stat().st_size))
    buffer, left_out = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in files:
            if buffer.tell() + path.stat().st_size + 8 * BLOCK > PARTS * PART_BYTES - 2 * tarfile.RECORDSIZE:
                left_out.append(str(path.relative_to(work)))
                continue
            tar.add(path, str(path.relative_to(work)))
    content = buffer.getvalue()
    pieces = [content[i : i + PART_BYTES] for i in range(0, len(content), PART_BYTES)] if files else []
    parts = [results / f"runs-{bytes_hash(content)}.tar.{number:02d}" for number in range(len(pieces))]
    for part, piece in zip(parts, pieces, strict=True):
        with whole_file(part) as temporary:
            temporary.write_bytes(piece)
    for old in set(results.glob("runs-*.tar.*")) - set(parts):
        old.unlink()
    return left_out


def wanted(run: Path) -> Iterator[Path]:
    """The files of a run, or of its variants, that are kept: all but links, locks, and what is LARGE; checkpoints of
    trainings that are not finished."""
    for path in sorted(run.rglob("*")):
        inside = path.relative_to(run).parts
        if path.is_symlink() or not path.is_file() or path.name.endswith(".lock"):
            continue
        if any(re.match(rf"({'|'.join(LARGE)})", part) for part in inside):
            continue
        if path.parent.name == "state" and (path.parent.parent / "done.json").is_file():
            continue
        yield path


def unpack(results: Path, work: Path) -> None:
    """Put the files of the newest complete runs-HASH.tar back where they are absent; files that are there are newer.
    Raises ValueError where there are parts of one and none is complete."""
    packs: dict[str, list[Path]] = {}
    for part in sorted(results.glob("runs-*.tar.*")):
        packs.setdefault(part.name.partition(".")[0].removeprefix("runs-"), []).append(part)
    for hashed, parts in sorted(packs.items(), key=lambda pack: -pack[1][0].stat().st_mtime):
        content = b"".join(part.read_bytes() for part in parts)
        if bytes_hash(content) == hashed:
            break
    else:
        if packs:
            raise ValueError(
                f"{results}: runs-*.tar.*: parts are missing; copy all of them, or delete them to start anew"
            )
        return
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            if not (work / member.name).exists():
                tar.extract(member, work, filter="data")
