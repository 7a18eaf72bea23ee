"""All keys of an experiment file, with type, default and meaning. On the command line a key is `section.key=value`.

A value is read by the type of its key. A text key takes the text as it is written: `name: 001` and `name=001` name the
folder `001`, and `data.photos="F #2"` the folder `F #2`. A path may begin with `~`, the home folder. Where a key may be
null, `null` and `none` are null; in other keys, or in quotes in a file, they are text. A list of texts is `[a, b]`,
with quotes round an entry with a comma or a bracket; on the command line, `weights=FOLDER` is a list of one. Other
values are YAML, except that `1e-4` is a number.

`python -m distill.schema > docs/yaml_keys.md` writes this page from the comments of distill/schema.py.
"""

from __future__ import annotations

from swapcore import start

start.command(__name__)

import inspect
import json
import re
import types
import typing
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NewType

STAGES = ("data", "pseudo_gt", "train", "refine", "eval", "export", "report")
Changes = NewType("Changes", dict[str, Any])  # {section.key: value}


class Location(str):
    """The type of keys that name a file or folder; some also take a URL. Their values are plain text."""


@dataclass(frozen=True)
class Data:
    """Stage `data`: aligned crops of drawn people (`synthetic`) or of photographs (`photos`)."""

    kind: Literal["synthetic", "photos"] = "synthetic"  # drawn people, or photographs of `photos`
    resolution: int = 256  # pixels, height = width of every crop
    photos: Location | None = None  # folder with one subfolder per person, or without subfolders
    heldout: Location | None = None  # folder of other people for evaluation; null: holds out `test_people` of `photos`
    allow_leaks: bool = False  # pictures of `photos` may also be in `heldout`; false: that is an error
    min_size: int = 64  # pixels; smaller photographs are skipped and reported
    train_people: int = 2000  # synthetic only: people in training
    val_people: int = 8  # people in the previews of training
    test_people: int = 64  # people in evaluation: synthetic, or photographs where `heldout` is null
    train_images: int = 2  # per synthetic person in training
    test_images: int = 4  # per synthetic person in evaluation: one in the gallery, the others as sources
    fstriplets: Location | None = None  # folder in the layout of the original FSTriplets, for train.mix.fstriplets
    occlusions: Location | None = None  # folder of RGBA pictures pasted on FSTriplets targets
    occlusion_share: float = 0.0  # share of the FSTriplets samples whose target gets an occlusion
    cache: Literal["auto", "device", "memory", "file", "off"] = "auto"  # place of decoded pictures; auto: by room
    cache_gb: float = 4.0  # memory per process for decoded images, on the device or beside it
    workers: int = 1  # loader threads per training process; processes where pictures are not kept, and of FSTriplets


@dataclass(frozen=True)
class Teacher:
    """A frozen swapper. A teacher without other keys may be given by its name alone."""

    name: str  # of teachers.TEACHERS
    share: float = 1.0  # of the pairs that this teacher swaps; shares need not sum to one
    weights: dict[str, Location] = field(default_factory=dict)  # of each network: path of its file, or name of its card
    sha256: dict[str, str] = field(default_factory=dict)  # expected sha256 of those files, or its first digits
    options: dict[str, Any] = field(default_factory=dict)  # arguments of the teacher's class
    label: str | None = None  # name in tables; null: `name`


@dataclass(frozen=True)
class Quality:
    """Rating of the teachers' swaps by networks that evaluation does not use; thresholds drop bad swaps."""

    recogniser: str | None = None  # a recogniser or identity encoder; null: student.identity_encoder
    pose: str | None = None  # a pose estimator; null: the pose is not measured
    min_id_similarity: float | None = None  # drops swaps with a lower cosine to the source; null: none
    max_pose_error_deg: float | None = None  # drops swaps with a larger pose error to the target; null: none
    cosine_per_degree: float = 0.01  # best_of ranks swaps by cosine - this value * pose error in degrees


@dataclass(frozen=True)
class PseudoGT:
    """Stage `pseudo_gt`: frozen teachers swap pairs; source, target and swap are written as tar shards."""

    teachers: tuple[Teacher, ...] = (Teacher("exact"),)  # their swaps are the pseudo-GT
    choose: Literal["share", "best_of"] = "share"  # share: one teacher per pair; best_of: the best swap of all
    pairs: int = 4000  # number of pairs that are swapped
    shard_size: int = 500  # pairs per tar file
    batch_size: int = 16  # pairs per forward pass of a teacher
    quality: Quality = Quality()
    destination: Location | None = None  # folder or fsspec URL (s3://bucket/path) of the shards; null: the run's folder
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"  # of the teachers that support it; others: fp32
    identity_cache_mb: int = 512  # memory for the teachers' embeddings of sources


