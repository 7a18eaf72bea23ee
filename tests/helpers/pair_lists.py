"""A small list of pairs of synthetic people."""

from distill.data import synthetic
from distill.data.photos import read_manifest
from distill.evaluate.pairs import by_people, save
from helpers.student_files import SIDE


def toy_list(folder, count, people=6):
    """Draw people, three pictures each, into `folder`; returns a list of `count` pairs of them, and the pictures."""
    synthetic.write(folder, {"test": (people, 3)}, SIDE, seed=3, progress=False)
    photos = read_manifest(folder, "test", SIDE)
    save(by_people("toy", photos, count, 1, "toy"), photos.root, folder / "list")
    return folder / "list", photos
