"""Train the small networks of the synthetic benchmark: its identity encoder, its recogniser, its pose estimator.

    python -m distill.pretrain identity_encoder | recogniser | pose | pose_quality [--people N] [--steps N]

The pose estimators regress the exact Euler angles and expression of a synthetic face. The encoder and the recogniser
learn to find the person of a picture among thousands: by the person's exact numbers, so that one picture of each person
is enough. The encoder that trains students and the recogniser that measures them differ in architecture, seed and
people. A GPU is used where torch sees one. The command writes NAME.safetensors and NAME.json (recipe, data, accuracy on
unseen people, sha256) into the folder of the shipped weights. Afterwards, copy the new sha256 into the network's card.
"""

from __future__ import annotations

from swapcore import start

start.command(__name__)

import argparse
import functools
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from distill.data import synthetic
from eval.cards import CARDS
from eval.estimators import build_network
from eval.networks import POSE_UNIT_DEG, inner_square
from students import identity_encoder as encoders
from swapcore import terminal, weights
from swapcore.files import write_json
from swapcore.hardware import git_commit
from swapcore.images import to_float, to_uint8
from swapcore.locks import folder_lock
from teachers.exact import appearance, expression, pose_deg, render

SIZE = 80  # pixels drawn; the networks take the inner 64
PATCH = 20  # pixels covered at random
TEST_PEOPLE = 512  # two pictures each
GALLERY = 64
AXES, BASIS_PEOPLE = 40, 4096  # principal components of the neutral face, and the people that they are found on
OTHERS = 1500  # further people among whom the loss looks for the person of each picture


@dataclass(frozen=True)
class Recipe:
    """A network by its card, the folder of its weights, the numbers that it regresses, and its training."""

    card: weights.Card
    folder: Path
    seed: int
    targets: str  # identity | pose
    steps: int


RECIPES = {
    "identity_encoder": Recipe(encoders.CARDS["synthetic_identity"], weights.PACKAGED[0], 101, "identity", 16000),
    "recogniser": Recipe(CARDS["synthetic_recogniser"], weights.PACKAGED[1], 202, "identity", 16000),
    "pose": Recipe(CARDS["synthetic_pose"], weights.PACKAGED[1], 303, "pose", 8000),
    "pose_quality": Recipe(CARDS["synthetic_pose_quality"], weights.PACKAGED[1], 404, "pose", 8000),
}


