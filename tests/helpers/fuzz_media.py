"""Damaged videos and pictures for `distill.swap`, as kinds of `fuzz_cases.py`. They lie in `media/` of the world.

Faces are found by YuNet where its weights are in $SWAPDISTILL_SHARED/weights (default: ../shared/weights), else by a
detector that stands in for it and sees one face in the middle of every picture.
"""

from __future__ import annotations

import importlib.util
import random
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from conftest import SHARED
from PIL import Image

from distill.data import faces
from helpers.file_parts import damaged_parts
from helpers.odd_pictures import p3_profile, turned
from helpers.portraits import PLACES, portraits
from swapcore.decoding import SUFFIXES
from swapcore.weights import Card

MEDIA = Path("media")
STUDENT = Path("runs/tiny/train/student.safetensors")
NEEDED = {"av": "PyAV", "cv2": "OpenCV"}
SIDE, FRAMES = 128, 6
STAND_IN = "stand_in.onnx"
# Ending of a film: codec of its pictures and of its sound
FILMS = {
    ".mp4": ("libx264", "aac"), ".mov": ("libx264", "pcm_s16le"), ".mkv": ("libx264", "flac"),
    ".avi": ("mpeg4", "pcm_s16le"), ".webm": ("libvpx-vp9", "libopus"),
}  # fmt: skip
STILLS = (".png", ".jpg", ".webp", ".tif", ".gif", ".bmp", *sorted({".avif", ".jp2"} & SUFFIXES))
MOVING = (".gif", ".webp", ".png")
WRITTEN = (".png", ".jpg", ".webp", ".tif", ".gif")


class StandIn:
    """A detector that needs no weights."""

    name, weight_hash = "stand_in", "0"

    def __init__(self, path: Path) -> None:
        pass

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return self.all(image)[0]

    def all(self, image: np.ndarray) -> list[np.ndarray]:
        """The five points of one face in the middle, as large as the picture, (5, 2) in pixels."""
        height, width = image.shape[:2]
        side = min(height, width)
        return [PLACES * side + ((width - side) / 2, (height - side) / 2)]


def left_out() -> str | None:
    """Why these kinds cannot be tried here; None if they can."""
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    return f'{" and ".join(missing)} missing: pip install -e ".[video]"' if missing else None


def choose_detector() -> str:
    """From now on `distill.swap` of this process finds faces, by YuNet or a stand-in. Returns which."""
    if (SHARED / "weights" / faces.YUNET.file).is_file():
        return f"YuNet of {SHARED / 'weights'}"
    faces.Detector = StandIn
    facts = {"name": "stand_in", "file": STAND_IN, "sha256": None, "url": None, "source": "", "licence": "", "note": ""}
    faces.YUNET = Card(**facts)
    return f"a stand-in, as {SHARED / 'weights'} has no YuNet"


