"""Plain pictures of the mean person, and the thumbnails that tests/goldens/exact_faces.json keeps. To write them anew,
after a change of pixels and of VERSION: `PYTHONPATH=. python tests/helpers/drawn.py`."""

import json
from pathlib import Path

import torch
from torch.nn import functional as F

from teachers.exact import ATTRIBUTES, IDENTITY, VERSION, render, sample_attributes, sample_identities

GOLDEN = Path(__file__).parent.parent / "goldens" / "exact_faces.json"
PLAIN = dict.fromkeys(ATTRIBUTES, 0.0) | {
    "scale": 1.0, "distance": 13.0, "light_strength": 1.0, "light_elevation": 20.0, "ambient": 0.5, "hair_length": 0.2,
    "hair_volume": 0.04, "hair_dark": 0.5, "background_value": 0.5, "clothes_value": 0.5, "bald": 1.0,
}  # fmt: skip


def plain(**changes: float) -> torch.Tensor:
    """(1, A): a bald face that looks straight ahead, evenly lit, with some attributes set."""
    assert changes.keys() <= PLAIN.keys()
    return torch.tensor([list((PLAIN | changes).values())])


def mean_person(**changes: float) -> torch.Tensor:
    """(1, K): the person of zeros, with some numbers set."""
    assert changes.keys() <= set(IDENTITY)
    return torch.tensor([[changes.get(name, 0.0) for name in IDENTITY]])


def changed(attributes: torch.Tensor, **changes) -> torch.Tensor:
    """Attributes (n, A) with some columns set, to a number or (n,)."""
    attributes = attributes.clone()
    for name, value in changes.items():
        attributes[:, ATTRIBUTES.index(name)] = torch.as_tensor(value, dtype=attributes.dtype)
    return attributes


def thumbnails() -> torch.Tensor:
    """(6, 3, 4, 4) of six people, of whom one wears glasses and one holds something."""
    attributes = changed(sample_attributes(6, 6), glasses=[0, 1, 0, 0, 0, 0], occluder=[0, 0, 1, 0, 0, 0])
    return F.adaptive_avg_pool2d(render(sample_identities(6, 5), attributes, 64).image, 4)


if __name__ == "__main__":
    rounded = [[[[round(v, 4) for v in row] for row in c] for c in picture] for picture in thumbnails().tolist()]
    GOLDEN.write_text(json.dumps({"version": VERSION, "thumbnails": rounded}) + "\n")
