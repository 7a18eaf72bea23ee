"""Swap faces in photographs and videos with a student:

    python -m distill.swap SOURCE TARGET -o OUT [--student student.safetensors] [--faces largest|all|2]
    python -m distill.swap SOURCE TARGET -o OUT --reference PHOTO        only the face that is most like PHOTO's

SOURCE is a photograph whose largest face lends its identity; TARGET a photograph or a video. Faces are found, aligned,
swapped and laid back with a soft border; a video keeps its sound. OUT says in its metadata that it is AI-generated.
Use pictures of people who agreed to it: see Consent in the README.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from distill import build, config
from distill.config import ConfigError, Experiment
from distill.data import faces, video
from distill.evaluate import swappers
from swapcore import images as pictures
from swapcore import weights
from swapcore.files import whole_file
from swapcore.images import SUFFIXES, DataError, decode, to_float, to_uint8

VIDEOS = {".mp4", ".mov", ".mkv", ".webm", ".avi"}
DEFAULT_STUDENT = Path("runs/quickstart/student.safetensors")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("target", type=Path, metavar="TARGET")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT")
    parser.add_argument("--student", type=Path, default=DEFAULT_STUDENT, help=f"default: {DEFAULT_STUDENT}")
    parser.add_argument("--faces", default="largest", help="largest (default), all, or how many of the largest")
    parser.add_argument("--reference", type=Path, metavar="PHOTO", help="swap the face that is most like this one's")
    parser.add_argument("--weights", nargs="+", default=[], metavar="FOLDER", help="where weight files are looked for")
    args = parser.parse_args(arguments)
    try:
        swap_file(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(args.out)
    return 0


def swap_file(args: argparse.Namespace) -> None:
    kind = _kind(args.target)
    if kind != _kind(args.out):
        raise ConfigError(f"-o {args.out}: {args.target} is a {kind}, and so must this be, by its ending")
    if args.out.exists() and any(p.exists() and args.out.samefile(p) for p in (args.source, args.target)):
        raise ConfigError(f"-o {args.out}: would replace a picture that is read; name another file")
    count = {"largest": 1, "all": None}.get(args.faces, args.faces)
    if isinstance(count, str) and not (count.isdigit() and int(count)):
        raise ConfigError(f"--faces {args.faces}: expected largest, all, or a number from 1 on")
    exp = config.default("swap", [("weights", args.weights)])
    detector = faces.Detector(weights.find(faces.YUNET, exp.weights))
    swapper = Swapper(args.student, exp, detector, args.source)
    who = Reference(args.reference, exp, detector, swapper) if args.reference else None

    def change(image: np.ndarray) -> np.ndarray:
        return swapper(image, int(count) if count else None, who)

    if kind == "photograph":
        image = change(_photograph(args.target))
        if not swapper.swapped:
            raise DataError(f"{args.target}: no face found")
        save_photograph(image, args.out)
        return
    with tqdm(total=video.count(args.target), desc="swap", unit="frame") as bar:
        for _ in video.convert(args.target, args.out, change):
            bar.update()
    if not swapper.swapped:
        args.out.unlink()
        raise DataError(f"{args.target}: no face found in any frame")


class Swapper:
    """A student with its source: pictures of any size in, the same with faces swapped out. `swapped` counts them."""

    def __init__(self, student: Path, exp: Experiment, detector: faces.Detector, source: Path) -> None:
        if not student.is_file():
            raise ConfigError(f"{student}: no such student; train one (make quickstart), or name one with --student")
        if student.suffix not in (".onnx", ".safetensors"):
            raise ConfigError(f"{student}: expected a student's .safetensors, or its whole.onnx or generator.onnx")
        if student.suffix == ".onnx":
            self.network = swappers.OnnxStudent(student, exp, None)
            self.size = self.network.resolution
        else:
            self.network = swappers.load_student(student, exp)
            self.size = self.network.generator.options["resolution"]
        self.detector, self.swapped = detector, 0
        points = detector(image := _photograph(source))
        if points is None:
            raise DataError(f"{source}: no face found; the source must show one")
        self.source = _tensor(faces.align(image, points, self.size))

    @torch.inference_mode()
    def __call__(
        self, image: np.ndarray, count: int | None, who: Callable[[np.ndarray, list[np.ndarray]], list] | None
    ) -> np.ndarray:
        found = self.detector.all(image)
        found = who(image, found) if who else found[:count]
        if not found:
            return image
        targets = torch.cat([_tensor(faces.align(image, points, self.size)) for points in found])
        swaps = self.network(self.source.expand(len(targets), -1, -1, -1), targets)
        for swap, points in zip(to_uint8(swaps.clamp(-1, 1)), found, strict=True):
            image = faces.paste(swap.permute(1, 2, 0).numpy(), image, points)
        self.swapped += len(found)
        return image


class Reference:
    """Of several faces the one most like a photograph's, by the cosine of the student's identity encoder."""

    def __init__(self, photo: Path, exp: Experiment, detector: faces.Detector, swapper: Swapper) -> None:
        encoder = getattr(swapper.network, "identity_encoder", None) or getattr(swapper.network, "encoder", None)
        self.encoder, self.size = encoder or build.identity_encoder(exp), max(swapper.size, 128)
        points = detector(image := _photograph(photo))
        if points is None:
            raise DataError(f"{photo}: no face found; the reference must show one")
        self.wanted = self._embed(image, [points])[0]

    def __call__(self, image: np.ndarray, found: list[np.ndarray]) -> list[np.ndarray]:
        if not found:
            return []
        return [found[int((self._embed(image, found) @ self.wanted).argmax())]]

    @torch.inference_mode()
    def _embed(self, image: np.ndarray, found: list[np.ndarray]) -> torch.Tensor:
        return self.encoder(torch.cat([_tensor(faces.align(image, points, self.size)) for points in found]))


def save_photograph(image: np.ndarray, path: Path) -> None:
    """Write (H, W, 3) uint8 by the path's ending, marked as AI-generated; whole or not at all."""
    picture = Image.fromarray(image)
    if path.suffix.lower() == ".png":
        pictures.save_png(picture, path)
        return
    if path.suffix.lower() == ".bmp":
        raise ConfigError(f"-o {path}: BMP cannot say that a picture is AI-generated; take .png, .jpg or .webp")
    with whole_file(path) as temporary:
        picture.save(temporary, quality=95, xmp=pictures.XMP.encode())


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return "photograph"
    if suffix in VIDEOS:
        return "video"
    known = ", ".join(sorted(SUFFIXES | VIDEOS))
    raise ConfigError(f"{path}: neither a photograph nor a video by its ending; known: {known}")


def _photograph(path: Path) -> np.ndarray:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return np.ascontiguousarray(decode(path).transpose(1, 2, 0))


def _tensor(crop: np.ndarray) -> torch.Tensor:
    return to_float(torch.from_numpy(crop.transpose(2, 0, 1).copy())[None])


if __name__ == "__main__":
    sys.exit(main())
