"""Students: generators small enough for a phone. Build one by name, save it as safetensors, load it from the file.

A generator takes a target (N, 3, R, R) and an embedding (N, D) and returns swaps at full, half and quarter resolution.
One whose class sets `needs_map` also takes the identity map (N, C, h, w) of the identity encoder. `name` and `options`
(the keyword arguments of its class) describe a generator completely.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

from torch import Tensor, nn

from swapcore.weights import load_strictly, read_header, read_state, write_state

from . import masks
from .compact import Compact
from .contract import check_options
from .mobilefaceswap import MobileFaceSwap
from .mobilefsgan import MobileFSGAN
from .modulated import coordinates
from .timm_unet import TimmUNet
from .unet import UNet

STUDENTS = {
    "mobilefsgan": MobileFSGAN,
    "compact": Compact,
    "unet": UNet,
    "timm_unet": TimmUNet,
    "mobilefaceswap": MobileFaceSwap,
}


def build(name: str, **options) -> nn.Module:
    """A student's generator with fresh weights. Raises ValueError that lists the known names or options."""
    if name not in STUDENTS:
        raise ValueError(f"unknown student '{name}', known: {', '.join(STUDENTS)}")
    known = inspect.signature(STUDENTS[name]).parameters
    for option in options:
        if option not in known:
            raise ValueError(f"student '{name}' has no option '{option}', known: {', '.join(known)}")
    return STUDENTS[name](**options)


def build_for(identity_encoder: nn.Module, name: str, **options) -> nn.Module:
    """`build`, the sizes of embedding and identity map taken from an identity encoder unless the options name them."""
    sizes = {"embedding_dim": identity_encoder.embedding_dim}
    if getattr(STUDENTS.get(name), "needs_map", False):
        sizes["map_shape"] = list(identity_encoder.map_shape)
    return build(name, **{**sizes, **options})


def set_resolution(generator: nn.Module, resolution: int) -> None:
    """Let a generator take pictures of another resolution, in place: no weight depends on it.

    Raises ValueError where it is not a multiple of 32, at least 64, or where a backbone of timm has a size of its own.
    """
    check_options(resolution)
    before = generator.options["resolution"]
    if getattr(generator, "fixed_resolution", False) and resolution != before:
        raise ValueError(f"student '{generator.name}': its backbone works at {before} pixels alone")
    for module in generator.modules():
        if hasattr(module, "coordinates"):
            size = module.coordinates.shape[-1] * resolution // before
            module.coordinates = coordinates(size).to(module.coordinates.device)
    generator.options = {**generator.options, "resolution": resolution}


def save(generator: nn.Module, path: str | Path, **metadata: str) -> None:
    """Write a generator as safetensors with its name, its options and `metadata`, atomically.

    Raises ValueError if a metadata value is not text, or its key is `student` or `options`.
    """
    for key, value in metadata.items():
        if key in ("student", "options") or not isinstance(value, str):
            raise ValueError(f"metadata '{key}': expected text under another name than student and options")
    header = {"student": generator.name, "options": json.dumps(generator.options), **metadata}
    write_state(path, generator.state_dict(), header)


def load(path: str | Path, expected: str | None = None) -> nn.Module:
    """The generator in a file that `save` wrote, on the CPU in evaluation mode.

    Raises ValueError naming the file if it is not a saved student, if its tensors do not fit its own options, or if it
    holds another student than `expected`; FileNotFoundError if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        reason = "is a folder; give the student.safetensors in it" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {reason}")
    metadata = read_header(path)
    missing = [key for key in ("student", "options") if key not in metadata]
    if missing:
        raise ValueError(f"{path}: not a saved student: its metadata lacks '{missing[0]}'")
    name = metadata["student"]
    if expected is not None and name != expected:
        raise ValueError(f"{path}: holds the student '{name}', expected '{expected}'")
    where = f"{path}: does not hold the student that its metadata describes"
    try:
        options = json.loads(metadata["options"])
        generator = build(name, **options)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{where}: {error}") from error
    if "style_dim" in generator.options and "style_dim" not in options:  # its first layer had another scale
        raise ValueError(f"{where}: an earlier version saved it, without the option style_dim; train it again")
    load_strictly(generator, read_state(path), where)
    return generator.eval()


class StudentSwapper(nn.Module):
    """A generator and its identity encoder as one swapper.

    The identity encoder is any module from canonical crops to (N, D) unit embeddings; D must be the generator's
    embedding_dim. The caller sets modes and gradients: call .eval() and use torch.no_grad() to measure.
    """

    def __init__(self, generator: nn.Module, identity_encoder: nn.Module) -> None:
        super().__init__()
        expected, actual = generator.options["embedding_dim"], identity_encoder.embedding_dim
        if expected != actual:
            raise ValueError(f"embeddings: the generator takes {expected} numbers, the identity encoder gives {actual}")
        self.generator = generator
        self.identity_encoder = identity_encoder

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks that an app ships, by name; each is measured and exported on its own."""
        return {"generator": self.generator, "identity_encoder": self.identity_encoder}

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Source and target, canonical crops (N, 3, R, R) in [-1, 1], to the swap of the target's size."""
        return self.generator(target, *condition(self.identity_encoder, source, self.generator))[0]

    def with_mask(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        """The swap, and the mask (N, 1, R, R) in [0, 1] by which the generator blended its face with the target; None
        from a generator that blends by no mask."""
        with masks.recorded(self.generator) as found:
            swap = self(source, target)
        return swap, found[-1] if found else None


def condition(identity_encoder: nn.Module, source: Tensor, generator: nn.Module) -> tuple[Tensor, ...]:
    """The inputs of a generator that describe the sources (N, 3, S, S): embeddings and, if it `needs_map`, identity
    maps."""
    if getattr(generator, "needs_map", False):
        return identity_encoder.embed(source)
    return (identity_encoder(source),)
