"""Checks of the inputs and options that all students share."""

from collections.abc import Sequence

from torch import Tensor


def check_inputs(target: Tensor, embedding: Tensor, resolution: int, embedding_dim: int) -> None:
    """Raise ValueError unless target is (N, 3, resolution, resolution) and embedding is (N, embedding_dim)."""
    if target.ndim != 4 or tuple(target.shape[1:]) != (3, resolution, resolution):
        raise ValueError(f"target: expected (N, 3, {resolution}, {resolution}), got {tuple(target.shape)}")
    check_embedding(embedding, embedding_dim)
    if embedding.shape[0] != target.shape[0]:
        raise ValueError(f"batch sizes differ: {target.shape[0]} targets, {embedding.shape[0]} embeddings")


def check_embedding(embedding: Tensor, embedding_dim: int) -> None:
    """Raise ValueError unless embedding is (N, embedding_dim)."""
    if embedding.ndim != 2 or embedding.shape[1] != embedding_dim:
        raise ValueError(f"embedding: expected (N, {embedding_dim}), got {tuple(embedding.shape)}")


def check_map(identity_map: Tensor, sources: int, map_shape: Sequence[int]) -> None:
    """Raise ValueError unless identity_map is (sources, *map_shape)."""
    expected = (sources, *map_shape)
    if tuple(identity_map.shape) != expected:
        raise ValueError(f"identity_map: expected {expected}, got {tuple(identity_map.shape)}")


def check_options(resolution: int, **sizes: int) -> None:
    """Raise ValueError unless resolution is a multiple of 32, at least 64, and every other size at least 1."""
    if resolution < 64 or resolution % 32:
        raise ValueError(f"resolution: expected a multiple of 32, at least 64, got {resolution}")
    for option, value in sizes.items():
        if value < 1:
            raise ValueError(f"{option}: expected at least 1, got {value}")
