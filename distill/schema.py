"""What an experiment can say: every key, its type, its default and its meaning."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NewType

STAGES = ("data", "pseudo_gt", "train", "refine", "eval", "export", "report")
Changes = NewType("Changes", dict[str, Any])  # {section.key: value}


@dataclass(frozen=True)
class Data:
    """Aligned crops on disk: drawn (`synthetic`) or photographed (`photos`)."""

    kind: Literal["synthetic", "photos"] = "synthetic"
    resolution: int = 256  # pixels, height = width of every crop
    photos: str | None = None  # folder with one subfolder per person, or flat
    heldout: str | None = None  # folder of other people for evaluation; none: `test_people` of `photos` are held out
    min_size: int = 64  # pixels; smaller photographs are skipped and reported
    train_people: int = 2000  # synthetic only
    val_people: int = 8  # shown in previews while training
    test_people: int = 64  # the gallery: synthetic, or photographs where `heldout` is not given
    train_images: int = 2  # per synthetic person
    test_images: int = 4
    fstriplets: str | None = None  # folder in the layout of the original's FSTriplets, for train.mix.fstriplets
    occlusions: str | None = None  # folder of RGBA pictures pasted on FSTriplets targets
    occlusion_share: float = 0.0  # of the FSTriplets samples whose target gets one
    cache_gb: float = 4.0  # decoded images kept in memory per process, while they fit
    workers: int = 1  # loader processes per training process


@dataclass(frozen=True)
class Teacher:
    """A frozen swapper of teachers.TEACHERS. Its name alone may be written where it needs nothing else."""

    name: str
    share: float = 1.0  # of the pairs, where several teachers share them
    weights: dict[str, str] = field(default_factory=dict)  # path of each file it reads, or the name of a weights card
    sha256: dict[str, str] = field(default_factory=dict)  # what those files must hash to, where given
    options: dict[str, Any] = field(default_factory=dict)
    label: str | None = None  # what tables call it; none: its name


@dataclass(frozen=True)
class Quality:
    """What a teacher's swap is worth, by networks that evaluation does not use; thresholds drop bad swaps."""

    recogniser: str | None = None  # a recogniser or identity encoder; none: student.identity_encoder
    pose: str | None = None  # a pose estimator; none: the pose is not looked at
    min_id_similarity: float | None = None  # cosine to the source
    max_pose_error_deg: float | None = None  # to the target
    cosine_per_degree: float = 0.01  # best_of ranks by cosine - this * pose error


@dataclass(frozen=True)
class PseudoGT:
    """Frozen teachers swap pairs; what they make is written as tar shards."""

    teachers: tuple[Teacher, ...] = (Teacher("exact"),)
    choose: Literal["share", "best_of"] = "share"  # one teacher per pair by shares, or all and the best swap is kept
    pairs: int = 4000
    shard_size: int = 500  # pairs per tar file
    batch_size: int = 16
    quality: Quality = Quality()
    destination: str | None = None  # folder or fsspec URL (s3://bucket/path) of the shards; none: the run's folder
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"  # of teachers to whom it is harmless
    identity_cache_mb: int = 512  # memory for what teachers keep of each source


@dataclass(frozen=True)
class Student:
    """The network that learns, and the frozen encoder it is given embeddings by.

    A student of students.STUDENTS, or `faceshifter`: a teacher in training, whose result is a teacher like any other.
    """

    name: str = "mobilefsgan"
    options: dict[str, Any] = field(default_factory=dict)
    identity_encoder: str = "synthetic_identity"


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of training samples; they need not sum to one."""

    pseudo_gt: float = 1.0  # source, target and the teacher's swap
    same_photo: float = 0.0  # one photograph twice, the source disturbed; GT = target
    same_person: float = 0.0  # two photographs of one person; GT = target
    pair: float = 0.0  # two people, no GT
    fstriplets: float = 0.0  # the original's branches, by their own shares: FSTriplets


@dataclass(frozen=True)
class FSTriplets:
    """Shares of the branches of the original's dataset (HoiM/MobileFSGAN @478175b, dataset.py); normalised."""

    vanilla: float = 0.6  # two people, no GT
    vanilla_same: float = 0.112  # one photograph twice, each augmented; GT = target
    edited_target: float = 0.06  # photograph 1, photograph 2 edited; GT = photograph 2
    different_poses: float = 0.0  # the original names it and never made it: must stay 0
    beard: float = 0.024  # GT = source
    fat: float = 0.054
    bald: float = 0.012  # GT = target, and the target is shown as real
    grin: float = 0.012
    forehead_hair_1: float = 0.03
    forehead_hair_2: float = 0.03
    glasses: float = 0.042
    sun_glasses: float = 0.024


@dataclass(frozen=True)
class Train:
    """The loop. One step = `batch_size` samples on each process, times `accumulation`."""

    steps: int = 10000
    seed: int | None = None  # of initialisation and order; none: the experiment's, which draws people and pairs as well
    batch_size: int = 16
    accumulation: int = 1
    lr: float = 1e-4
    lr_discriminator: float = 1e-4
    betas: tuple[float, float] = (0.0, 0.999)
    warmup_steps: int = 0
    lr_final: float = 1.0  # cosine decay of lr to this share of it at the last step; 1 = constant
    grad_clip: float = 10.0  # L2 norm
    ema: float = 0.999  # decay per step, shorter at the start; 0 = off
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    compile: bool = False  # networks by torch.compile: minutes at the start, then faster steps, other roundings
    autotune: bool = False  # cuDNN tries its algorithms first: faster, but no longer the same bit for bit every time
    sync_batch_norm: bool = True
    flip: bool = False  # mirror whole triplets at random
    mix: Mix = Mix()
    fstriplets: FSTriplets = FSTriplets()
    checkpoint_steps: int = 500
    log_steps: int = 20
    preview_steps: int = 500


