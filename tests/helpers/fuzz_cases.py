"""Commands with damaged input, by kind of input. Each kind damages a file in its own copy of a small finished world.

The world holds `tiny.yaml` and its finished run, `photos/` (pictures of three people), `pairs/` (a pair list),
`swaps/` (finished swaps of that list), `onnx/` (exported students), and `media/` (films and pictures to swap).
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from helpers import fuzz_media, line
from helpers.mutations import ODD_VALUES, OTHER_FILES, damaged_bytes, damaged_text, damaged_tree
from helpers.odd_pictures import ORIENTATION, p3_profile

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = Path("runs/tiny")
QUICK = ("id_retrieval", "id_similarity")


@dataclass(frozen=True)
class Case:
    """A command of this checkout and its arguments. damaged: the files that it must survive, and may replace."""

    command: str
    arguments: list[str]
    damaged: tuple[Path, ...] = ()


def build_world(run: Callable[[str, list[str]], tuple[int, str]]) -> None:
    """Make the world in the current folder. run: gives status and output of a command with arguments."""
    path = line.experiment(
        Path("."), "tiny", runs="runs", stages=["data", "pseudo_gt", "train", "export", "eval", "report"],
        pseudo_gt={"pairs": 8, "shard_size": 4}, train={"steps": 2}, export={"to": ["onnx"]},
        eval={"pairs": 4, "metrics": list(QUICK)},
    )  # fmt: skip
    commands = [
        ("distill/run.py", [str(path)]),
        ("datasets/make_pairs.py", ["synthetic", str(RUN / "data"), *"--out pairs --count 4 --resolution 64".split()]),
        ("distill.evaluate", ["copy-source", *EVALUATE]),
    ]
    for command, arguments in commands:
        status, output = run(command, arguments)
        if status:
            raise SystemExit(f"{command} {' '.join(arguments)} ended with {status}: {output}")
    for number, picture in enumerate(sorted((RUN / "data" / "test").rglob("[0-9].png"))):
        target = Path("photos") / picture.parent.name / f"{number}.{('png', 'jpg')[number % 2]}"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(picture).save(target)
    Path("swaps").mkdir()
    for pair in json.loads(Path("pairs/pairs.json").read_text())["pairs"]:
        shutil.copyfile(Path("pairs", pair["source"]), Path("swaps", f"{pair['name']}.png"))
    os.rename(RUN / "export" / "onnx-fp32", "onnx")
    if fuzz_media.left_out() is None:
        fuzz_media.build()


EVALUATE = ["--pairs", "pairs", "--metrics", ",".join(QUICK), "--out", "out"]


def yaml_file(rng: random.Random) -> Case:
    """A shipped experiment with another text or other values, printed by --dry-run."""
    text = rng.choice(
        sorted(set((ROOT / "experiments").glob("*.yaml")) - {ROOT / "experiments" / "gpu.yaml"})
    ).read_text()
    path = Path("experiment.yaml")
    if rng.random() < 0.4:
        path.write_bytes(damaged_text(rng, text))
    else:
        path.write_text(yaml.safe_dump(damaged_tree(rng, yaml.safe_load(text)), sort_keys=False))
    return Case("distill/run.py", [str(path), "--dry-run", *rng.choice(([], ["--full-size"]))], (path,))


def override(rng: random.Random) -> Case:
    """`section.key=value` with odd keys and values, printed by --dry-run."""
    return Case("distill/run.py", ["tiny.yaml", "--dry-run", *(_override(rng) for _ in range(rng.choice((1, 1, 2))))])


def changed_run(rng: random.Random) -> Case:
    """An override of data or pseudo_gt on the finished run: refused, or nothing to do."""
    key = rng.choice([key for key in _keys() if key.startswith(("data.", "pseudo_gt.", "seed", "weights"))])
    return Case(
        "distill/run.py",
        ["tiny.yaml", "stages=[data,pseudo_gt]", "export.to=[]", f"{key}={_text(rng.choice(ODD_VALUES))}"],
    )


def record(rng: random.Random) -> Case:
    """A damaged record of the finished run (JSON, JSON lines), and the command that continues it."""
    files = [p for p in RUN.rglob("*.json*") if p.name != "mlflow_run.json"]
    path = _damage_text(rng, rng.choice(sorted(files)))
    return Case("distill/run.py", ["tiny.yaml", "export.to=[onnx]"], (path,))


def manifest(rng: random.Random) -> Case:
    """A damaged manifest, of which a pair list is drawn."""
    path = _damage_text(rng, RUN / "data" / "manifest.jsonl")
    return Case(
        "datasets/make_pairs.py",
        ["synthetic", str(RUN / "data"), *"--out list --count 3 --resolution 64".split()],
        (path,),
    )


def photograph(rng: random.Random) -> Case:
    """Damaged pictures in a folder of photographs, of which a pair list is drawn or a run is started."""
    paths = tuple(_damage_picture(rng, path) for path in rng.sample(sorted(Path("photos").rglob("*.*")), 2))
    if rng.random() < 0.5:
        kind = rng.choice(("people", "singles"))
        return Case("datasets/make_pairs.py", [kind, "photos", *"--out list --count 3 --resolution 64".split()], paths)
    settings = ["name=photos", "stages=[data]", "export.to=[]", "data.kind=photos", "data.photos=photos"]
    return Case("distill/run.py", ["tiny.yaml", *settings, "data.test_people=2", "data.val_people=0"], paths)


def swap(rng: random.Random) -> Case:
    """Damaged pictures in a folder of finished swaps, which is measured."""
    path = _damage_picture(rng, rng.choice(sorted(Path("swaps").glob("*.png"))))
    return Case("distill.evaluate", ["swaps", *EVALUATE], (path,))


def media_film(rng: random.Random) -> Case:
    """A damaged or odd film, whose faces are swapped."""
    arguments, path = fuzz_media.film(rng)
    return Case("distill.swap", arguments, (path,))


def media_picture(rng: random.Random) -> Case:
    """A damaged picture, whose face is swapped, or which says whose face and by whose."""
    arguments, path = fuzz_media.picture(rng)
    return Case("distill.swap", arguments, (path,))


def shard(rng: random.Random) -> Case:
    """A damaged shard or sidecar, on which a student is trained."""
    path = rng.choice(sorted((RUN / "pseudo_gt").glob("shard-*")))
    if path.suffix == ".json" and rng.random() < 0.7:
        _damage_text(rng, path)
    else:
        _write(path, damaged_bytes(rng, path.read_bytes()))
    settings = ["name=again", "train.steps=1", "stages=[train]", "export.to=[]"]
    Path("runs/again").mkdir()
    for stage in ("data", "pseudo_gt"):
        (Path("runs/again") / stage).symlink_to(Path("../tiny") / stage)
    return Case("distill/run.py", ["tiny.yaml", *settings], (path,))


def checkpoint(rng: random.Random) -> Case:
    """A damaged checkpoint that is resumed, a damaged student, or a foreign file as weights of a teacher."""
    kind = rng.randrange(3)
    if kind == 0:
        path = next((RUN / "train" / "state").glob("*.pt"))
        if rng.random() < 0.5:
            _write(path, damaged_bytes(rng, path.read_bytes()))
        else:
            _save_torch(path, damaged_tree(rng, torch.load(path, weights_only=True)))
        # Without its done.json the stage loads the checkpoint, and ends.
        (RUN / "train" / "done.json").unlink()
        settings = ["stages=[train]", "export.to=[]"]
        begun = (RUN / "experiment.yaml", RUN / "train" / "inputs.json", RUN / "train" / "student.safetensors")
        return Case("distill/run.py", ["tiny.yaml", *settings], (path, *begun))
    if kind == 1:
        path = RUN / "train" / "student.safetensors"
        if rng.random() < 0.5:
            _write(path, damaged_bytes(rng, path.read_bytes()))
        else:
            _damage_safetensors(rng, path)
        return Case("distill.evaluate", [str(path), *EVALUATE], (path,))
    path = Path("foreign.pth")
    if rng.random() < 0.4:
        path.write_bytes(rng.choice(OTHER_FILES))
    else:
        tensors = {f"module.{name}": torch.zeros(3) for name in ("first_layer.1.weight", "step", "generator")}
        tree = {rng.choice(("state_dict", "g_ema", "net", "epoch")): tensors, "epoch": 3}
        _save_torch(path, damaged_tree(rng, tree), old=rng.random() < 0.3)
        if rng.random() < 0.4:
            path.write_bytes(damaged_bytes(rng, path.read_bytes()))
    teacher = f"pseudo_gt.teachers=[{{name: simswap, weights: {{generator: {path}, identity_encoder: {path}}}}}]"
    return Case("distill/run.py", ["tiny.yaml", "stages=[pseudo_gt]", "export.to=[]", teacher], (path,))


def onnx_file(rng: random.Random) -> Case:
    """A damaged ONNX file, which is measured."""
    path = rng.choice(sorted(Path("onnx").glob("*.onnx")))
    _write(path, damaged_bytes(rng, path.read_bytes()))
    return Case("distill.evaluate", [str(path), *EVALUATE], (path,))


def pair_list(rng: random.Random) -> Case:
    """A damaged list of pairs, on which a swapper is measured."""
    path = _damage_text(rng, Path("pairs/pairs.json"))
    return Case("distill.evaluate", ["copy-target", *EVALUATE], (path,))


def option(rng: random.Random) -> Case:
    """An odd value of an option."""
    value = _text(rng.choice(ODD_VALUES))
    name = rng.choice(("--pairs", "--metrics", "--recogniser", "--resolution", "--out", "--weights", "--same-people"))
    if name in ("--out",) and value.startswith("/"):
        value = "pairs/pairs.json"
    return Case("distill.evaluate", ["copy-target", *EVALUATE, f"{name}={value}"])


# By name, with the share of each kind. What costs most has the fewest inputs.
KINDS: dict[str, tuple[Callable[[random.Random], Case], int]] = {
    "yaml_file": (yaml_file, 30),
    "override": (override, 20),
    "changed_run": (changed_run, 8),
    "record": (record, 7),
    "manifest": (manifest, 6),
    "photograph": (photograph, 6),
    "swap": (swap, 5),
    "media_film": (media_film, 8),
    "media_picture": (media_picture, 8),
    "shard": (shard, 5),
    "checkpoint": (checkpoint, 8),
    "onnx_file": (onnx_file, 6),
    "pair_list": (pair_list, 7),
    "option": (option, 4),
}


# The kinds whose inputs are valid where they are not damaged.
VALID = ("record", "manifest", "photograph", "swap", "media_film", "media_picture", "shard", "onnx_file", "pair_list")


def leave_inputs_whole() -> None:
    """From now on the cases do not damage their inputs, so that each command must end well."""
    whole = {
        "damaged_bytes": lambda rng, content: content, "damaged_text": lambda rng, text: text.encode(),
        "damaged_tree": lambda rng, tree: tree, "_damage_picture": lambda rng, path: path,
        "_damage_safetensors": lambda rng, path: path,
    }  # fmt: skip
    globals().update(whole)
    fuzz_media.leave_inputs_whole()


def _keys() -> list[str]:
    """The keys of tiny.yaml with their sections."""
    tree = yaml.safe_load(Path("tiny.yaml").read_text())
    return [
        k if not isinstance(v, dict) else f"{k}.{inner}"
        for k, v in tree.items()
        for inner in (v if isinstance(v, dict) else [0])
    ]


def _override(rng: random.Random) -> str:
    key = rng.choice(_keys())
    if rng.random() < 0.3:
        key = rng.choice((key + ".more", key[:-1], key.upper(), "", ".", "loss", "variants.a", "full_size.seed", "a b"))
    return rng.choice((f"{key}={_text(rng.choice(ODD_VALUES))}",) * 9 + (key,))


def _text(value: Any) -> str:
    """A value as somebody would type it."""
    return (
        value
        if isinstance(value, str)
        else yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    )


def _write(path: Path, content: bytes) -> Path:
    """Replace a file. Its old content stays, as it is that of the world (a hard link)."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


