"""A small pseudo-GT stage: toy teachers, synthetic people, and the stage's results."""

from types import SimpleNamespace

import torch
from torch import nn

import teachers
from distill.data import prepare as data
from distill.pseudo_gt import generate as pseudo_gt
from distill.pseudo_gt.shards import Shards
from distill.pseudo_gt.store import Store
from distill.schema import Data, Eval, Experiment, PseudoGT, Quality, Teacher

SIZE = 64


class Mixer(teachers.Teacher):
    """Mixes target and source pixels: 0 is the target, 1 the source. No face in what is darker than `darkest`."""

    name = "mixer"
    sources: list[bytes] = []  # one per row that `identity` was given
    calls = 0

    def __init__(self, weights=None, amount=0.5, darkest=-2.0, fails_at=None, spoils=False):
        super().__init__(weights, amount=amount, darkest=darkest, spoils=spoils)
        self.amount, self.darkest, self.fails_at, self.spoils = amount, darkest, fails_at, spoils

    def _need_faces(self, images):
        dark = images.mean((1, 2, 3)) < self.darkest
        if dark.any():
            raise teachers.NoFace("no face", dark.nonzero()[:, 0].tolist())

    def identity(self, source, rows=None):
        Mixer.sources += [image.numpy().tobytes() for image in source]
        self._need_faces(source)
        return source, source.mean((1, 2, 3))

    def swap(self, identity, target, rows=None):
        self._need_faces(target)
        Mixer.calls += 1
        if Mixer.calls == self.fails_at:
            raise ValueError("the teacher broke")
        swap = torch.lerp(target, identity[0], self.amount)
        if self.spoils:
            swap[0, 0, 0, 0] = float("nan")
        return swap


class Network(teachers.Teacher):
    """A small network: convolutions, a linear identity, batch after batch the same function."""

    name = "network"
    autocast = True

    def __init__(self, weights=None, **options):
        super().__init__(weights, **options)
        torch.manual_seed(0)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2), nn.ReLU(), nn.Conv2d(24, 40, 3, 2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(64)
        )
        self.encoder(torch.zeros(1, 3, SIZE, SIZE))
        self.take, self.give = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 3, 3, padding=1)
        self.style = nn.Linear(64, 24)
        self.dtypes = set()

    def identity(self, source, rows=None):
        return (self.encoder(source),)

    def swap(self, identity, target, rows=None):
        maps = self.take(target)
        self.dtypes.add(maps.dtype)
        return target + 0.3 * self.give(torch.relu(maps + self.style(identity[0])[..., None, None]))


def process(rank=0, world=1):
    """One process of `world` as Accelerate describes it; what it prints is kept."""
    said = []
    return SimpleNamespace(
        process_index=rank, num_processes=world, is_main_process=rank == 0, device=torch.device("cpu"),
        wait_for_everyone=lambda: None, reduce=lambda values, how: values, print=said.append, said=said,
    )  # fmt: skip


class Record(dict):
    """A tracker that keeps the numbers it is given."""

    def metrics(self, values, step=None):
        self.update(values)


def draw_people(folder) -> Experiment:
    """An experiment whose stage `data` has run."""
    exp = Experiment(
        name="drawn", runs=str(folder),
        data=Data(resolution=SIZE, train_people=6, train_images=2, val_people=2, test_people=2, test_images=2),
    )  # fmt: skip
    data.run(exp, process(), Record())
    return exp


def experiments(drawn, folder, monkeypatch):
    """A function that makes experiments in `folder` with the people of `drawn`; the toy teachers are registered."""
    monkeypatch.setitem(teachers.TEACHERS, "mixer", Mixer)
    monkeypatch.setitem(teachers.TEACHERS, "network", Network)
    Mixer.sources, Mixer.calls = [], 0

    def make(name="x", quality=None, **settings) -> Experiment:
        settings = {"pairs": 36, "shard_size": 16, "batch_size": 4, **settings}
        exp = Experiment(
            name=name, runs=str(folder), data=drawn.data, eval=Eval(pose=None),
            pseudo_gt=PseudoGT(quality=quality or Quality(), **settings),
        )  # fmt: skip
        exp.folder.mkdir(exist_ok=True)
        if not (exp.folder / "data").exists():
            (exp.folder / "data").symlink_to(drawn.folder / "data")
        return exp

    return make


def run(exp, accelerator=None):
    """The stage; its index, its numbers, and what it said."""
    accelerator, tracker = accelerator or process(), Record()
    pseudo_gt.run(exp, accelerator, tracker)
    store = Store(exp.pseudo_gt.destination or exp.folder / "pseudo_gt")
    index = store.read_record("index.json") if store.exists("index.json") else None
    return index, tracker, "\n".join(accelerator.said)


def shard_bytes(exp) -> dict[str, bytes]:
    store = Store(exp.pseudo_gt.destination or exp.folder / "pseudo_gt")
    return {name: store.read(name) for name in store.sizes() if name.endswith(".tar")}


def facts(exp) -> list[dict]:
    shards = Shards(exp.pseudo_gt.destination or exp.folder / "pseudo_gt")
    return [shards.facts(i) for i in range(len(shards))]


def mixers(*amounts, **options) -> tuple[Teacher, ...]:
    return tuple(Teacher("mixer", label=f"m{a}", options={"amount": a, **options}) for a in amounts)
