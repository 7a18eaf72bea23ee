"""A small student in a file."""

import torch

import students
from students.identity_encoder import CARDS

SIDE = 64
EMBEDDING = CARDS["synthetic_identity"].options["embedding_dim"]


def student_file(folder, encoder="synthetic_identity", **options):
    options = {"resolution": SIDE, "embedding_dim": EMBEDDING, "width": 8, **options}
    torch.manual_seed(0)
    path = folder / "student.safetensors"
    metadata = {} if encoder is None else {"identity_encoder": encoder}
    students.save(students.build("compact", **options), path, **metadata)
    return path
