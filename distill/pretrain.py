"""Train the small networks of the synthetic benchmark: its identity encoder, its recogniser, its pose estimator.

    python -m distill.pretrain identity_encoder | recogniser | pose | pose_quality [--people N] [--steps N]

The networks regress the exact numbers of a synthetic face: its identity, or its Euler angles and expression. A
recogniser trained to classify people learns far less from the same number of pictures. The encoder that trains students
and the recogniser that measures them differ in architecture, seed and people. The command writes NAME.safetensors and
NAME.json (recipe, data, accuracy on unseen people, sha256) into the folder of the shipped weights. Afterwards, copy the
new sha256 into the network's card.
"""

from __future__ import annotations

from swapcore import start

start.command(__name__)

import argparse
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
from teachers.exact import expression, pose_deg, render

SIZE = 80  # pixels drawn; the networks take the inner 64
PATCH = 20  # pixels covered at random
CALIBRATION_PEOPLE, TEST_PEOPLE = 1000, 512  # two pictures each
GALLERY = 64


@dataclass(frozen=True)
class Recipe:
    """A network by its card, the folder of its weights, and the numbers that it regresses."""

    card: weights.Card
    folder: Path
    seed: int
    targets: str  # identity | pose


RECIPES = {
    "identity_encoder": Recipe(encoders.CARDS["synthetic_identity"], weights.PACKAGED[0], 101, "identity"),
    "recogniser": Recipe(CARDS["synthetic_recogniser"], weights.PACKAGED[1], 202, "identity"),
    "pose": Recipe(CARDS["synthetic_pose"], weights.PACKAGED[1], 303, "pose"),
    "pose_quality": Recipe(CARDS["synthetic_pose_quality"], weights.PACKAGED[1], 404, "pose"),
}


