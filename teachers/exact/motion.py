"""Moving pictures of a person: attributes that change smoothly, as of somebody who talks and looks around.

The exact swap of a video is known frame by frame: the source's identity with each frame's attributes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .face import ATTRIBUTES, sample_attributes

FRAMES_PER_SECOND = 25
# Deviation around the first frame's value, and how fast the number changes: the highest of its frequencies, in Hz.
SWAY = {
    "yaw": (11.0, 0.45), "pitch": (5.0, 0.55), "roll": (2.5, 0.4), "shift_x": (0.006, 0.3), "shift_y": (0.006, 0.3),
    "scale": (0.008, 0.25), "gaze_x": (0.28, 0.9), "gaze_y": (0.16, 0.8), "brow_raise": (0.30, 0.8),
    "smile": (0.22, 0.5), "smirk": (0.08, 0.5),
}  # fmt: skip
LIMITS = {
    "yaw": (-35, 35), "pitch": (-15, 15), "roll": (-11, 11), "gaze_x": (-1, 1), "gaze_y": (-1, 1), "smile": (0, 1),
    "brow_raise": (-1, 1),
}  # fmt: skip
SYLLABLES_HZ, BLINK_SECONDS, BLINK_LASTS = 3.6, 3.5, 0.28
WAVES = 4  # sines per number


def sample_sequence(frames: int, seed: int, sensor: bool = False) -> Tensor:
    """Attributes (frames, A) of one video of a talking, turning head, at 25 frames a second.

    Hair, light, clothes, glasses and background keep the values of the first frame; pose, gaze, mouth, brows and lids
    move.
    The first frames of a longer video are those of a shorter one. `sensor` is that of sample_attributes(); the noise is
    another one in every frame. Raises ValueError on less than one frame.
    """
    if frames < 1:
        raise ValueError(f"frames: expected at least 1, got {frames}")
    rng = np.random.default_rng((seed, 1))
    still = sample_attributes(1, seed, sensor)[0].double().numpy()
    still = {name: still[i] for i, name in enumerate(ATTRIBUTES)}
    still |= {"jaw": 0.0, "pucker": 0.0, "frown": 0.4 * still["frown"], "smile": 0.5 * still["smile"], "sneer": 0.0}
    seconds = np.arange(frames) / FRAMES_PER_SECOND
    moving = {}
    for name, (deviation, fastest) in SWAY.items():
        low, high = LIMITS.get(name, (-np.inf, np.inf))
        moving[name] = np.clip(still[name] + deviation * _sway(seconds, fastest, rng), low, high)
    moving["squint"] = 0.5 * moving["smile"]
    talking = np.clip(1.2 * _sway(seconds, 0.3, rng) + 0.6, 0, 1)  # pauses between sentences
    syllables = np.clip(0.5 + 0.6 * _sway(seconds, SYLLABLES_HZ, rng, slowest=0.4), 0, 1.4)
    moving["jaw"] = 0.28 * talking * syllables
    moving["pucker"] = 0.30 * talking * np.clip(_sway(seconds, 2.0, rng, slowest=0.3), 0, 1.2)
    moving["blink"] = np.maximum(0.06, _blinks(seconds, rng))
    if sensor:
        moving["noise_phase"] = np.random.default_rng((seed, 2)).random(frames)
    columns = [np.broadcast_to(moving.get(name, still[name]), frames) for name in ATTRIBUTES]
    return torch.from_numpy(np.stack(columns, 1).astype(np.float32))


def _sway(seconds: np.ndarray, fastest: float, rng: np.random.Generator, slowest: float = 0.15) -> np.ndarray:
    """A sum of sines, zero at the start, with a deviation of about one. Rates: from slowest to 1, times fastest Hz."""
    rates = fastest * np.exp(rng.uniform(math.log(slowest), 0, WAVES))
    phases, weights = rng.uniform(0, 2 * math.pi, WAVES), rng.uniform(0.5, 1, WAVES)
    waves = weights * (np.sin(2 * math.pi * rates * seconds[:, None] + phases) - np.sin(phases))
    return waves.sum(1) / np.sqrt((weights**2).sum())


def _blinks(seconds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """0 open to 1 closed: short blinks at random times."""
    closed, start = np.zeros(len(seconds)), 0.0
    while start < seconds[-1]:
        start += 0.8 + rng.exponential(BLINK_SECONDS)
        closed = np.maximum(closed, np.clip(1.6 * (1 - np.abs(seconds - start) / (BLINK_LASTS / 2)), 0, 1))
    return closed
