"""Pairs with people and poses written into the pictures, and estimators that read them there: all known by hand."""

from dataclasses import replace

import torch
from torch import nn

from eval.estimators import Estimator, Estimators
from eval.evaluation import Evaluation
from eval.pairs import Pairs
from swapcore.images import to_float

SIDE, PEOPLE = 32, 8


def portrait(person, pose, seed=0):
    """A picture whose first row carries the person as a bright column and whose last row carries three angles."""
    image = torch.randint(60, 200, (3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    image[:, 0] = 0
    image[:, 0, person] = 255
    image[0, -1, :3] = torch.as_tensor(pose, dtype=torch.uint8)
    return image


def read_person(images):
    return nn.functional.normalize(images[:, 0, 0, :PEOPLE] + 1)


def read_pose(images):
    return ((images[:, 0, -1, :3] + 1) * 127.5).round()


RECOGNISER = Estimator(read_person, name="first row", weight_hash="none: exact")
POSE = Estimator(read_pose, name="last row", weight_hash="none: exact")
ESTIMATORS = Estimators(RECOGNISER, POSE, replace(POSE, name="last row as coefficients"))


def toy_pairs():
    """Eight pairs: person i onto person i + 1, whose pose differs from the source's by (3, 4, 12), norm 13."""
    people = torch.arange(PEOPLE)
    poses = [(10 + i, 40, 70) for i in range(PEOPLE)]
    other = [(p[0] + 3, p[1] + 4, p[2] + 12) for p in poses]
    source = torch.stack([portrait(i, other[i], i) for i in range(PEOPLE)])
    target = torch.stack([portrait((i + 1) % PEOPLE, poses[i], 100 + i) for i in range(PEOPLE)])
    exact = target.clone()
    exact[:, :, 0] = source[:, :, 0]
    exact[:, :, 8:24, 8:24] = source[:, :, 8:24, 8:24]
    gallery = torch.stack([portrait(i, (0, 0, 0), 200 + i) for i in range(PEOPLE)])
    return Pairs(
        name="toy",
        source=source,
        target=target,
        exact=exact,
        source_person=people,
        target_person=people.roll(-1),
        gallery=gallery.flip(0),
        gallery_person=people.flip(0),
        target_pose_deg=torch.tensor(poses, dtype=torch.float32),
    )


def changed(pairs, **fields):
    return Pairs(**{**{k: v for k, v in vars(pairs).items() if k in Pairs.__dataclass_fields__}, **fields})


def rendered(images):
    """A swapper that hands out given swaps in the order of the pairs."""
    images = iter(images.split(1))
    return lambda source, target: torch.cat([to_float(next(images)) for _ in target])


def values_of(swapper, pairs, *metrics):
    return Evaluation(pairs, ESTIMATORS, batch_size=3).measure(swapper, metrics)