@dataclass(frozen=True)
class Student:
    """The network in training, and the frozen encoder of its identity embeddings."""

    name: str = "mobilefsgan"  # of students.STUDENTS; or faceshifter, to train that teacher
    options: dict[str, Any] = field(default_factory=dict)  # arguments of the network's class
    identity_encoder: str = "synthetic_identity"  # embeds the source
    weights: Location | None = None  # a trained student's file to start from; null: random weights


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of training samples; they need not sum to one."""

    pseudo_gt: float = 1.0  # source, target and the teacher's swap
    same_photo: float = 0.0  # one photograph twice, the source disturbed; GT = target
    same_person: float = 0.0  # two photographs of one person; GT = target
    pair: float = 0.0  # two people, no GT
    fstriplets: float = 0.0  # the branches of the original dataset, by the shares of train.fstriplets
    reversed: float = 0.0  # the swap of pseudo_gt as target, its photograph as GT, another of that person as source


@dataclass(frozen=True)
class FSTriplets:
    """Shares of the branches of the original dataset (HoiM/MobileFSGAN @478175b, dataset.py); normalised.

    "Shown as real": the discriminator gets the target as the real picture. In other branches it gets the source.
    """

    vanilla: float = 0.6  # two people, no GT
    vanilla_same: float = 0.112  # one photograph twice, each augmented; GT = target
    edited_target: float = 0.06  # photograph 1, photograph 2 edited; GT = photograph 2
    different_poses: float = 0.0  # must stay 0: the original names it, but has no pictures for it
    beard: float = 0.024  # GT = source
    fat: float = 0.054  # GT = source
    bald: float = 0.012  # GT = target, shown as real
    grin: float = 0.012  # GT = target, shown as real
    forehead_hair_1: float = 0.03  # GT = target, shown as real
    forehead_hair_2: float = 0.03  # GT = target, shown as real
    glasses: float = 0.042  # GT = target, shown as real
    sun_glasses: float = 0.024  # GT = target, shown as real


@dataclass(frozen=True)
class Train:
    """Stage `train`. One step takes `batch_size` x `accumulation` samples on each process."""

    steps: int = 10000  # optimiser steps
    seed: int | None = None  # of initialisation and of the order of samples; null: the experiment's
    batch_size: int = 16  # samples per process and forward pass
    accumulation: int = 1  # forward passes per step
    optimiser: Literal["adam", "muon"] = "adam"  # of the student; muon: matrices and kernels by Muon, the rest by Adam
    lr: float = 1e-4  # Adam learning rate of the student
    lr_matrices: float = 3e-3  # Muon learning rate, where optimiser is muon; warm-up and decay are those of lr
    lr_discriminator: float = 1e-4  # Adam learning rate of the discriminator
    betas: tuple[float, float] = (0.0, 0.999)  # of Adam
    warmup_steps: int = 0  # linear increase of lr from 0
    lr_final: float = 1.0  # cosine decay of lr to this share at the last step; 1 = constant
    grad_clip: float = 10.0  # largest L2 norm of the gradient
    ema: float = 0.999  # decay of the EMA of the weights per step, smaller in the first steps; 0 = off
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "fp32"  # of both passes; auto: fp32 or bf16, the faster here
    compile: bool = False  # torch.compile of each block: minutes at the start, then faster steps with other rounding
    compile_cache: Location | None = None  # folder of compiled code, for later starts; null: a temporary folder
    capture: Literal["auto", "on", "off"] = "auto"  # the step as one CUDA graph; auto: where that is possible
    autotune: bool = False  # cuDNN chooses the fastest algorithms; results then differ in the last bits
    sync_batch_norm: bool = True  # batch statistics over all processes
    small_steps: int = 0  # the first steps, whose pictures are shrunk to small_resolution: they cost less
    small_resolution: int = 64  # side of these pictures, a multiple of 32
    flip: bool = False  # mirror whole triplets at random
    held_objects: float = 0.0  # share of samples with a drawn object before the face, in target and GT alike
    mix: Mix = Mix()
    fstriplets: FSTriplets = FSTriplets()
    checkpoint_steps: int = 500  # steps between checkpoints
    log_steps: int = 20  # steps between lines of log.jsonl
    preview_steps: int = 500  # steps between preview pictures
    keep: Literal["last", "best"] = "last"  # the weights that are saved: the last, or those of the best preview


@dataclass(frozen=True)
class Loss:
    """Weights of the loss terms. A list is one weight per scale: full, half, quarter. 0 skips the term."""

    adversarial: tuple[float, float, float] = (1.0, 0.02, 0.02)  # hinge loss of the discriminator
    identity: tuple[float, float, float] = (20.0, 20.0, 20.0)  # 1 - cosine of the embeddings of swap and source
    identity_margin: float = 0.02  # subtracted from 1 - cosine; the loss is at least 0
    identity_disturbance: float = 0.0  # random moves, blur and noise of swaps before the identity encoder; 1 is usual
    identity_fading: float = 0.0  # before the identity encoder, swaps lose up to this share of their colour
    reconstruction: tuple[float, float, float] = (10.0, 0.0, 0.0)  # difference of swap and GT, where there is a GT
    reconstruction_norm: Literal["l1", "l2"] = "l1"  # l1: mean difference; l2: half the mean square, as in FaceShifter
    reconstruction_kind: Literal["masked", "original"] = "masked"  # masked: samples with GT; original: with its defect
    gradient: float = 0.0  # difference of the pixels' gradients of swap and GT, where there is a GT
    gradient_energy: float = 0.0  # difference of the local contrast of swap and GT, where there is a GT
    grid: float = 0.0  # amplitude of an upsampling grid in the swap beyond that in GT, or in the target without GT
    attribute: float = 0.0  # FaceShifter's: half the squared distance of attribute maps of swap and target
    adversarial_batch: Literal["mean", "sum"] = "mean"  # mean or sum over the batch; the original sums
    perceptual: float = 4.0  # distance of feature maps of swap and GT, or target without GT
    perceptual_network: str = "identity_encoder"  # or squeezenet, squeezenet_compressed, vgg16, lpips
    discriminator: dict[str, Any] = field(default_factory=dict)  # arguments of its class


@dataclass(frozen=True)
class Distil:
    """Distillation beyond the pixels of the teacher; off by default. `features` needs a teacher `online`."""

    online: Teacher | None = None  # a teacher in the training loop: it swaps the pairs without GT
    features: float = 0.0  # squared distance of intermediate maps, the student's through 1x1 adapters; needs `online`
    layers: dict[str, str] = field(default_factory=dict)  # names of submodules, student: teacher
    gram: float = 0.0  # L1 of Gram matrices of the perceptual network's maps, swap against GT
    quality_power: float = 0.0  # weight of a sample with GT: cosine of the teacher's swap to the source, to this power


@dataclass(frozen=True)
class Refine:
    """Stage `refine`: HEAR-Net, the second stage of FaceShifter, on the frozen first stage, by the same loop.

    For pairs of people the swap of the first stage is the GT, so `reconstruction` is the paper's change loss; for
    pictures of one person the target is the GT.
    """

    options: dict[str, Any] = field(default_factory=dict)  # arguments of the network's class
    train: Train = Train(steps=2000, lr=4e-4, mix=Mix(pseudo_gt=0.0, same_person=0.5, pair=0.5))
    loss: Loss = Loss(adversarial=(0, 0, 0), identity=(1, 0, 0), reconstruction=(1, 0, 0), perceptual=0.0)


@dataclass(frozen=True)
class Eval:
    """Stage `eval`: fixed pairs of held-out people, and the estimators, none of which takes part in training."""

    pairs: int = 256  # pairs of a source and a target
    metrics: tuple[str, ...] = (  # of eval.METRICS
        "id_retrieval", "id_similarity", "pose_error", "expression_error", "exact_match", "region_errors", "sharpness",
        "grid_artifact", "background_error", "size_mb", "latency_ms",
    )  # fmt: skip
    recogniser: str = "synthetic_recogniser"  # embeds faces for the id metrics
    trained_encoder: str | None = None  # embeds faces for metric fooling_gap; null: student.identity_encoder
    pose: str | None = "synthetic_pose"  # estimator of metric pose_error
    expression: str | None = "synthetic_pose"  # estimator of metric expression_error
    perceptual: str | None = "lpips_squeeze"  # network of metric lpips
    features: str | None = "inception_fid"  # network of metric fid
    flip: bool = False  # embeddings of image and mirror image, concatenated
    batch_size: int = 32  # images per forward pass
    interval: Literal["pairs", "people"] = "pairs"  # unit that the 95 % intervals draw
    reference: str | None = None  # row (with `variants`: variant) with which tables compare the others; null: the best
    pictures: int = 8  # rows of the grid in the report


@dataclass(frozen=True)
class Export:
    """Stage `export`: files for the runtimes of phones, each compared with the student in PyTorch."""

    to: tuple[str, ...] = ()  # onnx, onnx-batch, coreml, tnn, ncnn, mnn, litert, executorch, web; or all
    precisions: tuple[str, ...] = ("fp32",)  # fp32, fp16, int8, as far as the target supports it; or all


@dataclass(frozen=True)
class Tracking:
    """Records of the runs in MLflow."""

    uri: Location = "sqlite:///mlflow.db"  # where MLflow keeps the runs; `none`: without MLflow, files only
    experiment: str = "swapdistill"  # name in MLflow


@dataclass(frozen=True)
class Experiment:
    """Keys without a section, and the sections."""

    name: str  # folder under `runs`; in a file the default is the name of the file
    seed: int = 0  # of people, pairs, initialisation and order
    runs: Location = "runs"  # folder of all results
    threads: int = 0  # CPU threads per process; 0: cores of the machine / processes
    jobs: int = 1  # runs of `variants` or `seeds` side by side, as processes; they share the GPUs and CPU threads
    minutes: float = 0.0  # stop after this time, at the next step or shard; the same command continues; 0: no limit
    stages: tuple[str, ...] = ("data", "pseudo_gt", "train", "eval", "report")  # in this order; also refine, export
    weights: tuple[Location, ...] = ()  # folders with weight files, searched before $SWAPDISTILL_WEIGHTS and the cache
    data: Data = Data()
    pseudo_gt: PseudoGT = PseudoGT()
    student: Student = Student()
    train: Train = Train()
    loss: Loss = Loss()
    distil: Distil = Distil()
    refine: Refine = Refine()
    eval: Eval = Eval()
    export: Export = Export()
    tracking: Tracking = Tracking()
    variants: dict[str, Changes] = field(default_factory=dict)  # name: {section.key: value}; each becomes a run
    seeds: tuple[int, ...] = ()  # each variant is trained with each train.seed; a variant may set its own `seeds`
    full_size: Changes = field(default_factory=dict)  # {section.key: value} for a GPU, set by --full-size

    @property
    def train_seed(self) -> int:
        """The seed of initialisation and of the order of samples."""
        return self.seed if self.train.seed is None else self.train.seed

    @property
    def folder(self) -> Path:
        return Path(self.runs) / self.name


def in_words(hint: Any) -> str:
    """A type of the schema in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " | ".join(arguments)
    if origin is types.UnionType:
        return f"{in_words(arguments[0])} or null"
    if origin is tuple:
        count = "" if ... in arguments else f"{len(arguments)} "
        return f"a list of {count}{in_words(arguments[0]).removeprefix('a ')}s"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Location: "a path"}
    words[Teacher] = "a teacher"
    return {**words, Changes: "`section.key: value` lines"}.get(hint, "a section of keys")


