"""A small student in a file."""

import torch

import students

SIDE = 64


def student_file(folder, encoder="synthetic_identity", **options):
    options = {"resolution": SIDE, "embedding_dim": 56, "width": 8, **options}
    torch.manual_seed(0)
    path = folder / "student.safetensors"
    metadata = {} if encoder is None else {"identity_encoder": encoder}
    students.save(students.build("compact", **options), path, **metadata)
    return path
