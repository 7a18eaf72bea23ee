"""Hair styles: ranges of the hair attributes that look natural together, and how often each style is drawn."""

from __future__ import annotations

import torch
from torch import Tensor

# Share of pictures, then (low, high) of each attribute in ORDER; dm, or shares in [0, 1].
ORDER = ("hair_length", "hair_volume", "hair_line", "hair_fringe", "hair_back", "hair_curl")
STYLES = {
    "buzz": (0.09, (0.05, 0.08), (0.01, 0.02), (-0.4, 0.6), (0, 0), (0, 0), (0, 0)),
    "short": (0.15, (0.16, 0.23), (0.02, 0.07), (-0.5, 0.5), (0, 0), (0, 0), (0, 0.2)),
    "side part": (0.13, (0.30, 0.42), (0.04, 0.10), (-0.5, 0.4), (0, 0), (0, 0), (0, 0.25)),
    "fringe": (0.10, (0.20, 0.34), (0.04, 0.09), (-0.4, 0.2), (0.4, 0.9), (0, 0), (0, 0.2)),
    "combed back": (0.07, (0.30, 0.40), (0.05, 0.09), (-0.3, 0.5), (0, 0), (0.45, 0.6), (0, 0.2)),
    "bob": (0.10, (0.82, 1.05), (0.05, 0.11), (-0.7, 0.0), (0, 0), (0, 0), (0, 0.25)),
    "bob with fringe": (0.06, (0.82, 1.05), (0.05, 0.10), (-0.6, 0.0), (0.6, 1.0), (0, 0), (0, 0.1)),
    "long": (0.08, (1.35, 1.90), (0.04, 0.11), (-0.7, 0.0), (0, 0), (0, 0), (0, 0.25)),
    "long with fringe": (0.04, (1.35, 1.90), (0.04, 0.09), (-0.6, 0.0), (0.6, 1.0), (0, 0), (0, 0.1)),
    "long and wavy": (0.05, (1.10, 1.90), (0.08, 0.14), (-0.7, 0.0), (0, 0), (0, 0), (0.4, 0.7)),
    "long curls": (0.03, (0.80, 1.50), (0.09, 0.14), (-0.6, 0.0), (0, 0), (0, 0), (0.8, 1.0)),
    "tied back": (0.10, (0.30, 0.40), (0.02, 0.05), (-0.6, 0.2), (0, 0), (1, 1), (0, 0.1)),
    "curly": (0.07, (0.12, 0.42), (0.03, 0.10), (-0.5, 0.4), (0, 0), (0, 0), (0.8, 1.0)),
    "receding": (0.06, (0.08, 0.22), (0.01, 0.04), (1.0, 1.8), (0, 0), (0, 0), (0, 0.2)),
}
BALD = 0.05
DARKS = ((0.34, 0.90, 1.00), (0.28, 0.74, 0.90), (0.22, 0.56, 0.74), (0.10, 0.30, 0.56), (0.06, 0.04, 0.30))


def hair_attributes(u: Tensor) -> dict[str, Tensor]:
    """Hair of n pictures from uniform numbers u (n, 14) in [0, 1).

    Attributes (n, 1) each: those of ORDER, hair_part, hair_dark, hair_warm, hair_grey, hair_phase and bald.
    """
    ranges = u.new_tensor([row[1:] for row in STYLES.values()])
    shares = u.new_tensor([row[0] for row in STYLES.values()])
    last = (shares / shares.sum()).cumsum(0)[:-1]
    own = ranges[(u[:, :1] >= last).sum(1)]
    a = {name: (own[:, k, 0] + (own[:, k, 1] - own[:, k, 0]) * u[:, 1 + k])[:, None] for k, name in enumerate(ORDER)}
    darks = u.new_tensor(DARKS)
    low, high = darks[(u[:, 7:8] >= darks[:, 0].cumsum(0)[:-1]).sum(1), 1:].t()
    a["hair_dark"] = (low + (high - low) * u[:, 8])[:, None]
    a["hair_part"] = (u[:, 9:10] - 0.5) * 0.7
    a["hair_warm"] = (u[:, 10:11] + u[:, 11:12] - 1) * 2.4
    grey = u[:, 12:13]
    a["hair_grey"] = torch.where(grey < 0.86, 0.0, (grey - 0.86) * (1 / 0.14)).to(u.dtype)
    a["hair_phase"] = u[:, 13:14]
    a["bald"] = ((u[:, 11:12] * 37) % 1 < BALD).to(u.dtype)
    return a