@dataclass(frozen=True)
class Loss:
    """Weights, largest scale first (full, half, quarter); 0 switches a term off and saves its time."""

    adversarial: tuple[float, float, float] = (1.0, 0.02, 0.02)
    identity: tuple[float, float, float] = (20.0, 20.0, 20.0)
    identity_margin: float = 0.02
    reconstruction: tuple[float, float, float] = (10.0, 0.0, 0.0)
    reconstruction_norm: Literal["l1", "l2"] = "l1"  # l2: half the mean square, as FaceShifter has it
    reconstruction_kind: Literal["masked", "original"] = "masked"  # original: as written, borders drawn to black
    attribute: float = 0.0  # FaceShifter's: half the squared distance of attribute maps of swap and target
    adversarial_batch: Literal["mean", "sum"] = "mean"  # the original sums over the batch
    perceptual: float = 4.0
    perceptual_network: str = "identity_encoder"  # or squeezenet, vgg16, lpips: distill/perceptual.py
    discriminator: dict[str, Any] = field(default_factory=dict)  # options of the network


@dataclass(frozen=True)
class Distil:
    """Terms beyond the pixels of the teacher; off by default. Those of the teacher's insides need it `online`."""

    online: Teacher | None = None  # the teacher in the loop: it swaps the pairs that have no GT while training
    features: float = 0.0  # squared distance of intermediate maps, the student's through 1x1 adapters; needs `online`
    layers: dict[str, str] = field(default_factory=dict)  # of the student -> of the teacher: names of submodules
    gram: float = 0.0  # L1 of Gram matrices of the perceptual network's maps, swap against GT
    quality_power: float = 0.0  # a sample with GT weighs the teacher's cosine to the source to this power


@dataclass(frozen=True)
class Refine:
    """Stage `refine`: HEAR-Net, FaceShifter's second stage, on the frozen first, by the same loop.

    The swap of the first stage is the GT of pairs of people, so that `reconstruction` is there the paper's term of
    change; on pictures of one person GT is the target.
    """

    options: dict[str, Any] = field(default_factory=dict)  # of the network
    train: Train = Train(steps=2000, lr=4e-4, mix=Mix(pseudo_gt=0.0, same_person=0.5, pair=0.5))
    loss: Loss = Loss(adversarial=(0, 0, 0), identity=(1, 0, 0), reconstruction=(1, 0, 0), perceptual=0.0)


@dataclass(frozen=True)
class Eval:
    """Fixed pairs of held-out people, and the rulers that judge; none of them takes part in training."""

    pairs: int = 256
    metrics: tuple[str, ...] = (
        "id_retrieval",
        "id_similarity",
        "pose_error",
        "expression_error",
        "exact_match",
        "background_error",
        "size_mb",
        "latency_ms",
    )
    recogniser: str = "synthetic_recogniser"
    pose: str | None = "synthetic_pose"
    expression: str | None = "synthetic_pose"
    perceptual: str | None = "lpips_squeeze"  # metric lpips
    features: str | None = "inception_fid"  # metric fid
    flip: bool = False  # embeddings of image and mirror image, concatenated
    batch_size: int = 32
    pictures: int = 8  # rows of the grid in the report


@dataclass(frozen=True)
class Export:
    """Stage `export`: files for the runtimes of students/export/targets.py, each proved equal to the student."""

    to: tuple[str, ...] = ()  # onnx, onnx-batch, coreml, tnn, ncnn, mnn, litert, executorch; [all]
    precisions: tuple[str, ...] = ("fp32",)  # fp32, fp16, int8, each target having its own; [all]


@dataclass(frozen=True)
class Tracking:
    """Where MLflow keeps the run; `none` keeps only the files."""

    uri: str = "sqlite:///mlflow.db"
    experiment: str = "swapdistill"


@dataclass(frozen=True)
class Experiment:
    """One YAML, resolved. `name` is the folder under `runs`."""

    name: str
    seed: int = 0
    runs: str = "runs"
    threads: int = 0  # CPU threads per process; 0 = the cores of this machine, shared by its processes
    minutes: float = 0.0  # the command stops after so long, with a checkpoint, to be given again; 0 = it does not
    stages: tuple[str, ...] = ("data", "pseudo_gt", "train", "eval", "report")
    weights: tuple[str, ...] = ()  # folders searched for downloaded weights, before $SWAPDISTILL_WEIGHTS and the cache
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
    variants: dict[str, Changes] = field(default_factory=dict)  # name -> {section.key: value}; all are run
    seeds: tuple[int, ...] = ()  # every variant is trained with each of them, or of its own `seeds`, as train.seed
    full_size: Changes = field(default_factory=dict)  # {section.key: value}, set by --full-size: for a GPU

    @property
    def train_seed(self) -> int:
        """The seed of initialisation and of the order of samples."""
        return self.seed if self.train.seed is None else self.train.seed

    @property
    def folder(self) -> Path:
        return Path(self.runs) / self.name