def build() -> None:
    """Make `media/`: source.png, a film of every ending, pictures of many, and what is already there to be replaced."""
    from helpers.videos import beep, write_film

    images, _ = portraits(2, SIDE, seed=21)
    MEDIA.mkdir()
    (MEDIA / STAND_IN).touch()
    Image.fromarray(images[0]).save(MEDIA / "source.png")
    frames = [np.ascontiguousarray(np.roll(images[1], 2 * i, 1)) for i in range(FRAMES)]
    for suffix, (codec, sound) in FILMS.items():
        phone = {"turn": (270, False), "colours": (1, 1, 1, 1)} if suffix in (".mp4", ".mov") else {}
        shown = [np.ascontiguousarray(np.rot90(frame)) for frame in frames] if phone else frames
        write_film(
            MEDIA / f"film{suffix}", shown, range(FRAMES), Fraction(1, 25), codec=codec, last=1, quality="28",
            sound=[(sound, beep(0.24, 0.1, 48000), 48000, 0)], **phone,
        )  # fmt: skip
        shutil.copyfile(MEDIA / f"film{suffix}", MEDIA / f"out{suffix}")
    for suffix in STILLS:
        options = {} if suffix in (".gif", ".bmp", ".jp2") else {"icc_profile": p3_profile()}
        if suffix in (".png", ".jpg", ".webp", ".tif"):
            turned(MEDIA / f"still{suffix}", images[1], 6, **options)
        else:
            Image.fromarray(images[1]).save(MEDIA / f"still{suffix}", **options)
    clear = [Image.fromarray(np.concatenate([frame, np.full_like(frame[..., :1], 255)], -1)) for frame in frames[:3]]
    for frame in clear:
        frame.paste((0, 0, 0, 0), (0, 0, SIDE // 8, SIDE))
    clear[0].save(MEDIA / "cut.png")
    for suffix in MOVING:
        for name, pictures in (("moving", [Image.fromarray(frame) for frame in frames[:3]]), ("clear", clear)):
            options = {"save_all": True, "append_images": pictures[1:], "duration": 40, "loop": 0}
            options |= {"disposal": 2} if suffix == ".gif" else {}
            pictures[0].save(MEDIA / f"{name}{suffix}", **options)
    for suffix in WRITTEN:
        Image.fromarray(images[1]).save(MEDIA / f"out{suffix}")


def leave_inputs_whole() -> None:
    """From now on the inputs are not damaged."""
    global damage
    damage = lambda rng, content: content  # noqa: E731


damage = damaged_parts


def film(rng: random.Random) -> tuple[list[str], Path]:
    """(arguments of distill.swap, the damaged file): a damaged film, or a whole one as few cameras write them."""
    path, out = MEDIA / f"film{rng.choice(list(FILMS))}", MEDIA / f"out{rng.choice(list(FILMS))}"
    if rng.random() < 0.2 and damage is damaged_parts:
        _odd_film(rng, path)
    else:
        write(path, damage(rng, path.read_bytes()))
    if rng.random() < 0.15:  # as people rename files
        path = path.rename(MEDIA / f"renamed{rng.choice(list(FILMS))}")
    return arguments(MEDIA / "source.png", path, out), path


def picture(rng: random.Random) -> tuple[list[str], Path]:
    """(arguments of distill.swap, the damaged file): a damaged target, source, or picture of the person."""
    moving = [f"{name}{suffix}" for name in ("moving", "clear") for suffix in MOVING]
    name = rng.choice([*(f"still{suffix}" for suffix in STILLS), "cut.png", *moving])
    path, out = MEDIA / name, MEDIA / f"out{rng.choice(MOVING if name in moving else WRITTEN)}"
    write(path, damage(rng, path.read_bytes()))
    role = "target" if name in moving else rng.choice(("target", "target", "source", "reference"))
    if role == "target":
        return arguments(MEDIA / "source.png", path, out), path
    if role == "source":
        return arguments(path, MEDIA / "source.png", out), path
    # Everybody resembles the person, so that the swap is made wherever a face is found.
    return [*arguments(*[MEDIA / "source.png"] * 2, out), "--reference", str(path), "--similarity=-1"], path


def arguments(source: Path, target: Path, out: Path) -> list[str]:
    folder = MEDIA if faces.Detector is StandIn else SHARED / "weights"
    return [*map(str, (source, target)), "-o", str(out), "--student", str(STUDENT), "--weights", str(folder)]


def write(path: Path, content: bytes) -> Path:
    """Replace a file. Its old content stays, as it is that of the world (a hard link)."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


def _odd_film(rng: random.Random, path: Path) -> None:
    """A whole film with times, sizes, formats, colours or sound as few cameras write them."""
    from helpers.videos import beep, write_film

    path.unlink()
    width, height = rng.choice(((2, 2), (16, 200), (34, 18), (128, 128), (400, 140)))
    images = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (4, height, width, 3), dtype=np.uint8)
    if min(width, height) >= SIDE:
        images[:, :SIDE, -SIDE:] = np.asarray(Image.open(MEDIA / "source.png"))
    codec, sound = FILMS[path.suffix]
    options: dict[str, Any] = {"codec": codec}
    if codec == "libx264":
        options["pixels"] = rng.choice(("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "gray"))
    if rng.random() < 0.5 and codec != "mpeg4":
        options["ticks"] = rng.choice(((0, 1, 2, 3), (-400, -40, 0, 40), (0, 40, 41, 10**6), (5000, 5001, 9000, 9001)))
    if rng.random() < 0.5:
        options["turn"] = (rng.choice((0, 45, 90, 180, 270, 359)), rng.random() < 0.5)
    if rng.random() < 0.5:
        options["colours"] = tuple(rng.choice(numbers) for numbers in ((1, 5, 9), (1, 2), (1, 16, 18, 8), (1, 9, 12)))
    if rng.random() < 0.5:
        options["pixel"] = rng.choice((Fraction(4, 3), Fraction(1, 9), Fraction(64, 45), Fraction(300)))
    if rng.random() < 0.5:
        start = rng.choice((0, 4800, 480000))
        options["sound"] = [(sound, beep(0.2, 0.1, 48000, rng.choice((1, 2))), 48000, start)] * rng.choice((1, 2))
    base = Fraction(1, 25) if codec == "mpeg4" else Fraction(1, 1000)
    if codec == "mpeg4":
        options |= {"ticks": (0, 1, 2, 3), "last": 1}
    write_film(path, list(images), time_base=base, **options)
