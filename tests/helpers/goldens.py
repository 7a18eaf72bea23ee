"""Read the golden outputs of reference networks: fill weights without a random generator, draw inputs, compare.

A golden is `<name>.json` (manifest of tensors and how to fill them) and `<name>.npz` (reduced reference outputs).
Indices hash to numbers in (-1, 1) by 32-bit "lowbias32"; every tensor and input has the seed crc32(its name).
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent.parent / "goldens"


def mix(x: np.ndarray) -> np.ndarray:
    """The 32-bit hash of unsigned integers, element by element."""
    x = x.astype(np.uint32)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def noise(count: int, name: str) -> np.ndarray:
    """(count,) float64 in (-1, 1), a function of the name alone."""
    seed = np.uint32(zlib.crc32(name.encode()))
    return (mix(mix(np.arange(count)) ^ seed).astype(np.float64) + 0.5) / 2**31 - 1


def fill(name: str) -> dict[str, Tensor]:
    """The state dict of golden `name`, under the reference's own keys."""
    state: dict[str, Tensor] = {}
    for key, shape, _, kind, offset, scale, _ in json.loads((FOLDER / f"{name}.json").read_text())["entries"]:
        values = noise(int(np.prod(shape)), key)
        if kind == "uniform":
            state[key] = torch.from_numpy((offset + scale * values).astype(np.float32).reshape(shape))
        elif kind == "zero":
            state[key] = torch.zeros(shape, dtype=torch.int64)
        elif kind == "sn_u":
            q = values.astype(np.float32).astype(np.float64)
            state[key] = torch.from_numpy((q / np.linalg.norm(q)).astype(np.float32))
        elif kind == "sn_v":
            layer = key.removesuffix("weight_v")
            weight, u = state[layer + "weight_orig"].double(), state[layer + "weight_u"].double()
            v = weight.flatten(1).T @ u
            state[key] = (v / v.norm()).float()
        elif kind == "keep":  # StyleGAN2's blur, times 4 where it follows an up-sampling
            row = torch.tensor([1.0, 3.0, 3.0, 1.0])
            state[key] = torch.outer(row, row) / 16
        else:
            raise ValueError(f"{name}: {key}: unknown kind {kind}")
    return state


def image(name: str, batch: int, size: int) -> Tensor:
    """(batch, 3, size, size) float32 in (-1, 1): waves and noise."""
    return image64(name, batch, size).float()


def image64(name: str, batch: int, size: int) -> Tensor:
    b, c, y, x = np.meshgrid(np.arange(batch), np.arange(3), np.arange(size), np.arange(size), indexing="ij")
    waves = 0.45 * np.sin(2 * np.pi * (2 * x / size + 1.5 * y / size) + c + 0.7 * b)
    waves += 0.30 * np.cos(2 * np.pi * (3 * y / size - x / size) + 2 * c - 0.4 * b)
    return torch.from_numpy(waves + 0.25 * noise(b.size, f"input:{name}").reshape(b.shape))


def image01(name: str, batch: int, size: int) -> Tensor:
    """The same in (0, 1)."""
    return ((image64(name, batch, size) + 1) / 2).float()


def vector(name: str, shape: tuple[int, ...], times: float = 1.0) -> Tensor:
    """float32 in (-times, times)."""
    return torch.from_numpy((noise(int(np.prod(shape)), f"input:{name}") * times).astype(np.float32).reshape(shape))


def unit_vectors(name: str, rows: int, columns: int) -> Tensor:
    """(rows, columns) float32, every row of length 1."""
    values = noise(rows * columns, f"input:{name}").reshape(rows, columns)
    return torch.from_numpy((values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32))


def compare(golden: np.lib.npyio.NpzFile, output: str, tensor: Tensor, tolerance: float = 2e-4) -> None:
    """Assert that the tensor's stored reductions differ from the golden by at most tolerance standard deviations."""
    got = tensor.detach().double().numpy()
    assert list(got.shape) == golden[f"{output}/shape"].tolist() or got.size == 1
    reductions = {
        "samples": lambda: got.reshape(-1)[golden[f"{output}/idx"]],
        "stats": lambda: np.array([got.mean(), got.std(), got.min(), got.max()]),
        "full": lambda: got.reshape(golden[f"{output}/full"].shape),
        "chan": lambda: got.mean((2, 3)),
        "pool": lambda: got.reshape(*got.shape[:2], 16, got.shape[2] // 16, 16, got.shape[3] // 16).mean((3, 5)),
    }
    scale = float(golden[f"{output}/stats"][1]) or abs(float(golden[f"{output}/stats"][0]))
    for kind, reduce in reductions.items():
        if f"{output}/{kind}" in golden:
            deviation = np.abs(reduce() - golden[f"{output}/{kind}"]).max() / scale
            assert deviation <= tolerance, (
                f"{output}/{kind}: {deviation:.3g} std from the reference, allowed {tolerance}"
            )


def load(name: str) -> np.lib.npyio.NpzFile:
    """The stored outputs of golden `name`."""
    return np.load(FOLDER / f"{name}.npz")