def _damage_text(rng: random.Random, path: Path) -> Path:
    text = path.read_text()
    if rng.random() < 0.4:
        return _write(path, damaged_text(rng, text))
    if path.suffix == ".jsonl":
        rows = [json.loads(row) for row in text.splitlines()]
        return _write(path, "".join(json.dumps(row) + "\n" for row in damaged_list(rng, rows)).encode())
    return _write(path, json.dumps(damaged_tree(rng, json.loads(text))).encode())


def damaged_list(rng: random.Random, rows: list) -> list:
    damaged = damaged_tree(rng, rows)
    return damaged if isinstance(damaged, list) else [damaged]


def _damage_picture(rng: random.Random, path: Path) -> Path:
    """Other bytes, or a whole picture of another size, mode or format under the same name."""
    if rng.random() < 0.6:
        return _write(path, damaged_bytes(rng, path.read_bytes()))
    mode = rng.choice(("RGB", "L", "RGBA", "P", "1", "CMYK", "I;16", "F"))
    size = rng.choice(((1, 1), (64, 64), (64, 63), (31, 31), (200, 200), (1, 3000)))
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 256) if mode == "I;16" else picture.convert(mode)
    kind = {"F": "TIFF", "CMYK": "JPEG", "I;16": "PNG"}.get(mode) or rng.choice(("PNG", "GIF", "BMP", "TIFF"))
    stream, options = io.BytesIO(), {}
    if rng.random() < 0.5:  # headers as phones and editors write them, or damaged
        exif = Image.Exif()
        exif[ORIENTATION] = rng.randrange(10)
        options = {"exif": exif, "icc_profile": rng.choice((p3_profile(), damaged_bytes(rng, p3_profile())))}
    if kind in ("PNG", "GIF") and rng.random() < 0.2:
        options |= {"save_all": True, "append_images": [picture.rotate(180)], "duration": rng.choice((0, 40))}
    picture.save(stream, kind, **options)
    return _write(path, stream.getvalue())


def _damage_safetensors(rng: random.Random, path: Path) -> Path:
    """A whole file with other tensors or other metadata."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors, metadata = load_file(path), header.get("__metadata__", {})
    if rng.random() < 0.5:
        metadata = {str(k): str(v) for k, v in dict(damaged_tree(rng, metadata) or {}).items()}
    else:
        name = rng.choice(sorted(tensors))
        odd = rng.choice((torch.zeros(1), torch.full_like(tensors[name], float("nan")), tensors[name].half(), None))
        tensors = {k: v for k, v in (tensors | {name: odd}).items() if v is not None}
    path.unlink()
    save_file(tensors, path, metadata)
    return path


def _save_torch(path: Path, content: Any, old: bool = False) -> None:
    path.unlink(missing_ok=True)
    torch.save(content, path, _use_new_zipfile_serialization=not old)
