"""Teachers: what is frozen. Build one by name.

A teacher is a callable (source, target, source_rows=None, target_rows=None) -> swap on canonical crops (N, 3, H, H) in
[-1, 1]. It has a `name`, a `weight_hash` and `needs_rows`: whether it must be given the manifest rows of both pictures.
"""

from __future__ import annotations

from .exact import ExactTeacher

TEACHERS = {"exact": ExactTeacher}


def build(name: str, **options):
    """A teacher, ready to swap. Raises ValueError that lists the known names."""
    if name not in TEACHERS:
        raise ValueError(f"unknown teacher '{name}', known: {', '.join(TEACHERS)}")
    return TEACHERS[name](**options)
