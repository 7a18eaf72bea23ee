"""Students: generators small enough for a phone. Build one by name, save it as safetensors, rebuild it from the file.

A generator takes a target (N, 3, R, R) and an embedding (N, D) and returns swaps at full, half and quarter resolution;
one that `needs_map` takes the identity encoder's map (N, C, h, w) as well. It has a `name` and its `options`, the
keyword arguments that build it again.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from swapcore.files import whole_folder

from .compact import Compact
from .mobilefaceswap import MobileFaceSwap
from .mobilefsgan import MobileFSGAN

STUDENTS = {"mobilefsgan": MobileFSGAN, "compact": Compact, "mobilefaceswap": MobileFaceSwap}


def build(name: str, **options) -> nn.Module:
    """A student's generator with fresh weights. Raises ValueError that lists the known names or options."""
    if name not in STUDENTS:
        raise ValueError(f"unknown student '{name}', known: {', '.join(STUDENTS)}")
    known = inspect.signature(STUDENTS[name]).parameters
    for option in options:
        if option not in known:
            raise ValueError(f"student '{name}' has no option '{option}', known: {', '.join(known)}")
    return STUDENTS[name](**options)


def save(generator: nn.Module, path: str | Path, **metadata: str) -> None:
    """Write a generator as safetensors, whole or not at all, with its name, its options and the metadata given.

    Raises ValueError where the metadata is not text or would hide the name or the options.
    """
    for key, value in metadata.items():
        if key in ("student", "options") or not isinstance(value, str):
            raise ValueError(f"metadata '{key}': expected text under another name than student and options")
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in generator.state_dict().items()}
    header = {"student": generator.name, "options": json.dumps(generator.options), **metadata}
    with whole_folder(path) as temporary:
        save_file(state, temporary, metadata=header)


def load(path: str | Path, expected: str | None = None) -> nn.Module:
    """The generator of a file that `save` wrote, on the CPU in evaluation mode.

    Raises ValueError naming the file if it is no such file, if its tensors do not fit its own options, or if `expected`
    names another student; FileNotFoundError if there is none.
    """
    path = Path(path)
    if not path.is_file():
        told = "is a folder; give the student.safetensors in it" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {told}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from error
    missing = [key for key in ("student", "options") if key not in metadata]
    if missing:
        raise ValueError(f"{path}: not a saved student: its metadata lacks '{missing[0]}'")
    name = metadata["student"]
    if expected is not None and name != expected:
        raise ValueError(f"{path}: holds the student '{name}', expected '{expected}'")
    try:
        generator = build(name, **json.loads(metadata["options"]))
        generator.load_state_dict(state, strict=True)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: does not hold the student its metadata describes: {error}") from error
    return generator.eval()


class StudentSwapper(nn.Module):
    """A generator and its identity encoder as one swapper.

    The encoder is any module from canonical crops to (N, D) unit embeddings; D must be the generator's embedding_dim.
    Modes and gradients are the caller's: call .eval() and torch.no_grad() to measure.
    """

    def __init__(self, generator: nn.Module, identity_encoder: nn.Module) -> None:
        super().__init__()
        wanted, given = generator.options["embedding_dim"], identity_encoder.embedding_dim
        if wanted != given:
            raise ValueError(f"the generator wants embeddings of {wanted} numbers, the identity encoder gives {given}")
        self.generator = generator
        self.identity_encoder = identity_encoder

    @property
    def parts(self) -> dict[str, nn.Module]:
        """What is shipped, by name: measured and exported one by one."""
        return {"generator": self.generator, "identity_encoder": self.identity_encoder}

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Source and target, canonical crops (N, 3, R, R) in [-1, 1], to the swap of the target's size."""
        return self.generator(target, *condition(self.identity_encoder, source, self.generator))[0]


def condition(identity_encoder: nn.Module, images: Tensor, generator: nn.Module) -> tuple[Tensor, ...]:
    """What a generator is given beside the target, from sources (N, 3, S, S): their embeddings, and their identity maps
    where it `needs_map`."""
    if getattr(generator, "needs_map", False):
        return identity_encoder.embed(images)
    return (identity_encoder(images),)