def faces(split: str, seed: int, count: int, images: int, device: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures (n, 3, SIZE, SIZE) uint8 of new people, their `identity` (n, K), and their `pose` in units of 15 degrees
    with their expression (n, 3 + E), on the device. A CPU draws them in a process for each core."""
    identity, attributes = synthetic.people(split, seed, count, images)
    identity = identity.repeat_interleave(images, 0)
    size = 64 if device == "cpu" else 512
    batches = list(zip(identity.split(size), attributes.split(size), strict=True))
    bar = functools.partial(tqdm, desc=f"draw {split}", total=len(batches), unit="batch")
    if device == "cpu":
        with torch.multiprocessing.get_context("spawn").Pool(os.cpu_count(), torch.set_num_threads, (1,)) as pool:
            pictures = torch.cat([torch.from_numpy(d) for d in bar(pool.imap(_draw, batches))])
    else:
        pictures = torch.cat([to_uint8(render(i.to(device), a.to(device), SIZE).image) for i, a in bar(batches)])
    pose = torch.cat([pose_deg(attributes) / POSE_UNIT_DEG, expression(attributes)], 1)
    return pictures, {"identity": identity.to(device), "pose": pose.to(device)}


def looks(identity: Tensor) -> Tensor:
    """What shows of identity (n, K): principal components of the neutral faces, and traits, each with mean 0 and
    deviation 1 over the people: (n, AXES + T).

    The numbers of an identity themselves are a worse aim: many move the same place of the face.
    """
    some = appearance.neutral_face(identity[:BASIS_PEOPLE])
    axes = torch.pca_lowrank(some - some.mean(0), AXES, niter=4)[2]
    shapes = torch.cat([appearance.neutral_face(part) @ axes for part in identity.split(BASIS_PEOPLE)])
    numbers = torch.cat([shapes, appearance.traits(identity)], 1)
    return (numbers - numbers.mean(0)) / numbers.std(0).clamp(min=1e-6)


def _draw(numbers: tuple[Tensor, Tensor]):
    return to_uint8(render(*numbers, SIZE).image).numpy()


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift a batch; blur it and cover a patch, each with probability 1/2. Swaps and other crops look similar."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    images = images.roll((draw(-2, 3), draw(-2, 3)), (2, 3))
    if draw(0, 2):
        size = draw(SIZE // 3, SIZE + 1)
        small = F.interpolate(images, size=(size, size), mode="area")
        images = F.interpolate(small, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    if draw(0, 2):
        y, x = draw(0, SIZE - PATCH), draw(0, SIZE - PATCH)
        images[:, :, y : y + PATCH, x : x + PATCH] = 0
    return images


class Regression(nn.Module):
    """The mean squared error of outputs (b, K) against the truth (n, K) of pictures `index` (b,)."""

    def __init__(self, truth: Tensor) -> None:
        super().__init__()
        self.truth = truth

    def forward(self, outputs: Tensor, index: Tensor) -> Tensor:
        return F.mse_loss(outputs, self.truth[index])


class Recognition(nn.Module):
    """The person of each picture must be found among the others of the batch and OTHERS more people, by the cosine of
    the picture's embedding (b, E) and an embedding of the person's looks (n, D), which is learnt too; and the looks
    must be readable from the embedding. A contrastive loss (van den Oord et al. 2018, arXiv:1807.03748) between picture
    and numbers.
    """

    def __init__(self, truth: Tensor, embedding_dim: int, seed: int) -> None:
        super().__init__()
        self.truth, self.generator = truth, torch.Generator().manual_seed(seed)
        self.place = nn.Linear(truth.shape[1], embedding_dim, bias=False)
        self.read = nn.Linear(embedding_dim, truth.shape[1])
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, embeddings: Tensor, index: Tensor) -> Tensor:
        others = torch.randint(len(self.truth), (OTHERS,), generator=self.generator).to(index.device)
        people = torch.cat([index, others])
        cosines = F.normalize(embeddings) @ F.normalize(self.place(self.truth[people])).T
        logits = cosines * self.log_scale.exp().clamp(max=40)
        own = torch.arange(len(index), device=index.device)
        same = people[None] == index[:, None]
        same[own, own] = False
        found = F.cross_entropy(logits.masked_fill(same, float("-inf")), own)
        return found + F.mse_loss(self.read(embeddings), self.truth[index])


def train(
    network: nn.Module, prepare, pictures: Tensor, loss: nn.Module, args: argparse.Namespace, seed: int, mirror: bool
):
    """Train on pictures (n, 3, SIZE, SIZE) uint8 with AdamW, a one-cycle rate and bfloat16. mirror: mirror half of
    the batches."""
    device = pictures.device
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW([*network.parameters(), *loss.parameters()], args.lr, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, args.lr, total_steps=args.steps, pct_start=0.15)
    network.train().to(memory_format=torch.channels_last)  # a tenth faster on a CPU
    bar = tqdm(range(args.steps), desc="train", unit="step")
    for step in bar:
        index = torch.randint(len(pictures), (args.batch,), generator=generator).to(device)
        images = disturb(to_float(pictures[index]), generator)
        if mirror and torch.rand((), generator=generator) < 0.5:
            images = images.flip(3)
        with torch.autocast(device.type, torch.bfloat16):
            outputs = network(prepare(images))
        value = loss(outputs.float(), index)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{value.item():.3f}")
    network.eval().to(memory_format=torch.contiguous_format)


def predict(network: nn.Module, prepare, pictures: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([network(prepare(to_float(p))) for p in pictures.split(64)])


def retrieval_pct(embeddings: Tensor) -> float:
    """Top-1 retrieval in %: each second picture is searched among the first ones of 64 people, from (people * 2, K)."""
    gallery, query = (F.normalize(e) for e in (embeddings[0::2], embeddings[1::2]))
    hits = [
        (query[i : i + GALLERY] @ gallery[i : i + GALLERY].T)
        .argmax(1)
        .eq(torch.arange(GALLERY, device=query.device))
        .float()
        .mean()
        for i in range(0, len(gallery), GALLERY)
    ]
    return 100 * float(torch.stack(hits).mean())


def pose_accuracy(predicted: Tensor, truth: Tensor) -> dict:
    """Agreement with the true pose and expression (n, 3 + E) of unseen people."""
    r2 = 1 - (predicted - truth).square().mean(0) / truth.var(0)
    error = (predicted - truth)[:, :3] * POSE_UNIT_DEG
    return {
        "pose_error_l2_deg": round(float(error.norm(dim=1).mean()), 2),
        "yaw_pitch_roll_mae_deg": [round(v, 2) for v in error.abs().mean(0).tolist()],
        "expression_r2": [round(v, 2) for v in r2[3:].tolist()],
    }


def main() -> None:
    parser = terminal.parser(__doc__)
    parser.add_argument("network", choices=RECIPES, help="network to train")
    parser.add_argument("--people", type=terminal.whole(AXES), default=40000, help="people to draw; default: 40000")
    parser.add_argument("--steps", type=terminal.whole(1), help="default: 16000 for identity, 8000 for pose")
    parser.add_argument("--batch", type=terminal.whole(1), default=96, help="pictures per step; default: 96")
    parser.add_argument("--lr", type=terminal.number(0), default=3e-3, help="highest learning rate; default: 0.003")
    parser.add_argument("--seed", type=terminal.whole(0), help="default: a fixed seed for each network")
    parser.add_argument("--out", type=Path, help="output folder; default: the folder of the shipped weights")
    args = parser.parse_args()
    recipe = RECIPES[args.network]
    args.steps = args.steps or recipe.steps
    with folder_lock(args.out or recipe.folder, f".{args.network}.lock"):  # another network may be trained meanwhile
        pretrain(args, recipe)


def pretrain(args: argparse.Namespace, recipe: Recipe) -> None:
    """Train, measure and write one network."""
    seed = recipe.seed if args.seed is None else args.seed
    started, device = time.time(), "cuda" if torch.cuda.is_available() else "cpu"

    # Train on drawn people.
    pictures, numbers = faces("pretrain", seed, args.people, 1, device)
    torch.manual_seed(seed)
    if args.network == "identity_encoder":
        encoder = encoders.IdentityEncoder(recipe.card).to(device)
        network, prepare = encoder.network, encoder.prepare
    else:
        network, prepare = build_network(recipe.card).to(device), inner_square
    finds = recipe.targets == "identity"
    truth = looks(numbers["identity"]) if finds else numbers["pose"]
    outputs = network(prepare(to_float(pictures[:2]))).shape[1]
    loss = (Recognition(truth, outputs, seed) if finds else Regression(truth)).to(device)
    train(network, prepare, pictures, loss, args, seed, mirror=finds)

    # Measure on other people.
    pictures, numbers = faces("pretrain test", seed, TEST_PEOPLE, 2, device)
    predicted = predict(network, prepare, pictures)
    if finds:
        measured = {"retrieval_top1_of_64_pct": round(retrieval_pct(predicted), 2)}
    else:
        measured = pose_accuracy(predicted, numbers["pose"])

    # Write the weights and their record.
    path = (args.out or recipe.folder) / recipe.card.file
    weights.write_state(path, network.cpu().state_dict())
    record = {
        "name": recipe.card.name,
        "sha256": weights.sha256(path),
        "bytes": path.stat().st_size,
        "parameters": sum(p.numel() for p in network.parameters()),
        "recipe": {"people": args.people, "steps": args.steps, "batch": args.batch, "lr": args.lr, "seed": seed},
        "data": f"teachers/exact at {SIZE} px, one picture each of people of seed {seed}",
        "renderer": synthetic.RENDERER,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "on_people_never_seen": measured,
        "minutes": round((time.time() - started) / 60, 1),
        "commit": git_commit(),
        "licence": "Apache-2.0",
    }
    write_json(path.with_suffix(".json"), record)
    print(f"{path}\n{measured}\nsha256 {record['sha256']}")


if __name__ == "__main__":
    sys.exit(terminal.run_command(main))