def page() -> str:
    """docs/yaml_keys.md: a table of keys for each section, with the comments of this file as meanings."""
    return f"# Keys of an experiment file\n\n{__doc__}{_tables(Experiment, 'Top level', {})}"


def _tables(section: type, title: str, titles: dict[type, str]) -> str:
    """The tables of a section and of the sections in it, each class once; `titles` collects their headings."""
    titles[section] = title
    hints, inner = typing.get_type_hints(section), {}
    comments = dict(re.findall(r"^    (\w+): [^#\n]*(?:# (.*))?$", inspect.getsource(section), re.MULTILINE))
    text = f"\n## {title}\n\n{inspect.getdoc(section)}\n\n| key | type | default | meaning |\n|---|---|---|---|\n"
    for key in fields(section):
        name = key.name if section in (Experiment, Teacher) else f"{title}.{key.name}"
        kind, meaning = in_words(hints[key.name]).replace("|", "\\|"), comments[key.name]
        for part in (hints[key.name], *typing.get_args(hints[key.name])):
            if is_dataclass(part):
                heading = titles.get(part) or inner.setdefault(part, "A teacher" if part is Teacher else name)
                kind = f"[{kind}](#{heading.lower().replace('.', '').replace(' ', '-')})"
                meaning = meaning or inspect.getdoc(part).splitlines()[0]
        value = key.default if key.default_factory is MISSING else key.default_factory()
        default = "" if value is MISSING else f"`{json.dumps(value, default=_changed)}`"
        text += f"| `{name}` | {kind} | {default} | {meaning} |\n"
    return text + "".join(_tables(part, heading, titles) for part, heading in inner.items() if part not in titles)


def _changed(section: Any) -> Any:
    """The keys of a section whose values differ from the defaults of its class; of a teacher, its name."""
    if isinstance(section, Teacher):
        return section.name
    plain = vars(type(section)())
    return {key: value for key, value in vars(section).items() if value != plain[key]}


if __name__ == "__main__":
    print(page(), end="")
