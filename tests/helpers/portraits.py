"""Synthetic faces and their five points."""

import numpy as np

from swapcore.frame import CANONICAL
from teachers.exact import render, sample_attributes, sample_identities

PLACES = np.array(CANONICAL)


def portraits(n, size=256, seed=3):
    """Synthetic faces (n, size, size, 3) uint8 and their five points."""
    drawn = render(sample_identities(n, seed), sample_attributes(n, seed), size)
    images = ((drawn.image + 1) * 127.5).round().clamp(0, 255).byte()
    return images.permute(0, 2, 3, 1).numpy(), drawn.landmarks.numpy()