def faces(split: str, seed: int, count: int, images: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Pictures (n, 3, SIZE, SIZE) uint8 of new people, their `identity` (n, K), and their `pose` in units of 15 degrees
    with their expression (n, 3 + E)."""
    identity, attributes = synthetic.people(split, seed, count, images)
    identity = identity.repeat_interleave(images, 0)
    batches = list(zip(identity.split(64), attributes.split(64), strict=True))
    with torch.multiprocessing.get_context("spawn").Pool(os.cpu_count(), torch.set_num_threads, (1,)) as pool:
        drawn = tqdm(pool.imap(_draw, batches), desc=f"draw {split}", total=len(batches), unit="batch")
        pictures = torch.cat([torch.from_numpy(d) for d in drawn])
    pose = torch.cat([pose_deg(attributes) / POSE_UNIT_DEG, expression(attributes)], 1)
    return pictures, {"identity": identity, "pose": pose}


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


def train(network: nn.Module, prepare, pictures: Tensor, truth: Tensor, steps: int, batch: int, lr: float, seed: int):
    """Regress `truth` (n, K) from pictures (n, 3, SIZE, SIZE) uint8 with AdamW and a one-cycle rate."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.15)
    network.train()
    bar = tqdm(range(steps), desc="train", unit="step")
    for step in bar:
        index = torch.randint(len(pictures), (batch,), generator=generator)
        images = disturb(to_float(pictures[index]), generator)
        loss = F.mse_loss(network(prepare(images)), truth[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    network.eval()


def trust_outputs(last: nn.Module, embeddings: Tensor) -> None:
    """Divide each output of the last layer by its deviation over pictures of one person. embeddings: (people * 2, K).

    Uncertain outputs then count little in a cosine (linear discriminant analysis with a diagonal within-class
    covariance; Fisher 1936).
    """
    scale = 1 / ((embeddings[0::2] - embeddings[1::2]).square().mean(0) / 2).sqrt()
    with torch.no_grad():
        last.weight.mul_(scale.view(-1, *[1] * (last.weight.ndim - 1)))
        last.bias.mul_(scale)


def predict(network: nn.Module, prepare, pictures: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([network(prepare(to_float(p))) for p in pictures.split(64)])


def retrieval_pct(embeddings: Tensor) -> float:
    """Top-1 retrieval in %: each second picture is searched among the first ones of 64 people, from (people * 2, K)."""
    gallery, query = (F.normalize(e) for e in (embeddings[0::2], embeddings[1::2]))
    hits = [
        (query[i : i + GALLERY] @ gallery[i : i + GALLERY].T).argmax(1).eq(torch.arange(GALLERY)).float().mean()
        for i in range(0, len(gallery), GALLERY)
    ]
    return 100 * float(torch.stack(hits).mean())


def accuracy(targets: str, predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """Agreement with the true numbers (n, K) of unseen people."""
    r2 = 1 - (predicted - truth).square().mean(0) / truth.var(0)
    if targets == "identity":
        return {"mean_r2": round(float(r2.mean()), 3)}
    error = (predicted - truth)[:, :3] * POSE_UNIT_DEG
    return {
        "pose_error_l2_deg": round(float(error.norm(dim=1).mean()), 2),
        "yaw_pitch_roll_mae_deg": [round(v, 2) for v in error.abs().mean(0).tolist()],
        "expression_r2": [round(v, 2) for v in r2[3:].tolist()],
    }


def main() -> None:
    parser = terminal.parser(__doc__)
    parser.add_argument("network", choices=RECIPES, help="network to train")
    parser.add_argument("--people", type=terminal.whole(1), default=24000, help="people to draw; default: 24000")
    parser.add_argument("--steps", type=terminal.whole(1), default=4000, help="training steps; default: 4000")
    parser.add_argument("--batch", type=terminal.whole(1), default=96, help="pictures per step; default: 96")
    parser.add_argument("--lr", type=terminal.number(0), default=3e-3, help="highest learning rate; default: 0.003")
    parser.add_argument("--seed", type=terminal.whole(0), help="default: a fixed seed for each network")
    parser.add_argument("--out", type=Path, help="output folder; default: the folder of the shipped weights")
    args = parser.parse_args()
    recipe = RECIPES[args.network]
    with folder_lock(args.out or recipe.folder, f".{args.network}.lock"):  # another network may be trained meanwhile
        pretrain(args, recipe)


def pretrain(args: argparse.Namespace, recipe: Recipe) -> None:
    """Train, measure and write one network."""
    seed = recipe.seed if args.seed is None else args.seed
    started = time.time()

    # Train on drawn people.
    pictures, numbers = faces("pretrain", seed, args.people, 1)
    torch.manual_seed(seed)
    if args.network == "identity_encoder":
        encoder = encoders.IdentityEncoder(recipe.card)
        network, prepare = encoder.network, encoder.prepare
    else:
        network, prepare = build_network(recipe.card), inner_square
    train(network, prepare, pictures, numbers[recipe.targets], args.steps, args.batch, args.lr, seed)

    # Measure on other people. The outputs of a recogniser are weighted by a third group.
    pictures, numbers = faces("pretrain test", seed, TEST_PEOPLE, 2)
    measured = accuracy(recipe.targets, predict(network, prepare, pictures), numbers[recipe.targets])
    if recipe.targets == "identity":
        last = network.bn if args.network == "identity_encoder" else network.head
        trust_outputs(last, predict(network, prepare, faces("pretrain calibration", seed, CALIBRATION_PEOPLE, 2)[0]))
        measured["retrieval_top1_of_64_pct"] = round(retrieval_pct(predict(network, prepare, pictures)), 2)

    # Write the weights and their record.
    path = (args.out or recipe.folder) / recipe.card.file
    weights.write_state(path, network.state_dict())
    record = {
        "name": recipe.card.name,
        "sha256": weights.sha256(path),
        "bytes": path.stat().st_size,
        "parameters": sum(p.numel() for p in network.parameters()),
        "recipe": {"people": args.people, "steps": args.steps, "batch": args.batch, "lr": args.lr, "seed": seed},
        "data": f"teachers/exact at {SIZE} px, one picture each of people of seed {seed}",
        "renderer": synthetic.RENDERER_HASH,
        "on_people_never_seen": measured,
        "minutes": round((time.time() - started) / 60, 1),
        "commit": git_commit(),
        "licence": "Apache-2.0",
    }
    write_json(path.with_suffix(".json"), record)
    print(f"{path}\n{measured}\nsha256 {record['sha256']}")


if __name__ == "__main__":
    sys.exit(terminal.run_command(main))
